//! A pool that gives out whole disks: one volume, one disk.
//!
//! A disk is a volume's by the claim that lies on it (docs/disk-format.md), and nothing is kept anywhere else. What is
//! remembered here saves questions, and decides in one direction only: a volume whose disk is pulled while this process
//! runs is lost, and is never said not to exist.

mod carve;
mod change;
mod copies;
mod disks;
mod failures;
mod host;
mod key;
mod list;
mod look;
mod opened;
mod partitions;
mod reader;
mod release;
mod report;
#[cfg(test)]
mod tests;
mod turns;
mod view;
mod wipe;

use parking_lot::{Mutex, MutexGuard};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quarry_disk::claim::{ClaimState, Identity};
use quarry_disk::{Disk, Selector, Udev};
use quarry_volume::{Error, PoolState, Result, StorageId, VolumeSpec, Wipe, safe_name};
use uuid::Uuid;

pub use self::carve::VOLUME_PARTITION;
use self::disks::Disks;
use self::failures::Failures;
use self::host::HostDisks;
use self::key::DiskKey;
pub use self::list::{DiskList, list_disks};
use self::look::Raw;
use self::opened::OpenPartitions;
use self::reader::Reader;
use self::release::Releases;
pub use self::release::Wiping;
pub use self::report::{DiskReport, Owner};
use self::turns::Turns;
use self::view::{Known, View};
use crate::pool::{Device, Reading, Volumes};
use crate::threads::NOTEWORTHY;
use crate::{Health, Heard, Pool, PoolVolume, Record, Recorded, SilentDisk, Uevents};

/// For how long a look is believed where nothing was heard of any disk.
const FRESH: Duration = Duration::from_secs(4);
/// After how long it is asked again what no event tells of: whether a program has let go of a disk that it had to itself,
/// whether one that did not answer does now, and what is on a disk of which udev tells nothing.
const UNTOLD: Duration = Duration::from_secs(60);

/// A pool of kind `disk`.
///
/// Its storage has an identity of its own, which follows from the pool's name: a volume's own storage is its disk, and
/// of a disk that is not there nobody can say whether it was pulled or released. So the whole pool is what has to be
/// read before a volume is said not to exist, and renaming a pool makes its volumes unreachable until it has its name
/// again.
pub struct DiskPool {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    wipe: Wipe,
    /// Those of all pools of disks, by their names.
    selectors: Arc<[(String, Selector)]>,
    disks: Arc<dyn Disks>,
    reader: Reader,
    uevents: Uevents,
    memory: Mutex<Memory>,
    /// Held during a look: callers that come meanwhile share it.
    looking: tokio::sync::Mutex<()>,
    /// Who changes what at this moment.
    changing: Arc<Turns>,
    /// Disks that could not be written when they were to be taken.
    failures: Failures,
    /// Questions to libblkid and the kernel that have not come back.
    judges: look::Judges,
    releases: Releases,
    opened: OpenPartitions,
}

#[derive(Default)]
struct Memory {
    seen: Option<Kept>,
    /// Counts our own changes.
    changes: u64,
    known: Known,
    /// Volumes that were deleted, and how many changes there had been then: a look that began before may still show them.
    deleted: Vec<(Uuid, u64)>,
    read_before: Vec<DiskKey>,
}

#[derive(Clone)]
struct Kept {
    view: Arc<View>,
    heard: Heard,
    changes: u64,
    at: Instant,
    /// What was read, and when what no event tells of was asked last.
    raws: Arc<[Raw]>,
    asked: Instant,
}

