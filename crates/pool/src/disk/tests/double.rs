//! Disks made of files, with the real code for claims.

mod handle;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quarry_disk::claim::{Claim, Sectors};
use quarry_disk::{
    Assignment, Disk, ExclusiveOpen, FindError, FoundDisks, HostPaths, Selector, Transport, Udev, Use, assign,
};
use quarry_filesystem::Probe;
use quarry_mount::Device;
use quarry_volume::{Error, Reason, Result};

use self::handle::{Cleaning, Handle};
use crate::disk::disks::{Disks, Held, Opened};
use crate::disk::space::Space;

/// What the simulated blkid detects as foreign data, and where.
pub(super) const SIGNATURE: (u64, &[u8]) = (1080, b"FOREIGN!!");

/// A host whose disks are files. All clones share the same disks.
#[derive(Clone, Default)]
pub(super) struct Host {
    state: Arc<Mutex<State>>,
}

type Operation = Box<dyn FnOnce(&Host) + Send>;

#[derive(Default)]
struct State {
    disks: HashMap<u64, Slot>,
    /// The number of writes, flushes and ioctls until the process is killed.
    budget: Option<usize>,
    operations: usize,
    /// The number of ranges that were zeroed.
    zeroed: usize,
    probes: usize,
    /// Runs just before the next disk is held.
    before_hold: Option<Operation>,
    /// Runs just before a disk is opened for writing the next time.
    before_write: Option<Operation>,
    /// Runs just before a held disk is zeroed the next time.
    before_zero: Option<Operation>,
    /// Runs just before the next read of that disk at that offset.
    before_read: Option<(u64, u64, Operation)>,
    /// Runs just after the next write to that disk at that offset.
    after_write: Option<(u64, u64, Operation)>,
}

/// A disk.
struct Slot {
    disk: Disk,
    file: Arc<File>,
    pulled: bool,
    unreadable: bool,
    /// How long a read takes that then fails.
    fails_after: Option<Duration>,
    unwritable: bool,
    hangs: bool,
    /// Whether blkid gets no answer from it.
    unresponsive: bool,
    /// Whether it supports discard.
    discards: bool,
    /// Whether it is held exclusively, by Quarry or by something else.
    held: bool,
    /// Whether the kernel has its partitions, and how often they are open.
    partitions: bool,
    /// The length of its partition of the volume.
    length: u64,
    /// Whether bytes after its volume are being cleaned.
    cleaning: bool,
    opened: usize,
    caches_dropped: usize,
    /// The page cache, where it differs from the disk: offsets, and the bytes that reads return.
    cached: Vec<(u64, Vec<u8>)>,
    /// Whether its cached pages cannot be dropped.
    keeps_cache: bool,
    /// Whether writes to it block, and whether one is waiting.
    stuck: bool,
    waiting: bool,
}

impl Slot {
    /// Reads through the page cache.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)?;
        for (at, bytes) in &self.cached {
            for (place, byte) in (*at..).zip(bytes) {
                let within = place.checked_sub(offset).and_then(|within| usize::try_from(within).ok());
                if let Some(read) = within.and_then(|within| buffer.get_mut(within)) {
                    *read = *byte;
                }
            }
        }
        Ok(())
    }
}

impl Host {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a blank disk of `mib` MiB with the names `NAME` and, under `by-id`, `x-NAME`. The returned number
    /// is permanent.
    pub(super) fn disk(&self, name: &str, mib: u64) -> u64 {
        let mut state = self.state();
        let number = state.disks.len() as u64 + 1;
        let file = tempfile::tempfile().unwrap();
        file.set_len(mib << 20).unwrap();
        let disk = Disk {
            name: name.to_owned(),
            node: PathBuf::from("/dev").join(name),
            number: Device { major: 8, minor: 16 * number },
            sequence: Some(number),
            model: None,
            serial: None,
            wwn: None,
            by_id: vec![format!("x-{name}")],
            by_path: Vec::new(),
            size: mib << 20,
            logical_sector: 512,
            physical_sector: 4096,
            rotational: false,
            transport: Transport::Virtio,
            read_only: false,
            removable: false,
            zoned: false,
            multipath: false,
            udev: Udev::Current,
            holders: Vec::new(),
            partitions: Vec::new(),
            uses: Vec::new(),
            same_as: Vec::new(),
        };
        let slot = Slot {
            disk,
            file: Arc::new(file),
            pulled: false,
            unreadable: false,
            fails_after: None,
            unwritable: false,
            hangs: false,
            unresponsive: false,
            discards: false,
            held: false,
            partitions: false,
            length: 0,
            cleaning: false,
            opened: 0,
            caches_dropped: 0,
            cached: Vec::new(),
            keeps_cache: false,
            stuck: false,
            waiting: false,
        };
        state.disks.insert(number, slot);
        number
    }

