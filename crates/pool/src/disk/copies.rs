//! Volumes that two disks hold: a disk was copied, or is reached by two paths. Only a person can decide which
//! one is right.

use std::collections::BTreeMap;

use quarry_disk::claim::{ClaimState, DiskGuid};

use super::scan::Raw;
use super::view::title;

/// A volume that more than one disk holds.
pub(super) struct Copies {
    /// The GUID of its disks.
    pub(super) volume: DiskGuid,
    /// The names of the disks.
    pub(super) disks: Vec<String>,
    /// The problem to report.
    pub(super) why: String,
}

/// The volumes that more than one of these disks holds.
pub(super) fn copies<'a>(raws: impl Iterator<Item = &'a Raw>) -> Vec<Copies> {
    let mut holders: BTreeMap<DiskGuid, (String, Vec<String>)> = BTreeMap::new();
    for raw in raws {
        for (identity, claim) in raw.found.iter().flat_map(ClaimState::volumes) {
            let title = claim.map_or_else(|| format!("the volume with the GUID {}", identity.disk), title);
            let (_, disks) = holders.entry(identity.disk).or_insert((title, Vec::new()));
            disks.push(raw.disk.name.clone());
        }
    }
    let copies = holders.into_iter().filter(|(_, (_, disks))| disks.len() > 1);
    let describe = |(volume, (title, disks)): (DiskGuid, (String, Vec<String>))| {
        let why = format!(
            "two disks hold {title}: {}; one is a copy of the other, or both are one disk with two paths. The volume \
             cannot be used until one of them is removed",
            disks.join(" and ")
        );
        Copies { volume, disks, why }
    };
    copies.map(describe).collect()
}
