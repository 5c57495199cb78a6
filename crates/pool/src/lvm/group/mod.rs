//! Makes the volume group of a pool of empty disks, and extends it when disks appear, if the configuration says so.
//!
//! A disk is used only if a pool of whole disks could claim it: see [`Selection`]. It becomes a physical volume first, and
//! is added to the volume group then; [`GroupNotes`] connects the two steps. What a kill leaves between them is erased,
//! and the disk is used as any other empty one.

mod notes;
mod settled;

use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quarry_disk::{Disk, State as DiskState};
use quarry_lvm::commands::group::{self, NewPv, extent_size, metadata_area};
use quarry_lvm::{Label, PvUuid, VolumeGroup};
use quarry_volume::Result;
use uuid::Uuid;

pub(crate) use self::notes::GroupNotes;
use self::settled::FreeSince;
use super::LvmPool;
use super::cache::View;
use super::change::ChangeGuard;
use super::repeat::repeat;
use crate::disk::{Selected, Selection, Space};

/// How often it is checked whether disks have appeared or changed.
const INTERVAL: Duration = Duration::from_secs(5);
/// The same after something failed that concerns no single disk.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// When a disk that could not be used is tried again: at first, and at most. The pause doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// How long a disk may take until its label is read. Its other contents were just read.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the label of a physical volume and the header of its metadata area are.
const LABEL: std::ops::Range<u64> = 0..8192;
/// How many disks are used at once at most.
const AT_ONCE: usize = 64;
/// The tag of a volume group that Quarry has made. It is for operators; nothing depends on it.
const TAG: &str = "quarry/made";

/// Held while disks are added to a volume group: lvm makes one physical volume at a time on a host, and a volume group
/// must not wait for another one's disk.
static ADDING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What a pool needs to make its volume group.
pub(super) struct Maker {
    selection: Arc<Selection>,
    notes: Arc<GroupNotes>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What prevents the volume group from being made, or a disk from being added.
    problem: Option<String>,
    /// Whether the last look was complete: only an event needs another one.
    done: bool,
    /// The disks that could not be used.
    failures: HashMap<(String, Option<u64>), Failure>,
    /// How many disks had come and gone when the volume group was last found missing.
    missing_at: Option<u64>,
    /// Since when each disk that could be used has been free.
    free_since: FreeSince,
}

/// Why a disk could not be used, and when it is tried again.
struct Failure {
    why: String,
    pause: Duration,
    until: Instant,
}

impl Maker {
    pub(super) fn new(selection: Selection, notes: Arc<GroupNotes>) -> Self {
        Self { selection: Arc::new(selection), notes, state: Mutex::default() }
    }

    /// What prevents the volume group from being made, or a disk from being added.
    pub(super) fn problem(&self) -> Option<String> {
        self.state.lock().problem.clone()
    }

    /// Why the disk is not tried now.
    fn failure(&self, disk: &Disk) -> Option<String> {
        let state = self.state.lock();
        state
            .failures
            .get(&key(disk))
            .filter(|failure| failure.until > Instant::now())
            .map(|failure| failure.why.clone())
    }

    /// Notes that the disk could not be used.
    fn failed(&self, disk: &Disk, why: &str) {
        let mut state = self.state.lock();
        let pause = state.failures.get(&key(disk)).map_or(FIRST_PAUSE, |last| (2 * last.pause).min(LONGEST_PAUSE));
        let failure = Failure { why: why.to_owned(), pause, until: Instant::now() + pause };
        state.failures.insert(key(disk), failure);
    }

    fn succeeded(&self, disk: &Disk) {
        self.state.lock().failures.remove(&key(disk));
    }

    /// Runs work on the notes, which waits for the host's filesystem.
    async fn note<T: Send + 'static>(
        &self,
        work: impl FnOnce(&GroupNotes) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let notes = Arc::clone(&self.notes);
        blocking(move || work(&notes)).await
    }
}

/// Identifies a disk as long as this process runs.
fn key(disk: &Disk) -> (String, Option<u64>) {
    (disk.name.clone(), disk.sequence)
}

/// The result of one look at the disks.
#[derive(Default)]
struct Look {
    problems: Vec<String>,
    /// Whether another look may have another result without an event.
    again: bool,
}

impl Look {
    fn fail(&mut self, maker: &Maker, disk: &Disk, why: &str) {
        maker.failed(disk, why);
        self.skip(disk, why);
    }

