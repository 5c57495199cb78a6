//! What a report says about volume groups, and what they consist of. Sizes are in bytes, counts in extents.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use quarry_volume::Layout;

use crate::Scope;
use crate::raid::RaidStatus;

/// A volume group with everything in it, as one report saw it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeGroup {
    /// Its name.
    pub name: String,
    /// Its UUID in lvm's form with hyphens: the identity of the storage.
    pub uuid: String,
    /// Bytes in an extent.
    pub extent_size: u64,
    /// Extents on all physical volumes, missing ones included.
    pub extent_count: u64,
    /// Extents that no logical volume uses, on missing and unallocatable physical volumes too.
    pub free_extents: u64,
    /// Bytes in the smallest metadata area.
    pub metadata_size: u64,
    /// Bytes for one more copy of the metadata in that area. An area holds two copies, so a new one has half of it.
    pub metadata_free: u64,
    /// How many physical volumes are missing.
    pub missing_pvs: u64,
    /// Whether it is exported: no command may use it until it is imported.
    pub exported: bool,
    /// Whether a logical or physical volume of it is missing something.
    pub partial: bool,
    /// Whether it is marked read-only: its metadata cannot change.
    pub read_only: bool,
    /// The system ID that owns it; empty when nobody claims it.
    pub system_id: String,
    /// The kind of lock manager that guards it (`sanlock`, `dlm`); empty for none.
    pub lock_type: String,
    /// How many logical volumes it may hold; 0 is no limit.
    pub max_lv: u64,
    /// Rises by one with every change of the metadata.
    pub seqno: u64,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its physical volumes, missing ones included.
    pub physical_volumes: Vec<PhysicalVolume>,
    /// Its logical volumes, internal ones included.
    pub logical_volumes: Vec<LogicalVolume>,
    /// What commands on it may open.
    pub scope: Scope,
    /// Why physical volumes that count as missing are not used, though their devices are there: a filter of the host's
    /// lvm.conf, its devices file.
    pub hidden: Vec<String>,
}

/// A physical volume: a disk or partition that holds extents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PhysicalVolume {
    /// Its device; none while it is lost. One that is back, but was written off by a change made without it, has a device
    /// and is `missing` until `vgextend --restoremissing`.
    pub device: Option<PathBuf>,
    /// Its UUID in lvm's form.
    pub uuid: String,
    /// Bytes usable for extents.
    pub size: u64,
    /// Extents it holds.
    pub extent_count: u64,
    /// Extents of it that are free.
    pub free_extents: u64,
    /// The free runs as (first extent, number of extents), in order.
    pub free_fragments: Vec<(u64, u64)>,
    /// Whether lvm may allocate from it.
    pub allocatable: bool,
    /// Whether it counts as missing: lost, or written off.
    pub missing: bool,
    /// Metadata areas on it that are in use; with none, a commit does not touch it.
    pub metadata_areas: u64,
    /// Where its first extent begins on the device, in bytes.
    pub first_extent: u64,
    /// The runs of extents that logical volumes use, in order.
    pub used: Vec<Used>,
    /// Other devices that hold the same physical volume, as lvm named them in this report: copies of the disk, or further
    /// paths to it. lvm uses `device`, and changes nothing while there are others.
    pub duplicates: Vec<PathBuf>,
    /// Bytes of the device by the kernel's word, see [`crate::kernel`]; none where it was not asked or did not know.
    pub device_size: Option<u64>,
    /// Whether the kernel refuses to write to the device.
    pub device_read_only: bool,
}

/// A run of extents of a physical volume that a logical volume uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The first extent.
    pub start: u64,
    /// How many.
    pub extents: u64,
    /// The UUID of the logical volume.
    pub volume: String,
}

