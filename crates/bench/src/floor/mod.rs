//! The bare commands of an operator, on logical volumes of their own.
//!
//! Only logical volumes that this run created are ever written to or removed. Their names and a tag carry the
//! ID of the run, and each is known by its UUID: read from the kernel right after its `lvcreate`, compared
//! with the device before mkfs, resize2fs and dd, and given to `lvremove` as a condition that lvm checks under
//! its own lock.

mod commands;
mod guard;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use quarry_lvm::LvUuid;
use quarry_proto::csi::v1::VolumeCapability;
use quarry_proto::csi::v1::volume_capability::AccessType;

use self::commands::{Line, Part};
use crate::plan::LvmFloor;
use crate::system::{Failure, INTERRUPTED, Kind, Place, Retries, System};
use crate::{Phase, Plan, Stop};

/// What the volumes are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Ext4,
    Xfs,
    Btrfs,
    Raw,
}

/// The bare commands.
pub(crate) struct Floor {
    lvm: LvmFloor,
    /// On every logical volume of this run, and on no other.
    tag: String,
    size: i64,
    expand_to: i64,
    usage: Use,
    mount_options: Vec<String>,
    /// Whether a volume is staged before it is published.
    stages: bool,
    publishes: bool,
    stop: Stop,
}

/// A logical volume of this run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lv {
    name: String,
    /// `lvcreate` was started.
    asked: bool,
    /// Known once it exists.
    uuid: Option<LvUuid>,
    removed: bool,
}

/// One volume of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    place: Place,
    lv: Lv,
    snapshot: Lv,
    restored: Lv,
    expanded: bool,
}

impl Lv {
    fn new(name: String) -> Self {
        Self { name, asked: false, uuid: None, removed: false }
    }
}

impl Volume {
    fn new(place: Place) -> Self {
        let name = &place.name;
        let (snapshot, restored) = (Lv::new(format!("{name}-snapshot")), Lv::new(format!("{name}-restored")));
        Self { lv: Lv::new(name.clone()), snapshot, restored, expanded: false, place }
    }

    fn part(&mut self, part: Part) -> &mut Lv {
        match part {
            Part::Volume => &mut self.lv,
            Part::Snapshot => &mut self.snapshot,
            Part::Restored => &mut self.restored,
        }
    }
}

impl System for Floor {
    type Volume = Volume;

    fn kind(&self) -> Kind {
        Kind::Floor
    }

    fn volume(&self, place: Place) -> Volume {
        Volume::new(place)
    }

    fn has(&self, phase: Phase) -> bool {
        self.lacks(phase).is_none()
    }

    async fn perform(&self, phase: Phase, volume: &mut Volume, _: &mut Retries) -> Result<(), Failure> {
        if matches!(phase, Phase::Publish | Phase::Republish) {
            self.make_target(&volume.place)?;
        }
        for line in self.lines(phase, volume) {
            self.run(&line, volume).await?;
        }
        match phase {
            Phase::Expand => volume.expanded = true,
            Phase::Unpublish => remove_target(&volume.place)?,
            Phase::DeleteRestored => volume.restored.removed = true,
            Phase::DeleteSnapshot => volume.snapshot.removed = true,
            Phase::Delete => volume.lv.removed = true,
            _ => {}
        }
        Ok(())
    }

    async fn settle(&self, phase: Phase, volumes: &mut [Volume]) -> anyhow::Result<()> {
        let part = match phase {
            Phase::Create | Phase::Delete => Part::Volume,
            Phase::Snapshot | Phase::DeleteSnapshot => Part::Snapshot,
            Phase::Restore | Phase::DeleteRestored => Part::Restored,
            _ => return Ok(()),
        };
        // An interruption is no error: no further phase begins.
        let Some(present) = self.present().await? else { return Ok(()) };
        for volume in volumes {
            let lv = volume.part(part);
            let uuid = present.get(&lv.name).copied();
            match (uuid, lv.uuid) {
                (Some(_), _) if lv.removed => {
                    lv.removed = false;
                    anyhow::bail!("lvremove succeeded, and {} still exists", lv.name);
                }
                (Some(found), Some(known)) if found != known => {
                    anyhow::bail!("{} has the UUID {found}, and was created with {known}; it is left alone", lv.name);
                }
                (Some(found), None) if lv.asked => lv.uuid = Some(found),
                _ => {}
            }
        }
        Ok(())
    }

    async fn clean(&self, volume: &mut Volume) -> Vec<String> {
        match self.clean_up(volume).await {
            Ok(()) => Vec::new(),
            Err(failure) => vec![format!(
                "logical volume {}/{}: {}: {}",
                self.lvm.volume_group, volume.lv.name, failure.code, failure.message
            )],
        }
    }
}

/// The options of lvcreate that only say how a new volume is laid out.
const LAYOUT_OPTIONS: [&str; 6] = ["--type", "--mirrors", "--nosync", "--stripes", "--stripesize", "--regionsize"];
/// Types of volumes that take an existing volume in, which would be removed with them.
const ATTACHING_TYPES: [&str; 4] = ["cache", "pool", "vdo", "thin"];

