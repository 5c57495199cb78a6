//! The contents of a report: volume groups, physical and logical volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use quarry_volume::{ExtentSize, Extents, Layout};

use crate::raid::RaidStatus;
use crate::snapshot::SnapshotStatus;
use crate::thin::ThinPoolStatus;
use crate::{LvUuid, PvUuid, Scope, VgUuid};

/// A volume group with everything in it, from one report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeGroup {
    /// The name.
    pub name: String,
    /// The UUID: the identity of the storage.
    pub uuid: VgUuid,
    /// The size of an extent.
    pub extent_size: ExtentSize,
    /// The extents of all physical volumes, including missing ones.
    pub extent_count: Extents,
    /// The extents that no logical volume uses, including those on missing and unallocatable physical
    /// volumes.
    pub free_extents: Extents,
    /// The size of the smallest metadata area in bytes.
    pub metadata_size: u64,
    /// The space for one more copy of the metadata in that area, in bytes. An area holds two copies, so a new
    /// one can take half of it.
    pub metadata_free: u64,
    /// The number of missing physical volumes.
    pub missing_pvs: u64,
    /// Whether it is exported: no command may use it until it is imported.
    pub exported: bool,
    /// Whether a logical or physical volume of it is incomplete.
    pub partial: bool,
    /// Whether it is marked read-only, so that its metadata cannot change.
    pub read_only: bool,
    /// The system ID of its owner; empty if it has none.
    pub system_id: String,
    /// The kind of lock manager that guards it (`sanlock`, `dlm`); empty without one.
    pub lock_type: String,
    /// The maximum number of logical volumes; 0 means no limit.
    pub max_lv: u64,
    /// Incremented with every change of the metadata.
    pub seqno: u64,
    /// The tags.
    pub tags: Vec<String>,
    /// The physical volumes, including missing ones.
    pub physical_volumes: Vec<PhysicalVolume>,
    /// The logical volumes, including internal ones.
    pub logical_volumes: Vec<LogicalVolume>,
    /// The devices that commands on it may open.
    pub scope: Scope,
    /// Why physical volumes that count as missing are not used although their devices are present: a filter
    /// in the host's lvm.conf, or its devices file.
    pub hidden: Vec<String>,
    /// Devices that do not answer, and may hold a physical volume that is missing.
    pub silent: Vec<PathBuf>,
    /// Devices that return errors when they are read, and may hold a physical volume that is missing.
    pub failing: Vec<PathBuf>,
}

/// A physical volume: a disk or partition that holds extents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PhysicalVolume {
    /// The device; `None` while it is lost. A disk that is back, but was written off by a change made without
    /// it, has a device and is `missing` until `vgextend --restoremissing`.
    pub device: Option<PathBuf>,
    /// Where it can be read although lvm does not use it: see [`VolumeGroup::hidden`]. Its data is not lost.
    pub hidden_at: Option<PathBuf>,
    /// The UUID.
    pub uuid: PvUuid,
    /// The bytes that are usable for extents.
    pub size: u64,
    /// The number of extents.
    pub extent_count: Extents,
    /// The number of free extents.
    pub free_extents: Extents,
    /// The free runs as (first extent, number of extents), in order.
    pub free_fragments: Vec<(Extents, Extents)>,
    /// Whether lvm may allocate from it.
    pub allocatable: bool,
    /// Whether it counts as missing: lost, or written off.
    pub missing: bool,
    /// The number of metadata areas in use on it. If it is 0, a commit does not write to this disk.
    pub metadata_areas: u64,
    /// The offset of the first extent on the device, in bytes.
    pub extents_offset: u64,
    /// The runs of extents that logical volumes use, in order.
    pub used: Vec<Used>,
    /// Other devices with the same physical volume, from lvm's messages for this report: copies of the disk,
    /// or other paths to it. lvm uses `device`, and changes nothing while there are others.
    pub duplicates: Vec<PathBuf>,
    /// The size of the device according to the kernel, in bytes, see [`crate::kernel`]. `None` if it is
    /// unknown.
    pub device_size: Option<u64>,
    /// Whether the kernel rejects writes to the device.
    pub device_read_only: bool,
}

