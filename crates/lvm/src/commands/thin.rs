//! The commands for thin pools and their volumes.

use quarry_volume::Extents;

use super::{check_name, check_tag, select, target};
use crate::mutation::Mutation;
use crate::{Error, LogicalVolume, VolumeGroup};

/// A thin volume to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateThin<'a> {
    /// The thin pool.
    pub pool: &'a LogicalVolume,
    /// The name, as returned by [`quarry_volume::safe_name`].
    pub name: &'a str,
    /// Its size.
    pub extents: Extents,
    /// Set by the same command.
    pub tag: &'a str,
}

/// Creates a thin volume, which reads as zeros, and leaves it active.
///
/// The volume is in the metadata of the volume group first, and in that of the pool a moment later. If the command is
/// killed in between, the next command that needs the pool completes it. So it leaves the volume or nothing.
///
/// # Errors
/// Among others [`Error::AlreadyExists`], and [`Error::NoSpace`] if the pool is full.
pub async fn create_thin(group: &VolumeGroup, request: &CreateThin<'_>) -> Result<(), Error> {
    create_command(group, request)?.run().await
}

fn create_command<'a>(group: &'a VolumeGroup, request: &CreateThin<'_>) -> Result<Mutation<'a>, Error> {
    let CreateThin { pool, name, extents, tag } = request;
    check_name(group, name)?;
    check_name(group, &pool.name)?;
    let size = format!("{}b", group.extent_size.bytes(*extents));
    let command = Mutation::new("lvcreate", group).args(["-y", "--type", "thin", "--thinpool", &pool.name]);
    let command = command.args(["--virtualsize", &size, "--name", name, "--addtag", check_tag(tag)?]);
    Ok(command.arg(&group.name))
}

/// A snapshot of a thin volume, or of a snapshot of one, to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateThinSnapshot<'a> {
    /// What to take it of. If it is active, lvm freezes the filesystem on it.
    pub source: &'a LogicalVolume,
    /// Its name.
    pub name: &'a str,
    /// Set by the same command.
    pub tag: &'a str,
    /// Whether it becomes a volume of its own: it is writable, and stays active. Otherwise it is read-only, and only
    /// [`activate_skipped`] activates it.
    pub writable: bool,
}

/// Creates a thin snapshot, in the pool of its source. It does not depend on the source afterwards.
///
/// As for [`create_thin`], the command may be killed between two steps. Then the snapshot is taken later than it was
/// asked for, and perhaps not with the contents of one instant.
///
/// # Errors
/// Among others [`Error::AlreadyExists`] and [`Error::NotFound`].
pub async fn create_thin_snapshot(group: &VolumeGroup, request: &CreateThinSnapshot<'_>) -> Result<(), Error> {
    snapshot_command(group, request)?.run_freezing(group, request.source).await
}

fn snapshot_command<'a>(group: &'a VolumeGroup, request: &CreateThinSnapshot<'_>) -> Result<Mutation<'a>, Error> {
    let CreateThinSnapshot { source, name, tag, writable } = request;
    check_name(group, name)?;
    if !source.is_thin() {
        // Without a size, lvm makes only thin snapshots.
        return Err(Error::Argument(format!("{}/{} is not a thin volume", group.name, source.name)));
    }
    let (permission, skip) = if *writable { ("rw", "n") } else { ("r", "y") };
    let command = Mutation::new("lvcreate", group).args(["-y", "--snapshot", "--permission", permission]);
    let command = command.args(["--setactivationskip", skip, "--name", name, "--addtag", check_tag(tag)?]);
    Ok(command.arg(target(group, source)?))
}

/// Makes a thin volume larger, to `size` extents. It uses no more space than before. An active volume's device has the
/// new size afterwards. If the command is killed after its commit, the device may still have the old size: see
/// [`super::refresh`].
///
/// # Errors
/// Among others [`Error::NotFound`].
pub async fn extend_thin(group: &VolumeGroup, volume: &LogicalVolume, size: Extents) -> Result<(), Error> {
    // Not relative: a command that outlives its caller may get lvm's lock only when the volume is larger.
    let command = Mutation::new("lvextend", group).with_same_devices().args(["-y", "--extents", &size.to_string()]);
    command.arg(target(group, volume)?).run().await
}

/// Activates a thin snapshot, which ordinary activation skips. Idempotent.
///
/// # Errors
/// Among others [`Error::MissingPv`] and [`Error::NotFound`].
pub async fn activate_skipped(group: &VolumeGroup, snapshot: &LogicalVolume) -> Result<(), Error> {
    let command = Mutation::new("lvchange", group).args(["-y", "--activationmode", "degraded", "--activate", "y"]);
    let command = command.args(["--ignoreactivationskip", "--select", &select(snapshot)]);
    command.arg(target(group, snapshot)?).run().await
}

/// What becomes a thin pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakePool<'a> {
    /// The volume with the data. The pool gets its name.
    pub data: &'a LogicalVolume,
    /// The volume with the metadata.
    pub metadata: &'a LogicalVolume,
    /// The size of a chunk in bytes.
    pub chunk_size: u64,
    /// Whether writes fail at once when it is full.
    pub error_when_full: bool,
}