    fn with<T>(&self, number: u64, work: impl FnOnce(&mut Slot) -> T) -> T {
        work(self.state().disks.get_mut(&number).unwrap())
    }

    pub(super) fn change(&self, number: u64, change: impl FnOnce(&mut Disk)) {
        self.with(number, |slot| change(&mut slot.disk));
    }

    pub(super) fn set_use(&self, number: u64, how: quarry_disk::How) {
        self.change(number, |disk| disk.uses = vec![Use { device: disk.name.clone(), how }]);
    }

    pub(super) fn set_held(&self, number: u64, held: bool) {
        self.with(number, |slot| slot.held = held);
    }

    /// Makes reads of the disk hang, or ends that.
    pub(super) fn set_hanging(&self, number: u64, hangs: bool) {
        self.with(number, |slot| slot.hangs = hangs);
    }

    /// Makes blkid wait for the disk, or ends that.
    pub(super) fn set_unresponsive(&self, number: u64, unresponsive: bool) {
        self.with(number, |slot| slot.unresponsive = unresponsive);
    }

    pub(super) fn set_discards(&self, number: u64) {
        self.with(number, |slot| slot.discards = true);
    }

    pub(super) fn set_unwritable(&self, number: u64, unwritable: bool) {
        self.with(number, |slot| slot.unwritable = unwritable);
    }

    pub(super) fn set_unreadable(&self, number: u64) {
        self.with(number, |slot| slot.unreadable = true);
    }

    /// Makes each read of the disk take this long and fail, or ends that.
    pub(super) fn set_failing_slowly(&self, number: u64, after: Option<Duration>) {
        self.with(number, |slot| slot.fails_after = after);
    }

    /// Makes writes to the disk hang, or ends that.
    pub(super) fn set_stuck(&self, number: u64, stuck: bool) {
        self.with(number, |slot| (slot.stuck, slot.waiting) = (stuck, false));
    }

    /// Whether a write is waiting.
    pub(super) fn is_stuck(&self, number: u64) -> bool {
        self.with(number, |slot| slot.waiting)
    }

    /// How often the volume's partition is open, and how often the disk's cache was dropped.
    pub(super) fn open_and_dropped(&self, number: u64) -> (usize, usize) {
        self.with(number, |slot| (slot.opened, slot.caches_dropped))
    }

    /// Simulates another program that opens the volume's partition, or closes it.
    pub(super) fn open_partition(&self, number: u64, open: bool) {
        self.with(number, |slot| if open { slot.opened += 1 } else { slot.opened -= 1 });
    }

    pub(super) fn pull(&self, number: u64) {
        self.with(number, |slot| (slot.pulled, slot.partitions) = (true, false));
    }

    /// Puts a disk back, with another name and as a new disk of the kernel.
    pub(super) fn put_back(&self, number: u64, name: &str) {
        self.with(number, |slot| {
            slot.pulled = false;
            slot.disk.name = name.to_owned();
            slot.disk.sequence = slot.disk.sequence.map(|sequence| sequence + 1000);
        });
    }

    /// Simulates a reboot: the kernel's partitions come from the table.
    pub(super) fn reboot(&self) {
        let mut state = self.state();
        (state.budget, state.before_hold, state.before_write) = (None, None, None);
        for slot in state.disks.values_mut() {
            let mut mark = [0; 2];
            slot.file.read_exact_at(&mut mark, 510).unwrap();
            (slot.held, slot.opened, slot.partitions) = (false, 0, mark == [0x55, 0xaa]);
            slot.length = length_in_table(&slot.file);
            slot.cleaning = false;
            slot.cached.clear();
        }
    }

    /// The hypervisor gives the disk another size. New bytes are a former owner's.
    pub(super) fn resize(&self, number: u64, mib: u64) {
        self.with(number, |slot| {
            let (from, to) = (slot.disk.size, mib << 20);
            slot.file.set_len(to).unwrap();
            slot.disk.size = to;
            let new = to.saturating_sub(from);
            if new <= 64 << 20 {
                slot.file.write_all_at(&b"secret! ".repeat(new as usize / 8), from).unwrap();
            }
        });
    }

    /// The length of the kernel's partition of the volume.
    pub(super) fn partition_length(&self, number: u64) -> u64 {
        self.with(number, |slot| slot.length)
    }

