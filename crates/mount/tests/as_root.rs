//! Real mounts on loop devices. They need root, loop devices and the filesystems' tools, so they run in a
//! virtual node: `cargo run -p quarry-e2e -- as-root`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use quarry_exec::Command;
use quarry_mount::{
    Device, Error, all_at, at, bind, bind_device, is_read_only_mapping_of, map_read_only, mount_filesystem, mount_once,
    mounts_of_device, publications_of_block, remove_target, unmap_read_only, unmount, unmount_seen,
};

/// Loop devices and a directory to mount them; removed when this is dropped.
struct Bench {
    directory: PathBuf,
    devices: Vec<PathBuf>,
    _keep: tempfile::TempDir,
}

fn run(command: Command) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let output = runtime.block_on(command.run()).unwrap().require_success().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Bench {
    /// Creates one device for each of these filesystems.
    fn new(kinds: &[&'static str]) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let directory = keep.path().canonicalize().unwrap();
        let devices = kinds
            .iter()
            .enumerate()
            .map(|(n, kind)| {
                let image = directory.join(format!("image{n}"));
                std::fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
                let device = run(Command::query("losetup").args(["-f", "--show"]).arg(image));
                let program = match *kind {
                    "ext4" => "mkfs.ext4",
                    "xfs" => "mkfs.xfs",
                    "btrfs" => "mkfs.btrfs",
                    other => panic!("{other}"),
                };
                run(Command::query(program).arg("-q").arg(&device));
                PathBuf::from(device)
            })
            .collect();
        Self { directory, devices, _keep: keep }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let mut targets: Vec<_> = quarry_mount::table()
            .unwrap()
            .into_iter()
            .map(|entry| entry.target)
            .filter(|target| target.starts_with(&self.directory))
            .collect();
        targets.sort();
        for target in targets.iter().rev() {
            let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
        }
        for device in &self.devices {
            run(Command::query("losetup").arg("-d").arg(device));
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[test]
#[ignore = "needs root"]
fn stage_publish_and_their_reversal_are_idempotent() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let bench = Bench::new(&[kind]);
        let device = &bench.devices[0];
        let number = Device::of_node(device).unwrap();
        let stage = bench.path("sta ge");
        let publish = bench.directory.join(OsStr::from_bytes(b"pub\n\\134 \xff\t#"));
        for _ in 0..2 {
            mount_filesystem(device, &stage, kind, &words(&["noatime", "nosuid"])).unwrap();
            bind(&stage, &publish, false).unwrap();
            std::fs::write(publish.join("file"), kind).unwrap();
        }
        assert_eq!(all_at(&publish).unwrap().len(), 1, "a repeated publish does not stack");
        assert_eq!(std::fs::read_to_string(stage.join("file")).unwrap(), kind);
        let entry = at(&stage).unwrap().unwrap();
        assert!(entry.has_option("noatime") && entry.has_option("nosuid") && entry.is_of_device(number), "{entry:?}");
        assert_eq!(mounts_of_device(number).unwrap().len(), 2);

        for _ in 0..2 {
            unmount(&publish).unwrap();
            remove_target(&publish).unwrap();
            unmount(&stage).unwrap();
            remove_target(&stage).unwrap();
        }
        assert_eq!(mounts_of_device(number).unwrap(), []);
        assert!(publish.symlink_metadata().is_err() && !stage.exists());
    }
}

#[test]
#[ignore = "needs root"]
fn foreign_and_different_mounts_are_rejected_and_not_changed() {
    let bench = Bench::new(&["ext4", "ext4"]);
    let (one, two) = (&bench.devices[0], &bench.devices[1]);
    let (stage, other, target) = (bench.path("stage"), bench.path("other"), bench.path("target"));
    mount_filesystem(one, &stage, "ext4", &[]).unwrap();
    mount_filesystem(two, &other, "ext4", &[]).unwrap();
    assert!(matches!(mount_filesystem(two, &stage, "ext4", &[]), Err(Error::Foreign { .. })));
    assert!(matches!(mount_filesystem(one, &stage, "xfs", &[]), Err(Error::Foreign { .. })));
    assert!(matches!(mount_filesystem(one, &stage, "ext4", &words(&["ro"])), Err(Error::Different { .. })));
    assert!(matches!(mount_filesystem(one, &stage, "ext4", &words(&["noexec"])), Err(Error::Different { .. })));

    bind(&stage, &target, true).unwrap();
    assert!(matches!(bind(&stage, &target, false), Err(Error::Different { .. })));
    assert!(matches!(bind(&other, &target, true), Err(Error::Foreign { .. })));
    assert!(matches!(bind_device(one, &target), Err(Error::Foreign { .. })));
    assert!(matches!(remove_target(&target), Err(Error::Busy { .. })));
    assert!(std::fs::write(target.join("x"), "").is_err(), "read-only");
    std::fs::write(stage.join("x"), "").unwrap();

    // A directory without a mount would be the host's own disk, or only part of the volume.
    std::fs::create_dir(stage.join("sub")).unwrap();
    let free = bench.path("free");
    for source in [&stage.join("sub"), &bench.directory] {
        assert!(matches!(bind(source, &free, false), Err(Error::NotMounted { .. })));
    }
    assert!(!free.exists());
}

#[test]
#[ignore = "needs root"]
fn a_half_made_read_only_bind_is_completed_and_keeps_the_flags() {
    let bench = Bench::new(&["ext4"]);
    let (stage, target) = (bench.path("stage"), bench.path("target"));
    mount_filesystem(&bench.devices[0], &stage, "ext4", &words(&["nosuid", "nodev", "noatime"])).unwrap();
    std::fs::create_dir(&target).unwrap();
    // The state after a kill between the two calls.
    mount(Some(&stage), &target, None::<&Path>, MsFlags::MS_BIND, None::<&Path>).unwrap();

    let file = std::fs::File::create(target.join("open")).unwrap();
    assert!(matches!(bind(&stage, &target, true), Err(Error::Different { .. })), "it is in use, writable");
    drop(file);
    bind(&stage, &target, true).unwrap();
    let entry = at(&target).unwrap().unwrap();
    for option in ["ro", "nosuid", "nodev", "noatime"] {
        assert!(entry.has_option(option), "{option}: {entry:?}");
    }
    assert!(!at(&stage).unwrap().unwrap().read_only(), "the stage stays writable");

    // If the stage itself is read-only, every publish is read-only too, and none is rejected.
    unmount(&target).unwrap();
    unmount(&stage).unwrap();
    mount_filesystem(&bench.devices[0], &stage, "ext4", &words(&["ro"])).unwrap();
    for _ in 0..2 {
        bind(&stage, &target, false).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn a_raw_device_is_published_on_a_file() {
    let bench = Bench::new(&["ext4", "ext4"]);
    let (one, two) = (&bench.devices[0], &bench.devices[1]);
    let number = Device::of_node(one).unwrap();
    let (first, second) = (bench.path("first block"), bench.path("second"));
    for _ in 0..2 {
        bind_device(one, &first).unwrap();
        bind_device(one, &second).unwrap();
    }
    assert_eq!(Device::of_node(&first), Some(number));
    let found: Vec<_> = publications_of_block(number).unwrap().into_iter().map(|entry| entry.target).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&first) && found.contains(&second));
    assert_eq!(publications_of_block(Device::of_node(two).unwrap()).unwrap(), []);
    assert!(matches!(bind_device(two, &first), Err(Error::Foreign { .. })));
    assert!(matches!(remove_target(&first), Err(Error::Busy { .. })));
    for target in [&first, &second] {
        unmount(target).unwrap();
        remove_target(target).unwrap();
        assert!(!target.exists());
    }
    assert_eq!(publications_of_block(number).unwrap(), []);
}

/// A mount of its node does not open it, so the kernel would remove it.
#[test]
#[ignore = "needs root"]
fn a_published_mapping_of_a_device_that_has_grown_is_kept() {
    let bench = Bench::new(&["ext4"]);
    let (device, target) = (&bench.devices[0], bench.path("target"));
    let number = Device::of_node(device).unwrap();
    let node = map_read_only(number, "test-grown").unwrap();
    let mapping = Device::of_node(&node).unwrap();
    bind_device(&node, &target).unwrap();
    assert_eq!(map_read_only(number, "test-grown").unwrap(), node);
    std::fs::File::options().write(true).open(bench.path("image0")).unwrap().set_len(400 << 20).unwrap();
    run(Command::query("losetup").arg("-c").arg(device));
    assert!(matches!(map_read_only(number, "test-grown"), Err(Error::Published { .. })));
    assert!(is_read_only_mapping_of(mapping, number));
    assert_eq!(Device::of_node(&target), Some(mapping));
    assert!(std::fs::File::open(&target).is_ok(), "it can still be read");
    unmount(&target).unwrap();
    remove_target(&target).unwrap();
    // Now it is replaced.
    map_read_only(number, "test-grown").unwrap();
    unmap_read_only("test-grown").unwrap();
}

#[test]
#[ignore = "needs root"]
fn unmounting_succeeds_in_every_state() {
    let bench = Bench::new(&["ext4", "ext4"]);
    let stage = bench.path("stage");
    // A stack of two.
    mount_filesystem(&bench.devices[0], &stage, "ext4", &[]).unwrap();
    mount(Some(&bench.devices[1]), &stage, Some("ext4"), MsFlags::empty(), None::<&Path>).unwrap();
    assert_eq!(all_at(&stage).unwrap().len(), 2);
    assert!(at(&stage).unwrap().unwrap().is_of_device(Device::of_node(&bench.devices[1]).unwrap()), "the topmost");
    unmount(&stage).unwrap();
    assert_eq!(all_at(&stage).unwrap(), []);

    // In use: the error names the user, and nothing is forced.
    mount_filesystem(&bench.devices[0], &stage, "ext4", &[]).unwrap();
    let open = std::fs::File::create(stage.join("open")).unwrap();
    let error = unmount(&stage).unwrap_err();
    assert!(
        matches!(&error, Error::Busy { holders, .. } if holders.contains(&format!("pid {}", std::process::id()))),
        "{error}"
    );
    drop(open);
    std::fs::create_dir(stage.join("inner")).unwrap();
    mount_filesystem(&bench.devices[1], &stage.join("inner"), "ext4", &[]).unwrap();
    let error = unmount(&stage).unwrap_err();
    assert!(error.to_string().contains("stage/inner"), "{error}");
    unmount(&stage.join("inner")).unwrap();

    // The parent directory is reached through a symbolic link, like /var/lib/kubelet on some hosts.
    std::os::unix::fs::symlink(&bench.directory, bench.path("kubelet")).unwrap();
    let linked = bench.path("kubelet/stage");
    assert!(at(&linked).unwrap().is_some());
    mount_filesystem(&bench.devices[0], &linked, "ext4", &[]).unwrap();
    unmount(&linked).unwrap();
    assert_eq!(at(&stage).unwrap(), None);
    remove_target(&linked).unwrap();
}

/// Above and below that of the volume.
#[test]
#[ignore = "needs root"]
fn a_stacked_mount_that_was_not_seen_prevents_the_unmount() {
    let bench = Bench::new(&["ext4", "ext4"]);
    let stage = bench.path("stage");
    mount_filesystem(&bench.devices[0], &stage, "ext4", &[]).unwrap();
    let lower = all_at(&stage).unwrap();
    mount(Some(&bench.devices[1]), &stage, Some("ext4"), MsFlags::empty(), None::<&Path>).unwrap();
    let both = all_at(&stage).unwrap();
    for seen in [&lower[..], &both[..1], &[]] {
        let error = unmount_seen(&stage, seen).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        assert_eq!(all_at(&stage).unwrap(), both);
    }
    for _ in 0..2 {
        unmount_seen(&stage, &both).unwrap();
        assert_eq!(all_at(&stage).unwrap(), []);
    }
}

#[test]
#[ignore = "needs root"]
fn mounts_that_appear_twice_in_a_shared_kubelet_directory_are_unmounted() {
    let bench = Bench::new(&["ext4"]);
    let kubelet = bench.path("kubelet");
    std::fs::create_dir(&kubelet).unwrap();
    let none = None::<&Path>;
    // The directory is bind-mounted on itself, and the mount and the one it hides belong to one peer group:
    // every mount below then appears in both.
    mount(Some("tmpfs"), &kubelet, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    mount(none, &kubelet, none, MsFlags::MS_SHARED, none).unwrap();
    mount(Some(&kubelet), &kubelet, none, MsFlags::MS_BIND, none).unwrap();
    let stage = kubelet.join("stage");
    mount_filesystem(&bench.devices[0], &stage, "ext4", &[]).unwrap();
    let shown = quarry_mount::table().unwrap().iter().filter(|entry| entry.target == stage).count();
    assert_eq!(shown, 2, "the case that this test is for");
    assert_eq!(all_at(&stage).unwrap().len(), 1, "one of them can be reached");
    mount_filesystem(&bench.devices[0], &stage, "ext4", &[]).unwrap();
    unmount(&stage).unwrap();
    remove_target(&stage).unwrap();
    assert_eq!(mounts_of_device(Device::of_node(&bench.devices[0]).unwrap()).unwrap(), []);
}

#[test]
#[ignore = "needs root"]
fn an_unreachable_mount_does_not_block_a_target() {
    let bench = Bench::new(&["ext4"]);
    let pods = bench.path("pods");
    let target = pods.join("target");
    std::fs::create_dir(&pods).unwrap();
    mount_filesystem(&bench.devices[0], &target, "ext4", &[]).unwrap();
    // Something covers the directory above it.
    mount(Some("tmpfs"), &pods, Some("tmpfs"), MsFlags::empty(), None::<&Path>).unwrap();
    assert_eq!(at(&target).unwrap(), None);
    unmount(&target).unwrap();
    remove_target(&target).unwrap();
    let number = Device::of_node(&bench.devices[0]).unwrap();
    assert_eq!(mounts_of_device(number).unwrap().len(), 1, "the device is still reported as in use");
    unmount(&pods).unwrap();
    assert!(at(&target).unwrap().is_some());
}

#[test]
#[ignore = "needs root"]
fn a_dead_filesystem_is_not_reported_as_staged_and_can_be_unmounted() {
    let bench = Bench::new(&["xfs"]);
    let (stage, target) = (bench.path("stage"), bench.path("target"));
    mount_filesystem(&bench.devices[0], &stage, "xfs", &[]).unwrap();
    bind(&stage, &target, false).unwrap();
    run(Command::query("xfs_io").args(["-x", "-c", "shutdown"]).arg(&stage));
    assert!(stage.metadata().is_err(), "the case that this test is for");
    assert!(matches!(mount_filesystem(&bench.devices[0], &stage, "xfs", &[]), Err(Error::Dead { .. })));
    assert!(matches!(bind(&stage, &target, false), Err(Error::Dead { .. } | Error::Syscall { .. })));
    for path in [&target, &stage] {
        unmount(path).unwrap();
        remove_target(path).unwrap();
    }
    mount_filesystem(&bench.devices[0], &stage, "xfs", &[]).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_held_device_is_busy() {
    use std::os::unix::fs::OpenOptionsExt as _;
    let bench = Bench::new(&["ext4"]);
    let held = std::fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(&bench.devices[0])
        .unwrap();
    let stage = bench.path("stage");
    assert!(matches!(mount_filesystem(&bench.devices[0], &stage, "ext4", &[]), Err(Error::DeviceBusy { .. })));
    drop(held);
    mount_filesystem(&bench.devices[0], &stage, "ext4", &[]).unwrap();
    let error = mount_filesystem(&bench.devices[0], &bench.path("x"), "ext4", &words(&["data=nonsense"])).unwrap_err();
    assert!(matches!(error, Error::Syscall { .. } | Error::DeviceBusy { .. }), "{error}");
}

#[test]
#[ignore = "needs root"]
fn a_device_is_mounted_as_the_given_type_whatever_its_name() {
    let bench = Bench::new(&["ext4"]);
    let number = Device::of_node(&bench.devices[0]).unwrap();
    let loops = || run(Command::query("losetup").args(["-a", "-n", "-O", "NAME"])).lines().count();
    let before = loops();
    // LVM allows these names: sys-mount would mount the first one as a read-only iso9660 and the second one
    // as a squashfs.
    for name in ["volume.iso", "volume.squashfs"] {
        let (device, stage, target) = (bench.path(name), bench.path("stage"), bench.path("target.iso"));
        std::os::unix::fs::symlink(&bench.devices[0], &device).unwrap();
        mount_filesystem(&device, &stage, "ext4", &[]).unwrap();
        bind(&stage, &target, false).unwrap();
        let entry = at(&target).unwrap().unwrap();
        assert!(entry.is_of_device(number) && entry.fstype == "ext4" && !entry.read_only(), "{entry:?}");
        assert_eq!(loops(), before, "a loop device was made");
        for path in [&target, &stage] {
            unmount(path).unwrap();
            remove_target(path).unwrap();
        }
    }
    // No other type is tried if the device does not contain the filesystem in the record.
    let stage = bench.path("stage");
    let error = mount_filesystem(&bench.devices[0], &stage, "xfs", &[]).unwrap_err();
    assert!(matches!(error, Error::Syscall { source: nix::errno::Errno::EINVAL, .. }), "{error}");
    assert!(at(&bench.directory.join("stage")).unwrap().is_none() && !stage.exists());
}

/// The filesystem is recovered when the call returns, and was never seen at any place.
#[test]
#[ignore = "needs root and loop devices"]
fn a_filesystem_is_mounted_once_and_then_free() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let bench = Bench::new(&[kind]);
        let device = &bench.devices[0];
        let before = quarry_mount::table().unwrap().len();
        mount_once(device, kind, &[]).unwrap();
        assert_eq!(quarry_mount::table().unwrap().len(), before);
        // Nothing holds the device.
        let claim = std::fs::File::options().write(true).custom_flags(nix::libc::O_EXCL).open(device).unwrap();
        let error = mount_once(device, kind, &[]).unwrap_err();
        assert!(matches!(error, Error::DeviceBusy { .. }), "{kind}: {error}");
        drop(claim);
        let error = mount_once(device, kind, &["no-such-option"]).unwrap_err();
        assert!(matches!(error, Error::Syscall { source: nix::errno::Errno::EINVAL, .. }), "{kind}: {error}");
        let other = if kind == "ext4" { "xfs" } else { "ext4" };
        mount_once(device, other, &[]).unwrap_err();
        if kind == "xfs" {
            mount_once(device, kind, &["nouuid"]).unwrap();
        }
    }
}
