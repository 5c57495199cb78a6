//! Encrypted volumes: a LUKS2 header on the device of the pool, and a dm-crypt device on it while the volume is staged.
//!
//! The rules are those of filesystems. Only the record decides whether a header may be written: a `ready` volume never
//! reaches luksFormat, whatever its device contains. The UUID of the header is derived from the volume's own, so a header
//! of an interrupted stage is recognized; it is written again only while no key opens it.
//!
//! The passphrase comes with each stage and is not kept. The kernel has the volume's key while the dm-crypt device exists.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use quarry_encryption::{ERASURE, Header, Layer, header_uuid, layer_name};
use quarry_exec::Secret;
use quarry_pool::{Health, Pool, PoolSnapshot, PoolVolume, Record, SnapshotHealth, SnapshotKind, State};
use quarry_volume::{Discard, Error, Reason, Result, VolumeId};

use crate::agent::unused;
use crate::device::{self, VolumeDevice};
use crate::errors;
use crate::host::Host;
use crate::kernel::{HeldDevice, Kernel};
use crate::read_only;

/// The key of the passphrase in the node-stage secret.
pub(crate) const PASSPHRASE: &str = "passphrase";

/// How an operator names the Secret, for messages.
const NAMED: &str = "csi.storage.k8s.io/node-stage-secret-name and -namespace in the StorageClass, and in the PV";