    /// The process is killed after this many more operations.
    pub(super) fn kill_after(&self, operations: usize) {
        self.state().budget = Some(operations);
    }

    pub(super) fn operations(&self) -> usize {
        self.state().operations
    }

    pub(super) fn zeroed(&self) -> usize {
        self.state().zeroed
    }

    pub(super) fn probes(&self) -> usize {
        self.state().probes
    }

    pub(super) fn before_write(&self, work: impl FnOnce(&Host) + Send + 'static) {
        self.state().before_write = Some(Box::new(work));
    }

    pub(super) fn before_zero(&self, work: impl FnOnce(&Host) + Send + 'static) {
        self.state().before_zero = Some(Box::new(work));
    }

    pub(super) fn before_hold(&self, work: impl FnOnce(&Host) + Send + 'static) {
        self.state().before_hold = Some(Box::new(work));
    }

    /// Runs this just before the next read of that disk at that offset.
    pub(super) fn before_read(&self, number: u64, offset: u64, work: impl FnOnce(&Host) + Send + 'static) {
        self.state().before_read = Some((number, offset, Box::new(work)));
    }

    /// Runs this just after the next write to that disk at that offset.
    pub(super) fn after_write(&self, number: u64, offset: u64, work: impl FnOnce(&Host) + Send + 'static) {
        self.state().after_write = Some((number, offset, Box::new(work)));
    }

    /// Another host writes to the disk. The page cache of this host keeps what it has.
    pub(super) fn write_elsewhere(&self, number: u64, offset: u64, bytes: &[u8]) {
        let cached = self.peek(number, offset, bytes.len());
        self.poke(number, offset, bytes);
        self.with(number, |slot| slot.cached.push((offset, cached)));
    }

    /// Makes the kernel keep the cached pages of the disk.
    pub(super) fn set_keeping_cache(&self, number: u64) {
        self.with(number, |slot| slot.keeps_cache = true);
    }

    pub(super) fn poke(&self, number: u64, offset: u64, bytes: &[u8]) {
        self.with(number, |slot| slot.file.write_all_at(bytes, offset).unwrap());
    }

    pub(super) fn peek(&self, number: u64, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.with(number, |slot| slot.file.read_exact_at(&mut bytes, offset).unwrap());
        bytes
    }

    /// The complete contents of the disk.
    pub(super) fn image(&self, number: u64) -> Vec<u8> {
        let size = self.with(number, |slot| slot.disk.size);
        self.peek(number, 0, size as usize)
    }

