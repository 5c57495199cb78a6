//! The device that a claim is read from and written to: a block device, or a test double.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::libc;

use super::Error;

#[allow(unsafe_code, missing_docs)]
mod ioctl {
    use nix::libc;

    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
}

/// A disk as a sequence of sectors. All offsets and lengths are in bytes; writes cover whole sectors.
pub trait Sectors {
    /// The path of the device, which is the disk's name in messages.
    fn path(&self) -> &Path;
    /// The disk's size in bytes.
    fn size(&self) -> u64;
    /// The size of a logical sector in bytes.
    fn sector_size(&self) -> u32;
    /// Fills the buffer from the disk.
    ///
    /// # Errors
    /// An I/O error of the device.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes whole sectors. They may be lost in a power cut until [`Self::flush`] has returned.
    ///
    /// # Errors
    /// An I/O error of the device.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Flushes everything written so far, by any process, to the disk itself.
    ///
    /// # Errors
    /// An I/O error of the device.
    fn flush(&self) -> io::Result<()>;
}

/// An open block device. It must be the whole disk, never a partition: the kernel caches the two separately.
///
/// To write, use the file that [`quarry_filesystem::exclusive`] returns.
#[derive(Debug)]
pub struct BlockDevice<'a> {
    file: &'a File,
    path: PathBuf,
    size: u64,
    sector_size: u32,
}

impl<'a> BlockDevice<'a> {
    /// Asks the kernel for the size and the sector size of an open device. `path` is for messages.
    ///
    /// # Errors
    /// The file is not a block device.
    #[allow(unsafe_code)]
    pub fn of(file: &'a File, path: &Path) -> Result<Self, Error> {
        let failed = |attempted| move |errno: nix::Error| Error::io(attempted, path, errno.into());
        let mut size = 0_u64;
        // SAFETY: BLKGETSIZE64 writes one u64 to the given address, and the descriptor is open during the
        // call.
        unsafe { ioctl::blkgetsize64(file.as_raw_fd(), &raw mut size) }.map_err(failed("read the size of"))?;
        let mut sector_size: libc::c_int = 0;
        // SAFETY: BLKSSZGET writes one int to the given address, and the descriptor is open during the call.
        unsafe { ioctl::blksszget(file.as_raw_fd(), &raw mut sector_size) }
            .map_err(failed("read the sector size of"))?;
        let sector_size = u32::try_from(sector_size).unwrap_or_default();
        Ok(Self { file, path: path.to_owned(), size, sector_size })
    }
}

impl Sectors for BlockDevice<'_> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_is_rejected() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = BlockDevice::of(file.as_file(), file.path()).unwrap_err();
        assert!(error.to_string().contains("read the size of"), "{error}");
    }
}