/// Makes a thin pool of two volumes, whose contents are lost, and leaves it active. New blocks are zeroed before they
/// are used, and discards reach the disks below.
///
/// lvm also creates a spare volume of the size of the metadata, for repairs. If the command is killed before its last
/// commit, both volumes stay as they are. It may leave a volume `lvolN` without tags then, which was to become that
/// spare volume.
///
/// # Errors
/// Among others [`Error::NoSpace`] if there is no room for the spare volume.
pub async fn make_pool(group: &VolumeGroup, request: &MakePool<'_>) -> Result<(), Error> {
    make_pool_command(group, request)?.run().await
}

fn make_pool_command<'a>(group: &'a VolumeGroup, request: &MakePool<'_>) -> Result<Mutation<'a>, Error> {
    let MakePool { data, metadata, chunk_size, error_when_full } = request;
    let (chunk_size, when_full) = (format!("{chunk_size}b"), yes_or_no(*error_when_full));
    let command = Mutation::new("lvconvert", group).args(["-y", "--type", "thin-pool"]);
    let command = command.args(["--poolmetadata", &target(group, metadata)?, "--poolmetadataspare", "y"]);
    let command = command.args(["--chunksize", &chunk_size, "--zero", "y", "--discards", "passdown"]);
    Ok(command.args(["--errorwhenfull", when_full]).arg(target(group, data)?))
}

/// Sets whether writes fail at once when a thin pool is full.
///
/// # Errors
/// Among others [`Error::NotFound`].
pub async fn set_error_when_full(group: &VolumeGroup, pool: &LogicalVolume, fail: bool) -> Result<(), Error> {
    let command = Mutation::new("lvchange", group).with_same_devices();
    command.args(["-y", "--errorwhenfull", yes_or_no(fail)]).arg(target(group, pool)?).run().await
}

/// Makes the metadata of a thin pool larger by that many bytes, and its spare volume with it.
///
/// # Errors
/// Among others [`Error::NoSpace`].
pub async fn extend_pool_metadata(group: &VolumeGroup, pool: &LogicalVolume, bytes: u64) -> Result<(), Error> {
    let command = Mutation::new("lvextend", group).args(["-y", "--poolmetadatasize", &format!("+{bytes}b")]);
    command.arg(target(group, pool)?).run().await
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "y" } else { "n" }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use quarry_volume::ExtentSize;

    use super::*;

    fn lv(name: &str, kind: &str) -> LogicalVolume {
        LogicalVolume {
            name: name.into(),
            segment_types: BTreeSet::from([kind.to_owned()]),
            ..LogicalVolume::default()
        }
    }

    fn group() -> VolumeGroup {
        VolumeGroup { name: "vg".into(), extent_size: ExtentSize(4 << 20), ..VolumeGroup::default() }
    }

    #[test]
    fn a_thin_volume_names_its_pool() {
        let (group, pool) = (group(), lv("pool", "thin-pool"));
        let request = CreateThin { pool: &pool, name: "a", extents: Extents(3), tag: "quarry1/x" };
        let command = create_command(&group, &request).expect("valid");
        assert_eq!(
            command.arguments().join(" "),
            "-y --type thin --thinpool pool --virtualsize 12582912b --name a --addtag quarry1/x vg"
        );
        for wrong in [CreateThin { name: "-a", ..request.clone() }, CreateThin { tag: "a b", ..request.clone() }] {
            assert!(matches!(create_command(&group, &wrong), Err(Error::Argument(_))), "{wrong:?}");
        }
    }

    #[test]
    fn only_a_thin_volume_has_a_snapshot_without_a_size() {
        let (group, source) = (group(), lv("a", "thin"));
        let request = CreateThinSnapshot { source: &source, name: "s", tag: "quarry2/x", writable: false };
        let arguments =
            |request: &CreateThinSnapshot<'_>| snapshot_command(&group, request).expect("valid").arguments().join(" ");
        assert_eq!(
            arguments(&request),
            "-y --snapshot --permission r --setactivationskip y --name s --addtag quarry2/x vg/a"
        );
        assert_eq!(
            arguments(&CreateThinSnapshot { writable: true, ..request.clone() }),
            "-y --snapshot --permission rw --setactivationskip n --name s --addtag quarry2/x vg/a"
        );
        let linear = lv("a", "linear");
        let wrong = CreateThinSnapshot { source: &linear, ..request };
        assert!(matches!(snapshot_command(&group, &wrong), Err(Error::Argument(_))));
    }

    #[test]
    fn a_pool_zeroes_its_blocks() {
        let (group, data, metadata) = (group(), lv("pool", "linear"), lv("meta", "linear"));
        let request = MakePool { data: &data, metadata: &metadata, chunk_size: 65536, error_when_full: true };
        assert_eq!(
            make_pool_command(&group, &request).expect("valid").arguments().join(" "),
            "-y --type thin-pool --poolmetadata vg/meta --poolmetadataspare y --chunksize 65536b --zero y --discards \
             passdown --errorwhenfull y vg/pool"
        );
    }
}
