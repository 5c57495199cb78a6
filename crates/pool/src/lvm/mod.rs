//! A pool that creates logical volumes in a volume group.

mod cache;
mod change;
mod create;
mod device;
mod disks;
mod elsewhere;
mod expand;
mod group;
mod group_state;
mod health;
mod idle;
mod lost;
mod name;
mod observe;
mod removal;
mod repair;
mod repeat;
mod scratch;
mod snapshot;
mod state_file;
mod thin;
mod used_groups;
mod volume;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quarry_exec::Orphan;
use quarry_lvm::commands;
use quarry_lvm::{LogicalVolume, VolumeGroup, capacity};
use quarry_volume::{
    CowSize, Error, Gib, PoolCapabilities, PoolState, Reason, Result, SizeRange, StorageId, VolumeSpec, safe_name,
};

use self::cache::View;
pub use self::cache::read::volume_group_reads;
pub(crate) use self::device::{active, could_be_volume};
pub(crate) use self::disks::LvmDisks;
pub(crate) use self::group::GroupNotes;
pub(crate) use self::group_state::GroupState;
pub(crate) use self::snapshot::InvalidSnapshots;
use self::snapshot::Purpose;
pub(crate) use self::used_groups::UsedGroups;
use crate::disk::Selection;
use crate::pool::{Contents, Device, Expansion, Reading, Volumes};
use crate::record::State;
use crate::threads::REPORT_AFTER;
use crate::{LvmConfig, Pool, PoolSnapshot, PoolVolume, Record, Recorded, SnapshotRecord, Uevents, UnresponsiveDisk};

/// How long the start waits for the first report on the volume group: a hanging disk must not delay the other
/// pools. The report continues, and the recovery that it is needed for is done before the first change.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// The programs that Quarry runs for these pools, and their packages.
pub(crate) const TOOLS: [(&str, &str); 2] = [("lvm", "lvm2"), ("dmsetup", "dmsetup")];

/// The program that lvm runs when it activates a thin pool, and its package.
pub(crate) const THIN_TOOL: (&str, &str) = ("thin_check", "thin-provisioning-tools");

/// What every pool of this kind reports.
const CAPABILITIES: PoolCapabilities = PoolCapabilities { wipe: false, snapshots: true, unique_storage: true };

/// A pool of kind `lvm`: the logical volumes of a volume group, or those in a thin pool of it.
pub struct LvmPool {
    name: String,
    config: LvmConfig,
    shared: GroupState,
    /// The names of the volumes that this process has seen in the pool, and has not removed.
    seen: parking_lot::Mutex<BTreeSet<String>>,
    /// What is known about its thin pool, if it has one.
    thin: thin::Known,
    /// Set if this pool makes the volume group.
    maker: Option<group::Maker>,
}

impl LvmPool {
    /// Opens the pool: reads its volume group, and resumes devices that a killed lvm left suspended. A
    /// missing volume group is not an error: the pool reports it, and works when the group appears.
    ///
    /// `disks` are those that the configuration makes the volume group of, if it does, with what was noted about it.
    pub(crate) async fn open(
        name: String,
        config: LvmConfig,
        shared: GroupState,
        disks: Option<(Selection, Arc<GroupNotes>)>,
    ) -> Arc<Self> {
        let (seen, thin) = Default::default();
        let maker = disks.map(|(selection, notes)| group::Maker::new(selection, notes));
        let pool = Self { name, config, shared, seen, thin, maker };
        pool.open_group().await;
        let pool = Arc::new(pool);
        group::make_from_now_on(&pool);
        thin::maintain_from_now_on(&pool);
        snapshot::watch_from_now_on(&pool);
        change::recover_from_now_on(&pool);
        pool
    }

