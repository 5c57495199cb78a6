//! Operations that a simulated pool does not support are rejected.

// Helpers of tests may fail like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{LONG, MIB, host, pool, spec};
use quarry_node::NodeService;
use quarry_proto::csi::v1::node_server::Node as _;
use quarry_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
use quarry_proto::csi::v1::{NodePublishVolumeRequest, NodeStageVolumeRequest, VolumeCapability};
use quarry_volume::Agent as _;
use tonic::{Code, Request};

#[tokio::test]
async fn a_simulated_volume_is_not_staged_or_published() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let (volume, _) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    let service = NodeService::new(host, "topology.test/node");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("staging").display().to_string();
    let capability = VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter as i32 }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    };
    let stage = NodeStageVolumeRequest {
        volume_id: volume.id.to_string(),
        staging_target_path: path.clone(),
        volume_capability: Some(capability.clone()),
        ..Default::default()
    };
    let refused = service.node_stage_volume(Request::new(stage)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("simulated"), "{refused}");
    let publish = NodePublishVolumeRequest {
        volume_id: volume.id.to_string(),
        staging_target_path: path.clone(),
        target_path: path,
        volume_capability: Some(capability),
        ..Default::default()
    };
    let refused = service.node_publish_volume(Request::new(publish)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}
