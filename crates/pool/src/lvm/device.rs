//! The device of a logical volume, according to the kernel.
//!
//! Device-mapper devices have the UUIDs of their volume group and logical volume. The kernel is asked each time,
//! because activation is not part of LVM's metadata. So no report is needed, and nothing can be out of date.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use quarry_lvm::{LvUuid, VgUuid, VolumeGroup, device_uuid, folders_named, parse_device_uuid, thin_pool_of_layer};
use quarry_mount::Entry;
use quarry_volume::{Error, Result, StorageId};

use super::volume::{storage_of, thin_storage_of};
use crate::PoolVolume;

/// An active logical volume, according to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Active {
    /// The logical volume.
    pub(crate) uuid: LvUuid,
    /// The node of its device.
    pub(crate) node: PathBuf,
}

/// Finds the active logical volume with that name in the volume group with that storage identity. This also
/// works if the volume group cannot be read, was renamed, or no longer has the volume.
///
/// # Errors
/// sysfs cannot be read, or the device exists without a valid node.
pub(crate) fn active(storage: &StorageId, name: &str) -> io::Result<Option<Active>> {
    active_in(&folders_named(|mapped| logical_name(mapped).as_deref() == Some(name))?, storage, name)
}

fn active_in(folders: &[PathBuf], storage: &StorageId, name: &str) -> io::Result<Option<Active>> {
    for folder in folders {
        let read = |file: &str| fs::read_to_string(folder.join(file)).map(|text| text.trim().to_owned());
        // The name first, because most devices have another one; and again after the UUID, because the kernel gives the
        // number of a removed device to the next one.
        let is_named = || read("dm/name").is_ok_and(|mapped| logical_name(&mapped).as_deref() == Some(name));
        let Some(uuid) = is_named().then(|| read("dm/uuid").ok()).flatten().filter(|_| is_named()) else { continue };
        let Some((group, volume)) = parse_device_uuid(&uuid) else { continue };
        if storage_under(folder, group) == *storage {
            return Ok(node(folder, &uuid)?.map(|node| Active { uuid: volume, node }));
        }
    }
    Ok(None)
}

/// The storage ID of the volume group with that UUID; or, if the device with that folder in sysfs is a thin volume, of
/// the thin pool below it.
fn storage_under(folder: &Path, group: VgUuid) -> StorageId {
    let below = fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
    let uuids = below.filter_map(|below| fs::read_to_string(below.path().join("dm/uuid")).ok());
    let pool = uuids.filter_map(|uuid| thin_pool_of_layer(uuid.trim())).find(|(found, _)| *found == group);
    pool.map_or_else(|| storage_of(group), |(group, pool)| thin_storage_of(group, pool))
}

/// See [`crate::could_be_volume`]. A logical volume is a device-mapper device, which its name shows. (So is a
/// read-only mapping of a volume of any kind.)
pub(crate) fn could_be_volume(entry: &Entry) -> bool {
    // A removed node appears as `/dm-3//deleted`.
    entry.device_path().iter().any(|part| part == "mapper" || part.as_bytes().starts_with(b"dm-"))
}

/// The name of the logical volume in a device-mapper name: hyphens are doubled, with a single one between
/// group and volume.
fn logical_name(mapped: &str) -> Option<String> {
    let single = |(at, _): &(usize, char)| {
        let around = |at: usize| mapped.as_bytes().get(at) == Some(&b'-');
        let before = mapped.bytes().take(*at).rev().take_while(|byte| *byte == b'-').count();
        before % 2 == 0 && !around(at + 1)
    };
    let (at, _) = mapped.char_indices().filter(|(_, character)| *character == '-').find(single)?;
    Some(mapped.get(at + 1..)?.replace("--", "-"))
}

