//! The final checks, which read the storages themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use quarry_pool::{Operation, Pool as _, PoolSnapshot, SimulatedPool, SnapshotHealth, State};
use quarry_volume::{SnapshotId, VolumeId, VolumeSpec};

use crate::copies::Story;
use crate::world::{Life, MIB, Node, Shared, Storage, World};

/// Waits for a future that needs no simulated time.
fn now<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

/// The volumes of a node: identifier, name asked for, bytes.
pub(crate) fn volumes(node: &Node) -> Vec<(String, String, u64)> {
    let volumes = now(node.storage.pool.volumes()).unwrap();
    let describe = |volume: quarry_pool::PoolVolume| {
        let name = volume.record().map_or_else(|_| volume.name.clone(), |record| record.name.clone());
        let id = VolumeId { storage: volume.storage, node: node.name.clone(), volume: volume.name };
        (id.to_string(), name, volume.size)
    };
    volumes.into_iter().map(describe).collect()
}

/// Puts volumes on a storage, bypassing all clients.
pub(crate) fn put(pool: &SimulatedPool, specs: impl Iterator<Item = VolumeSpec>) {
    for spec in specs {
        now(pool.create(&spec)).unwrap();
    }
}

/// The storage executes every request, soon.
pub(crate) fn calm(pool: &SimulatedPool) {
    for operation in [
        Operation::Create,
        Operation::Remove,
        Operation::Write,
        Operation::Read,
        Operation::SetRecord,
        Operation::Expand,
        Operation::TakeSnapshot,
        Operation::CreateCopy,
        Operation::RemoveSnapshot,
    ] {
        pool.set_delay(operation, Duration::from_millis(if operation == Operation::Read { 0 } else { 20 }));
    }
}

/// Checks all storages. Returns how many volumes remain on nodes that were down long enough to keep them.
pub(crate) fn storages(shared: &Shared) -> usize {
    let mut world = shared.lock();
    let mut found: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for node in world.nodes.iter().filter(|node| !node.gone) {
        let volumes = volumes(node);
        wrong.extend(decoys(&node.storage, &volumes, &node.name));
        wrong.extend(sums(&node.storage, &volumes, &node.name));
        for (id, name, size) in volumes {
            if !node.storage.decoys.contains(&name) {
                found.entry(name).or_default().push(Kept { id, size, away: node.long_away });
            }
        }
    }
    let mut orphans = 0;
    for claim in &world.claims {
        let places = found.remove(&claim.name).unwrap_or_default();
        let wanted = match &claim.life {
            Life::Bound(id) => Some(id),
            Life::Wanted | Life::Deleted(_) => None,
        };
        let here = places.iter().filter(|place| Some(&place.id) == wanted).collect::<Vec<_>>();
        // A claim that was never answered may have its one volume.
        let spare = usize::from(claim.life == Life::Wanted);
        let others: Vec<_> = places.iter().filter(|place| Some(&place.id) != wanted).collect();
        let away = others.iter().filter(|place| place.away).count();
        if others.len() - away > spare {
            wrong.push(format!("{} is {:?}, and there are {others:?}", claim.name, claim.life));
        }
        orphans += away;
        match (wanted, here.as_slice()) {
            (None, _) => {}
            (Some(id), []) if world.lost(id) => {}
            (Some(id), []) => wrong.push(format!("{} was answered with {id}, which does not exist", claim.name)),
            (Some(id), [place, ..]) if !world.sizes(&claim.name).contains(&place.size) => {
                wrong.push(format!("{id} has {} bytes, not {:?}", place.size, world.sizes(&claim.name)));
            }
            _ => {}
        }
    }
    for story in &world.stories {
        wrong.extend(copies(&world, story, &mut found));
    }
    for (name, places) in found {
        wrong.push(format!("{name} was never requested: {places:?}"));
    }
    wrong.into_iter().for_each(|wrong| world.violated(wrong));
    orphans
}

/// What is wrong with the copies of a volume. Takes them out of `found`.
fn copies(world: &World, story: &Story, found: &mut BTreeMap<String, Vec<Kept>>) -> Vec<String> {
    let name = &world.claims[story.claim].name;
    let (restored, clones) = (found.remove(&story.restored()), found.remove(&story.clone_name()));
    let (restored, clones) = (restored.unwrap_or_default(), clones.unwrap_or_default());
    let Some(source) = world.source(story) else {
        // They were all on the same storage.
        let left = restored.is_empty() && clones.is_empty();
        return if left {
            Vec::new()
        } else {
            vec![format!("{name} is lost, and not its copies: {restored:?}, {clones:?}")]
        };
    };
    let mut wrong = Vec::new();
    if !clones.is_empty() {
        wrong.push(format!("{name} has the clones {clones:?}, which were deleted"));
    }
    let node = world.nodes.iter().find(|node| node.name == source.node);
    let Some(pool) = node.map(|node| &node.storage.pool) else { return wrong };
    let contents = |stored: &str| pool.contents_of(stored).map(|(contents, _)| contents);
    let size = world.claims[story.claim].mib * MIB;
    match (story.is_restored, restored.as_slice()) {
        (false, []) => {}
        (true, [only]) if only.size == size && contents(&story.restored()) == Some(story.snapped) => {}
        _ => wrong.push(format!(
            "{name} was restored with {} as {restored:?}, with the contents {:?}",
            story.snapped,
            contents(&story.restored())
        )),
    }
    if contents(&source.volume) != Some(story.written) {
        wrong.push(format!("{name} has the contents {:?}, not {}", contents(&source.volume), story.written));
    }
    let mut snapshots = now(pool.snapshots()).unwrap();
    snapshots.retain(|snapshot| snapshot.record.source == source);
    let is_whole = |snapshot: &PoolSnapshot| {
        let stored = contents(&format!("snapshot {}", snapshot.name));
        snapshot.name == story.snapshot()
            && snapshot.record.state == State::Ready
            && snapshot.health == SnapshotHealth::Whole
            && stored == Some(story.snapped)
    };
    match (story.keeps_snapshot(), snapshots.as_slice()) {
        (false, []) => {}
        (true, [only]) if is_whole(only) => {}
        _ => wrong.push(format!("{name}, {story:?}, has the snapshots {snapshots:?}")),
    }
    wrong
}

