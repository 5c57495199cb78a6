//! Changes of an existing volume: its device, its record, its removal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quarry_disk::claim::{self, Claim, ClaimState, Degraded, DiskGuid};
use quarry_disk::{Disk, How};
use quarry_volume::{Error, Reason, Result, Wipe};

use super::disks::{Any, Opened};
use super::key::DiskKey;
use super::locks::VolumeLock;
use super::view::View;
use super::{Inner, blocking};
use crate::{Health, PoolVolume, Record, Recorded};

/// How long the partition of a new volume stays open for its first stage.
const UNSTAGED: Duration = Duration::from_secs(60);

impl Inner {
    /// Runs a change under the lock of the volume on the disk with that GUID, as a separate task, so that it
    /// and its lock outlive a caller that stops waiting.
    pub(super) async fn with_lock<T, F>(
        self: &Arc<Self>,
        disk: DiskGuid,
        what: String,
        work: impl FnOnce(Arc<Self>, VolumeLock) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let lock = self.locks.lock(disk, what).await;
        tokio::spawn(work(Arc::clone(self), lock))
            .await
            .unwrap_or_else(|join| Err(Error::host(format!("a change of a disk panicked ({join}); please report it"))))
    }

    /// The volume's disk and claim as they are now; what was looked up earlier may have changed.
    pub(super) fn current(&self, view: &View, volume: &PoolVolume) -> Result<(Disk, Claim, PoolVolume)> {
        let guid = volume.disk()?;
        if let Some(why) = view.duplicates(guid) {
            return Err(Error::unavailable(format!("pool {}: {why}", self.name)));
        }
        let now = view.volumes().find(|now| now.key == volume.key);
        if let Some(Health::Lost(why)) = now.map(|now| &now.health) {
            return Err(Error::unavailable(format!("pool {}: {why}", self.name)));
        }
        match (now, view.claim(guid)) {
            (Some(now), Some((disk, claim))) => Ok((disk.clone(), claim.clone(), now.clone())),
            _ => Err(Error::unavailable(format!(
                "volume {} was removed from pool {} in the meantime: retry",
                volume.name, self.name
            ))),
        }
    }

    pub(super) async fn activate(self: &Arc<Self>, volume: &PoolVolume) -> Result<PathBuf> {
        if let Some(node) = self.active(volume).await? {
            return Ok(node);
        }
        let (wanted, guid) = (volume.clone(), volume.disk()?);
        self.with_lock(guid, format!("volume {} is being activated", volume.name), |inner, lock| async move {
            let view = inner.view().await?;
            let (disk, claim, now) = inner.current(&view, &wanted).map_err(|error| match error.reason {
                Reason::Unavailable if view.duplicates(guid).is_none() => Error::precondition(error.message),
                _ => error,
            })?;
            lock.set_disk(&disk.name);
            blocking(move || {
                let claim = inner.complete_change(&disk, claim, &now)?;
                let (node, opened) = inner.disks.add_partitions(&disk, &claim)?;
                inner.opened.keep(claim.identity.disk, opened);
                Ok(node)
            })
            .await
        })
        .await
    }

    /// Closes the partition of a volume that was unstaged, unless its device was requested again after
    /// `unused_since`.
    pub(super) async fn deactivate(self: &Arc<Self>, volume: &PoolVolume, unused_since: Instant) -> Result<()> {
        let guid = volume.disk()?;
        match self.opened.take_unused(guid, unused_since) {
            Some(opened) => self.close(guid, opened).await,
            None => Ok(()),
        }
    }

    /// Closes the partition of a new volume if it is not staged soon.
    pub(super) fn close_unless_staged(self: &Arc<Self>, volume: &PoolVolume) {
        let Ok(guid) = volume.disk() else { return };
        let (inner, volume) = (Arc::clone(self), volume.clone());
        tokio::spawn(async move {
            tokio::time::sleep(UNSTAGED).await;
            if let Some(opened) = inner.opened.take_unstaged(guid)
                && let Err(error) = inner.close(guid, opened).await
            {
                tracing::info!(volume = volume.name, %error, "closed the volume's partition, but could not drop its \
                                                              disk's cache");
            }
        });
    }

    /// Closes a partition, and drops the kernel's cached pages of the whole disk: another program may have
    /// the disk open, and would continue to read its old contents.
    async fn close(self: &Arc<Self>, guid: DiskGuid, opened: Opened) -> Result<()> {
        blocking(move || {
            drop(opened);
            Ok(())
        })
        .await?;
        let Some(disk) = self.view().await?.claim(guid).map(|(disk, _)| disk.clone()) else { return Ok(()) };
        let inner = Arc::clone(self);
        blocking(move || inner.disks.drop_cache(&disk)).await
    }

