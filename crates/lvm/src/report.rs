//! Parses lvm's report: one lvm process reports everything about some volume groups, consistently, under
//! their locks.
//!
//! `lvm fullreport` is run with explicit columns and JSON output. lvm 2.03.16 writes every value as a string;
//! newer versions can write numbers and arrays. Both are accepted. A volume group is used only if its section
//! is complete (all five tables, and as many members as it claims), because only a complete report can show
//! that a volume does not exist.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use quarry_volume::{ExtentSize, Extents};
use serde_json::{Map, Value};

use crate::types::{ExtentRange, LogicalVolume, PhysicalVolume, Used, VolumeGroup, mapper_path};
use crate::{InvalidUuid, LvUuid, PvUuid};

/// The columns of each table. `lv_parent` and the segment tables connect the rows.
pub(crate) const COLUMNS: [(&str, &str); 5] = [
    (
        "vg",
        "vg_name,vg_uuid,vg_permissions,vg_exported,vg_partial,vg_systemid,vg_lock_type,vg_extent_size,\
         vg_extent_count,vg_free_count,vg_missing_pv_count,vg_seqno,vg_tags,vg_mda_size,vg_mda_free,max_lv,pv_count,\
         lv_count",
    ),
    (
        "pv",
        "pv_uuid,pv_name,pv_size,pv_pe_count,pv_pe_alloc_count,pv_allocatable,pv_missing,pv_mda_used_count,pe_start",
    ),
    (
        "lv",
        "lv_uuid,lv_name,lv_parent,lv_size,lv_tags,lv_role,lv_active,lv_suspended,lv_device_open,lv_skip_activation,\
         lv_health_status,lv_dm_path,lv_kernel_major,lv_kernel_minor,sync_percent,origin,pool_lv,\
         lv_allocation_locked,lv_converting,lv_merging,data_lv,metadata_lv,lv_when_full",
    ),
    ("pvseg", "pv_uuid,lv_uuid,pvseg_start,pvseg_size"),
    ("seg", "lv_uuid,segtype,stripes,stripe_size,seg_pe_ranges,zero,chunk_size"),
];

/// The report is incomplete, or not in lvm's format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unexpected report from lvm: {0}")]
pub struct ParseError(String);

fn wrong<T>(what: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError(what.into()))
}

/// Parses the volume groups of a `fullreport`. Never panics, whatever the bytes are.
///
/// # Errors
/// The bytes are not a JSON report, or a volume group's section is incomplete.
pub fn parse(report: &[u8]) -> Result<Vec<VolumeGroup>, ParseError> {
    // The name of a device may contain any byte; one odd name must not hide the volume group.
    let text = String::from_utf8_lossy(report);
    let value: Value = serde_json::from_str(&text).map_err(|error| ParseError(error.to_string()))?;
    let Some(sections) = value.get("report").and_then(Value::as_array) else { return wrong("no section `report`") };
    // A section without a volume group (orphan physical volumes) is possible, too.
    let groups = sections.iter().map(parse_section).collect::<Result<Vec<_>, _>>()?;
    Ok(groups.into_iter().flatten().collect())
}

