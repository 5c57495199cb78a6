//! Nodes: whether they are reachable, and whether their versions and identities are right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quarry_volume::{StorageId, Unreachable, human_duration, plural, some_of};

use crate::environment::Fate;
use crate::view::finding::{Finding, Level};
use crate::view::node_state::{Down, NodeState};
use crate::view::unreachable::advice;

/// If more nodes than this are unreachable for the same cause, they are one finding.
const ONE_BY_ONE: usize = 10;
/// How long a first connection may take.
const FIRST: Duration = Duration::from_secs(60);

const UNREACHABLE: &str = "node-unreachable";
const OPERATING: &str = "docs/operating.md explains what happens to its volumes";

/// Unreachable nodes.
pub(super) fn unreachable(nodes: &[NodeState], findings: &mut Vec<Finding>) {
    let mut by_cause: BTreeMap<Unreachable, Vec<(&NodeState, &str, Duration)>> = BTreeMap::new();
    for node in nodes {
        if let Some(Down { cause, why, since }) = &node.down {
            by_cause.entry(*cause).or_default().push((node, why, *since));
        }
    }
    for (cause, away) in by_cause {
        if away.len() <= ONE_BY_ONE {
            findings.extend(away.into_iter().map(|(node, why, since)| one(cause, node, why, since)));
        } else {
            findings.push(many(cause, &away));
        }
    }
}

fn one(cause: Unreachable, node: &NodeState, why: &str, since: Duration) -> Finding {
    let subject = format!("node {}", node.name);
    let problem = format!("unreachable for {}: {why}", human_duration(since));
    let level = level(cause, node, since);
    let advice = match node.fate {
        Some(Fate::Gone) => format!(
            "if the node was removed permanently, nothing: Quarry abandons its volumes, and their claims can be \
             deleted; {OPERATING}"
        ),
        Some(Fate::NotReady(unwell)) => format!(
            "Kubernetes reports that the node itself has not been ready for {}: repair it; {OPERATING}",
            human_duration(unwell)
        ),
        _ => advice(cause).to_owned(),
    };
    Finding { level, ..Finding::error(UNREACHABLE, subject, problem, advice) }
}

fn many(cause: Unreachable, away: &[(&NodeState, &str, Duration)]) -> Finding {
    let subject =
        format!("{}: {}", plural(away.len(), "node"), some_of(away.iter().map(|(node, ..)| node.name.as_str())));
    let longest = away.iter().map(|(.., since)| *since).max().unwrap_or_default();
    let why = away.first().map(|(_, why, _)| *why).unwrap_or_default();
    let problem = format!("unreachable, for up to {}; the first one: {why}", human_duration(longest));
    let level = away.iter().map(|(node, _, since)| level(cause, node, *since)).max().unwrap_or(Level::Error);
    let unwell = away.iter().filter(|(node, ..)| matches!(node.fate, Some(Fate::NotReady(_)))).count();
    let host = match unwell {
        0 => String::new(),
        unwell => format!("; Kubernetes reports that {unwell} of them are not ready"),
    };
    let advice = format!("{}{host}; `quarry nodes` lists all", advice(cause));
    Finding { level, ..Finding::error(UNREACHABLE, subject, problem, advice) }
}

fn level(cause: Unreachable, node: &NodeState, since: Duration) -> Level {
    match (cause, node.fate) {
        // Quarry forgets it without help.
        (_, Some(Fate::Gone)) => Level::Note,
        (Unreachable::Starting, _) if since < FIRST => Level::Warning,
        _ => Level::Error,
    }
}

/// Nodes whose version is too far from the controller's.
pub(super) fn versions(nodes: &[NodeState], own_version: &str, findings: &mut Vec<Finding>) {
    let Some(own) = release(own_version) else { return };
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.down.is_none()) {
        if let Some(greeting) = &node.greeting {
            by_version.entry(&greeting.version).or_default().push(&node.name);
        }
    }
    for (version, of) in by_version {
        let near = release(version).is_some_and(|theirs| theirs.0 == own.0 && theirs.1.abs_diff(own.1) <= 1);
        if !near {
            findings.push(Finding::error(
                "version-skew",
                format!("{}: {}", plural(of.len(), "node"), some_of(of)),
                format!(
                    "run version {version:?}, but this controller runs {own_version}: more than one minor version apart"
                ),
                "upgrade nodes and controller to the same version, one minor version at a time",
            ));
        }
    }
}

/// The major and minor version; `None` if the text is not a version.
fn release(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Nodes that report the same boot ID and the same storage, if its ID can prove that. The boot ID alone proves nothing:
/// hosts that were started from the same snapshot of a running machine's memory share it, and have nothing else in common.
pub(super) fn boots(nodes: &[NodeState], findings: &mut Vec<Finding>) {
    let mut alike: BTreeMap<(&str, &StorageId), BTreeSet<&str>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.down.is_none()) {
        let Some(greeting) = node.greeting.as_ref().filter(|greeting| !greeting.boot_id.is_empty()) else { continue };
        for storage in node.unique_storage().filter_map(|pool| pool.storage.as_ref()) {
            alike.entry((&greeting.boot_id, storage)).or_default().insert(&node.name);
        }
    }
    let mut reported = BTreeSet::new();
    for ((boot, _), of) in alike.into_iter().filter(|(_, of)| of.len() > 1) {
        // Several pools on the same nodes are one finding.
        if reported.insert((boot, of.clone())) {
            findings.push(Finding::warning(
                "boot-id-shared",
                format!("{}: {}", plural(of.len(), "node"), some_of(of)),
                format!(
                    "have the same boot ID, {boot}, and the same storage: two node plugins run on one host, or the \
                     nodes are copies of one machine"
                ),
                "run one node plugin per host; restart copied machines, and give each its own identity and disks",
            ));
        }
    }
}
