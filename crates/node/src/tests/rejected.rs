//! Calls that must be rejected, and failures: nothing is left behind.

use std::time::Duration;

use quarry_volume::{AccessType, Agent as _, Filesystem, Reason};

use super::machine::{Kind, Plan, Process};
use super::world::{Call, Use, World, staging, target};

#[test]
fn a_volume_that_is_not_ready_is_not_published() {
    for usage in Use::ALL {
        let world = World::new(usage);
        world.rejects(Call::Publish, Reason::NotFound);
        world.succeeds(Call::Create);
        if usage.access == AccessType::Block && !usage.both {
            // Its creation made it `ready`, so it can be published even without a stage.
            world.succeeds(Call::Publish);
            continue;
        }
        let effects = world.effects();
        let message = world.rejects(Call::Publish, Reason::Precondition);
        assert!(message.contains("stage it first"), "{message}");
        assert_eq!(world.effects(), effects);
    }
}

#[test]
fn a_filesystem_is_not_published_after_its_unstage() {
    for usage in Use::ALL.into_iter().filter(|usage| usage.access == AccessType::Mount) {
        let world = World::after(usage, &[Call::Create, Call::Stage, Call::Unstage]);
        let effects = world.effects();
        let message = world.rejects(Call::Publish, Reason::Precondition);
        assert!(message.contains("it is not staged at"), "{message}");
        assert_eq!(world.effects(), effects);
    }
}

/// Its files have one SELinux label for all pods of the node.
#[test]
fn a_volume_is_not_used_with_two_selinux_contexts() {
    const ONE: &str = "context=\"system_u:object_r:container_file_t:s0:c1,c2\"";
    const OTHER: &str = "context=\"system_u:object_r:container_file_t:s0:c3,c4\"";
    let usage = Use::ALL.into_iter().find(|usage| usage.access == AccessType::Mount).unwrap();
    for (first, second, accepted) in [
        (ONE, OTHER, false),
        (ONE, "context=\"system_u:object_r:container_file_t:s0:c2,c1\"", true),
        (ONE, "noatime", true),
        ("noatime", ONE, false),
    ] {
        let world = World::new(usage);
        world.mount_flags.replace(vec![first.to_owned()]);
        [Call::Create, Call::Stage].into_iter().for_each(|call| world.succeeds(call));
        world.mount_flags.replace(vec![second.to_owned()]);
        if accepted {
            world.succeeds(Call::Stage);
            world.succeeds(Call::Publish);
            continue;
        }
        let effects = world.effects();
        for call in [Call::Stage, Call::Publish] {
            let message = world.rejects(call, Reason::Exists);
            assert!(message.contains("SELinux context") && message.contains("container_file_t:s0:c"), "{message}");
        }
        assert_eq!(world.effects(), effects);
        // With the same label, it is used.
        world.mount_flags.replace(vec![first.to_owned()]);
        world.succeeds(Call::Publish);
    }
}

/// The configuration, or the version of Quarry, was changed after an earlier attempt had created the volume.
#[test]
fn a_volume_that_exists_gets_no_final_answer_although_its_class_does_not_suit_the_node() {
    let create = |world: &World, spec| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let host = world.host(&Process::new(&world.machine, Plan::Lives));
        runtime.block_on(host.create(spec, None, Duration::from_secs(60))).unwrap_err()
    };
    let renamed = Use::MOUNT.spec().in_pool("renamed");
    let mut unknown = Use::MOUNT.spec();
    unknown.class.mkfs_options = "-O from_the_future".to_owned();
    for (spec, reason, why) in
        [(renamed, Reason::NoSpace, "no pool \"renamed\""), (unknown, Reason::InvalidRequest, "from_the_future")]
    {
        let world = World::new(Use::MOUNT);
        assert_eq!(create(&world, spec.clone()).reason, reason, "nothing exists: another node may suit");
        world.succeeds(Call::Create);
        let effects = world.effects();
        let error = create(&world, spec);
        assert_eq!(error.reason, Reason::Unavailable, "{error}");
        assert!(error.message.contains("exists in pool p") && error.message.contains(why), "{error}");
        assert_eq!(world.effects(), effects);
    }
}

