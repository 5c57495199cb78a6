//! Finds a volume at a path of kubelet: where it is staged or published, or kubelet's own map of a raw block volume.
//!
//! The kernel is asked first. Only if its answer is not conclusive is the volume's pool asked, so an unresponsive pool
//! blocks nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quarry_mount::{Device, Entry};
use quarry_volume::{Error, Reason, Result, VolumeId};

use crate::host::{Host, Located};
use crate::kernel::Kernel;
use crate::{device, identity};

/// How long a pool may take to find the volume's device.
const QUESTION: Duration = Duration::from_secs(20);

/// How a volume is present at a path.
pub(crate) enum Place {
    /// Its filesystem is mounted there.
    Filesystem(Entry),
    /// The device with that number is there: its own one, or a read-only mapping of it.
    Block(Device),
}

/// What was found at a path.
enum Found<T> {
    /// The volume, and the result of the caller's work.
    Volume(T),
    /// Something that only the volume's pool can identify.
    Unproven,
    /// Nothing, or something that is not this volume.
    Nothing,
}

impl Host {
    /// Finds the volume at the path and passes its place to `work`, which may block.
    ///
    /// # Errors
    /// `NotFound` if it is not there; `Unavailable` if its disk does not answer. Otherwise the error of `work`.
    pub(crate) async fn at_path<T: Send + 'static>(
        &self,
        id: &VolumeId,
        path: &Path,
        work: fn(&dyn Kernel, &Path, Place) -> Result<T>,
    ) -> Result<T> {
        let elsewhere = || Error::not_found(format!("it is not at {}", path.display()));
        if !path.is_absolute() {
            return Err(elsewhere());
        }
        let mut found = self.identify_at(id, path, None, work).await?;
        if matches!(found, Found::Unproven) {
            let device = self.asked_device(id).await?.ok_or_else(elsewhere)?;
            found = self.identify_at(id, path, Some(device), work).await?;
        }
        match found {
            Found::Volume(result) => Ok(result),
            Found::Unproven | Found::Nothing => Err(elsewhere()),
        }
    }

    /// Checks what is at the path. `device`: the volume's device according to its pool; if `None`, only the
    /// kernel is asked.
    async fn identify_at<T: Send + 'static>(
        &self,
        id: &VolumeId,
        path: &Path,
        device: Option<Device>,
        work: fn(&dyn Kernel, &Path, Place) -> Result<T>,
    ) -> Result<Found<T>> {
        let (kernel, wanted, path) = (Arc::clone(self.kernel()), id.clone(), path.to_owned());
        let check = move || match identify(&*kernel, &wanted, &path, device)? {
            Found::Volume(place) => Ok(Found::Volume(work(&*kernel, &path, place)?)),
            Found::Unproven => Ok(Found::Unproven),
            Found::Nothing => Ok(Found::Nothing),
        };
        self.checks().run(&id.to_string(), check).await
    }

    /// The device of the volume according to its pool. `None`: it is not active.
    async fn asked_device(&self, id: &VolumeId) -> Result<Option<Device>> {
        let located = tokio::time::timeout(QUESTION, self.locate(id)).await.map_err(|_| {
            Error::new(Reason::Unavailable, format!("its pool did not answer within {} s", QUESTION.as_secs()))
        })??;
        let Located { pool, volume } = located.ok_or_else(|| Error::not_found("it does not exist"))?;
        Ok(device::active(&**self.kernel(), &pool, &volume)?.and_then(|device| self.kernel().number(&device.top)))
    }
}

fn identify(kernel: &dyn Kernel, id: &VolumeId, path: &Path, device: Option<Device>) -> Result<Found<Place>> {
    let other = if device.is_some() { Found::Nothing } else { Found::Unproven };
    // A bind-mounted device, or a link to one: its device number is conclusive.
    if let Some(found) = kernel.number(path) {
        let is_volume = device == Some(found) || identity::is_volume(kernel, found, id);
        return Ok(if is_volume { Found::Volume(Place::Block(found)) } else { other });
    }
    let Some(entry) = kernel.at(path)? else { return Ok(Found::Nothing) };
    let is_volume =
        device.is_some_and(|device| kernel.is_of_device(&entry, device)) || identity::is_mounted(kernel, &entry, id);
    Ok(if is_volume { Found::Volume(Place::Filesystem(entry)) } else { other })
}