    /// Adds the problem of a disk that is not tried now.
    fn skip(&mut self, disk: &Disk, why: &str) {
        self.problems.push(format!("disk {} {why}", disk.name));
        self.again = true;
    }
}

/// A disk that became a physical volume.
struct Prepared {
    disk: Disk,
    uuid: PvUuid,
    /// Keeps the disk's name and other Quarry processes away from it.
    _lock: Arc<dyn Space>,
}

/// Looks for disks again and again, until the pool is dropped.
pub(super) fn make_from_now_on(pool: &Arc<LvmPool>) {
    if pool.maker.is_some() {
        repeat(pool, Duration::ZERO, async |pool| pool.make_group().await);
    }
}

impl LvmPool {
    /// Uses the disks that are free now, and returns when to look again.
    async fn make_group(&self) -> Duration {
        let Some(maker) = &self.maker else { return AFTER_FAILURE };
        if maker.state.lock().done && !maker.selection.may_have_changed() {
            return INTERVAL;
        }
        let (look, pause) = match self.use_free_disks(maker).await {
            Ok(Some(look)) => (look, INTERVAL),
            // The pool itself reports that its volume group cannot be read.
            Ok(None) => (Look { problems: Vec::new(), again: true }, INTERVAL),
            Err(why) => (Look { problems: vec![why], again: true }, AFTER_FAILURE),
        };
        let problem = (!look.problems.is_empty()).then(|| look.problems.join("; "));
        let mut state = maker.state.lock();
        if let Some(why) = problem.as_ref().filter(|why| state.problem.as_ref() != Some(*why)) {
            let group = &self.config.volume_group;
            tracing::warn!(pool = self.name, group, why, "cannot use all selected disks for the volume group");
        }
        state.problem = problem;
        state.done = !look.again;
        pause
    }

    /// Makes the volume group of the free disks, or adds them to it. `None`: the volume group cannot be read now, or it is
    /// too early.
    async fn use_free_disks(&self, maker: &Maker) -> Result<Option<Look>, String> {
        let Ok(_only) = ADDING.try_lock() else { return Ok(None) };
        let Some(group) = self.existing_group().await else { return Ok(None) };
        let adding = self.check_notes(maker, group.as_deref()).await?;
        let mut selected = maker.selection.read().await.map_err(|error| error.message)?;
        let mut look = Look { problems: std::mem::take(&mut selected.problems), again: false };
        if !adding.is_empty() && self.erase_labels(maker, &adding, &selected, &mut look).await {
            selected = maker.selection.read().await.map_err(|error| error.message)?;
        }
        let is_free = |(_, state): &&(Disk, DiskState)| *state == DiskState::Free;
        let free = selected.disks.iter().filter(is_free).map(|(disk, _)| disk).collect();
        let mut free = of_one_sector_size(group.as_deref(), &selected, free, &mut look);
        let settled =
            maker.state.lock().free_since.settled(free.iter().map(|disk| key(disk)).collect(), Instant::now());
        if group.is_some() {
            look.again |= settled.len() < free.len();
            free.retain(|disk| settled.contains(&key(disk)));
        }
        if free.is_empty() {
            look.problems.extend(group.is_none().then(|| none_free(&selected.disks)));
            return Ok(Some(look));
        }
        match &group {
            Some(group) => self.check_complete(group).map_err(|error| error.message)?,
            // Disks may still be coming, and the volume group with them.
            None if !self.is_quiet(maker) => return Ok(None),
            None => {}
        }
        if let Some(file) = group::devices_file().await.map_err(|error| error.to_string())? {
            return Err(devices_file(&self.config.volume_group, &file, &free));
        }
        // If the pool cannot be changed now, no label is written that would have to be erased again.
        drop(self.lock_and_read().await?);
        let mut prepared = Vec::new();
        for disk in free.into_iter().take(AT_ONCE) {
            if let Some(why) = maker.failure(disk) {
                look.skip(disk, &why);
                continue;
            }
            match self.prepare_disk(maker, disk).await {
                Ok(disk) => prepared.push(disk),
                Err(why) => look.fail(maker, disk, &why),
            }
        }
        if !prepared.is_empty() {
            self.add_to_group(maker, prepared, &mut look).await?;
        }
        Ok(Some(look))
    }

    /// Whether no disk came or went since the last look, which found the volume group missing as well.
    fn is_quiet(&self, maker: &Maker) -> bool {
        let now = self.shared.cache.uevents().counts().disks;
        maker.state.lock().missing_at.replace(now) == Some(now)
    }

