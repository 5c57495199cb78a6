//! What an operator sees over `quarry.view.v2`: nodes, pools, volumes, snapshots and findings.
//!
//! All answers come from memory, so that they are available when nothing else works. [`list`] splits lists
//! into pages, [`diagnose`] finds problems, [`mod@unreachable`] gives advice about unreachable nodes.

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
use quarry_proto::view::v2;
use quarry_proto::view::v2::view_server::View;
use quarry_volume::Error;
use quarry_wire::status::answer;
use tonic::{Request, Response, Status};

pub use finding::{Finding, Level};

use crate::cluster::Cluster;

/// The service `quarry.view.v2.View`. It changes nothing, and calls no node.
#[derive(Clone)]
pub struct ViewService {
    cluster: Cluster,
    extras: Arc<dyn Fn() -> BoxFuture<'static, Vec<Finding>> + Send + Sync>,
}

/// The timeout for the findings from outside the cluster.
const EXTRAS_WAIT: Duration = Duration::from_secs(10);

impl ViewService {
    /// The service for `cluster`. `extras` adds findings from outside the cluster: certificates, Kubernetes,
    /// hung commands. It is called for each diagnosis.
    #[must_use]
    pub fn new<F>(cluster: Cluster, extras: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<Finding>> + Send + 'static,
    {
        Self { cluster, extras: Arc::new(move || extras().boxed()) }
    }

    /// The lists are complete only once all nodes are known.
    fn listed(&self) -> Result<(), Error> {
        match self.cluster.synced() {
            true => Ok(()),
            false => Err(Error::unavailable(
                "the controller has not listed the nodes yet: retry; if it persists, run `quarry doctor`",
            )),
        }
    }
}

#[tonic::async_trait]
impl View for ViewService {
    async fn list_nodes(
        &self,
        request: Request<v2::ListNodesRequest>,
    ) -> Result<Response<v2::ListNodesResponse>, Status> {
        answer(async move {
            self.listed()?;
            list::nodes(&self.cluster, &request.into_inner())
        })
        .await
    }

    async fn list_pools(
        &self,
        request: Request<v2::ListPoolsRequest>,
    ) -> Result<Response<v2::ListPoolsResponse>, Status> {
        answer(async move {
            self.listed()?;
            list::pools(&self.cluster, &request.into_inner())
        })
        .await
    }

    async fn list_volumes(
        &self,
        request: Request<v2::ListVolumesRequest>,
    ) -> Result<Response<v2::ListVolumesResponse>, Status> {
        answer(async move {
            self.listed()?;
            list::volumes(&self.cluster, &request.into_inner()).await
        })
        .await
    }

    async fn list_snapshots(
        &self,
        request: Request<v2::ListSnapshotsRequest>,
    ) -> Result<Response<v2::ListSnapshotsResponse>, Status> {
        answer(async move {
            self.listed()?;
            list::snapshots(&self.cluster, &request.into_inner()).await
        })
        .await
    }

    async fn diagnose(&self, _request: Request<v2::DiagnoseRequest>) -> Result<Response<v2::DiagnoseResponse>, Status> {
        let (mut findings, totals) = diagnose::diagnose(&self.cluster, env!("CARGO_PKG_VERSION")).await;
        findings.extend(tokio::time::timeout(EXTRAS_WAIT, (self.extras)()).await.unwrap_or_else(|_| {
            vec![Finding::error(
                "diagnosis-incomplete",
                "controller",
                format!("the checks of certificates and Kubernetes did not finish within {} s", EXTRAS_WAIT.as_secs()),
                "check that the Kubernetes API responds, and see the controller's log",
            )]
        }));
        // The most severe first; related findings stay together.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        Ok(Response::new(v2::DiagnoseResponse {
            findings: findings.into_iter().map(Finding::into).collect(),
            totals: Some(totals),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}