/// A logical volume; internal ones (a raid's images) are in the report too, with `internal` set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogicalVolume {
    /// Its name, without the brackets that reports put around internal ones.
    pub name: String,
    /// Its UUID in lvm's form.
    pub uuid: String,
    /// Bytes.
    pub size: u64,
    /// Its tags.
    pub tags: Vec<String>,
    /// The types of its segments, each once: `linear`, `striped`, `raid1`, `error`, `thin` …
    pub segment_types: BTreeSet<String>,
    /// Stripes of its widest segment; for raid1 the number of images.
    pub stripes: u64,
    /// Bytes in a stripe of its widest segment; 0 where there are none.
    pub stripe_size: u64,
    /// Its segments.
    pub segments: u64,
    /// Whether the kernel has a device for it; none when lvm could not tell.
    pub active: Option<bool>,
    /// Whether that device is suspended: input and output on it wait.
    pub suspended: bool,
    /// Whether that device is open or mounted; none when lvm could not tell.
    pub open: Option<bool>,
    /// Whether it is left out of ordinary activation: a raid or snapshot whose creation was cut off, or a snapshot.
    pub activation_skip: bool,
    /// lvm's word for what is wrong with it: empty, `partial`, `refresh needed`, `mismatches exist` …
    pub health: String,
    /// Its device under `/dev/mapper`, whether it is active or not.
    pub device: PathBuf,
    /// The kernel's numbers of its device while it is active.
    pub device_number: Option<(u32, u32)>,
    /// The UUIDs of the physical volumes that its extents lie on, through all its parts.
    pub physical_volumes: BTreeSet<String>,
    /// Whether it is a part of another logical volume or otherwise hidden.
    pub internal: bool,
    /// The logical volume that it is a part of.
    pub parent: Option<String>,
    /// The logical volume that it is a snapshot of, or that it reads where it has no bytes of its own.
    pub origin: Option<String>,
    /// The pool or cache that it lies in: of a thin, cached or compressed volume.
    pub pool: Option<String>,
    /// Whether lvm is moving or converting it, and refuses to change it otherwise.
    pub locked: bool,
    /// What lvm calls its role: `public`, `private,raid,image` …
    pub role: String,
    /// For a mirrored volume, how much is known to be the same on all images, in hundredths of a percent.
    pub sync_percent: Option<u32>,
    /// For a raid, what the kernel says of its images, see [`crate::kernel`]: now, or when it was active last. None where
    /// it was never seen active.
    pub raid: Option<RaidStatus>,
}

impl VolumeGroup {
    /// The logical volume of that name, internal ones included.
    #[must_use]
    pub fn logical_volume(&self, name: &str) -> Option<&LogicalVolume> {
        self.logical_volumes.iter().find(|volume| volume.name == name)
    }

    /// The physical volume of that UUID.
    #[must_use]
    pub fn physical_volume(&self, uuid: &str) -> Option<&PhysicalVolume> {
        self.physical_volumes.iter().find(|volume| volume.uuid == uuid)
    }

    /// The devices whose metadata areas a change of this volume group writes to.
    #[must_use]
    pub fn metadata_devices(&self) -> Vec<PathBuf> {
        let carrying = self.physical_volumes.iter().filter(|volume| !volume.missing && volume.metadata_areas > 0);
        carrying.filter_map(|volume| volume.device.clone()).collect()
    }

    /// The UUIDs of the physical volumes that have no device: lvm did not find them.
    #[must_use]
    pub fn lost_physical_volumes(&self) -> Vec<String> {
        let lost = self.physical_volumes.iter().filter(|volume| volume.device.is_none());
        lost.map(|volume| volume.uuid.clone()).collect()
    }

    /// The logical volumes that stand for themselves: neither internal nor a part of another one.
    ///
    /// A raid's metadata volumes carry the raid's own tags, and are visible while it is made. Where that was cut off
    /// they stay visible, and must not be taken for volumes.
    pub fn volumes(&self) -> impl Iterator<Item = &LogicalVolume> {
        self.logical_volumes.iter().filter(|volume| !volume.internal && whole_of(&volume.name).is_none())
    }

    /// The parts of a logical volume (a raid's images and their metadata), whether tied to it or left behind by a
    /// creation that was cut off.
    pub fn parts_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a LogicalVolume> {
        self.logical_volumes
            .iter()
            .filter(move |volume| volume.parent.as_deref() == Some(name) || whole_of(&volume.name) == Some(name))
    }

