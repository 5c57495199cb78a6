//! Copies in memory, and on loop devices for those who are root.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quarry_volume::{Gib, Reason};

use super::pipeline::CHUNK;
use super::*;
use crate::tasks::Tasks;

/// What a copy does to a target in memory.
#[derive(Default)]
struct Disk {
    bytes: Vec<u8>,
    written: Vec<Range<u64>>,
    zeroed: Vec<Range<u64>>,
    wiped: Option<u64>,
    flushes: usize,
    /// Writes beyond this fail.
    fails_at: Option<u64>,
    /// Whether its sectors have 4096 bytes, instead of 512.
    has_large_sectors: bool,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Disk>>);

impl Memory {
    /// A target that a former tenant has written to.
    fn used(size: u64) -> Self {
        let memory = Self::default();
        memory.0.lock().bytes = vec![0xee; usize::try_from(size).unwrap()];
        memory
    }

    fn range(bytes: &Range<u64>) -> Range<usize> {
        usize::try_from(bytes.start).unwrap()..usize::try_from(bytes.end).unwrap()
    }
}

impl Source for Memory {
    fn size(&self) -> u64 {
        self.0.lock().bytes.len() as u64
    }

    fn sector_size(&self) -> u32 {
        if self.0.lock().has_large_sectors { 4096 } else { 512 }
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        assert_eq!(bytes.as_ptr().align_offset(4096), 0);
        let disk = self.0.lock();
        if disk.fails_at.is_some_and(|at| offset >= at) {
            let source = io::Error::from_raw_os_error(nix::libc::EIO);
            return Err(Error::Read { device: "/dev/source".into(), offset, source });
        }
        bytes.copy_from_slice(&disk.bytes[Self::range(&(offset..offset + bytes.len() as u64))]);
        Ok(())
    }
}

impl Target for Memory {
    fn size(&self) -> u64 {
        Source::size(self)
    }

    fn sector_size(&self) -> u32 {
        Source::sector_size(self)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut disk = self.0.lock();
        if disk.fails_at.is_some_and(|at| offset >= at) {
            let source = io::Error::from_raw_os_error(nix::libc::ENOSPC);
            return Err(Error::Write { device: "/dev/target".into(), offset, source });
        }
        let range = offset..offset + bytes.len() as u64;
        disk.bytes[Self::range(&range)].copy_from_slice(bytes);
        disk.written.push(range);
        Ok(())
    }

    fn zero(&mut self, bytes: Range<u64>) -> Result<(), Error> {
        let mut disk = self.0.lock();
        disk.bytes[Self::range(&bytes)].fill(0);
        disk.zeroed.push(bytes);
        Ok(())
    }

    fn wipe_signatures(&mut self, from: u64) -> Result<(), Error> {
        self.0.lock().wiped = Some(from);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.0.lock().flushes += 1;
        Ok(())
    }
}

/// Remembers what was stored.
#[derive(Default)]
struct Stored(Vec<Gib>);

#[async_trait::async_trait]
impl Progress for Stored {
    async fn store(&mut self, copied: Gib) -> Result<()> {
        self.0.push(copied);
        Ok(())
    }
}

fn job(source_size: u64) -> Job {
    Job {
        source_size,
        start: Gib(0),
        tail: Tail::Zero,
        zeroed_target: false,
        edit: None,
        rates: Vec::new(),
        meter: Meter::default(),
    }
}

/// Runs a copy as a task does. `stop`: it is asked to stop after this time.
async fn run(job: Job, source: &Memory, target: &Memory, stop: Option<Duration>) -> Result<Vec<Gib>, Error> {
    run_with(job, Box::new(source.clone()), Box::new(target.clone()), stop).await
}

async fn run_with(
    job: Job,
    source: Box<dyn Source>,
    target: Box<dyn Target>,
    stop: Option<Duration>,
) -> Result<Vec<Gib>, Error> {
    let (tasks, work) = (Tasks::default(), async move |handle: Handle| {
        if let Some(after) = stop {
            let cancel = handle.cancel.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                cancel.cancel();
            });
        }
        let mut stored = Stored::default();
        let result = job.run(source, target, &handle, "CreateVolume", &mut stored).await;
        Ok(result.map(|()| stored.0))
    });
    tasks.run("v", "create", Duration::from_secs(600), work).await.unwrap()
}

