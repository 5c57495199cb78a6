//! The operations on the host's disks that a pool needs. Tests replace them with files.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use quarry_disk::claim::{Claim, Sectors};
use quarry_disk::{Assignment, Disk, ExclusiveOpen, FindError, FoundDisks, Selector};
use quarry_filesystem::Probe;
use quarry_volume::Result;

use super::space::Space;

/// The host's disks. Everything but [`Disks::probe`] blocks. Every function that takes a [`Disk`] fails if
/// another disk has its name by now.
#[async_trait::async_trait]
pub(crate) trait Disks: Send + Sync {
    /// Every disk, according to the kernel's tables.
    fn find(&self) -> Result<FoundDisks, FindError>;

    /// Assigns the disks to pools.
    fn assign(&self, pools: &[(String, Selector)], disks: &[Disk]) -> Assignment;

    /// Opens a disk for reading.
    fn read(&self, disk: &Disk) -> Result<Box<dyn Sectors>>;

    /// Opens a disk to change its claim, while its volume may be in use.
    fn write(&self, disk: &Disk) -> Result<Box<dyn Sectors>>;

    /// Holds a disk: nothing else can mount, format or wipe it until the returned value is dropped.
    ///
    /// # Errors
    /// `InUse` if the disk is held by something else.
    fn hold(&self, disk: &Disk) -> Result<Arc<dyn Held>>;

    /// Checks that nothing else holds the disk.
    fn try_exclusive_open(&self, disk: &Disk) -> ExclusiveOpen;

    /// Probes the disk with libblkid.
    async fn probe(&self, disk: &Disk) -> Result<Probe>;

    /// The node of the volume's partition, if the kernel has it. It may be shorter than the claim says. Reads only the
    /// kernel's tables.
    fn partition(&self, disk: &Disk, claim: &Claim) -> Result<Option<PathBuf>>;

    /// The node of the volume's partition if the claim is damaged: it is the one that is mounted, even if
    /// another program has changed its size.
    fn partition_of_damaged(&self, disk: &Disk, claim: &Claim) -> Option<PathBuf>;

    /// Drops the kernel's cached pages of the whole disk, except those that are not written back yet.
    fn drop_cache(&self, disk: &Disk) -> Result<()>;

    /// Opens bytes of a disk that are after its volume, while the volume may be in use.
    ///
    /// # Errors
    /// `UnderWay` if another process still writes zeros there.
    fn space(&self, disk: &Disk, bytes: Range<u64>) -> Result<Arc<dyn Space>>;

    /// Whether the kernel's partition of the volume is shorter than the claim says, because the volume was expanded.
    /// Reads only the kernel's tables.
    fn is_short(&self, disk: &Disk, claim: &Claim) -> bool;

    /// Gives the kernel's partition of an expanded volume the length in the claim. It may be in use. Does nothing if
    /// the partition has that length, or the kernel does not have it.
    fn extend_partition(&self, disk: &Disk, claim: &Claim) -> Result<()>;

    /// Adds the partitions of a claim to the kernel, unless it has them, with the length in the claim, and returns
    /// the node of the volume's partition. The partitions stay until the second value is dropped: otherwise, udev
    /// would have them removed and added again, after a change event of the disk, while they are in use.
    fn add_partitions(&self, disk: &Disk, claim: &Claim) -> Result<(PathBuf, Opened)>;
}

/// A value that is only kept until it is dropped.
pub(crate) type Opened = Box<dyn Send + Sync>;

/// A disk that is held exclusively.
pub(crate) trait Held: Sectors + Send + Sync {
    /// Zeroes these bytes, without a flush.
    fn zero(&self, bytes: Range<u64>) -> Result<()>;

    /// Discards these bytes. `false`: the disk does not support that.
    fn discard(&self, bytes: Range<u64>) -> Result<bool>;

    /// Removes the disk's partitions from the kernel.
    ///
    /// # Errors
    /// `InUse` while one of them is open.
    fn drop_partitions(&self) -> Result<()>;
}

/// Adapts a [`Sectors`] trait object to functions that take a sized type.
pub(crate) struct Any<'a>(pub(crate) &'a dyn Sectors);

impl Sectors for Any<'_> {
    fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn sector_size(&self) -> u32 {
        self.0.sector_size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn flush(&self) -> std::io::Result<()> {
        self.0.flush()
    }

    fn drop_cache(&self) -> std::io::Result<()> {
        self.0.drop_cache()
    }
}

/// The same for the search for remnants of partition tables, which only reads.
impl std::os::unix::fs::FileExt for Any<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.read_exact_at(buffer, offset).map(|()| buffer.len())
    }

    fn write_at(&self, _: &[u8], _: u64) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
