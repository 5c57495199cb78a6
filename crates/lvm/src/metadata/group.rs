//! From the text of the metadata to the same value as lvm's report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use quarry_volume::{ExtentSize, Extents};

use super::connections::Connections;
use super::devices::Devices;
use super::disk::Disk;
use super::fields::Fields;
use super::parts::{Kind, Lv, logical_volume, physical_volume, run};
use super::reason::{NeedsReport, Unknown};
use super::text::Section;
use super::{copies, state};
use crate::PvUuid;
use crate::types::{ExtentRange, LogicalVolume, PhysicalVolume, Used, VolumeGroup, mapper_path};

/// Builds the volume group. `disks` are the disks that the metadata was read from.
pub(crate) fn volume_group(tree: &Section<'_>, disks: &[Disk], kernel: &Devices) -> Result<VolumeGroup, NeedsReport> {
    let (name, fields) = only_group(tree)?;
    fields.only(&[&[
        "id",
        "seqno",
        "format",
        "status",
        "flags",
        "tags",
        "system_id",
        "lock_type",
        "extent_size",
        "max_lv",
        "max_pv",
        "allocation_policy",
        "metadata_copies",
        "physical_volumes",
        "logical_volumes",
    ]])?;
    let flags = fields.flags(&["EXPORTED", "RESIZEABLE", "READ", "WRITE", "WRITE_LOCKED", "NOAUTOACTIVATE"])?;
    let lock_type = fields.optional_text("lock_type")?.unwrap_or_default();
    if !matches!(lock_type, "" | "none") {
        // Another host may change it at any time.
        return fields.unknown(Unknown::LockType, lock_type);
    }
    if !matches!(fields.optional_text("format")?, None | Some("lvm2")) {
        return fields.wrong("another format");
    }
    let extent_size = ExtentSize(fields.bytes("extent_size")?);
    if extent_size == ExtentSize(0) {
        return fields.wrong("the extent size is 0");
    }
    let (metadata_size, metadata_free) = copies::space(disks);
    let mut group = VolumeGroup {
        name: name.to_owned(),
        uuid: fields.uuid("id")?,
        extent_size,
        metadata_size,
        metadata_free,
        exported: flags.contains("EXPORTED"),
        // A group with a system ID has the second flag, so that versions of lvm before system IDs do not change it.
        read_only: !flags.contains("WRITE") && !flags.contains("WRITE_LOCKED"),
        system_id: fields.optional_text("system_id")?.unwrap_or_default().to_owned(),
        lock_type: lock_type.to_owned(),
        max_lv: fields.number("max_lv")?,
        seqno: fields.number("seqno")?,
        tags: fields.tags()?,
        ..VolumeGroup::default()
    };
    let names = add_physical_volumes(&mut group, &fields, disks)?;
    let lvs = logical_volumes(&fields, &names)?;
    place(&mut group, &fields, &lvs)?;
    let connections = Connections::new(&lvs, &fields)?;
    let volumes = lvs.iter().filter(|lv| !lv.is_snapshot());
    let volumes = volumes.map(|lv| describe(&group, lv, &connections, kernel)).collect::<Result<Vec<_>, _>>()?;
    group.logical_volumes = volumes;
    group.logical_volumes.sort_by(|one, other| one.name.cmp(&other.name));
    group.connect_disks();
    Ok(group)
}

/// The section of the volume group, with its name. Beside it is only what describes the text itself.
fn only_group<'a>(tree: &'a Section<'a>) -> Result<(&'a str, Fields<'a>), NeedsReport> {
    let top = Fields::new(tree, "the metadata");
    let known = ["contents", "version", "description", "creation_host", "creation_time", "creation_host_system_id"];
    if let Some(key) = top.keys().find(|key| !known.contains(key)) {
        return top.unknown(Unknown::Key, key);
    }
    if top.text("contents")? != "Text Format Volume Group" || top.number("version")? != 1 {
        return top.wrong("another format");
    }
    let mut sections = top.sections();
    match (sections.next(), sections.next()) {
        (Some((name, section)), None) => Ok((name, section)),
        _ => top.wrong("not exactly one volume group"),
    }
}

/// Adds the physical volumes, each with its disk. Returns their names in the metadata.
fn add_physical_volumes<'a>(
    group: &mut VolumeGroup,
    fields: &Fields<'a>,
    disks: &[Disk],
) -> Result<BTreeMap<&'a str, PvUuid>, NeedsReport> {
    let Some(section) = fields.section("physical_volumes")? else { return fields.wrong("no physical volumes") };
    if let Some(key) = section.keys().next() {
        return section.unknown(Unknown::Key, key);
    }
    let mut names = BTreeMap::new();
    for (name, fields) in section.sections() {
        let pv = physical_volume(&fields, group.extent_size)?;
        let mut own = disks.iter().filter(|disk| disk.uuid == pv.uuid);
        let disk = match (own.next(), own.next()) {
            (Some(disk), None) => disk,
            (None, _) => return Err(NeedsReport::Missing(pv.uuid)),
            _ => return Err(NeedsReport::Duplicate(pv.uuid)),
        };
        if names.values().any(|uuid| *uuid == pv.uuid) {
            return fields.wrong("a physical volume that is there twice");
        }
        names.insert(name, pv.uuid);
        let metadata_areas = u64::try_from(disk.areas.len()).unwrap_or(u64::MAX);
        group.physical_volumes.push(PhysicalVolume { device: Some(disk.device.clone()), metadata_areas, ..pv });
    }
    let foreign = |disk: &&Disk| group.physical_volume(disk.uuid).is_none();
    match disks.iter().find(foreign) {
        Some(disk) => Err(NeedsReport::Foreign(disk.device.clone())),
        None => {
            // By the text of the path, as in a report. Paths themselves compare by their folders.
            group.physical_volumes.sort_by_cached_key(|pv| pv.device.clone().map(PathBuf::into_os_string));
            Ok(names)
        }
    }
}

