//! Unpublish and unstage: what is mounted at a path goes away, if it is this volume.
//!
//! Neither needs a pool's word. A pod has to be able to end while its disk hangs, is lost, or is another host's by now. So
//! the kernel is asked first; the pool is asked only where the kernel's word is no proof, and not for long.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quarry_mount as mount;
use quarry_volume::{Error, Result, VolumeId};

use crate::host::Host;
use crate::{errors, kernel, read_only};

/// The task that unmounts a volume's staging path.
pub(crate) const UNSTAGE: &str = "unstage";
/// The task that unmounts one of a volume's targets.
pub(crate) const UNPUBLISH: &str = "unpublish";

/// How long a pool may take to say which device is the volume's. What is mounted is unmounted without its word then.
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

    /// Unmounts what is at `target`, and removes the target if it is `ours`. The volume need not exist any more: a lost
    /// disk is unpublished and unstaged like any other.
    async fn unmount(&self, id: &str, what: &'static str, target: PathBuf, ours: bool, wait: Duration) -> Result<()> {
        let parsed = id.parse::<VolumeId>().ok();
        let key = parsed.as_ref().map_or_else(|| id.to_owned(), |id| id.volume.clone());
        let host = self.clone();
        self.tasks().run(&key, what, wait, |_| async move { host.unmount_now(parsed, target, ours).await }).await
    }

    async fn unmount_now(&self, id: Option<VolumeId>, target: PathBuf, ours: bool) -> Result<()> {
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
                refuse_foreign(&entry, device, &target)?;
            }
            mount::unmount(&target).map_err(errors::mount)?;
            if ours {
                mount::remove_target(&target).map_err(errors::mount)?;
                id.map_or(Ok(()), |id| read_only::unpublish(&id, &target))
            } else {
                id.map_or(Ok(()), |id| read_only::refuse_use(&id))
            }
        })
        .await
    }

    /// The device number of a volume, where its pool can tell it soon.
    async fn device_of(&self, id: &VolumeId) -> Option<mount::Device> {
        let located = tokio::time::timeout(QUESTION, self.locate(id)).await.ok()?.ok()??;
        let path = located.pool.device(&located.volume).ok()??;
        mount::Device::of_node(&path)
    }
}

/// Whether the kernel's word proves that this is the volume.
fn is_proven(entry: &mount::Entry, id: &Option<VolumeId>) -> bool {
    id.as_ref().is_some_and(|id| kernel::is_mounted(entry, id))
}

/// What is not this volume is left alone: another volume is somebody else's pod. Where the volume's device cannot be told
/// any more, everything that cannot have been one is.
fn refuse_foreign(entry: &mount::Entry, device: Option<mount::Device>, target: &Path) -> Result<()> {
    let ours = match device {
        Some(device) => {
            let published = mount::publications_of_block(device).map_err(errors::mount)?;
            entry.is_of_device(device) || published.iter().any(|publication| publication.id == entry.id)
        }
        None => entry.is_mapped() || entry.partition() == Some(quarry_pool::VOLUME_PARTITION),
    };
    // Nobody can use what has lost its disk, and the disk may be back by another number.
    if ours || entry.is_device_gone() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "{target:?} holds {entry}, which is not this volume; it was left alone: find out whose it is and unmount it"
    )))
}
