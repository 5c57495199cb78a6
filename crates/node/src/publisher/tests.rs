//! What is published when the filesystem of a volume fails.

use std::time::Duration;

use futures::StreamExt as _;
use quarry_pool::SimulatedPool;
use quarry_volume::{Agent as _, Filesystem, Update, UpdateStream, VolumeSpec};

use super::*;
use crate::Host;

const LONG: Duration = Duration::from_secs(600);

fn shut_down() -> Trouble {
    Trouble::ShutDown("as configured".to_owned())
}

/// The next published volume.
async fn next(updates: &mut UpdateStream) -> Volume {
    loop {
        match updates.next().await.unwrap().unwrap() {
            Update::Change(change) => {
                if let Some(volume) = change.volumes.first() {
                    return volume.clone();
                }
            }
            Update::Greeting(_) | Update::FullState(_) => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_filesystem_is_published_until_it_works_again() {
    let pool = SimulatedPool::new("p", 4 << 20, vec![256], Duration::ZERO);
    let host = Host::new("node-1", vec![Arc::new(pool)]);
    let spec = VolumeSpec::mount("a", 40 << 20, Filesystem::Ext4);
    let (volume, _) = host.create(spec, None, LONG).await.unwrap();
    let mut updates = host.watch().await.unwrap();
    // The greeting and the full state: what is published before the full state is part of it, and not a
    // change.
    for _ in 0..2 {
        updates.next().await.unwrap().unwrap();
    }
    host.publisher().set_filesystem_problem(&volume.id, None, false);
    host.publisher().set_filesystem_problem(&volume.id, Some(shut_down()), false);
    let (problem, condition) = (shut_down().to_string(), Condition::FilesystemFailed);
    assert_eq!(next(&mut updates).await, Volume { problem, condition, ..volume.clone() });
    // A reading of the storage does not remove the problem.
    host.publisher().refresh_soon("p");
    assert_eq!(host.publisher().full_state().volumes[0].problem, shut_down().to_string());
    host.publisher().set_filesystem_problem(&volume.id, None, false);
    assert_eq!(next(&mut updates).await, volume);
    host.publisher().set_filesystem_problem(&volume.id, Some(Trouble::ShutDown("again".to_owned())), false);
    assert_eq!(next(&mut updates).await.problem, Trouble::ShutDown("again".to_owned()).to_string());
    host.delete(&volume.id, LONG).await.unwrap();
    assert!(host.publisher().filesystem_problems().is_empty(), "a deleted volume is forgotten");
}

#[tokio::test(start_paused = true)]
async fn the_problem_of_a_volume_that_was_removed_by_hand_is_forgotten() {
    let pool = SimulatedPool::new("p", 4 << 20, vec![256], Duration::ZERO);
    let host = Host::new("node-1", vec![Arc::new(pool.clone())]);
    let spec = VolumeSpec::mount("a", 40 << 20, Filesystem::Ext4);
    let (volume, _) = host.create(spec, None, LONG).await.unwrap();
    host.publisher().set_filesystem_problem(&volume.id, Some(shut_down()), false);
    let found = pool.volume("a").await.unwrap().unwrap();
    pool.remove(&found).await.unwrap();
    host.publisher().refresh(0).await;
    assert!(host.publisher().filesystem_problems().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_is_read_once() {
    let pool = SimulatedPool::new("p", 4 << 20, vec![256], Duration::ZERO);
    let host = Host::new("node-1", vec![Arc::new(pool.clone())]);
    let publisher = host.publisher();
    let (volume, _) = host.create(VolumeSpec::mount("a", 40 << 20, Filesystem::Ext4), None, LONG).await.unwrap();
    let shown = async |since| {
        let change = publisher.changed_since("p", &volume.id, Some(volume.clone()), since).await;
        change.volumes == std::slice::from_ref(&volume)
    };
    let before = publisher.readings("p");
    assert!(publisher.refresh(0).await);
    assert_eq!(publisher.readings("p"), before + 1);
    // Removed unnoticed, so that an answer with the volume was not read now.
    pool.remove(&pool.volume("a").await.unwrap().unwrap()).await.unwrap();
    assert!(shown(Some(before)).await, "read since");
    assert_eq!(publisher.readings("p"), before + 1);
    assert!(!shown(Some(before + 1)).await, "the last reading may have begun before the change");
    assert_eq!(publisher.readings("p"), before + 2);
    // What is to be published anew.
    publisher.failed("p", &volume.id, "no reason");
    assert!(!publisher.is_shown(0, before));
    assert!(!shown(None).await);
    assert_eq!(publisher.readings("no-such-pool"), u64::MAX);
}
