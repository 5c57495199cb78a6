//! Unpublish and unstage: unmount what is mounted at a path, if it is this volume.
//!
//! Neither depends on a pool. A pod must be able to end while its disk hangs, is lost, or belongs to another
//! host by now. So the kernel is asked first; the pool is asked only if the kernel's answer is not
//! conclusive, and not for long.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quarry_mount as mount;
use quarry_volume::{Error, Result, VolumeId};

use crate::host::Host;
use crate::{device, errors, kernel, read_only};

/// The task that unmounts a volume's staging path.
pub(crate) const UNSTAGE: &str = "unstage";
/// The task that unmounts one of a volume's targets.
pub(crate) const UNPUBLISH: &str = "unpublish";

/// How long a pool may take to find the volume's device. After that, the unmount continues without it.
const QUESTION: Duration = Duration::from_secs(10);

impl Host {
    pub(crate) async fn unstage(&self, id: &str, staging: PathBuf, wait: Duration) -> Result<()> {
        self.unmount(id, UNSTAGE, staging, false, wait)
            .await
            .map_err(|error| error.context(format_args!("unstaging volume {id}")))
    }

    pub(crate) async fn unpublish(&self, id: &str, target: PathBuf, wait: Duration) -> Result<()> {
        self.unmount(id, UNPUBLISH, target, true, wait)
            .await
            .map_err(|error| error.context(format_args!("unpublishing volume {id}")))
    }

    /// Unmounts what is at `target`, and removes the target if `remove` is set. The volume does not have to
    /// exist: a lost disk is unpublished and unstaged like any other.
    async fn unmount(&self, id: &str, what: &'static str, target: PathBuf, remove: bool, wait: Duration) -> Result<()> {
        let parsed = id.parse::<VolumeId>().ok();
        let key = parsed.as_ref().map_or_else(|| id.to_owned(), |id| id.volume.clone());
        let host = self.clone();
        self.tasks().run(&key, what, wait, |_| async move { host.unmount_now(parsed, target, remove).await }).await
    }

    async fn unmount_now(&self, id: Option<VolumeId>, target: PathBuf, remove: bool) -> Result<()> {
        let proven = {
            let (id, target) = (id.clone(), target.clone());
            errors::blocking(move || Ok(mount::at(&target).map_err(errors::mount)?.map(|entry| is_proven(&entry, &id))))
                .await?
        };
        let device = match &id {
            Some(id) if proven == Some(false) => self.device_of(id).await,
            _ => None,
        };
        errors::blocking(move || {
            if let Some(entry) = mount::at(&target).map_err(errors::mount)?
                && !is_proven(&entry, &id)
            {
                require_own(&entry, device, &target)?;
            }
            mount::unmount(&target).map_err(errors::mount)?;
            if remove {
                mount::remove_target(&target).map_err(errors::mount)?;
                id.map_or(Ok(()), |id| read_only::unpublish(&id, &target))
            } else {
                id.map_or(Ok(()), |id| read_only::require_unpublished(&id))
            }
        })
        .await
    }

    /// The device number of a volume, if its pool finds it in time.
    async fn device_of(&self, id: &VolumeId) -> Option<mount::Device> {
        let located = tokio::time::timeout(QUESTION, self.locate(id)).await.ok()?.ok()??;
        let device = device::active(&located.pool, &located.volume).ok()??;
        mount::Device::of_node(&device.top)
    }
}

/// Whether the kernel proves that this is a mount of the volume.
fn is_proven(entry: &mount::Entry, id: &Option<VolumeId>) -> bool {
    id.as_ref().is_some_and(|id| kernel::is_mounted(entry, id))
}

/// Fails if the mount is not this volume: it may belong to another pod. If the volume's device is not known
/// any more, fails only if the mount cannot be a Quarry volume.
fn require_own(entry: &mount::Entry, device: Option<mount::Device>, target: &Path) -> Result<()> {
    let own = match device {
        Some(device) => {
            let published = mount::publications_of_block(device).map_err(errors::mount)?;
            entry.is_of_device(device) || published.iter().any(|publication| publication.id == entry.id)
        }
        None => entry.is_mapped() || entry.partition() == Some(quarry_pool::VOLUME_PARTITION),
    };
    // A mount that lost its disk is useless, and the disk may be back with another device number.
    if own || entry.is_device_gone() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "{entry} is mounted at {target:?}, which is not this volume; nothing was changed: find its owner and unmount it"
    )))
}
