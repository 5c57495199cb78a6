//! I/O limits of volumes, in the cgroups of the pods that use them.
//!
//! The record of a volume has its limits; nothing else is stored. What should be in force is compared with what is: when
//! a volume is published or modified, at the start of the plugin, and when the kernel reports a change of the cgroups
//! (see [`follow`]). A cgroup has limits per device, so the limits of two volumes in one pod are independent.
//!
//! If the I/O of volumes is measured (see [`measure`]), volumes without limits are followed, too: the cgroups of their
//! pods need the io controller.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quarry_pool::{Pool, Record};
use quarry_volume::{Error, Result, VolumeId};

use self::cgroup::{Cgroups, Obstacle};
pub(crate) use self::measure::{Measured, PodWaits, VolumeIo};
pub(crate) use self::registry::{Limited, Limits};
use crate::host::Host;

mod cgroup;
mod follow;
mod measure;
mod pod;
mod registry;
mod volume;

impl Host {
    /// Fails if the limits in that record are required, and this host cannot limit.
    pub(crate) fn require_limits_possible(&self, record: &Record) -> Result<()> {
        self.limits().cgroups().check().or_else(|obstacle| required(record, obstacle.error()))
    }

    /// Sets where the cgroups of this host are, and kubelet's `--cgroup-root`. Has no effect after the first volume with
    /// limits was published.
    pub fn set_cgroups(&self, mount: PathBuf, root: &str) {
        let _ = self.limits().inner.cgroups.set(Cgroups::new(mount, root));
    }

    /// Measures the I/O of at most so many volumes in use; 0: of none, which is the default. Has an effect on volumes that
    /// are published, or looked up, later.
    pub fn measure_volumes(&self, max: usize) {
        let _ = self.limits().inner.measured.set(max);
    }

    /// Brings the limits of a volume into force for the pod that it is about to be published for. Returns whether the pod
    /// did not use it before: if the publish fails, they are to be removed.
    ///
    /// # Errors
    /// Only if they are required: `Precondition` if they cannot be in force, `Unavailable` if they are not yet.
    pub(crate) async fn limit_pod(
        &self,
        target: &Path,
        pool: &Arc<dyn Pool>,
        volume: Limited<'_>,
        record: &Record,
    ) -> Result<bool> {
        if !self.limits().follows(record.limits) {
            return Ok(false);
        }
        let Some(uid) = pod::uid(target) else {
            if record.limits.is_none() {
                return Ok(false);
            }
            let why = format!("the target {target:?} is not in the folder of a pod, so that its cgroup is not known");
            if !record.requires_limits {
                tracing::warn!(volume = %volume.id, why, "the I/O limits of a volume are not in force");
            }
            return required(record, Error::precondition(why)).map(|()| false);
        };
        // A write to the cgroup would wait for the disk.
        if let Some(disk) = pool.unresponsive_disks().first() {
            self.limit_later(&volume.id.storage);
            return required(record, Error::unavailable(disk.to_string())).map(|()| false);
        }
        let is_new = self.limits().register(&uid, volume, record.limits);
        if record.limits.is_none() {
            // Nothing waits until it is measured.
            self.limits().enforce_soon(&uid);
            return Ok(is_new);
        }
        let Err(obstacle) = self.limits().enforce(&uid, volume.device).await else { return Ok(is_new) };
        let refused = required(record, obstacle.error());
        if refused.is_err() && is_new {
            self.limits().withdraw(&uid, volume.id).await;
        }
        refused.map(|()| is_new)
    }

    /// Removes the limits of a volume that was unpublished from the pod's cgroup.
    pub(crate) async fn unlimit_pod(&self, target: &Path, id: &VolumeId) {
        if let Some(uid) = pod::uid(target) {
            self.limits().withdraw(&uid, id).await;
        }
    }
}

impl Obstacle {
    /// The same as the error of a call.
    fn error(&self) -> Error {
        match self {
            // kubelet creates the cgroup before it waits for the volumes, and repeats the call.
            Self::NoCgroup(_) | Self::Hangs(_) => Error::unavailable(self.to_string()),
            Self::NotUnified(_) | Self::NoController(_) | Self::NoThrottling(_) | Self::Io { .. } => {
                Error::precondition(self.to_string())
            }
        }
    }
}

/// Rejects a volume whose limits are required and not in force.
fn required(record: &Record, why: Error) -> Result<()> {
    if !record.requires_limits || record.limits.is_none() {
        return Ok(());
    }
    Err(why.context(format_args!(
        "its class has \"limits: required\", and its I/O limits ({}) are not in force",
        record.limits
    )))
}
