//! Encrypted volumes: a LUKS2 header on the device of the pool, and a dm-crypt device on it while the volume is staged.
//!
//! The rules are those of filesystems. Only the record decides whether a header may be written: a `ready` volume never
//! reaches luksFormat, whatever its device contains. The UUID of the header is derived from the volume's own, so a header
//! of an interrupted stage is recognized; it is written again only while no key opens it.
//!
//! The passphrase comes with each stage and is not kept. The kernel has the volume's key while the dm-crypt device exists.

use std::path::Path;
use std::sync::Arc;

use quarry_encryption::{ERASURE, Header, Layer, header_uuid, layer_name};
use quarry_exec::Secret;
use quarry_pool::{Health, Pool, PoolVolume, Record, State};
use quarry_volume::{Discard, Error, Reason, Result, VolumeId};

use crate::agent::unused;
use crate::device::{self, VolumeDevice};
use crate::errors;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::read_only;

/// The key of the passphrase in the node-stage secret.
pub(crate) const PASSPHRASE: &str = "passphrase";

/// How an operator names the Secret, for messages.
const NAMED: &str = "csi.storage.k8s.io/node-stage-secret-name and -namespace in the StorageClass, and in the PV";

impl Host {
    /// Opens an encrypted volume, unless it is open, and returns its devices. The first stage of a `new` volume writes the
    /// header. The caller's task holds the volume's name.
    ///
    /// # Errors
    /// `Precondition` if the passphrase is missing or wrong, or if the device does not contain the volume's header:
    /// nothing was changed. `UnderWay` while a program of an earlier call still works on it.
    pub(crate) async fn open_encrypted(
        &self,
        id: &VolumeId,
        pool: &Arc<dyn Pool>,
        volume: &PoolVolume,
        record: &Record,
        passphrase: Option<&Secret>,
    ) -> Result<VolumeDevice> {
        let kernel = self.kernel();
        let found = device::activate(&**kernel, pool, volume).await?;
        if let Some(layer) = &found.layer {
            fit(kernel, &found.raw, layer).await?;
            return Ok(found);
        }
        let passphrase = passphrase.ok_or_else(|| {
            Error::precondition(format!(
                "it is encrypted, and the call has no secret with the key {PASSPHRASE:?}; nothing was changed: name the \
                 Secret ({NAMED})"
            ))
        })?;
        let uuid = header_uuid(&volume.uuid());
        match (header(kernel, &found.raw).await?, record.state) {
            (Header::Complete { uuid: own }, _) if own == uuid => {}
            (Header::Unfinished { uuid: own }, State::New) if own == uuid => {
                tracing::warn!(volume = volume.name, "writing the LUKS2 header again: its creation was interrupted");
                kernel.format_encrypted(&found.raw, uuid, passphrase).await?;
            }
            // Whether it is blank is checked there.
            (Header::None, State::New) => kernel.format_encrypted(&found.raw, uuid, passphrase).await?,
            (other, State::New) => {
                return Err(Error::precondition(format!(
                    "it is new, but it contains {}, which Quarry did not make; nothing was changed: if this data is not \
                     needed, delete the volume and request it again",
                    other.description()
                )));
            }
            (other, State::Ready) => {
                return Err(Error::precondition(format!(
                    "it was used before and should contain a LUKS2 header with UUID {uuid}, but it contains {}; Quarry \
                     never writes a header to such a volume: restore the header from a backup, or delete the volume",
                    other.description()
                )));
            }
        }
        let discards = record.discard.is_some_and(|discard| discard != Discard::None);
        let name = layer_name(&id.to_string());
        let opened = kernel.open_encrypted(&found.raw, uuid, &name, passphrase, discards).await;
        opened.map_err(|error| match error.reason {
            Reason::Precondition => error.context(format_args!("the Secret named by {NAMED}")),
            _ => error,
        })?;
        let opened = VolumeDevice::on(&**kernel, found.raw);
        match opened.layer {
            Some(_) => Ok(opened),
            None => Err(Error::host(format!("cryptsetup opened {}, but sysfs does not show it", opened.raw.display()))),
        }
    }

