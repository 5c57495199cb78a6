//! A pool of whole disks: each volume is one disk.
//!
//! The claim written on a disk assigns it to a volume (docs/disk-format.md); no state is kept anywhere else.
//! What this module remembers only saves reads, with one exception: a volume whose disk is pulled while this
//! process runs counts as lost, and never as nonexistent.

mod change;
mod copies;
mod create;
mod disks;
mod expand;
mod failures;
mod host;
mod key;
mod list;
mod locks;
mod opened;
mod partitions;
mod reader;
mod release;
mod report;
mod scan;
mod selection;
mod space;
#[cfg(test)]
mod tests;
mod view;
mod wipe;

use parking_lot::{Mutex, MutexGuard};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quarry_disk::claim::{ClaimState, DiskGuid, Identity};
use quarry_disk::{Disk, Selector, Udev};
use quarry_volume::{
    CowSize, Error, Gib, PoolCapabilities, PoolState, Reason, Result, SizeRange, StorageId, VolumeSpec, Wipe, safe_name,
};

use self::disks::Disks;
use self::failures::Failures;
use self::host::HostDisks;
use self::key::DiskKey;
pub use self::list::{DiskList, list_disks};
use self::locks::VolumeLocks;
use self::opened::OpenPartitions;
pub(crate) use self::partitions::{could_be_volume, discard};
use self::reader::Reader;
use self::release::Releases;
pub use self::report::{DiskReport, Owner};
use self::scan::Raw;
pub(crate) use self::selection::{Selected, Selection};
pub use self::space::DiskSpace;
pub(crate) use self::space::Space;
use self::view::{SeenVolumes, View};
use crate::pool::{Device, Expansion, Reading, Volumes};
use crate::threads::REPORT_AFTER;
use crate::{
    EventCounts, Health, Pool, PoolSnapshot, PoolVolume, Record, Recorded, SnapshotRecord, Uevents, UnresponsiveDisk,
    Wiping,
};

/// How long what was read is used if there was no event for any disk.
const FRESH: Duration = Duration::from_secs(4);
/// How often conditions without events are checked again: whether a program has released a disk that it held,
/// whether an unresponsive disk answers again, and the contents of disks for which udev reports nothing.
const RECHECK: Duration = Duration::from_secs(60);

/// A pool of kind `disk`.
///
/// The identity of its storage is derived from the pool's name. The storage of a volume is its disk, but if
/// the disk is absent, nothing shows whether it was pulled or released. So the whole pool must be read before
/// a volume counts as nonexistent, and renaming a pool makes its volumes unreachable until it has its old
/// name again.
pub struct DiskPool {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    wipe: Wipe,
    /// The selectors of all disk pools, with the names of their pools.
    selectors: Arc<[(String, Selector)]>,
    disks: Arc<dyn Disks>,
    reader: Reader,
    uevents: Uevents,
    memory: Mutex<Memory>,
    /// Held during a scan: concurrent callers share it.
    scanning: tokio::sync::Mutex<()>,
    /// The locks of the volumes that are being changed.
    locks: Arc<VolumeLocks>,
    /// Disks that could not be written when they were to be claimed.
    failures: Failures,
    /// Pending queries to libblkid and the kernel.
    queries: scan::Queries,
    releases: Releases,
    opened: OpenPartitions,
}

#[derive(Default)]
struct Memory {
    seen: Option<CachedView>,
    /// Counts Quarry's own changes.
    changes: u64,
    known: SeenVolumes,
    /// Deleted volumes, with the number of changes at that time: a scan that started earlier may still show
    /// them.
    deleted: Vec<(DiskGuid, u64)>,
    read_before: Vec<DiskKey>,
}

#[derive(Clone)]
struct CachedView {
    view: Arc<View>,
    counts: EventCounts,
    changes: u64,
    at: Instant,
    /// What was read, and when conditions without events were last checked.
    raws: Arc<[Raw]>,
    asked: Instant,
}

