//! Expands a volume whose disk became larger, to the whole disk.
//!
//! The new space is what follows the volume. Nothing else can take it, so nothing has to be reserved; but until it is
//! clean, it must not be in the volume's partition, which probes and pods read. So it is cleaned through the disk,
//! which the volume's users keep from being held exclusively. The order of writes: docs/disk-format.md, "Extension".

use std::ops::Range;
use std::sync::Arc;

use quarry_disk::Disk;
use quarry_disk::claim::{self, Claim, Degraded};
use quarry_filesystem::signature_places;
use quarry_volume::{Error, Gib, Reason, Result, SizeRange};

use super::change::is_interrupted;
use super::disks::Any;
use super::locks::VolumeLock;
use super::space::DiskSpace;
use super::{Inner, blocking};
use crate::pool::{Device, Expansion, NewSpace};
use crate::{ExpansionProgress, PoolVolume, Record};

impl Inner {
    /// See [`crate::Pool::reserve_expansion`].
    pub(super) async fn reserve_expansion(
        self: &Arc<Self>,
        volume: &PoolVolume,
        size: &SizeRange,
    ) -> Result<Option<Expansion>> {
        let (wanted, size) = (volume.clone(), *size);
        self.with_expansion(volume, |inner, lock| async move {
            let (disk, claim, now) = inner.read_again(&wanted, &lock).await?;
            let record = now.record()?.clone();
            if !now.needs_expansion(&size)? {
                inner.complete_expansion(&disk, claim, &now, &record).await?;
                return Ok(None);
            }
            let (claim, progress) = inner.progress(&disk, claim, &now, &record).await?;
            let target = inner.target(&disk, &claim, &now, &size)?;
            blocking(move || {
                // What is at the new end is read from the disk: it may have changed with the disk's size.
                inner.disks.drop_cache(&disk)?;
                let claim = inner.complete_change(&disk, claim, &now)?;
                let prepared = inner.disks.write(&disk).and_then(|device| {
                    claim::prepare_extension(&Any(&*device), &claim).map_err(|error| inner.explain(&error))
                });
                inner.mark_changed(&disk);
                let claim = prepared?;
                if claim.capacity != target {
                    return Err(inner.resized(&disk, &now));
                }
                let end = claim.offset.saturating_add(claim.length);
                let length = target.saturating_sub(claim.length);
                let space = inner.disks.space(&disk, end..end.saturating_add(length))?;
                let space = NewSpace {
                    device: Device::Space(DiskSpace::new(space, length)),
                    size: length,
                    signature_places: new_signature_places(claim.length, target),
                    zeroed: progress.map_or(Gib::NONE, |progress| progress.zeroed),
                };
                Ok(Some(Expansion { size: target, device: Some(space) }))
            })
            .await
        })
        .await
    }

    /// See [`crate::Pool::set_expansion_zeroed`].
    pub(super) async fn set_expansion_zeroed(self: &Arc<Self>, volume: &PoolVolume, zeroed: Gib) -> Result<()> {
        let wanted = volume.clone();
        self.with_expansion(volume, |inner, lock| async move {
            let (disk, claim, now) = inner.read_again(&wanted, &lock).await?;
            let progress = ExpansionProgress { size: claim.capacity, zeroed };
            let record = now.record()?.expanding(Some(progress));
            blocking(move || inner.write_record(&disk, &claim, &record).map(drop)).await
        })
        .await
    }

    /// See [`crate::Pool::expand`].
    pub(super) async fn expand(self: &Arc<Self>, volume: &PoolVolume, expansion: &Expansion) -> Result<PoolVolume> {
        let (wanted, size) = (volume.clone(), expansion.size);
        self.with_expansion(volume, |inner, lock| async move {
            let (disk, claim, now) = inner.read_again(&wanted, &lock).await?;
            let record = now.record()?.clone();
            if now.size >= size {
                inner.complete_expansion(&disk, claim, &now, &record).await?;
                return Ok(now);
            }
            if claim.capacity != size {
                return Err(inner.resized(&disk, &now));
            }
            check_table(&inner.name, &disk, &claim, &now)?;
            let record = record.expanded(now.size, size);
            let (worker, disk_of_claim) = (Arc::clone(&inner), disk.clone());
            blocking(move || {
                let extended = worker.disks.write(&disk_of_claim).and_then(|device| {
                    claim::extend(&Any(&*device), &claim, record.to_string().as_bytes())
                        .map_err(|error| worker.explain(&error))
                });
                worker.mark_changed(&disk_of_claim);
                extended.map(drop)
            })
            .await?;
            // Before the kernel's partition is larger: who looks for the volume's device compares it with the claim
            // that was read last.
            let (disk, claim, now) = inner.read_again(&wanted, &lock).await?;
            let worker = Arc::clone(&inner);
            blocking(move || {
                worker.disks.extend_partition(&disk, &claim)?;
                // A copy of the disk would get the old tables and a former owner's bytes from the kernel's cache.
                if let Err(error) = worker.disks.drop_cache(&disk) {
                    tracing::warn!(disk = disk.name, %error, "cannot drop the disk's cached pages");
                }
                Ok(())
            })
            .await?;
            Ok(now)
        })
        .await
    }

    async fn with_expansion<T, F>(
        self: &Arc<Self>,
        volume: &PoolVolume,
        work: impl FnOnce(Arc<Self>, VolumeLock) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.with_lock(volume.disk()?, format!("volume {} is being expanded", volume.name), work).await
    }

