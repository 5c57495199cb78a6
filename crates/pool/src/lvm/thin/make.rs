//! Which steps a thin pool needs next: to be created, to be activated, to be extended. Pure arithmetic on a report.
//!
//! A pool is made of two logical volumes, with its data and its metadata, that have a record of their own. lvm makes the
//! pool of them in one commit. So after a kill at any instant, the report shows which step is next.

use quarry_lvm::commands::CreateLv;
use quarry_lvm::commands::thin::MakePool;
use quarry_lvm::{ExtentRange, LogicalVolume, ThinPoolStatus, VolumeGroup, capacity, expansion};
use quarry_volume::{Extents, Layout, some_of};

use super::super::volume::other_record_on;
use super::room::{METADATA_WARNING, broken};
use crate::record::Tag;
use crate::{CreateThinPool, ExtendThinPool, ThinPoolConfig, ThinPoolPart, ThinPoolRecord, ThinPoolSize};

/// The beginning of the name of the volume with the metadata, before lvm makes a pool of it.
const METADATA_PREFIX: &str = "quarry_metadata_";
/// The smallest chunk, and the default: snapshots share more of their blocks.
const LEAST_CHUNK: u64 = 64 << 10;
/// From this number of chunks on, the default is a larger chunk, if an extent is a multiple of it: their metadata would be
/// larger than 1 GiB.
const MOST_CHUNKS: u64 = 16 << 20;
/// The metadata for one chunk in bytes, as lvm estimates it.
const PER_CHUNK: u64 = 64;
/// The limits of the default size of the metadata, in bytes.
const LEAST_METADATA: u64 = 4 << 20;
const MOST_METADATA: u64 = 15 << 30;
/// The end of the name of lvm's spare volume for repairs of metadata.
const SPARE: &str = "_pmspare";

/// What a thin pool needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Create a part.
    Create(CreateLv),
    /// Remove a part whose creation was interrupted.
    Remove(&'a LogicalVolume),
    /// Make a pool of both parts.
    Make(MakePool<'a>),
    /// Activate it.
    Activate(&'a LogicalVolume),
    /// Set whether writes fail at once when it is full.
    SetErrorWhenFull(&'a LogicalVolume, bool),
    /// Extend its data.
    ExtendData {
        /// The pool.
        pool: &'a LogicalVolume,
        /// The layout of its data.
        layout: Layout,
        /// Its new size.
        size: Extents,
        /// The extents to add.
        ranges: Vec<ExtentRange>,
    },
    /// Extend its metadata by that many bytes.
    ExtendMetadata(&'a LogicalVolume, u64),
}

impl Step<'_> {
    /// What is done, for the log.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Create(_) => "creating a part",
            Self::Remove(_) => "removing a part",
            Self::Make(_) => "making it of its parts",
            Self::Activate(_) => "activating it",
            Self::SetErrorWhenFull(..) => "setting what happens when it is full",
            Self::ExtendData { .. } => "extending its data",
            Self::ExtendMetadata(..) => "extending its metadata",
        }
    }
}

/// Whether the volume with the name of the thin pool is a part of a pool that Quarry has not completed.
pub(super) fn is_half_made(group: &VolumeGroup, config: &ThinPoolConfig) -> bool {
    group.logical_volume(&config.name).is_some_and(|found| is_part(found, ThinPoolPart::Data, &config.name))
}

/// The parts of thin pools that the configuration does not have any more, as a note for the operator: they use space.
pub(in crate::lvm) fn parts_left(group: &VolumeGroup, configured: &[String]) -> Option<String> {
    let describe = |volume: &LogicalVolume| match other_record_on(volume) {
        Tag::ThinPool(record) if is_part(volume, record.part, &record.pool) && !configured.contains(&record.pool) => {
            let path = format!("{}/{}", group.name, volume.name);
            Some(format!(
                "{path} is a part of thin pool {}, which was never completed, and which the configuration does not have: \
                 remove it (`lvremove {path}`), or configure that pool again",
                record.pool
            ))
        }
        _ => None,
    };
    let found: Vec<String> = group.volumes().filter_map(describe).collect();
    (!found.is_empty()).then(|| some_of(found))
}

/// The steps that are needed now, the most important first, or why one is not possible, for the operator. `reserve`: bytes
/// of the volume group that stay free. `status`: what the kernel says of the pool now. The report may have an older status,
/// from before it was deactivated.
pub(super) fn steps<'a>(
    group: &'a VolumeGroup,
    reserve: u64,
    config: &ThinPoolConfig,
    status: Option<ThinPoolStatus>,
) -> Vec<Result<Step<'a>, String>> {
    match group.thin_pool(&config.name) {
        Some(pool) => steps_of_pool(group, reserve, config, pool, status),
        None => step_to_pool(group, reserve, config).transpose().into_iter().collect(),
    }
}

