//! The CSI Identity service: the driver's name and version, and whether it is ready. Controller and node both
//! serve it, so it belongs to neither.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use quarry_proto::csi::v1 as csi;
use tonic::{Request, Response, Status};

/// Returns what keeps the driver from serving, one line each; empty if it is ready.
pub type Readiness = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<String>> + Send>> + Send + Sync>;

/// The CSI Identity service.
#[derive(Clone)]
pub struct IdentityService {
    driver: String,
    readiness: Readiness,
}

impl IdentityService {
    /// The service of the driver with the name `driver`.
    #[must_use]
    pub fn new(driver: impl Into<String>, readiness: Readiness) -> Self {
        Self { driver: driver.into(), readiness }
    }
}

#[tonic::async_trait]
impl csi::identity_server::Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _request: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: self.driver.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        use csi::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};

        let capability = |service: service::Type| csi::PluginCapability {
            r#type: Some(Type::Service(Service { r#type: service as i32 })),
        };
        let mut capabilities =
            [service::Type::ControllerService, service::Type::VolumeAccessibilityConstraints].map(capability).to_vec();
        capabilities.push(csi::PluginCapability {
            r#type: Some(Type::VolumeExpansion(VolumeExpansion { r#type: volume_expansion::Type::Online as i32 })),
        });
        Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities }))
    }

    /// A node is ready if the tools are installed and at least one pool can be read; a controller is ready if
    /// it has listed the nodes. Sidecars wait for this at startup: not being ready yet is not an error,
    /// because sidecars exit on errors.
    async fn probe(&self, _request: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        let problems = (self.readiness)().await;
        if !problems.is_empty() {
            tracing::info!(problems = problems.join("; "), "not ready yet");
        }
        Ok(Response::new(csi::ProbeResponse { ready: Some(problems.is_empty()) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_proto::csi::v1::identity_server::Identity as _;

    #[tokio::test]
    async fn not_being_ready_yet_is_not_an_error() {
        for (problems, ready) in [(Vec::new(), true), (vec!["the nodes are not known yet".to_owned()], false)] {
            let readiness: Readiness = Arc::new(move || {
                let problems = problems.clone();
                Box::pin(async move { problems })
            });
            let service = IdentityService::new("local.csi.quarry.dev", readiness);
            let answer = service.probe(Request::new(csi::ProbeRequest {})).await.unwrap().into_inner();
            assert_eq!(answer.ready, Some(ready));
        }
    }
}
