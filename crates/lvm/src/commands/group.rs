//! The commands that make a volume group, and that add disks to it.
//!
//! lvm makes a physical volume of a disk with one command, and adds it to a volume group with another one: between them,
//! the disk has a label and belongs to no volume group. So the caller chooses the UUID of the physical volume, and can
//! recognize it if the second command never came.

use std::path::PathBuf;

use super::{check_device, check_tag};
use crate::host::host_settings;
use crate::mutation::Mutation;
use crate::settings::Scope;
use crate::{Error, PvUuid, VolumeGroup, vg_name_fits};

/// The largest size of a metadata area that Quarry chooses: both copies of the metadata of more than 30,000 linear
/// volumes, or of 6,000 mirrored ones.
const LARGEST_AREA: u64 = 32 << 20;
/// A metadata area takes at most this part of its disk.
const PART_OF_DISK: u64 = 256;
/// lvm's own default size.
const SMALLEST_AREA: u64 = 1 << 20;
/// The default size of an extent, up to this size of the first disks.
const EXTENT: u64 = 4 << 20;
const LARGE: u64 = 16 << 40;
/// The largest size of an extent that Quarry chooses.
const LARGEST_EXTENT: u64 = 64 << 20;

/// A disk that becomes a physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPv {
    /// Its device.
    pub device: PathBuf,
    /// The UUID that the physical volume gets.
    pub uuid: PvUuid,
    /// The size of its metadata area in bytes: [`metadata_area`].
    pub metadata_size: u64,
}

/// The size of the metadata area for a disk of that size, in bytes. It cannot be changed later.
#[must_use]
pub fn metadata_area(disk: u64) -> u64 {
    (disk / PART_OF_DISK).clamp(SMALLEST_AREA, LARGEST_AREA) >> 20 << 20
}

/// The size of an extent for a volume group whose first disks have that size together, in bytes. lvm can change it
/// later only in special cases.
#[must_use]
pub fn extent_size(disks: u64) -> u64 {
    (EXTENT * disks.div_ceil(LARGE).max(1).next_power_of_two()).min(LARGEST_EXTENT)
}

/// The devices file of the host, if lvm uses only the disks in it. Then a disk is not used by Quarry: it would have to be
/// added to the file, and the lvm in Quarry's image, which is not the host's, would rewrite the entries of all other disks
/// in its own version of the format.
///
/// # Errors
/// lvm cannot be run, or the file cannot be read.
pub async fn devices_file() -> Result<Option<PathBuf>, Error> {
    Ok(host_settings().await?.file.map(|file| file.path))
}

/// Makes a physical volume of a disk.
///
/// lvm opens the disk exclusively, and probes it once more. It asks before it wipes a signature, and takes the missing
/// answer for a no, so it does not overwrite one. But it does overwrite the label of another physical volume that belongs
/// to no volume group.
///
/// If the command is killed, it leaves nothing, or a label with that UUID that belongs to no volume group.
///
/// # Errors
/// Among others [`Error::InUse`], [`Error::Other`] if there is a signature on the disk, and [`Error::DiskWrite`].
pub async fn create_pv(disk: &NewPv) -> Result<(), Error> {
    let device = check_device(&disk.device)?;
    let host = host_settings().await?;
    // A disk that hangs is not a part of a volume group yet, so no volume group waits for it.
    let subject = device.display().to_string();
    let (devices, filter) = (vec![disk.device.clone()], host.our_filter());
    let scope = Scope { subject, devices, filter, ..Scope::default() };
    pv_command(&scope, disk).arg(device).run().await
}

fn pv_command<'a>(scope: &'a Scope, disk: &NewPv) -> Mutation<'a> {
    // With a given UUID, lvm would neither zero the first sectors, nor work without a backup of older metadata.
    Mutation::of_disks("pvcreate", scope)
        .args(["--uuid", &disk.uuid.to_string(), "--norestorefile", "--zero", "y", "--labelsector", "1"])
        .args(["--metadatatype", "lvm2", "--pvmetadatacopies", "1"])
        .args(["--metadatasize", &format!("{}b", disk.metadata_size)])
}

/// Makes a volume group of physical volumes that belong to none. One metadata commit on each of them.
///
/// # Errors
/// Among others [`Error::AlreadyExists`].
pub async fn create_group(
    name: &str,
    devices: &[PathBuf],
    extent_size: u64,
    tag: &str,
    archives: u32,
) -> Result<(), Error> {
    let host = host_settings().await?;
    let (subject, filter) = (check_group(name)?.to_owned(), host.our_filter());
    let scope = Scope { subject, devices: devices.to_vec(), filter, archives, ..Scope::default() };
    let mut command = Mutation::of_disks("vgcreate", &scope)
        .args(["--physicalextentsize", &format!("{extent_size}b"), "--addtag", check_tag(tag)?])
        .args(["--maxlogicalvolumes", "0", "--maxphysicalvolumes", "0", "--alloc", "normal"])
        .arg(name);
    for device in devices {
        command = command.arg(check_device(device)?);
    }
    command.run().await
}

/// Adds physical volumes that belong to no volume group. One metadata commit.
///
/// # Errors
/// Among others [`Error::MissingPv`].
pub async fn extend_group(group: &VolumeGroup, devices: &[PathBuf]) -> Result<(), Error> {
    let scope = group.scope.with_devices(devices);
    let mut command = Mutation::of_disks("vgextend", &scope).arg(&group.name);
    for device in devices {
        command = command.arg(check_device(device)?);
    }
    command.run().await
}

/// Checks the name of a volume group: one that begins with a hyphen would be an option.
fn check_group(name: &str) -> Result<&str, Error> {
    match vg_name_fits(name) {
        true => Ok(name),
        false => Err(Error::Argument(format!("`{name}` is not a valid name of a volume group"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_disks() {
        let mib = |bytes: u64| bytes >> 20;
        assert_eq!(mib(metadata_area(100 << 20)), 1);
        assert_eq!(mib(metadata_area(1 << 30)), 4);
        assert_eq!(mib(metadata_area((1 << 30) + 12345)), 4);
        assert_eq!(mib(metadata_area(8 << 30)), 32);
        assert_eq!(mib(metadata_area(20 << 40)), 32);
        for (disks, extent) in [(0, 4), (1 << 30, 4), (16 << 40, 4), ((16 << 40) + 1, 8), (60 << 40, 16), (1 << 60, 64)]
        {
            assert_eq!(mib(extent_size(disks)), extent, "{disks}");
        }
    }

    #[test]
    fn a_pv_gets_its_uuid_and_no_signature_is_wiped() {
        let disk = NewPv {
            device: "/dev/vdb".into(),
            uuid: "iCdcNV-Xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT".parse().unwrap(),
            metadata_size: 32 << 20,
        };
        let words = pv_command(&Scope::default(), &disk).arguments().join(" ");
        assert!(words.contains("--uuid iCdcNV-Xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT --norestorefile --zero y"), "{words}");
        assert!(words.contains("--metadatasize 33554432b"), "{words}");
        for word in ["-y", "--yes", "-f", "-ff", "--force"] {
            assert!(!words.split(' ').any(|found| found == word), "{words}");
        }
    }

    #[test]
    fn a_name_is_never_an_option() {
        for name in ["", "-y", "..", "a b", "a/b", &"x".repeat(200)] {
            assert!(check_group(name).is_err(), "{name}");
        }
        assert_eq!(check_group("vg-0.a+b_c").unwrap(), "vg-0.a+b_c");
    }
}
