//! A single request to the Kubernetes API with a timeout, and the message if it fails.

use std::fmt;
use std::time::Duration;

use quarry_volume::with_causes;

/// The timeout of a request. Well below the ten seconds for which external-provisioner waits for the driver.
pub(crate) const LIMIT: Duration = Duration::from_secs(4);

/// Why a request has no usable answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// No answer arrived in time. A requested change may have been made, or may still be.
    Late(Duration),
    /// The API rejected the request, or is unreachable.
    Failed(kube::Error),
}

impl Unanswered {
    /// Whether the API rejected the request with this HTTP status.
    pub(crate) fn is(&self, code: u16) -> bool {
        matches!(self, Self::Failed(kube::Error::Api(status)) if status.code == code)
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(limit) => write!(f, "the Kubernetes API did not answer within {} s", limit.as_secs_f32()),
            Self::Failed(error) => explain(error).fmt(f),
        }
    }
}

impl std::error::Error for Unanswered {}

/// An API error in one line, without the dump of the whole status that kube adds.
pub(crate) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!(
                "the Kubernetes API rejected the request: {} (check that the Role or ClusterRole of this version is installed)",
                status.message
            )
        }
        kube::Error::Api(status) => format!("the Kubernetes API answered {}: {}", status.code, status.message),
        kube::Error::Service(error) => {
            format!("the Kubernetes API is unreachable: {}", with_causes(error.as_ref()))
        }
        other => with_causes(other),
    }
}

/// Sends a request and waits for its answer, for at most `limit`.
pub(crate) async fn ask<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, Unanswered> {
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Unanswered::Failed(error)),
        Err(_) => Err(Unanswered::Late(limit)),
    }
}
