//! Real filesystems on loop devices. They need root, loop devices and the filesystems' tools, so they run in a
//! virtual node: `cargo run -p quarry-e2e -- as-root`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "as_root/copied.rs"]
mod copied;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quarry_exec::{Command, Output};
use quarry_filesystem::{
    Coverage, Error, Obstacle, Probe, Trimmed, check_before_adoption, coverage, device_size, exclusive,
    filesystem_uuid, grow, make, minimum_size, probe, trim, usage, wipe_signatures, zero_range,
};
use quarry_volume::{Filesystem, MakeOptions};

/// A loop device, which is removed when this is dropped.
struct Loop {
    device: PathBuf,
    image: PathBuf,
    _keep: tempfile::TempDir,
}

async fn run(command: Command) -> Output {
    command.run().await.unwrap().require_success().unwrap()
}

impl Loop {
    async fn new(size: u64) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let image = keep.path().join("image");
        File::create(&image).unwrap().set_len(size).unwrap();
        let output = run(Command::query("losetup").args(["-f", "--show"]).arg(&image)).await;
        let device = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        Self { device, image, _keep: keep }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.device).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        file.sync_all().unwrap();
    }
}

impl Loop {
    /// Makes the device larger.
    async fn expand(&self, size: u64) {
        File::options().write(true).open(&self.image).unwrap().set_len(size).unwrap();
        run(Command::query("losetup").arg("-c").arg(&self.device)).await;
        assert_eq!(device_size(&self.device).unwrap(), size);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let device = self.device.clone();
        let detach = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(Command::query("losetup").arg("-d").arg(device)));
        };
        std::thread::spawn(detach).join().unwrap();
    }
}

/// A mounted filesystem on a loop device, which is unmounted when this is dropped.
struct Mounted {
    kind: Filesystem,
    disk: Loop,
    target: PathBuf,
}

impl Mounted {
    async fn new(kind: Filesystem, size: u64, options: &str) -> Self {
        let disk = Loop::new(size).await;
        make(kind, &disk.device, UUID, &MakeOptions::parse(kind, options).unwrap()).await.unwrap();
        Self::mount(kind, disk).await
    }

    async fn mount(kind: Filesystem, disk: Loop) -> Self {
        let target = disk.image.with_file_name("mounted");
        std::fs::create_dir(&target).unwrap();
        // The name in /proc/mounts is a link that is gone, as after a volume was renamed.
        let name = target.with_file_name("name");
        std::os::unix::fs::symlink(&disk.device, &name).unwrap();
        run(Command::query("mount").arg("--no-canonicalize").arg(&name).arg(&target)).await;
        std::fs::remove_file(name).unwrap();
        Self { kind, disk, target }
    }

    fn coverage(&self) -> Coverage {
        coverage(self.kind, &self.disk.device, &self.target).unwrap()
    }

    async fn grow(&self) -> Result<Coverage, Error> {
        grow(self.kind, &self.disk.device, &self.target).await
    }

    /// Why it does not grow. Nothing is changed.
    async fn obstacle(&self) -> Obstacle {
        let before = self.coverage();
        assert!(!before.is_complete(), "{before:?}");
        let error = self.grow().await.unwrap_err();
        let Error::CannotGrow { obstacle, .. } = error else { panic!("{error}") };
        assert_eq!(self.coverage(), before);
        obstacle
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let (kind, target) = (self.kind, self.target.clone());
        let unmount = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(Command::query("umount").arg(target)));
            if kind == Filesystem::Btrfs {
                // All filesystems of these tests have one UUID. The kernel would look for the devices of this one when
                // the next one is mounted.
                runtime.block_on(run(Command::query("btrfs").args(["device", "scan", "--forget"])));
            }
        };
        std::thread::spawn(unmount).join().unwrap();
    }
}

/// A device that maps the start of another one and is unreadable after that; it is removed when this is
/// dropped.
struct Broken {
    device: PathBuf,
}

