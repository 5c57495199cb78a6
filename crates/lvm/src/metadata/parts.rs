//! The physical and logical volumes as they are in the metadata: names instead of connections.

use std::collections::BTreeMap;

use quarry_volume::{ExtentSize, Extents};

use super::fields::Fields;
use super::reason::{NeedsReport, Unknown};
use super::text::Value;
use crate::types::PhysicalVolume;
use crate::{LvUuid, PvUuid};

/// Flags of a logical volume that are evaluated, or that change nothing that is. Others (`LOCKED`, `PVMOVE`,
/// `REBUILD`, `WRITEMOSTLY` …) need the report.
const LV_FLAGS: [&str; 9] = [
    "READ",
    "WRITE",
    "WRITE_LOCKED",
    "VISIBLE",
    "FIXED_MINOR",
    "NOTSYNCED",
    "ACTIVATION_SKIP",
    "NOAUTOACTIVATE",
    "ERROR_WHEN_FULL",
];

/// The keys of a logical volume. None changes what the others mean.
const LV_KEYS: [&str; 11] = [
    "id",
    "status",
    "flags",
    "tags",
    "creation_time",
    "creation_host",
    "allocation_policy",
    "read_ahead",
    "major",
    "minor",
    "segment_count",
];

/// A logical volume.
#[derive(Debug)]
pub(crate) struct Lv {
    pub(crate) name: String,
    pub(crate) uuid: LvUuid,
    /// The flag for it. lvm derives from it and from the volume's connections whether the volume is hidden.
    pub(crate) visible: bool,
    pub(crate) activation_skip: bool,
    pub(crate) error_when_full: bool,
    pub(crate) tags: Vec<String>,
    pub(crate) extents: Extents,
    pub(crate) segments: Vec<Segment>,
}

/// A segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) start: Extents,
    pub(crate) extents: Extents,
    pub(crate) kind: Kind,
}

/// What a segment consists of.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Extents of physical volumes: linear with one run, striped with several.
    Stripes {
        stripe_size: u64,
        areas: Vec<(PvUuid, Extents)>,
        tags: Vec<String>,
    },
    /// Images, and the logical volumes with their metadata.
    Raid {
        kind: &'static str,
        stripe_size: u64,
        images: Vec<String>,
        metadata: Vec<String>,
    },
    /// Not a volume of its own: it connects a volume with the space of a snapshot.
    Snapshot {
        origin: String,
        cow: String,
    },
    ThinPool {
        data: String,
        metadata: String,
        chunk_size: u64,
        zeroes: bool,
        is_new: bool,
    },
    Thin {
        pool: String,
        origin: Option<String>,
        external: Option<String>,
    },
}

/// Reads a physical volume: its UUID, and what the metadata says about it.
pub(crate) fn physical_volume(fields: &Fields<'_>, extent_size: ExtentSize) -> Result<PhysicalVolume, NeedsReport> {
    let names = ["id", "device", "device_id", "device_id_type", "status", "flags", "tags"];
    fields.only(&[&names, &["dev_size", "pe_start", "pe_count", "ba_start", "ba_size"]])?;
    let uuid = fields.uuid("id")?;
    let flags = fields.flags(&["ALLOCATABLE", "EXPORTED", "MISSING"])?;
    if flags.contains("MISSING") {
        return Err(NeedsReport::Missing(uuid));
    }
    let extent_count = fields.extents("pe_count")?;
    // Without extents, lvm shows the size of the device.
    let size = if extent_count == Extents::NONE { fields.bytes("dev_size")? } else { extent_size.bytes(extent_count) };
    Ok(PhysicalVolume {
        uuid,
        size,
        extent_count,
        free_extents: extent_count,
        allocatable: flags.contains("ALLOCATABLE"),
        extents_offset: fields.bytes("pe_start")?,
        ..PhysicalVolume::default()
    })
}

/// Reads a logical volume. `disks` has the names of the physical volumes in the metadata.
pub(crate) fn logical_volume(
    name: &str,
    fields: &Fields<'_>,
    disks: &BTreeMap<&str, PvUuid>,
) -> Result<Lv, NeedsReport> {
    if let Some(key) = fields.keys().find(|key| !LV_KEYS.contains(key)) {
        return fields.unknown(Unknown::Key, key);
    }
    let flags = fields.flags(&LV_FLAGS)?;
    let mut segments =
        fields.sections().map(|(_, segment)| read_segment(&segment, disks)).collect::<Result<Vec<_>, _>>()?;
    segments.sort_by_key(|segment| segment.start);
    if u64::try_from(segments.len()) != Ok(fields.number("segment_count")?) || segments.is_empty() {
        return fields.wrong("another number of segments");
    }
    let mut extents = Extents::NONE;
    for segment in &segments {
        if segment.start != extents || segment.extents == Extents::NONE {
            return fields.wrong("gaps between segments, or segments that overlap");
        }
        extents = extents.and(segment.extents);
    }
    Ok(Lv {
        name: name.to_owned(),
        uuid: fields.uuid("id")?,
        visible: flags.contains("VISIBLE"),
        activation_skip: flags.contains("ACTIVATION_SKIP"),
        error_when_full: flags.contains("ERROR_WHEN_FULL"),
        tags: fields.tags()?,
        extents,
        segments: merge(segments),
    })
}

const COMMON: [&str; 4] = ["start_extent", "extent_count", "type", "tags"];