    /// Recovers from what an earlier Quarry process left.
    async fn open_group(&self) {
        if let Some(orphan) = self.orphan() {
            // It may hold the volume group's lock, and a report would wait for that. Both are done later: see
            // `lock`.
            tracing::warn!(pool = self.name, orphan, "no changes until the process has ended");
            return;
        }
        match tokio::time::timeout(FIRST_LOOK, self.recover_at_start()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(pool = self.name, %error, "the pool is not available"),
            Err(_) => tracing::warn!(pool = self.name, "the pool is unresponsive; starting without it"),
        }
    }

    /// The current volume group.
    ///
    /// A report waits for the volume group's lock. While a command that may hold it is overdue, no report is
    /// made: only what is known without one is returned.
    async fn group(&self) -> Result<Arc<VolumeGroup>> {
        Ok(self.group_with_mark().await?.0)
    }

    /// The current volume group, with a mark that is different whenever anything may have changed.
    async fn group_with_mark(&self) -> Result<(Arc<VolumeGroup>, u64)> {
        let view = match self.overdue_command() {
            None => self.shared.cache.view().await,
            Some(command) => self.shared.cache.cached().await.unwrap_or_else(|| {
                View::Absent(format!("volume group {} cannot be read now: {command}", self.config.volume_group))
            }),
        };
        match view {
            View::Found(group, report) => {
                self.flush_pending(&group).await?;
                let observed = self.shared.observer.observe(group, report).await;
                observed.map_err(|disk| Error::unavailable(format!("pool {}: {disk}", self.name)))
            }
            View::Absent(why) => Err(Error::unavailable(format!("pool {}: {why}", self.name))),
            View::Missing(why) => Err(Error::unavailable(format!("pool {}: {why}: {}", self.name, self.remedy()))),
        }
    }

    /// What makes the volume group exist.
    fn remedy(&self) -> String {
        match (&self.maker, &self.shared.made_by) {
            (Some(maker), _) => maker.problem().unwrap_or_else(|| {
                "Quarry makes it when a disk that the pool selects is free; see `quarry disks`".to_owned()
            }),
            (None, Some(pool)) => {
                format!("pool {pool} makes it when a disk that it selects is free; see `quarry disks`")
            }
            (None, None) => "create it (vgcreate), or correct the configuration".to_owned(),
        }
    }