impl Broken {
    async fn after(disk: &Loop, good: u64) -> Self {
        let (good, all) = (good / 512, device_size(&disk.device).unwrap() / 512);
        let table = disk.image.with_file_name("table");
        let lines = format!("0 {good} linear {} 0\n{good} {} error\n", disk.device.display(), all - good);
        std::fs::write(&table, lines).unwrap();
        let name = format!("quarry-broken-{}", std::process::id());
        run(Command::query("dmsetup").args(["create", &name]).arg(&table)).await;
        Self { device: Path::new("/dev/mapper").join(name) }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let device = self.device.clone();
        let remove = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(Command::query("dmsetup").args(["remove", "--retry"]).arg(device)));
        };
        std::thread::spawn(remove).join().unwrap();
    }
}

const UUID: &str = "11111111-2222-5333-8444-555555555555";

async fn make_plain(kind: Filesystem, device: &Path) -> Result<(), Error> {
    make(kind, device, UUID, &MakeOptions::none(kind)).await
}

fn expected(kind: Filesystem) -> Probe {
    Probe::Filesystem { kind, uuid: UUID.to_owned(), label: None, in_progress: false }
}

#[tokio::test]
#[ignore = "needs root"]
async fn each_filesystem_is_made_at_its_minimum_size_and_found_again() {
    for kind in Filesystem::ALL {
        let disk = Loop::new(minimum_size(kind)).await;
        assert_eq!(device_size(&disk.device).unwrap(), minimum_size(kind));
        assert_eq!(probe(&disk.device).await.unwrap(), Probe::Blank);
        make_plain(kind, &disk.device).await.unwrap();
        assert_eq!(probe(&disk.device).await.unwrap(), expected(kind));
        // It is never overwritten, by any type and with any UUID.
        for other in Filesystem::ALL {
            let error = make(other, &disk.device, &filesystem_uuid("other").to_string(), &MakeOptions::none(other))
                .await
                .unwrap_err();
            assert!(matches!(error, Error::NotBlank { .. }), "{error}");
        }
        // The requested filesystem is already there: an earlier mkfs has just ended, and the caller retries.
        assert!(matches!(make_plain(kind, &disk.device).await, Err(Error::Busy { .. })));
        assert_eq!(probe(&disk.device).await.unwrap(), expected(kind));

        wipe_signatures(&exclusive(&disk.device).unwrap()).unwrap();
        assert_eq!(probe(&disk.device).await.unwrap(), Probe::Blank);
    }
}

