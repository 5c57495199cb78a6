//! The UUID of an ext4 is set by tune2fs.
//!
//! With metadata_csum, all checksums depend on the UUID, unless the feature metadata_csum_seed keeps their seed in the
//! superblock. For a filesystem without it, tune2fs would write all metadata again, and demands a complete check
//! before. Instead it turns the feature on, which only changes the superblock, and sets the UUID then. Every supported
//! kernel knows the feature (since Linux 4.4).

use std::path::Path;
use std::time::Duration;

use quarry_exec::Command;
use quarry_volume::Filesystem;

use super::{NewUuid, UuidStep, change, edit_nothing, failed, lock, not_copied};
use crate::Error;
use crate::kinds::{self, read_bytes, u32_at};

pub(crate) const EXT4: NewUuid =
    NewUuid { edit_copied: edit_nothing, step, set: |device, uuid| Box::pin(set(device, uuid)) };

/// A complete check reads all metadata.
const CHECK_OVERDUE: Duration = Duration::from_secs(3600);

/// The features of which the new UUID depends.
struct Features {
    needs_recovery: bool,
    checksums: bool,
    attributes_in_inodes: bool,
}

fn features(bytes: &[u8]) -> Option<Features> {
    const RECOVER: u32 = 0x4;
    const EA_INODE: u32 = 0x400;
    const METADATA_CSUM: u32 = 0x400;
    let (incompat, ro_compat) = (u32_at(bytes, 0x60)?, u32_at(bytes, 0x64)?);
    Some(Features {
        needs_recovery: incompat & RECOVER != 0,
        checksums: ro_compat & METADATA_CSUM != 0,
        attributes_in_inodes: incompat & EA_INODE != 0,
    })
}

fn read(device: &Path) -> Result<(String, Features), Error> {
    let bytes = read_bytes(Filesystem::Ext4, device)?;
    let found = bytes.and_then(|bytes| {
        let superblock = (kinds::of(Filesystem::Ext4).superblock)(&bytes)?;
        Some((superblock.uuid, features(&bytes)?))
    });
    found.ok_or_else(|| not_copied(Filesystem::Ext4, device, "there is no superblock"))
}

/// tune2fs writes the changed fields of the superblock one after another, so a kill between two of them can leave a
/// new UUID with an old checksum: it cannot be repeated.
fn step(device: &Path, uuid: &str) -> Result<UuidStep, Error> {
    let (found, features) = read(device)?;
    Ok(match features.needs_recovery {
        // The journal can contain the superblock with the old UUID.
        true => UuidStep::Set { recover_with: Some(&[]), repeatable: false },
        false if found == uuid => UuidStep::Done,
        false => UuidStep::Set { recover_with: None, repeatable: false },
    })
}

async fn set(device: &Path, uuid: &str) -> Result<(), Error> {
    let (_, features) = crate::thread::blocking(device, read).await?;
    if features.needs_recovery {
        return Err(not_copied(Filesystem::Ext4, device, "its journal was not replayed"));
    }
    let lock = lock(device).await?;
    let mut tune2fs = Command::mutation("tune2fs");
    if features.checksums {
        tune2fs = tune2fs.args(["-O", "metadata_csum_seed"]);
    } else if features.attributes_in_inodes {
        // Without metadata_csum, there is no seed. tune2fs writes all extended attributes again, and demands a check.
        let check = Command::mutation("e2fsck").args(["-f", "-p"]).deadline(CHECK_OVERDUE);
        let output = change(device, &lock, check).await?;
        // 1: errors were corrected.
        if output.code != 1 {
            output.require_success().map_err(|source| failed(device, source))?;
        }
        tune2fs = tune2fs.deadline(CHECK_OVERDUE);
    }
    let output = change(device, &lock, tune2fs.args(["-U", uuid])).await?;
    output.require_success().map(drop).map_err(|source| failed(device, source))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::kinds::tests::sample;

    #[test]
    fn the_superblock_of_an_ext4_says_what_is_to_be_done() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let step = |uuid: &str| step(file.path(), uuid);
        let (old, new) = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222");
        assert!(matches!(step(new), Err(Error::NotCopied { .. })));
        let mut bytes = sample(Filesystem::Ext4, [0x11; 16]);
        file.as_file().write_all_at(&bytes, 1024).unwrap();
        assert_eq!(step(new).unwrap(), UuidStep::Set { recover_with: None, repeatable: false });
        assert_eq!(step(old).unwrap(), UuidStep::Done);
        bytes[0x60] |= 0x4;
        file.as_file().write_all_at(&bytes, 1024).unwrap();
        for uuid in [old, new] {
            assert_eq!(step(uuid).unwrap(), UuidStep::Set { recover_with: Some(&[]), repeatable: false });
        }
    }
}