fn logical_volumes(fields: &Fields<'_>, names: &BTreeMap<&str, PvUuid>) -> Result<Vec<Lv>, NeedsReport> {
    // A group without volumes has no such section.
    let Some(section) = fields.section("logical_volumes")? else { return Ok(Vec::new()) };
    if let Some(key) = section.keys().next() {
        return section.unknown(Unknown::Key, key);
    }
    section.sections().map(|(name, fields)| logical_volume(name, &fields, names)).collect()
}

/// Marks the extents of the logical volumes as used, and the others as free.
fn place(group: &mut VolumeGroup, fields: &Fields<'_>, lvs: &[Lv]) -> Result<(), NeedsReport> {
    for lv in lvs {
        for segment in &lv.segments {
            let Kind::Stripes { areas, .. } = &segment.kind else { continue };
            let extents = run(segment.extents, areas.len());
            for (uuid, start) in areas {
                let pv = group.physical_volumes.iter_mut().find(|pv| pv.uuid == *uuid);
                let Some(pv) = pv else { return fields.wrong("a segment on an unknown physical volume") };
                pv.used.push(Used { start: *start, extents, volume: lv.uuid });
            }
        }
    }
    for pv in &mut group.physical_volumes {
        pv.used.sort_unstable_by_key(|used| used.start);
        let mut end = Extents::NONE;
        for used in &pv.used {
            if used.start < end {
                return fields.wrong("segments that overlap");
            }
            if used.start > end {
                pv.free_fragments.push((end, used.start.without(end)));
            }
            end = used.start.and(used.extents);
        }
        if end > pv.extent_count {
            return fields.wrong("a segment after the end of its physical volume");
        }
        if end < pv.extent_count {
            pv.free_fragments.push((end, pv.extent_count.without(end)));
        }
        pv.free_extents = pv.free_fragments.iter().fold(Extents::NONE, |sum, (_, extents)| sum.and(*extents));
        group.extent_count = group.extent_count.and(pv.extent_count);
        group.free_extents = group.free_extents.and(pv.free_extents);
    }
    Ok(())
}

fn describe(
    group: &VolumeGroup,
    lv: &Lv,
    connections: &Connections<'_>,
    kernel: &Devices,
) -> Result<LogicalVolume, NeedsReport> {
    let mut volume = LogicalVolume {
        name: lv.name.clone(),
        uuid: lv.uuid,
        size: group.extent_size.bytes(lv.extents),
        tags: lv.tags.clone(),
        segments: u64::try_from(lv.segments.len()).unwrap_or(u64::MAX),
        activation_skip: lv.activation_skip,
        device: mapper_path(&group.name, &lv.name),
        internal: connections.is_hidden(lv),
        parent: connections.parent(lv).map(str::to_owned),
        origin: connections.origin(lv).map(str::to_owned),
        role: connections.role(lv),
        ..LogicalVolume::default()
    };
    for segment in &lv.segments {
        let mut ranges = Vec::new();
        let (name, stripes, size) = match &segment.kind {
            Kind::Stripes { stripe_size, areas, .. } => {
                let extents = run(segment.extents, areas.len());
                ranges = areas.iter().map(|(pv, first)| ExtentRange { pv: *pv, first: *first, extents }).collect();
                (if areas.len() == 1 { "linear" } else { "striped" }, areas.len(), *stripe_size)
            }
            Kind::Raid { kind, stripe_size, images, .. } => (*kind, images.len(), *stripe_size),
            Kind::ThinPool { data, metadata, chunk_size, zeroes, .. } => {
                volume.data_part = Some(data.clone());
                volume.metadata_part = Some(metadata.clone());
                volume.chunk_size = *chunk_size;
                volume.zeroes = Some(*zeroes);
                volume.errors_when_full = Some(lv.error_when_full);
                ("thin-pool", 1, 0)
            }
            Kind::Thin { pool, .. } => {
                volume.pool = Some(pool.clone());
                ("thin", 0, 0)
            }
            Kind::Snapshot { .. } => ("snapshot", 0, 0),
        };
        let stripes = u64::try_from(stripes).unwrap_or(u64::MAX);
        if stripes > volume.stripes {
            (volume.stripes, volume.stripe_size) = (stripes, size);
        }
        volume.segment_types.insert(name.to_owned());
        volume.ranges.push(ranges);
    }
    state::add(&mut volume, group.uuid, lv, connections, kernel)?;
    Ok(volume)
}
