//! What is measured: a driver, or the bare commands beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::Phase;

/// Which of the two a figure belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The driver behind the socket.
    Driver,
    /// The bare commands.
    Floor,
}

impl Kind {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Floor => "floor",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a phase failed on a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The name of the gRPC code, or the program that failed.
    pub code: String,
    /// What the driver or the program said.
    pub message: String,
}

/// The code of calls that were not repeated because the run was stopped. They are not errors.
pub(crate) const INTERRUPTED: &str = "INTERRUPTED";

/// How often calls were repeated, by the reason.
pub type Retries = BTreeMap<String, u64>;

/// The names and paths of one volume of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its name, which carries the ID of the run and is in no other round.
    pub(crate) name: String,
    /// Its own directory in the working directory of the run.
    pub(crate) directory: PathBuf,
}

impl Place {
    /// Where it is staged: a directory that exists.
    pub(crate) fn staging(&self) -> PathBuf {
        self.directory.join("stage")
    }

    /// Where it is published. The driver creates it.
    pub(crate) fn target(&self) -> PathBuf {
        self.directory.join("target")
    }
}

/// A system that does the phases. One volume has at most one call in progress.
pub(crate) trait System: Sync {
    /// The state of one volume.
    type Volume: Send;

    fn kind(&self) -> Kind;

    /// A volume that does not exist yet. Its directories do.
    fn volume(&self, place: Place) -> Self::Volume;

    /// Whether it has anything to do in this phase.
    fn has(&self, phase: Phase) -> bool;

    /// One phase of one volume; this is what is timed.
    fn perform(
        &self,
        phase: Phase,
        volume: &mut Self::Volume,
        retries: &mut Retries,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What the phase needs afterwards, for all volumes, and is not timed.
    ///
    /// # Errors
    /// The volumes are in an unknown state: the round ends, and they are cleaned up.
    fn settle(&self, phase: Phase, volumes: &mut [Self::Volume]) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Undoes what was or may have been done with the volume, and returns what is left behind.
    fn clean(&self, volume: &mut Self::Volume) -> impl Future<Output = Vec<String>> + Send;
}