/// A device whose closing blocks.
struct Open {
    memory: Memory,
    /// How often one was closed on a thread of the runtime, and elsewhere.
    closed: Arc<Mutex<[usize; 2]>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.closed.lock()[usize::from(tokio::runtime::Handle::try_current().is_err())] += 1;
    }
}

impl Source for Open {
    fn size(&self) -> u64 {
        Source::size(&self.memory)
    }

    fn sector_size(&self) -> u32 {
        Source::sector_size(&self.memory)
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.memory.read(offset, bytes)
    }
}

/// Whether the copy succeeds, is rejected before it begins, or fails.
#[tokio::test]
async fn devices_are_closed_on_threads_for_blocking_work() {
    for (larger, fails_at) in [(0, None), (1, None), (0, Some(0))] {
        let (memory, closed) = (source(), Arc::default());
        memory.0.lock().fails_at = fails_at;
        let size = Source::size(&memory);
        let (target, open) = (Memory::used(size), Open { memory, closed: Arc::clone(&closed) });
        let work = |handle: crate::tasks::Handle| async move {
            let (job, mut stored) = (job(size + larger), Stored::default());
            Ok(job.run(Box::new(open), Box::new(target), &handle, "CreateVolume", &mut stored).await)
        };
        let copied = Tasks::default().run("v", "create", Duration::from_secs(600), work).await.unwrap();
        assert_eq!(copied.is_ok(), (larger, fails_at) == (0, None), "{copied:?}");
        assert_eq!(*closed.lock(), [0, 1], "{copied:?}");
    }
}

/// Four chunks and a half, the second of them of zeros.
fn source() -> Memory {
    let memory = Memory::default();
    let chunk = usize::try_from(CHUNK).unwrap();
    let mut bytes: Vec<u8> = (0..chunk * 9 / 2).map(|at| u8::try_from(at % 251).unwrap()).collect();
    bytes[chunk..2 * chunk].fill(0);
    memory.0.lock().bytes = bytes;
    memory
}

#[tokio::test]
async fn every_byte_is_copied_and_the_tail_reads_as_zeros() {
    let source = source();
    let (size, larger) = (Source::size(&source), 6 * CHUNK);
    let target = Memory::used(larger);
    let job = job(size);
    let meter = job.meter.clone();
    run(job, &source, &target, None).await.unwrap();
    let (source, target) = (source.0.lock(), target.0.lock());
    assert_eq!(target.bytes[..source.bytes.len()], source.bytes);
    assert!(target.bytes[source.bytes.len()..].iter().all(|&byte| byte == 0));
    assert_eq!(target.zeroed, [CHUNK..2 * CHUNK, size..larger], "zeros are not written byte for byte");
    assert_eq!((target.flushes, target.wiped), (1, None));
    let measured = meter.measured();
    assert_eq!((measured.done, measured.total), (larger, larger));
}

#[tokio::test]
async fn zeros_are_skipped_only_on_a_zeroed_target() {
    let source = source();
    let size = Source::size(&source);
    let target = Memory::used(size);
    run(Job { zeroed_target: true, ..job(size) }, &source, &target, None).await.unwrap();
    let target = target.0.lock();
    assert_eq!(target.zeroed, []);
    assert_eq!(target.bytes[usize::try_from(CHUNK).unwrap()], 0xee);
}

/// Blocks of zeros between data, of sizes around those that count.
#[allow(clippy::single_range_in_vec_init, reason = "one range was zeroed")]
#[tokio::test]
async fn small_blocks_of_zeros_are_skipped_but_only_large_ones_are_zeroed() {
    const KIB: usize = 1024;
    let source = Memory::default();
    let mut bytes = vec![7; 2 * usize::try_from(CHUNK).unwrap() + 512];
    // Over the end of a chunk, aligned and not; a block; less than a block.
    for hole in [3 << 20..6 << 20, 0..64 * KIB, 128 * KIB..191 * KIB, (1 << 20) + 512..(3 << 20) - 512] {
        bytes[hole].fill(0);
    }
    source.0.lock().bytes = bytes.clone();
    let size = Source::size(&source);
    let target = Memory::used(size);
    run(job(size), &source, &target, None).await.unwrap();
    assert!(target.0.lock().bytes == bytes);
    assert_eq!(target.0.lock().zeroed, [3 << 20..6 << 20]);

    let target = Memory::default();
    target.0.lock().bytes = vec![0; bytes.len()];
    run(Job { zeroed_target: true, ..job(size) }, &source, &target, None).await.unwrap();
    let target = target.0.lock();
    assert!(target.bytes == bytes);
    let skipped: u64 = size - target.written.iter().map(|range| range.end - range.start).sum::<u64>();
    // The block at the beginning, the three MiB, and of those that are not aligned the whole blocks within.
    assert_eq!((target.zeroed.len(), skipped), (0, (64 << 10) + (3 << 20) + (2 << 20) - 2 * (64 << 10)));
}