    /// Compares the volume group with what was noted about it. Returns the physical volumes that were being added.
    ///
    /// # Errors
    /// It existed, and is gone, or is another one, or the notes cannot be used.
    async fn check_notes(&self, maker: &Maker, group: Option<&VolumeGroup>) -> Result<Vec<PvUuid>, String> {
        let name = self.config.volume_group.clone();
        let (before, mut adding) = maker.note(move |notes| notes.of(&name)).await?;
        let name = &self.config.volume_group;
        // In a pod, the file has another path than on the host.
        let file = format!(
            "{} (with the chart: from the file on the host, in the folder of this driver in kubelet's folder plugins)",
            maker.notes.file().display()
        );
        let Some(group) = group else {
            let Some(uuid) = before else { return Ok(adding) };
            return Err(format!(
                "volume group {name} with UUID {uuid} existed on this node, and is not here, so no other one is made: \
                 bring its disks back; if it was renamed (vgrename), put the new name into the configuration; if it and its \
                 volumes are gone for good, remove the line of {name} from {file}, and restart the node plugin"
            ));
        };
        if let Some(uuid) = before.filter(|uuid| *uuid != group.uuid) {
            return Err(format!(
                "volume group {name} on this node has UUID {}, but it had UUID {uuid} before: no disk is added to it; if \
                 this is the right one, remove the line of {name} from {file}, and restart the node plugin",
                group.uuid
            ));
        }
        // They were added after all.
        let members: Vec<PvUuid> = group.physical_volumes.iter().map(|volume| volume.uuid).collect();
        adding.retain(|uuid| !members.contains(uuid));
        let (name, uuid) = (name.clone(), group.uuid);
        maker.note(move |notes| notes.exists(&name, uuid).and_then(|()| notes.end(&name, &members))).await?;
        Ok(adding)
    }

    /// The volume group, if it exists. `None`: that is not known.
    async fn existing_group(&self) -> Option<Option<Arc<VolumeGroup>>> {
        match self.shared.cache.view().await {
            View::Found(group, _) => {
                // What is noted about it must not be newer than what a power cut leaves of it.
                self.flush_pending(&group).await.ok()?;
                Some(Some(group))
            }
            View::Missing(_) => Some(None),
            View::Absent(_) => None,
        }
    }

    /// The lock for changes, with the volume group as it is now, if it exists.
    async fn lock_and_read(&self) -> Result<(ChangeGuard<'_>, Option<Arc<VolumeGroup>>), String> {
        let unreadable = || format!("volume group {} cannot be read now", self.config.volume_group);
        let lock = match self.existing_group().await.ok_or_else(unreadable)? {
            Some(_) => self.lock().await,
            None => self.lock_without_group().await,
        };
        let lock = lock.map_err(|error| error.message)?;
        self.shared.cache.invalidate();
        Ok((lock, self.existing_group().await.ok_or_else(unreadable)?))
    }

    /// Erases the labels that interrupted attempts left. Returns whether there was one.
    async fn erase_labels(&self, maker: &Maker, adding: &[PvUuid], selected: &Selected, look: &mut Look) -> bool {
        let mut erased = false;
        for (disk, state) in &selected.disks {
            // In any other state, it was not read, or is used.
            if !matches!(state, DiskState::NotEmpty { .. }) || maker.failure(disk).is_some() {
                continue;
            }
            match self.erase_label(maker, adding, disk).await {
                Ok(is_erased) => erased |= is_erased,
                Err(why) => look.fail(maker, disk, &why),
            }
        }
        erased
    }