#[test]
fn a_used_volume_is_not_deleted() {
    for usage in Use::ALL {
        let world = World::after(usage, &[Call::Create, Call::Stage, Call::Publish]);
        let effects = world.effects();
        let message = world.rejects(Call::Delete, Reason::InUse);
        assert!(message.contains("unpublish"), "the node itself checks it: {message}");
        assert_eq!(world.effects(), effects);
    }
}

#[test]
fn no_filesystem_is_made_for_a_target_that_cannot_be_mounted() {
    let world = World::after(Use::MOUNT, &[Call::Create]);
    world.machine.state().paths.insert(staging(), Kind::File);
    world.rejects(Call::Stage, Reason::Precondition);
    assert_eq!(world.machine.state().made, 0);
    assert_eq!(world.machine.state().paths[&staging()], Kind::File);
}

#[test]
fn a_used_volume_without_its_superblock_is_not_formatted() {
    let world = World::after(Use::READ_ONLY_XFS, &[Call::Create, Call::Stage, Call::Publish]);
    [Call::Unpublish, Call::Unstage].into_iter().for_each(|call| world.succeeds(call));
    world.machine.lose_superblock(&world.id.volume);
    let (before, made) = (world.disk().bytes, world.machine.state().made);
    let message = world.rejects(Call::Stage, Reason::Precondition);
    assert!(message.contains("the superblock is missing"), "{message}");
    world.succeeds(Call::Create);
    assert_eq!((world.disk().bytes, world.machine.state().made), (before, made));
}

#[test]
fn an_exclusive_volume_has_one_target() {
    for usage in [Use::MOUNT, Use::BLOCK, Use::READ_ONLY_BLOCK] {
        let mut world = World::after(usage, &[Call::Create, Call::Stage]);
        // The publication of another pod.
        world.target.set_file_name("other");
        world.succeeds(Call::Publish);
        world.target = target();
        let effects = world.effects();
        let message = world.rejects(Call::Publish, Reason::Precondition);
        assert!(message.contains("already published at \"/kubelet/other\""), "{message}");
        assert_eq!(world.effects(), effects);
    }
}

#[test]
fn a_publication_does_not_change_its_mode() {
    for (before, after) in [(Use::READ_ONLY_BLOCK, Use::BLOCK), (Use::BLOCK, Use::READ_ONLY_BLOCK)] {
        let mut world = World::after(before, &[Call::Create, Call::Stage, Call::Publish]);
        let effects = world.effects();
        world.usage = after;
        world.rejects(Call::Publish, Reason::Exists);
        assert_eq!(world.effects(), effects);
    }
}

/// Two writers would damage it.
#[test]
fn a_volume_for_both_is_not_used_raw_while_its_filesystem_is_mounted() {
    for read_only in [false, true] {
        let mut world = World::after(Use::BOTH, &[Call::Create, Call::Stage, Call::Publish]);
        world.usage = Use { access: AccessType::Block, read_only, ..Use::BOTH };
        // The publication of another pod.
        world.target.set_file_name("other");
        let effects = world.effects();
        for call in [Call::Stage, Call::Publish] {
            let message = world.rejects(call, Reason::Precondition);
            assert!(message.contains("mounted at \"/kubelet/staging\""), "{message}");
        }
        assert_eq!(world.effects(), effects);
        (world.usage, world.target) = (Use::BOTH, target());
        [Call::Unpublish, Call::Unstage].into_iter().for_each(|call| world.succeeds(call));
        world.usage = Use { access: AccessType::Block, read_only, ..Use::BOTH };
        [Call::Stage, Call::Publish].into_iter().for_each(|call| world.succeeds(call));
    }
}

