//! Decisions by the record: which filesystem is the volume's own, and what is not touched because a newer Quarry
//! wrote the record.

use quarry_filesystem::filesystem_uuid;
use quarry_volume::{AccessType, Filesystem, Reason};

use super::machine::{Content, Plan, Process};
use super::world::{Answer, Call, LIFE, Use, World};

/// A UUID that is not derived from any volume.
const OTHER: &str = "00112233-4455-4677-8899-aabbccddeeff";

/// The key of a record for that UUID.
fn key(uuid: &str) -> String {
    format!("/u={}", uuid.replace('-', ""))
}

/// The UUID that is derived from the first volume of a pool.
fn derived() -> String {
    filesystem_uuid("simulated-p-1").to_string()
}

/// The UUID of the filesystem on the volume.
fn uuid_on(world: &World) -> String {
    let Content::Filesystem { uuid, .. } = world.disk().bytes.content else { panic!("{:?}", world.disk().bytes) };
    uuid
}

/// A volume with a filesystem that was used and unstaged.
fn used() -> World {
    World::after(Use::MOUNT, &[Call::Create, Call::Stage, Call::Unstage])
}

/// An older Quarry derives the UUID, so a volume that is made now must have the derived one.
#[test]
fn a_stage_records_the_uuid_of_the_filesystem_that_it_makes() {
    for usage in Use::ALL {
        let world = World::after(usage, &[Call::Create]);
        assert!(!world.record().contains("/u="), "{}", world.record());
        world.succeeds(Call::Stage);
        match usage.access {
            AccessType::Mount => {
                assert_eq!(uuid_on(&world), derived());
                assert!(world.record().ends_with(&key(&derived())), "{}", world.record());
            }
            AccessType::Block => assert!(!world.record().contains("/u="), "{}", world.record()),
        }
    }
}

#[test]
fn a_used_filesystem_is_recognized_by_the_uuid_in_the_record() {
    let world = used();
    world.machine.set_filesystem(&world.id.volume, Filesystem::Ext4, OTHER);
    let before = world.disk().bytes;
    let message = world.rejects(Call::Stage, Reason::Precondition);
    assert!(message.contains(&format!("should contain ext4 with UUID {}", derived())), "{message}");
    world.set_record(&world.record().replace(&key(&derived()), &key(OTHER)));
    world.succeeds(Call::Stage);
    world.succeeds(Call::Unstage);
    assert_eq!(world.disk().bytes, before);
    // The derived UUID does not count any more.
    world.machine.set_filesystem(&world.id.volume, Filesystem::Ext4, &derived());
    let message = world.rejects(Call::Stage, Reason::Precondition);
    assert!(message.contains(&format!("should contain ext4 with UUID {OTHER}")), "{message}");
    assert_eq!((uuid_on(&world), world.machine.state().made), (derived(), 1));
}

/// An older Quarry writes such a record.
#[test]
fn a_used_volume_without_a_uuid_in_its_record_keeps_its_record() {
    let world = used();
    let old = world.record().replace(&key(&derived()), "");
    assert_ne!(old, world.record());
    world.set_record(&old);
    for call in LIFE.into_iter().filter(|call| *call != Call::Delete) {
        world.succeeds(call);
        assert_eq!(world.record(), old);
    }
    world.succeeds(Call::Delete);
}

/// The record of a `new` volume may have a UUID before the volume is used.
#[test]
fn an_interrupted_stage_is_resumed_by_the_uuid_in_the_record() {
    let with_uuid = || {
        let world = World::after(Use::MOUNT, &[Call::Create]);
        world.set_record(&format!("{}{}", world.record(), key(OTHER)));
        world
    };
    let world = with_uuid();
    world.succeeds(Call::Stage);
    assert_eq!(uuid_on(&world), OTHER);

    let world = with_uuid();
    world.machine.set_filesystem(&world.id.volume, Filesystem::Ext4, OTHER);
    [Call::Create, Call::Stage].into_iter().for_each(|call| world.succeeds(call));
    assert_eq!((uuid_on(&world), world.machine.state().made), (OTHER.to_owned(), 0), "it is adopted");
    assert!(world.record().contains("/s=ready/") && world.record().ends_with(&key(OTHER)), "{}", world.record());

    let world = with_uuid();
    world.machine.set_filesystem(&world.id.volume, Filesystem::Ext4, &derived());
    world.rejects(Call::Stage, Reason::Precondition);
    assert_eq!((uuid_on(&world), world.machine.state().made), (derived(), 0), "it is not the volume's own");
}

