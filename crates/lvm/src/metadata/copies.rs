//! Compares the copies of the metadata on all disks of a volume group.

use super::disk::{Area, Disk};
use super::reason::NeedsReport;

/// The text that all areas in use have. lvm writes every change to all of them, so another text, even an older one,
/// means that a commit is in progress, was interrupted, or did not reach a disk. Only lvm decides what is valid then.
pub(crate) fn agreed(disks: &[Disk]) -> Result<&[u8], NeedsReport> {
    let areas = || disks.iter().flat_map(|disk| disk.areas.iter().map(move |area| (disk, area)));
    if let Some((disk, _)) = areas().find(|(_, area)| area.precommitted) {
        return Err(NeedsReport::Precommitted(disk.device.clone()));
    }
    let Some((first, Area { text: Some(text), .. })) = areas().next() else { return Err(NeedsReport::NoMetadata) };
    match areas().find(|(_, area)| area.text.as_ref() != Some(text)) {
        None => Ok(text),
        Some((other, _)) => Err(NeedsReport::CopiesDiffer { one: first.device.clone(), other: other.device.clone() }),
    }
}

/// The smallest area in bytes, and the space for one more copy of the text in the area with the least. lvm rounds the
/// beginning of each copy up to a sector, and shows the space in whole sectors.
pub(crate) fn space(disks: &[Disk]) -> (u64, u64) {
    let areas = || disks.iter().flat_map(|disk| &disk.areas);
    let free = |area: &Area| {
        let used = area.text.as_ref().map_or(0, |text| u64::try_from(text.len()).unwrap_or(u64::MAX));
        let half = (area.size.saturating_sub(512) / 2).saturating_sub(512);
        half.saturating_sub(used) / 512 * 512
    };
    let smallest = areas().map(|area| area.size).min().unwrap_or_default();
    (smallest, areas().map(free).min().unwrap_or_default())
}
