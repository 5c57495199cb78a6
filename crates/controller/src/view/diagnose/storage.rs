//! Pools, volumes and snapshots of reachable nodes: for the others, the finding is that they are unreachable.

use std::collections::{BTreeMap, BTreeSet};

use quarry_volume::{Placement, PoolState, StorageId, plural, show_size, some_of};

use crate::view::finding::Finding;
use crate::view::node_state::{NodeState, SnapshotProblems};

/// A pool is nearly full if less than one part in this many is free.
const NEARLY_FULL: u64 = 10;
/// The same for the half of its metadata area that volumes can use.
const METADATA_NEARLY_FULL: u64 = 5;
/// The node tells only the text of a hint. It may be about space that could be used, and about something that will fail.
const HINT_ADVICE: &str = "do what it says, or remove its cause, unless this is intended";

fn reachable(nodes: &[NodeState]) -> impl Iterator<Item = &NodeState> {
    nodes.iter().filter(|node| node.down.is_none())
}

/// Pools that do not work, that will stop working soon, or that are missing.
pub(super) fn pools(nodes: &[NodeState], findings: &mut Vec<Finding>) {
    let mut used_up: BTreeMap<&str, Vec<(&str, &PoolState)>> = BTreeMap::new();
    for node in reachable(nodes) {
        if node.pools.is_empty() {
            findings.push(Finding::warning(
                "node-without-pools",
                format!("node {}", node.name),
                "has no pool, so no volume can be created there",
                "configure a pool (docs/pools.md), or keep the node plugin off this node",
            ));
        }
        for pool in &node.pools {
            findings.extend(pool_finding(&node.name, pool));
            findings.extend(missing_disk(&node.name, pool));
            findings.extend(pool.hints.iter().map(|hint| {
                let subject = format!("pool {} on node {}", pool.name, node.name);
                Finding::note("pool-hint", subject, hint, HINT_ADVICE)
            }));
            if has_whole_disks(pool) && is_nearly_full(pool) && pool.all_problems().is_empty() {
                used_up.entry(&pool.name).or_default().push((&node.name, pool));
            }
        }
    }
    findings.extend(used_up.into_iter().filter_map(|(name, on)| used_up_disks(name, &on)));
}

fn has_whole_disks(pool: &PoolState) -> bool {
    pool.space.placement == Placement::WholeDisk
}

fn is_nearly_full(pool: &PoolState) -> bool {
    pool.size > 0 && pool.free() < pool.size / NEARLY_FULL
}

/// How an operator makes the pool larger.
fn enlarge(pool: &PoolState) -> &str {
    match pool.enlarge.as_str() {
        "" => "add storage to it",
        instruction => instruction,
    }
}

/// Pools of whole disks with that name, whose disks are used. That is what they are for, so it is no warning, and one
/// finding for all nodes.
fn used_up_disks(name: &str, on: &[(&str, &PoolState)]) -> Option<Finding> {
    let (_, first) = on.first()?;
    Some(Finding::note(
        "pool-nearly-full",
        format!("pool {name} on {}", some_of(on.iter().map(|(node, _)| *node))),
        "nearly all of its disks hold volumes, or are being wiped",
        format!(
            "nothing, unless it needs room for new volumes: then {}, or delete volumes; `quarry volumes --pool {name}` \
             lists them",
            enlarge(first)
        ),
    ))
}

/// A missing disk, with what to do about it in this state.
fn missing_disk(node: &str, pool: &PoolState) -> Option<Finding> {
    if pool.repair.is_empty() {
        return None;
    }
    let steps = pool.repair.iter().zip(1..).map(|(step, number)| format!("{number}. {step}"));
    Some(Finding::error(
        "disk-missing",
        format!("pool {} on node {node}", pool.name),
        "a disk with volumes is missing",
        steps.collect::<Vec<_>>().join("; "),
    ))
}

fn pool_finding(node: &str, pool: &PoolState) -> Option<Finding> {
    let subject = format!("pool {} on node {node}", pool.name);
    let problems = pool.all_problems();
    if !problems.is_empty() {
        return Some(Finding::error(
            "pool-problem",
            subject,
            problems.join("; "),
            "see docs/pools.md, \"When a pool is not well\"; unaffected volumes keep working",
        ));
    }
    let room = pool.usable_metadata();
    if room > 0 && pool.metadata_free < room / METADATA_NEARLY_FULL {
        return Some(Finding::warning(
            "pool-metadata-nearly-full",
            subject,
            format!(
                "has {} of {} left in its metadata area, with {} volumes",
                show_size(pool.metadata_free),
                show_size(room),
                pool.volumes
            ),
            "delete volumes, or create new ones in another pool: a larger metadata area needs a new volume group",
        ));
    }
    if is_nearly_full(pool) && !has_whole_disks(pool) {
        return Some(Finding::warning(
            "pool-nearly-full",
            subject,
            format!("has {} of {} free for new volumes", show_size(pool.free()), show_size(pool.size)),
            format!(
                "{}, or delete volumes; `quarry volumes --node {node} --pool {}` lists them",
                enlarge(pool),
                pool.name
            ),
        ));
    }
    None
}

