//! What the controller remembers about one node: the pools, volumes and snapshots from its stream of updates.
//!
//! Memory is never authoritative: the node is. Memory answers GetCapacity, ListVolumes and ListSnapshots, and
//! orders candidates. Replies to creations and deletions arrive ahead of the stream; the higher generation is
//! the newer one.

mod known;

use std::collections::BTreeMap;
use std::time::Duration;

use quarry_volume::{
    Capacity, Change, ENCRYPTION, Greeting, Parameters, PoolState, Snapshot, SnapshotId, Volume, VolumeId,
};
use tokio::time::Instant;

use self::known::{Ages, Items};

/// How long a disconnected node is assumed to still have the free space that it last reported.
const TRUSTED: Duration = Duration::from_secs(30);
/// How long after that its free space is unknown: its plugin may be restarting, and external-provisioner
/// leaves the published figures unchanged. After that, a disconnected node has no free space, so that pods go
/// to other nodes.
pub(crate) const RESTARTING: Duration = Duration::from_secs(120);

/// The state of one node, as far as it is known.
#[derive(Debug)]
pub(crate) struct Memory {
    greeting: Option<Greeting>,
    pools: BTreeMap<String, (u64, PoolState)>,
    volumes: Items<Volume>,
    snapshots: Items<Snapshot>,
    /// The generation up to which the stream is complete.
    stream_generation: u64,
    /// When the node was disconnected; `None` while it is connected.
    disconnected: Option<Instant>,
}

impl Memory {
    /// Nothing is known yet, and the node is not connected.
    pub(crate) fn new() -> Self {
        Self {
            greeting: None,
            pools: BTreeMap::new(),
            volumes: Items::new(),
            snapshots: Items::new(),
            stream_generation: 0,
            disconnected: Some(Instant::now()),
        }
    }

    /// Replaces what is known with the full state that opens a stream.
    pub(crate) fn full_state(&mut self, greeting: Greeting, full_state: Change) {
        // A new run of the agent starts counting again, so replies of the previous run say nothing about this
        // one.
        let same = self.greeting.as_ref().is_some_and(|before| before.instance == greeting.instance);
        let kept = same.then_some(full_state.generation);
        match kept {
            Some(generation) => self.pools.retain(|_, (of, _)| *of > generation),
            None => self.pools.clear(),
        }
        let ages = (self.volumes.forget(kept), self.snapshots.forget(kept));
        self.greeting = Some(greeting);
        self.disconnected = None;
        self.stream_generation = full_state.generation;
        self.merge(full_state, &ages);
    }

    /// Applies a change from the stream.
    pub(crate) fn update(&mut self, change: Change) {
        self.stream_generation = self.stream_generation.max(change.generation);
        self.merge(change, &Default::default());
        self.volumes.caught_up(self.stream_generation);
        self.snapshots.caught_up(self.stream_generation);
    }

    /// Applies the change in a reply of the agent's run `instance`.
    pub(crate) fn reply(&mut self, instance: &str, change: Change) {
        if self.greeting.as_ref().is_some_and(|greeting| greeting.instance == instance) {
            self.merge(change, &Default::default());
        }
    }

    fn merge(&mut self, change: Change, (volume_ages, snapshot_ages): &(Ages<Volume>, Ages<Snapshot>)) {
        let Change { generation, pools, volumes, gone, snapshots, gone_snapshots } = change;
        for pool in pools {
            match self.pools.get(&pool.name) {
                Some((of, _)) if *of > generation => {}
                _ => drop(self.pools.insert(pool.name.clone(), (generation, pool))),
            }
        }
        let complete = self.stream_generation;
        self.volumes.merge(volumes, gone, generation, complete, volume_ages);
        self.snapshots.merge(snapshots, gone_snapshots, generation, complete, snapshot_ages);
    }

    /// The connection to the node is lost.
    pub(crate) fn disconnect(&mut self) {
        self.disconnected.get_or_insert_with(Instant::now);
    }

    /// The greeting of the node's agent.
    pub(crate) fn greeting(&self) -> Option<&Greeting> {
        self.greeting.as_ref()
    }

