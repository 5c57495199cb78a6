//! What is done to a volume that exists: its device, its record, its end.

use std::path::PathBuf;
use std::sync::Arc;

use quarry_disk::claim::{self, Claim, Degraded, Found};
use quarry_disk::{Disk, How};
use quarry_volume::{Error, Reason, Result, Wipe};

use super::disks::Any;
use super::view::{View, place};
use super::{Inner, blocking};
use crate::{Health, PoolVolume, Record, Recorded};

impl Inner {
    /// The volume's disk and claim as they are now; what was looked up earlier may have changed.
    fn current(&self, view: &View, volume: &PoolVolume) -> Result<(Disk, Claim, PoolVolume)> {
        let now = view.volumes().find(|now| (&now.group, &now.uuid) == (&volume.group, &volume.uuid));
        if let Some(Health::Lost(why)) = now.map(|now| &now.health) {
            return Err(Error::unavailable(format!("pool {}: {why}", self.name)));
        }
        match (now, view.claim(&volume.group)) {
            (Some(now), Some((disk, claim))) => Ok((disk.clone(), claim.clone(), now.clone())),
            _ => Err(Error::unavailable(format!(
                "volume {} has been removed from pool {} in the meantime: retry",
                volume.name, self.name
            ))),
        }
    }

    pub(super) async fn activate(self: &Arc<Self>, volume: &PoolVolume) -> Result<PathBuf> {
        if let Some(node) = self.active(volume).await? {
            return Ok(node);
        }
        let _turn = self.changing.take(format!("volume {} is activated", volume.name)).await;
        let view = self.view().await?;
        let (disk, claim, now) = self.current(&view, volume).map_err(|error| match error.reason {
            Reason::Unavailable => Error::precondition(error.message),
            _ => error,
        })?;
        self.changing.is_at(&disk.name);
        let inner = Arc::clone(self);
        blocking(move || {
            inner.mend(&disk, &claim, &now)?;
            let (node, opened) = inner.disks.add_partitions(&disk, &claim)?;
            inner.opened().insert(claim.identity.disk.to_string(), opened);
            Ok(node)
        })
        .await
    }

    /// Has a volume's record stand in both copies, before it is answered for.
    pub(super) async fn settle(self: &Arc<Self>, volume: &PoolVolume) -> Result<()> {
        let stands = |view: &View| {
            view.claim(&volume.group).is_none_or(|(_, claim)| !claim.degraded.contains(&Degraded::Record))
        };
        if stands(&*self.view().await?) {
            return Ok(());
        }
        let _turn = self.changing.take(format!("the record of volume {} is mended", volume.name)).await;
        let view = self.view().await?;
        let (disk, claim, now) = self.current(&view, volume)?;
        self.changing.is_at(&disk.name);
        let inner = Arc::clone(self);
        blocking(move || inner.mend(&disk, &claim, &now)).await
    }

    /// A record that stands in one copy only is written again before it is acted upon: else the loss of that copy would bring
    /// back what was before. Blocks.
    fn mend(&self, disk: &Disk, claim: &Claim, volume: &PoolVolume) -> Result<()> {
        if !claim.degraded.contains(&Degraded::Record) || !matches!(volume.record, Recorded::Here(_)) {
            return Ok(());
        }
        let device = self.disks.write(disk)?;
        let mended = claim::set_record(&Any(&*device), claim, &claim.record);
        self.touched(disk);
        mended.map(drop).map_err(|error| self.explain(&error))
    }

    /// The node of the volume's partition if nothing is left to be done for it: then there is no need to wait for a turn.
    async fn active(self: &Arc<Self>, volume: &PoolVolume) -> Result<Option<PathBuf>> {
        if !self.opened().contains_key(&volume.group) {
            return Ok(None);
        }
        let view = self.view().await?;
        match self.current(&view, volume) {
            Ok((disk, claim, _)) if !claim.degraded.contains(&Degraded::Record) => self.disks.partition(&disk, &claim),
            // Said when its turn comes.
            _ => Ok(None),
        }
    }

