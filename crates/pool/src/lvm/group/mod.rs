//! Makes the volume group of a pool of empty disks, and extends it when disks appear, if the configuration says so.
//!
//! A disk is used only if a pool of whole disks could claim it: see [`Selection`]. It becomes a physical volume first, and
//! is added to the volume group then; [`GroupNotes`] connects the two steps. What a kill leaves between them is erased,
//! and the disk is used as any other empty one.

mod notes;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quarry_disk::{Disk, State};
use quarry_lvm::commands::group::{self, NewPv, extent_size, metadata_area};
use quarry_lvm::{Label, PvUuid, VolumeGroup};
use quarry_volume::Result;
use uuid::Uuid;

pub(crate) use self::notes::GroupNotes;
use super::LvmPool;
use super::cache::View;
use crate::disk::{Selected, Selection};

/// How often it is checked whether disks have appeared or changed.
const INTERVAL: Duration = Duration::from_secs(5);
/// The same after something failed.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// How long a disk may take until its label is read. Its other contents were just read.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the label of a physical volume and the header of its metadata area are.
const LABEL: std::ops::Range<u64> = 0..8192;
/// The tag of a volume group that Quarry has made. It is for operators; nothing depends on it.
const TAG: &str = "quarry/made";

/// What a pool needs to make its volume group.
pub(super) struct Maker {
    selection: Arc<Selection>,
    notes: Arc<GroupNotes>,
    /// What prevents the volume group from being made, or a disk from being added.
    problem: Mutex<Option<String>>,
    /// Whether the last look was complete: only an event needs another one.
    done: AtomicBool,
}

impl Maker {
    pub(super) fn new(selection: Selection, notes: Arc<GroupNotes>) -> Self {
        let (problem, done) = Default::default();
        Self { selection: Arc::new(selection), notes, problem, done }
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }
}

/// The result of one look at the disks.
#[derive(Default)]
struct Look {
    problems: Vec<String>,
    /// Whether a disk could not be used that looked free, so that another look may have another result without an event.
    failed: bool,
}

/// A disk that became a physical volume.
struct Prepared {
    device: PathBuf,
    size: u64,
    uuid: PvUuid,
}

impl Look {
    fn fail(&mut self, disk: &Disk, why: &str) {
        self.problems.push(format!("disk {} {why}", disk.name));
        self.failed = true;
    }
}

/// Looks for disks again and again, until the pool is dropped.
pub(super) fn make_from_now_on(pool: &Arc<LvmPool>) {
    if pool.maker.is_none() {
        return;
    }
    let pool = Arc::downgrade(pool);
    tokio::spawn(async move {
        loop {
            let Some(pool) = pool.upgrade() else { return };
            let pause = pool.make_group().await;
            drop(pool);
            tokio::time::sleep(pause).await;
        }
    });
}

impl LvmPool {
    /// Uses the disks that are free now, and returns when to look again.
    async fn make_group(&self) -> Duration {
        let Some(maker) = &self.maker else { return AFTER_FAILURE };
        if maker.done.load(Ordering::Relaxed) && !maker.selection.may_have_changed() {
            return INTERVAL;
        }
        let look = match self.use_free_disks(maker).await {
            Ok(Some(look)) => look,
            // The pool itself reports that its volume group cannot be read.
            Ok(None) => return INTERVAL,
            Err(why) => Look { problems: vec![why], failed: true },
        };
        let problem = (!look.problems.is_empty()).then(|| look.problems.join("; "));
        let mut known = maker.problem.lock();
        if let Some(why) = problem.as_ref().filter(|why| known.as_ref() != Some(*why)) {
            let group = &self.config.volume_group;
            tracing::warn!(pool = self.name, group, why, "cannot use all selected disks for the volume group");
        }
        *known = problem;
        maker.done.store(!look.failed, Ordering::Relaxed);
        if look.failed { AFTER_FAILURE } else { INTERVAL }
    }