#[tokio::test]
async fn zeros_are_written_with_few_calls() {
    let (chunk, source) = (usize::try_from(CHUNK).unwrap(), Memory::default());
    source.0.lock().bytes = vec![0; 20 * chunk + 512];
    source.0.lock().bytes[18 * chunk..19 * chunk].fill(7);
    let size = Source::size(&source);
    let target = Memory::used(size);
    run(job(size), &source, &target, None).await.unwrap();
    let target = target.0.lock();
    assert!(target.bytes == source.0.lock().bytes);
    assert_eq!(target.zeroed, [0..16 * CHUNK, 16 * CHUNK..18 * CHUNK, 19 * CHUNK..size]);
}

#[tokio::test]
async fn the_tail_of_a_filesystem_loses_its_signatures() {
    let source = source();
    let size = Source::size(&source);
    let target = Memory::used(6 * CHUNK);
    run(Job { tail: Tail::WipeSignatures, ..job(size) }, &source, &target, None).await.unwrap();
    assert_eq!(target.0.lock().wiped, Some(size));
    let target = Memory::used(size);
    run(Job { tail: Tail::WipeSignatures, ..job(size) }, &source, &target, None).await.unwrap();
    assert_eq!(target.0.lock().wiped, None, "nothing is beyond the source");
}

#[tokio::test]
async fn wrong_sizes_are_errors_before_anything_is_written() {
    let source = source();
    let size = Source::size(&source);
    let target = Memory::used(size - 512);
    let error = run(job(size), &source, &target, None).await.unwrap_err();
    assert!(matches!(error, Error::TargetTooSmall { .. }), "{error}");
    for expected in [size - 512, size + 512] {
        let error = run(job(expected), &source, &Memory::used(2 * size), None).await.unwrap_err();
        assert!(matches!(error, Error::SourceSize { .. }), "{error}");
    }
    assert!(target.0.lock().bytes.iter().all(|&byte| byte == 0xee));
}

#[tokio::test]
async fn nothing_is_copied_to_larger_sectors() {
    for (from, to) in [(false, false), (true, true), (true, false), (false, true)] {
        let source = source();
        let target = Memory::used(Source::size(&source));
        source.0.lock().has_large_sectors = from;
        target.0.lock().has_large_sectors = to;
        let copied = run(job(Source::size(&source)), &source, &target, None).await;
        if from || !to {
            copied.unwrap();
            continue;
        }
        let error = quarry_volume::Error::from(copied.unwrap_err());
        assert_eq!(error.reason, Reason::InvalidRequest);
        assert!(error.message.contains("512") && error.message.contains("4096"), "{error}");
        assert_eq!(target.0.lock().bytes, Memory::used(Source::size(&source)).0.lock().bytes);
    }
}

#[tokio::test]
async fn an_error_says_which_device_and_where() {
    let size = Source::size(&source());
    for failing in ["source", "target"] {
        let (source, target) = (source(), Memory::used(size));
        let end = if failing == "source" { &source } else { &target };
        end.0.lock().fails_at = Some(2 * CHUNK);
        let error = run(job(size), &source, &target, None).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("/dev/{failing}")) && text.contains(&(2 * CHUNK).to_string()), "{text}");
        let reason = quarry_volume::Error::from(error).reason;
        assert_eq!(reason, if failing == "source" { Reason::Unavailable } else { Reason::NoSpace });
    }
}

