//! Stage: mounts a volume's filesystem at its staging path, makes the filesystem at the first use, and grows it if it
//! is smaller than its device ([`crate::grow`]).
//!
//! This is the only place that makes filesystems. Only the record decides whether one may be made: a `ready`
//! volume never reaches mkfs, whatever its device contains.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_exec::Secret;
use quarry_filesystem::{Probe, Superblock};
use quarry_mount::{Device, Entry};
use quarry_pool::{Health, Pool, PoolVolume, Record, State};
use quarry_volume::{
    AccessMode, AccessType, AccessTypes, Capability, Error, Filesystem, MakeOptions, MountOptions, Reason, Result,
    VolumeId, parameters_hash,
};
use uuid::Uuid;

use crate::condition::{Check, RECOVERY};
use crate::fill::require_filled;
use crate::host::{Host, Located};
use crate::kernel::Kernel;
use crate::prepare::{is_zeroed, update_record};
use crate::unmount::unmount_own;
use crate::{device, errors, exclusive_use};

/// The task that stages a volume.
pub(crate) const STAGE: &str = "stage";

/// How long a pool may take to look up a volume ID: a little longer than a report may take.
const QUESTION: Duration = Duration::from_secs(40);

/// The parameters of NodeStageVolume.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) id: VolumeId,
    pub(crate) staging: PathBuf,
    pub(crate) capability: Capability,
    /// From the volume's context, as CreateVolume put it there.
    pub(crate) mkfs_options: String,
    /// From the secrets of the call; only for encrypted volumes.
    pub(crate) passphrase: Option<Secret>,
}

impl Host {
    pub(crate) async fn stage(&self, stage: Stage, wait: Duration) -> Result<()> {
        let host = self.clone();
        let id = stage.id.clone();
        self.tasks()
            .run_after(
                &id.volume,
                STAGE,
                &[crate::modify::MODIFY],
                wait,
                |_| async move { host.stage_now(stage).await },
            )
            .await
            .map_err(|error| error.context(format_args!("staging volume {id}")))
    }

    async fn stage_now(&self, stage: Stage) -> Result<()> {
        let staged = self.stage_volume(&stage).await;
        if staged.as_ref().is_err_and(|error| error.reason.is_final()) {
            // After a final error, kubelet does not unstage it. This call may have opened it, or an earlier one that was
            // killed, or ended with an error that is not final. If anything uses it, it stays open.
            self.close_encrypted(&stage.id).await;
        }
        staged
    }

    async fn stage_volume(&self, stage: &Stage) -> Result<()> {
        let (Located { pool, mut volume }, record) = self.usable(&stage.id, &stage.capability).await?;
        let device = match record.encryption {
            None => device::activate(&**self.kernel(), &pool, &volume).await?,
            Some(_) => {
                let passphrase = stage.passphrase.as_ref();
                let mounted = stage.capability.access == AccessType::Mount;
                self.open_encrypted(&stage.id, &pool, &volume, &record, passphrase, mounted).await?
            }
        };
        let device = device.usable(&record)?;
        self.stage_device(stage, &pool, &mut volume, &record, &device).await
    }