    /// Makes both copies of a volume's record equal before the volume is reported.
    pub(super) async fn repair_record(self: &Arc<Self>, volume: &PoolVolume) -> Result<()> {
        let guid = volume.disk()?;
        let is_durable = |view: &View| view.claim(guid).is_none_or(|(_, claim)| !is_interrupted(claim));
        if is_durable(&*self.view().await?) {
            return Ok(());
        }
        let wanted = volume.clone();
        self.with_lock(
            guid,
            format!("the record of volume {} is being repaired", volume.name),
            |inner, lock| async move {
                let view = inner.view().await?;
                let (disk, claim, now) = inner.current(&view, &wanted)?;
                lock.set_disk(&disk.name);
                blocking(move || inner.complete_change(&disk, claim, &now).map(drop)).await
            },
        )
        .await
    }

    /// Completes an interrupted change before anything is based on it, and returns the claim. A record that only one
    /// copy has is written again: otherwise the loss of that copy would bring back the previous record, and the
    /// previous size. Blocks.
    pub(super) fn complete_change(&self, disk: &Disk, claim: Claim, volume: &PoolVolume) -> Result<Claim> {
        if !is_interrupted(&claim) || !matches!(volume.record, Recorded::Here(_)) {
            return Ok(claim);
        }
        let device = self.disks.write(disk)?;
        let device = Any(&*device);
        let completed = claim::complete_extension(&device, &claim)
            .and_then(|claim| claim::set_record(&device, &claim, &claim.record));
        self.mark_changed(disk);
        completed.map_err(|error| self.explain(&error))
    }

    /// Forgets a deleted volume. A read that started earlier may have seen it, and must not bring it back.
    fn forget(&self, guid: DiskGuid) {
        let mut memory = self.memory();
        memory.known.remove(&guid);
        let changes = memory.changes;
        memory.deleted.push((guid, changes));
    }

    /// The node of the volume's partition if it needs no more work: then there is no need to wait for the
    /// lock.
    async fn active(self: &Arc<Self>, volume: &PoolVolume) -> Result<Option<PathBuf>> {
        if !self.opened.mark_used(volume.disk()?) {
            return Ok(None);
        }
        let view = self.view().await?;
        match self.current(&view, volume) {
            Ok((disk, claim, _)) if !is_interrupted(&claim) && !self.disks.is_short(&disk, &claim) => {
                self.disks.partition(&disk, &claim)
            }
            // Reported under the lock.
            _ => Ok(None),
        }
    }

    /// The node of the volume's partition, on a disk of any pool. Does not read a disk, which might be
    /// unresponsive: it uses the claim that was read last, if the kernel's tables still have that disk.
    pub(super) fn device(&self, volume: &PoolVolume) -> Result<Option<PathBuf>> {
        let guid = volume.disk()?;
        let raws = self.memory().seen.as_ref().map(|kept| Arc::clone(&kept.raws));
        let claims = raws.iter().flat_map(|raws| raws.iter()).filter_map(|raw| match &raw.found {
            Ok(ClaimState::Claimed(claim)) => Some((raw, claim, true)),
            // The volume may be mounted, whatever happened to the disk's tables since.
            Ok(ClaimState::Damaged(damaged)) => damaged.claim().map(|claim| (raw, claim, false)),
            Ok(ClaimState::Foreign { over: Some(claim), .. }) => Some((raw, claim, false)),
            _ => None,
        });
        let mut nodes: Vec<(&str, PathBuf)> = Vec::new();
        for (raw, claim, whole) in claims.filter(|(_, claim, _)| claim.identity.disk == guid) {
            // Without the kernel's sequence number, a newer disk may have the same name and number.
            if raw.disk.sequence.is_none() && self.uevents.count_of_disk(&raw.disk.name) != raw.events {
                continue;
            }
            let node = match whole {
                true => self.disks.partition(&raw.disk, claim)?,
                false => self.disks.partition_of_damaged(&raw.disk, claim),
            };
            nodes.extend(node.map(|node| (raw.disk.name.as_str(), node)));
        }
        match nodes.as_slice() {
            [] => Ok(None),
            [(_, node)] => Ok(Some(node.clone())),
            [(one, _), (other, _), ..] => Err(Error::unavailable(format!(
                "finding the device of volume {}: the disks {one} and {other} both hold it; remove the wrong one",
                volume.name
            ))),
        }
    }

