//! What a pool asks of the host's disks. Tests put files in their place.

use std::path::PathBuf;
use std::sync::Arc;

use quarry_disk::claim::{Claim, Sectors};
use quarry_disk::{Alone, Assignment, Disk, FindError, FoundDisks, Selector};
use quarry_filesystem::Probe;
use quarry_volume::Result;

/// The host's disks. All but [`Disks::probe`] blocks, and every function that takes a [`Disk`] fails where another disk
/// has its name by now.
#[async_trait::async_trait]
pub(crate) trait Disks: Send + Sync {
    /// Every disk, as the kernel's tables show it.
    fn find(&self) -> Result<FoundDisks, FindError>;

    /// Which of them is whose.
    fn assign(&self, pools: &[(String, Selector)], disks: &[Disk]) -> Assignment;

    /// A disk, to look at.
    fn read(&self, disk: &Disk) -> Result<Box<dyn Sectors>>;

    /// A disk, to change the record on it while its volume may be in use.
    fn write(&self, disk: &Disk) -> Result<Box<dyn Sectors>>;

    /// A disk that nobody else mounts, formats or wipes while the returned value lives.
    ///
    /// # Errors
    /// `InUse` if somebody has it.
    fn hold(&self, disk: &Disk) -> Result<Arc<dyn Held>>;

    /// Whether nobody else has it.
    fn alone(&self, disk: &Disk) -> Alone;

    /// What libblkid finds on it.
    async fn probe(&self, disk: &Disk) -> Result<Probe>;

    /// The node of the volume's partition, if the kernel has made it; asks nobody but the kernel.
    fn partition(&self, disk: &Disk, claim: &Claim) -> Result<Option<PathBuf>>;

    /// The node of the volume's partition of a claim that is damaged: whatever size another program has given it, it is
    /// what is mounted.
    fn partition_as_it_is(&self, disk: &Disk, claim: &Claim) -> Option<PathBuf>;

    /// Has the kernel forget what it has read of the whole disk and has not to write back.
    fn drop_cache(&self, disk: &Disk) -> Result<()>;

    /// Has the kernel make the partitions of a claim, where it has not, and returns the node of the volume's. As long as
    /// the second value lives they stay: else udev, told of a change of the disk, has them made anew under our hands.
    fn add_partitions(&self, disk: &Disk, claim: &Claim) -> Result<(PathBuf, Opened)>;
}

/// Something that is only there to be dropped.
pub(crate) type Opened = Box<dyn Send + Sync>;

/// A disk that is held.
pub(crate) trait Held: Sectors + Send + Sync {
    /// Zeroes so many bytes; not flushed.
    fn zero(&self, offset: u64, length: u64) -> Result<()>;

    /// Tells the disk that so many bytes are not needed any more. `false`: it knows no such thing.
    fn discard(&self, offset: u64, length: u64) -> Result<bool>;

    /// Has the kernel forget the disk's partitions.
    ///
    /// # Errors
    /// `InUse` while somebody has one of them open.
    fn drop_partitions(&self) -> Result<()>;
}

/// [`Sectors`] of any kind, for functions that take one kind.
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
}

/// The same for the look at what is left of partition tables, which only reads.
impl std::os::unix::fs::FileExt for Any<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.read_exact_at(buffer, offset).map(|()| buffer.len())
    }

    fn write_at(&self, _: &[u8], _: u64) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
