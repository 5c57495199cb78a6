//! Claims a disk for a volume. This is the only place that writes to a disk which was not Quarry's before.

use std::sync::Arc;
use std::time::Duration;

use quarry_disk::claim::{self, Claim, ClaimState, Identity};
use quarry_disk::{Disk, ExclusiveOpen, State};
use quarry_filesystem::{minimum_size, signature_places};
use quarry_volume::{Error, Layout, Reason, Result, SizeRange, VolumeSpec, safe_name, show_size};

use super::disks::{Any, Disks, Held};
use super::key::DiskKey;
use super::locks::VolumeLock;
use super::scan::{PoolDisk, Raw};
use super::selection::hold_and_read;
use super::view::{View, claimed_volume, to_volume};
use super::{Inner, blocking};
use crate::pool::unsupported;
use crate::{PoolVolume, Record};

/// The offset of the volume on every disk: docs/disk-format.md.
pub(super) const VOLUME_OFFSET: u64 = 2 << 20;

/// Rejects what a pool with that name can never do: see [`crate::Pool::supports`].
pub(super) fn supports(pool: &str, spec: &VolumeSpec) -> Result<()> {
    match spec.class.layout {
        Layout::Linear => Ok(()),
        layout => Err(unsupported(format!(
            "pool {pool}: a volume in this pool is one whole disk, so layout {layout} is not supported: remove the \
             layout from the StorageClass"
        ))),
    }
}

/// Why a disk was not claimed.
enum Refused {
    /// It is not free after all; nothing was written. Another disk may be suitable.
    NotFree(String),
    /// The disk failed. If the claim was `begun`, it is not known how far it came. The retry checks it.
    Failed { error: Error, begun: bool },
}

impl Inner {
    pub(super) async fn create(self: &Arc<Self>, spec: &VolumeSpec) -> Result<PoolVolume> {
        let name = safe_name(&spec.name);
        let disk = Identity::of(&name).disk;
        let spec = spec.clone();
        let what = format!("volume {name} is being created");
        self.with_lock(disk, what, |inner, lock| async move { inner.create_locked(&spec, &name, &lock).await }).await
    }

    async fn create_locked(self: &Arc<Self>, spec: &VolumeSpec, name: &str, lock: &VolumeLock) -> Result<PoolVolume> {
        self.invalidate();
        let view = self.view().await?;
        if let Some(volume) = view.volume(&self.name, name, false)? {
            // A Quarry volume of a newer version is not foreign.
            volume.record()?;
            return Err(Error::new(Reason::Exists, format!("pool {}: volume {name} already exists", self.name)));
        }
        view.check_name_free(&self.name, name)?;
        if let Some(volume) = self.use_half_made(&view, spec, name, lock).await? {
            return Ok(volume);
        }
        let view = self.view().await?;
        let range = self.range(spec)?;
        self.smallest_fitting(&view, spec)?;
        let mut refused = Vec::new();
        for (size, seen) in view.free().into_iter().filter(|(size, _)| range.admits(*size)) {
            let disk = &seen.raw.disk;
            if matches!(seen.raw.found, Ok(ClaimState::HalfClaimed(_))) {
                refused.push(format!("{} holds a half-made claim that could not be cleared", disk.name));
                continue;
            }
            let Some(_reserved) = self.locks.reserve(disk) else {
                refused.push(format!("{} is being claimed for another volume", disk.name));
                continue;
            };
            let record = first_record(spec, size);
            let claimed = self.claim_disk(disk.clone(), name, record.clone(), false, lock).await;
            self.mark_changed(disk);
            match claimed {
                Ok(Some(volume)) => return Ok(volume),
                Ok(None) => {}
                Err(Refused::NotFree(why)) => refused.push(format!("{} {why}", disk.name)),
                // Otherwise a disk that can be read but not written would be the first match each time.
                Err(Refused::Failed { error, begun }) => {
                    if begun {
                        self.confirm_not_created(&record, disk, &error).await?;
                    }
                    tracing::warn!(disk = disk.name, %error, "cannot claim the disk");
                    refused.push(format!("{}: {}", disk.name, error.message));
                    self.failures.add(disk, error.message);
                    self.invalidate();
                }
            }
        }
        // By now the reason is known for each disk that is not free.
        let view = self.view().await?;
        self.smallest_fitting(&view, spec)?;
        Err(Error::new(
            Reason::NoSpace,
            format!("pool {} has no disk for the volume, because the disks that looked free are not: \
                     {}", self.name, refused.join("; \
                                                                                                                                   ")),
        ))
    }