impl DiskPool {
    /// Opens the pool: looks at its disks, and goes on with wiping what was deleted. `selectors` are those of all pools of
    /// disks of this node, this one's among them: a disk that two of them mean is none's.
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
            looking: tokio::sync::Mutex::default(),
            changing: Arc::default(),
            failures: Failures::default(),
            judges: look::Judges::default(),
            releases: Releases::default(),
            opened: OpenPartitions::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Every disk of the pool, and what it is to us.
    #[cfg(test)]
    async fn disks(&self) -> Result<Vec<DiskReport>> {
        let view = self.inner.view().await?;
        let report = |seen: &look::PoolDisk| {
            // What is under way here is further than what the disk says.
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

    /// Has the next question look at the disks, whatever is remembered.
    fn invalidate(&self) {
        self.memory().changes += 1;
    }

    /// Says that a disk was changed by us, or may have been.
    fn touched(&self, disk: &Disk) {
        self.uevents.touch(&disk.name);
        self.invalidate();
    }

    /// The disks as they are: from memory where nothing was heard or changed since, else by a look.
    async fn view(self: &Arc<Self>) -> Result<Arc<View>> {
        if let Some(view) = self.remembered() {
            return Ok(view);
        }
        let inner = Arc::clone(self);
        // A task of its own: a look is not given up half-way because the one who asked for it does.
        let look = tokio::spawn(async move {
            let _turn = inner.looking.lock().await;
            match inner.remembered() {
                Some(view) => Ok(view),
                None => inner.look().await,
            }
        });
        look.await
            .unwrap_or_else(|join| Err(Error::host(format!("listing the disks panicked ({join}); please report it"))))
    }

    fn remembered(&self) -> Option<Arc<View>> {
        let heard = self.uevents.heard();
        let memory = self.memory();
        let kept = memory.seen.as_ref()?;
        let same = kept.changes == memory.changes && kept.heard == heard && kept.at.elapsed() < FRESH;
        same.then(|| Arc::clone(&kept.view))
    }

    async fn look(self: &Arc<Self>) -> Result<Arc<View>> {
        let (before, changes, heard, at) = {
            let memory = self.memory();
            (memory.seen.clone(), memory.changes, self.uevents.heard(), Instant::now())
        };
        let asked = before.as_ref().map(|kept| kept.asked).filter(|asked| asked.elapsed() < UNTOLD);
        let anew = asked.is_none();
        // A disk of which udev tells is read when it does, so that one that sleeps is let sleep.
        let told = |raw: &&Raw| !anew || raw.disk.udev == Udev::Told;
        let raws: Vec<Raw> = before.iter().flat_map(|kept| kept.raws.iter()).filter(told).cloned().collect();
        let gathered = {
            let inner = Arc::clone(self);
            blocking(move || {
                look::gather(&inner.disks, &inner.reader, &inner.uevents, &inner.name, &inner.selectors, &raws)
            })
            .await?
        };
        let raws = gathered.own.iter().chain(gathered.others.iter().map(|other| &other.raw)).cloned().collect();
        let earlier = before.iter().flat_map(|kept| &kept.view.disks);
        let stands = |seen: &&look::PoolDisk| !(self.failures.has(&seen.raw.disk) || anew && seen.may_change_untold());
        let earlier: Vec<look::PoolDisk> = earlier.filter(stands).cloned().collect();
        let mut own = look::judge_all(&self.disks, &self.judges, gathered.own, &earlier).await?;
        self.failures.mark(&mut own);
        let gathered =
            look::Gathered { own, others: gathered.others, conflicts: gathered.conflicts, failed: gathered.failed };
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
            let view = Arc::new(view.numbered(number));
            let asked = asked.unwrap_or(at);
            memory.seen = Some(Kept { view: Arc::clone(&view), heard, changes, at, raws, asked });
            view
        };
        // A disk that was pulled shall not be kept by us. To close it may take the kernel a while.
        let gone = self.opened.take_gone(|guid| view.claim(guid).is_some());
        if !gone.is_empty() {
            drop(tokio::task::spawn_blocking(move || drop(gone)));
        }
        self.go_on_releasing(&view);
        Ok(view)
    }
}

/// Whether a storage is that of a pool of whole disks of this name: its volumes are partitions, not logical volumes.
#[must_use]
pub fn is_of_disks(pool: &str, storage: &StorageId) -> bool {
    view::storage(pool) == *storage
}

/// Runs what blocks (reading disks, ioctls) where it may block.
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
            ..PoolState::default()
        };
        let view = match self.inner.view().await {
            Ok(view) => view,
            Err(error) => {
                state.space.closed = Some(error.message.clone());
                state.problems.push(error.message);
                return Reading { state, mark: 0, volumes: Volumes::Unreadable };
            }
        };
        state.size = view.size();
        state.space = view.space(name, |disk| self.inner.changing.is_reserved(disk));
        state.problems = view.problems.iter().cloned().chain(self.inner.releases.problems()).collect();
        state.problems.extend(self.inner.failures.problems());
        state.problems.extend(self.inner.changing.overdue());
        if view.complete(name).is_err() {
            return Reading { state, mark: 0, volumes: Volumes::Unreadable };
        }
        state.storage = Some(view::storage(name));
        state.volumes = u64::try_from(view.volumes().count()).unwrap_or(u64::MAX);
        let volumes = match known == Some(view.number) {
            true => Volumes::Same,
            false => Volumes::All(view.volumes().cloned().collect()),
        };
        Reading { state, mark: view.number, volumes }
    }

    fn uevents(&self) -> &Uevents {
        &self.inner.uevents
    }

    fn changing(&self) -> bool {
        self.inner.changing.is_taken()
    }

    fn last_storage(&self) -> Option<StorageId> {
        // It follows from the pool's name.
        Some(view::storage(&self.inner.name))
    }

    fn silent_disks(&self) -> Vec<SilentDisk> {
        self.inner.reader.silent(NOTEWORTHY)
    }

    async fn volumes(&self) -> Result<Vec<PoolVolume>> {
        let view = self.inner.view().await?;
        view.complete(&self.inner.name)?;
        Ok(view.volumes().cloned().collect())
    }

    async fn volume(&self, name: &str) -> Result<Option<PoolVolume>> {
        self.inner.view().await?.volume(&self.inner.name, name, true)
    }

    async fn asked(&self, name: &str) -> Result<Option<PoolVolume>> {
        // Half a claim was never handed out: it is not what an interrupted creation left.
        let found = self.inner.view().await?.volume(&self.inner.name, &safe_name(name), false)?;
        // Its record may be lost, and its name is taken all the same.
        if let Some(PoolVolume {
            health: Health::Lost(why), record: Recorded::Broken(_) | Recorded::Newer(_), ..
        }) = &found
        {
            return Err(Error::unavailable(format!("pool {}: {why}", self.inner.name)));
        }
        let found = found.filter(|volume| volume.record().is_ok_and(|record| record.name == name));
        // The caller is about to answer that it is there. One that is lost is not answered for.
        if let Some(volume) = found.as_ref().filter(|volume| !matches!(volume.health, Health::Lost(_))) {
            self.inner.settle(volume).await?;
        }
        Ok(found)
    }

    async fn storage(&self) -> Result<StorageId> {
        // Whether all of it can be read is asked where it matters: a volume that is there can be used all the same.
        self.inner.view().await?;
        Ok(view::storage(&self.inner.name))
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
            None => self.inner.fitting(&view, spec).map(|(size, _)| size),
        }
    }

    async fn carve(&self, spec: &VolumeSpec) -> Result<PoolVolume> {
        self.inner.carve(spec).await
    }

    async fn activate(&self, volume: &PoolVolume) -> Result<Device> {
        self.inner.activate(volume).await.map(Device::Node)
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

    async fn remove(&self, volume: &PoolVolume) -> Result<()> {
        self.inner.remove(volume).await
    }

    fn wiping(&self) -> Vec<(String, Wiping)> {
        self.inner.releases.all()
    }
}
