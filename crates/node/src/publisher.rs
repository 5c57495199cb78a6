//! The state publisher: holds the current state of this node's pools, volumes and snapshots and sends it to all
//! listeners.
//!
//! A controller knows only what it receives from here. So three rules hold: published state was read from the
//! storage, for each pool in one reading; later readings are published later and have higher generations; and
//! a volume is reported as gone only after its pool was read completely.
//!
//! Pools are read independently, so a hanging pool does not delay the updates of others; each pool has at
//! most one reading at a time. After a change by Quarry, the pool is read before the caller gets its
//! response, unless a reading that began after the change is published already. While there are listeners,
//! pools are also read after kernel events and every few seconds, to find changes from outside. Such a
//! reading compares the disks' headers; it runs no program unless something changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};
use quarry_filesystem::Trouble;
use quarry_pool::{Pool, PoolVolume, Reading, Recorded, State, Volumes};
use quarry_volume::{
    COPY, Change, Condition, DISCARD, ENCRYPTION, EXPAND, Greeting, LIMITS, MODIFY_DISCARD, PoolState, SNAPSHOT,
    SNAPSHOT_COPY, Snapshot, SnapshotId, Space, Volume, VolumeId,
};
use tokio::sync::broadcast;

use self::difference::difference;
use crate::copies::Copies;
use crate::limits::Limits;
use crate::snapshot::describe_snapshot;
use crate::{fill, health};

mod difference;
mod listener;
#[cfg(test)]
mod tests;
mod watch;

/// How many changes a listener may be behind before it gets the full state again.
const BACKLOG: usize = 256;

/// The state publisher of one node. Cheap to clone; all clones are the same publisher.
#[derive(Clone)]
pub(crate) struct StatePublisher {
    inner: Arc<Inner>,
}

struct Inner {
    greeting: Greeting,
    pools: Vec<Arc<dyn Pool>>,
    /// The copies that are running. Pools know only what their records say.
    copies: Copies,
    /// The I/O limits of the volumes in use.
    limits: Limits,
    /// The lock of the pool with the same index, held from the start of a reading until it is published, so
    /// that the published state never goes backwards.
    locks: Vec<tokio::sync::Mutex<()>>,
    published: Mutex<Published>,
    /// The problems of the filesystems of volumes in use, from the latest check of each. Pools do not know
    /// them.
    filesystem_problems: Mutex<BTreeMap<VolumeId, FilesystemProblems>>,
    /// Every change is sent here while [`Published`] is locked, so changes are in the order of their
    /// generations.
    updates: broadcast::Sender<Arc<Change>>,
}

struct Published {
    generation: u64,
    /// In the order of [`Inner::pools`].
    pools: Vec<PublishedPool>,
}

/// The published state of one pool.
struct PublishedPool {
    state: PoolState,
    /// Sorted by ID.
    volumes: Vec<Volume>,
    /// Sorted by ID. Those that only serve to clone a volume are not published.
    snapshots: Vec<Snapshot>,
    /// The mark of the reading that `volumes` come from. `None`: publish the next reading even if the storage
    /// has not changed.
    mark: Option<u64>,
    /// How many readings have begun.
    begun: u64,
    /// Which of them was the last successful one, counted from 1.
    shown: u64,
    /// Why the last attempt to create a volume could not prepare it, for volumes that exist.
    failures: HashMap<VolumeId, String>,
    /// Whether a task watches for changes from outside.
    watched: bool,
}

/// The problems of one filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FilesystemProblems {
    /// Why it does not work.
    failed: Option<Trouble>,
    /// Why it could not be made as large as its device.
    growth: Option<String>,
    /// Why discarding its unused space does not end.
    trim: Option<String>,
}