    /// Makes the filesystem at the first use, and mounts it. `device`: the node through which the volume is used.
    pub(crate) async fn stage_device(
        &self,
        stage: &Stage,
        pool: &Arc<dyn Pool>,
        volume: &mut PoolVolume,
        record: &Record,
        device: &Path,
    ) -> Result<()> {
        let Some(kind) = record.filesystem.filter(|_| stage.capability.access == AccessType::Mount) else {
            if record.access == AccessTypes::Both {
                self.require_raw(&stage.id, device).await?;
            }
            let staged = stage_block(pool, volume, record).await;
            self.refresh_after_first_use(pool, record);
            return staged;
        };
        let mut options =
            MountOptions::parse(kind, &stage.capability.mount_flags)?.with_discard(kind, record.discard)?;
        if record.shares_filesystem_uuid() {
            options = options.sharing_uuid(kind);
        }
        let check = match options.read_only() || stage.capability.mode == AccessMode::ReaderOnly {
            true => Check::Read,
            false => Check::Write,
        };
        if self.staged(stage, device, check).await?.is_none() {
            if record.access == AccessTypes::Both
                && let Some(number) = self.kernel().number(device)
            {
                let (kernel, id) = (Arc::clone(self.kernel()), stage.id.clone());
                errors::blocking(move || exclusive_use::require_not_raw(&*kernel, &id, number)).await?;
            }
            match record.state {
                State::New => {
                    let made =
                        make_or_adopt(self.kernel(), pool, volume, record, kind, device, &stage.mkfs_options).await;
                    self.refresh_after_first_use(pool, record);
                    made?;
                }
                State::Ready => verify(self.kernel(), volume, kind, device).await?,
            }
        }
        // If something is mounted already, `mount_filesystem` checks that it is this volume with these
        // options.
        let (kernel, node, staging) = (Arc::clone(self.kernel()), device.to_owned(), stage.staging.clone());
        let (mounted, is_first) = errors::blocking(move || {
            let others = kernel.number(&node).map(|number| kernel.mounts_of_device(number)).transpose()?;
            kernel.mount_filesystem(&node, &staging, kind, &options.to_words())?;
            Ok((kernel.at(&staging)?, others.is_some_and(|others| others.is_empty())))
        })
        .await?;
        match mounted {
            Some(mounted) => {
                let read_only = mounted.read_only();
                self.require_working(stage, mounted, check).await?;
                if is_first && read_only {
                    // The problems of a filesystem end with its last mount. This one could not show that.
                    self.publisher().set_filesystem_problem(&stage.id, None, false);
                }
                self.unmounted().lock().remove(&(stage.id.clone(), stage.staging.clone()));
                if check == Check::Write {
                    self.grow_staged(&stage.id, volume, kind, device, &stage.staging).await;
                }
                Ok(())
            }
            None => Err(Error::new(
                Reason::UnderWay,
                "the volume was mounted, but another process has just unmounted it; retry",
            )),
        }
    }

    /// Fails if the filesystem on the device is mounted, unless the volume is already published raw.
    async fn require_raw(&self, id: &VolumeId, device: &Path) -> Result<()> {
        let Some(number) = self.kernel().number(device) else { return Ok(()) };
        let (kernel, id) = (Arc::clone(self.kernel()), id.clone());
        errors::blocking(move || {
            if exclusive_use::raw_publications(&*kernel, &id, number)?.is_empty() {
                exclusive_use::require_unmounted(&*kernel, number)?;
            }
            Ok(())
        })
        .await
    }

