//! Grows the filesystem of a volume until it covers its device: in NodeExpandVolume, and after every stage.
//!
//! Both compare the filesystem with the device every time. So a growth that was interrupted is
//! completed, and so is that of a volume for which kubelet never calls NodeExpandVolume.
//!
//! The volume itself is expanded in [`crate::expand`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_filesystem::Coverage;
use quarry_pool::PoolVolume;
use quarry_volume::{Error, Filesystem, Reason, Result, SizeRange, VolumeId};

use crate::condition::{Check, RECOVERY};
use crate::host::{Host, Located};
use crate::place::Place;
use crate::{device, errors};

/// How long a pool may take to look up a volume ID: a little longer than a report may take.
const QUESTION: Duration = Duration::from_secs(40);

/// How many times as large as it was made an xfs may become without a warning. Its allocation groups keep their size,
/// so their number grows with it, and very many of them slow mounts and allocation down.
const XFS_GROWTH: u64 = 10;
/// The number of allocation groups that mkfs.xfs makes, unless the device is very large or striped.
const XFS_GROUPS: u64 = 4;

/// The parameters of NodeExpandVolume.
#[derive(Clone, Debug)]
pub(crate) struct Grow {
    pub(crate) id: VolumeId,
    /// Where the volume is staged or published.
    pub(crate) path: PathBuf,
    /// The size that the volume should have.
    pub(crate) size: SizeRange,
}

impl Host {
    /// Grows the filesystem of a volume until it covers its device. A raw block volume has nothing to grow. Returns
    /// the size of the device in bytes.
    ///
    /// # Errors
    /// `NotFound` if the volume is not at the path. `Precondition` if it is read-only there, or if its filesystem
    /// cannot grow. `Unavailable` if its device is smaller than requested.
    pub(crate) async fn grow_filesystem(&self, grow: Grow, wait: Duration) -> Result<u64> {
        let host = self.clone();
        let id = grow.id.clone();
        self.tasks()
            .run(&id.volume, "grow", wait, |_| async move { host.grow_now(grow).await })
            .await
            .map_err(|error| error.context(format_args!("growing volume {id} on its node")))
    }

    async fn grow_now(&self, grow: Grow) -> Result<u64> {
        let Grow { id, path, size } = grow;
        let place = self.at_path(&id, &path, |_, _, place| Ok(place)).await?;
        if let Place::Filesystem(entry) = &place
            && entry.read_only()
        {
            return Err(Error::precondition(format!(
                "it is mounted read-only at {}, and a filesystem grows only where it is mounted writable",
                path.display()
            )));
        }
        let located = tokio::time::timeout(QUESTION, self.locate(&id)).await.map_err(|_| {
            Error::unavailable(format!("its pool did not answer within {} s; retry", QUESTION.as_secs()))
        })??;
        let Located { pool, volume } = located.ok_or_else(|| Error::not_found("it does not exist"))?;
        // If an expansion was interrupted, this gives the devices the size of the volume.
        let device = device::activate(&**self.kernel(), &pool, &volume).await?.usable(volume.record()?)?;
        self.fit_encrypted(&pool, &volume).await?;
        let bytes = self.device_size(&device).await?;
        if bytes < size.required {
            return Err(Error::unavailable(format!(
                "its device {} has {bytes} bytes, but {} are required: ControllerExpandVolume has not completed; a \
                 retry succeeds once it has",
                device.display(),
                size.required
            )));
        }
        if let Some(limit) = size.limit.filter(|limit| *limit < bytes) {
            return Err(Error::new(
                Reason::SizeOutOfRange,
                format!("it has {bytes} bytes, more than the limit of {limit}, and cannot be made smaller"),
            ));
        }
        let number = self.kernel().number(&device);
        match place {
            Place::Block(found) if number == Some(found) => {}
            Place::Block(_) => {
                return Err(Error::precondition(format!(
                    "it is published read-only at {}, where it keeps its size until it is published again",
                    path.display()
                )));
            }
            Place::Filesystem(entry) => {
                if !number.is_some_and(|number| self.kernel().is_of_device(&entry, number)) {
                    return Err(Error::not_found(format!("it is not at {}", path.display())));
                }
                if let Some(trouble) = self.condition(&id, entry.clone(), Check::Stats).await? {
                    return Err(Error::precondition(format!("{trouble}; {RECOVERY}")));
                }
                let kind = entry.fstype.parse().map_err(|_| {
                    Error::host(format!("Quarry cannot grow {}, which is mounted at {}", entry.fstype, path.display()))
                })?;
                self.cover(&id, &volume, kind, &device, &entry.target).await?;
            }
        }
        Ok(bytes)
    }

    /// Grows a filesystem that was just staged, if it does not cover its device. A failure does not fail the stage,
    /// because what is on the volume must stay reachable: it is logged and shown as the volume's problem, and
    /// NodeExpandVolume returns it.
    pub(crate) async fn grow_staged(
        &self,
        id: &VolumeId,
        volume: &PoolVolume,
        kind: Filesystem,
        device: &Path,
        staging: &Path,
    ) {
        if quarry_fault::disabled("grow-at-stage") {
            return;
        }
        // The problem is stored and logged.
        let _ = self.cover(id, volume, kind, device, staging).await;
    }

    /// Grows the filesystem that is mounted writable at `mounted`, until it covers its device, and stores the result
    /// as the volume's problem.
    async fn cover(
        &self,
        id: &VolumeId,
        volume: &PoolVolume,
        kind: Filesystem,
        device: &Path,
        mounted: &Path,
    ) -> Result<()> {
        let result = self.cover_now(volume, kind, device, mounted).await;
        self.publisher().set_growth_problem(id, result.as_ref().err().map(|error| error.message.clone()));
        result
    }

    async fn cover_now(&self, volume: &PoolVolume, kind: Filesystem, device: &Path, mounted: &Path) -> Result<()> {
        let (kernel, node, target) = (Arc::clone(self.kernel()), device.to_owned(), mounted.to_owned());
        let before = errors::blocking(move || kernel.coverage(kind, &node, &target)).await?;
        if before.is_complete() {
            return Ok(());
        }
        tracing::info!(volume = volume.name, %kind, from = before.filesystem, to = before.possible, "growing a filesystem");
        let after = self.kernel().grow(kind, device, mounted).await?;
        tracing::info!(volume = volume.name, %kind, size = after.filesystem, "a filesystem was grown");
        let made = volume.record().map_or(0, |record| record.size);
        if has_too_many_groups(&after, made) {
            tracing::warn!(
                volume = volume.name,
                size = after.filesystem,
                groups = after.groups,
                "an xfs is now more than {XFS_GROWTH} times as large as it was made; its many small allocation groups \
                 make it slow: see docs/growing.md"
            );
        }
        Ok(())
    }

    async fn device_size(&self, device: &Path) -> Result<u64> {
        let (kernel, device) = (Arc::clone(self.kernel()), device.to_owned());
        errors::blocking(move || kernel.device_size(&device)).await
    }
}

/// Whether an xfs has become much larger than it was made. `made`: the size that the volume was created with. The
/// filesystem may have been made later, on a volume that was expanded: then it has few groups.
fn has_too_many_groups(xfs: &Coverage, made: u64) -> bool {
    xfs.filesystem > made.saturating_mul(XFS_GROWTH) && u64::from(xfs.groups) > XFS_GROUPS * XFS_GROWTH
}
