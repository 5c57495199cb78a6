//! Whether what is mounted serves: asked before anything is built on it, and told by the publisher.

use quarry_filesystem::{self as filesystem, Mounted, Trouble};
use quarry_mount as mount;
use quarry_volume::{Filesystem, Result, VolumeId};

use crate::host::Host;

/// What a look is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// For something that only reads.
    Read,
    /// For something that writes: it is tried.
    Write,
    /// For the figures: nothing is written without a reason.
    Glance,
}

/// What brings a filesystem back, in words.
pub(crate) const RECOVERY: &str = "see the kernel log, and end the pods that use it: once it is unpublished everywhere, \
                                   staging it again mounts it anew and recovers what its disk still has";

impl Host {
    /// Looks whether the filesystem mounted there serves, and has the publisher tell what is wrong with it.
    ///
    /// # Errors
    /// `Unavailable` if it does not answer.
    pub(crate) async fn condition(&self, id: &VolumeId, entry: mount::Entry, look: Look) -> Result<Option<Trouble>> {
        let trouble = self.looks().run(&id.to_string(), move || Ok(condition(&entry, look))).await?;
        self.publisher().set_trouble(id, trouble.as_ref().map(Trouble::to_string));
        Ok(trouble)
    }
}

/// What is wrong with the filesystem mounted there, as far as it matters to who asks. Blocks where its disk does.
pub(crate) fn condition(entry: &mount::Entry, look: Look) -> Option<Trouble> {
    let kind = entry.fstype.parse::<Filesystem>().ok()?;
    let device = entry.device.kernel_name();
    let mounted = Mounted {
        path: &entry.target,
        kind,
        read_only: entry.read_only(),
        super_options: &entry.super_options,
        device: device.as_deref(),
    };
    let trouble = filesystem::signs(&mounted);
    match look {
        Look::Read => trouble.filter(|trouble| matches!(trouble, Trouble::ShutDown(_))),
        Look::Write if trouble.is_none() && !entry.read_only() => filesystem::try_write(&entry.target),
        Look::Write | Look::Glance => trouble,
    }
}