impl StatePublisher {
    pub(crate) fn new(node: &str, pod_uid: String, pools: Vec<Arc<dyn Pool>>, copies: Copies, limits: Limits) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let greeting = Greeting {
            node: node.to_owned(),
            instance: uuid::Uuid::new_v4().to_string(),
            pod_uid,
            boot_id: boot_id.trim().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: capabilities(),
        };
        // A later start begins with a higher generation, unless the clock was set back; then the instance
        // shows the restart.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let generation = u64::try_from(since.as_micros()).unwrap_or(1);
        let unread = |pool: &Arc<dyn Pool>| {
            let name = pool.name().to_owned();
            let why = format!("pool {name} has not been read yet");
            let space = Space { closed: Some(why.clone()), ..Space::default() };
            let state = PoolState { name, space, problems: vec![why], ..PoolState::default() };
            let (volumes, snapshots, failures) = Default::default();
            PublishedPool { state, volumes, snapshots, mark: None, begun: 0, shown: 0, failures, watched: false }
        };
        let published = Published { generation, pools: pools.iter().map(unread).collect() };
        let locks = pools.iter().map(|_| tokio::sync::Mutex::default()).collect();
        let updates = broadcast::Sender::new(BACKLOG);
        let filesystem_problems = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                greeting,
                pools,
                copies,
                limits,
                locks,
                published: Mutex::new(published),
                filesystem_problems,
                updates,
            }),
        }
    }

    pub(crate) fn greeting(&self) -> &Greeting {
        &self.inner.greeting
    }

    /// How many readings of the pool have begun. A later one shows what the caller changed before it asked.
    pub(crate) fn readings(&self, pool: &str) -> u64 {
        let known = self.index(pool).and_then(|index| Some(self.published().pools.get(index)?.begun));
        known.unwrap_or(u64::MAX)
    }

    /// Reads the pool after a change by Quarry. Returns the published state of the pool and of the changed
    /// volume, with its generation. If the pool cannot be read now, the change is published anyway: `volume`
    /// if it was created, its absence otherwise.
    pub(crate) async fn changed(&self, pool: &str, id: &VolumeId, volume: Option<Volume>) -> Change {
        self.changed_since(pool, id, volume, None).await
    }

    /// Like [`Self::changed`], but reads the pool only if no reading later than number `since` is published; see
    /// [`Self::readings`].
    pub(crate) async fn changed_since(
        &self,
        pool: &str,
        id: &VolumeId,
        volume: Option<Volume>,
        since: Option<u64>,
    ) -> Change {
        if volume.is_none() {
            self.filesystem_problems().remove(id);
        }
        let Some(index) = self.index(pool) else { return Change::default() };
        if let Some(known) = self.published().pools.get_mut(index)
            && known.failures.remove(id).is_some()
        {
            known.mark = None;
        }
        let _lock = self.lock_pool(index).await;
        let read = since.is_some_and(|since| self.is_shown(index, since)) || self.read(index).await;
        let mut published = self.published();
        if !read {
            self.publish_own_change(&mut published, index, id, volume);
        }
        let generation = published.generation;
        let Some(known) = published.pools.get(index) else { return Change::default() };
        // The reading wins: the volume may have been removed immediately.
        let volumes: Vec<Volume> =
            known.find(id).ok().and_then(|at| known.volumes.get(at)).cloned().into_iter().collect();
        let gone = if volumes.is_empty() { vec![id.clone()] } else { Vec::new() };
        Change { generation, pools: vec![known.state.clone()], volumes, gone, ..Change::default() }
    }

    /// Whether the last reading of the pool was successful, began after number `since`, and is published as it is.
    fn is_shown(&self, index: usize, since: u64) -> bool {
        let published = self.published();
        published
            .pools
            .get(index)
            .is_some_and(|known| known.mark.is_some() && known.shown == known.begun && known.shown > since)
    }

    /// Like [`Self::changed`], for a snapshot: `snapshot` if it was taken, its absence otherwise.
    pub(crate) async fn changed_snapshot(&self, pool: &str, id: &SnapshotId, snapshot: Option<Snapshot>) -> Change {
        let Some(index) = self.index(pool) else { return Change::default() };
        let _lock = self.lock_pool(index).await;
        let read = self.read(index).await;
        let mut published = self.published();
        if !read && let Some(known) = published.pools.get_mut(index) {
            let mut snapshots = known.snapshots.clone();
            snapshots.retain(|known| known.id != *id);
            snapshots.extend(snapshot);
            let (snapshots, gone_snapshots) = known.replace_snapshots(snapshots);
            self.publish(&mut published, Change { snapshots, gone_snapshots, ..Change::default() });
        }
        let generation = published.generation;
        let Some(known) = published.pools.get(index) else { return Change::default() };
        let snapshots: Vec<_> = known.snapshots.iter().filter(|known| known.id == *id).cloned().collect();
        let gone_snapshots = if snapshots.is_empty() { vec![id.clone()] } else { Vec::new() };
        Change { generation, pools: vec![known.state.clone()], snapshots, gone_snapshots, ..Change::default() }
    }

    /// Stores why an existing volume could not be prepared. The volume shows this problem until a later
    /// creation prepares it, or until it is gone.
    pub(crate) fn failed(&self, pool: &str, id: &VolumeId, why: &str) {
        let Some(index) = self.index(pool) else { return };
        if let Some(known) = self.published().pools.get_mut(index) {
            known.failures.insert(id.clone(), format!("its creation failed and must be retried: {why}"));
            // Publish the next reading even if the storage has not changed.
            known.mark = None;
        }
        self.refresh_soon(pool);
    }

    /// Waits for the pool's lock, reads the pool, and publishes the differences. Returns whether it could be
    /// read.
    async fn refresh(&self, index: usize) -> bool {
        let _lock = self.lock_pool(index).await;
        self.read(index).await
    }

    async fn lock_pool(&self, index: usize) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match self.inner.locks.get(index) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }

    /// Reads a pool whose lock the caller holds.
    async fn read(&self, index: usize) -> bool {
        let Some(pool) = self.inner.pools.get(index) else { return false };
        let known = self.published().pools.get_mut(index).and_then(|known| {
            known.begun += 1;
            known.mark
        });
        // The progress of a copy changes although the storage does not.
        let known = known.filter(|_| !self.inner.copies.fill_pool(pool.name()) && !self.limits_differ(index));
        let reading = pool.read(known).await;
        self.publish_reading(index, pool.name(), reading)
    }

    /// Whether other limits of the volumes are in force than is published.
    fn limits_differ(&self, index: usize) -> bool {
        let problems = self.inner.limits.problems().volumes;
        let published = self.published();
        let Some(known) = published.pools.get(index) else { return false };
        let now = |volume: &Volume| problems.get(&volume.id).map_or("", |(_, why)| why);
        known.volumes.iter().any(|volume| volume.limits_problem != now(volume))
    }

    fn publish_reading(&self, index: usize, pool: &str, reading: Reading) -> bool {
        let Reading { mut state, mark, volumes, snapshots } = reading;
        state.hints.extend(self.inner.limits.hint(pool));
        let node = &self.inner.greeting.node;
        let listed = snapshots.iter().filter(|snapshot| !snapshot.record.serves());
        let mut snapshots: Vec<Snapshot> = listed.map(|snapshot| describe_snapshot(node, pool, snapshot)).collect();
        self.inner.copies.show_snapshots(pool, &mut snapshots);
        let readable = !matches!(volumes, Volumes::Unreadable);
        let volumes = match volumes {
            Volumes::Unreadable | Volumes::Same => None,
            Volumes::All(list) => {
                let mut list: Vec<Volume> = list.iter().map(|volume| describe(node, pool, volume)).collect();
                list.sort_unstable_by(|one, other| one.id.cmp(&other.id));
                self.inner.copies.show(pool, &mut list);
                let mut problems = self.inner.limits.problems().volumes;
                for volume in &mut list {
                    volume.limits_problem = problems.remove(&volume.id).map(|(_, why)| why).unwrap_or_default();
                }
                Some(list)
            }
        };
        let mut published = self.published();
        let Some(known) = published.pools.get_mut(index) else { return readable };
        if readable {
            known.shown = known.begun;
        } else {
            state.storage = known.state.storage.clone();
            state.volumes = count(&known.volumes);
        }
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        if let Some(mut volumes) = volumes {
            known.add_failures(&mut volumes);
            self.add_filesystem_problems(&mut volumes);
            (changed, gone) = difference(&known.volumes, &volumes, |volume| &volume.id);
            // Also those that were removed by hand.
            self.filesystem_problems().retain(|id, _| !gone.contains(id));
            known.volumes = volumes;
            known.mark = Some(mark);
        }
        let (snapshots, gone_snapshots) =
            if readable { known.replace_snapshots(snapshots) } else { Default::default() };
        let pools = known.replace(state);
        self.publish(
            &mut published,
            Change { generation: 0, pools, volumes: changed, gone, snapshots, gone_snapshots },
        );
        readable
    }

    /// Stores and publishes the result of a check of a volume's filesystem: its problem, or `None`. `read_only`: the check
    /// was made through a read-only mount, which does not show whether the kernel made the filesystem read-only. So it does
    /// not show either that this is over.
    pub(crate) fn set_filesystem_problem(&self, id: &VolumeId, trouble: Option<Trouble>, read_only: bool) {
        let is_new = self.change_problems(id, |problems| {
            if !(read_only && trouble.is_none() && matches!(problems.failed, Some(Trouble::ReadOnly(_)))) {
                problems.failed.clone_from(&trouble);
            }
        });
        if let Some(why) = trouble.filter(|_| is_new) {
            tracing::warn!(volume = %id, %why, "a filesystem has failed");
        }
    }

    /// Stores and publishes why the filesystem of a volume could not be made as large as its device, or `None`.
    pub(crate) fn set_growth_problem(&self, id: &VolumeId, why: Option<String>) {
        if self.change_problems(id, |problems| problems.growth.clone_from(&why))
            && let Some(why) = why
        {
            tracing::warn!(volume = %id, why, "a filesystem could not be grown");
        }
    }

    /// Stores and publishes why discarding the unused space of a volume does not end, or `None`.
    pub(crate) fn set_trim_problem(&self, id: &VolumeId, why: Option<String>) {
        if self.change_problems(id, |problems| problems.trim.clone_from(&why))
            && let Some(why) = why
        {
            tracing::warn!(volume = %id, why, "the trim of a filesystem is overdue");
        }
    }

    /// Returns whether they are others than before.
    fn change_problems(&self, id: &VolumeId, change: impl FnOnce(&mut FilesystemProblems)) -> bool {
        {
            let mut all = self.filesystem_problems();
            let before = all.get(id).cloned().unwrap_or_default();
            let mut problems = before.clone();
            change(&mut problems);
            if problems == before {
                return false;
            }
            if problems == FilesystemProblems::default() {
                all.remove(id);
            } else {
                all.insert(id.clone(), problems);
            }
        }
        // Publish the next reading even if the storage has not changed.
        let pool = self.published().pools.iter_mut().find(|known| known.find(id).is_ok()).map(|known| {
            known.mark = None;
            known.state.name.clone()
        });
        if let Some(pool) = pool {
            self.refresh_soon(&pool);
        }
        true
    }

    /// Adds the problems of filesystems to these volumes.
    pub(crate) fn add_filesystem_problems(&self, volumes: &mut [Volume]) {
        let all = self.filesystem_problems();
        for volume in volumes.iter_mut().filter(|_| !all.is_empty()) {
            let Some(FilesystemProblems { failed, growth, trim }) = all.get(&volume.id) else { continue };
            let failed = failed.as_ref().map(Trouble::to_string);
            let problems = [
                (failed, Condition::FilesystemFailed),
                (growth.clone(), Condition::Other),
                (trim.clone(), Condition::Other),
            ];
            for (why, condition) in problems.into_iter().filter_map(|(why, condition)| Some((why?, condition))) {
                let separator = if volume.problem.is_empty() { "" } else { "; " };
                volume.problem = format!("{}{separator}{why}", volume.problem);
                if volume.condition == Condition::Healthy {
                    volume.condition = condition;
                }
            }
        }
    }

    fn filesystem_problems(&self) -> MutexGuard<'_, BTreeMap<VolumeId, FilesystemProblems>> {
        self.inner.filesystem_problems.lock()
    }

    /// Publishes a change by Quarry in a pool that cannot be read.
    fn publish_own_change(&self, published: &mut Published, index: usize, id: &VolumeId, volume: Option<Volume>) {
        let Some(known) = published.pools.get_mut(index) else { return };
        let mut change = Change::default();
        match (known.find(id), volume) {
            (Ok(at), Some(volume)) => {
                if let Some(old) = known.volumes.get_mut(at).filter(|old| **old != volume) {
                    *old = volume.clone();
                    change.volumes.push(volume);
                }
            }
            (Err(at), Some(volume)) => {
                known.volumes.insert(at, volume.clone());
                change.volumes.push(volume);
            }
            (Ok(at), None) => {
                known.volumes.remove(at);
                change.gone.push(id.clone());
            }
            (Err(_), None) => {}
        }
        // Publish the next complete reading even if the storage has not changed.
        known.mark = None;
        let state = PoolState { volumes: count(&known.volumes), ..known.state.clone() };
        change.pools = known.replace(state);
        self.publish(published, change);
    }

    /// Gives a change its generation and sends it to all listeners. Does nothing if the change is empty.
    fn publish(&self, published: &mut Published, change: Change) {
        if change == Change::default() {
            return;
        }
        published.generation += 1;
        // The send fails if there are no listeners.
        let _ = self.inner.updates.send(Arc::new(Change { generation: published.generation, ..change }));
    }

    /// The full state that is published now.
    fn full_state(&self) -> Change {
        let published = self.published();
        Change {
            generation: published.generation,
            pools: published.pools.iter().map(|known| known.state.clone()).collect(),
            volumes: published.pools.iter().flat_map(|known| known.volumes.iter().cloned()).collect(),
            snapshots: published.pools.iter().flat_map(|known| known.snapshots.iter().cloned()).collect(),
            ..Change::default()
        }
    }

    fn index(&self, pool: &str) -> Option<usize> {
        self.inner.pools.iter().position(|candidate| candidate.name() == pool)
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.inner.published.lock()
    }
}