/// A run of extents of a physical volume that a logical volume uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The first extent.
    pub start: Extents,
    /// The number of extents.
    pub extents: Extents,
    /// The logical volume.
    pub volume: LvUuid,
}

/// A run of extents of a physical volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtentRange {
    /// The physical volume.
    pub pv: PvUuid,
    /// The first extent.
    pub first: Extents,
    /// The number of extents.
    pub extents: Extents,
}

/// A logical volume. Internal ones (a raid's images) are in the report too, with `internal` set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogicalVolume {
    /// The name, without the brackets around internal names in reports.
    pub name: String,
    /// The UUID.
    pub uuid: LvUuid,
    /// The size in bytes.
    pub size: u64,
    /// The tags.
    pub tags: Vec<String>,
    /// The types of its segments, without duplicates: `linear`, `striped`, `raid1`, `error`, `thin` …
    pub segment_types: BTreeSet<String>,
    /// The stripes of its widest segment; for raid1 the number of images.
    pub stripes: u64,
    /// The stripe size of its widest segment in bytes; 0 without stripes.
    pub stripe_size: u64,
    /// The number of segments.
    pub segments: u64,
    /// The extents of each segment on physical volumes, in the order of the volume's bytes: one run for a linear
    /// segment, one for each stripe of a striped one. None for a segment on other logical volumes.
    pub ranges: Vec<Vec<ExtentRange>>,
    /// Whether the kernel has a device for it; `None` if lvm could not determine it.
    pub active: Option<bool>,
    /// Whether that device is suspended, so that I/O on it blocks.
    pub suspended: bool,
    /// Whether that device is open or mounted; `None` if lvm could not determine it.
    pub open: Option<bool>,
    /// Whether ordinary activation skips it: a raid or snapshot whose creation was interrupted, or a
    /// snapshot.
    pub activation_skip: bool,
    /// lvm's description of a problem: empty, `partial`, `refresh needed`, `mismatches exist` …
    pub health: String,
    /// Its device under `/dev/mapper`, whether it is active or not.
    pub device: PathBuf,
    /// The kernel's number of its device while it is active.
    pub device_number: Option<(u32, u32)>,
    /// The physical volumes with its extents, through all its parts.
    pub physical_volumes: BTreeSet<PvUuid>,
    /// Whether it is a part of another logical volume or otherwise hidden.
    pub internal: bool,
    /// The logical volume that it is a part of.
    pub parent: Option<String>,
    /// The logical volume that it is a snapshot of, or that it reads from where it has no data of its own.
    pub origin: Option<String>,
    /// The pool or cache that a thin, cached or compressed volume uses.
    pub pool: Option<String>,
    /// For a thin pool, the part with the data.
    pub data_part: Option<String>,
    /// For a thin pool, the part with the metadata.
    pub metadata_part: Option<String>,
    /// For a thin pool, whether new blocks are zeroed before they are used; `None` if lvm does not report it.
    pub zeroes: Option<bool>,
    /// For a thin pool, the unit in which it gives out space, in bytes. 0 if lvm does not report it.
    pub chunk_size: u64,
    /// For a thin pool, whether writes fail at once when it is full. Otherwise they wait for some time.
    pub errors_when_full: Option<bool>,
    /// Whether lvm is moving or converting it, and rejects other changes.
    pub locked: bool,
    /// lvm's role of it: `public`, `private,raid,image` …
    pub role: String,
    /// For a mirrored volume, the part that is known to be in sync, in hundredths of a percent.
    pub sync_percent: Option<u32>,
    /// For a raid, the kernel's status of its images, see [`crate::kernel`]: the current one, or the last one
    /// while it was active. `None` if it was never seen active.
    pub raid: Option<RaidStatus>,
    /// For a snapshot, the kernel's status of its space, see [`crate::kernel`]: the current one, or the last one while
    /// it was active. `None` if it was never seen active.
    pub snapshot: Option<SnapshotStatus>,
    /// For a thin pool, the kernel's status, see [`crate::kernel`]: the current one, or the last one while it was
    /// active. `None` if it was never seen active.
    pub thin_pool: Option<ThinPoolStatus>,
}

