//! What a pool can still give, and the arithmetic of it.
//!
//! The node says what is free on which disk; how large a volume of some layout may be follows from that alone. So the
//! controller answers for any layout from memory, with the very figures by which the node decides.

use crate::{Capacity, Layout};

/// A raid image's own metadata: superblocks and a bitmap of at most 2^21 regions, 264 KiB, in one extent.
const RAID_METADATA_EXTENTS: u64 = 1;
/// With smaller extents a raid image's metadata may take more than one, depending on the volume's size.
const LEAST_RAID_EXTENT: u64 = 512 << 10;

/// What a pool can give new volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// The unit of allocation in bytes: an extent of a volume group.
    pub extent: u64,
    /// Free extents of each disk that may be allocated from, the most first.
    pub free: Vec<u64>,
    /// Extents that are never given out.
    pub reserve: u64,
    /// Why no volume can be made whatever its layout, for the operator; `None` if one can.
    pub closed: Option<String>,
    /// Whether a volume is a whole disk: it takes one of `free`, all of that, and never spans several.
    pub whole: bool,
}

/// The largest volume that can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Largest {
    /// Extents that the volume offers; 0 when none can be made.
    pub extents: u64,
    /// The same in bytes.
    pub bytes: u64,
    /// Why none can be made, for the operator. Only with 0 extents.
    pub reason: Option<String>,
}

impl Space {
    /// Free space in bytes, the reserve taken off; a mirrored volume uses it up faster.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.extents().saturating_mul(self.extent)
    }

    /// Free extents on all disks, the reserve taken off.
    fn extents(&self) -> u64 {
        self.free.iter().fold(0u64, |sum, free| sum.saturating_add(*free)).saturating_sub(self.reserve)
    }

    /// The bytes that volumes of this layout come in.
    #[must_use]
    pub fn unit(&self, layout: &Layout) -> u64 {
        self.extent.saturating_mul(u64::from(layout.stripes()))
    }

    /// The largest volume of that layout. Exact: one extent (one row of stripes) more cannot be made.
    #[must_use]
    pub fn largest(&self, layout: &Layout) -> Largest {
        match self.largest_extents(layout) {
            Ok(extents) => Largest { extents, bytes: extents.saturating_mul(self.extent), reason: None },
            Err(reason) => Largest { extents: 0, bytes: 0, reason: Some(reason) },
        }
    }

    /// What the pool can still give for that layout; nothing if it is closed or cannot make it.
    #[must_use]
    pub fn capacity(&self, layout: &Layout) -> Capacity {
        let largest = self.largest(layout);
        if largest.reason.is_some() {
            return Capacity::default();
        }
        let copies = match layout {
            Layout::Raid1 { .. } => u64::from(layout.width()).max(1),
            _ => 1,
        };
        Capacity {
            // What several volumes together may get; a single one never gets more than the largest.
            available: (self.available() / copies).max(largest.bytes),
            largest: largest.bytes,
            smallest: self.unit(layout),
        }
    }

    fn largest_extents(&self, layout: &Layout) -> Result<u64, String> {
        if let Some(reason) = &self.closed {
            return Err(reason.clone());
        }
        if self.whole {
            return match (layout, self.free.first().copied().unwrap_or_default()) {
                (Layout::Linear, 0) => Err("there is no free disk".to_owned()),
                (Layout::Linear, extents) => Ok(extents),
                _ => Err(format!("a volume is one whole disk here, and layout {layout} is not: leave the layout out")),
            };
        }
        let total = self.extents();
        let width = u64::from(layout.width());
        let stripes = u64::from(layout.stripes()).max(1);
        let disks = self.free.len();
        if width > u64::try_from(disks).unwrap_or(u64::MAX) {
            return Err(format!("layout {layout} needs {width} disks, and there are {disks} to use"));
        }
        // What the fullest of the chosen disks can give bounds all of them.
        let index = usize::try_from(width.saturating_sub(1)).unwrap_or(usize::MAX);
        let each = self.free.get(index).copied().unwrap_or_default().min(total / width.max(1));
        let extents = match *layout {
            Layout::Linear => total,
            Layout::Striped { stripe_size, .. } => {
                if stripe_size > self.extent {
                    return Err(format!(
                        "a stripe of {stripe_size} bytes is larger than an extent, which has {}",
                        self.extent
                    ));
                }
                each.saturating_mul(stripes)
            }
            Layout::Raid1 { .. } => {
                if self.extent < LEAST_RAID_EXTENT {
                    return Err(format!(
                        "raid needs extents of at least {LEAST_RAID_EXTENT} bytes, and these have {}",
                        self.extent
                    ));
                }
                each.saturating_sub(RAID_METADATA_EXTENTS)
            }
        };
        if extents == 0 {
            return Err(format!("there is no free space for layout {layout}"));
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn space(free: &[u64]) -> Space {
        Space { extent: 4 * MIB, free: free.to_vec(), reserve: 0, closed: None, whole: false }
    }

    #[test]
    fn a_linear_volume_takes_all_disks_and_leaves_the_reserve() {
        let space = Space { reserve: 5, ..space(&[10, 4, 1]) };
        assert_eq!(
            space.capacity(&Layout::Linear),
            Capacity { available: 40 * MIB, largest: 40 * MIB, smallest: 4 * MIB }
        );
    }

    #[test]
    fn a_mirror_is_bounded_by_its_smallest_disk_and_pays_for_its_metadata() {
        let capacity = space(&[10, 4, 1]).capacity(&Layout::Raid1 { mirrors: 1 });
        assert_eq!(capacity, Capacity { available: 30 * MIB / 4 * 4, largest: 12 * MIB, smallest: 4 * MIB });
    }

    #[test]
    fn a_volume_that_is_a_whole_disk_does_not_span_several() {
        let space = Space { whole: true, ..space(&[10, 4, 1]) };
        assert_eq!(
            space.capacity(&Layout::Linear),
            Capacity { available: 60 * MIB, largest: 40 * MIB, smallest: 4 * MIB }
        );
        for layout in [Layout::Striped { stripes: 2, stripe_size: 65536 }, Layout::Raid1 { mirrors: 1 }] {
            assert_eq!(space.capacity(&layout), Capacity::default(), "{layout}");
        }
        let none = Space { free: Vec::new(), ..space };
        assert_eq!(none.largest(&Layout::Linear).reason.as_deref(), Some("there is no free disk"));
    }

    #[test]
    fn a_closed_pool_gives_nothing_and_says_why() {
        let space = Space { closed: Some("a disk is missing".into()), ..space(&[10]) };
        assert_eq!(space.capacity(&Layout::Linear), Capacity::default());
        assert_eq!(space.largest(&Layout::Linear).reason.as_deref(), Some("a disk is missing"));
        // What is free is still told.
        assert_eq!(space.available(), 40 * MIB);
    }

    #[test]
    fn too_few_disks_are_told() {
        let reason = space(&[10]).largest(&Layout::Striped { stripes: 2, stripe_size: 65536 }).reason.unwrap();
        assert!(reason.contains("needs 2 disks"), "{reason}");
    }
}
