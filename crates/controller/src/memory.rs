//! What the controller remembers of one node: the pools and volumes that its stream of updates told of.
//!
//! Nothing here decides anything: the node does. Memory answers GetCapacity and ListVolumes, and puts candidates in
//! order. Replies to creations and deletions come ahead of the stream; whatever has the higher generation is newer.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use quarry_volume::{Capacity, Change, Greeting, Parameters, PoolState, Volume, VolumeId};
use tokio::time::Instant;

/// For how long a node that cannot be heard is still believed to have the room that it had.
const TRUSTED: Duration = Duration::from_secs(30);
/// For how long after that nothing is said of its room: its plugin may be just restarting, and external-provisioner leaves the
/// figures that it published as they are. A node that is away for longer has no room, so that pods go elsewhere.
pub(crate) const RESTARTING: Duration = Duration::from_secs(120);

/// A volume, in the order of its identifier.
#[derive(Clone, Debug)]
struct Known {
    volume: Volume,
    /// When this was so, in the node's count.
    generation: u64,
    /// Since when this controller knows of it.
    since: Instant,
}

impl Borrow<VolumeId> for Known {
    fn borrow(&self) -> &VolumeId {
        &self.volume.id
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.volume.id == other.volume.id
    }
}

impl Eq for Known {}

impl PartialOrd for Known {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Known {
    fn cmp(&self, other: &Self) -> Ordering {
        self.volume.id.cmp(&other.volume.id)
    }
}

/// What is known of one node.
#[derive(Debug)]
pub(crate) struct Memory {
    greeting: Option<Greeting>,
    pools: BTreeMap<String, (u64, PoolState)>,
    volumes: BTreeSet<Known>,
    /// Volumes that a reply said are gone, until the stream has caught up with it.
    gone: HashMap<VolumeId, u64>,
    /// The generation up to which the stream has told everything.
    told: u64,
    /// Since when the node is not heard; `None` while it is.
    silent: Option<Instant>,
}

impl Memory {
    /// Nothing is known yet, and the node is not heard.
    pub(crate) fn new() -> Self {
        Self {
            greeting: None,
            pools: BTreeMap::new(),
            volumes: BTreeSet::new(),
            gone: HashMap::new(),
            told: 0,
            silent: Some(Instant::now()),
        }
    }

    /// A full state opens a stream.
    pub(crate) fn full_state(&mut self, greeting: Greeting, full_state: Change) {
        // Another run of the agent counts anew; replies of the run before say nothing against this one.
        let same = self.greeting.as_ref().is_some_and(|before| before.instance == greeting.instance);
        let since: BTreeMap<VolumeId, Instant> =
            self.volumes.iter().map(|known| (known.volume.id.clone(), known.since)).collect();
        if same {
            let generation = full_state.generation;
            self.pools.retain(|_, (of, _)| *of > generation);
            self.volumes.retain(|known| known.generation > generation);
            self.gone.retain(|_, of| *of > generation);
        } else {
            self.pools.clear();
            self.volumes.clear();
            self.gone.clear();
        }
        self.greeting = Some(greeting);
        self.silent = None;
        self.told = full_state.generation;
        self.merge(full_state, &since);
    }

    /// The stream tells of a change.
    pub(crate) fn updates(&mut self, change: Change) {
        self.told = self.told.max(change.generation);
        self.merge(change, &BTreeMap::new());
        let told = self.told;
        self.gone.retain(|_, of| *of > told);
    }

    /// A reply of the agent's run `instance` tells of its change.
    pub(crate) fn reply(&mut self, instance: &str, change: Change) {
        if self.greeting.as_ref().is_some_and(|greeting| greeting.instance == instance) {
            self.merge(change, &BTreeMap::new());
        }
    }