    fn known_orphans(&self) -> parking_lot::MutexGuard<'_, Vec<Orphan>> {
        self.shared.orphans.lock()
    }

    /// A description of an lvm command on this volume group that outlived the Quarry process that started it.
    /// If Quarry made a change now, that command could run after it: a deleted volume could be created again.
    fn orphan(&self) -> Option<String> {
        self.known_orphans().iter().find(|orphan| orphan.is_running()).map(|orphan| {
            format!("`{}` (process {}), which outlived the Quarry process that started it,", orphan.command, orphan.pid)
        })
    }

    /// A description of what takes too long on this volume group: an lvm command, or an unresponsive disk.
    fn overdue(&self) -> Option<String> {
        self.overdue_command().or_else(|| self.shared.cache.overdue().map(|disk| disk.to_string()))
    }

    /// A description of the overdue lvm command on this volume group.
    fn overdue_command(&self) -> Option<String> {
        let mut running = quarry_exec::running();
        running.retain(|command| command.overdue && command.subject.as_deref() == Some(&self.config.volume_group));
        running.first().map(|command| {
            let fate = match command.mutation {
                true => "is not killed, because that could leave devices suspended",
                false => "was sent a signal to end",
            };
            format!(
                "`{}` has been running for {} s and {fate}; check what it waits for (a hanging disk? a lock of \
                 another lvm command?)",
                command.command,
                command.age.as_secs()
            )
        })
    }

    /// Converts an lvm error.
    fn explain(&self, error: quarry_lvm::Error) -> Error {
        use quarry_lvm::Error as Lvm;
        let reason = match &error {
            Lvm::NoSpace { .. } => Reason::NoSpace,
            // The name was free when this change started, so something else has created it since. A retry
            // checks what it is.
            Lvm::AlreadyExists { .. } | Lvm::Changing { .. } => Reason::UnderWay,
            Lvm::InUse { .. } => Reason::InUse,
            Lvm::NotFound { .. }
            | Lvm::Locked { .. }
            | Lvm::MissingPv { .. }
            | Lvm::Duplicate { .. }
            | Lvm::DiskWrite { .. }
            | Lvm::Denied { .. } => Reason::Unavailable,
            Lvm::Exec(quarry_exec::Error::Deadline { .. } | quarry_exec::Error::Stopping { .. }) => Reason::Unavailable,
            Lvm::Exec(_) | Lvm::Other { .. } | Lvm::Report { .. } | Lvm::Argument(_) | Lvm::Read { .. } => Reason::Host,
        };
        Error::new(reason, format!("pool {}: {error}", self.name))
    }

    /// Rejects a change while a disk is missing: LVM would expel that disk with the same commit, so that it
    /// would not come back by itself.
    fn check_complete(&self, group: &VolumeGroup) -> Result<()> {
        if let Some(why) = capacity::duplicated(group) {
            return Err(Error::unavailable(format!("pool {}: {why}", self.name)));
        }
        if group.missing_pvs == 0 {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "pool {}: no changes while volume group {} lacks {} of its physical volumes, because lvm would expel them \
             with the change; bring the disk back, or give it up as `quarry doctor` says",
            self.name, group.name, group.missing_pvs
        )))
    }

    /// The volume with that name. Without its thin pool, a pool has no volumes, unless that was renamed by hand: then they
    /// are still in the volume group.
    async fn volume_if_any(&self, name: &str) -> Result<Option<PoolVolume>> {
        let group = self.group().await?;
        match self.storage_in(&group) {
            Ok(storage) => Ok(volume::named_on(&group, &storage, name)),
            Err(error) if volume::is_recorded(&group, name) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The current state of the volume, and its logical volume; what was looked up earlier may have changed.
    ///
    /// # Errors
    /// `Unavailable` if it is gone, or ambiguous.
    fn current<'a>(&self, group: &'a VolumeGroup, volume: &PoolVolume) -> Result<(PoolVolume, &'a LogicalVolume)> {
        let (_, uuid) = volume.logical()?;
        let current = volume::named_on(group, &volume.storage, &volume.name);
        if let Some(current) = current.as_ref().filter(|current| matches!(current.record, Recorded::Ambiguous(_))) {
            current.record()?;
        }
        let found = group.volumes().find(|found| found.uuid == uuid);
        current.filter(|current| current.key == volume.key).zip(found).ok_or_else(|| {
            Error::unavailable(format!(
                "volume {} was removed from pool {}, replaced, or lost its record in the meantime: retry",
                volume.name, self.name
            ))
        })
    }
}

#[async_trait::async_trait]
impl Pool for LvmPool {
    fn name(&self) -> &str {
        &self.name
    }

    async fn read(&self, known: Option<u64>) -> Reading {
        let mut state = PoolState {
            name: self.name.clone(),
            kind: "lvm".to_owned(),
            on: self.config.volume_group.clone(),
            capabilities: CAPABILITIES,
            problems: self.problems_of_changes(),
            enlarge: match &self.shared.made_by {
                None => "add a disk to it (vgextend)".to_owned(),
                Some(pool) => format!("add a disk that pool {pool} selects"),
            },
            ..PoolState::default()
        };
        let (group, mark) = match self.group_with_mark().await {
            Ok(found) => found,
            Err(error) => {
                state.space.closed = Some(error.message.clone());
                state.problems.push(error.message);
                return Reading { state, mark: 0, volumes: Volumes::Unreadable, snapshots: Vec::new() };
            }
        };
        let storage = self.storage_in(&group);
        state.storage = storage.as_ref().ok().cloned();
        match &self.config.thin_pool {
            None => {
                state.size = group.extent_size.bytes(group.extent_count);
                state.space = capacity::space(&group, self.config.reserve);
            }
            Some(config) => self.describe_thin_pool(&group, config, &mut state),
        }
        // While changes hang, a new volume would hang as well.
        state.space.closed = state.space.closed.or_else(|| self.overdue());
        state.metadata_size = group.metadata_size;
        state.metadata_free = group.metadata_free;
        state.problems.extend(state.space.closed.clone().filter(|why| !state.problems.contains(why)));
        state.problems.extend(capacity::withheld(&group));
        state.problems.extend(self.maker.as_ref().and_then(group::Maker::problem));
        if self.shared.reporter == self.name {
            state.hints.extend(self.shared.hints(&group));
        }
        // Without its thin pool, a pool has no volumes.
        let Ok(storage) = storage else {
            return Reading { state, mark, volumes: Volumes::Unreadable, snapshots: Vec::new() };
        };
        state.hints.extend(snapshot::hint(&group, &storage));
        let volumes = volume::all_on(&group, &storage);
        state.repair = match self.config.thin_pool {
            None => repair::steps(&group, &volumes),
            // The volumes of a thin pool have no disks of their own.
            Some(_) => Vec::new(),
        };
        if known != Some(mark) {
            self.remember(&volumes);
        }
        state.volumes = u64::try_from(volumes.len()).unwrap_or(u64::MAX);
        let volumes = if known == Some(mark) { Volumes::Same } else { Volumes::All(volumes) };
        Reading { state, mark, volumes, snapshots: snapshot::all_on(&group, &storage) }
    }

