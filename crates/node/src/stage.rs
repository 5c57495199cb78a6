//! Stage and unstage: from a carved volume to a filesystem mounted at its staging path, and back.
//!
//! This is the one place where a filesystem is made. Whether it may be made is decided by the record alone: a `ready`
//! volume never reaches mkfs, whatever its device looks like.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_filesystem::{self as filesystem, Probe};
use quarry_mount as mount;
use quarry_pool::{Health, Pool, PoolVolume, Record, State};
use quarry_volume::{
    AccessType, AccessTypes, Capability, Error, Filesystem, MakeOptions, MountOptions, Result, VolumeId,
    parameters_hash,
};

use crate::errors;
use crate::host::{Host, Located};
use crate::prepare::{is_zeroed, note};

/// What NodeStageVolume asks for.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) id: VolumeId,
    pub(crate) staging: PathBuf,
    pub(crate) capability: Capability,
    /// From the volume's context, as CreateVolume put it there.
    pub(crate) mkfs_options: String,
}

impl Host {
    pub(crate) async fn stage(&self, stage: Stage, wait: Duration) -> Result<()> {
        let host = self.clone();
        let id = stage.id.clone();
        self.tasks()
            .run(&id.volume, "stage", wait, |_| async move { host.stage_now(stage).await })
            .await
            .map_err(|error| error.context(format_args!("staging volume {id}")))
    }

    async fn stage_now(&self, stage: Stage) -> Result<()> {
        let (Located { pool, mut volume }, record) = self.usable(&stage.id, &stage.capability).await?;
        let device = pool.activate(&volume).await?.node()?;
        let Some(kind) = record.filesystem.filter(|_| stage.capability.access == AccessType::Mount) else {
            let staged = stage_block(&pool, &mut volume, &record).await;
            self.tell_first_use(&pool, &record);
            return staged;
        };
        let options = MountOptions::parse(kind, &stage.capability.mount_flags)?;
        let already = {
            let staging = stage.staging.clone();
            errors::blocking(move || {
                let entry = mount::at(&staging).map_err(errors::mount)?;
                if entry.is_none() {
                    // Before a filesystem is made for a mount that could not follow.
                    mount::check_target(&staging).map_err(errors::mount)?;
                }
                Ok(entry)
            })
            .await?
        };
        if already.is_none() {
            match record.state {
                State::New => {
                    let settled = settle(&pool, &mut volume, &record, kind, &device, &stage.mkfs_options).await;
                    self.tell_first_use(&pool, &record);
                    settled?;
                }
                State::Ready => verify(&volume, kind, &device).await?,
            }
        }
        // Mounted already: `mount_filesystem` says whether that is this volume, in this way.
        errors::blocking(move || {
            mount::mount_filesystem(&device, &stage.staging, kind.as_str(), &options.to_words()).map_err(errors::mount)
        })
        .await
    }

    /// A volume that was `new` is probably `ready` now.
    fn tell_first_use(&self, pool: &Arc<dyn Pool>, before: &Record) {
        if before.state == State::New {
            self.board().stir(pool.name());
        }
    }

    /// Finds a volume that is to be staged or published, and checks that it was made for this use.
    pub(crate) async fn usable(&self, id: &VolumeId, capability: &Capability) -> Result<(Located, Record)> {
        let located = self.locate(id).await?.ok_or_else(|| Error::not_found(format!("volume {id} does not exist")))?;
        let record = located.volume.record()?.clone();
        if !record.access.includes(capability.access) {
            return Err(Error::precondition(format!(
                "it was made for use as {}, and is never used as {}",
                record.access, capability.access
            )));
        }
        if let (Some(asked), Some(made)) = (capability.filesystem, record.filesystem)
            && asked != made
        {
            return Err(Error::precondition(format!("it carries {made}, and {asked} is asked for")));
        }
        match &located.volume.health {
            Health::Lost(why) | Health::Incomplete(why) => return Err(Error::precondition(why.clone())),
            Health::Degraded(why) => tracing::warn!(volume = %id, why, "used although degraded"),
            Health::Whole => {}
        }
        Ok((located, record))
    }

    pub(crate) async fn unstage(&self, id: &str, staging: PathBuf, wait: Duration) -> Result<()> {
        self.unmount(id, "unstage", staging, false, wait)
            .await
            .map_err(|error| error.context(format_args!("unstaging volume {id}")))
    }

    /// Unmounts what is at `target`, and removes the target if it is `ours`. The volume need not exist any more: a lost
    /// disk is unpublished and unstaged like any other.
    pub(crate) async fn unmount(
        &self,
        id: &str,
        what: &'static str,
        target: PathBuf,
        ours: bool,
        wait: Duration,
    ) -> Result<()> {
        let parsed = id.parse::<VolumeId>().ok();
        let key = parsed.as_ref().map_or_else(|| id.to_owned(), |id| id.volume.clone());
        let host = self.clone();
        self.tasks()
            .run(&key, what, wait, |_| async move {
                let device = match parsed {
                    Some(id) => host.device_of(&id).await,
                    None => None,
                };
                errors::blocking(move || {
                    if let Some(entry) = mount::at(&target).map_err(errors::mount)? {
                        refuse_foreign(&entry, device, &target)?;
                    }
                    mount::unmount(&target).map_err(errors::mount)?;
                    if ours { mount::remove_target(&target).map_err(errors::mount) } else { Ok(()) }
                })
                .await
            })
            .await
    }

