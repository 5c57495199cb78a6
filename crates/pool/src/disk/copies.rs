//! Claims that two disks hold: a disk was copied, or is reached by two paths. Only a person can decide which
//! one is right.

use std::collections::BTreeMap;

use quarry_disk::claim::{ClaimState, DiskGuid};

use super::scan::Raw;
use super::view::{not_volume, title};

/// A claim that more than one disk holds.
pub(super) struct Copies {
    /// The GUID of its disks.
    pub(super) guid: DiskGuid,
    /// The names of the disks.
    pub(super) disks: Vec<String>,
    /// Whether one of them may hold a volume. Otherwise all of them hold an object of a newer Quarry.
    pub(super) volume: bool,
    /// The problem to report.
    pub(super) why: String,
}

/// The disks with the same claim.
#[derive(Default)]
struct Holders {
    disks: Vec<String>,
    /// What the claim is for. A volume, if it is one on any of the disks.
    title: String,
    volume: bool,
}

/// The claims that more than one of these disks holds.
pub(super) fn copies<'a>(raws: impl Iterator<Item = &'a Raw>) -> Vec<Copies> {
    let mut holders: BTreeMap<DiskGuid, Holders> = BTreeMap::new();
    for raw in raws {
        for (identity, claim) in raw.found.iter().flat_map(ClaimState::volumes) {
            let volume = claim.is_none_or(|claim| not_volume(claim).is_none());
            let holders = holders.entry(identity.disk).or_default();
            if holders.disks.is_empty() || volume && !holders.volume {
                holders.volume = volume;
                holders.title = claim.map_or_else(|| format!("the volume with the GUID {}", identity.disk), title);
            }
            holders.disks.push(raw.disk.name.clone());
        }
    }
    let copies = holders.into_iter().filter(|(_, holders)| holders.disks.len() > 1);
    let describe = |(guid, Holders { disks, title, volume }): (DiskGuid, Holders)| {
        let why = format!(
            "two disks hold {title}: {}; one is a copy of the other, or both are one disk with two paths{}",
            disks.join(" and "),
            if volume { ". The volume cannot be used until one of them is removed" } else { "" }
        );
        Copies { guid, disks, volume, why }
    };
    copies.map(describe).collect()
}
