//! The two ends of a copy on this host: block devices.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use quarry_filesystem::{Exclusive, device_size, exclusive, signature_places, zero_range};

use super::{Error, Source, Target};

/// A block device that is only read, past the page cache.
pub(crate) struct DeviceSource {
    path: PathBuf,
    file: File,
    size: u64,
    sector_size: u32,
}

impl DeviceSource {
    /// Opens a device for reading. It may be in use, as a snapshot's origin is, but must not change. Blocks.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let size = device_size(path).map_err(Error::Open)?;
        let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).map_err(|source| {
            Error::Open(quarry_filesystem::Error::Io { attempted: "open", path: path.to_owned(), source })
        })?;
        let sector_size = sector_size(path, &file)?;
        Ok(Self { path: path.to_owned(), file, size, sector_size })
    }
}

impl Source for DeviceSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(bytes, offset).map_err(|source| Error::Read {
            device: self.path.clone(),
            offset,
            source,
        })
    }
}

/// A block device that is held exclusively and written past the page cache. It belongs to the volume that is made.
pub(crate) struct DeviceTarget {
    path: PathBuf,
    held: Exclusive,
    size: u64,
    sector_size: u32,
}

impl DeviceTarget {
    /// Opens a device exclusively: nothing else mounts, formats or wipes it until this is dropped. Blocks.
    ///
    /// # Errors
    /// [`Error::Open`], with `Busy` inside if the device is in use.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let held = exclusive(path).map_err(Error::Open)?;
        let size = device_size(path).map_err(Error::Open)?;
        let failed = |errno: Errno| {
            let (path, source) = (path.to_owned(), io::Error::from(errno));
            Error::Open(quarry_filesystem::Error::Io { attempted: "write directly to", path, source })
        };
        let flags = OFlag::from_bits_retain(fcntl(&*held, FcntlArg::F_GETFL).map_err(failed)?);
        fcntl(&*held, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)).map_err(failed)?;
        let sector_size = sector_size(path, &held)?;
        Ok(Self { path: path.to_owned(), held, size, sector_size })
    }
}

impl Target for DeviceTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        quarry_fault::point(|| "device:copy:before".to_owned());
        let written = self.held.write_all_at(bytes, offset);
        quarry_fault::point(|| "device:copy:after".to_owned());
        written.map_err(|source| Error::Write { device: self.path.clone(), offset, source })
    }

    fn zero(&mut self, bytes: Range<u64>) -> Result<(), Error> {
        zero_range(&self.held, bytes).map_err(Error::Zero)
    }

    fn wipe_signatures(&mut self, from: u64) -> Result<(), Error> {
        let beyond = |place: Range<u64>| place.start.max(from)..place.end;
        signature_places(self.size)
            .into_iter()
            .map(beyond)
            .filter(|place| !place.is_empty())
            .try_for_each(|place| self.zero(place))
    }

    fn flush(&mut self) -> Result<(), Error> {
        if quarry_fault::disabled("copy-flush") {
            return Ok(());
        }
        quarry_fault::point(|| "device:flush:before".to_owned());
        let flushed = self.held.sync_all();
        quarry_fault::point(|| "device:flush:after".to_owned());
        flushed.map_err(|source| Error::Flush { device: self.path.clone(), source })
    }
}

/// The size of the logical sectors of an open device, in bytes.
fn sector_size(path: &Path, device: &File) -> Result<u32, Error> {
    quarry_block::sector_size(device).map_err(|source| {
        let attempted = "determine the sector size of";
        Error::Open(quarry_filesystem::Error::Io { attempted, path: path.to_owned(), source })
    })
}
