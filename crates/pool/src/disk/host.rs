//! The disks of the host that this process runs on.

use std::fs::File;
use std::ops::{Deref, Range};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use quarry_disk::claim::{BlockDevice, Claim, Sectors};
use quarry_disk::{
    Assignment, Disk, ExclusiveOpen, FindError, FoundDisks, HostPaths, Roots, Selector, assign, find,
    try_exclusive_open,
};
use quarry_filesystem::{self as filesystem, Exclusive, Probe};
use quarry_volume::{Error, Reason, Result};

use super::disks::{Disks, Held, Opened};
use super::partitions;
use super::space::Space;

/// How often, and with which pause, a change of the kernel's partitions is retried: udev opens every new partition for
/// a moment, and lets the kernel read the table again when a program closes a disk that it could write to.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// The disks of this host.
pub(super) struct HostDisks {
    roots: Roots,
}

impl HostDisks {
    pub(super) fn new() -> Self {
        Self { roots: Roots::host() }
    }

    /// Rejects a file that is not that disk.
    fn check(&self, file: &File, disk: &Disk) -> Result<()> {
        let failed = |why: String| Error::unavailable(format!("opening the disk {}: {why}; retry", disk.name));
        let rdev = file.metadata().map_err(|error| failed(error.to_string()))?.rdev();
        // This checks that the node still belongs to that disk. The open file could only be an older disk
        // with the same number if the number had belonged to another disk when the file was opened.
        quarry_disk::open(&self.roots, disk).map_err(|error| failed(error.to_string()))?;
        if (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)) != (disk.number.major, disk.number.minor) {
            return Err(failed("its device node now belongs to another device".to_owned()));
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Disks for HostDisks {
    fn find(&self) -> Result<FoundDisks, FindError> {
        find(&self.roots)
    }

    fn assign(&self, pools: &[(String, Selector)], disks: &[Disk]) -> Assignment {
        assign(pools, disks, &HostPaths)
    }

    fn read(&self, disk: &Disk) -> Result<Box<dyn Sectors>> {
        let file = quarry_disk::open(&self.roots, disk).map_err(|error| Error::unavailable(error.to_string()))?;
        Ok(Box::new(opened(Box::new(file), disk)?))
    }

    fn write(&self, disk: &Disk) -> Result<Box<dyn Sectors>> {
        let file = File::options().read(true).write(true).open(&disk.node);
        let file = file.map_err(|error| Error::host(format!("opening the disk {} for writing: {error}", disk.name)))?;
        self.check(&file, disk)?;
        Ok(Box::new(opened(Box::new(file), disk)?))
    }

    fn hold(&self, disk: &Disk) -> Result<Arc<dyn Held>> {
        let held = filesystem::exclusive(&disk.node).map_err(|error| {
            let reason = match &error {
                filesystem::Error::Busy { .. } => Reason::InUse,
                _ => Reason::Host,
            };
            Error::new(reason, error.to_string())
        })?;
        self.check(&held, disk)?;
        Ok(Arc::new(opened(held, disk)?))
    }

    fn try_exclusive_open(&self, disk: &Disk) -> ExclusiveOpen {
        try_exclusive_open(&self.roots, disk)
    }

    async fn probe(&self, disk: &Disk) -> Result<Probe> {
        filesystem::probe(&disk.node).await.map_err(|error| Error::host(error.to_string()))
    }

    fn partition(&self, disk: &Disk, claim: &Claim) -> Result<Option<PathBuf>> {
        partitions::volume(&self.roots, disk, claim)
    }

    fn drop_cache(&self, disk: &Disk) -> Result<()> {
        let file = quarry_disk::open(&self.roots, disk).map_err(|error| Error::unavailable(error.to_string()))?;
        partitions::drop_cache(&file).map_err(|errno| {
            Error::host(format!(
                "dropping the kernel's cached pages of the disk {}: {errno}; see the kernel \
                                 log",
                disk.name
            ))
        })
    }

    fn partition_of_damaged(&self, disk: &Disk, claim: &Claim) -> Option<PathBuf> {
        partitions::volume_of_damaged(&self.roots, disk, claim)
    }

    fn space(&self, disk: &Disk, bytes: Range<u64>) -> Result<Arc<dyn Space>> {
        let file = filesystem::exclusive_range(&disk.node, bytes.clone()).map_err(|error| {
            let reason = match &error {
                filesystem::Error::Busy { .. } => Reason::UnderWay,
                _ => Reason::Host,
            };
            Error::new(reason, error.to_string())
        })?;
        self.check(&file, disk)?;
        Ok(Arc::new(HostSpace { file, path: disk.node.clone(), bytes }))
    }

    fn is_short(&self, disk: &Disk, claim: &Claim) -> bool {
        partitions::is_short(&self.roots, disk, claim)
    }

    fn extend_partition(&self, disk: &Disk, claim: &Claim) -> Result<()> {
        if !self.is_short(disk, claim) {
            return Ok(());
        }
        let file = quarry_disk::open(&self.roots, disk).map_err(|error| Error::unavailable(error.to_string()))?;
        partitions::extend(&file, disk, claim)?;
        if self.is_short(disk, claim) {
            return Err(Error::host(format!(
                "extending the volume's partition of the disk {}: the kernel reported success, but the partition is not \
                 larger; see the kernel log",
                disk.name
            )));
        }
        Ok(())
    }

    fn add_partitions(&self, disk: &Disk, claim: &Claim) -> Result<(PathBuf, Opened)> {
        let file = quarry_disk::open(&self.roots, disk).map_err(|error| Error::unavailable(error.to_string()))?;
        // What fails while the kernel reads the table again, which removes the partitions and adds them, can succeed
        // afterwards.
        retry(|| self.try_add_partitions(&file, disk, claim), |_| true)
    }
}

impl HostDisks {
    /// Adds the partitions of a claim to the kernel, unless it has them, and opens the volume's.
    fn try_add_partitions(&self, file: &File, disk: &Disk, claim: &Claim) -> Result<(PathBuf, Opened)> {
        if self.partition(disk, claim)?.is_none() {
            partitions::add(file, disk, claim)?;
        }
        self.extend_partition(disk, claim)?;
        let node = self.partition(disk, claim)?.ok_or_else(|| {
            Error::host(format!(
                "adding the partitions of the disk {}: the kernel reported success, but has no partitions; see the \
                 kernel log",
                disk.name
            ))
        })?;
        let opened = File::open(&node).map_err(|error| Error::host(format!("opening {}: {error}", node.display())))?;
        Ok((node, Box::new(opened)))
    }
}

/// Repeats a change of the kernel's partitions as long as its failure may pass, at most [`TRIES`] times. Blocks.
fn retry<T, E>(mut change: impl FnMut() -> Result<T, E>, may_pass: impl Fn(&E) -> bool) -> Result<T, E> {
    for _ in 1..TRIES {
        match change() {
            Err(error) if may_pass(&error) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    change()
}

/// An open disk.
fn opened<F: Deref<Target = File>>(file: F, disk: &Disk) -> Result<BlockDevice<F>> {
    BlockDevice::of(file, &disk.node).map_err(|error| Error::host(error.to_string()))
}

/// Bytes of an open disk.
struct HostSpace {
    file: File,
    path: PathBuf,
    bytes: Range<u64>,
}

impl Space for HostSpace {
    fn zero(&self, bytes: Range<u64>) -> Result<()> {
        let of_disk = |at: u64| self.bytes.start.saturating_add(at).min(self.bytes.end);
        filesystem::zero_range(&self.file, of_disk(bytes.start)..of_disk(bytes.end))
            .map_err(|error| Error::host(error.to_string()))
    }

    fn flush(&self) -> Result<()> {
        quarry_block::flush(&self.file).map_err(|error| {
            Error::host(format!("flushing zeros to {}: {error}; see the kernel log", self.path.display()))
        })
    }
}

impl Held for BlockDevice<Exclusive> {
    fn zero(&self, bytes: Range<u64>) -> Result<()> {
        filesystem::zero_range(self.file(), bytes).map_err(|error| Error::host(error.to_string()))
    }

    fn discard(&self, bytes: Range<u64>) -> Result<bool> {
        partitions::discard(self.file(), bytes).map_err(|errno| {
            Error::host(format!("discarding bytes of {}: {errno}; see the kernel log", self.path().display()))
        })
    }

    fn drop_partitions(&self) -> Result<()> {
        let dropped = retry(|| partitions::drop_both(self.file()), |errno| *errno == Errno::EBUSY);
        dropped.map_err(|errno| match errno {
            Errno::EBUSY => Error::new(
                Reason::InUse,
                format!(
                    "removing the partitions of {}: a program has one of them open; end it first",
                    self.path().display()
                ),
            ),
            errno => Error::host(format!("removing the partitions of {}: {errno}", self.path().display())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries a change whose first `failures` attempts fail, and returns the result and the number of attempts.
    fn tried(failures: u32, errno: Errno) -> (Result<u32, Errno>, u32) {
        let mut tries = 0;
        let result = retry(
            || {
                tries += 1;
                if tries > failures { Ok(tries) } else { Err(errno) }
            },
            |errno| *errno == Errno::EBUSY,
        );
        (result, tries)
    }

    #[test]
    fn a_change_is_repeated_while_its_failure_may_pass() {
        assert_eq!(tried(0, Errno::EBUSY), (Ok(1), 1));
        assert_eq!(tried(3, Errno::EBUSY), (Ok(4), 4));
        assert_eq!(tried(TRIES - 1, Errno::EBUSY), (Ok(TRIES), TRIES));
        assert_eq!(tried(TRIES, Errno::EBUSY), (Err(Errno::EBUSY), TRIES));
        assert_eq!(tried(3, Errno::EIO), (Err(Errno::EIO), 1));
    }
}
