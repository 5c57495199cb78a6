//! The scratch volumes in a volume group: linear logical volumes with the new space for a volume that is being
//! expanded. Each is recognized by its record, which has the UUID of that volume; its name decides nothing.

use std::ops::Range;

use quarry_lvm::{ExtentRange, LogicalVolume, LvUuid, VolumeGroup};
use quarry_volume::{ExtentSize, show_size, some_of};

use super::volume;
use crate::ScratchRecord;

/// The beginning of the names of scratch volumes. With the UUID of a volume, they are longer than the names of
/// volumes, so that no request can need the same name.
const PREFIX: &str = "quarry-expansion-";

/// A scratch volume.
pub(super) struct Scratch<'a> {
    /// Its logical volume.
    pub(super) logical: &'a LogicalVolume,
    /// Its record.
    pub(super) record: ScratchRecord,
}

impl Scratch<'_> {
    /// Its extents, in the order of its bytes; empty if they are not all known.
    pub(super) fn ranges(&self) -> Vec<ExtentRange> {
        match self.logical.ranges.iter().all(|segment| segment.len() == 1) {
            true => self.logical.ranges.iter().flatten().copied().collect(),
            false => Vec::new(),
        }
    }

    /// The volume that it is for; `None` if that no longer exists.
    fn owner<'a>(&self, group: &'a VolumeGroup) -> Option<&'a LogicalVolume> {
        group.logical_volumes.iter().find(|volume| volume.uuid.to_string() == self.record.volume)
    }
}

/// The name of the scratch volume for the volume with that UUID.
pub(super) fn name_for(volume: LvUuid) -> String {
    // A UUID may have two characters that names cannot have, although lvm does not generate them.
    let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '_' };
    let uuid = volume.to_string();
    format!("{PREFIX}{}", uuid.chars().filter(|character| *character != '-').map(plain).collect::<String>())
}

/// All scratch volumes.
pub(super) fn all(group: &VolumeGroup) -> impl Iterator<Item = Scratch<'_>> {
    group.volumes().filter_map(|logical| Some(Scratch { logical, record: volume::other_record_on(logical).scratch()? }))
}

/// The scratch volumes for the volume with that UUID. There is at most one, unless something was done by hand.
pub(super) fn of(group: &VolumeGroup, volume: LvUuid) -> Vec<Scratch<'_>> {
    let volume = volume.to_string();
    all(group).filter(|scratch| scratch.record.volume == volume).collect()
}

/// The scratch volumes of volumes that no longer exist.
pub(super) fn left_over(group: &VolumeGroup) -> Vec<Scratch<'_>> {
    all(group).filter(|scratch| scratch.owner(group).is_none()).collect()
}

/// The scratch volumes, as a note for the operator: they use space.
pub(super) fn hint(group: &VolumeGroup) -> Option<String> {
    let describe = |scratch: Scratch<'_>| {
        let name = format!("{}/{}", group.name, scratch.logical.name);
        let space = show_size(scratch.logical.size);
        match scratch.owner(group) {
            Some(owner) => format!(
                "{name} is new space ({space}) for volume {}, which is being expanded to {}: the next request to \
                 expand the volume adds or releases it, and its deletion releases it",
                owner.name,
                show_size(scratch.record.size)
            ),
            None => format!(
                "{name} ({space}) is left from the expansion of a volume that no longer exists: it is removed when \
                 Quarry starts on this node"
            ),
        }
    };
    let found: Vec<String> = all(group).map(describe).collect();
    (!found.is_empty()).then(|| some_of(found))
}

/// Where on a scratch volume with these extents a signature would be that a probe of the expanded volume finds: at
/// the edges of each piece that joins it. In which order lvm joins them is not known.
pub(super) fn signature_places(extent: ExtentSize, scratch: &[ExtentRange], pieces: &[ExtentRange]) -> Vec<Range<u64>> {
    let mut places = Vec::new();
    let mut offset = 0_u64;
    for range in scratch {
        let end = range.first.and(range.extents);
        for piece in pieces.iter().filter(|piece| piece.pv == range.pv && (range.first..end).contains(&piece.first)) {
            let start = offset.saturating_add(extent.bytes(piece.first.without(range.first)));
            let shifted = |place: Range<u64>| start.saturating_add(place.start)..start.saturating_add(place.end);
            places.extend(quarry_filesystem::signature_places(extent.bytes(piece.extents)).into_iter().map(shifted));
        }
        offset = offset.saturating_add(extent.bytes(range.extents));
    }
    places
}

