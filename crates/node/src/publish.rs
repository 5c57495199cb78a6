//! Publish: makes a staged volume available at a pod's target path, as a bind mount or as a device node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_filesystem::Trouble;
use quarry_mount::{Device, Entry};
use quarry_pool::{Pool, PoolVolume, Record, State};
use quarry_volume::{AccessMode, AccessType, AccessTypes, Capability, Error, MountOptions, Reason, Result, VolumeId};

use crate::condition::{Check, RECOVERY};
use crate::host::{Host, Located};
use crate::kernel::Mounts;
use crate::limits::Limited;
use crate::modify::MODIFY;
use crate::stage::Stage;
use crate::unmount::unmount_own;
use crate::{device, errors, exclusive_use, identity, read_only};

/// The task that publishes a volume.
pub(crate) const PUBLISH: &str = "publish";

/// The parameters of NodePublishVolume.
#[derive(Clone, Debug)]
pub(crate) struct Publish {
    pub(crate) id: VolumeId,
    pub(crate) staging: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) capability: Capability,
    pub(crate) read_only: bool,
}

impl Host {
    pub(crate) async fn publish(&self, publish: Publish, wait: Duration) -> Result<()> {
        let host = self.clone();
        let id = publish.id.clone();
        self.tasks()
            .run_after(&id.volume, PUBLISH, &[MODIFY], wait, |_| async move { host.publish_now(publish).await })
            .await
            .map_err(|error| error.context(format_args!("publishing volume {id}")))
    }

    async fn publish_now(&self, publish: Publish) -> Result<()> {
        let (Located { pool, volume }, record) = match self.usable(&publish.id, &publish.capability).await {
            Ok(found) => found,
            Err(error) => return self.publish_without_pool(publish, error).await,
        };
        let device = device::active(&**self.kernel(), &pool, &volume)?;
        let device = device.ok_or_else(|| Error::precondition("it is not active: stage it first"))?.usable(&record)?;
        let number = self
            .kernel()
            .number(&device)
            .ok_or_else(|| Error::host(format!("{} is not a block device", device.display())))?;
        match publish.capability.access {
            AccessType::Mount => {
                let limited = self.limit(&publish, &pool, number, &record).await?;
                let published = match self.publish_filesystem(publish.clone(), number).await {
                    Err(error) if error.reason == Reason::Precondition => {
                        match self.mount_again(&publish, &pool, volume, &record, &device).await {
                            Ok(true) => self.publish_filesystem(publish.clone(), number).await,
                            Ok(false) => Err(error),
                            Err(why) => {
                                let message =
                                    format!("{}; it could not be mounted again: {}", error.message, why.message);
                                Err(Error { message, ..why })
                            }
                        }
                    }
                    published => published,
                };
                self.unlimit_if_failed(limited, &publish.target, &publish.id, published).await
            }
            AccessType::Block => {
                if record.state != State::Ready {
                    return Err(Error::precondition("it has never been staged: stage it first"));
                }
                let limited = self.limit(&publish, &pool, number, &record).await?;
                let (target, id) = (publish.target.clone(), publish.id.clone());
                let kernel = Arc::clone(self.kernel());
                let both = record.access == AccessTypes::Both;
                let published =
                    errors::blocking(move || publish_device(&*kernel, &publish, &device, number, both)).await;
                self.unlimit_if_failed(limited, &target, &id, published).await
            }
        }
    }

    /// Brings the volume's I/O limits into force before the pod can use it. Returns whether the pod did not use it before.
    async fn limit(&self, publish: &Publish, pool: &Arc<dyn Pool>, number: Device, record: &Record) -> Result<bool> {
        let device = self.kernel().limited_device(number);
        let limited = Limited { id: &publish.id, pool: pool.name(), device };
        self.limit_pod(&publish.target, pool, limited, record).await
    }

    /// Removes the limits again if the publish failed: kubelet does not always unpublish then.
    async fn unlimit_if_failed(
        &self,
        limited: bool,
        target: &Path,
        id: &VolumeId,
        published: Result<()>,
    ) -> Result<()> {
        if limited && published.is_err() {
            self.unlimit_pod(target, id).await;
        }
        published
    }