impl PublishedPool {
    /// The index of the volume, or where it would be inserted.
    fn find(&self, id: &VolumeId) -> Result<usize, usize> {
        self.volumes.binary_search_by(|volume| volume.id.cmp(id))
    }

    /// Adds failed creations to the volumes of a complete reading, and drops the failures of all other
    /// volumes.
    fn add_failures(&mut self, volumes: &mut [Volume]) {
        let mut failures = std::mem::take(&mut self.failures);
        for volume in volumes.iter_mut().filter(|volume| !volume.ready) {
            let Some((id, why)) = failures.remove_entry(&volume.id) else { continue };
            if volume.problem.is_empty() {
                volume.problem.clone_from(&why);
            }
            self.failures.insert(id, why);
        }
    }

    /// Replaces the snapshots; returns those that are new or different, and those that are gone.
    fn replace_snapshots(&mut self, mut snapshots: Vec<Snapshot>) -> (Vec<Snapshot>, Vec<SnapshotId>) {
        snapshots.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        let difference = difference(&self.snapshots, &snapshots, |snapshot| &snapshot.id);
        self.snapshots = snapshots;
        difference
    }

    /// Replaces the state; returns it if it is different.
    fn replace(&mut self, state: PoolState) -> Vec<PoolState> {
        if self.state == state {
            return Vec::new();
        }
        self.state = state.clone();
        vec![state]
    }
}