    fn merge(&mut self, change: Change, since: &BTreeMap<VolumeId, Instant>) {
        let generation = change.generation;
        for pool in change.pools {
            match self.pools.get(&pool.name) {
                Some((of, _)) if *of > generation => {}
                _ => drop(self.pools.insert(pool.name.clone(), (generation, pool))),
            }
        }
        let now = Instant::now();
        for volume in change.volumes {
            let known = self.volumes.get(&volume.id);
            if self.gone.get(&volume.id).is_some_and(|of| *of > generation)
                || known.is_some_and(|known| known.generation > generation)
            {
                continue;
            }
            let since = known.map(|known| known.since).or_else(|| since.get(&volume.id).copied()).unwrap_or(now);
            self.gone.remove(&volume.id);
            self.volumes.replace(Known { volume, generation, since });
        }
        for id in change.gone {
            if self.volumes.get(&id).is_some_and(|known| known.generation > generation) {
                continue;
            }
            self.volumes.remove(&id);
            if generation > self.told {
                self.gone.insert(id, generation);
            }
        }
    }

    /// The node is not heard any more.
    pub(crate) fn silence(&mut self) {
        self.silent.get_or_insert_with(Instant::now);
    }

    /// Who the node said it is.
    pub(crate) fn greeting(&self) -> Option<&Greeting> {
        self.greeting.as_ref()
    }

    /// Its pools, by name.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &PoolState> {
        self.pools.values().map(|(_, pool)| pool)
    }

    /// Its volumes after `after`, in the order of their identifiers.
    pub(crate) fn volumes(&self, after: Option<&VolumeId>) -> impl Iterator<Item = &Volume> {
        use std::ops::Bound::{Excluded, Unbounded};

        let start = after.map_or(Unbounded, Excluded);
        self.volumes.range::<VolumeId, _>((start, Unbounded)).map(|known| &known.volume)
    }

    /// Its volumes that have been known for at least `age`.
    pub(crate) fn older(&self, age: Duration) -> impl Iterator<Item = &Volume> {
        self.volumes.iter().filter(move |known| known.since.elapsed() >= age).map(|known| &known.volume)
    }

    /// As [`Memory::volumes`], each with how long this controller has known of it.
    pub(crate) fn aged(&self, after: Option<&VolumeId>) -> impl Iterator<Item = (&Volume, Duration)> {
        use std::ops::Bound::{Excluded, Unbounded};

        let start = after.map_or(Unbounded, Excluded);
        self.volumes.range::<VolumeId, _>((start, Unbounded)).map(|known| (&known.volume, known.since.elapsed()))
    }

    /// How many volumes it has.
    pub(crate) fn count(&self) -> usize {
        self.volumes.len()
    }

    /// What the named pool (all pools, when none is named) can give; nothing when the node has not been heard for minutes.
    /// `None` if that is not known: nothing was heard yet, or not any more for [`TRUSTED`] and not yet for [`RESTARTING`].
    pub(crate) fn capacity(&self, parameters: &Parameters) -> Option<Capacity> {
        match self.silent.map(|since| since.elapsed()) {
            Some(silent) if silent > RESTARTING => return Some(Capacity::default()),
            Some(silent) if silent > TRUSTED => return None,
            _ => self.greeting.as_ref()?,
        };
        let named = |pool: &&PoolState| parameters.pool.as_ref().is_none_or(|name| pool.name == *name);
        // Only whole disks are wiped.
        let wipes = |pool: &&PoolState| parameters.wipe.is_none() || pool.space.whole;
        let asked = self.pools().filter(named).filter(wipes);
        Some(asked.fold(Capacity::default(), |sum, pool| sum.and(pool.space.capacity(&parameters.layout))))
    }
}

#[cfg(test)]
mod tests {
    use quarry_volume::{AccessTypes, Condition, Layout, Space, StorageId, Wipe};

    use super::*;

    fn class(pool: Option<&str>) -> Parameters {
        Parameters { pool: pool.map(str::to_owned), ..Parameters::default() }
    }

    fn volume(name: &str, size: u64) -> Volume {
        Volume {
            id: VolumeId { storage: StorageId::of("vg"), node: "n".into(), volume: name.into() },
            name: name.into(),
            size,
            pool: "p".into(),
            access: Some(AccessTypes::Block),
            filesystem: None,
            layout: Some(Layout::Linear),
            ready: false,
            problem: String::new(),
            condition: Condition::Healthy,
        }
    }

    fn pool(free: u64) -> PoolState {
        let space = Space { extent: 1, free: vec![free], ..Space::default() };
        PoolState { name: "p".into(), space, ..PoolState::default() }
    }

