//! A disk with a write cache that a power cut really loses.
//!
//! QEMU over a plain file loses nothing when it is killed: the host's page cache survives, and a test of
//! "flushed before OK" could not fail. Here the guest's writes stay in this process until the guest flushes
//! them, or until the cache is full and part of it is written out, as a disk would do.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};

/// The cache holds this many bytes before it writes some out by itself: about what a disk's cache holds.
const CAPACITY: usize = 64 << 20;

/// And this many ranges: zeroes occupy none of the capacity.
const RANGES: usize = 1 << 16;

/// A range that was written and not flushed.
#[derive(Clone)]
enum Extent {
    Data(Vec<u8>),
    Zeroes(u64),
}

impl Extent {
    fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Zeroes(length) => *length,
        }
    }

    /// The part from byte `from` up to byte `to`.
    fn part(&self, from: u64, to: u64) -> Self {
        match self {
            Self::Data(bytes) => {
                Self::Data(bytes.get(to_usize(from)..to_usize(to)).map(<[u8]>::to_vec).unwrap_or_default())
            }
            Self::Zeroes(_) => Self::Zeroes(to - from),
        }
    }
}

/// A disk's content: stable data in a sparse file, and unflushed data on top.
pub(crate) struct CachedDisk {
    stable: File,
    size: u64,
    /// By offset; no two overlap.
    unflushed: BTreeMap<u64, Extent>,
    /// Bytes of data, zeroes not counted, in `unflushed`.
    held: usize,
}

impl CachedDisk {
    /// A disk whose stable data is in this file, which is `size` bytes long.
    pub(crate) fn new(stable: File, size: u64) -> Self {
        Self { stable, size, unflushed: BTreeMap::new(), held: 0 }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Gives the disk, which has no unflushed data beyond it, another size. New bytes are zeros.
    pub(crate) fn resize(&mut self, size: u64) -> io::Result<()> {
        self.flush()?;
        self.stable.set_len(size)?;
        self.size = size;
        Ok(())
    }

    /// Reads the last written data, flushed or not.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = self.check(offset, buffer.len() as u64)?;
        self.stable.read_exact_at(buffer, offset)?;
        let first = self.before(offset).unwrap_or(offset);
        for (start, extent) in self.unflushed.range(first..end) {
            let from = offset.max(*start);
            let to = end.min(start + extent.len());
            if from >= to {
                continue;
            }
            let Some(target) = buffer.get_mut(to_usize(from - offset)..to_usize(to - offset)) else { continue };
            match extent {
                Extent::Zeroes(_) => target.fill(0),
                Extent::Data(bytes) => {
                    if let Some(source) = bytes.get(to_usize(from - start)..to_usize(to - start)) {
                        target.copy_from_slice(source);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes into the cache; with `through` onto the stable part.
    pub(crate) fn write(&mut self, offset: u64, bytes: Vec<u8>, through: bool) -> io::Result<()> {
        self.put(offset, Extent::Data(bytes), through)
    }

    /// As [`Self::write`], of zeroes.
    pub(crate) fn zero(&mut self, offset: u64, length: u64, through: bool) -> io::Result<()> {
        self.put(offset, Extent::Zeroes(length), through)
    }

    /// Makes everything stable that was written so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.write_out_first()? {}
        Ok(())
    }

    /// What a power cut does: each unflushed range is lost, unless `survives` says that it had reached the disk.
    pub(crate) fn lose_power(&mut self, mut survives: impl FnMut() -> bool) -> io::Result<()> {
        for (offset, extent) in std::mem::take(&mut self.unflushed) {
            if survives() {
                self.store(offset, &extent)?;
            }
        }
        self.held = 0;
        Ok(())
    }

    fn put(&mut self, offset: u64, extent: Extent, through: bool) -> io::Result<()> {
        let end = self.check(offset, extent.len())?;
        self.cut(offset, end);
        if through {
            return self.store(offset, &extent);
        }
        if offset < end {
            self.insert(offset, extent);
        }
        while (self.held > CAPACITY || self.unflushed.len() > RANGES) && self.write_out_first()? {}
        Ok(())
    }

    /// Drops cached data between two offsets; data beyond them stays.
    fn cut(&mut self, offset: u64, end: u64) {
        let first = self.before(offset).unwrap_or(offset);
        let touched: Vec<u64> = self.unflushed.range(first..end).map(|(start, _)| *start).collect();
        for start in touched {
            let Some(extent) = self.take(start) else { continue };
            let stop = start + extent.len();
            if start < offset {
                self.insert(start, extent.part(0, offset.min(stop) - start));
            }
            if stop > end {
                self.insert(end, extent.part(end - start, stop - start));
            }
        }
    }

    /// Where the range begins that begins before `offset` and may reach beyond it.
    fn before(&self, offset: u64) -> Option<u64> {
        self.unflushed.range(..offset).next_back().map(|(start, _)| *start)
    }

    fn insert(&mut self, offset: u64, extent: Extent) {
        if let Extent::Data(bytes) = &extent {
            self.held += bytes.len();
        }
        self.unflushed.insert(offset, extent);
    }

    fn take(&mut self, offset: u64) -> Option<Extent> {
        let extent = self.unflushed.remove(&offset)?;
        if let Extent::Data(bytes) = &extent {
            self.held -= bytes.len();
        }
        Some(extent)
    }

    fn write_out_first(&mut self) -> io::Result<bool> {
        let Some(offset) = self.unflushed.keys().next().copied() else { return Ok(false) };
        if let Some(extent) = self.take(offset) {
            self.store(offset, &extent)?;
        }
        Ok(true)
    }

    fn store(&self, offset: u64, extent: &Extent) -> io::Result<()> {
        match extent {
            Extent::Data(bytes) => self.stable.write_all_at(bytes, offset),
            Extent::Zeroes(0) => Ok(()),
            Extent::Zeroes(length) => {
                let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&self.stable, hole, offset.cast_signed(), length.cast_signed())?;
                Ok(())
            }
        }
    }

    /// The end of a range that must be on the disk.
    fn check(&self, offset: u64, length: u64) -> io::Result<u64> {
        offset.checked_add(length).filter(|end| *end <= self.size).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{length} bytes at {offset} are not on the disk"))
        })
    }
}

/// Ranges of data are held in memory, so their bounds fit.
fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 4096;

