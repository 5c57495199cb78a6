//! Copies of mounted filesystems get UUIDs of their own.

use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::OpenOptionsExt as _;

use quarry_filesystem::{UuidStep, edit_copied, set_uuid, superblock, uuid_step};
use quarry_mount::mount_once;

use super::*;

/// Large enough for [`fill`], and for a second superblock of a btrfs.
fn size(kind: Filesystem) -> u64 {
    minimum_size(kind).max(64 << 20)
}

const OTHER: &str = "7c5cc1f5-2b8f-5a83-8b6f-3a8b7f0d9a01";
const THIRD: &str = "0f6cc1f5-2b8f-5a83-8b6f-3a8b7f0d9a02";

/// Options that change how much of a filesystem depends on its UUID.
const KINDS: [(Filesystem, &str); 15] = [
    (Filesystem::Ext4, ""),
    (Filesystem::Ext4, "-O ^metadata_csum_seed"),
    (Filesystem::Ext4, "-O ^metadata_csum"),
    (Filesystem::Ext4, "-O ^metadata_csum,uninit_bg"),
    (Filesystem::Ext4, "-O ^metadata_csum,ea_inode"),
    (Filesystem::Ext4, "-O orphan_file,inline_data"),
    (Filesystem::Ext4, "-O bigalloc,sparse_super2,^resize_inode"),
    (Filesystem::Xfs, ""),
    (Filesystem::Xfs, "-m rmapbt=1,finobt=0,inobtcount=0,reflink=0,bigtime=0"),
    (Filesystem::Btrfs, ""),
    (Filesystem::Btrfs, "--csum xxhash"),
    (Filesystem::Btrfs, "--csum sha256"),
    (Filesystem::Btrfs, "--csum blake2"),
    (Filesystem::Btrfs, "-M"),
    (Filesystem::Btrfs, "-O ^no-holes -R quota -m single"),
];

async fn mount(device: &Path, at: &Path) {
    fs::create_dir_all(at).unwrap();
    run(Command::query("mount").arg(device).arg(at)).await;
}

async fn unmount(at: &Path) {
    run(Command::query("umount").arg(at)).await;
}

/// Copies what is on the disk of a mounted filesystem at one instant. `edit`: as a copy is made, otherwise unchanged.
fn copy(kind: Filesystem, from: &Loop, to: &Loop, edit: Option<&str>) {
    let source = File::options().read(true).custom_flags(nix::libc::O_DIRECT).open(&from.device).unwrap();
    let target = File::options().write(true).open(&to.device).unwrap();
    let pass = || {
        let mut sums = DefaultHasher::new();
        for offset in (0..size(kind)).step_by(1 << 20) {
            let mut bytes = quarry_block::read_aligned(&source, offset, 1 << 20).unwrap();
            sums.write(&bytes);
            if let Some(uuid) = edit {
                edit_copied(kind, uuid.parse().unwrap(), offset, &mut bytes).unwrap();
            }
            target.write_all_at(&bytes, offset).unwrap();
        }
        sums.finish()
    };
    // The kernel writes to the source at any time. If nothing changed from one pass to the next, both saw what was on
    // the disk between them.
    let mut last = pass();
    loop {
        let now = pass();
        if now == last {
            break;
        }
        last = now;
    }
    target.sync_all().unwrap();
}

/// Does all steps. Each is done twice if it can be repeated, as after an interruption.
async fn new_uuid(kind: Filesystem, device: &Path, uuid: &str) {
    let step = uuid_step(kind, device, uuid).await.unwrap();
    let UuidStep::Set { recover_with, repeatable } = step else { return };
    if let Some(options) = recover_with {
        for _ in 0..2 {
            mount_once(device, kind.as_str(), options).unwrap();
            assert!(matches!(uuid_step(kind, device, uuid).await.unwrap(), UuidStep::Set { .. }));
        }
    }
    for _ in 0..if repeatable { 2 } else { 1 } {
        set_uuid(kind, device, uuid).await.unwrap();
        assert_eq!(uuid_step(kind, device, uuid).await.unwrap(), UuidStep::Done);
    }
    let found = superblock(kind, device).await.unwrap().unwrap();
    assert_eq!(found.uuid, uuid);
}

