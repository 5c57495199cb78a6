//! The figures of a volume where it is staged or published.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quarry_filesystem as filesystem;
use quarry_mount as mount;
use quarry_volume::{Error, Reason, Result, VolumeId};

use crate::condition::{Look, RECOVERY, condition};
use crate::host::{Host, Located};
use crate::{errors, kernel};

/// How long a pool may take to say which device is the volume's, where the kernel's word is no proof.
const QUESTION: Duration = Duration::from_secs(20);

/// What NodeGetVolumeStats answers, in bytes and inodes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stats {
    Filesystem(filesystem::Usage),
    Block { size: u64 },
}

/// What was found at a path.
enum AtPath {
    /// The volume.
    Volume(Stats),
    /// The volume, whose filesystem does not serve.
    Ailing(filesystem::Trouble),
    /// Something that the volume's pool has to name.
    Unproven,
    /// Nothing that could be a volume.
    Nothing,
}

impl Host {
    /// Measures the volume at `path`: where it is staged or published, or kubelet's own map of a raw block volume. A
    /// filesystem that does not serve has no figures.
    pub(crate) async fn stats(&self, id: &VolumeId, path: &Path) -> Result<Stats> {
        self.stats_now(id, path).await.map_err(|error| error.context(format_args!("measuring volume {id}")))
    }

    async fn stats_now(&self, id: &VolumeId, path: &Path) -> Result<Stats> {
        let elsewhere = || Error::not_found(format!("it is not at {}", path.display()));
        if !path.is_absolute() {
            return Err(elsewhere());
        }
        let mut found = self.look_at(id, path, None).await?;
        if matches!(found, AtPath::Unproven) {
            let device = self.asked_device(id).await?.ok_or_else(elsewhere)?;
            found = self.look_at(id, path, Some(device)).await?;
        }
        match found {
            AtPath::Volume(stats) => {
                self.publisher().set_trouble(id, None);
                Ok(stats)
            }
            AtPath::Ailing(trouble) => {
                self.publisher().set_trouble(id, Some(trouble.to_string()));
                Err(Error::precondition(format!("{trouble}; {RECOVERY}")))
            }
            AtPath::Unproven | AtPath::Nothing => Err(elsewhere()),
        }
    }

    /// Looks at the path. `device`: the volume's own, by its pool's word; by the kernel's alone where none is given.
    async fn look_at(&self, id: &VolumeId, path: &Path, device: Option<mount::Device>) -> Result<AtPath> {
        let (wanted, path) = (id.clone(), path.to_owned());
        self.looks().run(&id.to_string(), move || look(&wanted, path, device)).await
    }

    /// The device of the volume, by its pool's word. `None`: it is not active.
    async fn asked_device(&self, id: &VolumeId) -> Result<Option<mount::Device>> {
        let located = tokio::time::timeout(QUESTION, self.locate(id)).await.map_err(|_| {
            Error::new(Reason::Unavailable, format!("its pool has not answered for {} s", QUESTION.as_secs()))
        })??;
        let Located { pool, volume } = located.ok_or_else(|| Error::not_found("it does not exist"))?;
        Ok(pool.device(&volume)?.and_then(|device| mount::Device::of_node(&device)))
    }
}

fn look(id: &VolumeId, path: PathBuf, device: Option<mount::Device>) -> Result<AtPath> {
    // A bound device, or a link to one: its own number is the proof.
    if let Some(found) = mount::Device::of_node(&path) {
        if device == Some(found) || kernel::is_volume(found, id) {
            let size = filesystem::device_size(&path).map_err(errors::filesystem)?;
            return Ok(AtPath::Volume(Stats::Block { size }));
        }
        return Ok(if device.is_some() { AtPath::Nothing } else { AtPath::Unproven });
    }
    let Some(entry) = mount::at(&path).map_err(errors::mount)? else { return Ok(AtPath::Nothing) };
    if !device.is_some_and(|device| entry.is_of_device(device)) && !kernel::is_mounted(&entry, id) {
        return Ok(if device.is_some() { AtPath::Nothing } else { AtPath::Unproven });
    }
    if let Some(trouble) = condition(&entry, Look::Glance) {
        return Ok(AtPath::Ailing(trouble));
    }
    let usage = filesystem::usage(&path).map_err(errors::filesystem)?;
    Ok(AtPath::Volume(Stats::Filesystem(usage)))
}