/// The next step until there is a pool.
fn step_to_pool<'a>(group: &'a VolumeGroup, reserve: u64, config: &ThinPoolConfig) -> Result<Option<Step<'a>>, String> {
    let Some(create) = &config.create else { return Ok(None) };
    let record = |part| ThinPoolRecord::new(part, &config.name).to_string();
    let chunk = create.chunk_size.unwrap_or(LEAST_CHUNK);
    if !group.extent_size.0.is_multiple_of(chunk) {
        return Err(format!(
            "the thin pool cannot be created: an extent of the volume group has {} bytes, which is no multiple of \
             chunkSize ({chunk})",
            group.extent_size.0
        ));
    }
    let Some(data) = group.logical_volume(&config.name) else {
        let plan = plan(group, reserve, create)?;
        let tags = vec![record(ThinPoolPart::Data)];
        let (name, layout) = (config.name.clone(), create.layout);
        return Ok(Some(Step::Create(CreateLv { name, extents: plan.data, layout, tags, pvs: plan.pvs })));
    };
    if !is_part(data, ThinPoolPart::Data, &config.name) {
        return Ok(None);
    }
    let metadata = group.volumes().find(|found| is_part(found, ThinPoolPart::Metadata, &config.name));
    let Some(metadata) = metadata else {
        if group.incompleteness(data, &create.layout).is_some() {
            return Ok(Some(Step::Remove(data)));
        }
        let layout = metadata_layout(&create.layout);
        let extents = group.extent_size.needed_for(metadata_size(group, create, data.size));
        let kept = reserve.saturating_add(group.extent_size.bytes(spare(group, extents)));
        let pvs =
            capacity::choose(group, &layout, extents, kept, None).ok_or_else(|| no_space(group, config, extents))?;
        let (name, tags) = (format!("{METADATA_PREFIX}{}", config.name), vec![record(ThinPoolPart::Metadata)]);
        return Ok(Some(Step::Create(CreateLv { name, extents, layout, tags, pvs })));
    };
    if group.incompleteness(metadata, &metadata_layout(&create.layout)).is_some() {
        return Ok(Some(Step::Remove(metadata)));
    }
    let chunk_size = chunk_size(group, create, data.size);
    let error_when_full = config.error_when_full.unwrap_or(false);
    Ok(Some(Step::Make(MakePool { data, metadata, chunk_size, error_when_full })))
}

fn steps_of_pool<'a>(
    group: &'a VolumeGroup,
    reserve: u64,
    config: &ThinPoolConfig,
    pool: &'a LogicalVolume,
    status: Option<ThinPoolStatus>,
) -> Vec<Result<Step<'a>, String>> {
    if broken(group, pool).is_some() {
        return Vec::new();
    }
    let Some(status) = status else {
        // One that was active was deactivated by somebody, and stays as it is.
        return pool.thin_pool.is_none().then_some(Ok(Step::Activate(pool))).into_iter().collect();
    };
    let (mut data, mut metadata) = (None, None);
    if let Some(ExtendThinPool { at, by }) = config.extend {
        data = (status.data_percent() >= at).then(|| extended_data(group, reserve, pool, by));
        // Later, the pool would take nothing new before that.
        let extends_metadata = status.metadata_percent() >= at.min(METADATA_WARNING);
        metadata = extends_metadata.then(|| extended_metadata(group, pool, by, status.metadata_size()));
    }
    let when_full = config.error_when_full.zip(pool.errors_when_full).filter(|(wanted, found)| wanted != found);
    let when_full = when_full.map(|(wanted, _)| Ok(Step::SetErrorWhenFull(pool, wanted)));
    // A pool that runs out of metadata becomes read-only, which is worse than one that runs out of space.
    [metadata, data, when_full].into_iter().flatten().collect()
}

fn extended_data<'a>(group: &VolumeGroup, reserve: u64, pool: &'a LogicalVolume, by: u8) -> Result<Step<'a>, String> {
    let path = format!("{}/{}", group.name, pool.name);
    let part = pool.data_part.as_deref().and_then(|part| group.logical_volume(part));
    let found = part.and_then(|part| Some((part, expansion::layout(group, part)?)));
    let Some((part, layout)) = found else {
        return Err(format!("thin pool {path} is not extended, because the layout of its data was changed by hand"));
    };
    let stripes = u64::from(layout.stripes()).max(1);
    let whole = |extents: Extents| extents.divided_by(stripes).times(stripes);
    let largest = whole(expansion::largest(group, part, &layout, reserve));
    let wanted = group.extent_size.needed_for(share(pool.size, by)).and(Extents(stripes - 1));
    let more = whole(wanted).min(largest);
    let ranges = expansion::choose(group, part, &layout, more, reserve);
    let ranges = ranges.ok_or_else(|| {
        format!(
            "thin pool {path} cannot be extended, because volume group {} has no space for it: add a disk to it \
             (vgextend)",
            group.name
        )
    })?;
    Ok(Step::ExtendData { pool, layout, size: group.extent_size.whole_in(pool.size).and(more), ranges })
}

