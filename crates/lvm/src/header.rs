//! Physical volumes, accessed without lvm: detects lvm's changes, and makes them durable.

use std::fs::File;
use std::io;
use std::path::Path;

use quarry_block::{ALIGNMENT, read_aligned, read_direct};

use crate::PvUuid;
use crate::label::{Label, label_sector, metadata_areas, pv_uuid, read_label};

/// The label is in one of the first four sectors. The first metadata area begins at 4096, or at the page size
/// if that is larger. A commit changes the area's header: offset, length and checksum of the newest metadata.
pub(crate) const BEGINNING: usize = 8192;

/// Hashes the label of a physical volume and the headers of its metadata areas: another value means that the
/// volume group has changed. Usually one read of 8 KiB, and no lvm process.
///
/// lvm writes with O_DIRECT, bypassing the page cache, so this bypasses it, too: see [`read_direct`].
///
/// # Errors
/// The device cannot be opened or read.
pub fn metadata_fingerprint(device: &Path) -> io::Result<[u8; 32]> {
    read_direct(device, fingerprint)
}

pub(crate) fn fingerprint(file: &File) -> io::Result<[u8; 32]> {
    let beginning = read_aligned(file, 0, BEGINNING)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&beginning);
    for (offset, _length) in metadata_areas(&beginning) {
        let start = offset - offset % to_u64(ALIGNMENT);
        if start >= to_u64(BEGINNING) {
            hasher.update(&read_aligned(file, start, ALIGNMENT)?);
        }
    }
    Ok(hasher.finalize().into())
}

fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Flushes the cache of a disk that holds metadata of a volume group. lvm commits with direct writes, which
/// reach the disk, but may stay in its volatile cache: without this flush, a power cut may undo a change that
/// was already reported as done. Blocks as long as the disk does not answer.
///
/// # Errors
/// The disk cannot be opened or flushed.
pub fn flush(device: &Path) -> io::Result<()> {
    quarry_fault::point(|| "lvm:flush:before".to_owned());
    let flushed = File::open(device).and_then(|file| file.sync_all());
    quarry_fault::point(|| "lvm:flush:after".to_owned());
    flushed
}

/// The UUID in the label of a physical volume. `None` if the device has no label. Reads only the first
/// sectors. Blocks as long as the disk does not answer.
///
/// # Errors
/// The device cannot be opened or read.
pub fn label_uuid(device: &Path) -> io::Result<Option<PvUuid>> {
    let beginning = read_direct(device, |file| read_aligned(file, 0, ALIGNMENT))?;
    Ok(label_sector(&beginning).and_then(pv_uuid))
}

/// The label of a physical volume, with the volume group in its own metadata. `None` if the device has no label. Blocks
/// as long as the disk does not answer.
///
/// # Errors
/// The device cannot be opened or read.
pub fn label(device: &Path) -> io::Result<Option<Label>> {
    read_direct(device, read_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::testing::{disk, label};

    #[test]
    fn a_header_change_changes_the_fingerprint() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let mut elsewhere = label();
        elsewhere[32 + 72..32 + 80].copy_from_slice(&65536_u64.to_le_bytes());
        for (label, header, unrelated) in [(label(), 4096, 65536), (elsewhere, 65536, 32768)] {
            let fingerprint = |disk: &[u8]| {
                std::fs::write(file.path(), disk).expect("write");
                metadata_fingerprint(file.path()).expect("read")
            };
            let mut disk = disk(&label);
            let before = fingerprint(&disk);
            disk[unrelated + 100] ^= 1;
            assert_eq!(fingerprint(&disk), before, "the metadata itself is not read");
            disk[header + 100] ^= 1;
            let changed = fingerprint(&disk);
            assert_ne!(changed, before);
            // In the UUID.
            disk[550] ^= 1;
            assert_ne!(fingerprint(&disk), changed, "the label counts");
        }
    }

    #[test]
    fn an_unreadable_device_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), [0; 100]).expect("write");
        assert!(metadata_fingerprint(file.path()).is_err(), "too short");
        assert!(metadata_fingerprint(Path::new("/dev/quarry-no-such-disk")).is_err());
    }

    #[test]
    fn the_uuid_is_read_from_the_label() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let read = |disk: &[u8]| {
            std::fs::write(file.path(), disk).expect("write");
            label_uuid(file.path()).expect("read")
        };
        assert_eq!(read(&disk(&label())), "iCdcNV-Xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT".parse().ok());
        assert_eq!(read(&[0; 8192]), None);
        let mut wild = label();
        wild[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read(&disk(&wild)), None);
        let mut binary = label();
        binary[40] = 0xff;
        assert_eq!(read(&disk(&binary)), None);
        std::fs::write(file.path(), [0; 100]).expect("write");
        assert!(label_uuid(file.path()).is_err(), "too short");
    }

    #[test]
    fn flushing_a_missing_device_fails() {
        let file = tempfile::NamedTempFile::new().expect("file");
        flush(file.path()).expect("flushed");
        assert!(flush(Path::new("/dev/quarry-no-such-disk")).is_err());
    }
}