    /// Finishes the half-made claim that an interrupted creation of this volume left, and clears all others.
    async fn use_half_made(
        self: &Arc<Self>,
        view: &View,
        spec: &VolumeSpec,
        name: &str,
        lock: &VolumeLock,
    ) -> Result<Option<PoolVolume>> {
        let range = self.range(spec)?;
        for (seen, claim) in view.disks.iter().filter_map(half_made) {
            let disk = &seen.raw.disk;
            // Another volume is being created there at this moment.
            let Some(_reserved) = self.locks.reserve(disk) else { continue };
            let record = first_record(spec, claim.length);
            let wanted = claim.identity == Identity::of(name)
                && claim.record == record.to_string().as_bytes()
                && range.admits(claim.length)
                && spec.class.layout == Layout::Linear;
            let mut result = Ok(None);
            if wanted {
                result = self.claim_disk(disk.clone(), name, record.clone(), true, lock).await;
                self.mark_changed(disk);
                if let Err(Refused::Failed { error, .. }) = &result {
                    self.confirm_not_created(&record, disk, error).await?;
                    tracing::warn!(disk = disk.name, %error, "cannot finish a half-made claim");
                }
            }
            if !matches!(result, Ok(Some(_))) {
                result = self.clear(disk.clone(), lock).await.map(|()| None);
                self.mark_changed(disk);
            }
            match result {
                Ok(Some(volume)) => return Ok(Some(volume)),
                Ok(None) => {}
                // It does not block this volume, and the next creation tries again to clear it.
                Err(Refused::NotFree(why)) => tracing::warn!(disk = disk.name, why, "cannot clear a half-made claim"),
                Err(Refused::Failed { error, .. }) => {
                    tracing::warn!(disk = disk.name, %error, "cannot clear a half-made claim");
                    self.failures.add(disk, error.message);
                    self.invalidate();
                }
            }
        }
        Ok(None)
    }

    /// Returns that error as not final, unless reading the disks again, and also the one whose claim failed, shows that
    /// the volume with that record does not exist.
    async fn confirm_not_created(self: &Arc<Self>, record: &Record, disk: &Disk, error: &Error) -> Result<()> {
        let volume = claimed_volume(&self.name, record);
        let view = self.view().await;
        let is_read = view.as_ref().is_ok_and(|view| view.has_read(disk));
        match (view.and_then(|view| view.volume(&self.name, &volume.name, true)), is_read) {
            (Ok(None), true) => return Ok(()),
            (Ok(Some(_)), _) | (Err(_), true) => {}
            // The disk has vanished, or fails, and may hold the volume. Until it is read, the volume counts as lost, so
            // that a retry does not make it on another disk.
            (Ok(None) | Err(_), false) => {
                self.memory().known.insert(volume.disk()?, (DiskKey::of(disk), volume));
                self.invalidate();
            }
        }
        Err(error.clone().not_final())
    }

    /// The acceptable sizes: what was requested, and what its filesystem needs.
    ///
    /// # Errors
    /// `SizeOutOfRange` if the filesystem needs more than the limit.
    pub(super) fn range(&self, spec: &VolumeSpec) -> Result<SizeRange> {
        let least = spec.filesystem.map_or(0, |kind| minimum_size(kind).saturating_add(spec.overhead()));
        match (spec.filesystem, spec.size.limit) {
            (Some(kind), Some(limit)) if limit < least => Err(Error::new(
                Reason::SizeOutOfRange,
                format!("the limit of {limit} bytes is too small for {kind}, which needs {least}: request more"),
            )),
            _ => Ok(SizeRange { required: spec.size.required.max(least), ..spec.size }),
        }
    }

