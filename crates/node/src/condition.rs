//! Checks whether a mounted filesystem works. It is checked before each use, and the state publisher reports
//! problems.

use std::sync::Arc;

use quarry_filesystem::Trouble;
use quarry_mount::Entry;
use quarry_volume::{Filesystem, Result, VolumeId};

use crate::host::Host;
use crate::kernel::Kernel;

/// What a check is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// For read-only use.
    Read,
    /// For use that writes: a write is tried.
    Write,
    /// For statistics: a write is tried only if there is a sign of an error.
    Stats,
}

/// How an operator recovers a filesystem.
pub(crate) const RECOVERY: &str = "see the kernel log, and end the pods that use it: after it is unpublished \
                                   everywhere, the next stage or publish mounts it again and recovers what is still \
                                   on its disk";

impl Host {
    /// Checks whether the mounted filesystem works, and passes the result to the state publisher. Returns its problem, if
    /// it matters for this use.
    ///
    /// # Errors
    /// `Unavailable` if it does not answer.
    pub(crate) async fn condition(&self, id: &VolumeId, entry: Entry, check: Check) -> Result<Option<Trouble>> {
        let kernel = Arc::clone(self.kernel());
        let read_only = entry.read_only();
        let trouble = self.checks().run(&id.to_string(), move || Ok(trouble(&*kernel, &entry, check))).await?;
        // Also what does not matter for this use: it matters for others.
        self.publisher().set_filesystem_problem(id, trouble.clone(), read_only);
        Ok(trouble.filter(|trouble| check != Check::Read || matches!(trouble, Trouble::ShutDown(_))))
    }
}

/// The problem of the mounted filesystem, as far as this mount shows it: a read-only one does not show whether the kernel
/// made the filesystem read-only. Blocks if its disk hangs.
pub(crate) fn trouble(kernel: &dyn Kernel, entry: &Entry, check: Check) -> Option<Trouble> {
    let kind = entry.fstype.parse::<Filesystem>().ok()?;
    let trouble = kernel.check_mounted(kind, entry);
    match check {
        Check::Write if trouble.is_none() && !entry.read_only() => kernel.try_write(&entry.target),
        Check::Read | Check::Write | Check::Stats => trouble,
    }
}
