//! Stage: from a carved volume to a filesystem mounted at its staging path.
//!
//! This is the one place where a filesystem is made. Whether it may be made is decided by the record alone: a `ready`
//! volume never reaches mkfs, whatever its device looks like.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_filesystem::{self as filesystem, Probe, Superblock};
use quarry_mount as mount;
use quarry_pool::{Health, Pool, PoolVolume, Record, State};
use quarry_volume::{
    AccessMode, AccessType, AccessTypes, Capability, Error, Filesystem, MakeOptions, MountOptions, Reason, Result,
    VolumeId, parameters_hash,
};

use crate::condition::{Look, RECOVERY};
use crate::errors;
use crate::host::{Host, Located};
use crate::prepare::{is_zeroed, note};

/// How long a pool may take to say which volume an identifier means: a little longer than a report may.
const QUESTION: Duration = Duration::from_secs(40);

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
        let look = match options.read_only() || stage.capability.mode == AccessMode::ReaderOnly {
            true => Look::Read,
            false => Look::Write,
        };
        if self.staged(&stage, &device, look).await?.is_none() {
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
        let staging = stage.staging.clone();
        let mounted = errors::blocking(move || {
            mount::mount_filesystem(&device, &staging, kind.as_str(), &options.to_words()).map_err(errors::mount)?;
            mount::at(&staging).map_err(errors::mount)
        })
        .await?;
        match mounted {
            Some(mounted) => self.require_service(&stage, mounted, look).await,
            None => {
                Err(Error::new(Reason::UnderWay, "what was mounted has just been unmounted by somebody else; retry"))
            }
        }
    }

    /// What is mounted at the staging path. This volume's filesystem that does not serve any more is unmounted first, where
    /// nobody uses it: the mount that follows recovers it.
    async fn staged(&self, stage: &Stage, device: &Path, look: Look) -> Result<Option<mount::Entry>> {
        let staging = stage.staging.clone();
        let entry = errors::blocking(move || {
            let entry = mount::at(&staging).map_err(errors::mount)?;
            if entry.is_none() {
                // Before a filesystem is made for a mount that could not follow.
                mount::check_target(&staging).map_err(errors::mount)?;
            }
            Ok(entry)
        })
        .await?;
        let number = mount::Device::of_node(device);
        let Some(entry) = entry else { return Ok(None) };
        if !number.is_some_and(|number| entry.is_of_device(number)) {
            // `mount_filesystem` refuses it.
            return Ok(Some(entry));
        }
        let Some(trouble) = self.condition(&stage.id, entry.clone(), look).await? else { return Ok(Some(entry)) };
        let staging = stage.staging.clone();
        errors::blocking(move || {
            let here = mount::all_at(&staging).map_err(errors::mount)?;
            let users = number.map(mount::mounts_of_device).transpose().map_err(errors::mount)?.unwrap_or_default();
            let others: Vec<_> =
                users.iter().filter(|user| !here.iter().any(|entry| entry.target == user.target)).collect();
            if !others.is_empty() {
                return Err(Error::precondition(format!(
                    "{trouble}, and it is mounted at {}; {RECOVERY}",
                    listed(&others)
                )));
            }
            tracing::warn!(%trouble, ?staging, "unmounted, to be mounted again");
            mount::unmount(&staging).map_err(errors::mount)
        })
        .await?;
        Ok(None)
    }

    /// Refuses a filesystem that does not serve although it was just mounted, and leaves nothing mounted.
    async fn require_service(&self, stage: &Stage, mounted: mount::Entry, look: Look) -> Result<()> {
        let Some(trouble) = self.condition(&stage.id, mounted, look).await? else { return Ok(()) };
        let staging = stage.staging.clone();
        errors::blocking(move || {
            mount::unmount(&staging).map_err(errors::mount)?;
            Err(Error::precondition(format!(
                "{trouble}, again or still, after it was mounted: either a container still uses the volume, or its disk fails, \
                 or the filesystem is damaged; see the kernel log, and check the filesystem (fsck) while nothing uses it"
            )))
        })
        .await
    }

    /// A volume that was `new` is probably `ready` now.
    fn tell_first_use(&self, pool: &Arc<dyn Pool>, before: &Record) {
        if before.state == State::New {
            self.publisher().refresh_soon(pool.name());
        }
    }

    /// Finds a volume that is to be staged or published, and checks that it was made for this use.
    pub(crate) async fn usable(&self, id: &VolumeId, capability: &Capability) -> Result<(Located, Record)> {
        // A pool that does not answer must not keep the volume's turn: it could not be unpublished.
        let located = tokio::time::timeout(QUESTION, self.locate(id)).await.map_err(|_| {
            Error::unavailable(format!("its pool has not answered for {} s; retry", QUESTION.as_secs()))
        })??;
        let located = located.ok_or_else(|| Error::not_found("it does not exist"))?;
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
}

