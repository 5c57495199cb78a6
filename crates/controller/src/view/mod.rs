//! What an operator sees: nodes, pools, volumes and what is wrong, over `quarry.view.v1`.
//!
//! Everything is answered from memory, so that it works just when nothing else does. [`list`] cuts lists into pages,
//! [`diagnose`] looks for what is wrong, [`cause`] says what to do about a node that is away.

mod diagnose;
mod finding;
mod list;
mod node_state;
#[cfg(test)]
mod tests;
mod unreachable;
mod write;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use quarry_proto::view::v1;
use quarry_proto::view::v1::view_server::View;
use quarry_volume::Error;
use tonic::{Request, Response, Status};

pub use finding::{Finding, Level};

use crate::cluster::Cluster;

/// The service `quarry.view.v1.View`. It changes nothing, and asks no node.
#[derive(Clone)]
pub struct ViewService {
    cluster: Cluster,
    extras: Arc<dyn Fn() -> BoxFuture<'static, Vec<Finding>> + Send + Sync>,
}

/// How long a diagnosis waits for what is found outside of the cluster.
const EXTRAS_WAIT: Duration = Duration::from_secs(10);

impl ViewService {
    /// The service in front of `cluster`. `extras` finds what is wrong outside of it: certificates, Kubernetes, commands
    /// that hang. It is called for each diagnosis.
    #[must_use]
    pub fn new<F>(cluster: Cluster, extras: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<Finding>> + Send + 'static,
    {
        Self { cluster, extras: Arc::new(move || extras().boxed()) }
    }

    /// The lists are only true once all nodes are known.
    fn listed(&self) -> Result<(), Error> {
        match self.cluster.synced() {
            true => Ok(()),
            false => Err(Error::unavailable("the nodes have not been listed yet: retry, and see `quarry doctor`")),
        }
    }
}

#[tonic::async_trait]
impl View for ViewService {
    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        self.listed()?;
        Ok(Response::new(list::nodes(&self.cluster, &request.into_inner())?))
    }

    async fn list_pools(
        &self,
        request: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        self.listed()?;
        Ok(Response::new(list::pools(&self.cluster, &request.into_inner())?))
    }

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<v1::ListVolumesResponse>, Status> {
        self.listed()?;
        Ok(Response::new(list::volumes(&self.cluster, &request.into_inner()).await?))
    }

    async fn diagnose(&self, _request: Request<v1::DiagnoseRequest>) -> Result<Response<v1::DiagnoseResponse>, Status> {
        let (mut findings, totals) = diagnose::diagnose(&self.cluster, env!("CARGO_PKG_VERSION")).await;
        findings.extend(tokio::time::timeout(EXTRAS_WAIT, (self.extras)()).await.unwrap_or_else(|_| {
            vec![Finding::error(
                "diagnosis-incomplete",
                "controller",
                format!("certificates and Kubernetes could not be looked at within {} s", EXTRAS_WAIT.as_secs()),
                "see whether the Kubernetes API answers, and the controller's log",
            )]
        }));
        // The worst first; what belongs together stays together.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        Ok(Response::new(v1::DiagnoseResponse {
            findings: findings.into_iter().map(Finding::into).collect(),
            totals: Some(totals),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}
