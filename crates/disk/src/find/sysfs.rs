//! Reads one disk from sysfs, and adds facts from udev and the kernel's tables.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quarry_mount::Device;

use super::names::{self, Links};
use super::serial::{self, Serial};
use super::udev::{self, Facts, Record};
use super::uses::Uses;
use super::{Disk, Error, Roots, Udev, transport};

/// The unit of sizes in sysfs, whatever the disk's own sectors are.
const SECTOR: u64 = 512;

/// The names of all block devices that are not partitions.
pub(super) fn block_devices(roots: &Roots) -> Result<Vec<String>, Error> {
    let path = roots.sys.join("block");
    let entries = fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|source| Error::Table { path, source })?;
    Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// Reads a disk. `None`: it is gone, or cannot hold volumes (a path of an NVMe device that is itself listed,
/// an `nbd` without a connection).
pub(super) fn read(roots: &Roots, name: &str, uses: &Uses, links: &Links) -> Result<Option<Disk>, Error> {
    let folder = Folder { disk: name, path: roots.sys.join("block").join(name) };
    // A read error of a disk that is gone by now does not count.
    let Ok(identity) = folder.identity() else { return Ok(None) };
    let disk = folder.read(roots, identity, uses, links);
    if folder.identity().ok() != Some(identity) {
        return Ok(None);
    }
    disk
}

/// Whether the disk is still there, and no other disk has its name.
pub(super) fn is_same_disk(roots: &Roots, disk: &Disk) -> bool {
    let folder = Folder { disk: &disk.name, path: roots.sys.join("block").join(&disk.name) };
    folder.identity().is_ok_and(|identity| identity == (disk.number, disk.sequence))
}

/// A disk's folder in sysfs.
struct Folder<'a> {
    disk: &'a str,
    path: PathBuf,
}

