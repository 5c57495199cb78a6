//! Block devices: their size, the size of their sectors, direct reads, and flushes. It does not depend on what is
//! stored there.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc;

/// The alignment of direct reads, in bytes: enough for any disk.
pub const ALIGNMENT: usize = 4096;

#[allow(unsafe_code, missing_docs)]
mod ioctl {
    use nix::libc;

    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
}

/// The size of an open block device in bytes.
///
/// # Errors
/// It is not a block device.
#[allow(unsafe_code)]
pub fn size(device: &File) -> io::Result<u64> {
    let mut size = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64 to the given address, and the descriptor is open during the call.
    unsafe { ioctl::blkgetsize64(device.as_raw_fd(), &raw mut size) }?;
    Ok(size)
}

/// The size of a logical sector of an open block device in bytes.
///
/// # Errors
/// It is not a block device.
#[allow(unsafe_code)]
pub fn sector_size(device: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int to the given address, and the descriptor is open during the call.
    unsafe { ioctl::blksszget(device.as_raw_fd(), &raw mut size) }?;
    Ok(u32::try_from(size).unwrap_or_default())
}

/// Opens a device for direct reads, and reads from it with `read`. Where direct reads are rejected (EINVAL), drops the
/// cached pages of the device and reads through the page cache.
///
/// A program that writes past the page cache does not update pages that are read into the cache during the write, so a
/// read through the cache can miss the change.
///
/// # Errors
/// The device cannot be opened or read.
pub fn read_direct<T>(device: &Path, read: impl Fn(&File) -> io::Result<T>) -> io::Result<T> {
    match File::options().read(true).custom_flags(libc::O_DIRECT).open(device).and_then(|file| read(&file)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let file = File::open(device)?;
            drop_clean_pages(&file)?;
            read(&file)
        }
        result => result,
    }
}

/// Flushes a device: what any process has written to it is on the device itself afterwards.
///
/// If that fails, drops the cached pages of the device, so that the next read gets what the device has. Linux marks a
/// page as clean although its write failed, and keeps its new contents; and a descriptor that is opened later does not
/// get the error. Then a read would return what the device does not have, and a flush after it would succeed.
///
/// # Errors
/// The device did not take everything.
pub fn flush(device: &File) -> io::Result<()> {
    flush_with(device, File::sync_all)
}

fn flush_with(device: &File, flush: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    flush(device).inspect_err(|_| {
        // If this fails, too, the error of the flush is the one that counts.
        let _ = drop_clean_pages(device);
    })
}

/// Drops the cached pages of a device, from its beginning to its end, except those that are not written yet.
///
/// # Errors
/// The kernel refuses it.
pub fn drop_clean_pages(device: &File) -> io::Result<()> {
    Ok(posix_fadvise(device, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// A buffer in memory as direct reads require it. Its bytes begin at a multiple of [`ALIGNMENT`].
#[derive(Debug)]
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    skip: usize,
}

impl AlignedBuffer {
    /// A buffer of that many bytes, all of them 0.
    #[must_use]
    pub fn new(length: usize) -> Self {
        let bytes = vec![0_u8; length + ALIGNMENT];
        // The buffer is never moved: the vector does not grow.
        let skip = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, skip }
    }

    /// Reads the first `length` bytes of the buffer, which must have as many, and returns them. Offset and length must be
    /// multiples of the device's sector size.
    ///
    /// # Errors
    /// The device cannot be read, or ends before that.
    pub fn read(&mut self, device: &impl FileExt, offset: u64, length: usize) -> io::Result<&[u8]> {
        let aligned = self.bytes.get_mut(self.skip..).and_then(|rest| rest.get_mut(..length));
        let aligned = aligned.ok_or_else(|| io::Error::other("the buffer is shorter than the read"))?;
        device.read_exact_at(aligned, offset)?;
        Ok(aligned)
    }
}

/// Reads `length` bytes into an aligned buffer, as direct reads require. Offset and length must be multiples of the
/// device's sector size.
///
/// # Errors
/// The device cannot be read, or ends before that.
pub fn read_aligned(device: &impl FileExt, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    AlignedBuffer::new(length).read(device, offset, length).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_block_device_has_a_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(size(file.as_file()).is_err());
        assert!(sector_size(file.as_file()).is_err());
    }

    #[test]
    fn reads_are_aligned_in_memory() {
        struct Checked;

        impl FileExt for Checked {
            fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
                assert_eq!((buffer.as_ptr().align_offset(ALIGNMENT), offset), (0, 8192));
                buffer.fill(7);
                Ok(buffer.len())
            }

            fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
                Err(io::ErrorKind::Unsupported.into())
            }
        }

        for length in [512, 4096, 8192, 12_800] {
            assert_eq!(read_aligned(&Checked, 8192, length).unwrap(), vec![7; length]);
        }
    }

    #[test]
    fn a_file_is_read_whether_direct_reads_work_there_or_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [[1; 4096], [2; 4096]].concat()).unwrap();
        let second = read_direct(file.path(), |file| read_aligned(file, 4096, 4096)).unwrap();
        assert_eq!(second, [2; 4096]);
        let beyond = read_direct(file.path(), |file| read_aligned(file, 4096, 8192));
        assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(read_direct(Path::new("/dev/quarry-no-such-disk"), |_| Ok(())).is_err());
    }

    /// How many bytes this thread has read from disks.
    fn read_from_disks() -> u64 {
        let counts = std::fs::read_to_string("/proc/thread-self/io").unwrap();
        counts.lines().find_map(|line| line.strip_prefix("read_bytes: ")?.parse().ok()).unwrap()
    }

    #[test]
    fn after_a_failed_flush_the_device_is_read_again() {
        // Next to this program: the folder for temporary files may be in memory, from which nothing is dropped.
        let program = std::env::current_exe().unwrap();
        let file = tempfile::tempfile_in(program.parent().unwrap()).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        flush(&file).unwrap();
        let read_anew = || {
            let before = read_from_disks();
            let mut bytes = [0; 4096];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, [1; 4096]);
            read_from_disks() > before
        };
        assert!(!read_anew(), "it is cached");
        flush_with(&file, |_| Err(io::Error::other("the write failed"))).unwrap_err();
        assert!(read_anew(), "the cached page is not what the device has");
    }

    #[test]
    fn rejected_direct_reads_are_repeated_through_the_cache() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |file: &File| {
            let flags = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL)?;
            let direct = flags & libc::O_DIRECT != 0;
            if direct { Err(io::Error::from_raw_os_error(libc::EINVAL)) } else { Ok("through the cache") }
        };
        assert_eq!(read_direct(file.path(), read).unwrap(), "through the cache");
    }
}