    fn spend(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operations += 1;
        match &mut state.budget {
            None => Ok(()),
            Some(0) => Err(io::Error::other("killed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn operation(&self) -> Result<()> {
        self.spend().map_err(|error| Error::host(error.to_string()))
    }

    fn number_of(&self, disk: &Disk) -> Result<u64> {
        let state = self.state();
        let same = |slot: &Slot| !slot.pulled && slot.disk.number == disk.number && slot.disk.sequence == disk.sequence;
        let found = state.disks.iter().find(|(_, slot)| same(slot)).map(|(number, _)| *number);
        found.ok_or_else(|| Error::unavailable(format!("the disk {} is gone", disk.name)))
    }

    fn handle(&self, disk: &Disk, holds: bool) -> Result<Handle> {
        let number = self.number_of(disk)?;
        let (file, size) = self.with(number, |slot| (Arc::clone(&slot.file), slot.disk.size));
        Ok(Handle { host: self.clone(), number, file, size, holds, path: disk.node.clone() })
    }
}

#[async_trait::async_trait]
impl Disks for Host {
    fn find(&self) -> Result<FoundDisks, FindError> {
        let state = self.state();
        let mut disks: Vec<Disk> = Vec::new();
        for slot in state.disks.values().filter(|slot| !slot.pulled) {
            let mut disk = slot.disk.clone();
            if slot.partitions {
                disk.partitions = vec![format!("{}1", disk.name), format!("{}2", disk.name)];
            }
            disks.push(disk);
        }
        disks.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(FoundDisks { disks, failed: Vec::new() })
    }

    fn assign(&self, pools: &[(String, Selector)], disks: &[Disk]) -> Assignment {
        assign(pools, disks, &HostPaths)
    }

    fn read(&self, disk: &Disk) -> Result<Box<dyn Sectors>> {
        let number = self.number_of(disk)?;
        while self.with(number, |slot| slot.hangs) {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Box::new(self.handle(disk, false)?))
    }

    fn write(&self, disk: &Disk) -> Result<Box<dyn Sectors>> {
        let work = self.state().before_write.take();
        if let Some(work) = work {
            work(self);
        }
        Ok(Box::new(self.handle(disk, false)?))
    }

    fn hold(&self, disk: &Disk) -> Result<Arc<dyn Held>> {
        let work = self.state().before_hold.take();
        if let Some(work) = work {
            work(self);
        }
        let handle = self.handle(disk, true);
        let number = self.number_of(disk)?;
        if self.with(number, |slot| std::mem::replace(&mut slot.held, true)) {
            // It is held by something else, so it must not be released.
            std::mem::forget(handle);
            return Err(Error::new(Reason::InUse, "is in use"));
        }
        Ok(Arc::new(handle?))
    }

    fn try_exclusive_open(&self, disk: &Disk) -> ExclusiveOpen {
        match self.number_of(disk).map(|number| self.with(number, |slot| slot.held)) {
            Ok(false) => ExclusiveOpen::Possible,
            _ => ExclusiveOpen::Held,
        }
    }

    async fn probe(&self, disk: &Disk) -> Result<Probe> {
        self.state().probes += 1;
        let number = self.number_of(disk)?;
        while self.with(number, |slot| slot.unresponsive) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (at, signature) = SIGNATURE;
        let mut found = vec![0; signature.len()];
        self.with(number, |slot| slot.read(&mut found, at)).unwrap();
        Ok(match found == signature {
            true => Probe::Other { what: "foreign data".to_owned() },
            false => Probe::Blank,
        })
    }

    fn partition(&self, disk: &Disk, claim: &Claim) -> Result<Option<PathBuf>> {
        let Ok(number) = self.number_of(disk) else { return Ok(None) };
        if self.with(number, |slot| slot.partitions && slot.length > claim.length) {
            return Err(Error::host("the kernel's partition does not match the claim"));
        }
        Ok(self.with(number, |slot| slot.partitions.then(|| PathBuf::from(format!("/dev/{}2", slot.disk.name)))))
    }

    fn drop_cache(&self, disk: &Disk) -> Result<()> {
        let number = self.number_of(disk)?;
        self.with(number, |slot| {
            if slot.keeps_cache {
                return Err(Error::host("the pages cannot be dropped"));
            }
            slot.caches_dropped += 1;
            slot.cached.clear();
            Ok(())
        })
    }

    fn partition_of_damaged(&self, disk: &Disk, claim: &Claim) -> Option<PathBuf> {
        self.partition(disk, claim).ok().flatten()
    }

    fn space(&self, disk: &Disk, bytes: Range<u64>) -> Result<Arc<dyn Space>> {
        let handle = self.handle(disk, false)?;
        if self.with(handle.number, |slot| std::mem::replace(&mut slot.cleaning, true)) {
            return Err(Error::new(Reason::UnderWay, "another process cleans it"));
        }
        Ok(Arc::new(Cleaning { handle, bytes }))
    }

    fn is_short(&self, disk: &Disk, claim: &Claim) -> bool {
        let short = |slot: &mut Slot| slot.partitions && slot.length < claim.length;
        self.number_of(disk).is_ok_and(|number| self.with(number, short))
    }

    fn extend_partition(&self, disk: &Disk, claim: &Claim) -> Result<()> {
        if self.is_short(disk, claim) {
            self.operation()?;
            self.with(self.number_of(disk)?, |slot| slot.length = claim.length);
        }
        Ok(())
    }

    fn add_partitions(&self, disk: &Disk, claim: &Claim) -> Result<(PathBuf, Opened)> {
        self.operation()?;
        let number = self.number_of(disk)?;
        self.with(number, |slot| {
            slot.partitions = true;
            slot.length = claim.length;
            slot.opened += 1;
        });
        let node = self.partition(disk, claim)?.unwrap();
        Ok((node, Box::new(Partition { host: self.clone(), number })))
    }
}

struct Partition {
    host: Host,
    number: u64,
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.host.with(self.number, |slot| slot.opened = slot.opened.saturating_sub(1));
    }
}

/// The length of the second partition in the table at the start of a disk.
fn length_in_table(disk: &File) -> u64 {
    let mut sectors = [0; 16];
    disk.read_exact_at(&mut sectors, 1024 + 128 + 32).unwrap();
    let sector = |at: usize| u64::from_le_bytes(sectors[at..at + 8].try_into().unwrap());
    (sector(8) + 1).saturating_sub(sector(0)) * 512
}
