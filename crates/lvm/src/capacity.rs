//! How much free space a volume group has, and on which physical volumes to place a logical volume. Pure
//! arithmetic on a report. [`Space`] computes the largest size for a layout, so that controller and node
//! always agree.
//!
//! The result is exact: a volume of that size can be created, and one extent (one row of stripes) more
//! cannot. lvm alone does not guarantee that: for stripes and images it greedily combines free areas of any
//! disks in several segments. So the physical volumes are chosen here, exactly as many as the layout needs,
//! and passed to lvcreate. Each of them then provides the same number of extents, however fragmented its free
//! space is.

use std::cmp::Reverse;
use std::path::PathBuf;

use quarry_volume::{Extents, Largest, Layout, Placement, Space, show_size};

use crate::PvUuid;
use crate::types::{LogicalVolume, PhysicalVolume, VolumeGroup};

/// Unused space after a physical volume is reported from this size on, in bytes. Less may be alignment, or a
/// second metadata area.
const GROWN: u64 = 32 << 20;
/// No new volumes are created if less than one part in this many of the usable half of the metadata area is
/// free.
const METADATA_RESERVE: u64 = 10;

/// The space for new volumes, if `reserve` bytes of the volume group must stay free.
#[must_use]
pub fn space(group: &VolumeGroup, reserve: u64) -> Space {
    Space {
        extent: group.extent_size,
        free: usable(group).iter().map(|volume| volume.free_extents).collect(),
        reserve: group.extent_size.needed_for(reserve),
        closed: closed(group),
        placement: Placement::Extents,
    }
}

/// The largest volume of that layout that leaves `reserve` bytes of the volume group free.
#[must_use]
pub fn largest(group: &VolumeGroup, layout: &Layout, reserve: u64) -> Largest {
    space(group, reserve).largest(layout)
}

/// The physical volumes for a volume of `extents` extents that leaves `reserve` bytes of the volume group
/// free. `None` if it does not fit.
///
/// striped and raid1 use those with the most free extents. linear uses the one with the fewest that is large
/// enough: a volume on a single disk depends on that disk only, and large free areas are kept. If none is
/// large enough, it uses all of them. A linear copy of another volume (`copy_of`) goes to another disk than that one if it
/// can: the snapshot that it is copied from needs the free extents of those disks.
#[must_use]
pub fn choose(
    group: &VolumeGroup,
    layout: &Layout,
    extents: Extents,
    reserve: u64,
    copy_of: Option<&LogicalVolume>,
) -> Option<Vec<PathBuf>> {
    let most = largest(group, layout, reserve).extents;
    if extents == Extents::NONE || extents > most || !extents.0.is_multiple_of(u64::from(layout.stripes()).max(1)) {
        return None;
    }
    let volumes = usable(group);
    let chosen: Vec<&PhysicalVolume> = match layout {
        Layout::Linear => {
            let of_source = |pv: &PvUuid| {
                copy_of.is_some_and(|source| {
                    let images = group.images_of(&source.name);
                    source.physical_volumes.contains(pv)
                        || images.iter().any(|image| image.physical_volumes.contains(pv))
                })
            };
            let holding = volumes.iter().filter(|volume| volume.free_extents >= extents);
            match holding.min_by_key(|volume| (of_source(&volume.uuid), volume.free_extents)) {
                Some(one) => vec![one],
                None => volumes.into_iter().filter(|volume| volume.free_extents > Extents::NONE).collect(),
            }
        }
        _ => volumes.into_iter().take(usize::try_from(layout.width()).ok()?).collect(),
    };
    Some(chosen.into_iter().filter_map(|volume| volume.device.clone()).collect())
}