fn extended_metadata<'a>(group: &VolumeGroup, pool: &'a LogicalVolume, by: u8, size: u64) -> Result<Step<'a>, String> {
    let path = format!("{}/{}", group.name, pool.name);
    let part = pool.metadata_part.as_deref().and_then(|part| group.logical_volume(part));
    // lvm would choose the disks of the copies, and before 2.03.22 it may choose the same one for two copies.
    if part.is_none_or(|part| part.segment_types.iter().any(|kind| kind.starts_with("raid"))) {
        return Err(format!(
            "the metadata of thin pool {path} is mirrored, and only extended by hand (`lvextend --poolmetadatasize \
             +SIZE {path}`)"
        ));
    }
    // `reserve` does not count here: it is little space, and a pool without metadata becomes read-only.
    let possible = group.extent_size.whole_in(MOST_METADATA.saturating_sub(size));
    let more = group.extent_size.needed_for(share(size, by)).min(possible);
    if more == Extents::NONE {
        return Err(format!("the metadata of thin pool {path} has the largest size that lvm permits"));
    }
    Ok(Step::ExtendMetadata(pool, group.extent_size.bytes(more)))
}

fn share(size: u64, percent: u8) -> u64 {
    u64::try_from(u128::from(size) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// A thin pool to create.
struct Plan {
    data: Extents,
    pvs: Vec<std::path::PathBuf>,
}

fn plan(group: &VolumeGroup, reserve: u64, create: &CreateThinPool) -> Result<Plan, String> {
    if let Some(why) = capacity::closed(group) {
        return Err(why);
    }
    let extent = group.extent_size;
    let stripes = u64::from(create.layout.stripes()).max(1);
    let copies = if matches!(create.layout, Layout::Raid1 { .. }) { u64::from(create.layout.width()) } else { 1 };
    // Each copy of a mirror has metadata of its own, on one extent.
    let own = Extents(u64::from(copies > 1));
    // What a pool with that much data needs besides.
    let beside = |data: Extents| {
        let metadata = extent.needed_for(metadata_size(group, create, extent.bytes(data)));
        metadata.and(own).times(copies).and(spare(group, metadata))
    };
    let data = match create.size {
        ThinPoolSize::Bytes(bytes) => extent.needed_for(bytes).and(Extents(stripes - 1)),
        ThinPoolSize::Percent(percent) => {
            let all = Extents(group.extent_count.0.saturating_mul(u64::from(percent)) / 100);
            all.without(beside(all.divided_by(copies))).divided_by(copies).without(own)
        }
    };
    let data = data.divided_by(stripes).times(stripes);
    let kept = reserve.saturating_add(extent.bytes(beside(data)));
    let pvs = capacity::choose(group, &create.layout, data, kept, None).ok_or_else(|| {
        let largest = capacity::largest(group, &create.layout, kept);
        format!(
            "the thin pool cannot be created with {} bytes of data ({}): beside its metadata, {} bytes are possible now{}",
            extent.bytes(data),
            create.layout,
            largest.bytes,
            largest.reason.map(|why| format!(" ({why})")).unwrap_or_default()
        )
    })?;
    Ok(Plan { data, pvs })
}

/// The extents that lvm's spare volume needs beside the one that exists: it is as large as the largest metadata.
fn spare(group: &VolumeGroup, metadata: Extents) -> Extents {
    let spares = group.logical_volumes.iter().filter(|volume| volume.internal && volume.name.ends_with(SPARE));
    let existing = spares.map(|spare| group.extent_size.whole_in(spare.size)).max();
    metadata.without(existing.unwrap_or_default())
}

fn metadata_layout(data: &Layout) -> Layout {
    match data {
        Layout::Raid1 { .. } => *data,
        Layout::Linear | Layout::Striped { .. } => Layout::Linear,
    }
}

/// The size of the chunks of a pool with that much data, of which an extent is always a multiple.
fn chunk_size(group: &VolumeGroup, create: &CreateThinPool, data: u64) -> u64 {
    let largest = 1 << group.extent_size.0.trailing_zeros().min(63);
    let wanted = || data.div_ceil(MOST_CHUNKS).next_power_of_two();
    create.chunk_size.unwrap_or_else(|| wanted().min(largest).max(LEAST_CHUNK))
}

fn metadata_size(group: &VolumeGroup, create: &CreateThinPool, data: u64) -> u64 {
    let estimated = || {
        let chunks = data.div_ceil(chunk_size(group, create, data));
        chunks.saturating_mul(PER_CHUNK).clamp(LEAST_METADATA, MOST_METADATA)
    };
    create.metadata_size.unwrap_or_else(estimated)
}

fn no_space(group: &VolumeGroup, config: &ThinPoolConfig, extents: Extents) -> String {
    format!(
        "the metadata of thin pool {}/{} needs {} bytes, and as much for its spare, which are not free: delete something, \
         or add a disk (vgextend)",
        group.name,
        config.name,
        group.extent_size.bytes(extents)
    )
}

/// Whether a volume is that part of the thin pool with that name, and not a pool yet.
fn is_part(volume: &LogicalVolume, part: ThinPoolPart, pool: &str) -> bool {
    let is_record = |record: &ThinPoolRecord| record.part == part && record.pool == pool;
    !volume.internal
        && !volume.is_thin_pool()
        && matches!(other_record_on(volume), Tag::ThinPool(record) if is_record(&record))
}
