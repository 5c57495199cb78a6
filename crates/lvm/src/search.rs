//! Searches all volume groups of the host.

use std::path::PathBuf;
use std::time::Duration;

use quarry_exec::Output;

use crate::Error;
use crate::error::one_line;
use crate::locate::every_disk;
use crate::lookup::full_report;
use crate::report::parse;
use crate::types::VolumeGroup;

/// The name of this operation's target in [`quarry_exec::running`].
pub const ALL_VOLUME_GROUPS: &str = "all volume groups";

/// The volume groups of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllVolumeGroups {
    /// Those that could be read.
    pub groups: Vec<VolumeGroup>,
    /// The disks that do not answer: others may be there.
    pub unread: Vec<PathBuf>,
}

/// Every complete volume group of this host that lvm opens, except those inside a volume or on a loop device,
/// which belong to tenants. It reads every disk, including foreign ones, so use it only for a volume that was
/// not found where it should be. It is killed after 10 s.
///
/// # Errors
/// lvm could not be run, took too long, or its output is not a report.
pub async fn all_volume_groups() -> Result<AllVolumeGroups, Error> {
    let (scope, unresponsive) = every_disk().await?;
    let output = full_report(&scope).deadline(Duration::from_secs(10)).on(ALL_VOLUME_GROUPS).run().await?;
    found(&output, unresponsive)
}

/// The volume groups in lvm's report.
fn found(output: &Output, unread: Vec<PathBuf>) -> Result<AllVolumeGroups, Error> {
    let unusable = |source| Error::Report { command: output.command.clone(), source, stderr: output.stderr.clone() };
    let groups = parse(&output.stdout).map_err(unusable)?;
    if !output.success() {
        // This may be so for ever, for reasons that have nothing to do with what is looked for.
        tracing::warn!(stderr = one_line(&output.stderr), "lvm has left out volume groups of this host");
    }
    Ok(AllVolumeGroups { groups, unread })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lvm_leaves_out_for_ever_is_not_waited_for() {
        let output = |code, stderr: &str| Output {
            command: "lvm fullreport".to_owned(),
            code,
            stdout: br#"{"report": []}"#.to_vec(),
            stderr: stderr.to_owned(),
            duration: Duration::ZERO,
        };
        let hangs = || vec![PathBuf::from("/dev/vdz")];
        let warned = found(&output(0, "WARNING: of no importance"), hangs()).expect("a report");
        assert_eq!(warned, AllVolumeGroups { groups: vec![], unread: hangs() });
        let skipped = found(&output(5, "Skipping volume group x\nCannot process it"), vec![]).expect("a report");
        assert_eq!(skipped, AllVolumeGroups::default());
    }
}