impl VolumeGroup {
    /// The logical volume with that name, including internal ones.
    #[must_use]
    pub fn logical_volume(&self, name: &str) -> Option<&LogicalVolume> {
        self.logical_volumes.iter().find(|volume| volume.name == name)
    }

    /// The physical volume with that UUID.
    #[must_use]
    pub fn physical_volume(&self, uuid: PvUuid) -> Option<&PhysicalVolume> {
        self.physical_volumes.iter().find(|volume| volume.uuid == uuid)
    }

    /// The devices whose metadata areas are written when this volume group changes.
    #[must_use]
    pub fn metadata_devices(&self) -> Vec<PathBuf> {
        let carrying = self.physical_volumes.iter().filter(|volume| !volume.missing && volume.metadata_areas > 0);
        carrying.filter_map(|volume| volume.device.clone()).collect()
    }

    /// The UUIDs of the physical volumes without a device: lvm did not find them.
    #[must_use]
    pub fn lost_physical_volumes(&self) -> Vec<PvUuid> {
        let lost = self.physical_volumes.iter().filter(|volume| volume.device.is_none());
        lost.map(|volume| volume.uuid).collect()
    }

    /// The independent logical volumes: neither internal nor a part of another one.
    ///
    /// A raid's metadata volumes have the raid's own tags, and are visible while it is being created. If the
    /// creation was interrupted, they stay visible, and must not count as volumes.
    pub fn volumes(&self) -> impl Iterator<Item = &LogicalVolume> {
        self.logical_volumes.iter().filter(|volume| !volume.internal && raid_of_part(&volume.name).is_none())
    }

    /// The copy-on-write snapshots of a logical volume: those that are lost without it, unlike the snapshots of a thin
    /// volume.
    pub fn snapshots_of<'a>(&'a self, volume: &'a LogicalVolume) -> impl Iterator<Item = &'a LogicalVolume> {
        let thin = volume.segment_types.contains("thin");
        let of_it = move |other: &&LogicalVolume| other.origin.as_deref() == Some(&volume.name) && other.pool.is_none();
        self.logical_volumes.iter().filter(of_it).filter(move |_| !thin)
    }

