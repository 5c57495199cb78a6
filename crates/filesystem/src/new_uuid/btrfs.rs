//! The UUID of a btrfs is changed in its superblocks, without a tool.
//!
//! With the feature METADATA_UUID (since Linux 5.0), the superblocks have a second UUID, the one in all other metadata,
//! and nothing but the superblocks changes. `btrfstune -M` uses the same feature, but not in a way that suits a copy
//! (seen with btrfs-progs 6.2):
//!
//! * It commits transactions without the log tree, which the superblock still names. If the source was not unmounted
//!   cleanly, the copy can then not be mounted ("parent transid verify failed"). And the log tree cannot be replayed
//!   before, because that takes a mount beside a source with the same UUID.
//! * In between, it marks the copy as a part of a change of the *old* UUID. A kernel that scans the device at that
//!   moment relates it to the source. The design of that feature excludes copies.
//!
//! The superblocks are changed while they are copied, or in place. The log tree stays and is replayed by the first
//! mount.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use blake2::Blake2b;
use blake2::digest::consts::U32;
use quarry_volume::Filesystem;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Edited, NewUuid, UuidStep, not_copied};
use crate::kinds::u32_at;
use crate::thread::blocking;
use crate::{Error, exclusive};

pub(crate) const BTRFS: NewUuid = NewUuid { edit_copied, step, set: |device, uuid| Box::pin(set(device, uuid)) };

/// The offsets of the superblocks. Only the first one counts for the kernel; the others are copies for a rescue.
const PLACES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// The length of a superblock in bytes.
const LENGTH: usize = 4096;

// Offsets in a superblock (`struct btrfs_super_block`).
const CHECKED_FROM: usize = 0x20;
const UUID: usize = 0x20;
const OWN_OFFSET: usize = 0x30;
const FLAGS: usize = 0x38;
const MAGIC: usize = 0x40;
const DEVICES: usize = 0x88;
const INCOMPAT: usize = 0xbc;
const CHECKSUM_TYPE: usize = 0xc4;
const METADATA_UUID: usize = 0x23b;

/// The feature METADATA_UUID.
const WITH_METADATA_UUID: u64 = 1 << 10;
/// A seed device, a dump of metadata (two versions), or a change of the UUID by btrfstune that did not finish (two
/// versions).
const UNSUITABLE: u64 = 1 << 32 | 1 << 33 | 1 << 34 | 1 << 35 | 1 << 36;

fn edit_copied(uuid: &[u8; 16], offset: u64, bytes: &mut [u8]) -> Edited {
    let end = offset.saturating_add(bytes.len() as u64);
    for place in PLACES.into_iter().filter(|&place| place < end && offset < place + LENGTH as u64) {
        let inside = place.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
        let superblock = inside.and_then(|at| bytes.get_mut(at..)?.first_chunk_mut());
        match superblock {
            Some(superblock) if place == PLACES[0] => edit(superblock, place, uuid)?,
            // Without a valid copy here, these bytes are something else.
            Some(superblock) if is_valid(superblock, place) => edit(superblock, place, uuid)?,
            Some(_) => {}
            None if place == PLACES[0] => return Err("its superblock was read in two parts"),
            // The device ends here.
            None => {}
        }
    }
    Ok(())
}

/// Changes the UUID in one superblock.
fn edit(superblock: &mut [u8; LENGTH], place: u64, uuid: &[u8; 16]) -> Edited {
    const INCOMPLETE: &str = "its superblock is incomplete";
    if !is_valid(superblock, place) {
        return Err("its superblock is damaged, or not one of a btrfs");
    }
    let number = |at| u64_at(superblock, at).ok_or(INCOMPLETE);
    let incompat = number(INCOMPAT)?;
    if number(DEVICES)? != 1 {
        return Err("it has more than one device");
    }
    if number(FLAGS)? & UNSUITABLE != 0 {
        return Err("it is a seed device or a dump, or a change of its UUID did not finish");
    }
    if incompat & WITH_METADATA_UUID == 0 {
        superblock.copy_within(UUID..UUID + 16, METADATA_UUID);
        put(superblock, INCOMPAT, &(incompat | WITH_METADATA_UUID).to_le_bytes());
    }
    put(superblock, UUID, uuid);
    let checksum = checksum(superblock).ok_or("its checksums are of an unknown type")?;
    put(superblock, 0, &checksum);
    Ok(())
}