#[cfg(test)]
mod tests {
    use quarry_volume::Extents;

    use super::*;
    use crate::lvm::testing::uuid;

    const MIB: u64 = 1 << 20;

    fn lv(name: &str, tag: &str) -> LogicalVolume {
        LogicalVolume { name: name.into(), uuid: uuid(name), tags: vec![tag.to_owned()], ..LogicalVolume::default() }
    }

    fn tag(volume: &str) -> String {
        ScratchRecord::new(uuid::<LvUuid>(volume).to_string(), 8 << 30).to_string()
    }

    fn group(logical_volumes: Vec<LogicalVolume>) -> VolumeGroup {
        VolumeGroup { name: "vg".into(), uuid: uuid("u"), logical_volumes, ..VolumeGroup::default() }
    }

    #[test]
    fn a_scratch_volume_is_recognized_by_its_record_only() {
        let named_alike = LogicalVolume { name: name_for(uuid("a")), ..lv("alike", "somebodys") };
        let group = group(vec![
            lv("a", "quarry1/s=ready/n=a/b=4096/a=m/f=ext4/l=l/p=x"),
            lv("renamed", &tag("a")),
            lv("b", &tag("gone")),
            named_alike,
            LogicalVolume { internal: true, ..lv("hidden", &tag("a")) },
            LogicalVolume { tags: vec![tag("a"), tag("b")], ..lv("two", "") },
        ]);
        let names = |found: Vec<Scratch<'_>>| found.iter().map(|one| one.logical.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(of(&group, uuid("a"))), ["renamed"]);
        assert_eq!(names(left_over(&group)), ["b"]);
        assert!(of(&group, uuid("b")).is_empty());
    }

    #[test]
    fn names_of_scratch_volumes_are_no_names_of_volumes() {
        let name = name_for("Hn2pJr-dU4e-7cBb-KwQd-0Rxn-Zk9V-LmY#3s".parse().unwrap());
        assert_eq!(name, "quarry-expansion-Hn2pJrdU4e7cBbKwQd0RxnZk9VLmY_3s");
        // Otherwise a request could need it.
        assert_ne!(quarry_volume::safe_name(&name), name);
    }

    #[test]
    fn scratch_volumes_are_explained_to_the_operator() {
        let volume = lv("a", "quarry1/s=ready/n=a/b=4096/a=m/f=ext4/l=l/p=x");
        let scratch = |of: &str| LogicalVolume { size: 3 << 30, ..lv("s", &tag(of)) };
        let hint = |of: &str| hint(&group(vec![volume.clone(), scratch(of)])).unwrap();
        assert!(hint("a").contains("vg/s is new space (3Gi) for volume a, which is being expanded to 8Gi"));
        assert!(hint("gone").contains("is left from the expansion of a volume that no longer exists"));
        assert!(!hint("a").contains("newer Quarry"));
        assert_eq!(super::hint(&group(vec![volume])), None);
    }

    #[test]
    fn both_edges_of_every_piece_are_cleaned() {
        let range =
            |pv: &str, first, extents| ExtentRange { pv: uuid(pv), first: Extents(first), extents: Extents(extents) };
        // 40 MiB on a, then 4 MiB on b, and 36 MiB on b.
        let scratch = [range("a", 100, 10), range("b", 7, 1), range("b", 20, 9)];
        let places = signature_places(ExtentSize(4 * MIB), &scratch, &scratch);
        let mib = |from: u64, to: u64| from * MIB..to * MIB;
        // At the start of a piece, a second header of LUKS2 may begin at 4 MiB.
        let start = |from: u64| from * MIB..(from + 4) * MIB + (64 << 10);
        assert_eq!(places, [start(0), mib(36, 40), mib(40, 44), start(44), mib(76, 80)]);
        // The same extents, cut as lvm uses them for stripes.
        let pieces = [range("a", 100, 9), range("b", 20, 9), range("a", 109, 1), range("b", 7, 1)];
        let places = signature_places(ExtentSize(4 * MIB), &scratch, &pieces);
        assert_eq!(places, [start(0), mib(32, 36), mib(36, 40), mib(40, 44), start(44), mib(76, 80)]);
    }
}