    /// Publishes a filesystem although its pool cannot find the volume (its volume group was renamed or is
    /// unresponsive). The volume was staged for this use, and the kernel shows which device it is. `error`:
    /// why the pool cannot find it.
    async fn publish_without_pool(&self, publish: Publish, error: Error) -> Result<()> {
        if error.reason != Reason::Unavailable || publish.capability.access != AccessType::Mount {
            return Err(error);
        }
        let active = device::active_in_kernel(&**self.kernel(), &publish.id);
        match active.and_then(|active| self.kernel().number(&active.top)) {
            Some(number) => {
                let storage = publish.id.storage.clone();
                self.publish_filesystem(publish, number).await?;
                self.limit_later(&storage);
                Ok(())
            }
            None => Err(error),
        }
    }

    /// Mounts the volume at its staging path again, if the mount there does not work any more: its disk was pulled and is
    /// back, or the filesystem was shut down. Returns whether it did. kubelet does not stage a volume again whose pod is
    /// replaced on the same node at once, as those of a StatefulSet are, so the next pod would never start.
    ///
    /// A process that is killed between unmounting and mounting leaves the volume unstaged: then the pod has to be
    /// deleted, and its volume unstaged, before the next one starts.
    ///
    /// # Errors
    /// `Precondition` if other pods still use the old mount; otherwise as for a stage.
    async fn mount_again(
        &self,
        publish: &Publish,
        pool: &Arc<dyn Pool>,
        mut volume: PoolVolume,
        record: &Record,
        device: &Path,
    ) -> Result<bool> {
        // Only what a stage has mounted before. An encrypted volume is open, or it would not have come this far.
        if record.state != State::Ready {
            return Ok(false);
        }
        let (kernel, staging) = (Arc::clone(self.kernel()), publish.staging.clone());
        let is_to_be_mounted = match errors::blocking(move || kernel.at(&staging)).await? {
            // An earlier call unmounted it, and could not mount it again.
            None => self.unmounted().lock().contains(&(publish.id.clone(), publish.staging.clone())),
            Some(entry) if self.kernel().is_device_gone(&entry) => true,
            Some(entry) => {
                let number = self.kernel().number(device);
                let is_own = number.is_some_and(|number| self.kernel().is_of_device(&entry, number));
                is_own && self.condition(&publish.id, entry, publish.check()).await?.is_some()
            }
        };
        if !is_to_be_mounted {
            return Ok(false);
        }
        let stage = Stage {
            id: publish.id.clone(),
            staging: publish.staging.clone(),
            capability: publish.capability.clone(),
            mkfs_options: String::new(),
            passphrase: None,
        };
        self.stage_device(&stage, pool, &mut volume, record, device).await.map(|()| true)
    }

    async fn publish_filesystem(&self, publish: Publish, number: Device) -> Result<()> {
        let (kernel, staging) = (Arc::clone(self.kernel()), publish.staging.clone());
        let staged = errors::blocking(move || kernel.at(&staging)).await?;
        let Some(staged) = staged.filter(|entry| self.kernel().is_of_device(entry, number)) else {
            return Err(Error::precondition(format!("it is not staged at {:?}: stage it first", publish.staging)));
        };
        // All mounts of a filesystem have the context of the first one.
        let context = MountOptions::context(&publish.capability.mount_flags);
        quarry_mount::check_context(&staged, context).map_err(errors::mount)?;
        let trouble = self.condition(&publish.id, staged.clone(), publish.check()).await?;
        let _hold = match trouble {
            Some(_) => Some(self.trims().hold_briefly(&publish.id.volume).await),
            None => None,
        };
        let kernel = Arc::clone(self.kernel());
        errors::blocking(move || {
            if let Some(trouble) = trouble {
                let cleared = clear_dead(&*kernel, &publish.target, number, &trouble);
                return Err(Error::precondition(format!("{trouble}; {RECOVERY}{cleared}")));
            }
            if publish.capability.mode.is_exclusive() {
                let others = kernel.mounts_of_device(number)?;
                require_single_target(
                    &*kernel,
                    others.into_iter().filter(|entry| entry.target != staged.target),
                    &publish.target,
                )?;
            }
            kernel.bind(&publish.staging, &publish.target, publish.is_read_only())
        })
        .await
    }
}