async fn check(kind: Filesystem, device: &Path) {
    let check = match kind {
        Filesystem::Ext4 => Command::query("e2fsck").args(["-f", "-n"]),
        Filesystem::Xfs => Command::query("xfs_repair").arg("-n"),
        Filesystem::Btrfs => Command::query("btrfs").args(["check", "--readonly"]),
    };
    run(check.arg(device)).await;
}

/// Files that are on the disk, one of them only in the journal or log, and one that is open and has no name.
fn fill(at: &Path) -> File {
    for number in 0..200 {
        fs::write(at.join(format!("file {number}")), vec![number; 5000]).unwrap();
    }
    nix::unistd::syncfs(File::open(at).unwrap()).unwrap();
    for number in 0..50 {
        fs::remove_file(at.join(format!("file {number}"))).unwrap();
    }
    let nameless = File::options().read(true).write(true).create_new(true).open(at.join("nameless")).unwrap();
    nameless.write_all_at(&[7; 100_000], 0).unwrap();
    nameless.sync_all().unwrap();
    fs::remove_file(at.join("nameless")).unwrap();
    let synced = File::create(at.join("synced")).unwrap();
    synced.write_all_at(b"synced", 0).unwrap();
    synced.sync_all().unwrap();
    nameless
}

/// Compares a copy with its source, while both are mounted, and writes to both.
fn compare(source: &Path, copied: &Path) {
    for at in [source, copied] {
        assert_eq!(fs::read(at.join("synced")).unwrap(), b"synced");
        assert_eq!(fs::read(at.join("file 199")).unwrap(), [199; 5000]);
    }
    for (one, other) in [(source, copied), (copied, source)] {
        let directory = |at: &Path| at.parent().unwrap().file_name().unwrap().display().to_string();
        let name = format!("in {} but not in {}", directory(one), directory(other));
        fs::write(one.join(&name), "").unwrap();
        assert!(!other.join(&name).exists());
    }
}

/// One device with a filesystem and two for copies of it; the kernel forgets unmounted btrfs at the end.
async fn copied(kind: Filesystem, options: &str, frozen: bool, in_place: bool) {
    println!("{kind} {options:?}, frozen: {frozen}, in place: {in_place}");
    let (source, first, second) =
        (Loop::new(size(kind)).await, Loop::new(size(kind)).await, Loop::new(size(kind)).await);
    make(kind, &source.device, UUID, &MakeOptions::parse(kind, options).unwrap()).await.unwrap();
    let (at, at_first, at_second) =
        (source.image.with_file_name("m"), first.image.with_file_name("m"), second.image.with_file_name("m"));
    mount(&source.device, &at).await;
    let nameless = fill(&at);
    if frozen {
        run(Command::query("fsfreeze").arg("-f").arg(&at)).await;
    }
    copy(kind, &source, &first, (!in_place).then_some(OTHER));
    if frozen {
        run(Command::query("fsfreeze").arg("-u").arg(&at)).await;
    }
    new_uuid(kind, &first.device, OTHER).await;
    // As after an interruption that cannot be continued: from the beginning.
    if !frozen {
        copy(kind, &source, &first, (!in_place).then_some(OTHER));
        new_uuid(kind, &first.device, OTHER).await;
    }
    mount(&first.device, &at_first).await;
    compare(&at, &at_first);
    // The copy of a copy.
    copy(kind, &first, &second, (!in_place).then_some(THIRD));
    new_uuid(kind, &second.device, THIRD).await;
    mount(&second.device, &at_second).await;
    compare(&at_first, &at_second);
    drop(nameless);
    for at in [at, at_first, at_second] {
        unmount(&at).await;
    }
    for device in [&source.device, &first.device, &second.device] {
        check(kind, device).await;
    }
    if kind == Filesystem::Btrfs {
        run(Command::query("btrfs").args(["device", "scan", "--forget"])).await;
    }
}

#[tokio::test]
#[ignore = "needs root and loop devices"]
async fn a_copy_of_a_mounted_filesystem_is_mounted_beside_its_source() {
    for (kind, options) in KINDS.into_iter().filter(|(_, options)| options.is_empty()) {
        copied(kind, options, false, false).await;
    }
}

