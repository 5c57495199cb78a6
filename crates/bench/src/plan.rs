//! What to measure and how.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use quarry_proto::csi::v1::VolumeCapability;
use tokio_util::sync::CancellationToken;

use crate::Phase;

/// What to measure and how. The fields are the options of `quarry bench`.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The endpoint of the controller's socket.
    pub controller: String,
    /// The endpoint of the node's socket; the same as the controller's if one process serves both.
    pub node: String,
    /// Volumes in each round.
    pub volumes: usize,
    /// How many volumes are worked on at once; one set of rounds for each number.
    pub concurrency: Vec<usize>,
    /// Rounds for each number. In every second one, the floor comes first.
    pub rounds: usize,
    /// Whether each system first takes one volume through all phases, which is not measured.
    pub warm_up: bool,
    /// Volumes that exist during the whole run and are not measured.
    pub background: usize,
    /// Phases that are not measured.
    pub without: BTreeSet<Phase>,
    /// The size of each volume, in bytes.
    pub size: i64,
    /// The size after the expansion, in bytes.
    pub expand_to: i64,
    /// How the volumes are used.
    pub capability: VolumeCapability,
    /// The parameters of CreateVolume.
    pub parameters: BTreeMap<String, String>,
    /// The parameters of CreateSnapshot.
    pub snapshot_parameters: BTreeMap<String, String>,
    /// The secrets of every call that has them.
    pub secrets: BTreeMap<String, String>,
    /// Where the volumes must be accessible; empty: where the node is, if the driver has topology.
    pub segments: BTreeMap<String, String>,
    /// The directory in which the run creates its own. The driver must see it under the same path.
    pub work_dir: PathBuf,
    /// The timeout of each call.
    pub timeout: Duration,
    /// For how long a call is repeated while the driver answers with a retryable code.
    pub patience: Duration,
    /// The pause before a call is repeated.
    pub retry_interval: Duration,
    /// The wait after a round's volumes were unstaged, which is not timed: what the driver still does after its
    /// answers must not be part of the next phase.
    pub settle: Duration,
    /// The bare commands to measure beside the driver.
    pub floor: Option<LvmFloor>,
}

/// The bare commands of LVM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LvmFloor {
    /// The volume group. It must exist.
    pub volume_group: String,
    /// Create thin volumes in this pool of the volume group. It must exist.
    pub thin_pool: Option<String>,
    /// More options of `lvcreate`, for example `--type=raid1`.
    pub lvcreate_options: Vec<String>,
}

/// Ends a run early.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// When cancelled: no new calls; those in progress end, and the volumes are cleaned up.
    pub stop: CancellationToken,
    /// When cancelled: the clean-up is abandoned, too. What remains is named.
    pub abandon: CancellationToken,
}

impl Plan {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// A sentence about the options that contradict each other.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let Some(most) = self.concurrency.iter().copied().max() else { anyhow::bail!("--concurrency is empty") };
        anyhow::ensure!(
            self.concurrency.iter().all(|at_once| *at_once > 0) && self.volumes > 0 && self.rounds > 0,
            "--concurrency, --volumes and --rounds must be at least 1"
        );
        let mut different = self.concurrency.clone();
        different.sort_unstable();
        different.dedup();
        anyhow::ensure!(
            different.len() == self.concurrency.len(),
            "--concurrency has a number twice: the volumes of both would have the same names"
        );
        anyhow::ensure!(
            most <= self.volumes,
            "--concurrency {most} needs at least as many volumes: give --volumes {most} or more"
        );
        anyhow::ensure!(
            self.work_dir.is_absolute(),
            "--work-dir {} is not an absolute path; the driver gets paths in it",
            self.work_dir.display()
        );
        anyhow::ensure!(
            self.expand_to > self.size || self.without.contains(&Phase::Expand),
            "--expand-to must be more than --size; or leave the phase out: --without expand"
        );
        Ok(())
    }
}