/// The physical volumes for a snapshot of that volume with `extents` extents, which leaves `reserve` bytes of the
/// volume group free. If it does not fit: the most extents that a snapshot of it could have.
///
/// Only disks of the volume itself are used; for a mirrored one, those of one copy. A snapshot on another disk would
/// make the volume depend on that disk, too: lvm does not activate a volume whose snapshot lacks a disk.
pub fn choose_for_snapshot(
    group: &VolumeGroup,
    source: &LogicalVolume,
    extents: Extents,
    reserve: u64,
) -> Result<Vec<PathBuf>, Extents> {
    let volumes = usable(group);
    let all = volumes.iter().fold(Extents::NONE, |sum, pv| sum.and(pv.free_extents));
    let most = all.without(group.extent_size.needed_for(reserve));
    let on = |volume: &LogicalVolume| -> Vec<&PhysicalVolume> {
        let own = volumes.iter().filter(|pv| volume.physical_volumes.contains(&pv.uuid));
        own.filter(|pv| pv.free_extents > Extents::NONE).copied().collect()
    };
    let images = group.images_of(&source.name);
    let sets = if images.is_empty() { vec![on(source)] } else { images.into_iter().map(on).collect() };
    let free = |set: &[&PhysicalVolume]| set.iter().fold(Extents::NONE, |sum, pv| sum.and(pv.free_extents));
    // The first of several equal ones.
    let set = sets.into_iter().rev().max_by_key(|set| free(set)).unwrap_or_default();
    let most = most.min(free(&set));
    if extents == Extents::NONE || extents > most {
        return Err(most);
    }
    let one = set.iter().filter(|pv| pv.free_extents >= extents).min_by_key(|pv| pv.free_extents);
    let chosen = one.map_or_else(|| set.clone(), |one| vec![*one]);
    Ok(chosen.into_iter().filter_map(|pv| pv.device.clone()).collect())
}

/// Why no volume can be created in this volume group, with any layout.
#[must_use]
pub fn closed(group: &VolumeGroup) -> Option<String> {
    let VolumeGroup { name, .. } = group;
    let lost: Vec<String> =
        group.physical_volumes.iter().filter(|volume| volume.missing).map(|volume| volume.uuid.to_string()).collect();
    let visible = group.logical_volumes.iter().filter(|volume| !volume.internal).count();
    if !group.hidden.is_empty() {
        return Some(format!("volume group {name} is degraded: {}", group.hidden.join("; ")));
    }
    if !lost.is_empty() || group.missing_pvs > 0 {
        return Some(format!(
            "volume group {name} lacks {} of its physical volumes ({}){}: bring the disk back (if the group was changed \
             without it, also run vgextend --restoremissing), or give it up as `quarry doctor` says",
            group.missing_pvs.max(1),
            lost.join(", "),
            silent(group)
        ));
    }
    if group.partial {
        return Some(format!("volume group {name} is partial; see `vgs -o +vg_missing_pv_count {name}`"));
    }
    if let Some(why) = duplicated(group) {
        return Some(why);
    }
    if let Some(pv) = group.physical_volumes.iter().find(|pv| pv.device_read_only && pv.metadata_areas > 0) {
        return Some(format!(
            "volume group {name}: the kernel does not allow writes to {}, so lvm cannot write the group's metadata; \
             see `dmesg` for the reason, and run `blockdev --setrw` once the disk works again",
            group.show_disk(pv.uuid)
        ));
    }
    if group.exported {
        return Some(format!("volume group {name} is exported; run vgimport"));
    }
    if group.read_only {
        return Some(format!("volume group {name} is read-only"));
    }
    if !group.lock_type.is_empty() && group.lock_type != "none" {
        return Some(format!("volume group {name} is shared by several hosts (lock type {})", group.lock_type));
    }
    if group.max_lv > 0 && u64::try_from(visible).unwrap_or(u64::MAX) >= group.max_lv {
        return Some(format!(
            "volume group {name} has reached its limit of {} logical volumes; raise it with vgchange -l",
            group.max_lv
        ));
    }
    // The area holds two copies, the old one and the one being written, so one copy can take half of it.
    let room = group.metadata_size / 2;
    if group.metadata_free < room / METADATA_RESERVE {
        return Some(format!(
            "volume group {name} has only {} of {room} bytes left in its metadata area, because it has too many \
             logical volumes; a larger area needs a new volume group (vgcreate --metadatasize)",
            group.metadata_free
        ));
    }
    None
}

