//! An open disk made of a file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};
use quarry_disk::claim::Sectors;
use quarry_volume::{Error, Reason, Result};

use super::Host;
use crate::disk::disks::Held;
use crate::disk::space::Space;

/// Bytes after a volume.
pub(super) struct Cleaning {
    pub(super) handle: Handle,
    pub(super) bytes: Range<u64>,
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        self.handle.host.with(self.handle.number, |slot| slot.cleaning = false);
    }
}

impl Space for Cleaning {
    fn zero(&self, bytes: Range<u64>) -> Result<()> {
        let (from, to) = (self.bytes.start + bytes.start, self.bytes.start + bytes.end);
        assert!(to <= self.bytes.end);
        let failed = self.handle.host.operation();
        // The operation had begun.
        self.handle.punch(from, if failed.is_err() { (to - from) / 2 } else { to - from });
        failed
    }

    fn flush(&self) -> Result<()> {
        self.handle.flush().map_err(|error| Error::host(error.to_string()))
    }
}

/// An open disk.
pub(super) struct Handle {
    pub(super) host: Host,
    pub(super) number: u64,
    pub(super) file: Arc<File>,
    pub(super) size: u64,
    pub(super) holds: bool,
    pub(super) path: PathBuf,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.holds {
            self.host.set_held(self.number, false);
        }
    }
}

impl Handle {
    fn worn(&self) -> io::Result<()> {
        match self.host.with(self.number, |slot| (slot.unwritable, slot.pulled)) {
            (true, _) => Err(io::Error::other("the disk is worn")),
            (_, true) => Err(io::Error::other("the disk is gone")),
            _ => Ok(()),
        }
    }

    /// Punches a hole, which reads as zeros, so that large disks can be wiped.
    fn punch(&self, offset: u64, length: u64) {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&*self.file, hole, offset as i64, length.max(1) as i64).unwrap();
    }
}

impl Sectors for Handle {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.host.with(self.number, |slot| slot.unreadable || slot.pulled) {
            return Err(io::Error::other("a bad sector"));
        }
        if let Some(after) = self.host.with(self.number, |slot| slot.fails_after) {
            std::thread::sleep(after);
            return Err(io::Error::other("a bad sector"));
        }
        let work = self.host.state().before_read.take_if(|(number, at, _)| (*number, *at) == (self.number, offset));
        if let Some((.., work)) = work {
            work(&self.host);
        }
        self.host.with(self.number, |slot| slot.read(buffer, offset))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        while self.host.with(self.number, |slot| {
            slot.waiting |= slot.stuck;
            slot.stuck
        }) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.worn()?;
        if let Err(error) = self.host.spend() {
            // The write had begun.
            self.file.write_all_at(&bytes[..bytes.len() / 1024 * 512], offset)?;
            return Err(error);
        }
        self.file.write_all_at(bytes, offset)?;
        let work = self.host.state().after_write.take_if(|(number, at, _)| (*number, *at) == (self.number, offset));
        if let Some((.., work)) = work {
            work(&self.host);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        match self.host.with(self.number, |slot| slot.pulled) {
            true => Err(io::Error::other("the disk is gone")),
            false => self.host.spend(),
        }
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.host.with(self.number, |slot| {
            if !slot.keeps_cache {
                slot.cached.clear()
            }
        });
        Ok(())
    }
}

impl Held for Handle {
    fn zero(&self, bytes: Range<u64>) -> Result<()> {
        assert!(self.holds);
        let work = self.host.state().before_zero.take();
        if let Some(work) = work {
            work(&self.host);
        }
        self.worn().map_err(|error| Error::host(error.to_string()))?;
        self.host.state().zeroed += 1;
        let failed = self.host.operation();
        // The operation had begun.
        let length = bytes.end - bytes.start;
        self.punch(bytes.start, if failed.is_err() { length / 2 } else { length });
        failed
    }

    fn discard(&self, bytes: Range<u64>) -> Result<bool> {
        self.host.operation()?;
        let discards = self.host.with(self.number, |slot| slot.discards);
        if discards {
            self.punch(bytes.start, bytes.end - bytes.start);
        }
        Ok(discards)
    }

    fn drop_partitions(&self) -> Result<()> {
        assert!(self.holds);
        self.host.operation()?;
        self.host.with(self.number, |slot| {
            if slot.opened > 0 {
                return Err(Error::new(Reason::InUse, "a partition is open"));
            }
            slot.partitions = false;
            Ok(())
        })
    }
}
