//! XFS.

use std::path::Path;
use std::time::Duration;

use quarry_exec::Command;
use quarry_volume::{Filesystem, MakeOptions};

use super::{Kind, Superblock, feature, no_hidden_trouble, uuid_at};
use crate::Error;

pub(super) const KIND: Kind = Kind {
    mkfs: "mkfs.xfs",
    tools: &["mkfs.xfs", "xfs_repair"],
    package: "xfsprogs",
    // The minimum of mkfs.xfs. Measured on a loop device with xfsprogs 6.1.0.
    minimum_size: 300 << 20,
    features: &[
        feature((4, 16), (4, 9), "-m", "reflink=0"),
        feature((4, 16), (4, 9), "-m", "rmapbt=0"),
        feature((5, 10), (5, 10), "-m", "bigtime=0"),
        feature((5, 10), (5, 10), "-m", "inobtcount=0"),
        feature((5, 19), (5, 19), "-i", "nrext64=0"),
        feature((6, 10), (6, 10), "-i", "exchange=0"),
        feature((6, 10), (6, 10), "-n", "parent=0"),
    ],
    prepare,
    superblock_at: 0,
    superblock,
    check_before_adoption: |device| Box::pin(check_with_repair(device)),
    hidden_trouble: no_hidden_trouble,
    #[cfg(test)]
    expected: tests::EXPECTED,
};

/// How long it may take to read the structures of a new filesystem. If it takes longer, the filesystem
/// contains files.
const CHECK_DEADLINE: Duration = Duration::from_secs(30);

fn prepare(uuid: &str, options: &mut MakeOptions) -> Vec<String> {
    options.add_default("-m", &format!("uuid={uuid}"));
    options.add_switch("-K");
    Vec::new()
}

fn superblock(bytes: &[u8]) -> Option<Superblock> {
    (bytes.get(..4)? == b"XFSB").then_some(())?;
    Some(Superblock { uuid: uuid_at(bytes, 32)?, in_progress: *bytes.get(126)? != 0 })
}

/// mkfs.xfs clears the "in progress" mark *before* its only flush (xfsprogs 6.1.0), so the whole filesystem
/// is checked.
async fn check_with_repair(device: &Path) -> Result<(), Error> {
    let failed = |source| Error::Command { attempted: "check", device: device.to_owned(), source };
    let output = Command::query("xfs_repair")
        .arg("-n")
        .arg(device)
        .deadline(CHECK_DEADLINE)
        .on(device.display().to_string())
        .run()
        .await;
    let output = match output {
        // It contains too much to be new: it was in use, so its mkfs had finished.
        Err(quarry_exec::Error::Deadline { .. }) => return Ok(()),
        output => output.map_err(failed)?,
    };
    let damaged = || Error::Damaged { kind: Filesystem::Xfs, device: device.to_owned() };
    match output.code {
        0 => Ok(()),
        // The log contains changes: it was mounted, so its mkfs had finished. With -n, xfs_repair cannot
        // check more, because it does not replay the log.
        1 if output.stderr.contains("valuable metadata changes in a log") => Ok(()),
        1 if output.stderr.contains("contains a mounted") => {
            Err(Error::Busy { attempted: "check", device: device.to_owned() })
        }
        1 => Err(damaged()),
        _ => Err(output.require_success().map_or_else(failed, |_| damaged())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::SUPERBLOCK_LENGTH as LENGTH;
    use crate::kinds::tests::Expected;

    pub(super) const EXPECTED: Expected = Expected {
        superblock: sample,
        arguments: &[("", "-q -m uuid=UUID -K"), ("-K -m reflink=0", "-q -K -m reflink=0,uuid=UUID")],
    };

    fn sample(uuid: [u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[..4].copy_from_slice(b"XFSB");
        bytes[32..48].copy_from_slice(&uuid);
        bytes
    }

    #[test]
    fn an_unfinished_xfs_is_recognized() {
        let mut bytes = sample([0x11; 16]);
        bytes[126] = 1;
        assert!(superblock(&bytes).unwrap().in_progress);
    }
}