#[test]
fn a_volume_for_both_is_not_mounted_while_it_is_published_raw() {
    for read_only in [false, true] {
        let mut world = World::after(Use::BOTH, &[Call::Create, Call::Stage, Call::Unstage]);
        world.usage = Use { access: AccessType::Block, read_only, ..Use::BOTH };
        [Call::Stage, Call::Publish].into_iter().for_each(|call| world.succeeds(call));
        world.usage = Use::BOTH;
        let effects = world.effects();
        let message = world.rejects(Call::Stage, Reason::Precondition);
        assert!(message.contains("published as a raw block device at \"/kubelet/target\""), "{message}");
        assert_eq!(world.effects(), effects);
        [Call::Unpublish, Call::Unstage, Call::Stage, Call::Publish].into_iter().for_each(|call| world.succeeds(call));
    }
}

/// A pod that mounts a filesystem on its raw device, where the host sees it, is not disturbed.
#[test]
fn a_raw_volume_is_published_again_although_its_pod_has_mounted_it() {
    let block_of_both = Use { both: true, filesystem: Some(Filesystem::Ext4), ..Use::BLOCK };
    for usage in [Use::BLOCK, block_of_both] {
        let world = World::after(usage, &[Call::Create, Call::Stage, Call::Publish]);
        let of_pod = {
            let number = world.disk().number;
            let state = world.machine.state();
            let foreign = state.at(&target())[0].clone();
            quarry_mount::Entry {
                id: foreign.id + 1000,
                device: number,
                root: "/".into(),
                target: "/pod".into(),
                ..foreign
            }
        };
        world.machine.state().mounts.push(of_pod);
        [Call::Stage, Call::Publish].into_iter().for_each(|call| world.succeeds(call));
    }
}

/// The pod of another target, or one whose unpublish failed, still uses it.
#[test]
fn a_volume_that_is_published_raw_is_not_unstaged() {
    let without_sysfs = Use { sysfs: false, ..Use::BLOCK };
    for usage in [Use::BLOCK, without_sysfs, Use::READ_ONLY_BLOCK] {
        let world = World::after(usage, &[Call::Create, Call::Stage, Call::Publish]);
        let effects = world.effects();
        let message = world.rejects(Call::Unstage, Reason::InUse);
        assert!(message.contains("at \"/kubelet/target\"; unpublish it first"), "{message}");
        assert_eq!(world.effects(), effects);
        [Call::Unpublish, Call::Unstage].into_iter().for_each(|call| world.succeeds(call));
    }
}

#[test]
fn a_failed_bind_leaves_neither_a_file_nor_a_mapping() {
    for usage in [Use::BLOCK, Use::READ_ONLY_BLOCK] {
        let world = World::after(usage, &[Call::Create, Call::Stage]);
        world.machine.state().fails = Some("bind device");
        world.rejects(Call::Publish, Reason::Host);
        assert!(!world.machine.state().has_mappings());
        world.succeeds(Call::Publish);
    }
}

#[test]
fn a_claimed_device_is_not_mapped() {
    let world = World::after(Use::READ_ONLY_BLOCK, &[Call::Create, Call::Stage]);
    world.machine.set_claimed(&world.id.volume, true);
    world.rejects(Call::Publish, Reason::UnderWay);
    assert!(!world.machine.state().has_mappings());
    world.machine.set_claimed(&world.id.volume, false);
    world.succeeds(Call::Publish);
}

#[test]
fn a_mapping_that_a_program_has_open_keeps_the_volume() {
    let world = World::after(Use::READ_ONLY_BLOCK, &[Call::Create, Call::Stage, Call::Publish]);
    world.machine.state().set_mappings_open(true);
    world.rejects(Call::Unpublish, Reason::UnderWay);
    // Nothing is mounted any more, so only the pool knows.
    world.rejects(Call::Delete, Reason::InUse);
    world.machine.state().set_mappings_open(false);
    [Call::Unpublish, Call::Unstage, Call::Delete].into_iter().for_each(|call| world.succeeds(call));
    world.is_clean();
}

