//! Deactivation after an unstage.

use quarry_pool::Operation;

use super::world::{Call, Use, World};

/// An unused volume whose device the kernel names, or does not.
fn unused(sysfs: bool) -> World {
    World::after(Use { sysfs, ..Use::MOUNT }, &[Call::Create, Call::Stage, Call::Unstage])
}

#[test]
fn an_unstaged_volume_is_deactivated() {
    for sysfs in [true, false] {
        let world = unused(sysfs);
        assert!(world.disk().active);
        world.deactivate();
        assert!(!world.disk().active, "{:?}", world.effects());
    }
}

#[test]
fn a_volume_that_is_staged_again_stays_active() {
    let world = World::after(Use::MOUNT, &[Call::Create, Call::Stage]);
    world.deactivate();
    assert!(world.disk().active, "{:?}", world.effects());
    world.succeeds(Call::Unstage);
}

/// The pool may hang, for example because of another volume's disk.
#[test]
fn a_pool_is_not_asked_for_a_volume_that_it_knows_is_not_active() {
    for sysfs in [true, false] {
        let world = unused(sysfs);
        world.deactivate();
        let reads = world.pool.begun(Operation::Read);
        world.deactivate();
        assert_eq!(world.pool.begun(Operation::Read) == reads, sysfs, "{:?}", world.effects());
    }
}

#[test]
fn no_pool_is_asked_for_a_volume_on_another_storage() {
    let mut world = unused(false);
    world.id.storage = quarry_volume::StorageId::of("another");
    let reads = world.pool.begun(Operation::Read);
    world.deactivate();
    assert_eq!(world.pool.begun(Operation::Read), reads);
}