    /// The device number of a volume, where it can be told.
    pub(crate) async fn device_of(&self, id: &VolumeId) -> Option<mount::Device> {
        let located = self.locate(id).await.ok()??;
        let path = located.pool.device(&located.volume).ok()??;
        mount::Device::of_node(&path)
    }
}

/// What is not this volume is left alone: another volume is somebody else's pod. Where the volume's device cannot be told
/// any more, everything that cannot have been one is.
fn refuse_foreign(entry: &mount::Entry, device: Option<mount::Device>, target: &Path) -> Result<()> {
    let ours = match device {
        Some(device) => {
            let published = mount::publications_of_block(device).map_err(errors::mount)?;
            entry.is_of_device(device) || published.iter().any(|publication| publication.id == entry.id)
        }
        None => entry.is_mapped() || entry.partition() == Some(quarry_pool::VOLUME_PARTITION),
    };
    // Nobody can use what has lost its disk, and the disk may be back by another number.
    if ours || entry.is_bereft() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "{target:?} holds {entry}, which is not this volume; it was left alone: find out whose it is and unmount it"
    )))
}

/// A raw block volume needs nothing but to be zeroed, which CreateVolume does.
async fn stage_block(pool: &Arc<dyn Pool>, volume: &mut PoolVolume, record: &Record) -> Result<()> {
    match (record.state, record.access) {
        (State::Ready, _) => Ok(()),
        // The first use decides what a volume of both types is: from now on its bytes are the user's.
        (State::New, AccessTypes::Both) if is_zeroed(record, volume.size) => note(pool, volume, &record.ready()).await,
        (State::New, _) => Err(Error::precondition(
            "it has not been zeroed to its end, so that it may still show another tenant's bytes; repeat CreateVolume \
             until it answers OK",
        )),
    }
}

/// Brings a `new` volume to `ready`: makes its filesystem, or adopts the one that an interrupted stage made.
async fn settle(
    pool: &Arc<dyn Pool>,
    volume: &mut PoolVolume,
    record: &Record,
    kind: Filesystem,
    device: &Path,
    mkfs_options: &str,
) -> Result<()> {
    if record.access.shows_bytes() && !is_zeroed(record, volume.size) {
        return Err(Error::precondition("it has not been zeroed to its end; repeat CreateVolume until it answers OK"));
    }
    let uuid = filesystem::filesystem_uuid(&volume.uuid);
    match filesystem::probe(device).await.map_err(errors::filesystem)? {
        Probe::Blank => make(record, kind, device, &uuid, mkfs_options).await?,
        Probe::Filesystem { kind: found, uuid: found_uuid, in_progress, .. }
            if found == kind && found_uuid.eq_ignore_ascii_case(&uuid) && !quarry_fault::disabled("adopt") =>
        {
            if in_progress {
                // mkfs.xfs was interrupted, so it was never mounted: `make` wipes what it left and begins again.
                make(record, kind, device, &uuid, mkfs_options).await?;
            } else {
                // Somebody may still be writing it: an mkfs that outlived the Quarry that started it.
                let path = device.to_owned();
                errors::blocking(move || {
                    let file = filesystem::exclusive(&path).map_err(errors::filesystem)?;
                    file.sync_all().map_err(|error| Error::host(format!("flushing the filesystem: {error}")))
                })
                .await?;
                filesystem::check_before_adoption(kind, device).await.map_err(errors::filesystem)?;
                tracing::info!(volume = volume.name, "adopted the filesystem that an interrupted stage made");
            }
        }
        other => {
            return Err(Error::precondition(format!(
                "it is new, yet it holds {}, which Quarry did not make; it was left untouched: if nobody needs \
                 that, delete the volume and ask for it again",
                other.words()
            )));
        }
    }
    note(pool, volume, &record.ready()).await
}

async fn make(record: &Record, kind: Filesystem, device: &Path, uuid: &str, mkfs_options: &str) -> Result<()> {
    if parameters_hash(record.filesystem, &record.layout, mkfs_options) != record.parameters {
        return Err(Error::precondition(
            "the mkfsOptions in its volume context are not the ones it was created with; restore the PV's \
             volumeAttributes",
        ));
    }
    let options = MakeOptions::parse(kind, mkfs_options)?;
    filesystem::make(kind, device, uuid, &options).await.map_err(errors::filesystem)
}

/// Whether a `ready` volume carries the filesystem that was made for it. If not, it is never touched.
async fn verify(volume: &PoolVolume, kind: Filesystem, device: &Path) -> Result<()> {
    let uuid = filesystem::filesystem_uuid(&volume.uuid);
    match filesystem::probe(device).await.map_err(errors::filesystem)? {
        Probe::Filesystem { kind: found, uuid: found_uuid, in_progress: false, .. }
            if found == kind && found_uuid.eq_ignore_ascii_case(&uuid) =>
        {
            Ok(())
        }
        found => Err(Error::precondition(format!(
            "it was handed out before, and should carry {kind} with UUID {uuid}, but it holds {}; Quarry never \
             formats such a volume: restore the filesystem (its backup superblocks, a backup), or delete the volume",
            found.words()
        ))),
    }
}
