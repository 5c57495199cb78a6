//! Where a volume lies on the disks, as lvm reports it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use crate::csi::{MIB, Made};
use crate::node::{GROUP, Node};

/// The size of an extent.
pub const EXTENT: i64 = 4 * MIB;
/// Where the first extent is on each disk.
pub const FIRST_EXTENT: i64 = MIB;

/// Extents on one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The disk's device.
    pub disk: String,
    pub first: i64,
    /// It belongs to the range.
    pub last: i64,
}

impl Range {
    pub fn count(&self) -> i64 {
        self.last - self.first + 1
    }
}

/// A logical volume, or an image of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// As lvs prints it: in brackets if it is part of another.
    pub name: String,
    /// For each segment, its range on each disk.
    pub segments: Vec<Vec<Range>>,
}

impl Part {
    pub fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.segments.iter().flatten()
    }

    pub fn disks(&self) -> BTreeSet<&str> {
        self.ranges().map(|range| range.disk.as_str()).collect()
    }

    pub fn extents(&self) -> i64 {
        self.ranges().map(Range::count).sum()
    }
}

/// The parts of a volume that hold its data: itself, or its images.
pub async fn data_parts(node: &Node, made: &Made) -> Result<Vec<Part>> {
    let printed = node
        .vm
        .sh(format!("lvs -a --noheadings --segments --separator '|' -o lv_name,seg_pe_ranges {GROUP} | sed 's/^ *//'"))
        .await?;
    let parts = read(&printed)?;
    let name = &made.ask.name;
    let images = format!("[{name}_rimage_");
    let has_images = parts.iter().any(|part| part.name.starts_with(&images));
    let parts: Vec<Part> = parts
        .into_iter()
        .filter(|part| if has_images { part.name.starts_with(&images) } else { part.name == *name })
        .collect();
    ensure!(!parts.is_empty(), "lvs does not show {name}:\n{printed}");
    Ok(parts)
}

fn read(printed: &str) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for line in printed.lines().filter(|line| !line.trim().is_empty()) {
        let (name, ranges) = line.trim().split_once('|').with_context(|| format!("lvs says {line:?}"))?;
        // The ranges of a volume with images are names.
        let ranges = ranges.split_whitespace().filter(|range| range.starts_with('/'));
        let ranges = ranges.map(read_range).collect::<Result<Vec<Range>>>()?;
        match parts.iter_mut().find(|part| part.name == name) {
            Some(part) => part.segments.push(ranges),
            None => parts.push(Part { name: name.to_owned(), segments: vec![ranges] }),
        }
    }
    Ok(parts)
}

/// `/dev/vdb:0-7`.
fn read_range(text: &str) -> Result<Range> {
    let range = || {
        let (disk, range) = text.rsplit_once(':')?;
        let (first, last) = range.split_once('-')?;
        Some(Range { disk: disk.to_owned(), first: first.parse().ok()?, last: last.parse().ok()? })
    };
    range().with_context(|| format!("lvs says {text:?} of a segment"))
}

/// Fails unless a volume that had the parts `before` was expanded on the right disks: linear on its own disks first,
/// directly after its end if that is free; striped and raid1 only on their own. `others`: the disks that it had to take
/// besides.
pub fn check(layout: &str, size: i64, before: &[Part], after: &[Part], others: usize) -> Result<()> {
    let shown = || format!("{before:?} became {after:?}");
    ensure!(before.len() == after.len(), "other parts: {}", shown());
    for (old, new) in before.iter().zip(after) {
        ensure!(old.name == new.name, "other parts: {}", shown());
        ensure!(new.extents() * EXTENT == size, "{} has not {size} bytes: {}", new.name, shown());
        let more = new.disks().difference(&old.disks()).count();
        ensure!(new.disks().is_superset(&old.disks()), "moved to other disks: {}", shown());
        ensure!(more == others, "{more} other disks instead of {others}: {}", shown());
        ensure!(old.ranges().zip(new.ranges()).all(|(old, new)| old.first == new.first), "moved: {}", shown());
        if others == 0 && layout != "striped" {
            ensure!(new.segments.len() == 1, "not directly after its end: {}", shown());
        }
        for segment in new.segments.iter().filter(|_| layout == "striped") {
            let disks: BTreeSet<&str> = segment.iter().map(|range| range.disk.as_str()).collect();
            ensure!(
                disks == old.disks() && disks.len() == segment.len(),
                "a segment without all its disks: {}",
                shown()
            );
        }
    }
    if layout == "raid1" {
        let disks: Vec<&str> = after.iter().flat_map(Part::disks).collect();
        let different: BTreeSet<&str> = disks.iter().copied().collect();
        ensure!(disks.len() == after.len() && different.len() == disks.len(), "images share a disk: {}", shown());
    }
    Ok(())
}