fn parse_section(section: &Value) -> Result<Option<VolumeGroup>, ParseError> {
    let Some(Some(row)) = rows(section, "vg").map(|rows| rows.into_iter().next()) else { return Ok(None) };
    let name = row.text("vg_name")?;
    if name.is_empty() {
        return Ok(None);
    }
    let table = |table| rows(section, table).ok_or_else(|| ParseError(format!("volume group {name}: no `{table}`")));
    let (pvs, lvs, pv_segments, segments) = (table("pv")?, table("lv")?, table("pvseg")?, table("seg")?);

    let mut group = VolumeGroup {
        uuid: row.uuid("vg_uuid")?,
        extent_size: ExtentSize(row.number("vg_extent_size")?),
        extent_count: row.extents("vg_extent_count")?,
        free_extents: row.extents("vg_free_count")?,
        metadata_size: row.number("vg_mda_size")?,
        metadata_free: row.number("vg_mda_free")?,
        missing_pvs: row.number("vg_missing_pv_count")?,
        exported: row.flag("vg_exported")? == Some(true),
        partial: row.flag("vg_partial")? == Some(true),
        read_only: row.text("vg_permissions")?.starts_with("read-only"),
        system_id: row.text("vg_systemid")?,
        lock_type: row.text("vg_lock_type")?,
        max_lv: row.number("max_lv")?,
        seqno: row.number("vg_seqno")?,
        tags: row.list("vg_tags")?,
        physical_volumes: pvs.iter().map(physical_volume).collect::<Result<_, _>>()?,
        logical_volumes: lvs.iter().map(|row| logical_volume(row, &name)).collect::<Result<_, _>>()?,
        name,
        ..VolumeGroup::default()
    };
    place_segments(&mut group, &pv_segments, &segments)?;
    require_whole(&group, row.number("pv_count")?, row.number("lv_count")?)?;
    Ok(Some(group))
}

/// Compares with the number of members that the volume group claims: lvm may have failed in the middle of the
/// tables.
fn require_whole(group: &VolumeGroup, pvs: u64, lvs: u64) -> Result<(), ParseError> {
    let VolumeGroup { name, .. } = group;
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let visible = group.logical_volumes.iter().filter(|volume| !volume.internal).count();
    if count(group.physical_volumes.len()) != pvs || count(visible) != lvs {
        return wrong(format!("volume group {name}: the report lacks some of its members"));
    }
    if group.extent_size == ExtentSize(0) {
        return wrong(format!("volume group {name}: its extent size is 0"));
    }
    let segmented = |volume: &LogicalVolume| volume.segments > 0;
    match group.logical_volumes.iter().find(|volume| !segmented(volume)) {
        Some(volume) => wrong(format!("volume group {name}: the report has no segments of {}", volume.name)),
        None => Ok(()),
    }
}

fn physical_volume(row: &Row<'_>) -> Result<PhysicalVolume, ParseError> {
    let extent_count = row.extents("pv_pe_count")?;
    let name = row.text("pv_name")?;
    // A lost disk is called "[unknown]". A disk that is back but was written off has the flag, too.
    let missing = row.flag("pv_missing")? == Some(true) || !name.starts_with('/');
    Ok(PhysicalVolume {
        device: Some(PathBuf::from(&name)).filter(|_| name.starts_with('/')),
        uuid: row.uuid("pv_uuid")?,
        size: row.number("pv_size")?,
        extent_count,
        free_extents: extent_count.without(row.extents("pv_pe_alloc_count")?),
        allocatable: row.flag("pv_allocatable")? == Some(true),
        missing,
        metadata_areas: row.number("pv_mda_used_count")?,
        extents_offset: row.number("pe_start")?,
        ..PhysicalVolume::default()
    })
}