impl Floor {
    /// Checks the programs, the volume group and the filesystem.
    ///
    /// # Errors
    /// Something is missing, or the floor has no commands for this use.
    pub(crate) async fn open(
        plan: &Plan,
        lvm: &LvmFloor,
        run: &str,
        steps: &[Phase],
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let (usage, mount_options) = usage(&plan.capability)?;
        for option in &lvm.lvcreate_options {
            let name = option.split_once('=').map_or(option.as_str(), |(name, _)| name);
            anyhow::ensure!(
                LAYOUT_OPTIONS.contains(&name) && !ATTACHING_TYPES.iter().any(|kind| option.contains(kind)),
                "--lvcreate-option {option:?} is not one of the options of a new volume's layout, {}, with a value after \
                 an equals sign",
                LAYOUT_OPTIONS.join(", ")
            );
        }
        let floor = Self {
            lvm: lvm.clone(),
            tag: format!("quarry-bench-{run}"),
            size: plan.size,
            expand_to: plan.expand_to,
            usage,
            mount_options,
            stages: steps.contains(&Phase::Stage),
            publishes: steps.contains(&Phase::Publish),
            stop: stop.clone(),
        };
        let missing = quarry_exec::missing_tools(&floor.tools());
        anyhow::ensure!(missing.is_empty(), "the floor needs programs that are not installed: {}", missing.join(", "));
        guard::check_group(&lvm.volume_group, lvm.thin_pool.as_deref()).await?;
        Ok(floor)
    }

    /// Why the floor has no figures for a phase.
    pub(crate) fn left_out(&self, phase: Phase) -> Option<&'static str> {
        self.lacks(phase)
    }

    /// What this run has not removed. Not asked after an interruption of the clean-up: lvm may be busy, and what
    /// was not cleaned up is known.
    ///
    /// # Errors
    /// lvm's report failed.
    pub(crate) async fn remaining(&self) -> anyhow::Result<Vec<String>> {
        let present = self.present().await?.unwrap_or_default();
        Ok(present.into_keys().map(|name| format!("logical volume {}/{name}", self.lvm.volume_group)).collect())
    }

    /// The logical volumes of this run, by name. `None` if the wait for lvm was abandoned.
    async fn present(&self) -> anyhow::Result<Option<BTreeMap<String, LvUuid>>> {
        tokio::select! {
            biased;
            () = self.stop.abandon.cancelled() => Ok(None),
            present = guard::tagged(&self.lvm.volume_group, &self.tag) => present.map(Some),
        }
    }

    async fn run(&self, line: &Line, volume: &mut Volume) -> Result<(), Failure> {
        if let Some(part) = line.writes {
            let lv = volume.part(part);
            guard::check_device(&self.device(lv), lv.uuid).map_err(|message| failure("REFUSED", message))?;
        }
        if let Some(part) = line.creates {
            volume.part(part).asked = true;
        }
        // The command is never killed: if the wait is abandoned, it ends by itself.
        let output = tokio::select! {
            biased;
            () = self.stop.abandon.cancelled() => return Err(interrupted()),
            output = line.command().run() => output,
        };
        let output = output.map_err(|error| failure("COMMAND", error.to_string()))?;
        output.require_success().map_err(|error| failure("COMMAND", error.to_string()))?;
        if let Some(part) = line.creates {
            let device = self.device(volume.part(part));
            // A thin snapshot is not active: the report after the phase has its UUID.
            volume.part(part).uuid = guard::uuid_of(&device);
        }
        Ok(())
    }

    fn make_target(&self, place: &Place) -> Result<(), Failure> {
        let target = place.target();
        let made = match self.usage {
            Use::Raw => std::fs::File::create_new(&target).map(drop),
            Use::Ext4 | Use::Xfs | Use::Btrfs => std::fs::create_dir(&target),
        };
        made.map_err(|error| failure("TARGET", format!("creating {}: {error}", target.display())))
    }

    async fn clean_up(&self, volume: &mut Volume) -> Result<(), Failure> {
        let unknown = |error: anyhow::Error| failure("COMMAND", format!("{error:#}"));
        let parts = [Part::Restored, Part::Snapshot, Part::Volume];
        let is_done = parts.iter().all(|part| !volume.part(*part).asked || volume.part(*part).removed);
        if !is_done && self.stop.abandon.is_cancelled() {
            return Err(interrupted());
        }
        for path in [volume.place.target(), volume.place.staging()] {
            if guard::is_mounted(&path).map_err(unknown)? {
                self.run(&Line::unmount(&path), volume).await?;
            }
        }
        remove_target(&volume.place)?;
        if is_done {
            return Ok(());
        }
        let present = self.present().await.map_err(unknown)?.ok_or_else(interrupted)?;
        for part in parts {
            let lv = volume.part(part);
            let Some(found) = present.get(&lv.name).copied().filter(|_| lv.asked) else { continue };
            if lv.uuid.is_some_and(|known| known != found) {
                return Err(failure("REFUSED", format!("it has the UUID {found} now, so this run did not create it")));
            }
            lv.uuid = Some(found);
            let remove = self.remove(lv);
            self.run(&remove, volume).await?;
            volume.part(part).removed = true;
        }
        Ok(())
    }
}

fn remove_target(place: &Place) -> Result<(), Failure> {
    quarry_mount::remove_target(&place.target()).map_err(|error| failure("TARGET", error.to_string()))
}

fn interrupted() -> Failure {
    failure(INTERRUPTED, "interrupted before the command ended; it ends by itself".to_owned())
}

fn failure(code: &str, message: String) -> Failure {
    Failure { code: code.to_owned(), message }
}

/// The use of the volumes, and the mount options.
fn usage(capability: &VolumeCapability) -> anyhow::Result<(Use, Vec<String>)> {
    let Some(AccessType::Mount(mount)) = &capability.access_type else { return Ok((Use::Raw, Vec::new())) };
    let usage = match mount.fs_type.as_str() {
        "" | "ext4" => Use::Ext4,
        "xfs" => Use::Xfs,
        "btrfs" => Use::Btrfs,
        other => anyhow::bail!("the floor has no commands for {other}; it has them for ext4, xfs, btrfs and --block"),
    };
    Ok((usage, mount.mount_flags.clone()))
}