#[test]
fn a_volume_of_a_newer_quarry_is_only_unpublished_and_unstaged() {
    for usage in Use::ALL {
        let world = World::after(usage, &[Call::Create, Call::Stage, Call::Publish]);
        world.set_record("quarry2/s=frozen/n=v");
        let bytes = world.disk().bytes;
        let rejects_all = || {
            let before = world.effects();
            for call in [Call::Create, Call::Stage, Call::Publish, Call::Delete] {
                let message = world.rejects(call, Reason::Precondition);
                assert!(message.contains("written by a newer Quarry"), "{message}");
            }
            assert_eq!((world.disk().bytes, world.effects()), (bytes.clone(), before));
        };
        rejects_all();
        [Call::Unpublish, Call::Unstage].into_iter().for_each(|call| world.succeeds(call));
        rejects_all();
        assert_eq!(world.record(), "quarry2/s=frozen/n=v");
    }
}

#[test]
fn what_is_not_a_volume_is_touched_by_no_call() {
    const SNAPSHOT: &str = "quarry2/k=snapshot/s=ready/n=v";
    for usage in Use::ALL {
        let world = World::after(usage, &[Call::Create, Call::Stage, Call::Unstage]);
        world.set_record(SNAPSHOT);
        let bytes = world.disk().bytes;
        // The pool itself rejects the name.
        world.rejects(Call::Create, Reason::Precondition);
        let before = world.effects();
        [Call::Stage, Call::Publish].into_iter().for_each(|call| drop(world.rejects(call, Reason::NotFound)));
        // There is no such volume, so there is nothing to delete.
        let deleted = world.run(&Process::new(&world.machine, Plan::Lives), Call::Delete);
        assert!(matches!(deleted, Answer::Ok), "{deleted:?}");
        assert_eq!(world.effects(), before);
        [Call::Unpublish, Call::Unstage].into_iter().for_each(|call| world.succeeds(call));
        assert_eq!((world.disk().bytes, world.record()), (bytes, SNAPSHOT.to_owned()));
    }
}

/// The record says that the volume was wiped, so its contents appeared later: a repeated CreateVolume must not
/// wipe them.
#[test]
fn a_wiped_volume_is_not_wiped_again() {
    for wiped in [true, false] {
        let world = World::after(Use::MOUNT, &[Call::Create]);
        world.set_record(&format!("{}{}", world.record(), if wiped { "/c=1" } else { "" }));
        assert!(world.machine.write_foreign());
        let again = world.run(&Process::new(&world.machine, Plan::Lives), Call::Create);
        assert!(matches!(again, Answer::Ok), "{again:?}");
        if wiped {
            assert_eq!(world.disk().bytes.content, Content::Foreign);
            let message = world.rejects(Call::Stage, Reason::Precondition);
            assert!(message.contains("foreign data, which Quarry did not make"), "{message}");
            assert_eq!(world.disk().bytes.content, Content::Foreign);
        } else {
            assert_eq!(world.disk().bytes.content, Content::Blank);
        }
        // It is not in the way of a stage, and a used volume does not have it any more.
        world.machine.lose_superblock(&world.id.volume);
        [Call::Create, Call::Stage].into_iter().for_each(|call| world.succeeds(call));
        assert!(world.record().contains("/s=ready/") && !world.record().contains("/c="), "{}", world.record());
    }
}