/// What the agent on this host can do beyond the first version of the protocol.
fn capabilities() -> Vec<String> {
    let can_encrypt = quarry_exec::missing_tools(&[quarry_encryption::TOOL.0]).is_empty();
    let always = [EXPAND, SNAPSHOT, COPY, SNAPSHOT_COPY, DISCARD, LIMITS, MODIFY_DISCARD];
    always.into_iter().chain(can_encrypt.then_some(ENCRYPTION)).map(str::to_owned).collect()
}

fn count(volumes: &[Volume]) -> u64 {
    u64::try_from(volumes.len()).unwrap_or(u64::MAX)
}

/// A volume of this node as controllers see it.
pub(crate) fn describe(node: &str, pool: &str, volume: &PoolVolume) -> Volume {
    let (record, unread) = match volume.record() {
        Ok(record) => (Some(record), None),
        Err(error) => (None, Some(error.message)),
    };
    let problem = match volume.health.problem() {
        Some(why) => Some(why.to_owned()),
        None => unread.or_else(|| volume.renamed()),
    };
    Volume {
        id: VolumeId { storage: volume.storage.clone(), node: node.to_owned(), volume: volume.name.clone() },
        name: record.map_or_else(|| volume.name.clone(), |record| record.name.clone()),
        size: volume.usable_size(),
        pool: pool.to_owned(),
        access: record.map(|record| record.access),
        filesystem: record.and_then(|record| record.filesystem),
        layout: record.map(|record| record.layout),
        // Without a readable record, its bytes may belong to a user.
        ready: !matches!(&volume.record, Recorded::Here(record) if record.state == State::New),
        condition: health::condition(volume, problem.is_some()),
        problem: problem.unwrap_or_default(),
        source: record.and_then(|record| record.source.clone()),
        copying: record.filter(|record| record.filling).map(|record| fill::copied(record, volume.size)),
        limits: record.map(|record| record.limits).unwrap_or_default(),
        limits_problem: String::new(),
        encryption: record.and_then(|record| record.encryption),
    }
}
