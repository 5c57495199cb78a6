//! Whose volume a device is, by the kernel's own word.
//!
//! The identifier of a volume on LVM holds a hash of its volume group's UUID and its name; device-mapper has both in
//! sysfs. Where they agree, no pool has to be asked, and a pool that does not answer stops nothing. Where they do not, the
//! volume may still be this one (an operator renamed it): then the pool has the last word.

use std::path::Path;

use quarry_mount as mount;
use quarry_volume::{StorageId, VolumeId};

use crate::read_only;

/// Whether the kernel's word proves that the device is that volume.
pub(crate) fn is_volume(device: mount::Device, id: &VolumeId) -> bool {
    proves(Path::new("/sys/dev/block"), device, id)
}

/// Whether the kernel's word proves that what is mounted there is that volume: its filesystem, or the node of its device.
/// `target`: where it is mounted.
pub(crate) fn is_mounted(entry: &mount::Entry, id: &VolumeId) -> bool {
    let node = || entry.node_device();
    let device = match entry.device.major {
        // btrfs numbers its mounts anonymously: there the source's node has to tell.
        0 => mount::Device::of_node(&entry.source).filter(|_| entry.source.is_absolute()).or_else(node),
        _ => Some(entry.device),
    };
    device.is_some_and(|device| is_volume(device, id))
}

fn proves(devices: &Path, device: mount::Device, id: &VolumeId) -> bool {
    let folder = devices.join(device.to_string()).join("dm");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
    let (Some(uuid), Some(name)) = (read("uuid"), read("name")) else { return false };
    if read_only::is_of(uuid.trim(), id) {
        return true;
    }
    group_of(uuid.trim()).is_some_and(|group| StorageId::of(&group) == id.storage) && is_named(name.trim(), &id.volume)
}

/// The volume group's UUID in that of a device of LVM's, if the device is a whole logical volume and no part of one.
fn group_of(uuid: &str) -> Option<String> {
    let plain = uuid.strip_prefix("LVM-").filter(|plain| plain.len() == 64)?;
    let plain = plain.get(..32).filter(|_| plain.bytes().all(|byte| byte.is_ascii_alphanumeric()))?;
    let mut text = String::with_capacity(38);
    for (index, character) in plain.chars().enumerate() {
        if matches!(index, 6 | 10 | 14 | 18 | 22 | 26) {
            text.push('-');
        }
        text.push(character);
    }
    Some(text)
}

/// Whether device-mapper's name is that of a logical volume of this name: the group's name and the volume's, each with its
/// hyphens doubled, and one hyphen between them.
fn is_named(mapped: &str, volume: &str) -> bool {
    let group = mapped.strip_suffix(&volume.replace('-', "--")).and_then(|group| group.strip_suffix('-'));
    group.is_some_and(|group| !group.is_empty() && !group.replace("--", "").contains('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "Zr3Ot2-MsTU-yPvW-5Ttd-gaYN-WeYT-vP8EJt";
    const UUID: &str = "LVM-Zr3Ot2MsTUyPvW5TtdgaYNWeYTvP8EJtABCDEFghijKLMNopqrSTUVwxyz012345";

    #[test]
    fn a_name_is_split_at_the_only_single_hyphen() {
        for (mapped, volume) in [("vg0-pvc--1", "pvc-1"), ("vg--0-a", "a"), ("vg----0-a--b", "a-b")] {
            assert!(is_named(mapped, volume), "{mapped}");
        }
        for (mapped, volume) in
            [("vg0-pvc--1", "1"), ("vg0-x--pvc--1", "pvc-1"), ("-a", "a"), ("vg0--a", "a"), ("vg0-b", "a")]
        {
            assert!(!is_named(mapped, volume), "{mapped}");
        }
    }

    #[test]
    fn group_and_name_prove_it_together() {
        let folder = tempfile::tempdir().unwrap();
        let device = mount::Device { major: 253, minor: 3 };
        let dm = folder.path().join("253:3/dm");
        std::fs::create_dir_all(&dm).unwrap();
        let id = |volume: &str, group: &str| VolumeId {
            storage: StorageId::of(group),
            node: "n".to_owned(),
            volume: volume.to_owned(),
        };
        let write = |uuid: &str| {
            std::fs::write(dm.join("uuid"), format!("{uuid}\n")).unwrap();
            std::fs::write(dm.join("name"), "vg0-pvc--1\n").unwrap();
        };
        write(UUID);
        assert!(proves(folder.path(), device, &id("pvc-1", GROUP)));
        assert!(!proves(folder.path(), device, &id("pvc-2", GROUP)), "another name");
        assert!(!proves(folder.path(), device, &id("pvc-1", "other")), "another group");
        assert!(!proves(folder.path(), mount::Device { major: 253, minor: 4 }, &id("pvc-1", GROUP)), "no such device");
        for other in [&format!("{UUID}-real"), "CRYPT-LUKS2-x", ""] {
            write(other);
            assert!(!proves(folder.path(), device, &id("pvc-1", GROUP)), "{other:?}");
        }
    }
}
