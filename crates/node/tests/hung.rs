//! A pool that hangs is nobody's business but that of its own volumes.

// Helpers of tests may fail like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{LONG, MIB, host, pool, spec};
use quarry_pool::Operation;
use quarry_volume::{Agent as _, Reason, StorageId, VolumeId};
use tokio::time::Instant;

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
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waited");
    assert_eq!(ill.begun(Operation::Read), before, "the other pool was asked");
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_no_pool_has_is_looked_for_in_all_of_them_and_never_said_to_be_gone() {
    let (well, ill) = (pool("p"), pool("ill"));
    let host = host(&[&ill, &well]);
    let (volume, _) = host.create(spec("a", 40 * MIB), None, LONG).await.unwrap();
    let stranger = VolumeId { storage: StorageId::of("another"), ..volume.id };
    let before = (ill.begun(Operation::Read), well.begun(Operation::Read));
    let error = host.get(&stranger, LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable, "{error}");
    assert!(error.message.contains("no pool of this node lies on the storage"), "{error}");
    assert_eq!((ill.begun(Operation::Read), well.begun(Operation::Read)), (before.0 + 1, before.1 + 1));

    ill.hang(true);
    let error = host.get(&stranger, LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable, "{error}");
    assert!(error.message.contains("pool ill has not answered within 60 s"), "{error}");
}