    /// The thin volumes in the thin pool with that name, including thin snapshots.
    pub fn thin_volumes_in<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = &'a LogicalVolume> {
        self.logical_volumes.iter().filter(move |volume| volume.is_thin() && volume.pool.as_deref() == Some(pool))
    }

    /// The thin pool with that name. `None` if there is no logical volume of that name, or it is something else.
    #[must_use]
    pub fn thin_pool(&self, name: &str) -> Option<&LogicalVolume> {
        self.logical_volume(name).filter(|volume| volume.is_thin_pool())
    }

    /// The parts of a logical volume (a raid's images and their metadata), whether connected to it or left by
    /// an interrupted creation.
    pub fn parts_of<'a, 'b>(&'a self, name: &'b str) -> impl Iterator<Item = &'a LogicalVolume> + use<'a, 'b> {
        self.logical_volumes
            .iter()
            .filter(move |volume| volume.parent.as_deref() == Some(name) || raid_of_part(&volume.name) == Some(name))
    }

    /// The parts of each logical volume that has any, by its name: see [`VolumeGroup::parts_of`], which searches all
    /// logical volumes for those of one.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<&str, Vec<&LogicalVolume>> {
        let mut parts: BTreeMap<&str, Vec<&LogicalVolume>> = BTreeMap::new();
        for volume in &self.logical_volumes {
            let (parent, raid) = (volume.parent.as_deref(), raid_of_part(&volume.name));
            for whole in parent.into_iter().chain(raid.filter(|raid| parent != Some(*raid))) {
                parts.entry(whole).or_default().push(volume);
            }
        }
        parts
    }

    /// Why a logical volume is incomplete for that layout. `None` if it is complete.
    ///
    /// Only for a volume that was never used, according to a record that the caller can read. A raid1 whose
    /// creation was interrupted has the activation-skip flag, and visible metadata volumes; but thin snapshots
    /// have that flag as well, and an operator may have converted a volume in use.
    #[must_use]
    pub fn incompleteness(&self, volume: &LogicalVolume, layout: &Layout) -> Option<String> {
        let parts: Vec<&LogicalVolume> = self.parts_of(&volume.name).collect();
        self.incompleteness_of(volume, layout, &parts)
    }

    /// Like [`VolumeGroup::incompleteness`], with the parts of the volume.
    #[must_use]
    pub fn incompleteness_of(
        &self,
        volume: &LogicalVolume,
        layout: &Layout,
        parts: &[&LogicalVolume],
    ) -> Option<String> {
        let LogicalVolume { name, segment_types, stripes, stripe_size, .. } = volume;
        if volume.activation_skip {
            return Some(format!("{name} still has lvm's activation-skip flag: its creation was interrupted"));
        }
        let expected = match layout {
            Layout::Linear => "linear",
            Layout::Striped { .. } => "striped",
            Layout::Raid1 { .. } => "raid1",
        };
        if !segment_types.iter().eq([expected]) {
            let types: Vec<&str> = segment_types.iter().map(String::as_str).collect();
            return Some(format!("{name} is {}, not {expected}", types.join(" and ")));
        }
        let (width, parts_due, size_due) = match *layout {
            Layout::Striped { stripes, stripe_size } => (stripes, 0, stripe_size),
            // An image and its metadata each.
            Layout::Raid1 { .. } => (layout.width(), layout.width().saturating_mul(2), *stripe_size),
            _ => (1, 0, *stripe_size),
        };
        if *stripes != u64::from(width) || *stripe_size != size_due {
            return Some(format!("{name} lies on {stripes} stripes or images of {stripe_size} bytes, not {layout}"));
        }
        let found = parts.len();
        if u32::try_from(found) != Ok(parts_due) || parts.iter().any(|part| !part.internal) {
            return Some(format!("{name} has {found} parts instead of {parts_due}, or a part that is not internal"));
        }
        if parts.is_empty() {
            return None;
        }
        let disks = self.shared_by_images(volume);
        (!disks.is_empty()).then(|| format!("copies of {name} share a disk ({})", disks.join(", ")))
    }

    /// The images of a raid, in the order of the kernel's table.
    #[must_use]
    pub fn images_of<'a>(&'a self, name: &'a str) -> Vec<&'a LogicalVolume> {
        let number = |part: &LogicalVolume| part.name.rsplit('_').next().and_then(|digits| digits.parse::<u32>().ok());
        let mut images: Vec<_> = self.parts_of(name).filter(|part| part.name.contains("_rimage_")).collect();
        images.sort_by_key(|part| number(part));
        images
    }

    /// The disks with more than one image of a raid: losing such a disk loses several copies at once. Older
    /// versions of lvm allocate like that if the free extents are fragmented (fixed in 2.03.22).
    #[must_use]
    pub fn shared_by_images(&self, volume: &LogicalVolume) -> Vec<String> {
        let images = self.images_of(&volume.name);
        let lies_on = |pv: &PvUuid| images.iter().filter(|image| image.physical_volumes.contains(pv)).count();
        volume.physical_volumes.iter().filter(|pv| lies_on(pv) > 1).map(|pv| self.show_disk(*pv)).collect()
    }

    /// The name of a physical volume for users: its device, or its UUID without one.
    #[must_use]
    pub fn show_disk(&self, uuid: PvUuid) -> String {
        let device = self.physical_volume(uuid).and_then(|pv| pv.device.as_ref());
        device.map_or_else(|| uuid.to_string(), |device| device.display().to_string())
    }

    /// The device under `/dev/mapper` of its visible logical volume with that name, whether it exists or not.
    #[must_use]
    pub fn mapper_path(&self, volume: &str) -> PathBuf {
        mapper_path(&self.name, volume)
    }

    /// The physical volumes whose device ends before extents that this logical volume uses.
    pub fn cut_off_under<'a>(&'a self, volume: &'a LogicalVolume) -> impl Iterator<Item = &'a PhysicalVolume> {
        // This is asked of every volume, and to find the parts of one takes the names of all. So only a disk that is too
        // small, which is rare, is looked at.
        self.physical_volumes.iter().filter(|pv| pv.is_cut_off(self.extent_size)).filter(move |pv| {
            let fitting = pv.extents_on_device(self.extent_size);
            let parts = self.parts_of(&volume.name).map(|part| part.uuid);
            let own: BTreeSet<LvUuid> = parts.chain([volume.uuid]).collect();
            pv.used.iter().any(|used| used.start.and(used.extents) > fitting && own.contains(&used.volume))
        })
    }
}

