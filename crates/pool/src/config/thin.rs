//! A pool's `lvm.thinPool` section: a thin pool of its volume group.

use std::collections::BTreeMap;

use quarry_volume::{Layout, parse_size};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::Mistake;

/// The longest name with hyphens counted twice: with the name of the volume group, lvm's suffixes for the parts of a pool
/// and Quarry's prefix for its metadata, it fits into a device-mapper name.
const LONGEST_NAME: usize = 40;
/// The limits of lvm for a chunk, in bytes. It is a multiple of the smallest.
const CHUNK: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;
/// The limits for the metadata, in bytes. lvm uses at most 15.81 GiB.
const METADATA: std::ops::RangeInclusive<u64> = 2 << 20..=15 << 30;
/// The largest ratio of virtual to real space, in percent.
const MOST_OVERPROVISION: f64 = 100.0;

/// A thin pool, in which the volumes of a pool are created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinPoolConfig {
    /// The name of the logical volume.
    pub name: String,
    /// How it is created if it does not exist. `None`: it is never created.
    pub create: Option<CreateThinPool>,
    /// How much space the volumes and snapshots in it may have together, in percent of its size: at least 100.
    pub overprovision: u32,
    /// Whether writes fail at once when it is full. `None`: as it was created.
    pub error_when_full: Option<bool>,
    /// When and how it is extended. `None`: never.
    pub extend: Option<ExtendThinPool>,
}

/// A thin pool to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateThinPool {
    /// Its size.
    pub size: ThinPoolSize,
    /// The layout of its data on the disks. With raid1, its metadata is mirrored, too; otherwise that is linear.
    pub layout: Layout,
    /// The size of a chunk in bytes. `None`: it depends on the size.
    pub chunk_size: Option<u64>,
    /// The size of its metadata in bytes. `None`: it depends on the size and the chunks.
    pub metadata_size: Option<u64>,
}

/// The size of a thin pool to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinPoolSize {
    /// That many bytes of data.
    Bytes(u64),
    /// Its data, metadata and spare metadata take that share of the volume group together, in percent.
    Percent(u8),
}