#[test]
fn a_full_target_is_not_a_failed_one() {
    use nix::libc::{EDQUOT, EIO, ENOSPC};
    for (errno, expected) in [(ENOSPC, Reason::NoSpace), (EDQUOT, Reason::NoSpace), (EIO, Reason::Host)] {
        let (path, io) = (PathBuf::from("/dev/target"), || io::Error::from_raw_os_error(errno));
        for error in [
            Error::Write { device: path.clone(), offset: 7, source: io() },
            Error::Flush { device: path.clone(), source: io() },
            Error::Zero(quarry_filesystem::Error::Io { attempted: "zero", path: path.clone(), source: io() }),
        ] {
            let error = quarry_volume::Error::from(error);
            assert_eq!(error.reason, expected, "{error}");
            assert!(error.message.contains("/dev/target"), "{error}");
            assert_eq!(error.message.contains("is full"), expected == Reason::NoSpace, "{error}");
        }
    }
}

#[tokio::test]
async fn bytes_are_changed_on_the_way() {
    let source = source();
    let size = Source::size(&source);
    let target = Memory::used(size);
    let edit: Edit = Arc::new(|offset, bytes| {
        assert_eq!(offset % CHUNK, 0);
        bytes[0] = 0xaa;
        Ok(())
    });
    run(Job { edit: Some(edit), zeroed_target: true, ..job(size) }, &source, &target, None).await.unwrap();
    let chunk = usize::try_from(CHUNK).unwrap();
    assert!(target.0.lock().bytes.iter().step_by(chunk).all(|&byte| byte == 0xaa), "also in a chunk of zeros");
    let edit: Edit = Arc::new(|_, _| {
        Err(quarry_filesystem::Error::Uncopyable { kind: quarry_volume::Filesystem::Btrfs, why: "it is damaged" })
    });
    let error = run(Job { edit: Some(edit), ..job(size) }, &source, &target, None).await.unwrap_err();
    assert_eq!(quarry_volume::Error::from(error).reason, Reason::Precondition);
}

#[allow(clippy::single_range_in_vec_init, reason = "one range was written")]
#[tokio::test]
async fn a_slow_copy_can_be_stopped_and_goes_on_from_there() {
    // A source without bytes of its own: 3 GiB and a half.
    struct Long;
    impl Source for Long {
        fn size(&self) -> u64 {
            7 << 29
        }
        fn sector_size(&self) -> u32 {
            512
        }
        fn read(&mut self, _: u64, bytes: &mut [u8]) -> Result<(), Error> {
            bytes.fill(0);
            Ok(())
        }
    }
    #[derive(Clone, Default)]
    struct Counting(Arc<Mutex<Vec<Range<u64>>>>);
    impl Target for Counting {
        fn size(&self) -> u64 {
            7 << 29
        }
        fn sector_size(&self) -> u32 {
            512
        }
        fn write(&mut self, _: u64, _: &[u8]) -> Result<(), Error> {
            panic!("only zeros are read");
        }
        fn zero(&mut self, bytes: Range<u64>) -> Result<(), Error> {
            let mut all = self.0.lock();
            match all.last_mut().filter(|last| last.end == bytes.start) {
                Some(last) => last.end = bytes.end,
                None => all.push(bytes),
            }
            Ok(())
        }
        fn wipe_signatures(&mut self, _: u64) -> Result<(), Error> {
            Ok(())
        }
        fn flush(&mut self) -> Result<(), Error> {
            Ok(())
        }
    }
    let target = Counting::default();
    let slow = Job { rates: vec![Rate::new(u64::MAX), Rate::new(1)], ..job(7 << 29) };
    let error = run_with(slow, Box::new(Long), Box::new(target.clone()), Some(Duration::from_millis(50))).await;
    assert!(matches!(error, Err(Error::Stopped { .. })));
    assert_eq!(*target.0.lock(), [0..CHUNK], "the first chunk has nothing to wait for");
    target.0.lock().clear();
    let rest = Job { start: Gib(2), ..job(7 << 29) };
    run_with(rest, Box::new(Long), Box::new(target.clone()), None).await.unwrap();
    assert_eq!(*target.0.lock(), [2 << 30..7 << 29]);
}

/// Loop devices. Run by hand as root: `cargo test -p quarry-node --lib copy -- --ignored --nocapture`.
mod as_root {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    use quarry_exec::Command;

    use super::*;

