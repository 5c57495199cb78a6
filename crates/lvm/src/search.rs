//! Looking for what lies in no volume group that we know.

use std::time::Duration;

use crate::Error;
use crate::locate::every_disk;
use crate::lookup::full_report;
use crate::report::parse;
use crate::types::VolumeGroup;

/// What the search works on, as [`quarry_exec::running`] names it.
pub const EVERYWHERE: &str = "all volume groups";

/// Every volume group of this host that lvm opens, whole; none that lies in a volume or on a loop device, where it would
/// be a tenant's. It reads every disk, those of other people included, so it is only for what was looked for in vain
/// where it should be. It is killed after 10 s.
///
/// # Errors
/// lvm could not be run, took too long, or what it wrote is no report.
pub async fn everywhere() -> Result<Vec<VolumeGroup>, Error> {
    let scope = every_disk().await?;
    let output = full_report(&scope).deadline(Duration::from_secs(10)).on(EVERYWHERE).run().await?;
    let unusable = |source| Error::Report { command: output.command.clone(), source, stderr: output.stderr.clone() };
    parse(&output.stdout).map_err(unusable)
}