/// The extension of a thin pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendThinPool {
    /// From this use on, in percent.
    pub at: u8,
    /// By this part of its size, in percent.
    pub by: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Section {
    name: Spanned<String>,
    create: Option<bool>,
    size: Option<Spanned<String>>,
    percent: Option<Spanned<u8>>,
    layout: Option<Spanned<String>>,
    stripes: Option<Spanned<u32>>,
    stripe_size: Option<Spanned<String>>,
    mirrors: Option<Spanned<u32>>,
    chunk_size: Option<Spanned<String>>,
    metadata_size: Option<Spanned<String>>,
    overprovision: Option<Spanned<f64>>,
    error_when_full: Option<bool>,
    extend: Option<Extend>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extend {
    at: Spanned<u8>,
    by: Spanned<u8>,
}

/// Reads the section, which is called `key` in errors.
pub(super) fn read(section: Section, key: &str) -> Result<ThinPoolConfig, Mistake> {
    let line = section.name.referenced.line();
    let name = section.name.value.clone();
    check_name(&name).map_err(|why| (line, format!("{key}.name: {why}")))?;
    let overprovision = match &section.overprovision {
        None => 100,
        Some(ratio) if (1.0..=MOST_OVERPROVISION).contains(&ratio.value) => {
            // In range, so nothing is lost but fractions.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let percent = (ratio.value * 100.0).round() as u32;
            percent
        }
        Some(ratio) => {
            return Err((
                ratio.referenced.line(),
                format!(
                    "{key}.overprovision: {} is not a ratio from 1 to {MOST_OVERPROVISION}: the size of all volumes \
                     and snapshots to that of the pool",
                    ratio.value
                ),
            ));
        }
    };
    let percentage = |name: &str, percent: &Spanned<u8>, most: u8| match percent.value {
        value if (1..=most).contains(&value) => Ok(value),
        value => {
            let line = percent.referenced.line();
            Err((line, format!("{key}.{name}: {value} is not a percentage from 1 to {most}")))
        }
    };
    let extend = match &section.extend {
        None => None,
        Some(Extend { at, by }) => {
            Some(ExtendThinPool { at: percentage("extend.at", at, 99)?, by: percentage("extend.by", by, 100)? })
        }
    };
    let error_when_full = section.error_when_full;
    let create = create(section, line, key, &percentage)?;
    Ok(ThinPoolConfig { name, create, overprovision, error_when_full, extend })
}

fn create(
    section: Section,
    line: u64,
    key: &str,
    percentage: &impl Fn(&str, &Spanned<u8>, u8) -> Result<u8, Mistake>,
) -> Result<Option<CreateThinPool>, Mistake> {
    let Section { create, size, percent, layout, stripes, stripe_size, mirrors, chunk_size, metadata_size, .. } =
        section;
    let given = [
        ("size", size.is_some()),
        ("percent", percent.is_some()),
        ("layout", layout.is_some()),
        ("stripes", stripes.is_some()),
        ("stripeSize", stripe_size.is_some()),
        ("mirrors", mirrors.is_some()),
        ("chunkSize", chunk_size.is_some()),
        ("metadataSize", metadata_size.is_some()),
    ];
    if create != Some(true) {
        return match given.iter().find(|(_, given)| *given) {
            None => Ok(None),
            Some((name, _)) => Err((
                line,
                format!("{key}.{name}: only a pool that Quarry creates has it: set \"create: true\", or remove it"),
            )),
        };
    }
    let bytes = |name: &str, text: Option<Spanned<String>>| match text {
        None => Ok(None),
        Some(text) => {
            let parsed = parse_size(&text.value);
            parsed.map(|size| Some((size, text.referenced.line()))).map_err(|why| {
                let line = text.referenced.line();
                (line, format!("{key}.{name}: {why}"))
            })
        }
    };
    let size = match (bytes("size", size)?, percent) {
        (Some((0, line)), _) => return Err((line, format!("{key}.size: it must not be 0"))),
        (Some((size, _)), None) => ThinPoolSize::Bytes(size),
        (None, Some(percent)) => ThinPoolSize::Percent(percentage("percent", &percent, 100)?),
        _ => return Err((line, format!("{key}: set either size or percent for a pool to create"))),
    };
    let chunk_size = bytes("chunkSize", chunk_size)?;
    let metadata_size = bytes("metadataSize", metadata_size)?;
    if let Some((size, line)) = chunk_size
        && !(CHUNK.contains(&size) && size.is_multiple_of(*CHUNK.start()))
    {
        return Err((line, format!("{key}.chunkSize: use a multiple of 64Ki, up to 1Gi")));
    }
    if let Some((size, line)) = metadata_size
        && !METADATA.contains(&size)
    {
        return Err((line, format!("{key}.metadataSize: use a size from 2Mi to 15Gi")));
    }
    let words: Vec<(&str, String)> = [
        ("layout", layout.map(|text| text.value)),
        ("stripes", stripes.map(|number| number.value.to_string())),
        ("stripeSize", stripe_size.map(|text| text.value)),
        ("mirrors", mirrors.map(|number| number.value.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let words: BTreeMap<&str, &str> = words.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let layout = Layout::parse(&words).map_err(|why| (line, format!("{key}: {why}")))?;
    let value = |given: Option<(u64, u64)>| given.map(|(value, _)| value);
    Ok(Some(CreateThinPool { size, layout, chunk_size: value(chunk_size), metadata_size: value(metadata_size) }))
}

fn check_name(name: &str) -> Result<(), String> {
    if quarry_volume::safe_name(name) == name && name.replace('-', "--").len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be the name of a thin pool: use up to {LONGEST_NAME} letters, digits, '-', '_', '.' and '+' \
         (every hyphen counts twice), and none of the names that lvm reserves"
    ))
}
