//! How large a logical volume may be, and which physical volumes it should lie on. Pure arithmetic on a report.
//!
//! The answer is exact: a volume of that size can be made, one extent (one row of stripes) more cannot. lvm alone would
//! not allow that: for stripes and images it combines the free areas of any disks in several segments, greedily. So
//! the physical volumes are chosen here, exactly as many as the layout needs, and given to lvcreate; each then takes
//! the same number of extents from each, whatever fragments they lie in.

use std::cmp::Reverse;
use std::path::PathBuf;

use quarry_volume::Layout;

use crate::types::{PhysicalVolume, VolumeGroup};

/// A raid image's own metadata: superblocks and a bitmap of at most 2^21 regions, 264 KiB, in one extent.
const RAID_METADATA_EXTENTS: u64 = 1;
/// With smaller extents a raid image's metadata may take more than one, depending on the volume's size.
const LEAST_RAID_EXTENT: u64 = 512 << 10;
/// No new volume when less than this part of the metadata area is left.
const METADATA_RESERVE: u64 = 10;

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

/// Free space in bytes on disks that may be allocated from, the reserve taken off; a raid1 volume uses it up faster.
#[must_use]
pub fn available(group: &VolumeGroup, reserve: u64) -> u64 {
    let free: u64 = usable(group).iter().map(|volume| volume.free_extents).sum();
    free.saturating_sub(in_extents(reserve, group.extent_size)).saturating_mul(group.extent_size)
}

/// The largest volume of that layout that leaves `reserve` bytes of the volume group free.
#[must_use]
pub fn largest(group: &VolumeGroup, layout: &Layout, reserve: u64) -> Largest {
    match largest_extents(group, layout, reserve) {
        Ok(extents) => Largest { extents, bytes: extents.saturating_mul(group.extent_size), reason: None },
        Err(reason) => Largest { extents: 0, bytes: 0, reason: Some(reason) },
    }
}

/// The physical volumes that a volume of `extents` extents should lie on, or none when it does not fit.
///
/// striped and raid1 take those with the most free extents. linear takes the one with the fewest that still holds it:
/// a volume on one disk is lost with one disk only, and large free areas stay whole; if none is large enough, all.
#[must_use]
pub fn choose(group: &VolumeGroup, layout: &Layout, extents: u64, reserve: u64) -> Option<Vec<PathBuf>> {
    let most = largest_extents(group, layout, reserve).ok()?;
    if extents == 0 || extents > most || !extents.is_multiple_of(u64::from(layout.stripes()).max(1)) {
        return None;
    }
    let volumes = usable(group);
    let chosen: Vec<&PhysicalVolume> = match layout {
        Layout::Linear => {
            let holding = volumes.iter().filter(|volume| volume.free_extents >= extents);
            match holding.min_by_key(|volume| volume.free_extents) {
                Some(one) => vec![one],
                None => volumes.into_iter().filter(|volume| volume.free_extents > 0).collect(),
            }
        }
        _ => volumes.into_iter().take(usize::try_from(layout.width()).ok()?).collect(),
    };
    Some(chosen.into_iter().filter_map(|volume| volume.device.clone()).collect())
}