impl Publish {
    /// Whether the pod must not write.
    fn is_read_only(&self) -> bool {
        self.read_only || self.capability.mode == AccessMode::ReaderOnly
    }

    /// What the pod needs to work.
    fn check(&self) -> Check {
        if self.is_read_only() { Check::Read } else { Check::Write }
    }
}

/// Unmounts this volume from a target if the publish is rejected because the filesystem is shut down: the
/// mount is useless, and the volume cannot be staged again while it exists. Returns the text to append to the
/// error.
fn clear_dead(mounts: &dyn Mounts, target: &Path, number: Device, trouble: &Trouble) -> String {
    let is_dead = matches!(trouble, Trouble::ShutDown(_));
    match mounts.at(target) {
        Ok(Some(entry)) if is_dead && mounts.is_of_device(&entry, number) => {}
        _ => return String::new(),
    }
    let unmounted = unmount_own(mounts, target, |entry| mounts.is_of_device(entry, number));
    match unmounted.and_then(|()| mounts.remove_target(target)) {
        Ok(()) => "; the dead mount that an earlier call left at the target was unmounted".to_owned(),
        Err(error) => format!("; a dead mount at the target could not be removed: {error}"),
    }
}

/// Publishes the node of the volume's device, or of a read-only mapping of it if the pod must not write. `both`: whether
/// the volume was created for both access types.
fn publish_device(mounts: &dyn Mounts, publish: &Publish, device: &Path, number: Device, both: bool) -> Result<()> {
    read_only::clean(mounts, &publish.id, Some(&publish.target))?;
    if publish.capability.mode.is_exclusive() {
        let others = exclusive_use::raw_publications(mounts, &publish.id, number)?;
        require_single_target(mounts, others.into_iter(), &publish.target)?;
    }
    let here = mounts.at(&publish.target)?.and_then(|entry| mounts.node_device(&entry));
    let otherwise = |found: &str, asked: &str| {
        let target = &publish.target;
        Error::new(
            Reason::Exists,
            format!("it is already published {found} at {target:?}, but {asked} is requested; unpublish it first"),
        )
    };
    match (publish.is_read_only(), here) {
        (true, Some(found)) if found == number => Err(otherwise("writable", "read-only")),
        (false, Some(found)) if found != number && identity::is_volume(mounts, found, &publish.id) => {
            Err(otherwise("read-only", "writable"))
        }
        // kubelet repeats the call after its restart. The mapping keeps its size, so it may be smaller than the volume now.
        (true, Some(found)) if read_only::is_for(mounts, found, &publish.id, &publish.target, number)? => Ok(()),
        (false, Some(found)) if found == number => Ok(()),
        (read_only, _) => {
            if both {
                exclusive_use::require_unmounted(mounts, number)?;
            }
            match read_only {
                true => read_only::publish(mounts, &publish.id, &publish.target, number),
                false => mounts.bind_device(device, &publish.target),
            }
        }
    }
}

/// Rejects a second target for a volume with an exclusive access mode (CSI `NodePublishVolume`). Bind mounts
/// that kubelet makes of a published volume do not count as targets: sub-paths of a pod, and its map of a raw
/// device.
fn require_single_target(mounts: &dyn Mounts, entries: impl Iterator<Item = Entry>, target: &Path) -> Result<()> {
    // Use the kernel's spelling, because a parent of the target may be a symbolic link. One mount can appear
    // several times at one path if kubelet's directory is bind-mounted on itself to make it shared.
    let here: Vec<PathBuf> = mounts.all_at(target)?.into_iter().map(|entry| entry.target).collect();
    let kubelets = |path: &Path| {
        let parts: Vec<_> = path.iter().collect();
        parts.iter().any(|part| *part == "volume-subpaths")
            || parts.windows(3).any(|w| matches!(w, [a, _, c] if *a == "volumeDevices" && *c == "dev"))
    };
    match entries.into_iter().find(|entry| !here.contains(&entry.target) && !kubelets(&entry.target)) {
        None => Ok(()),
        Some(other) => Err(Error::new(
            Reason::Precondition,
            format!("its access mode allows only one target, and it is already published at {:?}", other.target),
        )),
    }
}
