//! Usage statistics of a volume that is staged or published.

use std::path::Path;

use quarry_filesystem::{Trouble, Usage};
use quarry_volume::{Error, Result, VolumeId};

use crate::condition::{Check, RECOVERY, trouble};
use crate::host::Host;
use crate::kernel::Kernel;
use crate::place::Place;

/// The result of NodeGetVolumeStats, in bytes and inodes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stats {
    Filesystem(Usage),
    Block { size: u64 },
}

impl Host {
    /// Measures the volume at `path`, where it is staged or published, or at kubelet's own map of a raw block
    /// volume. Fails if the filesystem does not work.
    pub(crate) async fn stats(&self, id: &VolumeId, path: &Path) -> Result<Stats> {
        self.stats_now(id, path).await.map_err(|error| error.context(format_args!("measuring volume {id}")))
    }

    async fn stats_now(&self, id: &VolumeId, path: &Path) -> Result<Stats> {
        let (measured, read_only) = self.at_path(id, path, measure).await?;
        self.publisher().set_filesystem_problem(id, measured.as_ref().err().cloned(), read_only);
        measured.map_err(|trouble| Error::precondition(format!("{trouble}; {RECOVERY}")))
    }
}

/// Measures the volume, unless its filesystem does not work. Also returns whether this was through a read-only mount.
fn measure(kernel: &dyn Kernel, path: &Path, place: Place) -> Result<(Result<Stats, Trouble>, bool)> {
    match place {
        Place::Block(_) => Ok((Ok(Stats::Block { size: kernel.device_size(path)? }), false)),
        Place::Filesystem(entry) => match trouble(kernel, &entry, Check::Stats) {
            Some(trouble) => Ok((Err(trouble), entry.read_only())),
            None => Ok((Ok(Stats::Filesystem(kernel.usage(path)?)), entry.read_only())),
        },
    }
}
