//! Usage statistics of a volume that is staged or published.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_filesystem::{Trouble, Usage};
use quarry_mount::Device;
use quarry_volume::{Error, Reason, Result, VolumeId};

use crate::condition::{Check, RECOVERY, condition};
use crate::host::{Host, Located};
use crate::kernel::Kernel;
use crate::{device, identity};

/// How long a pool may take to find the volume's device, if the kernel's answer is not conclusive.
const QUESTION: Duration = Duration::from_secs(20);

/// The result of NodeGetVolumeStats, in bytes and inodes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stats {
    Filesystem(Usage),
    Block { size: u64 },
}

/// What was found at a path.
enum AtPath {
    /// The volume.
    Volume(Stats),
    /// The volume, but its filesystem does not work.
    Failed(Trouble),
    /// Something that only the volume's pool can identify.
    Unproven,
    /// Nothing, or something that is not this volume.
    Nothing,
}

impl Host {
    /// Measures the volume at `path`, where it is staged or published, or at kubelet's own map of a raw block
    /// volume. Fails if the filesystem does not work.
    pub(crate) async fn stats(&self, id: &VolumeId, path: &Path) -> Result<Stats> {
        self.stats_now(id, path).await.map_err(|error| error.context(format_args!("measuring volume {id}")))
    }

    async fn stats_now(&self, id: &VolumeId, path: &Path) -> Result<Stats> {
        let elsewhere = || Error::not_found(format!("it is not at {}", path.display()));
        if !path.is_absolute() {
            return Err(elsewhere());
        }
        let mut found = self.identify_at(id, path, None).await?;
        if matches!(found, AtPath::Unproven) {
            let device = self.asked_device(id).await?.ok_or_else(elsewhere)?;
            found = self.identify_at(id, path, Some(device)).await?;
        }
        match found {
            AtPath::Volume(stats) => {
                self.publisher().set_filesystem_problem(id, None);
                Ok(stats)
            }
            AtPath::Failed(trouble) => {
                self.publisher().set_filesystem_problem(id, Some(trouble.to_string()));
                Err(Error::precondition(format!("{trouble}; {RECOVERY}")))
            }
            AtPath::Unproven | AtPath::Nothing => Err(elsewhere()),
        }
    }

    /// Checks what is at the path. `device`: the volume's device according to its pool; if `None`, only the
    /// kernel is asked.
    async fn identify_at(&self, id: &VolumeId, path: &Path, device: Option<Device>) -> Result<AtPath> {
        let (kernel, wanted, path) = (Arc::clone(self.kernel()), id.clone(), path.to_owned());
        self.checks().run(&id.to_string(), move || identify(&*kernel, &wanted, path, device)).await
    }

    /// The device of the volume according to its pool. `None`: it is not active.
    async fn asked_device(&self, id: &VolumeId) -> Result<Option<Device>> {
        let located = tokio::time::timeout(QUESTION, self.locate(id)).await.map_err(|_| {
            Error::new(Reason::Unavailable, format!("its pool did not answer within {} s", QUESTION.as_secs()))
        })??;
        let Located { pool, volume } = located.ok_or_else(|| Error::not_found("it does not exist"))?;
        Ok(device::active(&pool, &volume)?.and_then(|device| self.kernel().number(&device.top)))
    }
}

fn identify(kernel: &dyn Kernel, id: &VolumeId, path: PathBuf, device: Option<Device>) -> Result<AtPath> {
    // A bind-mounted device, or a link to one: its device number is conclusive.
    if let Some(found) = kernel.number(&path) {
        if device == Some(found) || identity::is_volume(kernel, found, id) {
            let size = kernel.device_size(&path)?;
            return Ok(AtPath::Volume(Stats::Block { size }));
        }
        return Ok(if device.is_some() { AtPath::Nothing } else { AtPath::Unproven });
    }
    let Some(entry) = kernel.at(&path)? else { return Ok(AtPath::Nothing) };
    if !device.is_some_and(|device| kernel.is_of_device(&entry, device)) && !identity::is_mounted(kernel, &entry, id) {
        return Ok(if device.is_some() { AtPath::Nothing } else { AtPath::Unproven });
    }
    if let Some(trouble) = condition(kernel, &entry, Check::Stats) {
        return Ok(AtPath::Failed(trouble));
    }
    let usage = kernel.usage(&path)?;
    Ok(AtPath::Volume(Stats::Filesystem(usage)))
}
