//! Filesystems that the kernel made read-only after an error, and what different mounts of them show.

use std::path::Path;
use std::time::Duration;

use quarry_volume::{Agent as _, Condition, Reason};

use super::limited::{host, run};
use super::world::{Call, Use, World, staging, target};
use crate::Host;

const SOON: Duration = Duration::from_secs(10);

/// Pods only read the volume, which is staged writable.
const READ_ONLY: Use = Use { read_only: true, ..Use::MOUNT };

/// The condition of the volume that is published now.
async fn published(world: &World, host: &Host) -> Condition {
    let mut volume = host.get(&world.id, SOON).await.unwrap();
    host.publisher().add_filesystem_problems(std::slice::from_mut(&mut volume));
    volume.condition
}

/// kubelet measures the volume there.
async fn measure(world: &World, host: &Host, path: &Path) -> Option<Reason> {
    host.stats(&world.id, path).await.err().map(|error| error.reason)
}

#[test]
fn a_read_only_mount_does_not_hide_that_the_kernel_made_the_filesystem_read_only() {
    let world = World::after(READ_ONLY, &[Call::Create, Call::Stage]);
    run(async {
        let host = host(&world);
        world.machine.make_read_only(&world.id.volume);
        assert_eq!(measure(&world, &host, &staging()).await, Some(Reason::Precondition));
        assert_eq!(published(&world, &host).await, Condition::FilesystemFailed);
        // A pod that only reads can use it.
        world.send(&host, Call::Publish).await.unwrap();
        assert_eq!(published(&world, &host).await, Condition::FilesystemFailed);
        assert_eq!(measure(&world, &host, &target()).await, None);
        assert_eq!(published(&world, &host).await, Condition::FilesystemFailed);
        // A writable mount shows that it works again.
        world.machine.recover(&world.id.volume);
        assert_eq!(measure(&world, &host, &target()).await, None);
        assert_eq!(published(&world, &host).await, Condition::FilesystemFailed);
        assert_eq!(measure(&world, &host, &staging()).await, None);
        assert_eq!(published(&world, &host).await, Condition::Healthy);
    });
}

/// A publish that only reads sees it first: the volume is staged writable.
#[test]
fn a_publish_that_only_reads_shows_what_others_cannot_do() {
    let world = World::after(READ_ONLY, &[Call::Create, Call::Stage]);
    run(async {
        let host = host(&world);
        world.machine.make_read_only(&world.id.volume);
        world.send(&host, Call::Publish).await.unwrap();
        assert_eq!(published(&world, &host).await, Condition::FilesystemFailed);
    });
}

#[test]
fn a_read_only_mount_shows_a_shutdown_and_its_end() {
    let world = World::after(READ_ONLY, &[Call::Create, Call::Stage, Call::Publish]);
    run(async {
        let host = host(&world);
        world.machine.shut_down(&world.id.volume);
        assert_eq!(measure(&world, &host, &target()).await, Some(Reason::Precondition));
        assert_eq!(published(&world, &host).await, Condition::FilesystemFailed);
        world.machine.recover(&world.id.volume);
        assert_eq!(measure(&world, &host, &target()).await, None);
        assert_eq!(published(&world, &host).await, Condition::Healthy);
    });
}

/// No writable mount of it will ever be checked.
#[test]
fn a_new_read_only_stage_ends_the_problem_of_the_mounts_before() {
    let world = World::after(READ_ONLY, &[Call::Create, Call::Stage]);
    run(async {
        let host = host(&world);
        world.machine.make_read_only(&world.id.volume);
        assert_eq!(measure(&world, &host, &staging()).await, Some(Reason::Precondition));
        world.send(&host, Call::Unstage).await.unwrap();
        // The next mount recovers it.
        world.mount_flags.replace(vec!["ro".to_owned()]);
        world.send(&host, Call::Stage).await.unwrap();
        assert_eq!(published(&world, &host).await, Condition::Healthy);
    });
}