impl DiskPool {
    /// Opens the pool: reads its disks, and resumes wiping deleted volumes. `selectors` are those of all disk
    /// pools of this node, including this one: a disk that two of them match belongs to neither.
    pub async fn open(
        name: impl Into<String>,
        wipe: Wipe,
        selectors: Arc<[(String, Selector)]>,
        uevents: Uevents,
    ) -> Self {
        let pool = Self::over(Arc::new(HostDisks::new()), name.into(), wipe, selectors, uevents);
        if let Err(error) = pool.inner.view().await {
            tracing::warn!(pool = pool.inner.name, %error, "the pool is not available");
        }
        pool
    }

    fn over(
        disks: Arc<dyn Disks>,
        name: String,
        wipe: Wipe,
        selectors: Arc<[(String, Selector)]>,
        uevents: Uevents,
    ) -> Self {
        let inner = Inner {
            name,
            wipe,
            selectors,
            disks,
            reader: Reader::default(),
            uevents,
            memory: Mutex::default(),
            scanning: tokio::sync::Mutex::default(),
            locks: Arc::default(),
            failures: Failures::default(),
            queries: scan::Queries::default(),
            releases: Releases::default(),
            opened: OpenPartitions::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Every disk of the pool, with its state.
    #[cfg(test)]
    async fn disks(&self) -> Result<Vec<DiskReport>> {
        let view = self.inner.view().await?;
        let report = |seen: &scan::PoolDisk| {
            // The release in this process may be further than the progress on the disk.
            let wiping = self.inner.releases.of(&DiskKey::of(&seen.raw.disk));
            let report = DiskReport::of(seen.clone(), Some(Owner::Pool(self.inner.name.clone())));
            DiskReport { wiping: wiping.or(report.wiping), ..report }
        };
        Ok(view.disks.iter().map(report).collect())
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }

    /// Makes the next call read the disks, whatever is cached.
    fn invalidate(&self) {
        self.memory().changes += 1;
    }

    /// Records that Quarry has changed a disk, or may have.
    fn mark_changed(&self, disk: &Disk) {
        self.uevents.count_disk(&disk.name);
        self.invalidate();
    }

    /// The current disks: cached if there was no event and no change since, otherwise from a new scan.
    async fn view(self: &Arc<Self>) -> Result<Arc<View>> {
        if let Some(view) = self.cached() {
            return Ok(view);
        }
        let inner = Arc::clone(self);
        // A separate task, so that the scan continues if its caller gives up.
        let scan = tokio::spawn(async move {
            let _guard = inner.scanning.lock().await;
            match inner.cached() {
                Some(view) => Ok(view),
                None => inner.scan().await,
            }
        });
        scan.await
            .unwrap_or_else(|join| Err(Error::host(format!("listing the disks panicked ({join}); please report it"))))
    }

    fn cached(&self) -> Option<Arc<View>> {
        let counts = self.uevents.counts();
        let memory = self.memory();
        let kept = memory.seen.as_ref()?;
        let same = kept.changes == memory.changes && kept.counts == counts && kept.at.elapsed() < FRESH;
        same.then(|| Arc::clone(&kept.view))
    }

    async fn scan(self: &Arc<Self>) -> Result<Arc<View>> {
        let (before, changes, counts, at) = {
            let memory = self.memory();
            (memory.seen.clone(), memory.changes, self.uevents.counts(), Instant::now())
        };
        let asked = before.as_ref().map(|kept| kept.asked).filter(|asked| asked.elapsed() < RECHECK);
        let recheck = asked.is_none();
        // A disk for which udev reports events is read only after one, so that a sleeping disk is not woken
        // up.
        let is_current = |raw: &&Raw| !recheck || raw.disk.udev == Udev::Current;
        let raws: Vec<Raw> = before.iter().flat_map(|kept| kept.raws.iter()).filter(is_current).cloned().collect();
        let gathered = {
            let inner = Arc::clone(self);
            blocking(move || {
                scan::gather(&inner.disks, &inner.reader, &inner.uevents, &inner.name, &inner.selectors, &raws)
            })
            .await?
        };
        let raws = gathered.own.iter().chain(gathered.others.iter().map(|other| &other.raw)).cloned().collect();
        let earlier = before.iter().flat_map(|kept| &kept.view.disks);
        let is_valid = |seen: &&scan::PoolDisk| {
            !(self.failures.contains(&seen.raw.disk) || recheck && seen.may_change_without_event())
        };
        let earlier: Vec<scan::PoolDisk> = earlier.filter(is_valid).cloned().collect();
        let mut own = scan::determine_states(&self.disks, &self.queries, gathered.own, &earlier).await?;
        self.failures.mark(&mut own);
        let gathered =
            scan::Gathered { own, others: gathered.others, conflicts: gathered.conflicts, failed: gathered.failed };
        let view = {
            let mut memory = self.memory();
            let Memory { known, read_before, deleted, .. } = &mut *memory;
            let view = View::of(&self.name, gathered, known, read_before);
            deleted.retain(|(_, when)| *when >= changes);
            for (guid, _) in deleted.iter() {
                known.remove(guid);
            }
            let number = match &before {
                Some(kept) if kept.view.same_volumes(&view) => kept.view.number,
                Some(kept) => kept.view.number + 1,
                None => 1,
            };
            let view = Arc::new(view.with_number(number));
            let asked = asked.unwrap_or(at);
            memory.seen = Some(CachedView { view: Arc::clone(&view), counts, changes, at, raws, asked });
            view
        };
        // Do not keep a pulled disk open. Closing it may take the kernel a while.
        let gone = self.opened.take_gone(|guid| view.claim(guid).is_some());
        if !gone.is_empty() {
            drop(tokio::task::spawn_blocking(move || drop(gone)));
        }
        self.resume_releases(&view, changes);
        Ok(view)
    }
}

/// Runs blocking work (reading disks, ioctls) on a thread for blocking work.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) => Err(Error::host(format!("work on a disk panicked ({join}); please report it"))),
    }
}