    /// The volume's disk and claim, read under its lock.
    async fn read_again(self: &Arc<Self>, volume: &PoolVolume, lock: &VolumeLock) -> Result<(Disk, Claim, PoolVolume)> {
        self.invalidate();
        let found = self.current(&*self.view().await?, volume)?;
        lock.set_disk(&found.0.name);
        Ok(found)
    }

    /// How much of the new space is zeroed. The progress for another size is removed from the record, also if the
    /// volume cannot be expanded now: a disk that became smaller and then larger again may have other bytes there.
    async fn progress(
        self: &Arc<Self>,
        disk: &Disk,
        claim: Claim,
        volume: &PoolVolume,
        record: &Record,
    ) -> Result<(Claim, Option<ExpansionProgress>)> {
        if record.expansion.is_none_or(|progress| progress.size == claim.capacity) {
            return Ok((claim, record.expansion));
        }
        let (inner, disk, volume, record) = (Arc::clone(self), disk.clone(), volume.clone(), record.expanding(None));
        blocking(move || {
            let claim = inner.complete_change(&disk, claim, &volume)?;
            Ok((inner.write_record(&disk, &claim, &record)?, None))
        })
        .await
    }

    /// The size that the volume will have: that of the disk.
    fn target(&self, disk: &Disk, claim: &Claim, volume: &PoolVolume, size: &SizeRange) -> Result<u64> {
        let (pool, name, target) = (&self.name, &volume.name, claim.capacity);
        let (possible, required) = (target.max(volume.size), size.required);
        let why = match size.limit {
            _ if target <= volume.size => format!(
                "it is a whole disk, which is expanded only after its disk {} became larger; {possible} bytes is the \
                 largest size",
                disk.name
            ),
            _ if target < required => format!(
                "it is a whole disk, and its disk {} has room for {possible} bytes, which is the largest size; make the \
                 disk larger first",
                disk.name
            ),
            Some(limit) if limit < target => format!(
                "it is a whole disk, so it would get all of its disk {}, and have {target} bytes, above the limit of \
                 {limit}",
                disk.name
            ),
            _ => {
                check_table(pool, disk, claim, volume)?;
                return Ok(target);
            }
        };
        let message = format!("pool {pool} cannot expand volume {name} to {required} bytes: {why}");
        Err(Error::new(Reason::SizeOutOfRange, message))
    }

    /// Completes an earlier expansion of a volume that is large enough: its device has its size, and no progress stays
    /// in its record.
    async fn complete_expansion(
        self: &Arc<Self>,
        disk: &Disk,
        claim: Claim,
        volume: &PoolVolume,
        record: &Record,
    ) -> Result<()> {
        if !is_interrupted(&claim) && record.expansion.is_none() && !self.disks.is_short(disk, &claim) {
            return Ok(());
        }
        let (inner, disk, volume, record) = (Arc::clone(self), disk.clone(), volume.clone(), record.clone());
        blocking(move || {
            let claim = inner.complete_change(&disk, claim, &volume)?;
            inner.disks.extend_partition(&disk, &claim)?;
            if record.expansion.is_some()
                && let Err(error) = inner.write_record(&disk, &claim, &record.expanding(None))
            {
                // The request is fulfilled nevertheless.
                tracing::warn!(volume = volume.name, %error, "cannot forget the progress of an expansion");
            }
            Ok(())
        })
        .await
    }

    /// Blocks.
    fn write_record(&self, disk: &Disk, claim: &Claim, record: &Record) -> Result<Claim> {
        let written = self.disks.write(disk).and_then(|device| {
            claim::set_record(&Any(&*device), claim, record.to_string().as_bytes())
                .map_err(|error| self.explain(&error))
        });
        self.mark_changed(disk);
        written
    }

    /// The error for a disk that has another size than when the expansion began.
    fn resized(&self, disk: &Disk, volume: &PoolVolume) -> Error {
        Error::unavailable(format!(
            "pool {}: the size of the disk {} changed while volume {} was being expanded: retry",
            self.name, disk.name, volume.name
        ))
    }
}

/// The table at the start of the disk shows that the enlarged disk is still the claim's own.
fn check_table(pool: &str, disk: &Disk, claim: &Claim, volume: &PoolVolume) -> Result<()> {
    if !claim.degraded.contains(&Degraded::PrimaryTable) {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "pool {pool}: volume {} cannot be expanded before the partition table at the start of its disk {} is repaired; \
         `quarry disks` on this node prints the commands",
        volume.name, disk.name
    )))
}

/// Where in the space that a volume of `before` bytes gets to have `after` bytes a signature would be found: at the
/// edges of the space, and in the places of the larger volume.
fn new_signature_places(before: u64, after: u64) -> Vec<Range<u64>> {
    let mut places = signature_places(after.saturating_sub(before));
    let of_volume = signature_places(after).into_iter().filter(|place| place.end > before);
    places.extend(of_volume.map(|place| place.start.saturating_sub(before)..place.end.saturating_sub(before)));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_wiped_at_the_edges_and_where_the_larger_volume_has_them() {
        const MIB: u64 = 1 << 20;
        let mib = |from: u64, to: u64| from * MIB..to * MIB;
        // btrfs has a copy of its superblock at 64 MiB of the volume.
        let places = new_signature_places(50 * MIB, 150 * MIB);
        // A second header of LUKS2 may begin at 4 MiB.
        assert_eq!(places[..2], [0..4 * MIB + 65536, mib(96, 100)]);
        assert!(places.contains(&(14 * MIB..14 * MIB + 65536)), "{places:?}");
        assert!(places.iter().all(|place| place.start < place.end && place.end <= 100 * MIB));
        // It is smaller than an edge.
        assert_eq!(new_signature_places(50 * MIB, 51 * MIB), [mib(0, 1), mib(0, 1)]);
    }
}
