//! The UUID of an xfs is set by xfs_db.
//!
//! xfs_db first clears the log, because the log contains the UUID, too: so the log must have been replayed. Neither
//! the kernel nor xfs_db can continue if that was interrupted (seen with xfsprogs 6.1.0): the log is then empty in
//! parts, or has the new UUID, and the superblock the old one. Only `xfs_repair -L` could, which cannot know that the
//! log was clean.

use std::path::Path;
use std::time::Duration;

use quarry_exec::Command;
use quarry_volume::Filesystem;

use super::{NewUuid, UuidStep, change, edit_nothing, failed, lock, not_copied};
use crate::Error;
use crate::kinds::{self, read_bytes};

pub(crate) const XFS: NewUuid =
    NewUuid { edit_copied: edit_nothing, step, set: |device, uuid| Box::pin(set(device, uuid)) };

/// After this time, xfs_db is overdue: it writes the whole log, up to 2 GiB.
const OVERDUE: Duration = Duration::from_secs(300);

/// The superblock does not show whether the log is clean, so the filesystem is always mounted once. If it is clean,
/// that changes next to nothing. The source has the same UUID, and may be mounted: with `nouuid`, the kernel ignores
/// that.
fn step(device: &Path, uuid: &str) -> Result<UuidStep, Error> {
    let superblock =
        read_bytes(Filesystem::Xfs, device)?.and_then(|bytes| (kinds::of(Filesystem::Xfs).superblock)(&bytes));
    match superblock {
        None => Err(not_copied(Filesystem::Xfs, device, "there is no superblock")),
        Some(superblock) if superblock.in_progress => {
            Err(not_copied(Filesystem::Xfs, device, "its mkfs did not finish"))
        }
        Some(superblock) if superblock.uuid == uuid => Ok(UuidStep::Done),
        Some(_) => Ok(UuidStep::Set { recover_with: Some(&["nouuid"]), repeatable: false }),
    }
}

/// xfs_db also reports success if it rejects a log that was not replayed. The caller compares the UUID.
async fn set(device: &Path, uuid: &str) -> Result<(), Error> {
    let command = Command::mutation("xfs_db").args(["-x", "-c"]).arg(format!("uuid {uuid}")).deadline(OVERDUE);
    let output = change(device, &lock(device).await?, command).await?;
    output.require_success().map(drop).map_err(|source| failed(device, source))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::kinds::tests::sample;

    #[test]
    fn an_xfs_is_mounted_once_before_it_gets_its_uuid() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let step = |uuid: &str| step(file.path(), uuid);
        let (old, new) = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222");
        assert!(matches!(step(new), Err(Error::NotCopied { .. })));
        let mut bytes = sample(Filesystem::Xfs, [0x11; 16]);
        file.as_file().write_all_at(&bytes, 0).unwrap();
        assert_eq!(step(new).unwrap(), UuidStep::Set { recover_with: Some(&["nouuid"]), repeatable: false });
        assert_eq!(step(old).unwrap(), UuidStep::Done);
        bytes[126] = 1;
        file.as_file().write_all_at(&bytes, 0).unwrap();
        assert!(matches!(step(old), Err(Error::NotCopied { .. })));
    }
}
