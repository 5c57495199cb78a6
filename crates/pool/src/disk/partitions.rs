//! The kernel's partitions of a claimed disk: adds, finds and removes them, without relying on device names.
//!
//! The kernel reads the table when a disk appears, and udev lets it read the table again after the claim. If
//! neither has happened, or the table at the start of the disk is damaged, the partitions are added
//! explicitly.

use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc;
use quarry_disk::claim::Claim;
use quarry_disk::{Disk, Roots};
use quarry_mount::Entry;
use quarry_volume::{Error, Result};

use super::create::VOLUME_OFFSET;

/// The numbers of the metadata partition and of the volume's partition.
const METADATA: libc::c_int = 1;
const VOLUME: libc::c_int = 2;
/// The unit of sizes in sysfs, whatever the disk's own sectors are.
const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct Request {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    partition: *mut Partition,
}

/// `struct blkpg_partition` of linux/blkpg.h: start and length in bytes. Names are not used.
#[repr(C)]
struct Partition {
    start: libc::c_longlong,
    length: libc::c_longlong,
    number: libc::c_int,
    names: [u8; 128],
}

#[allow(unsafe_code, missing_docs)]
mod ioctl {
    nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), super::Request);
    nix::ioctl_none_bad!(blkflsbuf, nix::request_code_none!(0x12, 97));
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
}

/// See [`crate::could_be_volume`]. A volume is the partition with that number at that offset of its disk.
pub(crate) fn could_be_volume(entry: &Entry) -> bool {
    could_be_volume_in(&Roots::host(), entry)
}

fn could_be_volume_in(roots: &Roots, entry: &Entry) -> bool {
    let Some(name) = entry.device_path().file_name() else { return false };
    let folder = roots.sys.join("class/block").join(name);
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let offset = read("start").and_then(|sectors| sectors.checked_mul(SECTOR));
    (read("partition"), offset) == (u64::try_from(VOLUME).ok(), Some(VOLUME_OFFSET))
}

/// A change of the kernel's partitions.
enum Change {
    /// Adds a partition with these bytes of the disk.
    Add(Range<u64>),
    /// Removes the partition.
    Drop,
    /// Gives the partition, which may be in use, this end. Its start stays.
    Extend(Range<u64>),
}

#[allow(unsafe_code)]
fn change_partition(disk: &File, number: libc::c_int, change: Change) -> Result<(), Errno> {
    let (what, operation, bytes) = match change {
        Change::Add(bytes) => ("add", 1, bytes),
        Change::Drop => ("drop", 2, 0..0),
        Change::Extend(bytes) => ("extend", 3, bytes),
    };
    let signed = |bytes: u64| libc::c_longlong::try_from(bytes).map_err(|_| Errno::EOVERFLOW);
    let (start, length) = (signed(bytes.start)?, signed(bytes.end.saturating_sub(bytes.start))?);
    let mut partition = Partition { start, length, number, names: [0; 128] };
    let size = libc::c_int::try_from(size_of::<Partition>()).map_err(|_| Errno::EOVERFLOW)?;
    let request = Request { operation, flags: 0, length: size, partition: &raw mut partition };
    quarry_fault::point(|| format!("disk:{what} partition {number}:before"));
    // SAFETY: BLKPG reads one `Request` and the `Partition` to which it points; both have the kernel's layout
    // and live until the call returns, and the descriptor is open for as long.
    let asked = unsafe { ioctl::blkpg(disk.as_raw_fd(), &raw const request) };
    quarry_fault::point(|| format!("disk:{what} partition {number}:after"));
    asked.map(drop)
}

/// Adds both partitions of a claim to the kernel. It is not an error if the kernel already has one with that
/// number; [`volume`] checks whether it is the right one.
pub(super) fn add(file: &File, disk: &Disk, claim: &Claim) -> Result<()> {
    let end = claim.offset.saturating_add(claim.length);
    for (number, bytes) in [(METADATA, MIB..claim.offset), (VOLUME, claim.offset..end)] {
        match change_partition(file, number, Change::Add(bytes)) {
            Ok(()) | Err(Errno::EBUSY | Errno::EEXIST) => {}
            Err(errno) => {
                return Err(Error::host(format!(
                    "adding partition {number} of the disk {} to the kernel: {errno}; see the kernel log",
                    disk.name
                )));
            }
        }
    }
    Ok(())
}

/// Gives the volume's partition the length in the claim. It may be mounted or open.
pub(super) fn extend(file: &File, disk: &Disk, claim: &Claim) -> Result<()> {
    let bytes = claim.offset..claim.offset.saturating_add(claim.length);
    change_partition(file, VOLUME, Change::Extend(bytes)).map_err(|errno| {
        Error::host(format!(
            "extending partition {VOLUME} of the disk {} in the kernel to {} bytes: {errno}; see the kernel log, and \
             whether the kernel has other partitions of this disk (lsblk {})",
            disk.name,
            claim.length,
            disk.node.display()
        ))
    })
}

