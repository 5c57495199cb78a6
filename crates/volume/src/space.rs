//! What a pool can still allocate, and the arithmetic for it.
//!
//! The node reports the free space per disk; the largest possible volume for a layout follows from that
//! alone. So the controller answers for any layout from memory, with the same figures that the node uses.

use crate::{Capacity, ExtentSize, Extents, Layout};

/// A raid image's own metadata: superblocks and a bitmap of at most 2^21 regions, 264 KiB, in one extent.
const RAID_METADATA: Extents = Extents(1);
/// With smaller extents, a raid image's metadata may need more than one, depending on the volume's size.
const LEAST_RAID_EXTENT: ExtentSize = ExtentSize(512 << 10);

/// The space for new volumes in a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// The unit of allocation: an extent of a volume group.
    pub extent: ExtentSize,
    /// Free extents per disk that may be allocated, the most first.
    pub free: Vec<Extents>,
    /// Extents that are never allocated.
    pub reserve: Extents,
    /// Why no volume can be created with any layout, for the operator; `None` if one can.
    pub closed: Option<String>,
    /// What of `free` one volume takes.
    pub placement: Placement,
}

/// What one volume takes of a pool's free space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Extents of one or several disks, according to its layout.
    #[default]
    Extents,
    /// One entry of [`Space::free`], entirely: it never spans several disks.
    WholeDisk,
}

/// The largest volume that can be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Largest {
    /// Its usable extents; 0 if no volume can be created.
    pub extents: Extents,
    /// The same in bytes.
    pub bytes: u64,
    /// Why no volume can be created, for the operator. Only with 0 extents.
    pub reason: Option<String>,
}

impl Space {
    /// Free space in bytes without the reserve; a mirrored volume uses it up faster.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.extent.bytes(self.extents())
    }

    /// Free extents on all disks without the reserve.
    fn extents(&self) -> Extents {
        self.free.iter().fold(Extents::NONE, |sum, free| sum.and(*free)).without(self.reserve)
    }

    /// The unit of allocation for volumes with this layout, in bytes.
    #[must_use]
    pub fn unit(&self, layout: &Layout) -> u64 {
        self.extent.bytes(Extents(u64::from(layout.stripes())))
    }

    /// The largest volume with that layout. Exact: one more extent (row of stripes) cannot be allocated.
    #[must_use]
    pub fn largest(&self, layout: &Layout) -> Largest {
        match self.largest_extents(layout) {
            Ok(extents) => Largest { extents, bytes: self.extent.bytes(extents), reason: None },
            Err(reason) => Largest { extents: Extents::NONE, bytes: 0, reason: Some(reason) },
        }
    }

    /// What the pool can still allocate for that layout; nothing if it is closed or does not support it.
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
            // The sum for several volumes; a single volume never gets more than the largest.
            available: (self.available() / copies).max(largest.bytes),
            largest: largest.bytes,
            smallest: self.unit(layout),
        }
    }

    fn largest_extents(&self, layout: &Layout) -> Result<Extents, String> {
        if let Some(reason) = &self.closed {
            return Err(reason.clone());
        }
        if self.placement == Placement::WholeDisk {
            return match (layout, self.free.first().copied().unwrap_or_default()) {
                (Layout::Linear, Extents::NONE) => Err("no disk is free".to_owned()),
                (Layout::Linear, extents) => Ok(extents),
                _ => Err(format!(
                    "a volume in this pool is one whole disk, so layout {layout} is not possible: remove the layout"
                )),
            };
        }
        let total = self.extents();
        let width = u64::from(layout.width());
        let stripes = u64::from(layout.stripes()).max(1);
        let disks = self.free.len();
        if width > u64::try_from(disks).unwrap_or(u64::MAX) {
            return Err(format!("layout {layout} needs {width} disks, but only {disks} can be used"));
        }
        // The fullest of the selected disks limits all of them.
        let index = usize::try_from(width.saturating_sub(1)).unwrap_or(usize::MAX);
        let each = self.free.get(index).copied().unwrap_or_default().min(total.divided_by(width));
        let extents = match *layout {
            Layout::Linear => total,
            Layout::Striped { stripe_size, .. } => {
                if stripe_size > self.extent.0 {
                    return Err(format!(
                        "a stripe of {stripe_size} bytes is larger than an extent of {} bytes",
                        self.extent.0
                    ));
                }
                each.times(stripes)
            }
            Layout::Raid1 { .. } => {
                if self.extent < LEAST_RAID_EXTENT {
                    return Err(format!(
                        "raid needs extents of at least {} bytes; this volume group's have {} bytes",
                        LEAST_RAID_EXTENT.0, self.extent.0
                    ));
                }
                each.without(RAID_METADATA)
            }
        };
        if extents == Extents::NONE {
            return Err(format!("no space is free for layout {layout}"));
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn space(free: &[u64]) -> Space {
        let free = free.iter().copied().map(Extents).collect();
        Space { extent: ExtentSize(4 * MIB), free, ..Space::default() }
    }

    #[test]
    fn a_linear_volume_takes_all_disks_and_leaves_the_reserve() {
        let space = Space { reserve: Extents(5), ..space(&[10, 4, 1]) };
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
        let space = Space { placement: Placement::WholeDisk, ..space(&[10, 4, 1]) };
        assert_eq!(
            space.capacity(&Layout::Linear),
            Capacity { available: 60 * MIB, largest: 40 * MIB, smallest: 4 * MIB }
        );
        for layout in [Layout::Striped { stripes: 2, stripe_size: 65536 }, Layout::Raid1 { mirrors: 1 }] {
            assert_eq!(space.capacity(&layout), Capacity::default(), "{layout}");
        }
        let none = Space { free: Vec::new(), ..space };
        assert_eq!(none.largest(&Layout::Linear).reason.as_deref(), Some("no disk is free"));
    }

    #[test]
    fn a_closed_pool_allocates_nothing_and_reports_why() {
        let space = Space { closed: Some("a disk is missing".into()), ..space(&[10]) };
        assert_eq!(space.capacity(&Layout::Linear), Capacity::default());
        assert_eq!(space.largest(&Layout::Linear).reason.as_deref(), Some("a disk is missing"));
        // The free space is still reported.
        assert_eq!(space.available(), 40 * MIB);
    }

    #[test]
    fn too_few_disks_are_reported() {
        let reason = space(&[10]).largest(&Layout::Striped { stripes: 2, stripe_size: 65536 }).reason.unwrap();
        assert!(reason.contains("needs 2 disks"), "{reason}");
    }
}