    /// Makes the volume group of the free disks, or adds them to it. `None`: the volume group cannot be read now.
    async fn use_free_disks(&self, maker: &Maker) -> Result<Option<Look>, String> {
        let Some(group) = self.existing_group().await else { return Ok(None) };
        let adding = self.check_notes(maker, group.as_deref())?;
        let mut selected = maker.selection.read().await.map_err(|error| error.message)?;
        let mut look = Look { problems: std::mem::take(&mut selected.problems), failed: false };
        if !adding.is_empty() && self.finish_all(maker, group.as_deref(), &adding, &selected, &mut look).await {
            selected = maker.selection.read().await.map_err(|error| error.message)?;
        }
        let is_free = |(_, state): &&(Disk, State)| *state == State::Free;
        let free = selected.disks.iter().filter(is_free).map(|(disk, _)| disk).collect();
        let free = of_one_sector_size(group.as_deref(), &selected, free, &mut look);
        if free.is_empty() {
            look.problems.extend(group.is_none().then(|| none_free(&self.config.volume_group, &selected.disks)));
            return Ok(Some(look));
        }
        if let Some(group) = &group {
            self.check_complete(group).map_err(|error| error.message)?;
        }
        let mut prepared = Vec::new();
        for disk in free {
            match self.prepare_disk(maker, disk).await {
                Ok(disk) => prepared.push(disk),
                Err(why) => look.fail(disk, &why),
            }
        }
        if !prepared.is_empty()
            && let Err(why) = self.add_to_group(maker, &prepared).await
        {
            look.problems.push(why);
            look.failed = true;
        }
        Ok(Some(look))
    }

    /// Compares the volume group with what was noted about it. Returns the physical volumes that were being added.
    ///
    /// # Errors
    /// It existed, and is gone, or the notes cannot be used.
    fn check_notes(&self, maker: &Maker, group: Option<&VolumeGroup>) -> Result<Vec<PvUuid>, String> {
        let name = &self.config.volume_group;
        let (before, adding) = maker.notes.of(name)?;
        match (group, before) {
            (Some(group), _) => maker.notes.exists(name, group.uuid)?,
            (None, Some(uuid)) => {
                return Err(format!(
                    "volume group {name} with UUID {uuid} existed on this node, and none of its disks is here, so no other \
                     one is made: bring the disks back; if they and their volumes are gone for good, remove the line of \
                     {name} from {}, and restart the node plugin",
                    maker.notes.file().display()
                ));
            }
            (None, None) => {}
        }
        Ok(adding)
    }

    /// Erases the labels that interrupted attempts left. Returns whether there was one.
    async fn finish_all(
        &self,
        maker: &Maker,
        group: Option<&VolumeGroup>,
        adding: &[PvUuid],
        selected: &Selected,
        look: &mut Look,
    ) -> bool {
        let mut erased = false;
        for (disk, _) in selected.disks.iter().filter(|(_, state)| *state != State::Free) {
            match self.finish_interrupted(maker, group, adding, disk).await {
                Ok(is_erased) => erased |= is_erased,
                Err(why) => look.fail(disk, &why),
            }
        }
        erased
    }

    /// The volume group, if it exists. `None`: that is not known.
    async fn existing_group(&self) -> Option<Option<Arc<VolumeGroup>>> {
        match self.shared.cache.view().await {
            View::Found(group, _) => Some(Some(group)),
            View::Missing(_) => Some(None),
            View::Absent(_) => None,
        }
    }