    /// Why a logical volume is not the whole of what was to be made in that layout; none when it is.
    ///
    /// A raid1 whose creation was cut off has the flag to be skipped at activation, and visible metadata volumes.
    #[must_use]
    pub fn incompleteness(&self, volume: &LogicalVolume, layout: &Layout) -> Option<String> {
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
        let parts = self.parts_of(name).count();
        let (width, parts_due, size_due) = match *layout {
            Layout::Striped { stripes, stripe_size } => (stripes, 0, stripe_size),
            // An image and its metadata each.
            Layout::Raid1 { .. } => (layout.width(), layout.width().saturating_mul(2), *stripe_size),
            _ => (1, 0, *stripe_size),
        };
        if *stripes != u64::from(width) || *stripe_size != size_due {
            return Some(format!("{name} lies on {stripes} stripes or images of {stripe_size} bytes, not {layout}"));
        }
        if u32::try_from(parts) != Ok(parts_due) || self.parts_of(name).any(|part| !part.internal) {
            return Some(format!("{name} has {parts} parts of {parts_due}, or loose ones"));
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

    /// The disks on which more than one image of a raid lies: with such a disk several copies are lost at once. Older
    /// versions of lvm allocate so where the free extents lie in pieces (fixed in 2.03.22).
    #[must_use]
    pub fn shared_by_images(&self, volume: &LogicalVolume) -> Vec<String> {
        let images = self.images_of(&volume.name);
        let lies_on = |pv: &String| images.iter().filter(|image| image.physical_volumes.contains(pv)).count();
        volume.physical_volumes.iter().filter(|pv| lies_on(pv) > 1).map(|pv| self.show_disk(pv)).collect()
    }

    /// A physical volume for people: its device, or its UUID where it has none.
    #[must_use]
    pub fn show_disk(&self, uuid: &str) -> String {
        let device = self.physical_volume(uuid).and_then(|pv| pv.device.as_ref());
        device.map_or_else(|| uuid.to_owned(), |device| device.display().to_string())
    }

    /// The physical volumes whose device ends before extents that this logical volume uses.
    pub fn cut_off_under<'a>(&'a self, volume: &'a LogicalVolume) -> impl Iterator<Item = &'a PhysicalVolume> {
        self.physical_volumes.iter().filter(move |pv| {
            let fitting = pv.extents_on_device(self.extent_size);
            pv.used.iter().any(|used| {
                let of_it =
                    used.volume == volume.uuid || self.parts_of(&volume.name).any(|part| part.uuid == used.volume);
                of_it && used.start.saturating_add(used.extents) > fitting
            })
        })
    }
}

/// The name of the raid that a volume of this name is a part of. No volume of its own can have such a name.
fn whole_of(name: &str) -> Option<&str> {
    ["_rimage_", "_rmeta_"].iter().find_map(|infix| {
        let (whole, number) = name.rsplit_once(infix)?;
        (!whole.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(whole)
    })
}

impl PhysicalVolume {
    /// How many of its extents lie within its device; all of them where the device's size is not known.
    #[must_use]
    pub fn extents_on_device(&self, extent_size: u64) -> u64 {
        let Some(size) = self.device_size else { return self.extent_count };
        let fitting = size.saturating_sub(self.first_extent) / extent_size.max(1);
        fitting.min(self.extent_count)
    }

    /// Whether its device is smaller than lvm's metadata says: a disk replaced by a smaller one, or shrunk below lvm.
    #[must_use]
    pub fn is_cut_off(&self, extent_size: u64) -> bool {
        self.extents_on_device(extent_size) < self.extent_count
    }

    /// The bytes of its device behind its last extent; 0 where the device's size is not known.
    #[must_use]
    pub fn unused_tail(&self, extent_size: u64) -> u64 {
        let end = self.first_extent.saturating_add(self.extent_count.saturating_mul(extent_size));
        self.device_size.unwrap_or_default().saturating_sub(end)
    }
}

impl LogicalVolume {
    /// Whether it has the name of a raid's image or metadata.
    #[must_use]
    pub fn is_raid_part(&self) -> bool {
        whole_of(&self.name).is_some()
    }

    /// Whether one of the physical volumes it lies on is missing. A mirrored one may be usable all the same.
    #[must_use]
    pub fn lacks(&self, group: &VolumeGroup) -> bool {
        let missing = |uuid: &String| group.physical_volume(uuid).is_none_or(|volume| volume.missing);
        self.physical_volumes.iter().any(missing)
    }
}

/// The device under `/dev/mapper` that lvm gives a visible logical volume: hyphens doubled, a hyphen between.
#[must_use]
pub fn mapper_path(group: &str, volume: &str) -> PathBuf {
    Path::new("/dev/mapper").join(format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--")))
}