    fn uevents(&self) -> &Uevents {
        self.shared.cache.uevents()
    }

    fn changing(&self) -> bool {
        self.shared.change_lock.is_held() && self.overdue().is_none()
    }

    fn unresponsive_disks(&self) -> Vec<UnresponsiveDisk> {
        self.shared.cache.unresponsive(REPORT_AFTER)
    }

    fn last_storage(&self) -> Option<StorageId> {
        match self.config.thin_pool {
            None => self.shared.cache.last_storage(),
            Some(_) => self.thin.storage(),
        }
    }

    async fn volumes(&self) -> Result<Vec<PoolVolume>> {
        let group = self.group().await?;
        Ok(volume::all_on(&group, &self.storage_in(&group)?))
    }

    async fn volume(&self, name: &str) -> Result<Option<PoolVolume>> {
        let group = self.group().await?;
        Ok(volume::named_on(&group, &self.storage_in(&group)?, name))
    }

    async fn find_requested(&self, name: &str) -> Result<Option<PoolVolume>> {
        let found = self.volume_if_any(&safe_name(name)).await?.filter(|volume| volume.is_requested_as(name));
        match (found, self.orphan()) {
            (Some(volume), _) => Ok(Some(volume)),
            (None, None) => {
                self.check_unused(&safe_name(name)).await?;
                Ok(None)
            }
            // The orphan may be about to create it.
            (None, Some(orphan)) => Err(Error::new(
                Reason::UnderWay,
                format!("pool {}: its volumes cannot be listed before {orphan} has ended; retry", self.name),
            )),
        }
    }

    async fn find_elsewhere(&self, name: &str) -> Result<Option<String>> {
        self.search_elsewhere(name).await
    }

    async fn storage(&self) -> Result<StorageId> {
        self.storage_in(&*self.group().await?)
    }

    fn supports(&self, spec: &VolumeSpec) -> Result<()> {
        create::supports(&self.name, spec)?;
        if self.config.thin_pool.is_some() { thin::supports(&self.name, spec) } else { Ok(()) }
    }

    async fn size_of(&self, spec: &VolumeSpec) -> Result<u64> {
        let group = self.group().await?;
        spec.size.choose(Self::unit(&group, &spec.class.layout))
    }

    async fn create(&self, spec: &VolumeSpec) -> Result<PoolVolume> {
        self.supports(spec)?;
        let _lock = self.lock().await?;
        match &self.config.thin_pool {
            None => self.create_volume(spec).await,
            Some(config) => self.create_thin_volume(config, spec).await,
        }
    }

    async fn create_with_contents(&self, spec: &VolumeSpec, contents: &Contents<'_>) -> Result<Option<PoolVolume>> {
        let Some(config) = &self.config.thin_pool else { return Ok(None) };
        self.supports(spec)?;
        let _lock = self.lock().await?;
        self.create_thin_copy(config, spec, contents).await
    }