    /// Gives the open device of an encrypted volume its size after an expansion. The next stage does this, too.
    pub(crate) async fn fit_encrypted(&self, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<()> {
        if volume.record()?.encryption.is_none() {
            return Ok(());
        }
        match device::active(&**self.kernel(), pool, volume)? {
            Some(VolumeDevice { raw, layer: Some(layer), .. }) => fit(self.kernel(), &raw, &layer).await,
            _ => Ok(()),
        }
    }

    /// Closes the device of an encrypted volume after it was unstaged, so that the kernel forgets the key. Keeps it while
    /// it is used elsewhere. Asks only the kernel, so it works without the pool, and for any volume. The caller's task
    /// holds the volume's name.
    pub(crate) async fn close_encrypted(&self, id: &VolumeId) -> Result<()> {
        let (kernel, wanted, name) = (Arc::clone(self.kernel()), id.clone(), layer_name(&id.to_string()));
        let unused = errors::blocking(move || {
            let Some(layer) = kernel.layer_named(&name) else { return Ok(None) };
            let checked =
                unused(&*kernel, &layer.node).and_then(|()| read_only::require_unpublished(&*kernel, &wanted));
            Ok(Some((layer, checked)))
        });
        match unused.await? {
            None => Ok(()),
            Some((layer, Ok(()))) => self.kernel().close_encrypted(&layer.name).await,
            Some((_, Err(error))) => {
                tracing::info!(volume = %id, %error, "an encrypted volume stays open");
                Ok(())
            }
        }
    }

    /// Makes an encrypted volume unreadable before it is removed: closes it, and overwrites its key slots and its header.
    /// Nothing may use it. A volume whose storage is lost is left as it is.
    ///
    /// # Errors
    /// As [`Pool::check_removable`]; `UnderWay` if something holds the device.
    pub(crate) async fn erase_encrypted(&self, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<()> {
        if let Health::Lost(why) | Health::Incomplete(why) = &volume.health {
            tracing::warn!(volume = volume.name, why, "the keys of a deleted volume are not erased");
            return Ok(());
        }
        pool.check_removable(volume).await?;
        let kernel = self.kernel();
        let VolumeDevice { raw, layer, .. } = device::activate(&**kernel, pool, volume).await?;
        if let Some(layer) = layer {
            kernel.close_encrypted(&layer.name).await?;
        }
        if header(kernel, &raw).await? == Header::None {
            return Ok(());
        }
        let kernel = Arc::clone(kernel);
        errors::blocking(move || {
            let held = kernel.exclusive(&raw)?;
            for bytes in ERASURE {
                held.zero_range(bytes)?;
                held.flush().map_err(|error| {
                    Error::host(format!("cannot flush the erasure of the keys: {error}; see the kernel log"))
                })?;
            }
            Ok(())
        })
        .await
        .map_err(|error| error.context("erasing its keys"))
    }
}

/// The header on a pool's device.
pub(crate) async fn header(kernel: &Arc<dyn Kernel>, raw: &Path) -> Result<Header> {
    let (kernel, raw) = (Arc::clone(kernel), raw.to_owned());
    errors::blocking(move || kernel.header(&raw)).await
}

/// Makes a layer larger if the device below has grown.
async fn fit(kernel: &Arc<dyn Kernel>, raw: &Path, layer: &Layer) -> Result<()> {
    let (sizes, below) = (Arc::clone(kernel), raw.to_owned());
    let size = errors::blocking(move || sizes.device_size(&below)).await?;
    if !layer.is_smaller(size) || quarry_fault::disabled("fit-encrypted") {
        return Ok(());
    }
    kernel.resize_encrypted(&layer.name).await
}
