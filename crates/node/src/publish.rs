//! Publish and unpublish: a staged volume at a pod's target path, as a bind mount or as a device node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quarry_filesystem as filesystem;
use quarry_mount as mount;
use quarry_pool::State;
use quarry_volume::{AccessMode, AccessType, Capability, Error, Reason, Result, VolumeId};

use crate::errors;
use crate::host::{Host, Located};

/// What NodePublishVolume asks for.
#[derive(Clone, Debug)]
pub(crate) struct Publish {
    pub(crate) id: VolumeId,
    pub(crate) staging: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) capability: Capability,
    pub(crate) read_only: bool,
}

/// What NodeGetVolumeStats answers, in bytes and inodes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stats {
    Filesystem(filesystem::Usage),
    Block { size: u64 },
}

impl Host {
    pub(crate) async fn publish(&self, publish: Publish, wait: Duration) -> Result<()> {
        let host = self.clone();
        let id = publish.id.clone();
        self.tasks()
            .run(&id.volume, "publish", wait, |_| async move { host.publish_now(publish).await })
            .await
            .map_err(|error| error.context(format_args!("publishing volume {id}")))
    }

    async fn publish_now(&self, publish: Publish) -> Result<()> {
        let (Located { pool, volume }, record) = self.usable(&publish.id, &publish.capability).await?;
        let read_only = publish.read_only || publish.capability.mode == AccessMode::ReaderOnly;
        let device = pool.device(&volume)?.ok_or_else(|| Error::precondition("it is not active: stage it first"))?;
        let number = mount::Device::of_node(&device)
            .ok_or_else(|| Error::host(format!("{} is no block device", device.display())))?;
        errors::blocking(move || match publish.capability.access {
            AccessType::Mount => {
                let staged = mount::at(&publish.staging).map_err(errors::mount)?;
                let Some(staged) = staged.filter(|entry| entry.is_of_device(number)) else {
                    return Err(Error::precondition(format!(
                        "it is not staged at {:?}: stage it first",
                        publish.staging
                    )));
                };
                if publish.capability.mode.is_exclusive() {
                    let others = mount::mounts_of_device(number).map_err(errors::mount)?;
                    refuse_second(others.into_iter().filter(|entry| entry.target != staged.target), &publish.target)?;
                }
                mount::bind(&publish.staging, &publish.target, read_only).map_err(errors::mount)
            }
            AccessType::Block => {
                if record.state != State::Ready {
                    return Err(Error::precondition("nobody has staged it yet: stage it first"));
                }
                if read_only {
                    return Err(Error::precondition(
                        "a raw block device cannot be published read-only: a read-only mount of its node does not stop \
                         writes, and the device's own flag would stop other pods' too; publish it read-write",
                    ));
                }
                if publish.capability.mode.is_exclusive() {
                    let others = mount::publications_of_block(number).map_err(errors::mount)?;
                    refuse_second(others.into_iter(), &publish.target)?;
                }
                mount::bind_device(&device, &publish.target).map_err(errors::mount)
            }
        })
        .await
    }

    pub(crate) async fn unpublish(&self, id: &str, target: PathBuf, wait: Duration) -> Result<()> {
        self.unmount(id, "unpublish", target, true, wait)
            .await
            .map_err(|error| error.context(format_args!("unpublishing volume {id}")))
    }

    /// Measures the volume at `path`: where it is staged or published, or kubelet's own map of a raw block volume.
    pub(crate) async fn stats(&self, id: &VolumeId, path: &Path) -> Result<Stats> {
        let located = self.locate(id).await?;
        let Located { pool, volume } =
            located.ok_or_else(|| Error::not_found(format!("volume {id} does not exist")))?;
        let elsewhere = || Error::not_found(format!("volume {id} is not at {}", path.display()));
        let device = pool.device(&volume)?.ok_or_else(elsewhere)?;
        let number = mount::Device::of_node(&device).ok_or_else(elsewhere)?;
        let path = path.to_owned();
        errors::blocking({
            let id = id.clone();
            move || {
                let elsewhere = || Error::not_found(format!("volume {id} is not at {}", path.display()));
                // A bound device, or a link to one: its own number is the proof.
                if let Some(found) = mount::Device::of_node(&path) {
                    if found != number {
                        return Err(elsewhere());
                    }
                    return filesystem::device_size(&device)
                        .map(|size| Stats::Block { size })
                        .map_err(errors::filesystem);
                }
                if !path.is_absolute() {
                    return Err(elsewhere());
                }
                match mount::at(&path).map_err(errors::mount)? {
                    Some(entry) if entry.is_of_device(number) => {
                        filesystem::usage(&path).map(Stats::Filesystem).map_err(errors::filesystem)
                    }
                    _ => Err(elsewhere()),
                }
            }
        })
        .await
    }
}

/// Refuses a second target for a volume that one workload has to itself (CSI `NodePublishVolume`). Binds that kubelet
/// makes of what we published are not publications of their own: sub-paths of a pod, and its map of a raw device.
fn refuse_second(entries: impl Iterator<Item = mount::Entry>, target: &Path) -> Result<()> {
    // As the kernel spells it, a parent of the target may be a link. One mount may show several times at one path, where
    // the kubelet's folder is bound on itself to be shared.
    let here: Vec<PathBuf> =
        mount::all_at(target).map_err(errors::mount)?.into_iter().map(|entry| entry.target).collect();
    let kubelets = |path: &Path| {
        let parts: Vec<_> = path.iter().collect();
        parts.iter().any(|part| *part == "volume-subpaths")
            || parts.windows(3).any(|w| matches!(w, [a, _, c] if *a == "volumeDevices" && *c == "dev"))
    };
    match entries.into_iter().find(|entry| !here.contains(&entry.target) && !kubelets(&entry.target)) {
        None => Ok(()),
        Some(other) => Err(Error::new(
            Reason::Precondition,
            format!("its access mode admits one target, and it is published at {:?} already", other.target),
        )),
    }
}