    async fn activate(&self, volume: &PoolVolume) -> Result<Device> {
        let deactivating = self.shared.idle.mark_activated(volume.logical()?.1);
        if let Some(device) = self.device(volume)?
            && !deactivating
            && !device::is_smaller(volume)?
        {
            return Ok(Device::Node(device));
        }
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, found) = self.current(&group, volume)?;
        if let Some(why) = capacity::duplicated(&group) {
            return Err(Error::unavailable(format!("pool {}: {why}", self.name)));
        }
        let activated = commands::activate(&group, found).await;
        self.recover_if_killed(&group, &activated).await;
        activated.map_err(|error| self.explain(error))?;
        self.refresh_if_short(&group, found).await?;
        self.device(volume)?.map(Device::Node).ok_or_else(|| {
            Error::host(format!(
                "lvm activated {}/{}, but the kernel has no device for it: see the kernel log and `lvs -a {}`",
                group.name, current.stored_as, group.name
            ))
        })
    }

    async fn is_empty_from(&self, volume: &PoolVolume, start: u64) -> bool {
        self.emptied_from(volume, start).await
    }

    fn may_be_active(&self, storage: &StorageId, name: &str) -> bool {
        active(storage, name).ok().flatten().is_some()
    }

    async fn deactivate(&self, volume: &PoolVolume, unused_since: Instant) -> Result<()> {
        if !self.config.deactivate || self.device(volume)?.is_none() {
            return Ok(());
        }
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, found) = self.current(&group, volume)?;
        // A `new` volume may still be prepared by its creation; a dependent, such as a snapshot, would be
        // deactivated too.
        let is_ready = current.record().is_ok_and(|record| record.state == State::Ready);
        if !is_ready || !group.removed_with(found).is_empty() {
            return Ok(());
        }
        let Some(_deactivation) = self.shared.idle.begin(found.uuid, unused_since) else { return Ok(()) };
        // Something else may use it: an operator's mount, or a tenant's volume group that the host activated.
        if quarry_lvm::open_count(group.uuid, found.uuid) != Some(0) {
            return Ok(());
        }
        let deactivated = commands::deactivate(&group, found).await;
        self.recover_if_killed(&group, &deactivated).await;
        match deactivated {
            Ok(()) | Err(quarry_lvm::Error::InUse { .. }) => Ok(()),
            Err(error) => Err(self.explain(error)),
        }
    }

    fn device(&self, volume: &PoolVolume) -> Result<Option<PathBuf>> {
        let (group, uuid) = volume.logical()?;
        device::find(group, uuid)
            .map_err(|error| Error::host(format!("finding the device of volume {}: {error}", volume.name)))
    }

    async fn set_record(&self, volume: &PoolVolume, record: &Record) -> Result<()> {
        if volume.record()? == record {
            return Ok(());
        }
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, found) = self.current(&group, volume)?;
        if current.record != volume.record {
            return Err(Error::unavailable(format!(
                "the record of volume {} was changed by another process in the meantime; retry",
                volume.name
            )));
        }
        self.check_complete(&group)?;
        let before = volume::tag_of(found, current.record()?);
        self.replace_tag(&group, found, &before, &record.to_string()).await.map(drop)
    }

    async fn reserve_expansion(&self, volume: &PoolVolume, size: &SizeRange) -> Result<Option<Expansion>> {
        if let Some(config) = &self.config.thin_pool {
            return self.check_thin_expansion(config, volume, size).await;
        }
        self.reserve_new_space(volume, size).await
    }

    async fn set_expansion_zeroed(&self, volume: &PoolVolume, zeroed: Gib) -> Result<()> {
        self.set_new_space_zeroed(volume, zeroed).await
    }

    async fn expand(&self, volume: &PoolVolume, expansion: &Expansion) -> Result<PoolVolume> {
        if let Some(config) = &self.config.thin_pool {
            return self.expand_thin_volume(config, volume, expansion).await;
        }
        self.add_new_space(volume, expansion).await
    }

    async fn snapshots(&self) -> Result<Vec<PoolSnapshot>> {
        let group = self.group().await?;
        Ok(snapshot::all_on(&group, &self.storage_in(&group)?))
    }

    async fn take_snapshot(
        &self,
        volume: &PoolVolume,
        record: &SnapshotRecord,
        cow_size: CowSize,
    ) -> Result<PoolSnapshot> {
        let _lock = self.lock().await?;
        match &self.config.thin_pool {
            None => self.take_snapshot_of(volume, record, cow_size).await,
            Some(config) => self.take_thin_snapshot(config, volume, record).await,
        }
    }

    async fn create_copy(&self, record: &SnapshotRecord, from: &PoolSnapshot) -> Result<PoolSnapshot> {
        let _lock = self.lock().await?;
        self.create_space_for_copy(record, from).await
    }

    async fn set_snapshot_record(&self, snapshot: &PoolSnapshot, record: &SnapshotRecord) -> Result<()> {
        let _lock = self.lock().await?;
        self.replace_snapshot_record(snapshot, record).await
    }

    async fn deactivate_snapshot(&self, snapshot: &PoolSnapshot, unused_since: Instant) -> Result<()> {
        self.deactivate_snapshot_device(snapshot, unused_since).await
    }

    async fn activate_snapshot(&self, snapshot: &PoolSnapshot) -> Result<Device> {
        self.activate_snapshot_device(snapshot, Purpose::Read).await.map(Device::Node)
    }

    async fn activate_for_removal(&self, snapshot: &PoolSnapshot) -> Result<Device> {
        self.activate_snapshot_device(snapshot, Purpose::Remove).await.map(Device::Node)
    }

    async fn remove_snapshot(&self, snapshot: &PoolSnapshot) -> Result<()> {
        let _lock = self.lock().await?;
        self.remove_taken_snapshot(snapshot).await
    }

    async fn check_removable(&self, volume: &PoolVolume) -> Result<()> {
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, _) = self.current(&group, volume)?;
        current.record()?;
        self.check_not_renamed(&group, &current)?;
        self.check_complete(&group)?;
        let group = self.remove_interrupted_snapshots(&group, &current, |_| true).await?;
        let (current, found) = self.current(&group, volume)?;
        snapshot::check_none(&self.name, &group, &current, "removed")?;
        thin::check_no_clone(&self.name, &group, &current)?;
        removal::check_removable(&self.name, &group, found)?;
        removal::require_closed(&self.name, &group, found).await
    }

    async fn remove(&self, volume: &PoolVolume) -> Result<()> {
        let _lock = self.lock().await?;
        let group = self.group().await?;
        let (current, found) = self.current(&group, volume)?;
        current.record()?;
        self.check_not_renamed(&group, &current)?;
        self.check_complete(&group)?;
        let group = self.remove_interrupted_snapshots(&group, &current, |_| true).await?;
        snapshot::check_none(&self.name, &group, &current, "removed")?;
        thin::check_no_clone(&self.name, &group, &current)?;
        let group = self.release_new_space(&group, found.uuid).await?;
        let (_, found) = self.current(&group, volume)?;
        // From now on, it is not searched on other disks, also if this call does not learn that it is gone.
        self.forget(&volume.name);
        let removed = self.remove_volume(&group, found).await;
        if removed.is_err() && self.group().await.is_ok_and(|group| volume::is_recorded(&group, &volume.name)) {
            self.remember(std::slice::from_ref(volume));
        }
        removed
    }
}

#[cfg(test)]
mod testing {
    use quarry_lvm::InvalidUuid;

    /// A UUID that begins with that label, as far as a UUID can.
    pub(super) fn uuid<T: std::str::FromStr<Err = InvalidUuid>>(label: &str) -> T {
        let plain: String = label.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{plain:0<32}").parse().unwrap()
    }
}