    fn disk() -> CachedDisk {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("quarry-vm-disk-{}-{number}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(SIZE).unwrap();
        CachedDisk::new(file, SIZE)
    }

    fn content(disk: &CachedDisk) -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        disk.read(0, &mut bytes).unwrap();
        bytes
    }

    /// Random numbers without a crate: enough to choose offsets.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn a_power_cut_loses_unflushed_writes_even_over_flushed_ones() {
        let mut disk = disk();
        disk.write(0, vec![1; 512], false).unwrap();
        disk.flush().unwrap();
        disk.write(0, vec![2; 256], false).unwrap();
        disk.zero(256, 256, false).unwrap();
        assert_eq!(content(&disk)[255..257], [2, 0]);
        disk.lose_power(|| false).unwrap();
        assert_eq!(content(&disk)[..513], [[1; 512].as_slice(), &[0]].concat());
    }

    #[test]
    fn data_that_was_written_out_early_survives() {
        let mut disk = disk();
        disk.write(0, vec![1; 8], false).unwrap();
        disk.write(100, vec![2; 8], false).unwrap();
        let mut answers = [true, false].into_iter();
        disk.lose_power(|| answers.next().unwrap()).unwrap();
        assert_eq!((content(&disk)[0], content(&disk)[100]), (1, 0));
    }

    #[test]
    fn a_write_through_is_stable_and_newer_than_cached_data() {
        let mut disk = disk();
        disk.write(0, vec![1; 16], false).unwrap();
        disk.write(4, vec![2; 4], true).unwrap();
        assert_eq!(content(&disk)[..16], [1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
        disk.lose_power(|| false).unwrap();
        assert_eq!(content(&disk)[..9], [0, 0, 0, 0, 2, 2, 2, 2, 0]);
    }

    #[test]
    fn beyond_the_end_is_refused() {
        let mut disk = disk();
        assert!(disk.write(SIZE - 1, vec![0; 2], false).is_err());
        assert!(disk.zero(u64::MAX, 2, false).is_err());
        assert!(disk.read(SIZE, &mut [0]).is_err());
    }

    #[test]
    fn random_writes_read_back_and_only_flushed_ones_survive() {
        for seed in 1..200 {
            let mut random = seed;
            let (mut disk, mut seen) = (disk(), vec![0; SIZE as usize]);
            let mut stable = seen.clone();
            for step in 0..60_u8 {
                let offset = next(&mut random) % SIZE;
                let length = next(&mut random) % (SIZE - offset).min(700);
                let range = offset as usize..(offset + length) as usize;
                match next(&mut random) % 8 {
                    0 => {
                        disk.flush().unwrap();
                        stable.clone_from(&seen);
                    }
                    1 => {
                        disk.zero(offset, length, false).unwrap();
                        seen[range].fill(0);
                    }
                    2 => {
                        disk.write(offset, vec![step; length as usize], true).unwrap();
                        seen[range.clone()].fill(step);
                        stable[range].fill(step);
                    }
                    _ => {
                        disk.write(offset, vec![step; length as usize], false).unwrap();
                        seen[range].fill(step);
                    }
                }
                assert_eq!(content(&disk), seen, "seed {seed}, step {step}");
            }
            disk.lose_power(|| false).unwrap();
            assert_eq!(content(&disk), stable, "seed {seed}");
            assert_eq!(disk.held, 0);
        }
    }
}