fn logical_volume(row: &Row<'_>, group: &str) -> Result<LogicalVolume, ParseError> {
    let shown = row.text("lv_name")?;
    let (name, internal) = unbracket(&shown);
    let named = |column| {
        let shown = row.text(column)?;
        Ok::<_, ParseError>(Some(unbracket(&shown).0.to_owned()).filter(|name| !name.is_empty()))
    };
    // Only thin pools have them, and those are used only if they are complete.
    let part = |column| named(column).unwrap_or_default();
    let flagged = |column| Ok::<_, ParseError>(row.flag(column)? == Some(true));
    let device = row.text("lv_dm_path")?;
    let kernel = |column| Ok::<_, ParseError>(row.text(column)?.parse::<u32>().ok());
    Ok(LogicalVolume {
        uuid: row.uuid("lv_uuid")?,
        size: row.number("lv_size")?,
        tags: row.list("lv_tags")?,
        active: match row.text("lv_active")?.as_str() {
            "unknown" => None,
            "" | "0" => Some(false),
            _ => Some(true),
        },
        suspended: row.flag("lv_suspended")? == Some(true),
        open: row.flag("lv_device_open")?,
        activation_skip: row.flag("lv_skip_activation")? == Some(true),
        health: row.text("lv_health_status")?,
        device: if device.starts_with('/') { PathBuf::from(device) } else { mapper_path(group, name) },
        device_number: kernel("lv_kernel_major")?.zip(kernel("lv_kernel_minor")?),
        internal,
        parent: named("lv_parent")?,
        origin: named("origin")?,
        pool: named("pool_lv")?,
        locked: flagged("lv_allocation_locked")? || flagged("lv_converting")? || flagged("lv_merging")?,
        data_part: part("data_lv"),
        metadata_part: part("metadata_lv"),
        errors_when_full: match row.text("lv_when_full").unwrap_or_default().as_str() {
            "error" => Some(true),
            "queue" => Some(false),
            _ => None,
        },
        role: row.text("lv_role")?,
        sync_percent: hundredths(&row.text("sync_percent")?),
        name: name.to_owned(),
        ..LogicalVolume::default()
    })
}

/// Connects segments to the volumes that they belong to, and the volumes to their disks.
fn place_segments(group: &mut VolumeGroup, pv_rows: &[Row<'_>], rows: &[Row<'_>]) -> Result<(), ParseError> {
    for row in pv_rows {
        let pv: PvUuid = row.uuid("pv_uuid")?;
        // Free extents belong to no logical volume.
        let lv: Option<LvUuid> = if row.text("lv_uuid")?.is_empty() { None } else { Some(row.uuid("lv_uuid")?) };
        let (start, extents) = (row.extents("pvseg_start")?, row.extents("pvseg_size")?);
        let found = group.physical_volumes.iter_mut().find(|volume| volume.uuid == pv);
        match (found, lv) {
            (Some(found), None) => found.free_fragments.push((start, extents)),
            (Some(found), Some(volume)) => found.used.push(Used { start, extents, volume }),
            (None, _) => {}
        }
    }
    for pv in &mut group.physical_volumes {
        pv.used.sort_unstable_by_key(|used| used.start);
        pv.free_fragments.retain(|(_, extents)| *extents > Extents::NONE);
        pv.free_fragments.sort_unstable();
    }
    let devices: BTreeMap<PathBuf, PvUuid> =
        group.physical_volumes.iter().filter_map(|pv| Some((pv.device.clone()?, pv.uuid))).collect();
    // The rows are sorted by the start of the segment.
    for row in rows {
        let uuid: LvUuid = row.uuid("lv_uuid")?;
        let Some(volume) = group.logical_volumes.iter_mut().find(|volume| volume.uuid == uuid) else { continue };
        volume.segments += 1;
        let segment_type = row.text("segtype")?;
        // Only expansions need it, and they check that it is complete.
        volume.ranges.push(ranges(&row.text("seg_pe_ranges").unwrap_or_default(), &devices));
        if segment_type == "thin-pool" {
            volume.zeroes = row.flag("zero").unwrap_or_default();
            volume.chunk_size = row.number("chunk_size").unwrap_or_default();
        }
        volume.segment_types.insert(segment_type);
        let stripes = row.number("stripes")?;
        if stripes > volume.stripes {
            (volume.stripes, volume.stripe_size) = (stripes, row.number("stripe_size")?);
        }
    }
    group.connect_disks();
    Ok(())
}

/// Parses the extents of a segment: `/dev/vdb:0-4 /dev/vdc:0-4`. Empty if they are not all on known devices.
fn ranges(text: &str, devices: &BTreeMap<PathBuf, PvUuid>) -> Vec<ExtentRange> {
    let range = |text: &str| {
        let (device, extents) = text.rsplit_once(':')?;
        let (first, last) = extents.split_once('-')?;
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        let extents = Extents(last.checked_sub(first)?.checked_add(1)?);
        Some(ExtentRange { pv: *devices.get(Path::new(device))?, first: Extents(first), extents })
    };
    text.split([' ', ',']).filter(|text| !text.is_empty()).map(range).collect::<Option<_>>().unwrap_or_default()
}