    /// The mount at the staging path. If it is this volume's filesystem, it no longer works, and nothing else
    /// uses it, it is unmounted first: the next mount recovers it. So is one whose disk was pulled.
    async fn staged(&self, stage: &Stage, device: &Path, check: Check) -> Result<Option<Entry>> {
        let (kernel, staging) = (Arc::clone(self.kernel()), stage.staging.clone());
        let entry = errors::blocking(move || {
            let entry = kernel.at(&staging)?;
            if entry.is_none() {
                // Check before mkfs: do not make a filesystem that cannot be mounted.
                kernel.check_target(&staging)?;
            }
            Ok(entry)
        })
        .await?;
        let number = self.kernel().number(device);
        let Some(entry) = entry else { return Ok(None) };
        if self.kernel().is_device_gone(&entry) {
            let _hold = self.trims().hold(&stage.id.volume).await?;
            let (kernel, staging) = (Arc::clone(self.kernel()), stage.staging.clone());
            errors::blocking(move || {
                // As long as one is left, the kernel has the old filesystem, and mounts no other with its UUID.
                require_no_other(&*kernel, &staging, entry.device, &"the disk of what is mounted there is gone")?;
                tracing::warn!(%entry, ?staging, "unmounting a filesystem whose disk is gone");
                let is_own = |entry: &Entry| {
                    kernel.is_device_gone(entry) || number.is_some_and(|number| kernel.is_of_device(entry, number))
                };
                unmount_own(&*kernel, &staging, is_own)
            })
            .await?;
            self.unmounted().lock().insert((stage.id.clone(), stage.staging.clone()));
            return Ok(None);
        }
        if !number.is_some_and(|number| self.kernel().is_of_device(&entry, number)) {
            // `mount_filesystem` rejects it.
            return Ok(Some(entry));
        }
        let Some(trouble) = self.condition(&stage.id, entry.clone(), check).await? else { return Ok(Some(entry)) };
        // A trim has it open.
        let _hold = self.trims().hold(&stage.id.volume).await?;
        let (kernel, staging) = (Arc::clone(self.kernel()), stage.staging.clone());
        errors::blocking(move || {
            if let Some(number) = number {
                require_no_other(&*kernel, &staging, number, &trouble)?;
            }
            tracing::warn!(%trouble, ?staging, "unmounting a failed filesystem to mount it again");
            let is_own = |entry: &Entry| number.is_some_and(|number| kernel.is_of_device(entry, number));
            unmount_own(&*kernel, &staging, is_own)
        })
        .await?;
        self.unmounted().lock().insert((stage.id.clone(), stage.staging.clone()));
        Ok(None)
    }

    /// Fails if the filesystem does not work although it was just mounted, and unmounts it.
    async fn require_working(&self, stage: &Stage, mounted: Entry, check: Check) -> Result<()> {
        let device = mounted.device;
        let Some(trouble) = self.condition(&stage.id, mounted, check).await? else { return Ok(()) };
        let _hold = self.trims().hold(&stage.id.volume).await?;
        let (kernel, staging) = (Arc::clone(self.kernel()), stage.staging.clone());
        errors::blocking(move || {
            unmount_own(&*kernel, &staging, |entry| entry.device == device)?;
            Err(Error::precondition(format!(
                "{trouble}, even after a new mount: a container still uses the volume, its disk fails, or the \
                 filesystem is damaged; see the kernel log, and check the filesystem (fsck) while nothing uses it"
            )))
        })
        .await
    }

    /// Reads the pool again after the first use: a volume that was `new` is probably `ready` now.
    fn refresh_after_first_use(&self, pool: &Arc<dyn Pool>, before: &Record) {
        if before.state == State::New {
            self.publisher().refresh_soon(pool.name());
        }
    }

    /// Finds the volume to stage or publish, and checks that it was created for this use. The caller's task holds the
    /// volume's name.
    pub(crate) async fn usable(&self, id: &VolumeId, capability: &Capability) -> Result<(Located, Record)> {
        self.require_no_offline_copy_of(id)?;
        // An unresponsive pool must not hold the volume's lock: the volume could not be unpublished.
        let located = tokio::time::timeout(QUESTION, self.locate(id)).await.map_err(|_| {
            Error::unavailable(format!("its pool did not answer within {} s; retry", QUESTION.as_secs()))
        })??;
        let located = located.ok_or_else(|| Error::not_found("it does not exist"))?;
        let record = located.volume.record()?.clone();
        require_filled(&located.volume)?;
        if !record.access.includes(capability.access) {
            return Err(Error::precondition(format!(
                "it was created for use as {} and is never used as {}",
                record.access, capability.access
            )));
        }
        if let (Some(asked), Some(made)) = (capability.filesystem, record.filesystem)
            && asked != made
        {
            return Err(Error::precondition(format!("it contains {made}, but {asked} is requested")));
        }
        match &located.volume.health {
            Health::Lost(why) | Health::Incomplete(why) => return Err(Error::precondition(why.clone())),
            Health::Degraded(why) => tracing::warn!(volume = %id, why, "using a degraded volume"),
            Health::Whole => {}
        }
        Ok((located, record))
    }
}

