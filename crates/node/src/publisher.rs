//! The publisher: what this node tells of its pools and volumes, and everyone who follows it.
//!
//! A controller knows nothing but what it is told here. So three things must hold: what is told was read from the
//! storage, at one instant for each pool; what was read later is told later, and numbered; and a volume is called gone
//! only after its pool was read completely.
//!
//! Pools are read one at a time each, and independently: one that hangs delays no updates of the others. After our own
//! changes the pool is read before the caller is answered. Changes from outside are looked for only while somebody
//! listens: when the kernel tells of devices, and every few seconds. Such a look compares the disks' headers; it runs no
//! program unless something changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use quarry_pool::{Pool, PoolVolume, Reading, Recorded, State, Volumes};
use quarry_volume::{Change, Condition, Greeting, PoolState, Space, Volume, VolumeId};
use tokio::sync::broadcast;

use self::difference::difference;
use crate::health;

mod difference;
mod listener;
mod watch;

/// How many changes a listener may be behind before it gets everything anew.
const BACKLOG: usize = 256;

/// What this node tells. Cheap to clone; all clones are the same publisher.
#[derive(Clone)]
pub(crate) struct StatePublisher {
    inner: Arc<Inner>,
}

struct Inner {
    greeting: Greeting,
    pools: Vec<Arc<dyn Pool>>,
    /// Held while the pool of the same index is read, and until the publisher shows what was read: so that the publisher never
    /// goes back.
    turns: Vec<tokio::sync::Mutex<()>>,
    told: Mutex<Told>,
    /// What is wrong with the filesystems of volumes in use, as seen by the latest look at each: no pool knows it.
    ailing: Mutex<BTreeMap<VolumeId, String>>,
    /// Everything that is told goes through here while [`Told`] is locked: in the order of the generations.
    updates: broadcast::Sender<Arc<Change>>,
}

struct Told {
    generation: u64,
    /// As [`Inner::pools`].
    pools: Vec<Known>,
}

/// What is told of one pool.
struct Known {
    state: PoolState,
    /// Sorted by their identifiers.
    volumes: Vec<Volume>,
    /// The mark of the reading that `volumes` come from; `None` if they come from none.
    mark: Option<u64>,
    /// Why volumes that exist could not be prepared by the creation that was tried last.
    failures: HashMap<VolumeId, String>,
    /// Whether a task looks for changes from outside.
    watched: bool,
}

