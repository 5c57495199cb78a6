//! The device that a claim is read from and written to: a block device, or a test double.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::Error;

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
    /// Makes the next read ask the disk itself: what is flushed leaves the page cache.
    ///
    /// # Errors
    /// The kernel refuses it.
    fn drop_cache(&self) -> io::Result<()>;
}

/// An open block device. It must be the whole disk, never a partition: the kernel caches the two separately.
///
/// To write, use the file that [`quarry_filesystem::exclusive`] returns.
#[derive(Debug)]
pub struct BlockDevice<F> {
    file: F,
    path: PathBuf,
    size: u64,
    sector_size: u32,
}

impl<F: Deref<Target = File>> BlockDevice<F> {
    /// Asks the kernel for the size and the sector size of an open device. `path` is for messages.
    ///
    /// # Errors
    /// The file is not a block device.
    pub fn of(file: F, path: &Path) -> Result<Self, Error> {
        let failed = |attempted| move |source| Error::io(attempted, path, source);
        let size = quarry_block::size(&file).map_err(failed("read the size of"))?;
        let sector_size = quarry_block::sector_size(&file).map_err(failed("read the sector size of"))?;
        Ok(Self { file, path: path.to_owned(), size, sector_size })
    }

    /// The open device.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl<F: Deref<Target = File>> Sectors for BlockDevice<F> {
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
        quarry_block::flush(&self.file)
    }

    fn drop_cache(&self) -> io::Result<()> {
        quarry_block::drop_clean_pages(&self.file)
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