    /// Erases the label that an interrupted attempt left on a disk. Returns whether it was erased.
    async fn erase_label(&self, maker: &Maker, adding: &[PvUuid], disk: &Disk) -> Result<bool, String> {
        let is_ours = |label: &Option<Label>| label.as_ref().is_some_and(|label| adding.contains(&label.uuid));
        if !is_ours(&read_label(&disk.node).await?) {
            return Ok(false);
        }
        require_no_orphan(disk)?;
        // While the pool is locked, this process runs no vgextend.
        let (_lock, group) = self.lock_and_read().await?;
        let held = maker.selection.hold(disk).await?;
        // Nothing else changes it now.
        let Some(label) = read_label(&disk.node).await?.filter(|label| adding.contains(&label.uuid)) else {
            return Ok(false);
        };
        let is_member = |group: &VolumeGroup| group.physical_volumes.iter().any(|volume| volume.uuid == label.uuid);
        if group.as_deref().is_some_and(is_member) {
            return Ok(false);
        }
        if label.used {
            let name = &self.config.volume_group;
            let of = label.group.map_or_else(String::new, |group| format!(" {} with UUID {}", group.name, group.uuid));
            return Err(format!(
                "was being added to volume group {name}, but its label says that it belongs to a volume group{of}; nothing \
                 was changed: see `pvs -o +pv_in_use`, and add or remove it (vgextend, vgreduce, pvremove)"
            ));
        }
        if !read(&disk.node, quarry_lvm::metadata::has_only_label).await? {
            return Err(format!(
                "has the label that an interrupted attempt left, but something else as well, so that nothing was erased: see \
                 `wipefs {}`, and remove what is not needed",
                disk.node.display()
            ));
        }
        tracing::warn!(pool = self.name, disk = disk.name, uuid = %label.uuid, "erasing the label that an interrupted attempt left");
        quarry_fault::point(|| "volume group:label:before".to_owned());
        blocking(move || {
            held.zero(LABEL).map_err(|error| error.message)?;
            held.flush().map_err(|error| format!("cannot be flushed: {error}"))
        })
        .await?;
        quarry_fault::point(|| "volume group:label:after".to_owned());
        maker.selection.changed(disk);
        self.end(maker, vec![label.uuid]).await?;
        Ok(true)
    }

    /// Notes that these physical volumes belong to the volume group, or do not exist.
    async fn end(&self, maker: &Maker, disks: Vec<PvUuid>) -> Result<(), String> {
        let name = self.config.volume_group.clone();
        maker.note(move |notes| notes.end(&name, &disks)).await
    }

    /// Makes a physical volume of a free disk.
    async fn prepare_disk(&self, maker: &Maker, disk: &Disk) -> Result<Prepared, String> {
        require_no_orphan(disk)?;
        let uuid = new_uuid();
        let name = self.config.volume_group.clone();
        // Not the link that udev makes for a label.
        let lasting = disk.by_id.iter().find(|name| !name.starts_with("lvm-pv-uuid-")).cloned();
        maker.note(move |notes| notes.begin(&name, uuid, lasting.as_deref())).await?;
        quarry_fault::point(|| "volume group:noted:after".to_owned());
        let prepared = self.make_pv(maker, disk, uuid).await;
        if prepared.is_err() {
            // Unless lvm has written the label, there is nothing to remember.
            if read_label(&disk.node).await.is_ok_and(|label| label.is_none_or(|label| label.uuid != uuid)) {
                self.end(maker, vec![uuid]).await?;
            }
        }
        prepared
    }

    async fn make_pv(&self, maker: &Maker, disk: &Disk, uuid: PvUuid) -> Result<Prepared, String> {
        let held = maker.selection.hold_free(disk).await?;
        // lvm takes the disk for itself, and probes it once more. The lock stays, until the disk belongs to the volume group.
        drop(held);
        let lock = maker.selection.lock(disk).await?;
        let request = NewPv { device: disk.node.clone(), uuid, metadata_size: metadata_area(disk.size) };
        let made = group::create_pv(&request).await;
        quarry_fault::point(|| "volume group:pvcreate:after".to_owned());
        maker.selection.changed(disk);
        made.map_err(|error| format!("cannot become a physical volume: {error}"))?;
        // lvm does not flush. The other disks must not name this one before its label is durable: after a power cut, the
        // volume group would lack a disk.
        if !quarry_fault::disabled("flush") {
            read(&disk.node, quarry_lvm::flush).await?;
        }
        quarry_fault::point(|| "volume group:label flushed:after".to_owned());
        tracing::info!(pool = self.name, disk = disk.name, %uuid, "made a physical volume");
        Ok(Prepared { disk: disk.clone(), uuid, _lock: lock })
    }

