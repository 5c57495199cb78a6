//! Looking for what lies in no volume group that we know.

use std::time::Duration;

use quarry_exec::Command;

use crate::Error;
use crate::commands::settings;
use crate::report::{COLUMNS, parse};
use crate::types::VolumeGroup;

/// What the search works on, as [`quarry_exec::running`] names it.
pub const EVERYWHERE: &str = "all volume groups";

/// Every volume group of this host that lvm opens, whole. It reads every disk, those of other people included, so it is
/// only for what was looked for in vain where it should be. It is killed after 10 s.
///
/// # Errors
/// lvm could not be run, took too long, or what it wrote is no report.
pub async fn everywhere() -> Result<Vec<VolumeGroup>, Error> {
    let mut command =
        Command::query("lvm").arg("fullreport").unshown(settings()).deadline(Duration::from_secs(10)).on(EVERYWHERE);
    command = command.unshown(["--reportformat", "json", "--binary", "--units", "b", "--nosuffix", "--all"]);
    for (table, columns) in COLUMNS {
        command = command.unshown(["--configreport", table, "-o", columns]);
    }
    let output = command.run().await?;
    let unusable = |source| Error::Report { command: output.command.clone(), source, stderr: output.stderr.clone() };
    parse(&output.stdout).map_err(unusable)
}