/// lvm shows hidden names in brackets.
fn unbracket(name: &str) -> (&str, bool) {
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(inner) => (inner, true),
        None => (name, false),
    }
}

/// Converts `12.5` to 1250.
fn hundredths(percent: &str) -> Option<u32> {
    let (whole, fraction) = percent.split_once('.').unwrap_or((percent, ""));
    let fraction: String = fraction.chars().chain("00".chars()).take(2).collect();
    let number = whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(fraction.parse().ok()?)?;
    Some(number.min(10_000))
}

/// One row of a table.
struct Row<'a>(&'a Map<String, Value>);

fn rows<'a>(section: &'a Value, table: &str) -> Option<Vec<Row<'a>>> {
    section.get(table)?.as_array()?.iter().map(|row| row.as_object().map(Row)).collect()
}

impl Row<'_> {
    /// A value as text, whatever its JSON type is.
    fn text(&self, column: &str) -> Result<String, ParseError> {
        match self.0.get(column) {
            Some(Value::String(text)) => Ok(text.trim().to_owned()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(Value::Bool(flag)) => Ok(if *flag { "1" } else { "0" }.to_owned()),
            Some(Value::Null) => Ok(String::new()),
            Some(Value::Array(values)) => Ok(values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
            Some(Value::Object(_)) | None => wrong(format!("column {column} is missing")),
        }
    }

    fn uuid<T: FromStr<Err = InvalidUuid>>(&self, column: &str) -> Result<T, ParseError> {
        let text = self.text(column)?;
        text.parse().or_else(|why| wrong(format!("column {column}: `{text}` is {why}")))
    }

    fn number(&self, column: &str) -> Result<u64, ParseError> {
        let text = self.text(column)?;
        // Values that lvm could not determine are empty or negative, for example those of a missing disk.
        if text.is_empty() || text.starts_with('-') {
            return Ok(0);
        }
        // Newer versions write sizes with a fraction when numbers in bytes are requested.
        let digits = text.split_once('.').map_or(text.as_str(), |(whole, _)| whole);
        digits.parse().or_else(|_| wrong(format!("column {column}: `{text}` is not a number")))
    }

    fn extents(&self, column: &str) -> Result<Extents, ParseError> {
        self.number(column).map(Extents)
    }

    /// 1 or a word is true, 0 or nothing is false, -1 or `unknown` is unknown.
    fn flag(&self, column: &str) -> Result<Option<bool>, ParseError> {
        Ok(match self.text(column)?.as_str() {
            "-1" | "unknown" => None,
            "" | "0" => Some(false),
            _ => Some(true),
        })
    }

    fn list(&self, column: &str) -> Result<Vec<String>, ParseError> {
        Ok(self.text(column)?.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uuid::testing::uuid;

    #[test]
    fn the_extents_of_a_segment_are_read_in_order() {
        let devices = BTreeMap::from([("/dev/vdb".into(), uuid("b")), ("/dev/disk/by-path/pci-0:1".into(), uuid("c"))]);
        let range =
            |pv: &str, first, extents| ExtentRange { pv: uuid(pv), first: Extents(first), extents: Extents(extents) };
        assert_eq!(
            ranges("/dev/disk/by-path/pci-0:1:5-5 /dev/vdb:0-4", &devices),
            [range("c", 5, 1), range("b", 0, 5)]
        );
        // Other logical volumes, a lost disk, and what lvm does not write.
        for other in ["m_rimage_0:0-9 m_rimage_1:0-9", "[unknown]:0-4", "/dev/vdb:0-4 x", "/dev/vdb:5-4", ""] {
            assert_eq!(ranges(other, &devices), [], "{other}");
        }
        assert_eq!(ranges(&format!("/dev/vdb:0-{}", u64::MAX), &devices), []);
    }
}