impl World {
    /// The sizes that the volume of a claim may have had since it was created, in bytes.
    pub(crate) fn sizes_since_creation(&self, claim: usize) -> Vec<u64> {
        let asked = self.claims[claim].mib * MIB;
        let story = self.stories.iter().find(|story| story.claim == claim && story.may_have_grown);
        [Some(asked), story.map(|story| asked + story.more * MIB)].into_iter().flatten().collect()
    }

    /// The sizes that the volume of a claim may have, in bytes.
    fn sizes(&self, claim: &str) -> Vec<u64> {
        let Some((number, claim)) = self.claims.iter().enumerate().find(|(_, one)| one.name == claim) else {
            return Vec::new();
        };
        let (asked, story) = (claim.mib * MIB, self.stories.iter().find(|story| story.claim == number));
        match story {
            Some(story) if story.has_grown => vec![asked + story.more * MIB],
            Some(story) if story.may_have_grown => vec![asked, asked + story.more * MIB],
            _ => vec![asked],
        }
    }
}

/// Where a volume of some name is.
#[derive(Debug)]
struct Kept {
    id: String,
    size: u64,
    /// Whether its node was away for more than five minutes.
    away: bool,
}

/// What belongs to others is untouched.
fn decoys(storage: &Storage, volumes: &[(String, String, u64)], node: &str) -> Vec<String> {
    let there = |decoy: &&String| volumes.iter().any(|(_, name, _)| name == *decoy);
    let gone = storage.decoys.iter().filter(|decoy| !there(decoy));
    gone.map(|decoy| format!("{node} has lost {decoy}, whose deletion was never requested")).collect()
}

/// Used and free space add up.
fn sums(storage: &Storage, volumes: &[(String, String, u64)], node: &str) -> Option<String> {
    let snapshots = now(storage.pool.snapshots()).unwrap();
    let used: u64 = volumes.iter().map(|(_, _, size)| size / MIB).sum();
    let used = used + snapshots.iter().map(|snapshot| snapshot.allocated / MIB).sum::<u64>();
    let free: u64 = storage.pool.free().iter().sum();
    let size = storage.size;
    (used + free != size).then(|| format!("{node}: {used} MiB used and {free} free are not {size}"))
}

/// In what the controllers' words differ from the truth.
pub(crate) fn audits(shared: &Shared) -> Vec<String> {
    let world = shared.lock();
    let (volumes, snapshots, capacities) = truth(&world);
    let mut wrong = Vec::new();
    for (replica, audit) in world.audits.iter().enumerate() {
        let Some(audit) = audit else {
            wrong.push(format!("controller {replica} does not list its volumes"));
            continue;
        };
        let mut listed = audit.volumes.clone();
        listed.sort();
        let missing: Vec<_> = volumes.iter().filter(|one| !listed.contains(one)).collect();
        let surplus: Vec<_> = listed.iter().filter(|one| !volumes.contains(one)).collect();
        if !missing.is_empty() || !surplus.is_empty() || listed.len() != volumes.len() {
            wrong.push(format!("controller {replica} lacks {missing:?} and has unexpected {surplus:?}"));
        }
        if audit.snapshots != snapshots {
            wrong.push(format!("controller {replica} lists the snapshots {:?}, not {snapshots:?}", audit.snapshots));
        }
        if audit.capacities != capacities {
            wrong.push(format!("controller {replica} reports capacities {:?}, not {capacities:?}", audit.capacities));
        }
    }
    wrong
}

/// All volumes, all snapshots, and the free bytes of each node.
fn truth(world: &World) -> (Vec<(String, i64)>, Vec<String>, Vec<i64>) {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap();
    let there = || world.nodes.iter().filter(|node| !node.gone);
    let volumes = there().flat_map(volumes).map(|(id, _, size)| (id, signed(size))).collect();
    let snapshots = |node: &Node| {
        let id = |snapshot: PoolSnapshot| {
            SnapshotId { storage: snapshot.storage, node: node.name.clone(), snapshot: snapshot.name }.to_string()
        };
        let mut ids: Vec<String> = now(node.storage.pool.snapshots()).unwrap().into_iter().map(id).collect();
        ids.sort();
        ids
    };
    let snapshots = there().flat_map(snapshots).collect();
    let free = |node: &Node| if node.gone { 0 } else { node.storage.pool.free().iter().sum() };
    (volumes, snapshots, world.nodes.iter().map(|node| signed(free(node) * MIB)).collect())
}