impl StatePublisher {
    pub(crate) fn new(node: &str, pod_uid: String, pools: Vec<Arc<dyn Pool>>) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let greeting = Greeting {
            node: node.to_owned(),
            instance: uuid::Uuid::new_v4().to_string(),
            pod_uid,
            boot_id: boot_id.trim().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: Vec::new(),
        };
        // A later start counts on from a higher number, unless the clock was set back: then the instance tells.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let generation = u64::try_from(since.as_micros()).unwrap_or(1);
        let unread = |pool: &Arc<dyn Pool>| {
            let name = pool.name().to_owned();
            let why = format!("pool {name} has not been read yet");
            let space = Space { closed: Some(why.clone()), ..Space::default() };
            let state = PoolState { name, space, problems: vec![why], ..PoolState::default() };
            Known { state, volumes: Vec::new(), mark: None, failures: HashMap::new(), watched: false }
        };
        let told = Told { generation, pools: pools.iter().map(unread).collect() };
        let turns = pools.iter().map(|_| tokio::sync::Mutex::default()).collect();
        let updates = broadcast::Sender::new(BACKLOG);
        let ailing = Mutex::default();
        Self { inner: Arc::new(Inner { greeting, pools, turns, told: Mutex::new(told), ailing, updates }) }
    }

    pub(crate) fn greeting(&self) -> &Greeting {
        &self.inner.greeting
    }

    /// Reads the pool after a change of ours. Returns what is told of it and of the volume that was changed, with the
    /// generation at which this holds. Where the pool cannot be read just now, our own change is told all the same:
    /// `volume` if it was made, its absence if not.
    pub(crate) async fn changed(&self, pool: &str, id: &VolumeId, volume: Option<Volume>) -> Change {
        if volume.is_none() {
            self.ailing().remove(id);
        }
        let Some(index) = self.index(pool) else { return Change::default() };
        if let Some(known) = self.told().pools.get_mut(index)
            && known.failures.remove(id).is_some()
        {
            known.mark = None;
        }
        let _turn = self.turn(index).await;
        let read = self.read(index).await;
        let mut told = self.told();
        if !read {
            self.note(&mut told, index, id, volume);
        }
        let generation = told.generation;
        let Some(known) = told.pools.get(index) else { return Change::default() };
        // What was read wins: somebody may have removed the volume at once.
        let volumes: Vec<Volume> =
            known.find(id).ok().and_then(|at| known.volumes.get(at)).cloned().into_iter().collect();
        let gone = if volumes.is_empty() { vec![id.clone()] } else { Vec::new() };
        Change { generation, pools: vec![known.state.clone()], volumes, gone }
    }

    /// Notes why a volume that exists could not be prepared. The volume shows this problem until a later creation
    /// prepares it, or it is gone.
    pub(crate) fn failed(&self, pool: &str, id: &VolumeId, why: &str) {
        let Some(index) = self.index(pool) else { return };
        if let Some(known) = self.told().pools.get_mut(index) {
            known.failures.insert(id.clone(), format!("its creation failed, and is to be repeated: {why}"));
            // Publish the next reading even if the storage has not changed.
            known.mark = None;
        }
        self.refresh_soon(pool);
    }

    /// Reads a pool when its turn comes, and tells what is different. Returns whether it could be read.
    async fn refresh(&self, index: usize) -> bool {
        let _turn = self.turn(index).await;
        self.read(index).await
    }

    async fn turn(&self, index: usize) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match self.inner.turns.get(index) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }

    /// Reads a pool whose turn the caller holds.
    async fn read(&self, index: usize) -> bool {
        let Some(pool) = self.inner.pools.get(index) else { return false };
        let known = self.told().pools.get(index).and_then(|known| known.mark);
        let reading = pool.read(known).await;
        self.absorb(index, pool.name(), reading)
    }

    fn absorb(&self, index: usize, pool: &str, reading: Reading) -> bool {
        let Reading { mut state, mark, volumes } = reading;
        let readable = !matches!(volumes, Volumes::Unreadable);
        let volumes = match volumes {
            Volumes::Unreadable | Volumes::Same => None,
            Volumes::All(list) => {
                let node = &self.inner.greeting.node;
                let mut list: Vec<Volume> = list.iter().map(|volume| describe(node, pool, volume)).collect();
                list.sort_unstable_by(|one, other| one.id.cmp(&other.id));
                Some(list)
            }
        };
        let mut told = self.told();
        let Some(known) = told.pools.get_mut(index) else { return readable };
        if !readable {
            state.storage = known.state.storage.clone();
            state.volumes = count(&known.volumes);
        }
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        if let Some(mut volumes) = volumes {
            known.add_failures(&mut volumes);
            self.add_ailing(&mut volumes);
            (changed, gone) = difference(&known.volumes, &volumes);
            known.volumes = volumes;
            known.mark = Some(mark);
        }
        let pools = known.replace(state);
        self.publish(&mut told, Change { generation: 0, pools, volumes: changed, gone });
        readable
    }

    /// Notes what a look at a volume's filesystem has shown: what is wrong with it, or that nothing is. Told from then on.
    pub(crate) fn set_trouble(&self, id: &VolumeId, why: Option<String>) {
        let changed = {
            let mut ailing = self.ailing();
            let before = match &why {
                Some(why) => ailing.insert(id.clone(), why.clone()),
                None => ailing.remove(id),
            };
            before != why
        };
        if !changed {
            return;
        }
        if let Some(why) = why {
            tracing::warn!(volume = %id, why, "a filesystem does not serve");
        }
        // The next reading is compared whatever its mark.
        let pool = self.told().pools.iter_mut().find(|known| known.find(id).is_ok()).map(|known| {
            known.mark = None;
            known.state.name.clone()
        });
        if let Some(pool) = pool {
            self.refresh_soon(&pool);
        }
    }

    /// Adds the problems of their filesystems to these volumes.
    pub(crate) fn add_ailing(&self, volumes: &mut [Volume]) {
        let ailing = self.ailing();
        for volume in volumes.iter_mut().filter(|_| !ailing.is_empty()) {
            if let Some(why) = ailing.get(&volume.id) {
                let separator = if volume.problem.is_empty() { "" } else { "; " };
                volume.problem = format!("{}{separator}{why}", volume.problem);
                if volume.condition.status().is_none() {
                    volume.condition = Condition::FilesystemFailed;
                }
            }
        }
    }

    fn ailing(&self) -> MutexGuard<'_, BTreeMap<VolumeId, String>> {
        self.inner.ailing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters our own change of a pool that cannot be read.
    fn note(&self, told: &mut Told, index: usize, id: &VolumeId, volume: Option<Volume>) {
        let Some(known) = told.pools.get_mut(index) else { return };
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
        // The next complete reading is compared whatever its mark.
        known.mark = None;
        let state = PoolState { volumes: count(&known.volumes), ..known.state.clone() };
        change.pools = known.replace(state);
        self.publish(told, change);
    }

    /// Numbers a change, and sends it to everyone who listens; nothing is no change.
    fn publish(&self, told: &mut Told, change: Change) {
        if change.pools.is_empty() && change.volumes.is_empty() && change.gone.is_empty() {
            return;
        }
        told.generation += 1;
        // It fails where nobody listens.
        let _ = self.inner.updates.send(Arc::new(Change { generation: told.generation, ..change }));
    }

    /// Everything that is told now.
    fn full_state(&self) -> Change {
        let told = self.told();
        Change {
            generation: told.generation,
            pools: told.pools.iter().map(|known| known.state.clone()).collect(),
            volumes: told.pools.iter().flat_map(|known| known.volumes.iter().cloned()).collect(),
            gone: Vec::new(),
        }
    }

    fn index(&self, pool: &str) -> Option<usize> {
        self.inner.pools.iter().position(|candidate| candidate.name() == pool)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.inner.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Where the volume stands, or would stand.
    fn find(&self, id: &VolumeId) -> Result<usize, usize> {
        self.volumes.binary_search_by(|volume| volume.id.cmp(id))
    }

    /// Gives the volumes of a complete reading what is known of their creation, and forgets what is of no other use.
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

    /// Replaces the state; returns it if it is another one.
    fn replace(&mut self, state: PoolState) -> Vec<PoolState> {
        if self.state == state {
            return Vec::new();
        }
        self.state = state.clone();
        vec![state]
    }
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
        size: volume.size,
        pool: pool.to_owned(),
        access: record.map(|record| record.access),
        filesystem: record.and_then(|record| record.filesystem),
        layout: record.map(|record| record.layout),
        // Where the record cannot be read its bytes may be anybody's.
        ready: !matches!(&volume.record, Recorded::Here(record) if record.state == State::New),
        condition: health::condition(volume, problem.is_some()),
        problem: problem.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt as _;
    use quarry_pool::SimulatedPool;
    use quarry_volume::{Agent as _, Filesystem, Update, UpdateStream, VolumeSpec};

    use super::*;
    use crate::Host;

    const LONG: Duration = Duration::from_secs(600);

    /// The volume as it is published next.
    async fn next(updates: &mut UpdateStream) -> Volume {
        loop {
            match updates.next().await.unwrap().unwrap() {
                Update::Change(change) => {
                    if let Some(volume) = change.volumes.first() {
                        return volume.clone();
                    }
                }
                Update::Greeting(_) | Update::FullState(_) => {}
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_filesystem_that_does_not_serve_is_told_until_it_does_again() {
        let pool = SimulatedPool::new("p", 4 << 20, vec![256], Duration::ZERO);
        let host = Host::new("node-1", vec![Arc::new(pool)]);
        let spec = VolumeSpec::mount("a", 40 << 20, Filesystem::Ext4);
        let (volume, _) = host.create(spec, None, LONG).await.unwrap();
        let mut updates = host.watch().await.unwrap();
        // The greeting and the full state: what is known before the full state comes in it, and in no change.
        for _ in 0..2 {
            updates.next().await.unwrap().unwrap();
        }
        host.publisher().set_trouble(&volume.id, None);
        host.publisher().set_trouble(&volume.id, Some("it is shut down".to_owned()));
        let (problem, condition) = ("it is shut down".to_owned(), Condition::FilesystemFailed);
        assert_eq!(next(&mut updates).await, Volume { problem, condition, ..volume.clone() });
        // A reading of the storage does not forget it.
        host.publisher().refresh_soon("p");
        assert_eq!(host.publisher().full_state().volumes[0].problem, "it is shut down");
        host.publisher().set_trouble(&volume.id, None);
        assert_eq!(next(&mut updates).await, volume);
        host.publisher().set_trouble(&volume.id, Some("again".to_owned()));
        assert_eq!(next(&mut updates).await.problem, "again");
        host.delete(&volume.id, LONG).await.unwrap();
        assert!(host.publisher().ailing().is_empty(), "a deleted volume is forgotten");
    }
}