    /// The smallest free disk that fits the volume, and the volume's size on it.
    ///
    /// # Errors
    /// `NoSpace`, with the free disks and the reasons why the others are not free.
    pub(super) fn smallest_fitting<'a>(&self, view: &'a View, spec: &VolumeSpec) -> Result<(u64, &'a PoolDisk)> {
        view.check_complete(&self.name)?;
        let free = view.free();
        let range = self.range(spec)?;
        if let Some(found) = free.iter().find(|(size, _)| range.admits(*size)) {
            return Ok(*found);
        }
        let list = |(size, seen): &(u64, &PoolDisk)| format!("{} ({})", seen.raw.disk.name, show_size(*size));
        let free: Vec<String> = free.iter().map(list).collect();
        Err(Error::new(
            Reason::NoSpace,
            format!(
                "pool {}: no free disk has at least {} bytes{}; free: {}; not free: {}",
                self.name,
                range.required,
                range.limit.map_or_else(String::new, |limit| format!(" and at most {limit}")),
                if free.is_empty() { "none".to_owned() } else { quarry_volume::some_of(free) },
                view.list_not_free()
            ),
        ))
    }

    /// Claims a disk, or finishes its claim. Does not rely on anything that was read before the disk was
    /// held.
    async fn claim_disk(
        self: &Arc<Self>,
        disk: Disk,
        name: &str,
        record: Record,
        resume: bool,
        lock: &VolumeLock,
    ) -> Result<Option<PoolVolume>, Refused> {
        let (held, raw) = self.hold_and_read(&disk, lock).await?;
        // The volume is zeroed up to the size in its record, and a claim has the size of the disk.
        if claim::capacity(held.size()) != record.size {
            return Err(Refused::NotFree("changed its size in the meantime".to_owned()));
        }
        let probe = self.disks.probe(&raw.disk).await.map_err(|error| error.message);
        let fits = match &raw.found {
            Ok(ClaimState::Nothing) => !resume,
            Ok(ClaimState::HalfClaimed(claim)) => resume && claim.identity == Identity::of(name),
            _ => false,
        };
        match raw.state(Some(probe), || ExclusiveOpen::Possible) {
            State::Free if fits => {}
            State::Free => return Err(Refused::NotFree("was claimed or cleared in the meantime".to_owned())),
            state => return Err(Refused::NotFree(state.reason().unwrap_or_default().to_owned())),
        }
        let to_erase = (Arc::clone(&held), raw.disk.name.clone());
        let erased = blocking(move || erase_signatures(&*to_erase.0, &to_erase.1)).await;
        erased.map_err(|error| Refused::Failed { error, begun: resume })?;
        let (inner, name) = (Arc::clone(self), name.to_owned());
        let claimed = blocking(move || inner.claim(&*held, &raw, &name, &record)).await;
        let claimed = claimed.map_err(|error| Refused::Failed { error, begun: true })?;
        self.close_unless_staged(&claimed);
        Ok(Some(claimed))
    }

    /// Claims a disk that is held and blank, and whose signatures are erased. Blocks.
    fn claim(&self, held: &dyn Held, raw: &Raw, name: &str, record: &Record) -> Result<PoolVolume> {
        let explain = |error| self.explain(&error);
        let claimed = match &raw.found {
            Ok(ClaimState::HalfClaimed(half_made)) => claim::resume(&Any(held), half_made).map_err(explain)?,
            _ => claim::claim(&Any(held), name, record.to_string().as_bytes()).map_err(explain)?,
        };
        // The probe has read the place of the future filesystem, and a copy of the disk would get that from
        // the kernel's cache.
        if let Err(error) = self.disks.drop_cache(&raw.disk) {
            tracing::warn!(disk = raw.disk.name, %error, "cannot drop the disk's cached pages");
        }
        // While the disk is held, so that udev does not interfere.
        match self.disks.add_partitions(&raw.disk, &claimed) {
            Ok((_, opened)) => self.opened.keep_new(claimed.identity.disk, opened),
            // The volume exists; it is activated again before it is used.
            Err(error) => tracing::warn!(disk = raw.disk.name, %error, "the volume's partition does not exist yet"),
        }
        Ok(to_volume(&self.name, &claimed))
    }

    /// Clears a half-made claim that no request needs any more.
    async fn clear(self: &Arc<Self>, disk: Disk, lock: &VolumeLock) -> Result<(), Refused> {
        let (held, raw) = self.hold_and_read(&disk, lock).await?;
        let inner = Arc::clone(self);
        let clear = move || match &raw.found {
            Ok(ClaimState::HalfClaimed(half_made)) => {
                claim::clear(&Any(&*held), half_made).map_err(|error| inner.explain(&error))
            }
            _ => Ok(()),
        };
        blocking(clear).await.map_err(|error| Refused::Failed { error, begun: true })
    }

    /// Holds a disk and reads it again.
    async fn hold_and_read(self: &Arc<Self>, disk: &Disk, lock: &VolumeLock) -> Result<(Arc<dyn Held>, Raw), Refused> {
        lock.set_disk(&disk.name);
        let (inner, disk) = (Arc::clone(self), disk.clone());
        let looked = blocking(move || hold_and_read(&inner.disks, &inner.reader, &inner.selectors, &inner.name, &disk));
        looked.await.map_err(|error| Refused::NotFree(error.message))
    }

    /// Converts a claim's error.
    pub(super) fn explain(&self, error: &claim::Error) -> Error {
        let reason = match error {
            claim::Error::Unexpected { .. } | claim::Error::Resized { .. } => Reason::Unavailable,
            claim::Error::Unfit { .. } => Reason::NoSpace,
            claim::Error::Io { .. } | claim::Error::RecordTooLong { .. } | claim::Error::Unverified { .. } => {
                Reason::Host
            }
        };
        Error::new(reason, format!("pool {}: {error}", self.name))
    }
}