/// A disk, and the bytes on it from where to where.
pub type Place = (String, i64, i64);

/// Where a volume with these parts continues when it gets this size, if that is free.
pub fn new_places(parts: &[Part], old: i64, size: i64) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for part in parts {
        let [segment] = &part.segments[..] else { anyhow::bail!("{part:?} has several segments") };
        let more = (size - old) / EXTENT / i64::try_from(segment.len())?;
        for range in segment {
            places.push(place(&range.disk, range.last + 1, more));
        }
    }
    Ok(places)
}

/// Where a volume did continue, each range directly after the old one.
pub fn new_places_of(before: &[Part], after: &[Part]) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for (old, new) in before.iter().zip(after) {
        for range in old.ranges() {
            let next = |end: i64| new.ranges().find(|other| other.disk == range.disk && other.first == end + 1);
            let same = new.ranges().find(|other| other.disk == range.disk && other.first == range.first);
            let same = same.with_context(|| format!("{old:?} moved to {new:?}"))?;
            // lvm may report it as one segment or as two.
            let last = next(same.last).map_or(same.last, |next| next.last);
            places.push(place(&range.disk, range.last + 1, last - range.last));
        }
    }
    Ok(places)
}

fn place(disk: &str, extent: i64, count: i64) -> Place {
    (disk.to_owned(), FIRST_EXTENT + extent * EXTENT, FIRST_EXTENT + (extent + count) * EXTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let parts = read("a|/dev/vdb:0-7\n  a|/dev/vdc:3-4 /dev/vdd:0-1 \nr|r_rimage_0:0-7 r_rimage_1:0-7\n").unwrap();
        let range = |disk: &str, first, last| Range { disk: disk.to_owned(), first, last };
        let segments = vec![vec![range("/dev/vdb", 0, 7)], vec![range("/dev/vdc", 3, 4), range("/dev/vdd", 0, 1)]];
        assert_eq!(parts[0], Part { name: "a".to_owned(), segments });
        assert_eq!((parts[0].extents(), parts[1].extents()), (12, 0));
        assert!(read("a").is_err() && read("a|/dev/vdb:0").is_err());
    }

    #[test]
    fn wrong_places_are_found() {
        let part = |name: &str, printed: &str| Part {
            name: name.to_owned(),
            segments: printed
                .split(';')
                .map(|one| one.split(' ').map(|one| read_range(one).unwrap()).collect())
                .collect(),
        };
        let linear = |before: &str, after: &str, others| {
            check("linear", 3 * EXTENT, &[part("a", before)], &[part("a", after)], others).is_ok()
        };
        assert!(linear("/b:0-1", "/b:0-2", 0));
        assert!(!linear("/b:0-1", "/b:0-1;/b:5-5", 0));
        assert!(!linear("/b:0-1", "/b:0-1;/c:0-0", 0) && linear("/b:0-1", "/b:0-1;/c:0-0", 1));
        assert!(!linear("/b:0-1", "/c:0-2", 0) && !linear("/b:0-1", "/b:0-3", 0));
        let raid1 = |second: &str| {
            let before = [part("[a_rimage_0]", "/b:1-2"), part("[a_rimage_1]", "/c:1-2")];
            let after = [part("[a_rimage_0]", "/b:1-3"), part("[a_rimage_1]", second)];
            check("raid1", 3 * EXTENT, &before, &after, 0).is_ok()
        };
        assert!(raid1("/c:1-3") && !raid1("/c:1-2;/b:4-4"));
        let striped =
            |after: &str| check("striped", 4 * EXTENT, &[part("a", "/b:0-0 /c:0-0")], &[part("a", after)], 0).is_ok();
        assert!(striped("/b:0-1 /c:0-1") && striped("/b:0-0 /c:0-0;/b:5-5 /c:9-9"));
        assert!(!striped("/b:0-0 /c:0-0;/b:5-6"));
    }

    #[test]
    fn a_volume_continues_after_its_end() {
        let range = |disk: &str, first, last| Range { disk: disk.to_owned(), first, last };
        let part = |segments| Part { name: "a".to_owned(), segments };
        let before = [part(vec![vec![range("/b", 0, 3), range("/c", 2, 5)]])];
        let places = new_places(&before, 8 * EXTENT, 12 * EXTENT).unwrap();
        let at = |extent: i64| FIRST_EXTENT + extent * EXTENT;
        assert_eq!(places, [("/b".to_owned(), at(4), at(6)), ("/c".to_owned(), at(6), at(8))]);
        let joined = [part(vec![vec![range("/b", 0, 5), range("/c", 2, 7)]])];
        let apart = [part(vec![before[0].segments[0].clone(), vec![range("/b", 4, 5), range("/c", 6, 7)]])];
        for after in [joined, apart] {
            assert_eq!(new_places_of(&before, &after).unwrap(), places);
        }
    }
}