/// Fails if the filesystem on that device is mounted anywhere but at the staging path. `trouble`: why it does not work.
fn require_no_other(
    kernel: &dyn Kernel,
    staging: &Path,
    device: Device,
    trouble: &dyn std::fmt::Display,
) -> Result<()> {
    let here = kernel.all_at(staging)?;
    let users = kernel.mounts_of_device(device)?;
    let others: Vec<_> = users.iter().filter(|user| !here.iter().any(|entry| entry.target == user.target)).collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::precondition(format!("{trouble}, and it is still mounted at {}; {RECOVERY}", listed(&others))))
}

/// The targets of these mounts, as text.
pub(crate) fn listed(entries: &[&Entry]) -> String {
    let mut targets: Vec<_> = entries.iter().map(|entry| &entry.target).collect();
    targets.dedup();
    targets.iter().map(|target| format!("{target:?}")).collect::<Vec<_>>().join(", ")
}

/// Checks that a raw block volume is zeroed, which CreateVolume does, or encrypted. Nothing else is needed.
async fn stage_block(pool: &Arc<dyn Pool>, volume: &mut PoolVolume, record: &Record) -> Result<()> {
    match (record.state, record.access) {
        (State::Ready, _) => Ok(()),
        // The first use decides the type of a volume of both types: from now on, its bytes belong to the
        // user.
        (State::New, AccessTypes::Both) if is_zeroed(record, volume.size) => {
            update_record(pool, volume, &record.ready()).await
        }
        // It has just got its header, or an interrupted stage wrote it.
        (State::New, _) if record.needs_no_zeroes() => update_record(pool, volume, &record.ready()).await,
        (State::New, _) => Err(Error::precondition(
            "it is not completely zeroed and may still contain another tenant's data; retry CreateVolume until it \
             returns OK",
        )),
    }
}

/// Makes the filesystem of a `new` volume, or adopts the one that an interrupted stage made; then marks the
/// volume `ready`.
async fn make_or_adopt(
    kernel: &Arc<dyn Kernel>,
    pool: &Arc<dyn Pool>,
    volume: &mut PoolVolume,
    record: &Record,
    kind: Filesystem,
    device: &Path,
    mkfs_options: &str,
) -> Result<()> {
    if record.access.shows_bytes() && !record.needs_no_zeroes() && !is_zeroed(record, volume.size) {
        return Err(Error::precondition("it is not completely zeroed; retry CreateVolume until it returns OK"));
    }
    let uuid = volume.filesystem_uuid();
    let unchanged: &PoolVolume = volume;
    let own = async || {
        let found = own_superblock(kernel, unchanged, kind, device).await?;
        Ok::<_, Error>(found.filter(|_| !quarry_fault::disabled("adopt")))
    };
    match own().await? {
        // mkfs.xfs was interrupted, so the filesystem was never mounted: `make` wipes it and starts again.
        Some(Superblock { in_progress: true, .. }) => make(kernel, record, kind, device, uuid, mkfs_options).await?,
        Some(_) => adopt(kernel, unchanged, kind, device).await?,
        None => match kernel.probe(device).await? {
            Probe::Blank => {
                if record.needs_no_zeroes() {
                    wipe_noise(kernel, pool, volume, device).await?;
                }
                make(kernel, record, kind, device, uuid, mkfs_options).await?;
            }
            other => {
                // An mkfs that outlived the Quarry process that started it may have ended between the two reads.
                if own().await?.is_some() {
                    return Err(Error::new(
                        Reason::UnderWay,
                        "the mkfs of an earlier call has just made its filesystem; retry",
                    ));
                }
                return Err(Error::precondition(format!(
                    "it is new, but it contains {}, which Quarry did not make; nothing was changed: if this data is \
                     not needed, delete the volume and request it again",
                    other.description()
                )));
            }
        },
    }
    update_record(pool, volume, &record.ready_with(uuid)).await
}