/// The name of the raid that a volume with this name is a part of. Independent volumes cannot have such
/// names.
fn raid_of_part(name: &str) -> Option<&str> {
    ["_rimage_", "_rmeta_"].iter().find_map(|infix| {
        let (whole, number) = name.rsplit_once(infix)?;
        (!whole.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(whole)
    })
}

impl PhysicalVolume {
    /// The number of its extents that are within its device; all of them if the device's size is unknown.
    #[must_use]
    pub fn extents_on_device(&self, extent_size: ExtentSize) -> Extents {
        let Some(size) = self.device_size else { return self.extent_count };
        extent_size.whole_in(size.saturating_sub(self.extents_offset)).min(self.extent_count)
    }

    /// Whether its device is smaller than in lvm's metadata: it was replaced by a smaller disk, or shrunk
    /// below lvm.
    #[must_use]
    pub fn is_cut_off(&self, extent_size: ExtentSize) -> bool {
        self.extents_on_device(extent_size) < self.extent_count
    }

    /// The bytes of its device after its last extent; 0 if the device's size is unknown.
    #[must_use]
    pub fn unused_tail(&self, extent_size: ExtentSize) -> u64 {
        let end = self.extents_offset.saturating_add(extent_size.bytes(self.extent_count));
        self.device_size.unwrap_or_default().saturating_sub(end)
    }
}

impl LogicalVolume {
    /// Whether its name is that of a raid's image or metadata.
    #[must_use]
    pub fn is_raid_part(&self) -> bool {
        raid_of_part(&self.name).is_some()
    }

    /// Whether it is a thin volume, or a snapshot of one.
    #[must_use]
    pub fn is_thin(&self) -> bool {
        self.segment_types.contains("thin")
    }

    /// Whether it is a thin pool.
    #[must_use]
    pub fn is_thin_pool(&self) -> bool {
        self.segment_types.contains("thin-pool")
    }

    /// Whether one of its physical volumes is missing. A mirrored volume may be usable nevertheless.
    #[must_use]
    pub fn lacks(&self, group: &VolumeGroup) -> bool {
        let missing = |uuid: &PvUuid| group.physical_volume(*uuid).is_none_or(|volume| volume.missing);
        self.physical_volumes.iter().any(missing)
    }
}

/// See [`VolumeGroup::mapper_path`]: hyphens are doubled, with a hyphen in between.
pub(crate) fn mapper_path(group: &str, volume: &str) -> PathBuf {
    Path::new("/dev/mapper").join(format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--")))
}