/// Finds the node of the active logical volume with these UUIDs. `None`: it is not active.
///
/// The node is the kernel's own `/dev/dm-N`, which devtmpfs always has, by its name in `/dev/mapper` if that
/// is a link to it. It must always be the same node, because the lock that shows an orphaned mkfs is on the
/// node. Only if `/dev` is not a devtmpfs, it may be a node that lvm made under `/dev/mapper`. A node is used
/// only if it is a block device with the number from sysfs.
///
/// A device with size 0 has no table: an lvm that was killed had created it, but not loaded its table. It is
/// not active, and lvm loads its table when it activates the volume.
///
/// # Errors
/// sysfs cannot be read, or the device exists without a valid node.
pub(crate) fn find(group: VgUuid, volume: LvUuid) -> io::Result<Option<PathBuf>> {
    let wanted = device_uuid(group, volume);
    match folder(&wanted) {
        Some(folder) => folder.map_or(Ok(None), |folder| node(&folder, &wanted)),
        None => find_in(Path::new("/sys/block"), group, volume),
    }
}

/// The folder in sysfs of the device with that UUID, by a question to device-mapper: that takes the same time however many
/// devices there are. The inner `None`: it is not active. The outer one: the question was not answered, so that the
/// devices have to be searched.
fn folder(uuid: &str) -> Option<Option<PathBuf>> {
    match quarry_lvm::device_number(uuid).ok()? {
        None => Some(None),
        // The name of the folder is that of the device, as in /sys/block.
        Some((major, minor)) => {
            let folder = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
            has_uuid(&folder, uuid).then_some(Some(folder))
        }
    }
}

fn find_in(block: &Path, group: VgUuid, volume: LvUuid) -> io::Result<Option<PathBuf>> {
    let wanted = device_uuid(group, volume);
    for entry in fs::read_dir(block)? {
        let folder = entry?.path();
        if has_uuid(&folder, &wanted) {
            return node(&folder, &wanted);
        }
    }
    Ok(None)
}

/// The size of the device of the active logical volume with these UUIDs, in bytes; `None` if it is not active.
///
/// # Errors
/// sysfs cannot be read.
pub(super) fn size(group: VgUuid, volume: LvUuid) -> io::Result<Option<u64>> {
    let wanted = device_uuid(group, volume);
    match folder(&wanted) {
        Some(folder) => folder.map_or(Ok(None), |folder| size_of(&folder, &wanted)),
        None => size_in(Path::new("/sys/block"), group, volume),
    }
}

fn size_in(block: &Path, group: VgUuid, volume: LvUuid) -> io::Result<Option<u64>> {
    let wanted = device_uuid(group, volume);
    for entry in fs::read_dir(block)? {
        let folder = entry?.path();
        if has_uuid(&folder, &wanted) {
            return size_of(&folder, &wanted);
        }
    }
    Ok(None)
}

/// The size of the device with that UUID and that folder in sysfs; `None` if it was removed, or has no table.
fn size_of(folder: &Path, uuid: &str) -> io::Result<Option<u64>> {
    // The kernel counts in sectors of 512 bytes, whatever the disk's own size is. Without a table, the size is 0, and the
    // device counts as inactive.
    let size = fs::read_to_string(folder.join("size"));
    if !has_uuid(folder, uuid) {
        return Ok(None);
    }
    let bytes = size?.trim().parse::<u64>().map_err(io::Error::other)?.saturating_mul(512);
    Ok(Some(bytes).filter(|bytes| *bytes > 0))
}

/// Whether the volume's device is smaller than the volume: an lvextend was killed after its commit.
///
/// # Errors
/// `Host` if sysfs cannot be read.
pub(super) fn is_smaller(volume: &PoolVolume) -> Result<bool> {
    let (group, uuid) = volume.logical()?;
    let size = size(group, uuid)
        .map_err(|error| Error::host(format!("the size of the device of volume {}: {error}", volume.name)))?;
    Ok(size.is_some_and(|size| size < volume.size))
}

/// Whether sysfs still has the device with that UUID in that folder.
fn has_uuid(folder: &Path, uuid: &str) -> bool {
    fs::read_to_string(folder.join("dm/uuid")).is_ok_and(|found| found.trim() == uuid)
}