    fn greeting(instance: &str) -> Greeting {
        Greeting { node: "n".into(), instance: instance.into(), ..Greeting::default() }
    }

    fn change(generation: u64, free: u64, volumes: &[(&str, u64)], gone: &[&str]) -> Change {
        Change {
            generation,
            pools: vec![pool(free)],
            volumes: volumes.iter().map(|(name, size)| volume(name, *size)).collect(),
            gone: gone.iter().map(|name| volume(name, 0).id).collect(),
        }
    }

    fn names(memory: &Memory) -> Vec<&str> {
        memory.volumes(None).map(|volume| volume.name.as_str()).collect()
    }

    fn free(memory: &Memory) -> u64 {
        memory.capacity(&class(Some("p"))).unwrap().available
    }

    #[tokio::test]
    async fn a_reply_ahead_of_the_stream_is_not_taken_back_by_older_news() {
        let mut memory = Memory::new();
        memory.full_state(greeting("1"), change(10, 100, &[("a", 1)], &[]));
        memory.reply("1", change(12, 80, &[("b", 1)], &[]));
        memory.reply("1", change(13, 90, &[], &["a"]));
        assert_eq!((names(&memory), free(&memory)), (vec!["b"], 90));
        memory.updates(change(11, 70, &[("a", 2)], &[]));
        assert_eq!((names(&memory), free(&memory)), (vec!["b"], 90));
        memory.updates(change(14, 95, &[("a", 3)], &["b"]));
        assert_eq!((names(&memory), free(&memory)), (vec!["a"], 95));
        assert!(memory.gone.is_empty());
    }

    #[tokio::test]
    async fn a_new_picture_replaces_all_but_what_is_newer() {
        let mut memory = Memory::new();
        memory.full_state(greeting("1"), change(10, 100, &[("a", 1), ("c", 1)], &[]));
        memory.reply("1", change(15, 80, &[("b", 1)], &["c"]));
        memory.full_state(greeting("1"), change(12, 100, &[("c", 1)], &[]));
        assert_eq!((names(&memory), free(&memory)), (vec!["b"], 80));
        // After a restart of the agent its count is another one.
        memory.full_state(greeting("2"), change(3, 60, &[("d", 1)], &[]));
        assert_eq!((names(&memory), free(&memory)), (vec!["d"], 60));
        memory.reply("1", change(99, 1, &[("z", 1)], &[]));
        assert_eq!((names(&memory), free(&memory)), (vec!["d"], 60));
    }

    #[tokio::test]
    async fn a_class_that_wipes_gets_whole_disks_only() {
        let mut memory = Memory::new();
        let whole = PoolState { name: "q".into(), ..pool(7) };
        let whole = PoolState { space: Space { whole: true, ..whole.space.clone() }, ..whole };
        memory.full_state(greeting("1"), Change { pools: vec![pool(100), whole], ..change(1, 0, &[], &[]) });
        let wiping = |pool| Parameters { wipe: Some(Wipe::Zero), ..class(pool) };
        let available = |class| memory.capacity(&class).unwrap().available;
        assert_eq!(available(class(None)), 107);
        assert_eq!([wiping(None), wiping(Some("p")), wiping(Some("q"))].map(available), [7, 0, 7]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_loses_its_room_after_a_while() {
        let mut memory = Memory::new();
        assert_eq!(memory.capacity(&class(None)), None);
        memory.full_state(greeting("1"), change(1, 100, &[("a", 1)], &[]));
        memory.silence();
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(free(&memory), 100);
        // It may be restarting: an error leaves the figures that were published.
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(memory.capacity(&class(None)), None);
        tokio::time::advance(RESTARTING - Duration::from_secs(32)).await;
        assert_eq!(memory.capacity(&class(None)), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(free(&memory), 0);
        // Its volumes are not forgotten.
        assert_eq!(names(&memory), ["a"]);
        memory.full_state(greeting("1"), change(2, 70, &[("a", 1)], &[]));
        assert_eq!(free(&memory), 70);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_never_heard_has_no_room_after_a_while() {
        let memory = Memory::new();
        tokio::time::advance(RESTARTING - Duration::from_secs(1)).await;
        assert_eq!(memory.capacity(&class(None)), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(free(&memory), 0);
    }
}