/// Where these are mounted, in words.
pub(crate) fn listed(entries: &[&mount::Entry]) -> String {
    let mut targets: Vec<_> = entries.iter().map(|entry| &entry.target).collect();
    targets.dedup();
    targets.iter().map(|target| format!("{target:?}")).collect::<Vec<_>>().join(", ")
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
    match own_superblock(kind, device, &uuid).await?.filter(|_| !quarry_fault::disabled("adopt")) {
        // mkfs.xfs was interrupted, so it was never mounted: `make` wipes what it left and begins again.
        Some(Superblock { in_progress: true, .. }) => make(record, kind, device, &uuid, mkfs_options).await?,
        Some(_) => adopt(volume, kind, device).await?,
        None => match filesystem::probe(device).await.map_err(errors::filesystem)? {
            Probe::Blank => make(record, kind, device, &uuid, mkfs_options).await?,
            other => {
                return Err(Error::precondition(format!(
                    "it is new, yet it holds {}, which Quarry did not make; it was left untouched: if nobody needs \
                     that, delete the volume and ask for it again",
                    other.words()
                )));
            }
        },
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

/// Takes the filesystem that an interrupted stage made, once nobody writes to it any more and it is seen to be whole.
async fn adopt(volume: &PoolVolume, kind: Filesystem, device: &Path) -> Result<()> {
    // Somebody may still be writing it: an mkfs that outlived the Quarry that started it.
    let path = device.to_owned();
    errors::blocking(move || {
        let file = filesystem::exclusive(&path).map_err(errors::filesystem)?;
        file.sync_all().map_err(|error| Error::host(format!("flushing the filesystem: {error}")))
    })
    .await?;
    filesystem::check_before_adoption(kind, device).await.map_err(errors::filesystem)?;
    tracing::info!(volume = volume.name, "adopted the filesystem that an interrupted stage made");
    Ok(())
}

/// The superblock of a filesystem of that kind, if it has the UUID that only this volume's has.
pub(crate) async fn own_superblock(kind: Filesystem, device: &Path, uuid: &str) -> Result<Option<Superblock>> {
    let found = filesystem::superblock(kind, device).await.map_err(errors::filesystem)?;
    Ok(found.filter(|found| found.uuid.eq_ignore_ascii_case(uuid)))
}

/// Whether a `ready` volume carries the filesystem that was made for it. If not, it is never touched. What else may be
/// found on the device does not matter: it lies among the user's own bytes.
async fn verify(volume: &PoolVolume, kind: Filesystem, device: &Path) -> Result<()> {
    let uuid = filesystem::filesystem_uuid(&volume.uuid);
    if own_superblock(kind, device, &uuid).await?.is_some_and(|found| !found.in_progress) {
        return Ok(());
    }
    let found = filesystem::probe(device).await.map_err(errors::filesystem)?;
    Err(Error::precondition(format!(
        "it was handed out before, and should carry {kind} with UUID {uuid}, but its superblock is not there, and it \
         holds {}; Quarry never formats such a volume: restore the filesystem (its backup superblocks, a backup), or \
         delete the volume",
        found.words()
    )))
}