impl Folder<'_> {
    /// What distinguishes a disk from another one with the same name.
    fn identity(&self) -> Result<(Device, Option<u64>), Error> {
        let text = self.text("dev")?;
        let number = device_number(&text).ok_or_else(|| self.unexpected("dev", text))?;
        Ok((number, self.optional("diskseq").and_then(|text| text.parse().ok())))
    }

    fn read(
        &self,
        roots: &Roots,
        (number, sequence): (Device, Option<u64>),
        uses: &Uses,
        links: &Links,
    ) -> Result<Option<Disk>, Error> {
        let name = self.disk;
        let size = self.number("size")?;
        let size = size.checked_mul(SECTOR).ok_or_else(|| self.unexpected("size", size.to_string()))?;
        let hidden = self.optional("hidden").is_some_and(|text| text != "0");
        if hidden || (size == 0 && name.starts_with("nbd")) {
            return Ok(None);
        }
        let is_virtio = name.starts_with("vd");
        let own = match is_virtio {
            true => self.virtio_serial((number, sequence)),
            false => Serial::Known(self.optional("serial")),
        };
        let is_serial_unknown = own == Serial::Unknown;
        let serial = if let Serial::Known(Some(serial)) = own { Some(serial) } else { self.optional("device/serial") };
        let serial = serial.or_else(|| serial_page(&fs::read(self.path.join("device/vpd_pg80")).ok()?));
        let wwid = self.first(&["wwid", "device/wwid"]);
        let facts = Facts { sequence, serial: serial.clone(), is_serial_unknown, wwid: wwid.clone(), is_virtio };
        let record = udev::read(roots, number, &facts);
        let (mut by_id, mut by_path) = match record {
            Record::Stale(_) => Default::default(),
            Record::None | Record::Awaited | Record::Entry(_) => links.of(name),
        };
        let entry = if let Record::Entry(entry) = &record { Some(entry) } else { None };
        if let Some(entry) = entry {
            by_id.extend(entry.links_in("disk/by-id").map(str::to_owned));
            by_path.extend(entry.links_in("disk/by-path").map(str::to_owned));
        }
        let property = |key| entry.and_then(|entry| entry.property(key)).map(str::to_owned);
        let partitions = self.partitions();
        let mut devices = vec![(name.to_owned(), number)];
        devices.extend(partitions.iter().map(|part| (part.name.clone(), part.number)));
        let mut holders = self.names_in("holders");
        holders.extend(partitions.iter().flat_map(|part| self.names_in(&format!("{}/holders", part.name))));
        holders.sort_unstable();
        holders.dedup();
        let logical_sector = self.number("queue/logical_block_size")?;
        Ok(Some(Disk {
            name: name.to_owned(),
            node: roots.dev.join(names::node_spelling(name)),
            number,
            sequence,
            model: entry
                .and_then(|entry| entry.encoded("ID_MODEL_ENC"))
                .or_else(|| self.first(&["device/model", "device/name"]))
                .or_else(|| property("ID_MODEL")),
            serial: serial
                .or_else(|| property("ID_SCSI_SERIAL"))
                .or_else(|| property("ID_SERIAL_SHORT"))
                .or_else(|| property("ID_SERIAL")),
            wwn: wwid.or_else(|| property("ID_WWN_WITH_EXTENSION")).or_else(|| property("ID_WWN")),
            by_id: by_id.into_iter().collect(),
            by_path: by_path.into_iter().collect(),
            size,
            logical_sector,
            physical_sector: self
                .optional("queue/physical_block_size")
                .and_then(|text| text.parse().ok())
                .unwrap_or(logical_sector),
            rotational: self.flag("queue/rotational")?,
            transport: transport::of(&self.sysfs_path(roots), &self.path, property("ID_BUS").as_deref()),
            read_only: self.flag("ro")?,
            removable: self.flag("removable")?,
            zoned: self.optional("queue/zoned").is_some_and(|text| text == "host-managed"),
            multipath: property("DM_MULTIPATH_DEVICE_PATH").is_some_and(|text| text != "0"),
            udev: match &record {
                Record::Entry(_) => Udev::Current,
                Record::None => Udev::Missing,
                Record::Awaited => Udev::Awaited,
                Record::Stale(why) => Udev::Stale { why: why.clone() },
            },
            holders,
            uses: devices.iter().flat_map(|(name, number)| uses.of(name, *number)).collect(),
            partitions: partitions.into_iter().map(|part| part.name).collect(),
            same_as: Vec::new(),
        }))
    }

    /// The serial number of a virtio disk. The kernel asks the disk for it.
    fn virtio_serial(&self, identity: (Device, Option<u64>)) -> Serial {
        let path = self.path.join("serial");
        let read = |path: &Path| match fs::read(path) {
            Ok(bytes) => Ok(clean(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error),
        };
        serial::serials().of(&path, identity, read)
    }

    /// The folder's real path, relative to the root of sysfs: the controllers between the host and the disk.
    fn sysfs_path(&self, roots: &Roots) -> PathBuf {
        let sysfs_path = fs::canonicalize(&self.path).ok().zip(fs::canonicalize(&roots.sys).ok());
        sysfs_path.and_then(|(real, sys)| Some(real.strip_prefix(sys).ok()?.to_owned())).unwrap_or_default()
    }

    /// The partitions, by their number.
    fn partitions(&self) -> Vec<Partition> {
        let mut partitions: Vec<Partition> = self
            .names_in("")
            .into_iter()
            .filter_map(|name| {
                let index = self.optional(&format!("{name}/partition"))?.parse().ok()?;
                let number = device_number(&self.optional(&format!("{name}/dev"))?)?;
                Some(Partition { index, name, number })
            })
            .collect();
        partitions.sort_unstable_by_key(|partition| partition.index);
        partitions
    }

    fn names_in(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path.join(folder)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// The first of these attributes that is not empty.
    fn first(&self, attributes: &[&str]) -> Option<String> {
        attributes.iter().find_map(|attribute| self.optional(attribute))
    }

    fn optional(&self, attribute: &str) -> Option<String> {
        self.text(attribute).ok().filter(|text| !text.is_empty())
    }

    fn text(&self, attribute: &str) -> Result<String, Error> {
        let path = self.path.join(attribute);
        match fs::read(&path) {
            Ok(bytes) => Ok(clean(&bytes)),
            Err(source) => Err(Error::Attribute { disk: self.disk.to_owned(), path, source }),
        }
    }

    fn number(&self, attribute: &str) -> Result<u64, Error> {
        let text = self.text(attribute)?;
        text.parse().map_err(|_| self.unexpected(attribute, text))
    }

    fn flag(&self, attribute: &str) -> Result<bool, Error> {
        match self.number(attribute)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.unexpected(attribute, other.to_string())),
        }
    }

    fn unexpected(&self, attribute: &str, text: String) -> Error {
        Error::Unexpected { disk: self.disk.to_owned(), path: self.path.join(attribute), text }
    }
}

struct Partition {
    index: u32,
    name: String,
    number: Device,
}

fn device_number(text: &str) -> Option<Device> {
    let (major, minor) = text.split_once(':')?;
    Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// The serial number in a disk's "vital product data, page 80": it has a header of four bytes, of which the
/// last two are the length, in big-endian order.
fn serial_page(page: &[u8]) -> Option<String> {
    let (head, rest) = page.split_at_checked(4)?;
    let [_, 0x80, high, low] = *head else { return None };
    let serial = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
    Some(clean(serial)).filter(|serial| !serial.is_empty())
}

/// Cleans text that disks report: it is padded with spaces or NULs, and not always valid UTF-8.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_serial_page_is_read() {
        assert_eq!(serial_page(b"\0\x80\0\x08  ABC123").unwrap(), "ABC123");
        assert_eq!(serial_page(b"\0\x80\0\x04ABC123").unwrap(), "ABC1", "not beyond the stated length");
        for broken in [&b""[..], b"\0\x80\0", b"\0\x83\0\x04ABCD", b"\0\x80\0\x05ABCD", b"\0\x80\0\x02  "] {
            assert_eq!(serial_page(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn device_numbers_are_parsed() {
        assert_eq!(device_number("259:3"), Some(Device { major: 259, minor: 3 }));
        for broken in ["", "8", "8:", ":1", "8:1:2", "a:1"] {
            assert_eq!(device_number(broken), None, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_pages_do_not_panic(page in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = serial_page(&page);
            let _ = clean(&page);
        }

        #[test]
        fn arbitrary_device_numbers_do_not_panic(text in "\\PC{0,20}") {
            let _ = device_number(&text);
        }
    }
}
