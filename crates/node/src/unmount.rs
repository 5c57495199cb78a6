//! Unpublish and unstage: unmount what is mounted at a path, if it is this volume.
//!
//! Neither depends on a pool. A pod must be able to end while its disk hangs, is lost, or belongs to another
//! host by now. So the kernel is asked first; the pool is asked only if the kernel's answer is not
//! conclusive, and not for long.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_encryption::layer_name;
use quarry_mount::{Device, Entry};
use quarry_volume::{Error, Reason, Result, VolumeId};

use crate::host::Host;
use crate::kernel::Mounts;
use crate::modify::MODIFY;
use crate::{device, errors, identity, read_only};

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
        let (host, volume) = (self.clone(), key.clone());
        let work = |_| async move {
            // The filesystem stays mounted at its staging path after an unpublish, so that a trim that hangs must not
            // prevent the end of a pod.
            let _hold = match what {
                UNPUBLISH => host.trims().hold_briefly(&volume).await,
                _ => host.trims().hold(&volume).await?,
            };
            let was_mounted = host.unmount_now(parsed.clone(), target.clone(), remove).await?;
            if let Some(id) = parsed.as_ref().filter(|_| !remove) {
                host.require_unpublished(id, was_mounted).await?;
                host.unmounted().lock().remove(&(id.clone(), target.clone()));
                host.close_encrypted(id).await;
            }
            if let Some(id) = parsed.filter(|_| remove) {
                host.unlimit_pod(&target, &id).await;
            }
            Ok(())
        };
        self.tasks().run_after(&key, what, &[MODIFY], wait, work).await
    }

    /// Returns whether anything was mounted there.
    async fn unmount_now(&self, id: Option<VolumeId>, target: PathBuf, remove: bool) -> Result<bool> {
        let proven = {
            let (kernel, id, target) = (Arc::clone(self.kernel()), id.clone(), target.clone());
            errors::blocking(move || {
                let stack = kernel.all_at(&target)?;
                Ok((!stack.is_empty()).then(|| stack.iter().all(|entry| is_proven(&*kernel, entry, &id))))
            })
            .await?
        };
        let device = match &id {
            Some(id) if proven == Some(false) => self.device_of(id).await,
            _ => None,
        };
        let kernel = Arc::clone(self.kernel());
        errors::blocking(move || {
            let stack = kernel.all_at(&target)?;
            // Also those below the topmost.
            for entry in stack.iter().filter(|entry| !is_proven(&*kernel, entry, &id)) {
                require_own(&*kernel, entry, device, &target)?;
            }
            kernel.unmount(&target, &stack)?;
            if remove {
                kernel.remove_target(&target)?;
                if let Some(id) = id {
                    read_only::unpublish(&*kernel, &id, &target)?;
                }
            }
            Ok(proven.is_some())
        })
        .await
    }

    /// Fails if the volume is published raw anywhere: it is deactivated after its unstage, and a bind mount of a node does
    /// not keep a device from that. `was_mounted`: whether it was staged as a filesystem, so that it is not used raw (see
    /// [`crate::exclusive_use`]).
    async fn require_unpublished(&self, id: &VolumeId, was_mounted: bool) -> Result<()> {
        let number = if was_mounted {
            None
        } else if let Some(top) = self.top_in_kernel(id) {
            self.kernel().number(&top)
        } else if self.may_be_active(id).await {
            // Only its pool knows.
            self.device_of(id).await
        } else {
            None
        };
        let (kernel, id) = (Arc::clone(self.kernel()), id.clone());
        errors::blocking(move || {
            read_only::require_unpublished(&*kernel, &id)?;
            let published = number.map(|number| kernel.publications_of_block(number)).transpose()?;
            match published.unwrap_or_default().first() {
                None => Ok(()),
                Some(first) => {
                    Err(Error::new(Reason::InUse, format!("it is published at {:?}; unpublish it first", first.target)))
                }
            }
        })
        .await
    }

    /// The node through which the volume is used, if the kernel alone can show it.
    fn top_in_kernel(&self, id: &VolumeId) -> Option<PathBuf> {
        let kernel = &**self.kernel();
        let layer = kernel.layer_named(&layer_name(&id.to_string())).map(|layer| layer.node);
        layer.or_else(|| device::active_in_kernel(kernel, id).map(|active| active.top))
    }

    /// The device number of a volume, if its pool finds it in time.
    async fn device_of(&self, id: &VolumeId) -> Option<Device> {
        let located = tokio::time::timeout(QUESTION, self.locate(id)).await.ok()?.ok()??;
        let device = device::active(&**self.kernel(), &located.pool, &located.volume).ok()??;
        self.kernel().number(&device.top)
    }
}

/// Whether the kernel proves that this is a mount of the volume.
fn is_proven(mounts: &dyn Mounts, entry: &Entry, id: &Option<VolumeId>) -> bool {
    id.as_ref().is_some_and(|id| identity::is_mounted(mounts, entry, id))
}

/// Fails if the mount is not this volume: it may belong to another pod. If the volume's device is not known
/// any more, fails only if the mount cannot be a Quarry volume.
fn require_own(mounts: &dyn Mounts, entry: &Entry, device: Option<Device>, target: &Path) -> Result<()> {
    let own = match device {
        Some(device) => {
            let published = mounts.publications_of_block(device)?;
            mounts.is_of_device(entry, device) || published.iter().any(|publication| publication.id == entry.id)
        }
        None => mounts.could_be_volume(entry),
    };
    // A mount that lost its disk is useless, and the disk may be back with another device number.
    if own || mounts.is_device_gone(entry) {
        return Ok(());
    }
    Err(foreign(entry, target))
}

/// Unmounts everything at the target, if all of it is the volume.
///
/// # Errors
/// `Precondition` if anything else is mounted there, even below; nothing is unmounted then.
pub(crate) fn unmount_own(mounts: &dyn Mounts, target: &Path, is_own: impl Fn(&Entry) -> bool) -> Result<()> {
    let stack = mounts.all_at(target)?;
    match stack.iter().find(|entry| !is_own(entry)) {
        Some(other) => Err(foreign(other, target)),
        None => mounts.unmount(target, &stack),
    }
}

fn foreign(entry: &Entry, target: &Path) -> Error {
    Error::precondition(format!(
        "{entry} is mounted at {target:?}, which is not this volume; nothing was changed: find its owner and unmount it"
    ))
}
