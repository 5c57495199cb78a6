//! Operations that a simulated pool does not support are rejected.

// Helpers of tests may fail like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{LONG, MIB, block, host, pool, spec};
use quarry_node::NodeService;
use quarry_pool::Operation;
use quarry_proto::csi::v1::node_server::Node as _;
use quarry_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
use quarry_proto::csi::v1::{NodePublishVolumeRequest, NodeStageVolumeRequest, VolumeCapability};
use quarry_volume::{Agent as _, Reason, SizeRange, VolumeSpec, Wipe};
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

#[tokio::test]
async fn a_volume_that_the_pool_does_not_support_is_not_created() {
    let pool = pool("p");
    let host = host(&[&pool]);
    // Its size is also impossible in this pool; but a pool on another node, which supports it, may have other units.
    let mut spec = spec("a", MIB);
    spec.size = SizeRange { required: MIB, limit: Some(MIB) };
    assert_eq!(host.create(spec.clone(), None, LONG).await.unwrap_err().reason, Reason::SizeOutOfRange);
    spec.class.wipe = Some(Wipe::Zero);
    let error = host.create(spec, None, LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::NoSpace);
    assert!(error.message.contains("does not support \"wipe: zero\""), "{error}");
    assert_eq!(pool.begun(Operation::Create), 0);
}

/// external-provisioner may repeat a creation whose volume was expanded meanwhile.
#[tokio::test]
async fn a_repeated_creation_finds_the_expanded_volume() {
    let pool = pool("p");
    let host = host(&[&pool]);
    for asked in [spec("a", 40 * MIB), block("b", 40 * MIB)] {
        let asked = VolumeSpec { size: SizeRange { required: 40 * MIB, limit: Some(44 * MIB) }, ..asked };
        let (volume, _) = host.create(asked.clone(), None, LONG).await.unwrap();
        let larger = SizeRange { required: 100 * MIB, limit: None };
        let (expanded, _) = host.expand(&volume.id, larger, LONG).await.unwrap();
        assert_eq!((expanded.size, &expanded.id), (100 * MIB, &volume.id));
        let (again, _) = host.create(asked.clone(), None, LONG).await.unwrap();
        assert_eq!((again.size, &again.id), (100 * MIB, &volume.id));
        let other = VolumeSpec { size: larger, ..asked };
        assert_eq!(host.create(other, None, LONG).await.unwrap_err().reason, Reason::Exists);
    }
    // All of it is zeroed.
    assert_eq!(pool.bytes_of("b"), Some((100 * MIB, false)));
}