#[async_trait::async_trait]
impl Pool for DiskPool {
    fn name(&self) -> &str {
        &self.inner.name
    }

    async fn read(&self, known: Option<u64>) -> Reading {
        let name = &self.inner.name;
        let mut state = PoolState {
            name: name.clone(),
            kind: "disk".to_owned(),
            on: "whole disks".to_owned(),
            // Its storage ID is derived from its name, which other nodes use as well.
            capabilities: PoolCapabilities { wipe: true, ..PoolCapabilities::default() },
            enlarge: "add a disk that its selector matches".to_owned(),
            ..PoolState::default()
        };
        let view = match self.inner.view().await {
            Ok(view) => view,
            Err(error) => {
                state.space.closed = Some(error.message.clone());
                state.problems.push(error.message);
                return Reading { state, mark: 0, volumes: Volumes::Unreadable, snapshots: Vec::new() };
            }
        };
        state.size = view.size();
        state.space = view.space(name, |disk| self.inner.locks.is_reserved(disk));
        state.problems = view.problems.iter().cloned().chain(self.inner.releases.problems()).collect();
        state.problems.extend(self.inner.failures.problems());
        state.problems.extend(self.inner.locks.overdue());
        state.hints = view.hints();
        if view.check_complete(name).is_err() {
            return Reading { state, mark: 0, volumes: Volumes::Unreadable, snapshots: Vec::new() };
        }
        state.storage = Some(view::storage(name));
        state.volumes = u64::try_from(view.volumes().count()).unwrap_or(u64::MAX);
        state.repair = view.repair();
        let volumes = match known == Some(view.number) {
            true => Volumes::Same,
            false => Volumes::All(view.volumes().cloned().collect()),
        };
        Reading { state, mark: view.number, volumes, snapshots: Vec::new() }
    }

    fn uevents(&self) -> &Uevents {
        &self.inner.uevents
    }

    fn changing(&self) -> bool {
        self.inner.locks.is_changing()
    }

    fn last_storage(&self) -> Option<StorageId> {
        // It is derived from the pool's name.
        Some(view::storage(&self.inner.name))
    }

    fn unresponsive_disks(&self) -> Vec<UnresponsiveDisk> {
        self.inner.reader.unresponsive(REPORT_AFTER)
    }

    async fn volumes(&self) -> Result<Vec<PoolVolume>> {
        let view = self.inner.view().await?;
        view.check_complete(&self.inner.name)?;
        Ok(view.volumes().cloned().collect())
    }

    async fn volume(&self, name: &str) -> Result<Option<PoolVolume>> {
        self.inner.view().await?.volume(&self.inner.name, name, true)
    }

