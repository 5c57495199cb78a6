//! A pool that gives out whole disks: one volume, one disk.
//!
//! A disk is a volume's by the claim that lies on it (docs/disk-format.md), and nothing is kept anywhere else. What is
//! remembered here saves questions, and decides in one direction only: a volume whose disk is pulled while this process
//! runs is lost, and is never said not to exist.

mod carve;
mod change;
mod disks;
mod host;
mod list;
mod look;
mod partitions;
mod reader;
mod release;
mod report;
#[cfg(test)]
mod tests;
mod view;
mod wipe;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quarry_disk::claim::{Found, Identity};
use quarry_disk::{Disk, Selector};
use quarry_lvm::safe_name;
use quarry_volume::{Error, PoolState, Result, StorageId, VolumeSpec, Wipe};

use self::disks::{Disks, Opened};
use self::host::HostDisks;
pub use self::list::{DiskList, list_disks};
use self::look::Raw;
use self::reader::Reader;
use self::release::Releases;
pub use self::release::Wiping;
pub use self::report::{DiskReport, Owner};
use self::view::{Known, Place, View};
use crate::pool::{Device, Reading, Volumes};
use crate::{Heard, Pool, PoolVolume, Record, Uevents};

/// For how long a look is believed where nothing was heard of any disk.
const FRESH: Duration = Duration::from_secs(4);
/// For how long what was read from a disk is believed where nothing was heard: the kernel's tables alone are looked at.
const READ: Duration = Duration::from_secs(60);

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
    /// Held while anything on the disks is changed: a disk is judged and taken as one step.
    changing: tokio::sync::Mutex<()>,
    releases: Releases,
    /// The partitions of volumes, by the GUIDs of their disks: see [`Disks::add_partitions`].
    opened: Mutex<HashMap<String, Opened>>,
}

#[derive(Default)]
struct Memory {
    seen: Option<Kept>,
    /// Counts our own changes.
    changes: u64,
    known: Known,
    read_before: Vec<Place>,
}

#[derive(Clone)]
struct Kept {
    view: Arc<View>,
    heard: Heard,
    changes: u64,
    at: Instant,
    /// What was read, and when the oldest of it.
    raws: Arc<[Raw]>,
    read: Instant,
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
            changing: tokio::sync::Mutex::default(),
            releases: Releases::default(),
            opened: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Every disk of the pool, and what it is to us.
    ///
    /// # Errors
    /// `Unavailable` if the host's tables cannot be read.
    pub async fn disks(&self) -> Result<Vec<DiskReport>> {
        let view = self.inner.view().await?;
        let report = |seen: &look::Seen| {
            // What is under way here is further than what the disk says.
            let wiping = self.inner.releases.of(&view::place(&seen.raw.disk));
            let report = DiskReport::of(seen.clone(), Some(Owner::Pool(self.inner.name.clone())));
            DiskReport { wiping: wiping.or(report.wiping), ..report }
        };
        Ok(view.disks.iter().map(report).collect())
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<String, Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
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
        let _turn = self.looking.lock().await;
        if let Some(view) = self.remembered() {
            return Ok(view);
        }
        self.look().await
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
        let (raws, read) = match before.as_ref().filter(|kept| kept.read.elapsed() < READ) {
            Some(kept) => (Arc::clone(&kept.raws), kept.read),
            None => (Arc::default(), at),
        };
        // Nothing tells of it when a program lets a disk go that it had to itself.
        let anew = raws.is_empty();
        let gathered = {
            let inner = Arc::clone(self);
            blocking(move || {
                look::gather(&inner.disks, &inner.reader, &inner.uevents, &inner.name, &inner.selectors, &raws)
            })
            .await?
        };
        let raws = gathered.own.iter().chain(gathered.others.iter().map(|(raw, _)| raw)).cloned().collect();
        let earlier = before.iter().flat_map(|kept| &kept.view.disks);
        let earlier: Vec<look::Seen> = earlier.filter(|seen| !(anew && seen.is_held())).cloned().collect();
        let gathered = look::Gathered {
            own: look::judge_all(&self.disks, gathered.own, &earlier).await?,
            others: gathered.others,
            conflicts: gathered.conflicts,
            failed: gathered.failed,
        };
        let view = {
            let mut memory = self.memory();
            let Memory { known, read_before, .. } = &mut *memory;
            let view = View::of(&self.name, gathered, known, read_before);
            let number = match &before {
                Some(kept) if kept.view.same_volumes(&view) => kept.view.number,
                Some(kept) => kept.view.number + 1,
                None => 1,
            };
            let view = Arc::new(view.numbered(number));
            memory.seen = Some(Kept { view: Arc::clone(&view), heard, changes, at, raws, read });
            view
        };
        // A disk that was pulled shall not be kept by us.
        self.opened().retain(|guid, _| view.claim(guid).is_some());
        self.go_on_releasing(&view);
        Ok(view)
    }
}

/// Runs what blocks (reading disks, ioctls) where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) => Err(Error::host(format!("work on a disk ended unexpectedly ({join}): please report it"))),
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
        state.space = view.space(name);
        state.problems = view.problems.iter().cloned().chain(self.inner.releases.problems()).collect();
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
        self.inner.changing.try_lock().is_err()
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
        // Half a claim was never handed out, and what is damaged is none: it is not what an interrupted creation left.
        let found = self.inner.view().await?.volume(&self.inner.name, &safe_name(name), false)?;
        Ok(found.filter(|volume| volume.record().is_ok_and(|record| record.name == name)))
    }

    async fn storage(&self) -> Result<StorageId> {
        // Whether all of it can be read is asked where it matters: a volume that is there can be used all the same.
        self.inner.view().await?;
        Ok(view::storage(&self.inner.name))
    }

    async fn size_of(&self, spec: &VolumeSpec) -> Result<u64> {
        let view = self.inner.view().await?;
        let resumed = view.disks.iter().find_map(|seen| match &seen.raw.found {
            Ok(Found::HalfClaimed(claim)) if claim.identity == Identity::of(&safe_name(&spec.name)) => {
                Some(claim.length)
            }
            _ => None,
        });
        match resumed.filter(|size| spec.size.admits(*size)) {
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