    /// Its pools, by name.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &PoolState> {
        self.pools.values().map(|(_, pool)| pool)
    }

    /// Its volumes after `after`, ordered by identifier.
    pub(crate) fn volumes(&self, after: Option<&VolumeId>) -> impl Iterator<Item = &Volume> {
        self.aged(after).map(|(volume, _)| volume)
    }

    /// Its volumes that have been known for at least `age`.
    pub(crate) fn older(&self, age: Duration) -> impl Iterator<Item = &Volume> {
        self.aged(None).filter(move |(_, known)| *known >= age).map(|(volume, _)| volume)
    }

    /// Like [`Memory::volumes`], each with how long this controller has known it.
    pub(crate) fn aged(&self, after: Option<&VolumeId>) -> impl Iterator<Item = (&Volume, Duration)> {
        self.volumes.after(after)
    }

    /// The number of volumes.
    pub(crate) fn count(&self) -> usize {
        self.volumes.len()
    }

    /// Its snapshots after `after`, ordered by identifier.
    pub(crate) fn snapshots(&self, after: Option<&SnapshotId>) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.after(after).map(|(snapshot, _)| snapshot)
    }

    /// The number of snapshots.
    pub(crate) fn count_snapshots(&self) -> usize {
        self.snapshots.len()
    }

    /// What the named pool (or all pools, if `parameters` names none) can allocate for volumes with these
    /// parameters; nothing if the node has been disconnected for minutes. `None` if that is not known: the
    /// node has not reported yet, or it has been disconnected for longer than [`TRUSTED`] but not yet for
    /// [`RESTARTING`].
    pub(crate) fn capacity(&self, parameters: &Parameters) -> Option<Capacity> {
        match self.disconnected.map(|since| since.elapsed()) {
            Some(length) if length > RESTARTING => return Some(Capacity::default()),
            Some(length) if length > TRUSTED => return None,
            _ => {
                let greeting = self.greeting.as_ref()?;
                // It may never get it: its host does not have the tool.
                if parameters.encryption.is_some() && !greeting.capabilities.iter().any(|one| one == ENCRYPTION) {
                    return Some(Capacity::default());
                }
            }
        }
        let named = |pool: &&PoolState| parameters.pool.as_ref().is_none_or(|name| pool.name == *name);
        let asked = self.pools().filter(named);
        Some(asked.fold(Capacity::default(), |sum, pool| sum.and(pool.capacity(parameters))))
    }
}

#[cfg(test)]
mod tests {
    use quarry_volume::{
        AccessTypes, Encryption, ExtentSize, Extents, Layout, PoolCapabilities, Space, StorageId, Wipe,
    };

    use super::*;

    fn class(pool: Option<&str>) -> Parameters {
        Parameters { pool: pool.map(str::to_owned), ..Parameters::default() }
    }

    fn volume(name: &str, size: u64) -> Volume {
        Volume {
            size,
            pool: "p".into(),
            access: Some(AccessTypes::Block),
            layout: Some(Layout::Linear),
            ..Volume::new(VolumeId { storage: StorageId::of("vg"), node: "n".into(), volume: name.into() })
        }
    }