    /// The node of the volume's partition, on whichever pool's disk it lies. No disk is asked, which might not answer: the
    /// disk is known by the claim that was read last, if the kernel's tables have that disk still.
    pub(super) fn device(&self, volume: &PoolVolume) -> Result<Option<PathBuf>> {
        let raws = self.memory().seen.as_ref().map(|kept| Arc::clone(&kept.raws));
        let claims = raws.iter().flat_map(|raws| raws.iter()).filter_map(|raw| match &raw.found {
            Ok(Found::Claimed(claim)) if claim.identity.disk.to_string() == volume.group => Some((raw, claim)),
            _ => None,
        });
        let mut node = None;
        for (raw, claim) in claims {
            // Without the kernel's count, a disk that came since may have the name and the number.
            if raw.disk.sequence.is_none() && self.uevents.of_disk(&raw.disk.name) != raw.heard {
                continue;
            }
            let found = self.disks.partition(&raw.disk, claim)?;
            if found.is_some() && node.is_some() {
                let why = "two disks hold it; take the wrong one away";
                return Err(Error::host(format!("looking for the device of volume {}: {why}", volume.name)));
            }
            node = node.or(found);
        }
        Ok(node)
    }

    pub(super) async fn set_record(self: &Arc<Self>, volume: &PoolVolume, record: &Record) -> Result<()> {
        if volume.record()? == record {
            return Ok(());
        }
        let _turn = self.changing.take(format!("the record of volume {} is changed", volume.name)).await;
        self.invalidate();
        let view = self.view().await?;
        let (disk, claim, now) = self.current(&view, volume)?;
        self.changing.is_at(&disk.name);
        if now.record != volume.record {
            return Err(Error::precondition(format!(
                "the record of volume {} was changed by somebody else in the meantime; retry",
                volume.name
            )));
        }
        let (inner, text) = (Arc::clone(self), record.to_string());
        let changed = blocking(move || {
            let changed = inner.disks.write(&disk).and_then(|device| {
                claim::set_record(&Any(&*device), &claim, text.as_bytes()).map_err(|error| inner.explain(&error))
            });
            inner.touched(&disk);
            changed
        });
        changed.await.map(drop)
    }

    pub(super) async fn remove(self: &Arc<Self>, volume: &PoolVolume) -> Result<()> {
        let _turn = self.changing.take(format!("volume {} is removed", volume.name)).await;
        self.invalidate();
        let view = self.view().await?;
        let (disk, claim, now) = self.current(&view, volume)?;
        self.changing.is_at(&disk.name);
        let way = self.way(Some(now.record()?));
        refuse_used(&disk, &now)?;
        let here = place(&disk);
        // Before the disk says that it is being released: else a look would begin the same.
        self.releases.begin(here.clone());
        let held = {
            let inner = Arc::clone(self);
            let disk = disk.clone();
            blocking(move || {
                let held = inner.disks.hold(&disk)?;
                // Ours is the first that has to go.
                inner.opened().remove(&claim.identity.disk.to_string());
                held.drop_partitions()?;
                // The wiping comes before the rest, and a cut in the middle of it must find the disk so.
                claim::begin_release(&Any(&*held), &claim).map_err(|error| inner.explain(&error))?;
                inner.memory().known.remove(&claim.identity.disk);
                Ok(held)
            })
            .await
        };
        self.touched(&disk);
        let held = held.inspect_err(|_| self.releases.end(&here))?;
        let work = tokio::spawn(Arc::clone(self).release(disk, Some(held)));
        // Wiping takes its time, and the disk says that it has to be done. Where there is nothing to wipe, the disk is free
        // before this returns. What fails then is shown, and tried again.
        if way == Wipe::None {
            let _ = work.await;
        }
        Ok(())
    }
}

/// Refuses to remove what shows as used in the kernel's tables. A use that does not show is refused by the kernel, asked
/// for the disk alone.
fn refuse_used(disk: &Disk, volume: &PoolVolume) -> Result<()> {
    let used = match (disk.holders.first(), disk.uses.first().map(|one| &one.how)) {
        (None, None) => return Ok(()),
        (Some(holder), _) => format!("{holder} lies on it"),
        (None, Some(How::Mounted { at } | How::Published { at })) => format!("it is in use at {}", at.display()),
        (None, Some(How::Swap)) => "it is used as swap".to_owned(),
        (None, Some(How::Loop { name })) => format!("{name} leads to it"),
        (None, Some(How::Btrfs)) => "it is a member of a mounted btrfs".to_owned(),
    };
    Err(Error::new(Reason::InUse, format!("volume {} is not removed: {used}; end that first", volume.name)))
}