/// The problem with a volume group that has this physical volume: lvm neither changes it nor activates its
/// volumes. Names all devices.
/// The devices that may be the missing ones.
fn silent(group: &VolumeGroup) -> String {
    let devices: Vec<String> = group.silent.iter().map(|device| device.display().to_string()).collect();
    match devices.is_empty() {
        true => String::new(),
        false => format!(", and {} does not answer", devices.join(", ")),
    }
}

fn on_duplicates(pv: &PhysicalVolume) -> String {
    let mut devices: Vec<String> =
        pv.device.iter().chain(&pv.duplicates).map(|device| device.display().to_string()).collect();
    devices.sort_unstable();
    format!(
        "physical volume {} is on {} devices, {}, so lvm neither changes the group nor activates its volumes; remove \
         the copy, hide it from lvm (devices file or global_filter in lvm.conf), or give it a new identity \
         (vgimportclone); if they are paths to one disk, configure multipath for them",
        pv.uuid,
        devices.len(),
        devices.join(" and ")
    )
}

/// Why lvm does nothing with inactive volumes, although it reads the volume group. `None` if there are no
/// duplicates.
#[must_use]
pub fn duplicated(group: &VolumeGroup) -> Option<String> {
    let pv = group.physical_volumes.iter().find(|pv| !pv.duplicates.is_empty())?;
    Some(format!("volume group {}: {}", group.name, on_duplicates(pv)))
}

/// The disks whose free extents are not used although those of the others are, with the reasons, for the
/// operator.
#[must_use]
pub fn withheld(group: &VolumeGroup) -> Vec<String> {
    let why = |pv: &PhysicalVolume| {
        let disk = group.show_disk(pv.uuid);
        if pv.is_cut_off(group.extent_size) {
            let (fitting, all) = (pv.extents_on_device(group.extent_size), pv.extent_count);
            return Some(format!(
                "{disk} is smaller than its physical volume says ({fitting} of {all} extents fit): no new volumes are \
                 placed there; restore the disk's size, or move its extents away (pvmove) and remove it from the \
                 group (vgreduce)"
            ));
        }
        (pv.device_read_only && pv.metadata_areas == 0).then(|| {
            format!(
                "the kernel does not allow writes to {disk}: no new volumes are placed there; see `dmesg` for the \
                     reason"
            )
        })
    };
    group.physical_volumes.iter().filter(|pv| !pv.missing).filter_map(why).collect()
}

/// Space that an operator could add: disks that are larger than their physical volumes.
#[must_use]
pub fn hints(group: &VolumeGroup) -> Vec<String> {
    let grown = group.physical_volumes.iter().filter(|pv| !pv.missing && pv.unused_tail(group.extent_size) >= GROWN);
    let hint = |pv: &PhysicalVolume| {
        let disk = group.show_disk(pv.uuid);
        format!(
            "{disk} is {} larger than its physical volume; `pvresize {disk}` makes that space usable",
            show_size(pv.unused_tail(group.extent_size))
        )
    };
    grown.map(hint).collect()
}

/// The disks that are present and may be allocated from, the one with the most free extents first.
pub(crate) fn usable(group: &VolumeGroup) -> Vec<&PhysicalVolume> {
    let mut volumes: Vec<&PhysicalVolume> = group
        .physical_volumes
        .iter()
        .filter(|volume| volume.allocatable && !volume.missing && volume.device.is_some())
        .filter(|volume| !volume.is_cut_off(group.extent_size) && !volume.device_read_only)
        .collect();
    // Disks with equal space are sorted by name, so that the same report always leads to the same choice.
    volumes.sort_by_key(|volume| (Reverse(volume.free_extents), volume.device.clone()));
    volumes
}
