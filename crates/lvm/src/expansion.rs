//! On which extents to expand a logical volume. Pure arithmetic on a report.
//!
//! The result is exact: the volume can get that many more extents, and one more (one row of stripes) is not
//! possible. So the extents are chosen here, and passed to lvm one by one. lvm alone would place stripes and
//! copies on any disks; before 2.03.22, it placed extents of two copies on the same disk if a volume group has
//! three or more.
//!
//! A linear volume is expanded on the disks that it lies on, as far as they have space, and then on as few others
//! as possible: it is lost with any of its disks. A striped or mirrored volume is expanded only on its own disks,
//! each stripe or copy on the disk that it ends on. A striped volume with a linear end would be slower than its
//! owner requested, and a copy on two disks would be lost with any of them.

use std::collections::BTreeMap;

use quarry_volume::{Extents, Layout};

use crate::capacity::usable;
use crate::{ExtentRange, LogicalVolume, PhysicalVolume, PvUuid, VolumeGroup};

/// The current layout of a logical volume, which may have been changed by hand since its creation. `None` if it
/// has none in which it can be expanded: segments of several layouts, or other layouts than Quarry's.
#[must_use]
pub fn layout(group: &VolumeGroup, volume: &LogicalVolume) -> Option<Layout> {
    let mut types = volume.segment_types.iter();
    let (Some(kind), None) = (types.next(), types.next()) else { return None };
    let stripes = u32::try_from(volume.stripes).ok()?;
    match kind.as_str() {
        "linear" => Some(Layout::Linear),
        // The report has the widest segment. One by hand may be narrower.
        "striped" if volume.ranges.iter().all(|segment| u32::try_from(segment.len()) == Ok(stripes)) => {
            Some(Layout::Striped { stripes, stripe_size: volume.stripe_size })
        }
        "raid1" => {
            let images = u32::try_from(group.images_of(&volume.name).len()).ok()?;
            (images > 1 && images == stripes).then(|| Layout::Raid1 { mirrors: images.saturating_sub(1) })
        }
        _ => None,
    }
}

/// How many extents the volume can get at most, so that `reserve` bytes of the volume group stay free.
#[must_use]
pub fn largest(group: &VolumeGroup, volume: &LogicalVolume, layout: &Layout, reserve: u64) -> Extents {
    let budget = budget(group, reserve);
    if *layout == Layout::Linear {
        return budget;
    }
    let Some(own) = own_disks(group, volume, layout) else { return Extents::NONE };
    let width = u64::from(layout.width());
    let each = own.iter().map(|(pv, _)| free(pv)).min().unwrap_or_default().min(budget.divided_by(width));
    each.times(u64::from(layout.stripes()))
}

/// The extents with which to expand the volume by `extents` usable ones, so that `reserve` bytes of the volume
/// group stay free. `None` if that is not possible: it is more than [`largest`], or no whole number of rows of
/// stripes.
#[must_use]
pub fn choose(
    group: &VolumeGroup,
    volume: &LogicalVolume,
    layout: &Layout,
    extents: Extents,
    reserve: u64,
) -> Option<Vec<ExtentRange>> {
    let stripes = u64::from(layout.stripes()).max(1);
    if extents == Extents::NONE
        || extents > largest(group, volume, layout, reserve)
        || !extents.0.is_multiple_of(stripes)
    {
        return None;
    }
    if *layout == Layout::Linear {
        return Some(choose_linear(group, volume, extents));
    }
    let each = extents.divided_by(stripes);
    let own = own_disks(group, volume, layout)?;
    let chosen = own.iter().flat_map(|(pv, end)| take(pv, Some(*end), each)).collect::<Vec<_>>();
    pieces(&chosen, layout)
}

/// Whether these extents, which something else holds, are extents for an expansion of the volume by `extents`
/// usable ones.
#[must_use]
pub fn suits(
    group: &VolumeGroup,
    volume: &LogicalVolume,
    layout: &Layout,
    extents: Extents,
    ranges: &[ExtentRange],
) -> bool {
    let total = ranges.iter().fold(Extents::NONE, |sum, range| sum.and(range.extents));
    if *layout == Layout::Linear {
        return total == extents;
    }
    let stripes = u64::from(layout.stripes()).max(1);
    let each = extents.divided_by(stripes);
    let Some(own) = own_disks(group, volume, layout) else { return false };
    let held = |pv: PvUuid| {
        let of_it = ranges.iter().filter(|range| range.pv == pv);
        of_it.fold(Extents::NONE, |sum, range| sum.and(range.extents))
    };
    extents.0.is_multiple_of(stripes)
        && own.iter().all(|(pv, _)| held(pv.uuid) == each)
        && total == each.times(u64::from(layout.width()))
}