/// The node of the device with that UUID and that folder in sysfs; `None` if it has no table, or if it was
/// removed during the search. The UUID is read again at the end: the kernel gives the number of a removed
/// device to the next one, so the node may already belong to another volume.
fn node(folder: &Path, uuid: &str) -> io::Result<Option<PathBuf>> {
    let node = node_in(folder);
    if has_uuid(folder, uuid) { node } else { Ok(None) }
}

fn node_in(folder: &Path) -> io::Result<Option<PathBuf>> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).map(|text| text.trim().to_owned());
    if read("size")? == "0" {
        return Ok(None);
    }
    let Some(name) = folder.file_name() else { return Ok(None) };
    let (number, mapped) = (read("dev")?, read("dm/name")?);
    let (named, own) = (Path::new("/dev/mapper").join(mapped), Path::new("/dev").join(name));
    let linked = fs::canonicalize(&named).is_ok_and(|target| target == own);
    let candidates = if linked { [named, own] } else { [own, named] };
    match candidates.into_iter().find(|path| is_node_of(path, &number)) {
        Some(path) => Ok(Some(path)),
        None => Err(io::Error::other(format!(
            "the kernel has {} ({number}), but neither /dev/mapper nor /dev has a node for it: is the host's /dev \
             mounted there?",
            name.display()
        ))),
    }
}

/// The UUID of the active logical volume with that name, if it is a complete device of `size` bytes in that
/// volume group. `None` if the kernel's facts do not prove all of that.
pub(crate) fn uuid_of(group: &VolumeGroup, volume: &str, size: u64) -> Option<LvUuid> {
    let mapped = group.mapper_path(volume);
    let mapped = mapped.file_name()?.to_str()?;
    uuid_in(&folders_named(|name| name == mapped).ok()?, group, mapped, size)
}

fn uuid_in(folders: &[PathBuf], group: &VolumeGroup, mapped: &str, size: u64) -> Option<LvUuid> {
    for folder in folders {
        let read = |file: &str| fs::read_to_string(folder.join(file)).map(|text| text.trim().to_owned()).ok();
        if read("dm/name").is_none_or(|name| name != mapped) {
            continue;
        }
        // The kernel counts in sectors of 512 bytes, whatever the disk's own size is.
        let bytes = read("size")?.parse::<u64>().ok()?.checked_mul(512)?;
        let (found, uuid) = parse_device_uuid(&read("dm/uuid")?)?;
        return (found == group.uuid && bytes == size).then_some(uuid);
    }
    None
}