    async fn find_requested(&self, name: &str) -> Result<Option<PoolVolume>> {
        // A half-made claim was never handed out, so it does not count as a volume.
        let found = self.inner.view().await?.volume(&self.inner.name, &safe_name(name), false)?;
        // The name is taken even if its record is lost.
        if let Some(PoolVolume {
            health: Health::Lost(why), record: Recorded::Broken(_) | Recorded::Newer(_), ..
        }) = &found
        {
            return Err(Error::unavailable(format!("pool {}: {why}", self.inner.name)));
        }
        // It was found by its name, even if its record does not show that.
        let found = found.filter(|volume| match &volume.record {
            Recorded::Here(record) => record.name == name,
            Recorded::Newer(_) | Recorded::Broken(_) | Recorded::Ambiguous(_) => true,
        });
        // The caller is about to report that the volume exists, so its record must be durable. A lost one is
        // not reported as such.
        if let Some(volume) = found.as_ref().filter(|volume| !matches!(volume.health, Health::Lost(_))) {
            self.inner.repair_record(volume).await?;
        }
        Ok(found)
    }

    async fn storage(&self) -> Result<StorageId> {
        // A volume that is present can be used even if a disk of the pool is unreadable; other calls check
        // that.
        self.inner.view().await?;
        Ok(view::storage(&self.inner.name))
    }

    fn supports(&self, spec: &VolumeSpec) -> Result<()> {
        create::supports(&self.inner.name, spec)
    }

    async fn size_of(&self, spec: &VolumeSpec) -> Result<u64> {
        let view = self.inner.view().await?;
        let resumed = view.disks.iter().find_map(|seen| match &seen.raw.found {
            Ok(ClaimState::HalfClaimed(claim)) if claim.identity == Identity::of(&safe_name(&spec.name)) => {
                Some(claim.length)
            }
            _ => None,
        });
        let range = self.inner.range(spec)?;
        match resumed.filter(|size| range.admits(*size)) {
            Some(size) => Ok(size),
            None => self.inner.smallest_fitting(&view, spec).map(|(size, _)| size),
        }
    }

    async fn create(&self, spec: &VolumeSpec) -> Result<PoolVolume> {
        self.supports(spec)?;
        self.inner.create(spec).await
    }

    async fn activate(&self, volume: &PoolVolume) -> Result<Device> {
        self.inner.activate(volume).await.map(Device::Node)
    }

    fn may_be_active(&self, storage: &StorageId, _name: &str) -> bool {
        // The kernel does not show it, but the pool remembers which partitions it has open.
        view::storage(&self.inner.name) == *storage
    }

    async fn deactivate(&self, volume: &PoolVolume, unused_since: Instant) -> Result<()> {
        self.inner.deactivate(volume, unused_since).await
    }

    fn device(&self, volume: &PoolVolume) -> Result<Option<PathBuf>> {
        self.inner.device(volume)
    }

    async fn set_record(&self, volume: &PoolVolume, record: &Record) -> Result<()> {
        self.inner.set_record(volume, record).await
    }

    async fn reserve_expansion(&self, volume: &PoolVolume, size: &SizeRange) -> Result<Option<Expansion>> {
        self.inner.reserve_expansion(volume, size).await
    }

    async fn set_expansion_zeroed(&self, volume: &PoolVolume, zeroed: Gib) -> Result<()> {
        self.inner.set_expansion_zeroed(volume, zeroed).await
    }

    async fn expand(&self, volume: &PoolVolume, expansion: &Expansion) -> Result<PoolVolume> {
        self.inner.expand(volume, expansion).await
    }

    async fn take_snapshot(
        &self,
        volume: &PoolVolume,
        _record: &SnapshotRecord,
        _cow_size: CowSize,
    ) -> Result<PoolSnapshot> {
        Err(Error::new(
            Reason::Unsupported,
            format!(
                "pool {}: volume {} is a whole disk, which has no space beside its volume for a snapshot: clone the \
                 volume to another disk while no pod uses it",
                self.inner.name, volume.name
            ),
        ))
    }

    async fn check_removable(&self, volume: &PoolVolume) -> Result<()> {
        self.inner.check_removable(volume).await
    }

    async fn remove(&self, volume: &PoolVolume) -> Result<()> {
        self.inner.remove(volume).await
    }

    fn wiping(&self) -> Vec<(String, Wiping)> {
        self.inner.releases.all()
    }
}
