//! What the kernel knows about a logical volume, in the words of lvm's report.

use super::connections::{Connections, Part};
use super::devices::{Device, Devices, thin_pool_health};
use super::parts::{Kind, Lv};
use super::reason::NeedsReport;
use crate::types::LogicalVolume;
use crate::uuid::{REAL, TPOOL, UNUSED_POOL};
use crate::{ImageState, RaidStatus, VgUuid};

/// The ends of the UUIDs of a thin pool's parts.
const DATA: &str = "-tdata";
const METADATA: &str = "-tmeta";

/// Adds the kernel's part of the report.
pub(crate) fn add(
    volume: &mut LogicalVolume,
    group: VgUuid,
    lv: &Lv,
    connections: &Connections<'_>,
    kernel: &Devices,
) -> Result<(), NeedsReport> {
    let find = |lv: &Lv, end: &str| kernel.get(group, lv.uuid, end);
    let device = match lv.segments.first().map(|segment| &segment.kind) {
        Some(Kind::ThinPool { is_new, .. }) => {
            let layer = find(lv, TPOOL);
            let status =
                layer.map(|layer| layer.thin_pool().ok_or(NeedsReport::Other("the kernel's status of a thin pool")));
            let status = status.transpose()?;
            volume.health = status.as_ref().map_or("", thin_pool_health).to_owned();
            thin_pool(layer, find(lv, UNUSED_POOL), *is_new, status.is_some_and(|status| status.needs_check))?
        }
        _ => {
            let device = own_device(lv, connections, &find);
            let layered = connections.is_thick_origin(lv) || connections.is_external_origin(lv);
            if device.is_none() && !volume.internal && !layered && !connections.is_cow(lv) && find(lv, REAL).is_some() {
                // A killed lvm left it. Versions of lvm differ in what they make of it.
                return Err(NeedsReport::Other("a device in the kernel"));
            }
            device
        }
    };
    volume.active = Some(device.is_some());
    volume.suspended = device.is_some_and(|device| device.suspended);
    volume.open = device.map(|device| device.open);
    volume.device_number = device.map(|device| device.number);
    let whole = match connections.part(lv) {
        Some((Part::RaidImage | Part::RaidMetadata, whole)) => Some(whole),
        _ => Some(lv).filter(|lv| raid_kind(lv).is_some()),
    };
    if let (Some(whole), Some(_)) = (whole, device) {
        raid(volume, lv, whole, connections, &find)?;
    }
    Ok(())
}

/// The device of a volume that is not a thin pool. Newer versions of lvm mark the devices of hidden parts.
fn own_device<'a>(
    lv: &Lv,
    connections: &Connections<'_>,
    find: &impl Fn(&Lv, &str) -> Option<&'a Device>,
) -> Option<&'a Device> {
    let marked = match connections.part(lv) {
        Some((Part::RaidImage | Part::RaidMetadata, _)) if connections.is_hidden(lv) => REAL,
        Some((Part::PoolData, _)) => DATA,
        Some((Part::PoolMetadata, _)) => METADATA,
        _ => return find(lv, ""),
    };
    find(lv, marked).or_else(|| find(lv, ""))
}

/// The device that stands for a thin pool: its layer, if the pool itself is active. The pool is active if it has
/// another device, on top of the layer, that nothing reads from; before its first volume, it needs none.
fn thin_pool<'a>(
    layer: Option<&'a Device>,
    top: Option<&'a Device>,
    is_new: bool,
    needs_check: bool,
) -> Result<Option<&'a Device>, NeedsReport> {
    match (layer, top) {
        // lvm shows it partly as active.
        (Some(_), None) if !is_new && needs_check => Err(NeedsReport::Other("a thin pool that needs a check")),
        (Some(layer), top) => Ok(Some(layer).filter(|_| top.is_some() || is_new)),
        (None, Some(_)) => Err(NeedsReport::Other("a device in the kernel")),
        (None, None) => Ok(None),
    }
}

fn raid_kind(lv: &Lv) -> Option<&'static str> {
    match lv.segments.first().map(|segment| &segment.kind) {
        Some(Kind::Raid { kind, .. }) => Some(kind),
        _ => None,
    }
}

/// What the kernel says about a raid, or about the image with this part.
fn raid<'a>(
    volume: &mut LogicalVolume,
    lv: &Lv,
    whole: &Lv,
    connections: &Connections<'_>,
    find: &impl Fn(&Lv, &str) -> Option<&'a Device>,
) -> Result<(), NeedsReport> {
    // While the raid has snapshots, or thin volumes read from it, it is the layer below its own device.
    let top = own_device(whole, connections, find);
    let status = top.and_then(Device::raid).or_else(|| find(whole, REAL).and_then(Device::raid));
    let Some(RaidStatus { images, in_step, mismatches, .. }) = status else {
        return match top {
            // The raid is inactive, so lvm assumes that the part is healthy.
            None => Ok(()),
            Some(_) => Err(NeedsReport::Other("the kernel's status of a raid")),
        };
    };
    let Some(Kind::Raid { kind, images: names, metadata, .. }) = whole.segments.first().map(|segment| &segment.kind)
    else {
        return Ok(());
    };
    if images.len() != names.len() {
        return Err(NeedsReport::Other("the kernel's number of images"));
    }
    let has_failed = |image: &ImageState| *image == ImageState::Failed;
    if whole.name == lv.name {
        volume.health = match () {
            () if images.iter().any(has_failed) => "refresh needed",
            () if mismatches > 0 => "mismatches exist",
            () => "",
        }
        .to_owned();
        volume.sync_percent = Some(in_step).filter(|_| !kind.starts_with("raid0"));
    } else {
        let place = |names: &[String]| names.iter().position(|name| *name == lv.name);
        let image = place(names).or_else(|| place(metadata)).and_then(|index| images.get(index));
        if image.is_some_and(has_failed) {
            volume.health = "refresh needed".to_owned();
        }
    }
    Ok(())
}