/// The features of an ext4 that older implementations must not mount, from its superblock.
fn incompatible_features(disk: &Loop) -> u32 {
    use std::os::unix::fs::FileExt as _;
    let mut word = [0; 4];
    std::fs::File::open(&disk.device).unwrap().read_exact_at(&mut word, 1024 + 0x60).unwrap();
    u32::from_le_bytes(word)
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_ext4_gets_a_seed_of_its_checksums_unless_that_is_turned_off() {
    const METADATA_CSUM_SEED: u32 = 0x2000;
    let disk = Loop::new(minimum_size(Filesystem::Ext4)).await;
    for (options, seed) in
        [("", true), ("-O ^metadata_csum_seed", false), ("-O ^metadata_csum", false), ("-O quota", true)]
    {
        make(Filesystem::Ext4, &disk.device, UUID, &MakeOptions::parse(Filesystem::Ext4, options).unwrap())
            .await
            .unwrap();
        assert_eq!(incompatible_features(&disk) & METADATA_CSUM_SEED != 0, seed, "{options}");
        wipe_signatures(&exclusive(&disk.device).unwrap()).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn options_reach_mkfs() {
    let disk = Loop::new(400 << 20).await;
    for (kind, options) in [
        (Filesystem::Ext4, "-b 1024 -m0 -E stride=16 -O ^metadata_csum,quota -L data -i 8192 -J size=4 -T largefile"),
        (Filesystem::Xfs, "-m reflink=0,crc=1 -d agcount=2 -i size=1024 -l size=64m,internal -n size=8k -L data"),
        (Filesystem::Btrfs, "-L data --csum xxhash -d single -m dup -n 16k -O ^no-holes"),
    ] {
        make(kind, &disk.device, UUID, &MakeOptions::parse(kind, options).unwrap()).await.unwrap();
        let Probe::Filesystem { label, .. } = probe(&disk.device).await.unwrap() else { panic!("no filesystem") };
        assert_eq!(label.as_deref(), Some("data"));
        wipe_signatures(&exclusive(&disk.device).unwrap()).unwrap();
    }
    let nonsense = MakeOptions::parse(Filesystem::Ext4, "-b 17").unwrap();
    let error = make(Filesystem::Ext4, &disk.device, UUID, &nonsense).await.unwrap_err();
    assert!(matches!(error, Error::Mkfs { .. }) && error.to_string().contains("17"), "{error}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_foreign_signature_is_found_and_kept_until_it_is_wiped() {
    let size = 300u64 << 20;
    let disk = Loop::new(size).await;
    let wipe = || wipe_signatures(&exclusive(&disk.device).unwrap()).unwrap();
    let foreign = [
        ("swap space", Command::query("mkswap")),
        ("a filesystem of type \"ext2\"", Command::query("mkfs.ext2").arg("-q")),
        ("an LVM physical volume", Command::query("lvm").args(["pvcreate", "-q", "--driverloaded", "n"])),
    ];
    for (words, command) in foreign {
        run(command.arg(&disk.device)).await;
        assert_eq!(probe(&disk.device).await.unwrap(), Probe::Other { what: words.to_owned() });
        assert!(matches!(make_plain(Filesystem::Ext4, &disk.device).await, Err(Error::NotBlank { .. })), "{words}");
        assert_eq!(probe(&disk.device).await.unwrap().description(), words, "not changed");
        wipe();
        assert_eq!(probe(&disk.device).await.unwrap(), Probe::Blank, "{words}");
    }

    // Two filesystems at once: an xfs into which an ext4 superblock was written.
    make_plain(Filesystem::Ext4, &disk.device).await.unwrap();
    let mut superblock = vec![0; 1024];
    File::open(&disk.device).unwrap().read_exact_at(&mut superblock, 1024).unwrap();
    wipe();
    make_plain(Filesystem::Xfs, &disk.device).await.unwrap();
    disk.write(1024, &superblock);
    let found = probe(&disk.device).await.unwrap();
    assert!(matches!(found, Probe::Ambivalent { .. }), "{found:?}");
    for kind in Filesystem::ALL {
        assert!(matches!(make_plain(kind, &disk.device).await, Err(Error::NotBlank { .. })));
    }
    wipe();

    // A partition table with one entry.
    let mut table = vec![0; 512];
    table[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0, 0]);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.write(0, &table);
    assert_eq!(probe(&disk.device).await.unwrap().description(), "a DOS partition table");

    wipe();

    // The second header of LUKS2 may be all that is left, and it may begin at 4 MiB.
    for at in [16 << 10, 4 << 20] {
        let mut header = vec![0; 4096];
        header[..8].copy_from_slice(b"SKUL\xba\xbe\0\x02");
        header[256..264].copy_from_slice(&u64::to_be_bytes(at));
        disk.write(at, &header);
        assert_eq!(probe(&disk.device).await.unwrap().description(), "a LUKS container", "at {at}");
        for kind in Filesystem::ALL {
            assert!(matches!(make_plain(kind, &disk.device).await, Err(Error::NotBlank { .. })), "at {at}");
        }
        wipe();
        assert_eq!(probe(&disk.device).await.unwrap(), Probe::Blank, "at {at}");
    }

    // Garbage everywhere else does not matter.
    let rubbish = vec![0xa5u8; 1 << 20];
    for at in (0..size).step_by(1 << 20) {
        disk.write(at, &rubbish);
    }
    for kind in Filesystem::ALL {
        wipe();
        assert_eq!(probe(&disk.device).await.unwrap(), Probe::Blank);
        make_plain(kind, &disk.device).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn no_one_gets_the_device_while_mkfs_runs() {
    for kind in Filesystem::ALL {
        let disk = Loop::new(1 << 30).await;
        let device = disk.device.clone();
        // The attempts below may interfere until it has the device.
        let made = tokio::spawn(async move {
            loop {
                match make_plain(kind, &device).await {
                    Err(Error::Busy { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                    done => break done,
                }
            }
        });
        let mkfs_runs = || {
            let subject = disk.device.display().to_string();
            quarry_exec::running().iter().any(|running| running.mutation && running.subject.as_ref() == Some(&subject))
        };
        // mkfs.btrfs holds no claim while it writes, and no mkfs holds one while it starts: the lock that
        // mkfs inherits excludes others. And attempts by others must not disturb any mkfs.
        let mut rejected = 0;
        while !made.is_finished() {
            let before = mkfs_runs();
            let taken = exclusive(&disk.device);
            if before && mkfs_runs() {
                assert!(matches!(taken, Err(Error::Busy { .. })), "{kind} after {rejected} rejections");
                rejected += 1;
            }
        }
        made.await.unwrap().unwrap();
        assert!(rejected > 0, "{kind}: nothing was tried while mkfs ran");
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_unfinished_xfs_is_made_again_only_with_the_same_uuid() {
    let disk = Loop::new(300 << 20).await;
    make_plain(Filesystem::Xfs, &disk.device).await.unwrap();
    let file = File::options().read(true).write(true).open(&disk.device).unwrap();
    file.write_all_at(&[1], 126).unwrap();
    file.sync_all().unwrap();
    let found = probe(&disk.device).await.unwrap();
    assert!(matches!(found, Probe::Filesystem { in_progress: true, .. }), "{found:?}");
    let other =
        make(Filesystem::Xfs, &disk.device, &filesystem_uuid("x").to_string(), &MakeOptions::none(Filesystem::Xfs))
            .await;
    assert!(matches!(other, Err(Error::NotBlank { .. })), "{other:?}");
    assert!(matches!(make_plain(Filesystem::Ext4, &disk.device).await, Err(Error::NotBlank { .. })));
    drop(file);
    make_plain(Filesystem::Xfs, &disk.device).await.unwrap();
    assert_eq!(probe(&disk.device).await.unwrap(), expected(Filesystem::Xfs));
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_device_in_use_is_neither_opened_exclusively_nor_formatted() {
    let disk = Loop::new(128 << 20).await;
    let held = exclusive(&disk.device).unwrap();
    assert!(matches!(exclusive(&disk.device), Err(Error::Busy { .. })));
    for kind in Filesystem::ALL {
        assert!(matches!(make_plain(kind, &disk.device).await, Err(Error::Busy { .. })));
    }
    drop(held);
    // Only the kernel's claim, as a mount or another program holds it.
    use std::os::unix::fs::OpenOptionsExt as _;
    let claim = File::options().read(true).custom_flags(nix::libc::O_EXCL).open(&disk.device).unwrap();
    assert!(matches!(exclusive(&disk.device), Err(Error::Busy { .. })));
    drop(claim);
    make_plain(Filesystem::Ext4, &disk.device).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_unreadable_device_is_never_blank() {
    let disk = Loop::new(8 << 20).await;
    let broken = Broken::after(&disk, 1 << 20).await;
    let found = probe(&broken.device).await;
    assert!(matches!(found, Err(Error::Io { .. })), "{found:?}");
    assert!(make_plain(Filesystem::Ext4, &broken.device).await.is_err());
    let found = probe(Path::new("/no/such/device")).await;
    assert!(matches!(found, Err(Error::Io { .. })), "{found:?}");
}

#[tokio::test]
#[ignore = "needs root"]
async fn zeros_are_written_exactly_to_the_range() {
    let disk = Loop::new(4 << 20).await;
    disk.write(0, &vec![0xff; 4 << 20]);
    zero_range(&exclusive(&disk.device).unwrap(), 1 << 20..(1 << 20) + 512).unwrap();
    let mut bytes = vec![0; 4 << 20];
    File::open(&disk.device).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[1 << 20..(1 << 20) + 512].iter().all(|&byte| byte == 0));
    assert_eq!(bytes.iter().filter(|&&byte| byte == 0).count(), 512);
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_incomplete_xfs_is_not_adopted_and_a_used_one_is() {
    let disk = Loop::new(300 << 20).await;
    make_plain(Filesystem::Xfs, &disk.device).await.unwrap();
    check_before_adoption(Filesystem::Xfs, &disk.device).await.unwrap();

    // The header of the second of four allocation groups never reached the disk.
    let mut header = vec![0; 512];
    let at = (300 << 20) / 4 + 512;
    let file = File::open(&disk.device).unwrap();
    file.read_exact_at(&mut header, at).unwrap();
    assert_eq!(&header[..4], b"XAGF");
    disk.write(at, &[0; 512]);
    assert!(matches!(probe(&disk.device).await.unwrap(), Probe::Filesystem { in_progress: false, .. }));
    let result = check_before_adoption(Filesystem::Xfs, &disk.device).await;
    assert!(matches!(result, Err(Error::Damaged { .. })), "{result:?}");
    disk.write(at, &header);

    // It was mounted and written to, and then its host lost power.
    let target = disk.image.parent().unwrap().join("mount");
    std::fs::create_dir(&target).unwrap();
    run(Command::query("mount").arg(&disk.device).arg(&target)).await;
    let result = check_before_adoption(Filesystem::Xfs, &disk.device).await;
    assert!(matches!(result, Err(Error::Busy { .. })), "{result:?}");
    for n in 0..50 {
        std::fs::write(target.join(n.to_string()), "data").unwrap();
    }
    run(Command::query("xfs_io").args(["-x", "-c", "shutdown -f"]).arg(&target)).await;
    run(Command::query("umount").arg(&target)).await;
    check_before_adoption(Filesystem::Xfs, &disk.device).await.unwrap();
}

const MIB: u64 = 1 << 20;

#[tokio::test]
#[ignore = "needs root"]
async fn each_filesystem_grows_with_its_device_while_it_is_in_use() {
    for kind in Filesystem::ALL {
        let mounted = Mounted::new(kind, 320 * MIB, "").await;
        let made = mounted.coverage();
        assert!(made.is_complete() && made.filesystem > 319 * MIB, "{kind}: {made:?}");
        assert_eq!(mounted.grow().await.unwrap(), made, "{kind}: nothing to do");
        let file = mounted.target.join("file");
        std::fs::write(&file, "content").unwrap();
        let open = File::options().append(true).open(&file).unwrap();
        let before = usage(&mounted.target).unwrap().total;

        mounted.disk.expand(700 * MIB).await;
        let smaller = mounted.coverage();
        assert_eq!((smaller.device, smaller.filesystem), (700 * MIB, made.filesystem), "{kind}");
        assert!(!smaller.is_complete() && smaller.obstacle.is_none(), "{kind}: {smaller:?}");
        let grown = mounted.grow().await.unwrap();
        assert!(grown.is_complete() && grown.filesystem > 690 * MIB, "{kind}: {grown:?}");
        assert_eq!(mounted.coverage(), grown, "{kind}");
        assert!(usage(&mounted.target).unwrap().total > before + 350 * MIB, "{kind}");
        assert_eq!(grown.groups > 4, kind == Filesystem::Xfs, "{kind}: {grown:?}");
        std::io::Write::write_all(&mut &open, b" and more").unwrap();
        drop(open);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "content and more", "{kind}");

        // The kernel's size is the size on the disk, too.
        let Mounted { disk, target, .. } = &mounted;
        run(Command::query("umount").arg(target)).await;
        assert_eq!(probe(&disk.device).await.unwrap(), expected(kind));
        run(Command::query("mount").arg(&disk.device).arg(target)).await;
        assert_eq!(mounted.coverage().filesystem, grown.filesystem, "{kind}");
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn each_filesystem_returns_the_space_of_deleted_files_step_by_step() {
    use std::os::unix::fs::MetadataExt as _;

    const STEP: u64 = 64 * MIB;
    for kind in Filesystem::ALL {
        let mounted = Mounted::new(kind, 320 * MIB, "").await;
        let (target, image) = (&mounted.target, &mounted.disk.image);
        let directory = File::open(target).unwrap();
        let flush = || nix::unistd::syncfs(&directory).unwrap();
        let allocated = || {
            flush();
            // Of the file that the loop device is on, in units of 512 bytes.
            image.metadata().unwrap().blocks() * 512
        };
        let before = allocated();
        std::fs::write(target.join("file"), vec![0xa5; 100 << 20]).unwrap();
        let full = allocated();
        assert!(full > before + 90 * MIB, "{kind}: {before}, {full}");
        let free = || {
            let found = nix::sys::statvfs::statvfs(target).unwrap();
            found.blocks_free() * found.fragment_size()
        };
        let little = free();
        std::fs::remove_file(target.join("file")).unwrap();
        flush();
        // xfs frees the blocks of a deleted file in the background.
        let began = Instant::now();
        while free() < little + 90 * MIB && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(100));
        }

        let step = |start: u64, end: u64| trim(&directory, target, start..end).unwrap();
        let mut discarded = 0;
        // btrfs leaves out free space in the middle of which the range begins, up to the end of its block group.
        let overlap = if kind == Filesystem::Btrfs { 40 * MIB } else { 0 };
        let mut start = 0;
        while start < 320 * MIB {
            let begin = start.saturating_sub(overlap);
            let Trimmed::Bytes(bytes) = step(begin, start + STEP) else { panic!("{kind}: at {begin}") };
            discarded += bytes;
            start += STEP;
        }
        match (kind, step(1 << 40, (1 << 40) + STEP)) {
            // Its addresses are logical.
            (Filesystem::Btrfs, Trimmed::Bytes(_)) | (Filesystem::Ext4 | Filesystem::Xfs, Trimmed::PastEnd) => {}
            (_, other) => panic!("{kind}: {other:?}"),
        }
        if kind == Filesystem::Btrfs {
            step(320 * MIB - overlap, u64::MAX);
        }
        assert!(discarded >= 90 * MIB, "{kind}: {discarded}");
        let after = allocated();
        assert!(after < full - 90 * MIB, "{kind}: {full}, {after}");
    }
}

/// With any size of the device, growing ends, and then the filesystem counts as complete.
#[tokio::test]
#[ignore = "needs root"]
async fn a_rest_that_no_filesystem_can_use_is_not_an_error() {
    let steps = [512, 4096, 12 << 10, 63 * 4096, 64 * 4096, MIB + 512, 3 * MIB, 4 * MIB, 9 * MIB, 127 * MIB, 128 * MIB];
    for (kind, size, options) in [
        (Filesystem::Ext4, 32 * MIB, ""),
        (Filesystem::Ext4, 512 * MIB, "-b 4096"),
        (Filesystem::Ext4, 512 * MIB, "-O ^resize_inode"),
        (Filesystem::Ext4, 512 * MIB, "-O bigalloc"),
        (Filesystem::Xfs, 300 * MIB, ""),
        (Filesystem::Btrfs, 300 * MIB, ""),
    ] {
        let mounted = Mounted::new(kind, size, options).await;
        let mut size = size;
        for step in steps {
            size += step;
            mounted.disk.expand(size).await;
            match mounted.grow().await {
                Ok(grown) => assert!(size - grown.filesystem < 8 * MIB, "{kind} {options}, {size} bytes: {grown:?}"),
                Err(error) => panic!("{kind} {options}, {size} bytes: {error}"),
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_ext4_that_the_kernel_does_not_grow_is_recognized_by_its_superblock() {
    let kind = Filesystem::Ext4;
    let mounted = Mounted::new(kind, 64 * MIB, "-O sparse_super2").await;
    mounted.disk.expand(256 * MIB).await;
    assert_eq!(mounted.obstacle().await, Obstacle::Feature("sparse_super2"));

    let disk = Loop::new(64 * MIB).await;
    make_plain(kind, &disk.device).await.unwrap();
    run(Command::query("debugfs").args(["-w", "-R", "set_super_value state 2"]).arg(&disk.device)).await;
    let mounted = Mounted::mount(kind, disk).await;
    mounted.disk.expand(256 * MIB).await;
    assert_eq!(mounted.obstacle().await, Obstacle::Errors);
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_btrfs_below_its_minimum_or_on_several_devices_does_not_grow() {
    let mounted = Mounted::new(Filesystem::Btrfs, 128 * MIB, "").await;
    mounted.disk.expand(200 * MIB).await;
    assert_eq!(mounted.obstacle().await, Obstacle::BelowMinimum { minimum: 256 * MIB });
    mounted.disk.expand(256 * MIB).await;
    assert_eq!(mounted.grow().await.unwrap().filesystem, 256 * MIB);

    let other = Loop::new(400 * MIB).await;
    run(Command::query("btrfs").args(["device", "add"]).arg(&other.device).arg(&mounted.target)).await;
    assert!(mounted.coverage().is_complete(), "the size of its own device counts");
    mounted.disk.expand(300 * MIB).await;
    assert_eq!(mounted.obstacle().await, Obstacle::Devices(2));
    drop(mounted);
}