/// Holds a disk. Quarry's own read may hold it exclusively for a moment.
pub(super) fn hold(disks: &dyn Disks, disk: &Disk) -> Result<Arc<dyn Held>> {
    let mut tries = 0;
    loop {
        match disks.hold(disk) {
            Err(error) if error.reason == Reason::InUse && tries < 3 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            held => return held,
        }
    }
}

/// Erases all places of signatures on a disk that is held and blank, before its claim counts, whose record says so:
/// [`first_record`]. A volume of the same name may have been on this disk before, and its filesystem would be mistaken for
/// the one that an interrupted stage made: they have the same UUID. Blocks.
fn erase_signatures(held: &dyn Held, disk: &str) -> Result<()> {
    for place in signature_places(claim::capacity(held.size())) {
        held.zero(VOLUME_OFFSET + place.start..VOLUME_OFFSET + place.end)?;
    }
    held.flush().map_err(|error| Error::host(format!("flushing the disk {disk}: {error}")))
}

/// The record that a claim is made with. [`erase_signatures`] wipes the volume's place before the claim is written, so the
/// record can say so.
fn first_record(spec: &VolumeSpec, size: u64) -> Record {
    Record::new(spec, size).wiped()
}

/// A half-made claim on a disk that is free otherwise.
fn half_made(seen: &PoolDisk) -> Option<(PoolDisk, Claim)> {
    match (&seen.raw.found, &seen.state) {
        (Ok(ClaimState::HalfClaimed(claim)), State::Free) => Some((seen.clone(), claim.clone())),
        _ => None,
    }
}