/// Wipes the places of signatures on an encrypted device that was never written to: what is below reads as noise.
async fn wipe_noise(kernel: &Arc<dyn Kernel>, pool: &Arc<dyn Pool>, volume: &PoolVolume, device: &Path) -> Result<()> {
    let (kernel, pool, volume, device) = (Arc::clone(kernel), Arc::clone(pool), volume.clone(), device.to_owned());
    errors::blocking(move || {
        let held = kernel.exclusive(&device)?;
        // While it is held, its node stays the same.
        match device::active(&*kernel, &pool, &volume)? {
            Some(now) if now.layer.is_some() && now.top == device => held.wipe_signatures(),
            _ => Err(Error::new(Reason::UnderWay, "its device has just changed; retry")),
        }
    })
    .await
}

async fn make(
    kernel: &Arc<dyn Kernel>,
    record: &Record,
    kind: Filesystem,
    device: &Path,
    uuid: Uuid,
    mkfs_options: &str,
) -> Result<()> {
    if parameters_hash(record.filesystem, &record.layout, mkfs_options) != record.parameters {
        return Err(Error::precondition(
            "the mkfsOptions in its volume context differ from those it was created with; restore the PV's \
             volumeAttributes",
        ));
    }
    let options = MakeOptions::parse(kind, mkfs_options)?;
    kernel.make(kind, device, &uuid.to_string(), &options).await
}

/// Adopts the filesystem that an interrupted stage made, if nothing writes to it any more and it is complete.
async fn adopt(kernel: &Arc<dyn Kernel>, volume: &PoolVolume, kind: Filesystem, device: &Path) -> Result<()> {
    // An mkfs that outlived the Quarry process that started it may still be writing.
    let (holder, path) = (Arc::clone(kernel), device.to_owned());
    errors::blocking(move || {
        let held = holder.exclusive(&path)?;
        held.flush().map_err(|error| Error::host(format!("cannot flush the filesystem: {error}")))
    })
    .await?;
    // An mkfs that failed may have left it only in the cache.
    if own_superblock(kernel, volume, kind, device).await?.is_none() {
        return Err(Error::new(
            Reason::UnderWay,
            "an earlier mkfs failed: its filesystem was in memory and is not on the disk; retry",
        ));
    }
    kernel.check_before_adoption(kind, device).await?;
    tracing::info!(volume = volume.name, "adopted the filesystem that an interrupted stage made");
    Ok(())
}

/// The superblock of a filesystem of that kind, if it is the volume's own: see [`PoolVolume::filesystem_uuid`].
pub(crate) async fn own_superblock(
    kernel: &Arc<dyn Kernel>,
    volume: &PoolVolume,
    kind: Filesystem,
    device: &Path,
) -> Result<Option<Superblock>> {
    let uuid = volume.filesystem_uuid().to_string();
    let found = kernel.superblock(kind, device).await?;
    Ok(found.filter(|found| found.uuid.eq_ignore_ascii_case(&uuid)))
}

/// Checks that a `ready` volume contains the filesystem that was made for it. If not, it is never changed.
/// Other signatures on the device do not matter: they are among the user's own data.
async fn verify(kernel: &Arc<dyn Kernel>, volume: &PoolVolume, kind: Filesystem, device: &Path) -> Result<()> {
    if own_superblock(kernel, volume, kind, device).await?.is_some_and(|found| !found.in_progress) {
        return Ok(());
    }
    let (found, uuid) = (kernel.probe(device).await?, volume.filesystem_uuid());
    Err(Error::precondition(format!(
        "it was used before and should contain {kind} with UUID {uuid}, but the superblock is missing, and it contains \
         {}; Quarry never formats such a volume: restore the filesystem (from backup superblocks or a backup), or \
         delete the volume",
        found.description()
    )))
}