fn is_node_of(path: &Path, number: &str) -> bool {
    fs::metadata(path).is_ok_and(|metadata| {
        let rdev = metadata.rdev();
        metadata.file_type().is_block_device()
            && format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)) == number
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "Zr3Ot2-MsTU-yPvW-5Ttd-gaYN-WeYT-vP8EJt";
    const PLAIN: &str = "Zr3Ot2MsTUyPvW5TtdgaYNWeYTvP8EJtABCDEFghijKLMNopqrSTUVwxyz012345";
    const VOLUME: &str = "ABCDEF-ghij-KLMN-opqr-STUV-wxyz-012345";

    fn group() -> VolumeGroup {
        VolumeGroup { name: "vg-0".to_owned(), uuid: GROUP.parse().unwrap(), ..VolumeGroup::default() }
    }

    /// A device as in sysfs.
    fn device(block: &Path, node: &str, name: &str, uuid: &str, sectors: u64) {
        let folder = block.join(node);
        fs::create_dir_all(folder.join("dm")).unwrap();
        fs::write(folder.join("dm/name"), format!("{name}\n")).unwrap();
        fs::write(folder.join("dm/uuid"), format!("{uuid}\n")).unwrap();
        fs::write(folder.join("size"), format!("{sectors}\n")).unwrap();
        fs::write(folder.join("dev"), "0:0\n").unwrap();
    }

    fn folders(block: &Path) -> Vec<PathBuf> {
        fs::read_dir(block).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Removes the device while its size is being read, and puts `next` in its place.
    fn removed_meanwhile(block: &Path, next: Option<&str>) -> std::thread::JoinHandle<()> {
        device(block, "dm-777777", "vg--0-pvc--1", &format!("LVM-{PLAIN}"), 8192);
        let (folder, size) = (block.join("dm-777777"), block.join("dm-777777/size"));
        fs::remove_file(&size).unwrap();
        nix::unistd::mkfifo(&size, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let next = next.map(str::to_owned);
        std::thread::spawn(move || {
            let mut pipe = fs::OpenOptions::new().write(true).open(&size).unwrap();
            fs::remove_dir_all(&folder).unwrap();
            if let Some(uuid) = next {
                device(folder.parent().unwrap(), "dm-777777", "vg--0-pvc--2", &uuid, 8192);
            }
            io::Write::write_all(&mut pipe, b"8192\n").unwrap();
        })
    }

    /// A device that is removed during the search is not active, also if another device already has its number.
    #[test]
    fn a_device_that_is_removed_during_the_search_is_not_active() {
        let storage = storage_of(group().uuid);
        for next in [None, Some(format!("LVM-{}X", &PLAIN[..63]))] {
            let block = tempfile::tempdir().unwrap();
            let removed = removed_meanwhile(block.path(), next.as_deref());
            assert_eq!(find_in(block.path(), group().uuid, VOLUME.parse().unwrap()).unwrap(), None);
            removed.join().unwrap();

            let block = tempfile::tempdir().unwrap();
            let removed = removed_meanwhile(block.path(), next.as_deref());
            assert_eq!(active_in(&folders(block.path()), &storage, "pvc-1").unwrap(), None);
            removed.join().unwrap();
        }
    }

    #[test]
    fn only_a_mapped_device_could_be_a_volume() {
        let could_be_volume = |line: &str| could_be_volume(&quarry_mount::parse(line.as_bytes())[0]);
        assert!(could_be_volume("36 22 253:3 / /staged rw - xfs /dev/mapper/vg-lv rw"));
        assert!(could_be_volume("36 22 0:45 / /staged rw - btrfs /dev/dm-4 rw"));
        assert!(could_be_volume("37 22 0:5 /dm-3 /published rw - devtmpfs udev rw"));
        assert!(could_be_volume("37 22 0:5 /dm-3//deleted /published rw - devtmpfs udev rw"));
        assert!(could_be_volume("37 22 0:5 /mapper/vg-lv /published rw - tmpfs tmpfs rw"));
        assert!(!could_be_volume("38 22 259:1 / /home rw - ext4 /dev/nvme0n1p2 rw"));
        assert!(!could_be_volume("38 22 0:44 / /run rw - tmpfs tmpfs rw"));
        assert!(!could_be_volume("38 22 0:46 / /share rw - nfs4 host:/export rw"));
    }

    #[test]
    fn a_device_without_a_table_is_not_active() {
        let block = tempfile::tempdir().unwrap();
        device(block.path(), "dm-777777", "vg--0-pvc--1", &format!("LVM-{PLAIN}"), 0);
        assert_eq!(find_in(block.path(), group().uuid, VOLUME.parse().unwrap()).unwrap(), None);
        assert_eq!(size_in(block.path(), group().uuid, VOLUME.parse().unwrap()).unwrap(), None);
        // With a table it is active, and must have a node.
        device(block.path(), "dm-777777", "vg--0-pvc--1", &format!("LVM-{PLAIN}"), 8192);
        let error = find_in(block.path(), group().uuid, VOLUME.parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("neither /dev/mapper nor /dev has a node for it"), "{error}");
        assert_eq!(size_in(block.path(), group().uuid, VOLUME.parse().unwrap()).unwrap(), Some(8192 * 512));
        let other = "zzzzzz-ghij-KLMN-opqr-STUV-wxyz-012345".parse().unwrap();
        assert_eq!(size_in(block.path(), group().uuid, other).unwrap(), None);
        assert_eq!(find_in(block.path(), group().uuid, other).unwrap(), None);
    }

    #[test]
    fn an_active_volume_is_found_by_its_id() {
        let block = tempfile::tempdir().unwrap();
        device(block.path(), "dm-0", "vg--0-other", &format!("LVM-{PLAIN}"), 8192);
        device(block.path(), "dm-777777", "renamed--group-pvc--1", &format!("LVM-{PLAIN}"), 8192);
        device(block.path(), "dm-2", "vg--0-pvc--1--layer", &format!("LVM-{PLAIN}-real"), 8192);
        let storage = storage_of(group().uuid);
        // The error says that it has no node, which proves that it was found.
        let error = active_in(&folders(block.path()), &storage, "pvc-1").unwrap_err();
        assert!(error.to_string().contains("dm-777777"), "{error}");
        assert_eq!(active_in(&folders(block.path()), &storage, "pvc-2").unwrap(), None);
        assert_eq!(active_in(&folders(block.path()), &storage, "pvc-1-layer").unwrap(), None, "a layer of a volume");
        assert_eq!(active_in(&folders(block.path()), &StorageId::of("another"), "pvc-1").unwrap(), None);
    }

    #[test]
    fn a_thin_volume_is_found_on_the_storage_of_its_pool() {
        let block = tempfile::tempdir().unwrap();
        device(block.path(), "dm-777777", "vg--0-pvc--1", &format!("LVM-{PLAIN}"), 8192);
        let pool = format!("{}{}", &PLAIN[..32], "z".repeat(32));
        device(block.path(), "dm-777777/slaves/dm-5", "vg--0-thin-tpool", &format!("LVM-{pool}-tpool"), 8192);
        let thin = thin_storage_of(group().uuid, "z".repeat(32).parse().unwrap());
        // The error says that it has no node, which proves that it was found.
        let error = active_in(&folders(block.path()), &thin, "pvc-1").unwrap_err();
        assert!(error.to_string().contains("dm-777777"), "{error}");
        assert_eq!(active_in(&folders(block.path()), &storage_of(group().uuid), "pvc-1").unwrap(), None);
    }

    #[test]
    fn device_mapper_names_round_trip() {
        for (group, volume) in [("vg0", "a"), ("vg-0", "a"), ("vg-", "a-b"), ("a--b", "pvc-6f0c-1"), ("v", "a--b-")] {
            let mapped = VolumeGroup { name: group.to_owned(), ..VolumeGroup::default() }.mapper_path(volume);
            let mapped = mapped.file_name().and_then(|name| name.to_str()).unwrap();
            assert_eq!(logical_name(mapped).as_deref(), Some(volume), "{mapped}");
        }
        assert_eq!(logical_name("luks"), None);
        assert_eq!(logical_name("a--b"), None);
    }

    #[test]
    fn a_uuid_is_used_only_for_the_complete_volume() {
        let block = tempfile::tempdir().unwrap();
        device(block.path(), "dm-0", "vg--0-pvc--1", &format!("LVM-{PLAIN}"), 8192);
        device(block.path(), "dm-1", "vg--0-layered", &format!("LVM-{PLAIN}-real"), 8192);
        device(block.path(), "dm-2", "vg--0-other", &format!("LVM-X{}", &PLAIN[1..]), 8192);
        fs::create_dir(block.path().join("vda")).unwrap();
        let found = |mapped: &str, size: u64| uuid_in(&folders(block.path()), &group(), mapped, size);
        assert_eq!(found("vg--0-pvc--1", 4 << 20), VOLUME.parse().ok());
        assert_eq!(found("vg--0-pvc--1", 8 << 20), None, "another size");
        assert_eq!(found("vg--0-layered", 4 << 20), None, "a layer of a volume");
        assert_eq!(found("vg--0-other", 4 << 20), None, "another volume group");
        assert_eq!(found("vg--0-none", 4 << 20), None);
    }
}