    /// Makes the volume group of these disks, or adds them to it.
    async fn add_to_group(&self, maker: &Maker, disks: Vec<Prepared>, look: &mut Look) -> Result<(), String> {
        let (_lock, group) = self.lock_and_read().await?;
        let mut ready = Vec::new();
        for disk in disks {
            // lvm would make a physical volume of whatever it found there now.
            match read_label(&disk.disk.node).await {
                Ok(Some(label)) if label.uuid == disk.uuid && !label.used => ready.push(disk),
                Ok(_) => look.fail(maker, &disk.disk, "was changed by another program after Quarry made its label"),
                Err(why) => look.fail(maker, &disk.disk, &why),
            }
        }
        // All at once, so that a thin pool with a share of the volume group gets its share of all disks.
        let mut added = self.add(maker, group, &ready).await;
        if added.is_err() && ready.len() > 1 {
            for disk in &ready {
                let Some(group) = self.existing_group().await else {
                    look.fail(maker, &disk.disk, "cannot be added now, because the volume group cannot be read");
                    continue;
                };
                let is_member =
                    |group: &VolumeGroup| group.physical_volumes.iter().any(|found| found.uuid == disk.uuid);
                if !group.as_deref().is_some_and(is_member)
                    && let Err(why) = self.add(maker, group, std::slice::from_ref(disk)).await
                {
                    look.fail(maker, &disk.disk, &why);
                }
            }
            added = Ok(());
        }
        if let Err(why) = added {
            ready.iter().for_each(|disk| look.fail(maker, &disk.disk, &why));
        }
        // What waits for a change of the pool reads it now.
        self.shared.cache.uevents().count(true);
        Ok(())
    }

    /// Makes the volume group of these disks, or adds them to it. The caller holds the pool lock. The error is phrased to
    /// follow "it".
    async fn add(&self, maker: &Maker, group: Option<Arc<VolumeGroup>>, disks: &[Prepared]) -> Result<(), String> {
        if disks.is_empty() {
            return Ok(());
        }
        let name = &self.config.volume_group;
        let devices: Vec<PathBuf> = disks.iter().map(|disk| disk.disk.node.clone()).collect();
        let failed = |error: &dyn Display| format!("cannot be added to volume group {name}: {error}");
        let committed = match &group {
            None => {
                let size = disks.iter().fold(0, |sum: u64, disk| sum.saturating_add(disk.disk.size));
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
        disks.iter().for_each(|disk| maker.succeeded(&disk.disk));
        let (name, uuids) = (name.clone(), disks.iter().map(|disk| disk.uuid).collect::<Vec<_>>());
        maker.note(move |notes| notes.exists(&name, group.uuid).and_then(|()| notes.end(&name, &uuids))).await?;
        quarry_fault::point(|| "volume group:done".to_owned());
        Ok(())
    }
}

/// Fails while an lvm command that an earlier Quarry process started still works on the disk. The error is phrased to
/// follow "it".
fn require_no_orphan(disk: &Disk) -> Result<(), String> {
    match quarry_exec::orphans(&disk.node.display().to_string()).first() {
        None => Ok(()),
        Some(orphan) => Err(format!(
            "waits for `{}` (process {}), which outlived the Quarry process that started it",
            orphan.command, orphan.pid
        )),
    }
}

/// Why no disk is used on a host with a devices file.
fn devices_file(name: &str, file: &Path, free: &[&Disk]) -> String {
    let devices: Vec<String> = free.iter().map(|disk| disk.node.display().to_string()).collect();
    format!(
        "lvm uses only the disks in {} on this host, and Quarry does not change that file: make volume group {name} on the \
         host (vgcreate {name} {devices}), or add the disks to it (vgextend {name} {devices})",
        file.display(),
        devices = devices.join(" ")
    )
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

/// Why there is no volume group yet, for a sentence that begins with that.
fn none_free(disks: &[(Disk, DiskState)]) -> String {
    let list = disks.iter().map(|(disk, state)| format!("{} {}", disk.name, state.reason().unwrap_or_default()));
    match disks {
        [] => {
            "the pool selects no disk of this node: see `quarry disks`, and correct create.select in the configuration"
                .to_owned()
        }
        _ => format!(
            "none of the disks that the pool selects is free: {}; if the contents of one are not needed any more, remove them \
             (`pvremove` for a physical volume of no volume group, otherwise `wipefs --all`)",
            list.collect::<Vec<_>>().join("; ")
        ),
    }
}

fn new_uuid() -> PvUuid {
    let (mut bytes, random) = ([0; 32], [Uuid::new_v4(), Uuid::new_v4()]);
    for (place, byte) in bytes.iter_mut().zip(random.iter().flat_map(|uuid| uuid.as_bytes())) {
        *place = *byte;
    }
    PvUuid::of_bytes(bytes)
}

async fn read_label(device: &Path) -> Result<Option<Label>, String> {
    read(device, quarry_lvm::label).await
}

/// Reads or flushes a disk that answered a moment ago. The error is phrased to follow "it".
async fn read<T: Send + 'static>(device: &Path, work: fn(&Path) -> io::Result<T>) -> Result<T, String> {
    let path = device.to_owned();
    let read = tokio::time::timeout(
        PATIENCE,
        blocking(move || work(&path).map_err(|error| format!("cannot be read: {error}"))),
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
