//! One request to the Kubernetes API, bounded in time, and what to say if it fails.

use std::fmt;
use std::time::Duration;

/// How long a single request may take. Well below the ten seconds for which external-provisioner waits for us.
pub(crate) const LIMIT: Duration = Duration::from_secs(4);

/// Why a request has no usable answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// None came in time. A change that was asked for may have been made, or may still be.
    Late(Duration),
    /// The API refused, or could not be reached.
    Failed(kube::Error),
}

impl Unanswered {
    /// Whether the API refused with this HTTP status.
    pub(crate) fn is(&self, code: u16) -> bool {
        matches!(self, Self::Failed(kube::Error::Api(status)) if status.code == code)
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(limit) => write!(f, "the Kubernetes API gave no answer within {} s", limit.as_secs_f32()),
            Self::Failed(error) => explain(error).fmt(f),
        }
    }
}

impl std::error::Error for Unanswered {}

/// An error of the API in one line, without the dump of the whole status that kube adds.
pub(crate) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("the Kubernetes API refused: {} (is the ClusterRole of this version installed?)", status.message)
        }
        kube::Error::Api(status) => format!("the Kubernetes API answered {}: {}", status.code, status.message),
        kube::Error::Service(error) => {
            format!("the Kubernetes API cannot be reached: {}", with_sources(error.as_ref()))
        }
        other => with_sources(other),
    }
}

/// An error and its causes: what hyper says first ("client error") says nothing.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Sends a request and waits for its answer, but no longer than `limit`.
pub(crate) async fn ask<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, Unanswered> {
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Unanswered::Failed(error)),
        Err(_) => Err(Unanswered::Late(limit)),
    }
}