    fn pool(free: u64) -> PoolState {
        let space = Space { extent: ExtentSize(1), free: vec![Extents(free)], ..Space::default() };
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
            ..Change::default()
        }
    }

    fn snapshot(name: &str) -> Snapshot {
        let id = SnapshotId { storage: StorageId::of("vg"), node: "n".into(), snapshot: name.into() };
        Snapshot::new(id, volume("a", 0).id)
    }

    fn snapshots(memory: &Memory) -> Vec<&str> {
        memory.snapshots(None).map(|snapshot| snapshot.name.as_str()).collect()
    }

    fn names(memory: &Memory) -> Vec<&str> {
        memory.volumes(None).map(|volume| volume.name.as_str()).collect()
    }

    fn free(memory: &Memory) -> u64 {
        memory.capacity(&class(Some("p"))).unwrap().available
    }

    #[tokio::test]
    async fn a_reply_ahead_of_the_stream_is_not_undone_by_an_older_update() {
        let mut memory = Memory::new();
        memory.full_state(greeting("1"), change(10, 100, &[("a", 1)], &[]));
        memory.reply("1", change(12, 80, &[("b", 1)], &[]));
        memory.reply("1", change(13, 90, &[], &["a"]));
        assert_eq!((names(&memory), free(&memory)), (vec!["b"], 90));
        memory.update(change(11, 70, &[("a", 2)], &[]));
        assert_eq!((names(&memory), free(&memory)), (vec!["b"], 90));
        memory.update(change(14, 95, &[("a", 3)], &["b"]));
        assert_eq!((names(&memory), free(&memory)), (vec!["a"], 95));
        assert!(memory.volumes.is_settled());
    }

    #[tokio::test]
    async fn a_full_state_replaces_everything_but_newer_replies() {
        let mut memory = Memory::new();
        memory.full_state(greeting("1"), change(10, 100, &[("a", 1), ("c", 1)], &[]));
        memory.reply("1", change(15, 80, &[("b", 1)], &["c"]));
        memory.full_state(greeting("1"), change(12, 100, &[("c", 1)], &[]));
        assert_eq!((names(&memory), free(&memory)), (vec!["b"], 80));
        // After a restart, the agent counts from the beginning.
        memory.full_state(greeting("2"), change(3, 60, &[("d", 1)], &[]));
        assert_eq!((names(&memory), free(&memory)), (vec!["d"], 60));
        memory.reply("1", change(99, 1, &[("z", 1)], &[]));
        assert_eq!((names(&memory), free(&memory)), (vec!["d"], 60));
    }

    #[tokio::test]
    async fn snapshots_are_remembered_as_volumes_are() {
        let change = |generation, new: &[&str], gone: &[&str]| Change {
            generation,
            snapshots: new.iter().map(|name| snapshot(name)).collect(),
            gone_snapshots: gone.iter().map(|name| snapshot(name).id).collect(),
            ..Change::default()
        };
        let mut memory = Memory::new();
        memory.full_state(greeting("1"), change(10, &["s"], &[]));
        memory.reply("1", change(12, &["t"], &[]));
        memory.reply("1", change(13, &[], &["s"]));
        memory.update(change(11, &["s"], &[]));
        assert_eq!(snapshots(&memory), ["t"], "an older update does not undo a reply");
        assert!(!memory.snapshots.is_settled());
        memory.full_state(greeting("1"), change(11, &["s"], &[]));
        assert_eq!(snapshots(&memory), ["t"], "nor does an older full state");
        memory.update(change(14, &[], &[]));
        assert!(memory.snapshots.is_settled());
        assert_eq!(memory.snapshots(Some(&snapshot("s").id)).count(), 1);
        memory.full_state(greeting("2"), change(3, &["u"], &[]));
        assert_eq!((snapshots(&memory), memory.count_snapshots()), (vec!["u"], 1));
    }

    #[tokio::test]
    async fn a_class_that_wipes_gets_only_pools_that_can() {
        let mut memory = Memory::new();
        let capabilities = PoolCapabilities { wipe: true, ..PoolCapabilities::default() };
        let wipes = PoolState { name: "q".into(), capabilities, ..pool(7) };
        memory.full_state(greeting("1"), Change { pools: vec![pool(100), wipes], ..change(1, 0, &[], &[]) });
        let wiping = |pool| Parameters { wipe: Some(Wipe::Zero), ..class(pool) };
        let available = |class| memory.capacity(&class).unwrap().available;
        assert_eq!(available(class(None)), 107);
        assert_eq!([wiping(None), wiping(Some("p")), wiping(Some("q"))].map(available), [7, 0, 7]);
    }

    #[tokio::test]
    async fn a_node_that_cannot_encrypt_has_no_room_for_encrypted_volumes() {
        const MIB: u64 = 1 << 20;
        let mut memory = Memory::new();
        let encrypted = Parameters { encryption: Some(Encryption::Luks2), ..class(None) };
        memory.full_state(greeting("1"), change(1, 100 * MIB, &[], &[]));
        assert_eq!(memory.capacity(&encrypted).unwrap().available, 0);
        let capabilities = vec![ENCRYPTION.to_owned()];
        let able = Greeting { capabilities, ..greeting("2") };
        memory.full_state(able, change(1, 100 * MIB, &[], &[]));
        assert_eq!(memory.capacity(&encrypted).unwrap().available, 84 * MIB, "without a header");
    }

    #[tokio::test(start_paused = true)]
    async fn a_disconnected_node_has_no_free_space_after_a_while() {
        let mut memory = Memory::new();
        assert_eq!(memory.capacity(&class(None)), None);
        memory.full_state(greeting("1"), change(1, 100, &[("a", 1)], &[]));
        memory.disconnect();
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(free(&memory), 100);
        // It may be restarting: an error leaves the published figures unchanged.
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(memory.capacity(&class(None)), None);
        tokio::time::advance(RESTARTING - Duration::from_secs(32)).await;
        assert_eq!(memory.capacity(&class(None)), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(free(&memory), 0);
        // Its volumes are still known.
        assert_eq!(names(&memory), ["a"]);
        memory.full_state(greeting("1"), change(2, 70, &[("a", 1)], &[]));
        assert_eq!(free(&memory), 70);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_never_connected_has_no_free_space_after_a_while() {
        let memory = Memory::new();
        tokio::time::advance(RESTARTING - Duration::from_secs(1)).await;
        assert_eq!(memory.capacity(&class(None)), None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(free(&memory), 0);
    }
}