fn read_segment(fields: &Fields<'_>, disks: &BTreeMap<&str, PvUuid>) -> Result<Segment, NeedsReport> {
    let only = |own: &[&str]| fields.only(&[&COMMON, own]);
    let name = |key| fields.text(key).map(str::to_owned);
    let optional = |key| Ok::<_, NeedsReport>(fields.optional_text(key)?.map(str::to_owned));
    let kind = match fields.text("type")? {
        "striped" => {
            only(&["stripe_count", "stripe_size", "stripes"])?;
            stripes(fields, disks)?
        }
        "snapshot" => {
            only(&["chunk_size", "origin", "cow_store"])?;
            Kind::Snapshot { origin: name("origin")?, cow: name("cow_store")? }
        }
        "thin-pool" => {
            only(&[
                "metadata",
                "pool",
                "transaction_id",
                "chunk_size",
                "discards",
                "zero_new_blocks",
                "crop_metadata",
            ])?;
            Kind::ThinPool {
                data: name("pool")?,
                metadata: name("metadata")?,
                chunk_size: fields.bytes("chunk_size")?,
                zeroes: fields.optional_number("zero_new_blocks")?.is_some_and(|zero| zero != 0),
                is_new: fields.number("transaction_id")? == 0,
            }
        }
        "thin" => {
            only(&["thin_pool", "transaction_id", "device_id", "origin", "external_origin"])?;
            Kind::Thin { pool: name("thin_pool")?, origin: optional("origin")?, external: optional("external_origin")? }
        }
        other => {
            let raids = ["raid0", "raid0_meta", "raid1", "raid4", "raid5", "raid6", "raid10"];
            let Some(kind) = raids.into_iter().find(|kind| *kind == other) else {
                return fields.unknown(Unknown::SegmentType, other);
            };
            let sizes = ["device_count", "stripe_count", "data_copies", "region_size", "stripe_size", "writebehind"];
            let others = ["min_recovery_rate", "max_recovery_rate", "raids", "raid0_lvs"];
            fields.only(&[&COMMON, &sizes, &others])?;
            raid(fields, kind)?
        }
    };
    Ok(Segment { start: fields.extents("start_extent")?, extents: fields.extents("extent_count")?, kind })
}

/// A list of pairs: the name of a physical volume, and its first extent.
fn stripes(fields: &Fields<'_>, disks: &BTreeMap<&str, PvUuid>) -> Result<Kind, NeedsReport> {
    let area = |pair: &[Value<'_>; 2]| match pair {
        [Value::Text(name), Value::Integer(first)] => match (disks.get(name.as_ref()), u32::try_from(*first)) {
            (Some(pv), Ok(first)) => Ok((*pv, Extents(first.into()))),
            // A segment on other logical volumes, as while pvmove works.
            (None, _) => fields.unknown(Unknown::Key, name),
            (_, Err(_)) => fields.wrong("an extent that cannot exist"),
        },
        _ => fields.wrong("a stripe that is not a name with an extent"),
    };
    let (pairs, rest) = fields.array("stripes")?.as_chunks::<2>();
    let areas = pairs.iter().map(area).collect::<Result<Vec<_>, _>>()?;
    let count = fields.number("stripe_count")?;
    if areas.is_empty() || !rest.is_empty() || u64::try_from(areas.len()) != Ok(count) {
        return fields.wrong("another number of stripes");
    }
    if !fields.extents("extent_count")?.0.is_multiple_of(count) {
        return fields.wrong("stripes of different lengths");
    }
    let stripe_size = if count > 1 { fields.bytes("stripe_size")? } else { 0 };
    Ok(Kind::Stripes { stripe_size, areas, tags: fields.tags()? })
}

/// A list of images, each after its metadata if it has some.
fn raid(fields: &Fields<'_>, kind: &'static str) -> Result<Kind, NeedsReport> {
    let (list, count) = match kind {
        "raid0" => ("raid0_lvs", "stripe_count"),
        "raid0_meta" => ("raids", "stripe_count"),
        _ => ("raids", "device_count"),
    };
    let (metadata, images): (Vec<&str>, Vec<&str>) =
        fields.texts(list)?.into_iter().partition(|name| name.contains("_rmeta_"));
    let complete = u64::try_from(images.len()) == Ok(fields.number(count)?) && !images.is_empty();
    if !complete || (!metadata.is_empty() && metadata.len() != images.len()) {
        return fields.wrong("another number of images");
    }
    let stripe_size = fields.optional_number("stripe_size")?.map_or(Ok(0), |_| fields.bytes("stripe_size"))?;
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    Ok(Kind::Raid { kind, stripe_size, images: owned(images), metadata: owned(metadata) })
}

/// Joins segments that follow each other on the same disks, as lvm does when it reads them.
fn merge(segments: Vec<Segment>) -> Vec<Segment> {
    let mut merged: Vec<Segment> = Vec::with_capacity(segments.len());
    for segment in segments {
        match merged.last_mut() {
            Some(last) if continues(last, &segment) => last.extents = last.extents.and(segment.extents),
            _ => merged.push(segment),
        }
    }
    merged
}

fn continues(one: &Segment, next: &Segment) -> bool {
    let parts = |segment| match segment {
        &Segment { extents, kind: Kind::Stripes { stripe_size, ref areas, ref tags }, .. } => {
            Some((extents, stripe_size, areas.clone(), tags.clone()))
        }
        _ => None,
    };
    let (Some((extents, size, areas, tags)), Some((_, next_size, next_areas, next_tags))) = (parts(one), parts(next))
    else {
        return false;
    };
    let width = run(extents, areas.len());
    size == next_size
        && tags == next_tags
        && areas.len() == next_areas.len()
        && areas
            .iter()
            .zip(&next_areas)
            .all(|((pv, first), (next_pv, next_first))| pv == next_pv && first.and(width) == *next_first)
}

/// The extents of one stripe.
pub(crate) fn run(extents: Extents, stripes: usize) -> Extents {
    Extents(extents.0 / u64::try_from(stripes).unwrap_or(u64::MAX).max(1))
}