    pub(super) async fn set_record(self: &Arc<Self>, volume: &PoolVolume, record: &Record) -> Result<()> {
        if volume.record()? == record {
            return Ok(());
        }
        let (wanted, text) = (volume.clone(), record.to_string());
        let what = format!("the record of volume {} is being changed", volume.name);
        self.with_lock(volume.disk()?, what, |inner, lock| async move {
            inner.invalidate();
            let view = inner.view().await?;
            let (disk, claim, now) = inner.current(&view, &wanted)?;
            lock.set_disk(&disk.name);
            if now.record != wanted.record {
                return Err(Error::unavailable(format!(
                    "the record of volume {} was changed by another process in the meantime; retry",
                    wanted.name
                )));
            }
            blocking(move || {
                let changed = inner.disks.write(&disk).and_then(|device| {
                    claim::set_record(&Any(&*device), &claim, text.as_bytes()).map_err(|error| inner.explain(&error))
                });
                inner.mark_changed(&disk);
                changed.map(drop)
            })
            .await
        })
        .await
    }

    pub(super) async fn remove(self: &Arc<Self>, volume: &PoolVolume) -> Result<()> {
        let wanted = volume.clone();
        self.with_lock(volume.disk()?, format!("volume {} is being removed", volume.name), |inner, lock| async move {
            inner.remove_locked(&wanted, &lock).await
        })
        .await
    }

    /// See [`crate::Pool::check_removable`].
    pub(super) async fn check_removable(self: &Arc<Self>, volume: &PoolVolume) -> Result<()> {
        let wanted = volume.clone();
        let what = format!("volume {} is being checked", volume.name);
        self.with_lock(volume.disk()?, what, |inner, lock| async move {
            inner.invalidate();
            let view = inner.view().await?;
            let (disk, _, now) = inner.current(&view, &wanted)?;
            lock.set_disk(&disk.name);
            now.record()?;
            refuse_used(&disk, &now)?;
            // The kernel knows of uses that its tables do not show.
            blocking(move || super::create::hold(&*inner.disks, &disk).map(drop)).await
        })
        .await
    }

    async fn remove_locked(self: &Arc<Self>, volume: &PoolVolume, lock: &VolumeLock) -> Result<()> {
        self.invalidate();
        let view = self.view().await?;
        let (disk, claim, now) = self.current(&view, volume)?;
        lock.set_disk(&disk.name);
        let mode = self.wipe_mode(now.record()?);
        refuse_used(&disk, &now)?;
        let here = DiskKey::of(&disk);
        // Before the disk records the release: otherwise a read would start the same release.
        self.releases.begin(here.clone());
        let held = {
            let inner = Arc::clone(self);
            let disk = disk.clone();
            blocking(move || {
                let held = inner.disks.hold(&disk)?;
                // Quarry's own use has to end first.
                drop(inner.opened.take(claim.identity.disk));
                held.drop_partitions()?;
                // Wiping comes first, and a power cut during it must find the release recorded on the disk.
                claim::begin_release(&Any(&*held), &claim).map_err(|error| inner.explain(&error))?;
                inner.forget(claim.identity.disk);
                Ok(held)
            })
            .await
        };
        self.mark_changed(&disk);
        let held = held.inspect_err(|_| self.releases.end(&here))?;
        let work = tokio::spawn(Arc::clone(self).release(disk, Some(held)));
        // Wiping takes time, and the disk records that it is needed. Where there is nothing to wipe, the disk
        // is free before this returns. A failure is reported and retried.
        if mode == Wipe::None {
            let _ = work.await;
        }
        Ok(())
    }
}

/// Whether a change of the claim was interrupted, so that it has to be completed before the volume is used.
pub(super) fn is_interrupted(claim: &Claim) -> bool {
    claim.degraded.iter().any(|what| matches!(what, Degraded::Record | Degraded::Extending))
}

/// Refuses to remove a volume that the kernel's tables show as used. The kernel itself refuses for a use that
/// they do not show, when the disk is opened exclusively.
fn refuse_used(disk: &Disk, volume: &PoolVolume) -> Result<()> {
    let used = match (disk.holders.first(), disk.uses.first().map(|one| &one.how)) {
        (None, None) => return Ok(()),
        (Some(holder), _) => format!("{holder} uses it"),
        (None, Some(How::Mounted { at } | How::Published { at })) => format!("it is in use at {}", at.display()),
        (None, Some(How::Swap)) => "it is used as swap".to_owned(),
        (None, Some(How::Loop { name })) => format!("the loop device {name} uses it"),
        (None, Some(How::Btrfs)) => "it is a member of a mounted btrfs".to_owned(),
    };
    Err(Error::new(
        Reason::InUse,
        format!(
            "volume {} is not removed because it is in use: {used}; end that use \
                                           first",
            volume.name
        ),
    ))
}
