//! Whether a filesystem that an interrupted creation left behind is whole.

use std::path::Path;
use std::time::Duration;

use quarry_exec::Command;
use quarry_volume::Filesystem;

use crate::Error;

/// How long a fresh filesystem's structures may take to read. One that takes longer holds files.
const CHECK_DEADLINE: Duration = Duration::from_secs(30);

/// Checks a filesystem that carries the right UUID, on a volume whose creation was never recorded as finished, before
/// it is adopted. The device must not be mounted. Reads only.
///
/// After a power cut, some of what mkfs wrote without a flush between may be missing. ext4 and btrfs get their
/// signature in a write of its own, with a flush before and after it (seen with strace, and by killing mkfs before each
/// write), so what [`crate::probe`] finds is whole. mkfs.xfs takes the "in progress" mark off *before* its only flush
/// (xfsprogs 6.1.0), so an xfs is read through.
///
/// # Errors
/// [`Error::Damaged`] when parts of it are missing; otherwise the tool's.
pub async fn check_before_adoption(kind: Filesystem, device: &Path) -> Result<(), Error> {
    match kind {
        Filesystem::Ext4 | Filesystem::Btrfs => Ok(()),
        Filesystem::Xfs => check_xfs(device).await,
    }
}

async fn check_xfs(device: &Path) -> Result<(), Error> {
    let failed = |source| Error::Command { attempted: "check", device: device.to_owned(), source };
    let output = Command::query("xfs_repair")
        .arg("-n")
        .arg(device)
        .deadline(CHECK_DEADLINE)
        .on(device.display().to_string())
        .run()
        .await;
    let output = match output {
        // Too much in it to be fresh: it was in use, so its mkfs had ended.
        Err(quarry_exec::Error::Deadline { .. }) => return Ok(()),
        output => output.map_err(failed)?,
    };
    match output.code {
        0 => Ok(()),
        // A log with changes in it: it was mounted, so its mkfs had ended; and -n cannot tell more without replaying.
        1 if output.stderr.contains("valuable metadata changes in a log") => Ok(()),
        1 if output.stderr.contains("contains a mounted") => {
            Err(Error::Busy { attempted: "check", device: device.to_owned() })
        }
        1 => Err(Error::Damaged { kind: Filesystem::Xfs, device: device.to_owned() }),
        _ => Err(output
            .require_success()
            .map_or_else(failed, |_| Error::Damaged { kind: Filesystem::Xfs, device: device.to_owned() })),
    }
}
