//! The dm-crypt devices of volumes, according to the kernel. Reads only sysfs.

use std::fs;
use std::path::{Path, PathBuf};

use quarry_mount::Device;
use uuid::Uuid;

use crate::{HEADER_SIZE, NAMESPACE};

/// The beginning of the names of Quarry's dm-crypt devices.
const NAME: &str = "quarry-crypt-";
/// The beginning of the device-mapper UUIDs of the devices that cryptsetup makes from LUKS2 headers. The UUID of the
/// header follows, without hyphens, and the name of the device.
const UUID: &str = "CRYPT-LUKS2-";
/// The largest sector of an encrypted device in bytes. Its size is a multiple of it.
const SECTOR: u64 = 4096;

/// A dm-crypt device of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its device-mapper name.
    pub name: String,
    /// Its device-mapper UUID.
    pub uuid: String,
    /// Its node.
    pub node: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

impl Layer {
    /// The node of the device below. `None`: it is gone, or there are several.
    #[must_use]
    pub fn below(&self) -> Option<PathBuf> {
        let slaves = Path::new("/sys/class/block").join(self.node.file_name()?).join("slaves");
        let mut names = fs::read_dir(slaves).ok()?.flatten().map(|entry| entry.file_name());
        let node = Path::new("/dev").join(names.next()?);
        names.next().is_none().then_some(node)
    }

    /// The UUID of the header that it was opened with.
    #[must_use]
    pub fn header_uuid(&self) -> Option<Uuid> {
        Uuid::try_parse(self.uuid.strip_prefix(UUID)?.split_once('-')?.0).ok()
    }

    /// Whether it is smaller than it can be on a device of `raw` bytes, which has grown.
    #[must_use]
    pub fn is_smaller(&self, raw: u64) -> bool {
        raw.saturating_sub(HEADER_SIZE) / SECTOR * SECTOR > self.size
    }
}

/// The name of the dm-crypt device of the volume with that identifier.
#[must_use]
pub fn layer_name(volume: &str) -> String {
    format!("{NAME}{}", Uuid::new_v5(&NAMESPACE, volume.as_bytes()).simple())
}

/// Whether a device-mapper UUID belongs to the dm-crypt device of the volume with that identifier.
#[must_use]
pub fn is_of(uuid: &str, volume: &str) -> bool {
    name_in(uuid.trim()).is_some_and(|name| name == layer_name(volume))
}

/// The name of one of Quarry's dm-crypt devices in its device-mapper UUID.
fn name_in(uuid: &str) -> Option<&str> {
    let (header, name) = uuid.strip_prefix(UUID)?.split_once('-')?;
    let is_simple = |text: &str| text.len() == 32 && Uuid::try_parse(text).is_ok();
    (is_simple(header) && is_simple(name.strip_prefix(NAME)?)).then_some(name)
}

/// Quarry's dm-crypt device on a pool's device. `None`: it is not open.
#[must_use]
pub fn on(raw: &Path) -> Option<Layer> {
    let holders = format!("/sys/dev/block/{}/holders", Device::of_node(raw)?);
    fs::read_dir(holders).ok()?.flatten().find_map(|holder| layer(&holder.path()))
}

/// The open dm-crypt device with that name. `None`: it does not exist, or has no table.
#[must_use]
pub fn named(name: &str) -> Option<Layer> {
    let devices = fs::read_dir("/sys/block").ok()?.flatten();
    devices.filter_map(|device| layer(&device.path())).find(|layer| layer.name == name)
}

/// One of Quarry's dm-crypt devices, from its folder in sysfs. `None`: the folder is of another device, or of one without
/// a table.
fn layer(folder: &Path) -> Option<Layer> {
    let read = |file: &str| Some(fs::read_to_string(folder.join(file)).ok()?.trim().to_owned());
    let uuid = read("dm/uuid")?;
    let name = name_in(&uuid)?.to_owned();
    let number: Device = read("dev")?.parse().ok()?;
    // The kernel counts in sectors of 512 bytes.
    let size = read("size")?.parse::<u64>().ok()?.saturating_mul(512);
    // The kernel's own node. cryptsetup, or udev, makes another one under /dev/mapper.
    let node = Path::new("/dev").join(number.kernel_name()?);
    (size > 0 && Device::of_node(&node) == Some(number)).then_some(Layer { name, uuid, node, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "v1:abcdefghij:node-1:pvc-1";

    #[test]
    fn the_device_mapper_uuid_shows_the_volume() {
        let (header, name) = (Uuid::from_u128(7), layer_name(ID));
        let uuid = format!("{UUID}{}-{name}", header.simple());
        assert!(is_of(&uuid, ID) && is_of(&format!("{uuid}\n"), ID));
        assert!(!is_of(&uuid, "v1:abcdefghij:node-1:pvc-2"));
        let layer = Layer { name: name.clone(), uuid: uuid.clone(), node: PathBuf::new(), size: 0 };
        assert_eq!(layer.header_uuid(), Some(header));
        // The kernel takes names of up to 127 bytes and UUIDs of up to 128.
        assert!(uuid.len() < 128, "{uuid}");
    }

    #[test]
    fn a_device_that_quarry_did_not_make_is_of_no_volume() {
        let name = layer_name(ID);
        for other in [
            format!("CRYPT-LUKS2-{}-home", Uuid::nil().simple()),
            format!("CRYPT-LUKS1-{}-{name}", Uuid::nil().simple()),
            format!("CRYPT-LUKS2-x-{name}"),
            format!("CRYPT-PLAIN-{name}"),
            "LVM-x".to_owned(),
            String::new(),
        ] {
            assert!(!is_of(&other, ID), "{other}");
        }
    }

    #[test]
    fn the_names_are_frozen() {
        // They are of devices that are in use while Quarry is upgraded.
        assert_eq!(layer_name(ID), "quarry-crypt-7dd112d606c755efaf83a12c1c84cbe6");
        assert_eq!(crate::header_uuid("seed").to_string(), "445668d6-9df6-5cbd-9e5d-d6b72ef8b43f");
    }

    #[test]
    fn a_layer_is_smaller_if_a_whole_sector_is_missing() {
        let layer = Layer { name: String::new(), uuid: String::new(), node: PathBuf::new(), size: 4 << 20 };
        let raw = HEADER_SIZE + (4 << 20);
        assert!(!layer.is_smaller(raw) && !layer.is_smaller(raw + 4095) && !layer.is_smaller(0));
        assert!(layer.is_smaller(raw + 4096));
    }
}