    /// Erases the label that an interrupted attempt left on a disk. Returns whether it was erased.
    async fn finish_interrupted(
        &self,
        maker: &Maker,
        group: Option<&VolumeGroup>,
        adding: &[PvUuid],
        disk: &Disk,
    ) -> Result<bool, String> {
        let is_ours = |label: &Option<Label>| match label {
            Some(label) => adding.contains(&label.uuid).then_some(label.uuid),
            None => None,
        };
        let Some(uuid) = is_ours(&read_label(&disk.node).await?) else { return Ok(false) };
        let name = &self.config.volume_group;
        if group.is_some_and(|group| group.physical_volumes.iter().any(|volume| volume.uuid == uuid)) {
            // It was added after all.
            maker.notes.end(name, uuid)?;
            return Ok(false);
        }
        let held = maker.selection.hold(disk).await?;
        // Nothing else changes it now.
        let label = read_label(&disk.node).await?;
        if is_ours(&label) != Some(uuid) {
            return Ok(false);
        }
        if let Some(other) = label.and_then(|label| label.group) {
            return Err(format!(
                "was being added to volume group {name}, but its metadata has volume group {} with UUID {}; nothing was \
                 changed: see `pvs`, and add or remove it (vgextend, vgreduce)",
                other.name, other.uuid
            ));
        }
        tracing::warn!(pool = self.name, disk = disk.name, %uuid, "erasing the label that an interrupted attempt left");
        quarry_fault::point(|| "volume group:label:before".to_owned());
        blocking(move || {
            held.zero(LABEL).map_err(|error| error.message)?;
            held.flush().map_err(|error| format!("cannot be flushed: {error}"))
        })
        .await?;
        quarry_fault::point(|| "volume group:label:after".to_owned());
        maker.selection.changed(disk);
        maker.notes.end(name, uuid)?;
        Ok(true)
    }

    /// Makes a physical volume of a free disk.
    async fn prepare_disk(&self, maker: &Maker, disk: &Disk) -> Result<Prepared, String> {
        let name = &self.config.volume_group;
        // lvm needs the disk for itself, and probes it once more.
        drop(maker.selection.hold_free(disk).await?);
        let uuid = new_uuid();
        maker.notes.begin(name, uuid)?;
        quarry_fault::point(|| "volume group:noted:after".to_owned());
        let request = NewPv { device: disk.node.clone(), uuid, metadata_size: metadata_area(disk.size) };
        let made = group::create_pv(name, &request).await;
        quarry_fault::point(|| "volume group:pvcreate:after".to_owned());
        maker.selection.changed(disk);
        if let Err(error) = made {
            // Unless lvm has written the label, there is nothing to remember.
            if read_label(&disk.node).await.is_ok_and(|label| label.is_none_or(|label| label.uuid != uuid)) {
                maker.notes.end(name, uuid)?;
            }
            return Err(format!("cannot become a physical volume: {error}"));
        }
        tracing::info!(pool = self.name, disk = disk.name, %uuid, "made a physical volume");
        Ok(Prepared { device: disk.node.clone(), size: disk.size, uuid })
    }

    /// Makes the volume group of these disks, or adds them to it.
    async fn add_to_group(&self, maker: &Maker, disks: &[Prepared]) -> Result<(), String> {
        let Some(exists) = self.existing_group().await else {
            return Err(format!("volume group {} cannot be read now", self.config.volume_group));
        };
        let _lock = match exists {
            Some(_) => self.lock().await,
            None => self.lock_without_group().await,
        }
        .map_err(|error| error.message)?;
        // All at once, so that a thin pool with a share of the volume group gets its share of all disks.
        let mut result = self.add(maker, disks).await;
        if result.is_err() && disks.len() > 1 {
            let mut failures = Vec::new();
            for disk in disks {
                failures.extend(self.add(maker, std::slice::from_ref(disk)).await.err());
            }
            result = if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) };
        }
        // Whoever waits for a change of the pool reads it now.
        self.shared.cache.uevents().count(true);
        result
    }

    /// The caller holds the pool lock.
    async fn add(&self, maker: &Maker, disks: &[Prepared]) -> Result<(), String> {
        let name = &self.config.volume_group;
        let devices: Vec<PathBuf> = disks.iter().map(|disk| disk.device.clone()).collect();
        let failed = |error: &dyn Display| format!("cannot use {}: {error}", shown(&devices));
        let Some(group) = self.existing_group().await else {
            return Err(failed(&format!("volume group {name} cannot be read now")));
        };
        let committed = match &group {
            None => {
                let size = disks.iter().fold(0, |sum: u64, disk| sum.saturating_add(disk.size));
                let created = group::create_group(name, &devices, extent_size(size), TAG, self.config.archives).await;
                quarry_fault::point(|| "volume group:vgcreate:after".to_owned());
                self.commit_group(created).await
            }
            Some(group) => {
                self.check_complete(group).map_err(|error| failed(&error.message))?;
                let extended = group::extend_group(group, &devices).await;
                quarry_fault::point(|| "volume group:vgextend:after".to_owned());
                self.commit_extended(group, extended).await
            }
        };
        let group = committed.map_err(|error| failed(&error.message))?;
        tracing::info!(pool = self.name, volume_group = name, ?devices, "added disks to the volume group");
        maker.notes.exists(name, group.uuid)?;
        for disk in disks {
            maker.notes.end(name, disk.uuid)?;
        }
        quarry_fault::point(|| "volume group:done".to_owned());
        Ok(())
    }
}