/// Removes both partitions from the kernel; it is not an error if it does not have them.
///
/// # Errors
/// `EBUSY` while one of them is open anywhere.
pub(super) fn drop_both(disk: &File) -> Result<(), Errno> {
    for number in [VOLUME, METADATA] {
        match change_partition(disk, number, Change::Drop) {
            Ok(()) | Err(Errno::ENXIO) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Writes back all dirty pages of the whole disk, and drops its cached pages.
#[allow(unsafe_code)]
pub(super) fn drop_cache(disk: &File) -> Result<(), Errno> {
    // SAFETY: BLKFLSBUF takes no argument, and the descriptor is open.
    unsafe { ioctl::blkflsbuf(disk.as_raw_fd()) }.map(drop)
}

/// Discards these bytes of a device. `false`: it does not support discards.
#[allow(unsafe_code)]
pub(crate) fn discard(disk: &File, bytes: Range<u64>) -> Result<bool, Errno> {
    let (offset, length) = (bytes.start, bytes.end.saturating_sub(bytes.start));
    quarry_fault::point(|| "disk:discard:before".to_owned());
    // SAFETY: BLKDISCARD reads two u64, offset and length, which live until the call returns; the descriptor is open.
    let asked = unsafe { ioctl::blkdiscard(disk.as_raw_fd(), &raw const *&[offset, length]) };
    quarry_fault::point(|| "disk:discard:after".to_owned());
    match asked {
        Ok(_) => Ok(true),
        Err(Errno::EOPNOTSUPP | Errno::ENOTTY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The kernel's partition 2 of a disk.
struct Partition2 {
    node: PathBuf,
    /// The device number, as in sysfs.
    number: String,
    /// Its offset and its length in bytes.
    place: (Option<u64>, Option<u64>),
}

/// The kernel's partition 2 of that disk.
fn partition_2(roots: &Roots, disk: &Disk) -> Option<Partition2> {
    let folder = roots.sys.join("block").join(&disk.name);
    let read = |path: PathBuf| fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
    let number = format!("{}:{}", disk.number.major, disk.number.minor);
    let sequence = read(folder.join("diskseq")).and_then(|text| text.parse().ok());
    if read(folder.join("dev")) != Some(number) || sequence != disk.sequence {
        // The disk is gone, or another disk has its name.
        return None;
    }
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let entry = entries.into_iter().find(|entry| read(entry.path().join("partition")) == Some(VOLUME.to_string()))?;
    let bytes = |name: &str| read(entry.path().join(name))?.parse::<u64>().ok()?.checked_mul(SECTOR);
    Some(Partition2 {
        node: roots.dev.join(entry.file_name().to_string_lossy().replace('!', "/")),
        number: read(entry.path().join("dev"))?,
        place: (bytes("start"), bytes("size")),
    })
}

impl Partition2 {
    /// Whether it is the beginning of the claim's volume.
    fn is_shorter_than(&self, claim: &Claim) -> bool {
        self.place.0 == Some(claim.offset) && self.place.1.is_some_and(|length| length < claim.length)
    }

    fn has_its_node(&self) -> bool {
        fs::metadata(&self.node).is_ok_and(|metadata| {
            let rdev = metadata.rdev();
            metadata.file_type().is_block_device()
                && self.number == format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
        })
    }
}

/// Whether the volume's partition begins at the claim's offset, but is shorter: the volume was expanded since.
pub(super) fn is_short(roots: &Roots, disk: &Disk, claim: &Claim) -> bool {
    partition_2(roots, disk).is_some_and(|partition| partition.is_shorter_than(claim))
}

/// The node of the volume's partition, if the kernel has it with the claim's offset and length, or shorter.
pub(super) fn volume(roots: &Roots, disk: &Disk, claim: &Claim) -> Result<Option<PathBuf>> {
    let Some(partition) = partition_2(roots, disk) else { return Ok(None) };
    if partition.place != (Some(claim.offset), Some(claim.length)) && !partition.is_shorter_than(claim) {
        return Err(Error::host(format!(
            "the kernel's partition {VOLUME} of the disk {0} does not match the disk's claim; make the kernel read \
             the table again (blockdev --rereadpt {0}, or partx --update {0} while it is in use)",
            disk.node.display()
        )));
    }
    if !partition.has_its_node() {
        let node = partition.node.display();
        return Err(Error::host(format!(
            "{node} is not the device node of that partition: is the host's /dev mounted \
                                        there?"
        )));
    }
    Ok(Some(partition.node))
}

/// The node of the partition with the volume's offset, whatever its length is.
pub(super) fn volume_of_damaged(roots: &Roots, disk: &Disk, claim: &Claim) -> Option<PathBuf> {
    let partition = partition_2(roots, disk)?;
    (partition.place.0 == Some(claim.offset) && partition.has_its_node()).then_some(partition.node)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use quarry_disk::claim::{self, Sectors};
    use quarry_disk::find;

    use super::*;

    /// A file as a disk.
    struct Plain(File);

    impl Sectors for Plain {
        fn path(&self) -> &Path {
            Path::new("/dev/plain")
        }

        fn size(&self) -> u64 {
            16 << 20
        }

        fn sector_size(&self) -> u32 {
            512
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
            std::os::unix::fs::FileExt::read_exact_at(&self.0, buffer, offset)
        }

        fn write_all_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
            std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
        }

        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }

        fn drop_cache(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_request_structs_have_the_kernels_layout() {
        assert_eq!((size_of::<Request>(), size_of::<Partition>()), (24, 152));
        assert_eq!(std::mem::offset_of!(Partition, names), 20);
    }

    #[test]
    fn a_partition_counts_only_at_the_claims_offset() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 << 20).unwrap();
        let claim = claim::claim(&Plain(file), "a", b"quarry1/s=new").unwrap();
        let host = tempfile::tempdir().unwrap();
        let root = |name: &str| host.path().join(name);
        let roots = Roots { sys: root("sys"), dev: root("dev"), run: root("run"), proc: root("proc") };
        let write = |path: &str, text: &str| {
            let path = host.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/self/mountinfo", "");
        write("proc/swaps", "");
        for (attribute, text) in [
            ("dev", "8:16"),
            ("diskseq", "7"),
            ("size", "32768"),
            ("ro", "0"),
            ("removable", "0"),
            ("queue/logical_block_size", "512"),
            ("queue/rotational", "0"),
        ] {
            write(&format!("sys/block/sdb/{attribute}"), text);
        }
        let disk = find(&roots).unwrap().disks.remove(0);
        assert_eq!(volume(&roots, &disk, &claim).unwrap(), None, "there is no partition");
        for (partition, number, start, sectors) in [("sdb1", "1", "2048", "2048"), ("sdb2", "2", "4096", "26624")] {
            for (attribute, text) in [("partition", number), ("start", start), ("size", sectors), ("dev", "8:18")] {
                write(&format!("sys/block/sdb/{partition}/{attribute}"), text);
            }
        }
        let error = volume(&roots, &disk, &claim).unwrap_err().message;
        assert!(
            error.contains("sdb2 is not the device node of that partition"),
            "it is there, and /dev has no node: {error}"
        );
        assert!(!is_short(&roots, &disk, &claim));
        write("sys/block/sdb/sdb2/size", "26623");
        assert!(is_short(&roots, &disk, &claim), "the volume was expanded since");
        assert!(volume(&roots, &disk, &claim).unwrap_err().message.contains("sdb2 is not the device node"));
        write("sys/block/sdb/sdb2/size", "26625");
        assert!(!is_short(&roots, &disk, &claim));
        let error = volume(&roots, &disk, &claim).unwrap_err().message;
        assert!(error.contains("partition 2 of the disk"), "it is longer: {error}");
        write("sys/block/sdb/sdb2/size", "26623");
        write("sys/block/sdb/sdb2/start", "4097");
        assert!(!is_short(&roots, &disk, &claim));
        let error = volume(&roots, &disk, &claim).unwrap_err().message;
        assert!(error.contains("partition 2 of the disk"), "{error}");
        write("sys/block/sdb/diskseq", "8");
        assert_eq!(volume(&roots, &disk, &claim).unwrap(), None, "another disk has the name");
    }

    #[test]
    fn only_the_partition_of_a_volume_could_be_one() {
        let host = tempfile::tempdir().unwrap();
        let root = |name: &str| host.path().join(name);
        let roots = Roots { sys: root("sys"), dev: root("dev"), run: root("run"), proc: root("proc") };
        for (name, partition, start) in [
            ("sdb2", Some("2"), "4096"),
            ("sdb1", Some("1"), "2048"),
            ("sdc1", Some("1"), "4096"),
            ("sdc2", Some("2"), "1050624"),
            ("sdd", None, "4096"),
        ] {
            let folder = host.path().join("sys/class/block").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("start"), format!("{start}\n")).unwrap();
            if let Some(number) = partition {
                fs::write(folder.join("partition"), format!("{number}\n")).unwrap();
            }
        }
        let could_be_volume = |line: &str| could_be_volume_in(&roots, &quarry_mount::parse(line.as_bytes())[0]);
        assert!(could_be_volume("36 22 8:18 / /staged rw - ext4 /dev/sdb2 rw"));
        assert!(could_be_volume("36 22 0:45 / /staged rw - btrfs /dev/sdb2 rw"));
        assert!(could_be_volume("37 22 0:5 /sdb2 /published rw - devtmpfs udev rw"));
        for other in ["sdb1", "sdc1", "sdc2", "sdd", "sde2"] {
            assert!(!could_be_volume(&format!("36 22 8:18 / /home rw - ext4 /dev/{other} rw")), "{other}");
            assert!(!could_be_volume(&format!("37 22 0:5 /{other} /published rw - devtmpfs udev rw")), "{other}");
        }
        assert!(!could_be_volume("38 22 0:44 / /run rw - tmpfs tmpfs rw"));
        assert!(!could_be_volume("38 22 0:46 / /share rw - nfs4 host:/ rw"));
    }
}
