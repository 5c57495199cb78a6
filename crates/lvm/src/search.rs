//! Searches all volume groups of the host.

use std::time::Duration;

use crate::Error;
use crate::locate::every_disk;
use crate::lookup::full_report;
use crate::report::parse;
use crate::types::VolumeGroup;

/// The name of this operation's target in [`quarry_exec::running`].
pub const ALL_VOLUME_GROUPS: &str = "all volume groups";

/// Every complete volume group of this host that lvm opens, except those inside a volume or on a loop device,
/// which belong to tenants. It reads every disk, including foreign ones, so use it only for a volume that was
/// not found where it should be. It is killed after 10 s.
///
/// # Errors
/// lvm could not be run, took too long, or its output is not a report.
pub async fn all_volume_groups() -> Result<Vec<VolumeGroup>, Error> {
    let scope = every_disk().await?;
    let output = full_report(&scope).deadline(Duration::from_secs(10)).on(ALL_VOLUME_GROUPS).run().await?;
    let unusable = |source| Error::Report { command: output.command.clone(), source, stderr: output.stderr.clone() };
    parse(&output.stdout).map_err(unusable)
}