impl Host {
    /// Opens an encrypted volume, unless it is open, and returns its devices. The first stage of a `new` volume writes the
    /// header. `mounted`: whether it is used through its filesystem, whose discards the class may let through. The caller's
    /// task holds the volume's name.
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
        mounted: bool,
    ) -> Result<VolumeDevice> {
        let kernel = self.kernel();
        let found = device::activate(&**kernel, pool, volume).await?;
        if let Some(layer) = &found.layer {
            fit_staged(kernel, volume, &found.raw, layer, mounted).await?;
            return Ok(found);
        }
        let name = layer_name(&id.to_string());
        self.close_stale_layer(id, &name).await?;
        let passphrase = passphrase.ok_or_else(|| {
            Error::precondition(format!(
                "it is encrypted, and the call has no secret with the key {PASSPHRASE:?}; nothing was changed: name a \
                 Secret that has it ({NAMED})"
            ))
        })?;
        let uuid = header_uuid(&volume.uuid());
        match (header(kernel, &found.raw).await?, record.state) {
            (Header::Complete { uuid: own }, _) if own == uuid => {}
            (Header::Unfinished { uuid: own }, State::New) if own == uuid => {
                tracing::warn!(volume = volume.name, "writing the LUKS2 header again: its creation was interrupted");
                kernel.format_encrypted(&found.raw, uuid, &name, passphrase).await?;
            }
            // Whether it is blank is checked there.
            (Header::None, State::New) => kernel.format_encrypted(&found.raw, uuid, &name, passphrase).await?,
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
        let discards = mounted && record.discard.is_some_and(|discard| discard != Discard::None);
        let opened = kernel.open_encrypted(&found.raw, &name, passphrase, discards).await;
        opened.map_err(|error| match (error.reason, record.state) {
            (Reason::Precondition, State::Ready) => {
                let mut error = error.context(format_args!("the Secret named by {NAMED}"));
                if let Some(source) = &record.source {
                    error.message.push_str(&format!(
                        "; a copy has the passphrases that its source ({source}) had when it was copied"
                    ));
                }
                error
            }
            (Reason::Precondition, State::New) => {
                let mut error = error.context(format_args!("the Secret named by {NAMED}"));
                error.message.push_str(
                    "; the volume was never used: restore the passphrase of its first stage, or delete the volume and \
                     request it again",
                );
                error
            }
            _ => error,
        })?;
        let opened = VolumeDevice::on(&**kernel, found.raw);
        match &opened.layer {
            Some(layer) => {
                // cryptsetup reads the size of the pool's device before it makes the layer. An expansion in between has
                // found no layer. One that comes later finds it.
                fit_staged(kernel, volume, &opened.raw, layer, mounted).await?;
                Ok(opened)
            }
            None => Err(Error::host(format!("cryptsetup opened {}, but sysfs does not show it", opened.raw.display()))),
        }
    }

    /// Closes the open device of the volume if it is on another device than the volume is now: its disk was pulled while
    /// it was open, and is back under another number.
    async fn close_stale_layer(&self, id: &VolumeId, name: &str) -> Result<()> {
        match self.unused_layer(id, name).await? {
            None => Ok(()),
            Some((layer, Ok(()))) => {
                tracing::warn!(volume = %id, name = layer.name, "closing an encrypted device whose disk is gone");
                self.kernel().close_encrypted(&layer).await
            }
            Some((layer, Err(error))) => Err(error.context(format_args!(
                "its disk was gone and is back as another device, but the encrypted device on the old one, {}, is still \
                 open",
                layer.name
            ))),
        }
    }

    /// Fails if the open device of an encrypted volume is in use, or if a read-only mapping of any volume with that
    /// identifier is published.
    pub(crate) async fn require_layer_unused(&self, id: &VolumeId) -> Result<()> {
        if let Some((_, unused)) = self.unused_layer(id, &layer_name(&id.to_string())).await? {
            return unused;
        }
        if !read_only::is_mapped(&**self.kernel(), id)? {
            return Ok(());
        }
        let (kernel, wanted) = (Arc::clone(self.kernel()), id.clone());
        errors::blocking(move || read_only::require_unpublished(&*kernel, &wanted)).await
    }

    /// The dm-crypt device with that name, and whether nothing uses it that this process can see. Asks only the kernel.
    async fn unused_layer(&self, id: &VolumeId, name: &str) -> Result<Option<(Layer, Result<()>)>> {
        // Most volumes have no such device. Then this starts no thread.
        let Some(layer) = self.kernel().layer_named(name) else { return Ok(None) };
        let (kernel, wanted) = (Arc::clone(self.kernel()), id.clone());
        errors::blocking(move || {
            let checked =
                unused(&*kernel, &layer.node).and_then(|()| read_only::require_unpublished(&*kernel, &wanted));
            Ok(Some((layer, checked)))
        })
        .await
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

    /// Closes the device of an encrypted volume after it was unstaged, or could not be staged, so that the kernel forgets
    /// the key. If anything uses it, it stays open. Asks only the kernel, so it works without the pool, and for any volume.
    /// The caller's task holds the volume's name.
    pub(crate) async fn close_encrypted(&self, id: &VolumeId) {
        let closed = async {
            match self.unused_layer(id, &layer_name(&id.to_string())).await? {
                None => Ok(()),
                Some((_, Err(error))) => Err(error),
                Some((layer, Ok(()))) => self.kernel().close_encrypted(&layer).await,
            }
        };
        if let Err(error) = closed.await {
            // The answer to the call does not depend on it. The next unstage, or its deletion, closes it.
            tracing::warn!(volume = %id, %error, "an encrypted volume stays open, and the kernel keeps its key");
        }
    }

    /// Makes an encrypted volume unreadable before it is removed: closes it, and overwrites its key slots and its header.
    /// Nothing may use it. What cannot be overwritten, because its disk is lost or fails, is logged.
    ///
    /// # Errors
    /// As [`Pool::check_removable`]; `UnderWay` if something holds the device.
    pub(crate) async fn erase_encrypted(&self, id: &VolumeId, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<()> {
        let (kernel, name) = (self.kernel(), layer_name(&id.to_string()));
        if let Some((layer, unused)) = self.unused_layer(id, &name).await? {
            unused?;
            kernel.close_encrypted(&layer).await?;
        }
        let is_lost = matches!(volume.health, Health::Lost(_) | Health::Incomplete(_));
        if device::active(&**kernel, pool, volume)?.is_some() && !is_lost {
            // Without this, a deactivation after an unstage could remove the device in between.
            let device = device::activate(&**kernel, pool, volume).await?;
            let (kernel, name) = (Arc::clone(kernel), name.clone());
            errors::blocking(move || kernel.remove_unfinished(&device.raw, &name)).await?;
        }
        pool.check_removable(volume).await?;
        let raw = match device::activate(&**kernel, pool, volume).await {
            Ok(device) => device.raw,
            Err(error) if is_lost => {
                tracing::warn!(volume = volume.name, %error, "the keys of a deleted volume are not erased");
                return Ok(());
            }
            Err(error) => {
                return Err(error.context(
                    "its keys must be erased before it is removed, and for that its device is needed (mend what \
                     prevents that, or remove the volume by hand)",
                ));
            }
        };
        let (kernel, pool, volume) = (Arc::clone(kernel), Arc::clone(pool), volume.clone());
        errors::blocking(move || {
            let held = kernel.hold_encrypted(&raw, &name)?;
            // While it is held, its node stays the same.
            if pool.device(&volume)?.as_ref() != Some(&raw) {
                return Err(Error::new(Reason::UnderWay, "its device has just changed; retry"));
            }
            match (kernel.header(&raw), volume.record()?.state) {
                // It was never staged.
                (Ok(Header::None), State::New) if !volume.record()?.filling => return Ok(()),
                // While it is being filled, it contains the header of its source, and was never handed out.
                (Ok(Header::Complete { uuid }), _)
                    if uuid != header_uuid(&volume.uuid()) && !volume.record()?.filling =>
                {
                    tracing::warn!(volume = volume.name, %uuid, "a deleted volume contains a LUKS2 header of another \
                                                                 device, which is not erased");
                    return Ok(());
                }
                // Damaged, or erased by hand in part: key slots may be left.
                _ => {}
            }
            if let Err(error) = erase(&*held) {
                tracing::error!(volume = volume.name, %error, "keys of a deleted volume may be left on its disk");
            } else if let Health::Degraded(why) = &volume.health {
                // What is written does not reach an image that has failed.
                tracing::error!(volume = volume.name, why, "keys of a deleted volume may be left on a failed disk");
            }
            Ok(())
        })
        .await
        .map_err(|error| error.context("erasing its keys"))
    }
}

impl Host {
    /// Overwrites the key slots and the header in a full copy of an encrypted volume before it is removed, so that its
    /// space does not contain them any more. Snapshots that share their space with the volume have no space of their own
    /// to overwrite. What cannot be overwritten, because its disk is lost or fails, is logged.
    ///
    /// # Errors
    /// As [`Pool::activate_for_removal`]; `UnderWay` if something holds the device.
    pub(crate) async fn erase_copied_keys(&self, pool: &Arc<dyn Pool>, snapshot: &PoolSnapshot) -> Result<()> {
        let record = &snapshot.record;
        let is_copy = matches!(record.kind, SnapshotKind::Copy { .. });
        if record.encryption.is_none() || !is_copy || record.empty {
            return Ok(());
        }
        if let SnapshotHealth::Lost(why) | SnapshotHealth::Incomplete(why) = &snapshot.health {
            tracing::warn!(snapshot = snapshot.name, why, "the keys in a deleted snapshot are not erased");
            return Ok(());
        }
        let erased = async {
            let node = pool.activate_for_removal(snapshot).await?.node()?;
            let (kernel, opened) = (Arc::clone(self.kernel()), node.clone());
            let held = errors::blocking(move || kernel.exclusive(&opened)).await?;
            // While it is held, its node stays the same.
            let now = pool.activate_for_removal(snapshot).await.and_then(|device| device.node());
            if now.as_ref().ok() != Some(&node) {
                errors::dropped(held).await;
                now?;
                return Err(Error::new(Reason::UnderWay, "its device has just changed; retry"));
            }
            let name = snapshot.name.clone();
            errors::blocking(move || {
                if let Err(error) = erase(&*held) {
                    tracing::error!(snapshot = name, %error, "keys of a deleted snapshot may be left on its disk");
                }
                Ok(())
            })
            .await?;
            // udev looks at it now, and what is open is not removed.
            pool.deactivate_snapshot(snapshot, Instant::now()).await
        };
        erased.await.map_err(|error| error.context("erasing its keys before it is removed"))
    }
}

/// How many bytes are overwritten at once: the key slots beside a bad sector are overwritten, too.
const PIECE: usize = 1 << 20;

/// Overwrites the key slots, then the header. Goes on after an error, which is returned in the end.
fn erase(held: &dyn HeldDevice) -> Result<()> {
    let mut result = Ok(());
    for bytes in ERASURE {
        for start in bytes.clone().step_by(PIECE) {
            let end = bytes.end.min(start.saturating_add(PIECE as u64));
            result = held.zero_range(start..end).and(result);
        }
        if !quarry_fault::disabled("erase-flush") {
            let flushed = held.flush().map_err(|error| Error::host(format!("cannot flush zeros to it: {error}")));
            result = flushed.and(result);
        }
        quarry_fault::point(|| format!("erase {bytes:?}"));
    }
    result
}

/// The header on a pool's device.
pub(crate) async fn header(kernel: &Arc<dyn Kernel>, raw: &Path) -> Result<Header> {
    let (kernel, raw) = (Arc::clone(kernel), raw.to_owned());
    errors::blocking(move || kernel.header(&raw)).await
}

/// Makes a layer larger at a stage, if the device below has grown. `mounted`: whether it is used through its filesystem.
///
/// # Errors
/// None is final. If it is mounted, a failure is only logged: it works as before, and NodeExpandVolume reports the error.
/// For a raw volume, NodeExpandVolume is not called, so the stage has to be repeated.
async fn fit_staged(
    kernel: &Arc<dyn Kernel>,
    volume: &PoolVolume,
    raw: &Path,
    layer: &Layer,
    mounted: bool,
) -> Result<()> {
    let Err(error) = fit(kernel, raw, layer).await else { return Ok(()) };
    if !mounted {
        return Err(error.context("giving the open encrypted device the size that the volume has now").not_final());
    }
    tracing::warn!(volume = volume.name, %error, "an encrypted volume does not have its new size yet");
    Ok(())
}

/// Makes a layer larger if the device below has grown.
async fn fit(kernel: &Arc<dyn Kernel>, raw: &Path, layer: &Layer) -> Result<()> {
    let (sizes, below) = (Arc::clone(kernel), raw.to_owned());
    let size = errors::blocking(move || sizes.device_size(&below)).await?;
    if !layer.is_smaller(size) || quarry_fault::disabled("fit-encrypted") {
        return Ok(());
    }
    kernel.resize_encrypted(raw, &layer.name).await
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::ops::Range;

    use parking_lot::Mutex;
    use quarry_encryption::HEADER_SIZE;

    use super::*;

    /// A device with a bad sector.
    struct Bad {
        sector: u64,
        zeroed: Mutex<Vec<Range<u64>>>,
    }

    impl HeldDevice for Bad {
        fn wipe_signatures(&self) -> Result<()> {
            Ok(())
        }

        fn zero_range(&self, bytes: Range<u64>) -> Result<()> {
            if bytes.contains(&self.sector) {
                return Err(Error::host(format!("bad sector {}", self.sector)));
            }
            self.zeroed.lock().push(bytes);
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_key_slots_beside_a_bad_sector_are_erased() {
        let erased = |sector| {
            let device = Bad { sector, zeroed: Mutex::default() };
            let result = erase(&device);
            let bytes: u64 = device.zeroed.lock().iter().map(|bytes| bytes.end - bytes.start).sum();
            (result.map_err(|error| error.message), bytes)
        };
        assert_eq!(erased(HEADER_SIZE), (Ok(()), HEADER_SIZE));
        let (first, last) = (ERASURE[0].start, ERASURE[1].end - 1);
        let missing = |sector, bytes| (Err(format!("bad sector {sector}")), HEADER_SIZE - bytes);
        assert_eq!(erased(first), missing(first, 1 << 20));
        // The two copies of the header.
        assert_eq!(erased(last), missing(last, ERASURE[1].end));
    }
}