/// Takes minutes, so that it is a part of the soak.
#[tokio::test]
#[ignore = "needs root and loop devices"]
async fn a_copy_is_mounted_beside_its_source_with_all_options() {
    for (kind, options) in KINDS.into_iter().filter(|(_, options)| !options.is_empty()) {
        copied(kind, options, false, false).await;
    }
}

#[tokio::test]
#[ignore = "needs root and loop devices"]
async fn a_copy_of_a_frozen_filesystem_is_mounted_beside_its_source() {
    for (kind, options) in [(Filesystem::Ext4, ""), (Filesystem::Xfs, ""), (Filesystem::Btrfs, "")] {
        copied(kind, options, true, false).await;
    }
}

#[tokio::test]
#[ignore = "needs root and loop devices"]
async fn the_uuid_of_a_btrfs_is_changed_in_place_too() {
    for options in ["", "--csum sha256"] {
        copied(Filesystem::Btrfs, options, false, true).await;
    }
}

#[tokio::test]
#[ignore = "needs root and loop devices"]
async fn a_torn_superblock_of_a_btrfs_is_made_again() {
    let kind = Filesystem::Btrfs;
    let (source, target) = (Loop::new(size(kind)).await, Loop::new(size(kind)).await);
    make(kind, &source.device, UUID, &MakeOptions::none(kind)).await.unwrap();
    copy(kind, &source, &target, None);
    set_uuid(kind, &target.device, OTHER).await.unwrap();
    // The second sector is still the old one.
    let mut old = [0; 512];
    File::open(&source.device).unwrap().read_exact_at(&mut old, (64 << 10) + 512).unwrap();
    target.write((64 << 10) + 512, &old);
    assert_eq!(superblock(kind, &target.device).await.unwrap().unwrap().uuid, OTHER);
    let torn = UuidStep::Set { recover_with: None, repeatable: true };
    assert_eq!(uuid_step(kind, &target.device, OTHER).await.unwrap(), torn);
    mount_once(&target.device, "btrfs", &[]).unwrap_err();
    new_uuid(kind, &target.device, OTHER).await;
    mount_once(&target.device, "btrfs", &[]).unwrap();
    check(kind, &target.device).await;
    run(Command::query("btrfs").args(["device", "scan", "--forget"])).await;
}

#[tokio::test]
#[ignore = "needs root and loop devices"]
async fn a_journal_that_was_not_replayed_prevents_a_new_uuid() {
    for kind in [Filesystem::Ext4, Filesystem::Xfs] {
        let (source, target) = (Loop::new(size(kind)).await, Loop::new(size(kind)).await);
        make(kind, &source.device, UUID, &MakeOptions::none(kind)).await.unwrap();
        let at = source.image.with_file_name("m");
        mount(&source.device, &at).await;
        drop(fill(&at));
        copy(kind, &source, &target, None);
        unmount(&at).await;
        let error = set_uuid(kind, &target.device, OTHER).await.unwrap_err();
        assert!(matches!(error, Error::NotCopied { .. } | Error::UuidUnchanged { .. }), "{error}");
        new_uuid(kind, &target.device, OTHER).await;
        check(kind, &target.device).await;
    }
}

#[tokio::test]
#[ignore = "needs root and loop devices"]
async fn a_device_that_is_in_use_gets_no_new_uuid() {
    for kind in Filesystem::ALL {
        let disk = Loop::new(size(kind)).await;
        make(kind, &disk.device, UUID, &MakeOptions::none(kind)).await.unwrap();
        let at = disk.image.with_file_name("m");
        mount(&disk.device, &at).await;
        let error = set_uuid(kind, &disk.device, OTHER).await.unwrap_err();
        assert!(matches!(error, Error::Busy { .. } | Error::NotCopied { .. }), "{kind}: {error}");
        unmount(&at).await;
        assert_eq!(superblock(kind, &disk.device).await.unwrap().unwrap().uuid, UUID);
        if kind == Filesystem::Btrfs {
            run(Command::query("btrfs").args(["device", "scan", "--forget"])).await;
        }
    }
}