    struct Loop {
        device: PathBuf,
        _keep: tempfile::TempDir,
    }

    async fn output(command: Command) -> String {
        String::from_utf8(command.run().await.unwrap().require_success().unwrap().stdout).unwrap()
    }

    impl Loop {
        async fn new(size: u64) -> Self {
            let keep = tempfile::tempdir().unwrap();
            let image = keep.path().join("image");
            File::create(&image).unwrap().set_len(size).unwrap();
            let device = output(Command::query("losetup").args(["-f", "--show"]).arg(&image)).await;
            Self { device: PathBuf::from(device.trim()), _keep: keep }
        }

        async fn remove(self) {
            output(Command::query("losetup").arg("-d").arg(&self.device)).await;
        }
    }

    fn fill(device: &Path, size: u64) {
        let file = File::options().write(true).open(device).unwrap();
        for offset in (0..size).step_by(1 << 20) {
            // Every fourth MiB is a hole, and so is every fourth chunk.
            let hole = offset >> 20 & 3 == 3 || offset / CHUNK % 4 == 2;
            let bytes = vec![if hole { 0 } else { u8::try_from(offset >> 20 & 0x7f).unwrap() + 1 }; 1 << 20];
            file.write_all_at(&bytes, offset).unwrap();
        }
        file.sync_all().unwrap();
    }

    fn read(device: &Path, size: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        File::open(device).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    async fn copy(job: Job, from: &Path, to: &Path) {
        let (source, target) = (DeviceSource::open(from).unwrap(), DeviceTarget::open(to).unwrap());
        run_with(job, Box::new(source), Box::new(target), None).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "needs root and loop devices"]
    async fn a_device_is_copied_to_a_larger_one() {
        let (size, larger) = (98 << 20, 160 << 20);
        let (source, target) = (Loop::new(size).await, Loop::new(larger).await);
        fill(&source.device, size);
        for tail in [Tail::Zero, Tail::WipeSignatures] {
            let used = File::options().write(true).open(&target.device).unwrap();
            used.write_all_at(&vec![0xee; usize::try_from(larger).unwrap()], 0).unwrap();
            drop(used);
            copy(Job { tail, ..job(size) }, &source.device, &target.device).await;
            let copied = read(&target.device, larger);
            let (copied, beyond) = copied.split_at(usize::try_from(size).unwrap());
            assert!(copied == read(&source.device, size));
            let old = beyond.iter().filter(|&&byte| byte == 0xee).count();
            assert!(beyond[beyond.len() - (4 << 20)..].iter().all(|&byte| byte == 0));
            assert_eq!(old > 0, tail == Tail::WipeSignatures);
        }
        let held = DeviceTarget::open(&target.device).unwrap();
        let error = DeviceTarget::open(&target.device).err().unwrap();
        assert_eq!(quarry_volume::Error::from(error).reason, Reason::UnderWay);
        drop(held);
        source.remove().await;
        target.remove().await;
    }

    #[tokio::test]
    #[ignore = "needs root and loop devices"]
    async fn a_copy_is_about_as_fast_as_dd() {
        let size = 512 << 20;
        let (source, target) = (Loop::new(size).await, Loop::new(size).await);
        let file = File::options().write(true).open(&source.device).unwrap();
        for offset in (0..size).step_by(1 << 20) {
            file.write_all_at(&[7; 1 << 20], offset).unwrap();
        }
        file.sync_all().unwrap();
        let (mut ours, mut dds) = (Duration::MAX, Duration::MAX);
        for _ in 0..3 {
            let begin = Instant::now();
            let dd = Command::query("dd").arg(format!("if={}", source.device.display()));
            let dd = dd.arg(format!("of={}", target.device.display())).deadline(Duration::from_secs(600));
            output(dd.args(["bs=4M", "iflag=direct", "oflag=direct", "conv=fsync"])).await;
            dds = dds.min(begin.elapsed());
            let begin = Instant::now();
            copy(job(size), &source.device, &target.device).await;
            ours = ours.min(begin.elapsed());
        }
        let ratio = dds.as_secs_f64() / ours.as_secs_f64();
        println!("{ratio:.2} times as fast as dd");
        assert!(ratio > 0.5, "{ratio:.2} times as fast as dd");
        source.remove().await;
        target.remove().await;
    }
}