/// Cuts extents into the pieces that lvm uses side by side: for striped and raid1, as many pieces of each length
/// on every disk. lvm combines the longest remaining piece of each disk, and splits none of these; so every piece
/// is a run of the stripe or copy, from its beginning to its end. `None` if the disks do not have equally many
/// extents.
#[must_use]
pub fn pieces(ranges: &[ExtentRange], layout: &Layout) -> Option<Vec<ExtentRange>> {
    if *layout == Layout::Linear {
        return Some(ranges.to_vec());
    }
    // The next one of each disk is the last in its list.
    let mut disks: BTreeMap<PvUuid, Vec<ExtentRange>> = BTreeMap::new();
    for range in ranges.iter().filter(|range| range.extents > Extents::NONE) {
        disks.entry(range.pv).or_default().push(*range);
    }
    for disk in disks.values_mut() {
        disk.sort_unstable_by_key(|range| (range.extents, std::cmp::Reverse(range.first)));
    }
    let mut pieces = Vec::new();
    loop {
        let heads: Vec<Option<Extents>> = disks.values().map(|disk| disk.last().map(|range| range.extents)).collect();
        let Some(shortest) =
            heads.iter().copied().collect::<Option<Vec<_>>>().and_then(|heads| heads.into_iter().min())
        else {
            // All disks end together.
            let whole = !pieces.is_empty() && heads.iter().all(Option::is_none);
            return whole.then_some(pieces);
        };
        for disk in disks.values_mut() {
            let Some(range) = disk.pop() else { continue };
            pieces.push(ExtentRange { extents: shortest, ..range });
            if range.extents > shortest {
                let (first, extents) = (range.first.and(shortest), range.extents.without(shortest));
                disk.push(ExtentRange { first, extents, ..range });
            }
        }
    }
}

/// How many extents may be used in total.
fn budget(group: &VolumeGroup, reserve: u64) -> Extents {
    let total = usable(group).iter().fold(Extents::NONE, |sum, pv| sum.and(free(pv)));
    total.without(group.extent_size.needed_for(reserve))
}

/// The free extents of a disk whose places are known.
fn free(pv: &PhysicalVolume) -> Extents {
    pv.free_fragments.iter().fold(Extents::NONE, |sum, (_, extents)| sum.and(*extents))
}

/// The disk of each stripe or copy, with the extent after the last one that the volume has there. `None` if one
/// of them cannot be used, or if two share a disk.
fn own_disks<'a>(
    group: &'a VolumeGroup,
    volume: &LogicalVolume,
    layout: &Layout,
) -> Option<Vec<(&'a PhysicalVolume, Extents)>> {
    let ends: Vec<ExtentRange> = match layout {
        Layout::Raid1 { .. } => {
            if !group.shared_by_images(volume).is_empty() {
                return None;
            }
            let images = group.images_of(&volume.name);
            // Each image is linear.
            let end = |image: &&LogicalVolume| match image.ranges.last()?.as_slice() {
                [range] => Some(*range),
                _ => None,
            };
            images.iter().map(end).collect::<Option<_>>()?
        }
        _ => volume.ranges.last()?.clone(),
    };
    let usable = usable(group);
    let on = |end: &ExtentRange| {
        let pv = usable.iter().find(|pv| pv.uuid == end.pv)?;
        Some((*pv, end.first.and(end.extents)))
    };
    let own: Vec<_> = ends.iter().map(on).collect::<Option<_>>()?;
    let mut distinct: Vec<PvUuid> = own.iter().map(|(pv, _)| pv.uuid).collect();
    distinct.sort_unstable();
    distinct.dedup();
    (distinct.len() == own.len() && u32::try_from(own.len()) == Ok(layout.width())).then_some(own)
}

fn choose_linear(group: &VolumeGroup, volume: &LogicalVolume, extents: Extents) -> Vec<ExtentRange> {
    let last = volume.ranges.last().and_then(|segment| segment.last());
    let (mut own, mut others): (Vec<_>, Vec<_>) =
        usable(group).into_iter().partition(|pv| volume.physical_volumes.contains(&pv.uuid));
    // The disk that it ends on first.
    own.sort_by_key(|pv| last.is_none_or(|last| last.pv != pv.uuid));
    let mut chosen = Vec::new();
    let mut left = extents;
    let mut take_from = |pv: &PhysicalVolume, left: &mut Extents| {
        let end = last.filter(|last| last.pv == pv.uuid).map(|last| last.first.and(last.extents));
        let wanted = free(pv).min(*left);
        chosen.extend(take(pv, end, wanted));
        *left = left.without(wanted);
    };
    for pv in own {
        take_from(pv, &mut left);
    }
    while left > Extents::NONE {
        // The smallest that is large enough, otherwise the largest: they are sorted by their free extents.
        let fits = others.iter().rposition(|pv| free(pv) >= left).unwrap_or_default();
        if fits >= others.len() {
            break;
        }
        take_from(others.remove(fits), &mut left);
    }
    chosen
}

/// That many free extents of a disk, which has them: first those directly after `end`, then in as few runs as
/// possible.
fn take(pv: &PhysicalVolume, end: Option<Extents>, extents: Extents) -> Vec<ExtentRange> {
    let mut fragments = pv.free_fragments.clone();
    let mut left = extents;
    let mut taken = Vec::new();
    let mut next = fragments.iter().position(|(first, _)| Some(*first) == end);
    while left > Extents::NONE {
        let smallest = fragments.iter().enumerate().filter(|(_, (_, length))| *length >= left);
        let index = next
            .take()
            .or_else(|| smallest.min_by_key(|(_, (_, length))| *length).map(|(index, _)| index))
            .or_else(|| fragments.iter().enumerate().max_by_key(|(_, (_, length))| *length).map(|(index, _)| index));
        let Some(index) = index else { break };
        let (first, length) = fragments.remove(index);
        let part = length.min(left);
        taken.push(ExtentRange { pv: pv.uuid, first, extents: part });
        left = left.without(part);
    }
    taken
}

#[cfg(test)]
mod tests;
