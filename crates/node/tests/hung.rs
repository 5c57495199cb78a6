//! A hanging pool affects only its own volumes.

// Helpers of tests may fail like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{LONG, MIB, host, pool, spec};
use quarry_node::NodeService;
use quarry_pool::Operation;
use quarry_proto::csi::v1::node_server::Node as _;
use quarry_proto::csi::v1::{NodeGetVolumeStatsRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest};
use quarry_volume::{Agent as _, MutableParameters, Reason, StorageId, VolumeId};
use tokio::time::Instant;
use tonic::Request;

#[tokio::test(start_paused = true)]
async fn a_call_on_a_volume_asks_no_other_pool() {
    let (well, ill) = (pool("p"), pool("ill"));
    let host = host(&[&ill, &well]);
    let (volume, _) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    let before = ill.begun(Operation::Read);
    ill.hang(true);
    let began = Instant::now();
    for _ in 0..1000 {
        host.get(&volume.id, LONG).await.unwrap();
    }
    host.delete(&volume.id, LONG).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "no call waited");
    assert_eq!(ill.begun(Operation::Read), before, "the other pool was asked");
}

#[tokio::test(start_paused = true)]
async fn unknown_storage_is_looked_up_in_all_pools_and_never_reported_as_gone() {
    let (well, ill) = (pool("p"), pool("ill"));
    let host = host(&[&ill, &well]);
    let (volume, _) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    let foreign = VolumeId { storage: StorageId::of("another"), ..volume.id };
    let before = (ill.begun(Operation::Read), well.begun(Operation::Read));
    let error = host.get(&foreign, LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable, "{error}");
    assert!(error.message.contains("no pool of this node has the storage"), "{error}");
    assert_eq!((ill.begun(Operation::Read), well.begun(Operation::Read)), (before.0 + 1, before.1 + 1));

    ill.hang(true);
    let error = host.get(&foreign, LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable, "{error}");
    assert!(error.message.contains("pool ill did not answer within 60 s"), "{error}");
}

/// Calls of kubelet wait for it.
#[tokio::test(start_paused = true)]
async fn a_change_of_a_volume_ends_soon_although_its_pool_hangs() {
    let ill = pool("p");
    let host = host(&[&ill]);
    let (volume, _) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    ill.hang(true);
    let began = Instant::now();
    let error = host.modify(&volume.id, MutableParameters::default(), LONG).await.unwrap_err();
    assert_eq!((error.reason, began.elapsed().as_secs()), (Reason::TimedOut, 10), "{error}");
    assert!(host.tasks().list().is_empty());
    ill.hang(false);
    host.modify(&volume.id, MutableParameters::default(), LONG).await.unwrap();
}

#[tokio::test]
async fn no_pool_is_read_if_nothing_is_mounted() {
    let pool = pool("p");
    let host = host(&[&pool]);
    let (volume, _) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    pool.hang(true);
    let before = pool.begun(Operation::Read);
    let service = NodeService::new(host, "topology.test/node");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("target").display().to_string();
    let id = volume.id.to_string();
    let calls = async {
        let unpublish = NodeUnpublishVolumeRequest { volume_id: id.clone(), target_path: path.clone() };
        service.node_unpublish_volume(Request::new(unpublish)).await.unwrap();
        let unstage = NodeUnstageVolumeRequest { volume_id: id.clone(), staging_target_path: path.clone() };
        service.node_unstage_volume(Request::new(unstage)).await.unwrap();
        let stats = NodeGetVolumeStatsRequest { volume_id: id, volume_path: path, ..Default::default() };
        let error = service.node_get_volume_stats(Request::new(stats)).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::NotFound, "{error}");
    };
    tokio::time::timeout(Duration::from_secs(20), calls).await.expect("they waited for the pool");
    assert_eq!(pool.begun(Operation::Read), before, "the pool was asked");
}