/// Why no volume can be made in this volume group, whatever its layout.
#[must_use]
pub fn closed(group: &VolumeGroup) -> Option<String> {
    let VolumeGroup { name, .. } = group;
    let lost: Vec<&str> =
        group.physical_volumes.iter().filter(|volume| volume.missing).map(|volume| volume.uuid.as_str()).collect();
    let visible = group.logical_volumes.iter().filter(|volume| !volume.internal).count();
    if !lost.is_empty() || group.missing_pvs > 0 {
        return Some(format!(
            "volume group {name} lacks {} of its physical volumes ({}): bring the disk back (after a change made \
             without it, vgextend --restoremissing), or give it up with vgreduce --removemissing",
            group.missing_pvs.max(1),
            lost.join(", ")
        ));
    }
    if group.partial {
        return Some(format!("volume group {name} is partial: see `vgs -o +vg_missing_pv_count {name}`"));
    }
    if group.exported {
        return Some(format!("volume group {name} is exported: see vgimport"));
    }
    if group.read_only {
        return Some(format!("volume group {name} is read-only"));
    }
    if !group.lock_type.is_empty() && group.lock_type != "none" {
        return Some(format!("volume group {name} is shared by several hosts (lock type {})", group.lock_type));
    }
    if group.max_lv > 0 && u64::try_from(visible).unwrap_or(u64::MAX) >= group.max_lv {
        return Some(format!(
            "volume group {name} may hold {} logical volumes and does: see vgchange -l",
            group.max_lv
        ));
    }
    // The area holds two copies, the old one and the one being written: half of it is all there is for one.
    let room = group.metadata_size / 2;
    if group.metadata_free < room / METADATA_RESERVE {
        return Some(format!(
            "volume group {name} has {} of {room} bytes left in its metadata area: too many logical volumes; a larger \
             area needs a new volume group (vgcreate --metadatasize)",
            group.metadata_free
        ));
    }
    None
}

fn largest_extents(group: &VolumeGroup, layout: &Layout, reserve: u64) -> Result<u64, String> {
    if let Some(reason) = closed(group) {
        return Err(reason);
    }
    let VolumeGroup { name, extent_size, .. } = group;
    let volumes = usable(group);
    let total: u64 = volumes.iter().map(|volume| volume.free_extents).sum();
    let total = total.saturating_sub(in_extents(reserve, *extent_size));
    let width = u64::from(layout.width());
    let stripes = u64::from(layout.stripes()).max(1);
    if width > u64::try_from(volumes.len()).unwrap_or(u64::MAX) {
        let usable = volumes.len();
        return Err(format!("layout {layout} needs {width} physical volumes; volume group {name} has {usable} to use"));
    }
    // What the fullest of the chosen disks can give bounds all of them.
    let index = usize::try_from(width.saturating_sub(1)).unwrap_or(usize::MAX);
    let each = volumes.get(index).map_or(0, |volume| volume.free_extents).min(total / width.max(1));
    let extents = match *layout {
        Layout::Linear => total,
        Layout::Striped { stripe_size, .. } => {
            if stripe_size > *extent_size {
                return Err(format!(
                    "a stripe of {stripe_size} bytes is larger than an extent of volume group {name}, {extent_size}"
                ));
            }
            each.saturating_mul(stripes)
        }
        Layout::Raid1 { .. } => {
            if *extent_size < LEAST_RAID_EXTENT {
                return Err(format!(
                    "raid needs extents of at least {LEAST_RAID_EXTENT} bytes; those of volume group {name} have \
                     {extent_size}"
                ));
            }
            each.saturating_sub(RAID_METADATA_EXTENTS)
        }
        Layout::Raid5 { .. } | Layout::Raid6 { .. } | Layout::Raid10 { .. } => {
            return Err(format!("layout {layout} is not made by this version"));
        }
    };
    if extents == 0 {
        return Err(format!("volume group {name} has no free space for layout {layout}"));
    }
    Ok(extents)
}

/// Disks that are there and may be allocated from, those with the most free extents first.
fn usable(group: &VolumeGroup) -> Vec<&PhysicalVolume> {
    let mut volumes: Vec<&PhysicalVolume> = group
        .physical_volumes
        .iter()
        .filter(|volume| volume.allocatable && !volume.missing && volume.device.is_some())
        .collect();
    // By name among equals, so that the same report always gives the same choice.
    volumes.sort_by_key(|volume| (Reverse(volume.free_extents), volume.device.clone()));
    volumes
}

fn in_extents(bytes: u64, extent_size: u64) -> u64 {
    bytes.div_ceil(extent_size.max(1))
}