/// A pod can end although its disk is lost, or its pool cannot be read.
#[test]
fn a_volume_is_unpublished_and_unstaged_without_its_pool() {
    for usage in Use::ALL {
        for pulled in [true, false] {
            let world = World::after(usage, &[Call::Create, Call::Stage, Call::Publish]);
            world.pool.set_unreadable(Some("as configured"));
            if pulled {
                world.machine.pull_disk(&world.id.volume);
            }
            [Call::Unpublish, Call::Unstage].into_iter().for_each(|call| world.succeeds(call));
            assert!(world.machine.state().mounts.is_empty(), "{:?}", world.effects());
        }
    }
}

#[test]
fn a_filesystem_that_was_shut_down_is_not_published_until_nothing_uses_it() {
    let world = World::after(Use::MOUNT, &[Call::Create, Call::Stage, Call::Publish]);
    let volume = world.id.volume.clone();
    world.machine.shut_down(&volume);
    // It is still published, so a new mount would not recover it.
    world.rejects(Call::Stage, Reason::Precondition);
    // A second pod uses it, too.
    let second = {
        let state = world.machine.state();
        let mut entry = state.mounts.iter().find(|entry| entry.target == target()).unwrap().clone();
        (entry.id, entry.target) = (entry.id + 1000, "/pods/2".into());
        entry
    };
    world.machine.state().mounts.push(second);
    // The dead mount that an earlier call left at the target is removed.
    let message = world.rejects(Call::Publish, Reason::Precondition);
    assert!(message.contains("was unmounted") && message.contains("still mounted at \"/pods/2\""), "{message}");
    assert!(!world.machine.state().exists(&target()));
    world.rejects(Call::Stage, Reason::Precondition);
    // Nothing uses it any more: the next publish mounts it again, because kubelet may not stage it again.
    world.machine.state().mounts.retain(|entry| entry.target.to_str() != Some("/pods/2"));
    world.succeeds(Call::Publish);
    world.machine.shut_down(&volume);
    world.succeeds(Call::Unpublish);
    world.succeeds(Call::Stage);
    world.succeeds(Call::Publish);
}

/// The call that unmounts the filesystem may fail to mount it. The next one, which finds nothing mounted, does that.
#[test]
fn a_publish_that_could_not_mount_again_is_repeated() {
    let world = World::after(Use::MOUNT, &[Call::Create, Call::Stage, Call::Publish]);
    world.succeeds(Call::Unpublish);
    world.machine.shut_down(&world.id.volume);
    let process = Process::new(&world.machine, Plan::Lives);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let host = world.host(&process);
        world.machine.state().refuses_mounts = true;
        for _ in 0..2 {
            let error = world.send(&host, Call::Publish).await.unwrap_err();
            assert!(error.message.contains("it could not be mounted again"), "{error}");
            assert!(world.machine.state().mounts.is_empty());
        }
        world.machine.state().refuses_mounts = false;
        world.send(&host, Call::Publish).await.unwrap();
        world.send(&host, Call::Unpublish).await.unwrap();
        world.send(&host, Call::Unstage).await.unwrap();
        // Unstaged by kubelet: only a stage mounts it.
        let error = world.send(&host, Call::Publish).await.unwrap_err();
        assert_eq!(error.reason, Reason::Precondition, "{error}");
    });
    world.succeeds(Call::Delete);
    world.is_clean();
}

#[test]
fn a_busy_target_stays_published() {
    for usage in Use::ALL {
        let world = World::after(usage, &[Call::Create, Call::Stage, Call::Publish]);
        world.machine.state().busy.insert(target());
        world.rejects(Call::Unpublish, Reason::UnderWay);
        world.succeeds(Call::Publish);
        world.machine.state().busy.clear();
        world.succeeds(Call::Unpublish);
    }
}