/// Those of the free disks whose sectors have the size of those in the volume group, or the most frequent size if it does
/// not exist: lvm does not mix them. The others are a problem that only the operator can solve.
fn of_one_sector_size<'a>(
    group: Option<&VolumeGroup>,
    selected: &Selected,
    free: Vec<&'a Disk>,
    look: &mut Look,
) -> Vec<&'a Disk> {
    let used = group.and_then(|group| {
        let mut devices = group.physical_volumes.iter().filter_map(|volume| volume.device.as_ref());
        devices.find_map(|device| selected.sectors.get(device).copied())
    });
    let count = |size: u64| free.iter().filter(|disk| disk.logical_sector == size).count();
    let most = free.iter().map(|disk| disk.logical_sector).max_by_key(|size| (count(*size), std::cmp::Reverse(*size)));
    // With a group on partitions or mapped devices, lvm decides.
    let Some(size) = used.or(most.filter(|_| group.is_none())) else { return free };
    let (same, other): (Vec<&Disk>, Vec<&Disk>) = free.into_iter().partition(|disk| disk.logical_sector == size);
    look.problems.extend(other.iter().map(|disk| {
        format!(
            "disk {} has sectors of {} bytes, but the other disks of the volume group have sectors of {size} bytes, and lvm \
             does not mix them: exclude it, or select it in another pool",
            disk.name, disk.logical_sector
        )
    }));
    same
}

/// Why there is no volume group yet.
fn none_free(name: &str, disks: &[(Disk, State)]) -> String {
    let list = disks.iter().map(|(disk, state)| format!("{} {}", disk.name, state.reason().unwrap_or_default()));
    match disks {
        [] => format!(
            "volume group {name} does not exist, and the pool selects no disk of this node: see `quarry disks`, and correct \
             create.select in the configuration"
        ),
        _ => format!(
            "volume group {name} does not exist, and none of the disks that the pool selects is free: {}",
            list.collect::<Vec<_>>().join("; ")
        ),
    }
}

fn shown(devices: &[PathBuf]) -> String {
    devices.iter().map(|device| device.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn new_uuid() -> PvUuid {
    let (mut bytes, random) = ([0; 32], [Uuid::new_v4(), Uuid::new_v4()]);
    for (place, byte) in bytes.iter_mut().zip(random.iter().flat_map(|uuid| uuid.as_bytes())) {
        *place = *byte;
    }
    PvUuid::of_bytes(bytes)
}

/// Reads the label of a disk that answered a moment ago. The error is phrased to follow "it".
async fn read_label(device: &Path) -> Result<Option<Label>, String> {
    let path = device.to_owned();
    let read = tokio::time::timeout(
        PATIENCE,
        blocking(move || quarry_lvm::label(&path).map_err(|error| format!("cannot be read: {error}"))),
    );
    read.await.unwrap_or_else(|_| Err(format!("has not answered for {} s; see the kernel log", PATIENCE.as_secs())))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) => Err(format!("cannot be used, because the work on it panicked ({join}); please report it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_differ() {
        let (one, other) = (new_uuid(), new_uuid());
        assert_ne!(one, other);
        assert_eq!(one.to_string().len(), 38);
    }
}