/// Pools with the same name but of different kinds.
pub(super) fn kinds(nodes: &[NodeState], findings: &mut Vec<Finding>) {
    let mut by_name: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for node in reachable(nodes) {
        for pool in node.pools.iter().filter(|pool| !pool.kind.is_empty()) {
            by_name.entry(&pool.name).or_default().entry(&pool.kind).or_default().push(&node.name);
        }
    }
    for (name, kinds) in by_name.into_iter().filter(|(_, kinds)| kinds.len() > 1) {
        let each: Vec<_> =
            kinds.into_iter().map(|(kind, of)| format!("{kind} on {}", some_of(of.iter().copied()))).collect();
        findings.push(Finding::warning(
            "pool-kinds-differ",
            format!("pool {name}"),
            format!("has different kinds: {}", each.join("; ")),
            "give different pools different names: a StorageClass expects a pool to be the same on every node",
        ));
    }
}

/// Storage that two nodes report as their own, if its ID can prove that.
pub(super) fn twins(nodes: &[NodeState], findings: &mut Vec<Finding>) {
    let mut by_storage: BTreeMap<&StorageId, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for node in reachable(nodes) {
        for pool in node.unique_storage() {
            if let Some(storage) = &pool.storage {
                by_storage.entry(storage).or_default().insert((&node.name, &pool.name));
            }
        }
    }
    for (storage, of) in by_storage {
        let on: BTreeSet<&str> = of.iter().map(|(node, _)| *node).collect();
        if on.len() > 1 {
            findings.push(Finding::warning(
                "storage-shared",
                format!("{}: {}", plural(on.len(), "node"), some_of(on)),
                format!(
                    "have storage with the same identity ({}): several hosts share disks, or these are copies of one \
                     disk",
                    storage.as_str()
                ),
                "never let two hosts use the same disk: that destroys data. Give copies a new identity before they \
                 hold volumes (vgchange --uuid)",
            ));
        }
    }
}

/// Volumes with a problem.
pub(super) fn volumes(nodes: &[NodeState], findings: &mut Vec<Finding>) {
    for node in reachable(nodes) {
        for (pool, volume_problems) in &node.volume_problems {
            let subject = format!("{} in pool {pool} on node {}", plural(volume_problems.count, "volume"), node.name);
            let (id, why) = &volume_problems.example;
            let problem = match volume_problems.count {
                1 => format!("{id}: {why}"),
                _ => format!("the first is {id}: {why}"),
            };
            let advice = format!("`quarry volumes --problems --node {} --pool {pool}` lists all of them", node.name);
            findings.push(match volume_problems.ready {
                // A volume that was never published holds no data.
                0 => Finding::warning("volume-problem", subject, problem, advice),
                _ => Finding::error("volume-problem", subject, problem, advice),
            });
        }
    }
}

/// Snapshots with a problem.
pub(super) fn snapshots(nodes: &[NodeState], findings: &mut Vec<Finding>) {
    for node in reachable(nodes) {
        for ((pool, is_invalid), SnapshotProblems { count, example: (id, why) }) in &node.snapshot_problems {
            let subject = format!("{} in pool {pool} on node {}", plural(*count, "snapshot"), node.name);
            let problem = match count {
                1 => format!("{id}: {why}"),
                _ => format!("the first is {id}: {why}"),
            };
            let list = format!("`quarry snapshots --problems --node {} --pool {pool}` lists all of them", node.name);
            findings.push(match is_invalid {
                true => Finding::error(
                    "snapshot-invalid",
                    subject,
                    problem,
                    format!(
                        "{}. If the space became full, set a larger cowSize in the VolumeSnapshotClass (100% cannot \
                         become full). {list}",
                        match count {
                            1 => "its contents are lost: delete it (its VolumeSnapshot), and take another one",
                            _ => "their contents are lost: delete them (their VolumeSnapshots), and take new ones",
                        }
                    ),
                ),
                false => Finding::warning("snapshot-problem", subject, problem, list),
            });
        }
    }
}

/// Orphans, also on unreachable nodes.
pub(super) fn orphans(nodes: &[NodeState], known: bool, findings: &mut Vec<Finding>) {
    if !known {
        findings.push(Finding::note(
            "claims-unknown",
            "volumes",
            "the controller does not know the PersistentVolumes, so it cannot detect orphans",
            "without Kubernetes, nothing; otherwise wait until the controller has listed the PersistentVolumes",
        ));
        return;
    }
    let orphans: usize = nodes.iter().map(|node| node.orphans).sum();
    if orphans > 0 {
        let on = nodes.iter().filter(|node| node.orphans > 0).map(|node| node.name.as_str());
        findings.push(Finding::warning(
            "orphans",
            plural(orphans, "volume"),
            format!("no PersistentVolume references them, on {}", some_of(on)),
            "`quarry orphans` lists them; docs/operating.md explains their causes and how to remove them",
        ));
    }
}

/// Orphaned snapshots, also on unreachable nodes.
pub(super) fn orphaned_snapshots(nodes: &[NodeState], findings: &mut Vec<Finding>) {
    let orphans: usize = nodes.iter().map(|node| node.orphaned_snapshots).sum();
    if orphans > 0 {
        let on = nodes.iter().filter(|node| node.orphaned_snapshots > 0).map(|node| node.name.as_str());
        findings.push(Finding::warning(
            "snapshot-orphans",
            plural(orphans, "snapshot"),
            format!("no VolumeSnapshotContent references them, on {}", some_of(on)),
            "`quarry orphans` lists them; docs/operating.md explains their causes and how to remove them",
        ));
    }
}