fn put(superblock: &mut [u8; LENGTH], at: usize, bytes: &[u8]) {
    superblock.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Whether this is a superblock that belongs at this offset, with a correct checksum.
fn is_valid(superblock: &[u8; LENGTH], place: u64) -> bool {
    superblock.get(MAGIC..MAGIC + 8) == Some(b"_BHRfS_M")
        && u64_at(superblock, OWN_OFFSET) == Some(place)
        && checksum(superblock).is_some_and(|checksum| superblock.starts_with(&checksum))
}

/// The checksum of a superblock, of the type that it names, padded with zeros.
fn checksum(superblock: &[u8; LENGTH]) -> Option<[u8; 32]> {
    let checked = superblock.get(CHECKED_FROM..)?;
    let kind = u32_at(superblock, CHECKSUM_TYPE)? & 0xffff;
    let mut checksum = [0; 32];
    let mut store = |bytes: &[u8]| checksum.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    match kind {
        0 => store(&crc32c::crc32c(checked).to_le_bytes()),
        1 => store(&twox_hash::XxHash64::oneshot(0, checked).to_le_bytes()),
        2 => store(&Sha256::digest(checked)),
        3 => store(&Blake2b::<U32>::digest(checked)),
        _ => return None,
    }
    Some(checksum)
}

/// The first superblock is written last, after a flush, so it decides. If it is damaged (a power cut tore the write),
/// it is made again from one of the others.
fn step(device: &Path, uuid: &str) -> Result<UuidStep, Error> {
    let file = File::open(device).map_err(|source| Error::io("open", device, source))?;
    let superblocks = read_all(&file, device)?;
    match superblocks.first() {
        Some((place, superblock)) if *place == PLACES[0] && has_uuid(superblock, uuid) => Ok(UuidStep::Done),
        Some(_) => Ok(UuidStep::Set { recover_with: None, repeatable: true }),
        None => Err(not_copied(Filesystem::Btrfs, device, "there is no superblock")),
    }
}

fn has_uuid(superblock: &[u8; LENGTH], uuid: &str) -> bool {
    let found = superblock.get(UUID..UUID + 16).and_then(|bytes| Uuid::from_slice(bytes).ok());
    found.is_some_and(|found| found.to_string() == uuid)
}

/// All valid superblocks, with their places.
fn read_all(file: &File, device: &Path) -> Result<Vec<(u64, [u8; LENGTH])>, Error> {
    let mut found = Vec::new();
    for place in PLACES {
        let mut superblock = [0; LENGTH];
        match file.read_exact_at(&mut superblock, place) {
            Ok(()) if is_valid(&superblock, place) => found.push((place, superblock)),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(source) => return Err(Error::io("read the superblocks of", device, source)),
        }
    }
    Ok(found)
}

async fn set(device: &Path, uuid: &str) -> Result<(), Error> {
    let uuid = Uuid::parse_str(uuid).map_err(|_| not_copied(Filesystem::Btrfs, device, "the new UUID is not one"))?;
    blocking(device, move |device| write(device, uuid.as_bytes())).await
}

/// Changes all superblocks in place: the first one last, after the others are flushed. So one of them is complete at
/// any time.
fn write(device: &Path, uuid: &[u8; 16]) -> Result<(), Error> {
    let held = exclusive(device)?;
    let mut superblocks = read_all(&held, device)?;
    if let Some((place, superblock)) = superblocks.first().copied()
        && place != PLACES[0]
    {
        let mut first = superblock;
        put(&mut first, OWN_OFFSET, &PLACES[0].to_le_bytes());
        let checksum = checksum(&first).unwrap_or_default();
        put(&mut first, 0, &checksum);
        superblocks.insert(0, (PLACES[0], first));
    }
    for (place, superblock) in superblocks.iter_mut().rev() {
        edit(superblock, *place, uuid).map_err(|why| not_copied(Filesystem::Btrfs, device, why))?;
        quarry_fault::point(|| "device:uuid:before".to_owned());
        let written = held.write_all_at(superblock, *place).and_then(|()| quarry_block::flush(&held));
        quarry_fault::point(|| "device:uuid:after".to_owned());
        written.map_err(|source| Error::io("write the superblocks of", device, source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: [u8; 16] = [0x11; 16];
    const NEW: [u8; 16] = [0x22; 16];

    /// A superblock with that type of checksum, at that place.
    fn superblock(kind: u8, place: u64) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        put(&mut bytes, UUID, &OLD);
        put(&mut bytes, OWN_OFFSET, &place.to_le_bytes());
        put(&mut bytes, MAGIC, b"_BHRfS_M");
        put(&mut bytes, DEVICES, &1_u64.to_le_bytes());
        put(&mut bytes, INCOMPAT, &0x361_u64.to_le_bytes());
        bytes[CHECKSUM_TYPE] = kind;
        signed(bytes)
    }

    fn signed(mut bytes: [u8; LENGTH]) -> [u8; LENGTH] {
        let checksum = checksum(&bytes).unwrap();
        put(&mut bytes, 0, &checksum);
        bytes
    }

    fn changed(change: impl FnOnce(&mut [u8; LENGTH])) -> [u8; LENGTH] {
        let mut bytes = superblock(0, PLACES[0]);
        change(&mut bytes);
        signed(bytes)
    }

    #[test]
    fn a_superblock_keeps_its_first_uuid_for_all_other_metadata() {
        for kind in 0..4 {
            let mut bytes = superblock(kind, PLACES[0]);
            for uuid in [NEW, [0x33; 16]] {
                edit(&mut bytes, PLACES[0], &uuid).unwrap();
                assert!(is_valid(&bytes, PLACES[0]));
                assert_eq!(bytes[UUID..UUID + 16], uuid);
                assert_eq!(bytes[METADATA_UUID..METADATA_UUID + 16], OLD, "also in the copy of a copy");
                assert_eq!(u64_at(&bytes, INCOMPAT), Some(0x761));
            }
        }
    }

    #[test]
    fn a_superblock_that_does_not_allow_it_is_not_changed() {
        let refused = |mut bytes: [u8; LENGTH]| {
            let before = bytes;
            edit(&mut bytes, PLACES[0], &NEW).unwrap_err();
            assert_eq!(bytes, before);
        };
        refused(superblock(0, PLACES[1]));
        refused(changed(|bytes| bytes[MAGIC] = 0));
        refused(changed(|bytes| bytes[DEVICES] = 2));
        for bit in 32..37 {
            refused(changed(|bytes| put(bytes, FLAGS, &(1_u64 << bit).to_le_bytes())));
        }
        let mut damaged = superblock(0, PLACES[0]);
        damaged[1000] = 1;
        refused(damaged);
        let mut unknown = superblock(0, PLACES[0]);
        unknown[CHECKSUM_TYPE] = 4;
        refused(unknown);
    }

    #[test]
    fn superblocks_are_found_in_what_is_copied() {
        const MIB: u64 = 1 << 20;
        let part = |place: u64, start: u64, superblock: &[u8]| {
            let mut bytes = vec![0xee; 4 << 20];
            let at = usize::try_from(place - start).unwrap();
            bytes[at..at + LENGTH].copy_from_slice(superblock);
            (bytes, at)
        };
        for (place, start) in [(PLACES[0], 0), (PLACES[1], 64 * MIB), (PLACES[2], 256 << 30), (PLACES[1], 63 * MIB)] {
            let (mut bytes, at) = part(place, start, &superblock(0, place));
            edit_copied(&NEW, start, &mut bytes).unwrap();
            assert_eq!(bytes[at + UUID..at + UUID + 16], NEW);
            assert!(bytes[..at].iter().chain(&bytes[at + LENGTH..]).all(|&byte| byte == 0xee));
        }
        // What is not a superblock is a file's, except in the first place.
        for (place, start) in [(PLACES[0], 0), (PLACES[1], 64 * MIB)] {
            let (mut bytes, _) = part(place, start, &superblock(0, 4096));
            let before = bytes.clone();
            assert_eq!(edit_copied(&NEW, start, &mut bytes).is_err(), place == PLACES[0]);
            assert!(bytes == before);
        }
        let mut bytes = vec![0xee; 66 << 10];
        edit_copied(&NEW, 0, &mut bytes).unwrap_err();
        edit_copied(&NEW, 4 * MIB, &mut bytes).unwrap();
        edit_copied(&NEW, 64 * MIB, &mut bytes[..2048]).unwrap();
    }

    #[test]
    fn the_first_superblock_decides() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(65 << 20).unwrap();
        let new = Uuid::from_bytes(NEW).to_string();
        let step = || step(file.path(), &new);
        assert!(matches!(step(), Err(Error::NotCopied { .. })));
        let pending = UuidStep::Set { recover_with: None, repeatable: true };
        for place in [PLACES[0], PLACES[1]] {
            file.as_file().write_all_at(&superblock(0, place), place).unwrap();
            assert_eq!(step().unwrap(), pending);
        }
        write(file.path(), &NEW).unwrap();
        assert_eq!(step().unwrap(), UuidStep::Done);
        for torn in [0, 512, 1024] {
            file.as_file().write_all_at(&[0xee; 512], PLACES[0] + torn).unwrap();
            assert_eq!(step().unwrap(), pending);
            write(file.path(), &NEW).unwrap();
            assert_eq!(step().unwrap(), UuidStep::Done);
        }
        let mut mirror = [0; LENGTH];
        file.as_file().read_exact_at(&mut mirror, PLACES[1]).unwrap();
        assert!(is_valid(&mirror, PLACES[1]) && has_uuid(&mirror, &new));
    }
}
