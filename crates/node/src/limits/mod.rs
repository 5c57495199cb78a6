//! I/O limits of volumes, in the cgroups of the pods that use them.
//!
//! The record of a volume has its limits; nothing else is stored. What should be in force is compared with what is: when
//! a volume is published or modified, at the start of the plugin, and when the kernel reports a change of the cgroups
//! (see [`follow`]). A cgroup has limits per device, so the limits of two volumes in one pod are independent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_mount::Device;
use quarry_pool::Record;
use quarry_volume::{Error, IoLimits, Result, VolumeId};
use tokio::sync::watch;
use tokio::time::Instant;

use self::cgroup::Cgroups;
pub(crate) use self::cgroup::Obstacle;
use crate::errors;
use crate::host::Host;

mod cgroup;
mod follow;
mod modify;
mod pod;

/// Where a host has its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";
/// kubelet's default `--cgroup-root`.
const ROOT: &str = "/";
/// How long an unpublish waits until the limits are removed: a write to a cgroup can hang with a disk, and the pod must
/// end.
const BRIEFLY: Duration = Duration::from_secs(2);
/// A pod gets its cgroup before its containers start. One that has none for longer has it elsewhere.
const EARLY: Duration = Duration::from_secs(60);

/// The limits that should be in force on one node. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Limits {
    inner: Arc<Inner>,
}

struct Inner {
    cgroups: OnceLock<Cgroups>,
    /// By UID.
    pods: Mutex<BTreeMap<String, Pod>>,
    /// Changes when pods come and go.
    registered: watch::Sender<()>,
    /// The pools whose volumes in use are looked up, or wait until their pool can be read.
    looking_up: Mutex<BTreeSet<String>>,
}

/// A pod that uses volumes with limits.
#[derive(Default)]
struct Pod {
    volumes: BTreeMap<VolumeId, Wanted>,
    /// The devices whose limits may be in its cgroup.
    former: BTreeSet<Device>,
    /// Why not all limits are in force, and since when.
    obstacle: Option<(Obstacle, Instant)>,
    /// Held while its cgroup is compared and written: an older comparison must not end after a newer one.
    turn: Arc<Mutex<()>>,
    /// A task compares it, and does so again if `again`.
    is_running: bool,
    again: bool,
}

/// What should be in force for one volume.
#[derive(Clone, Debug)]
struct Wanted {
    pool: String,
    device: Device,
    limits: IoLimits,
}

/// A volume whose limits are to be in force.
#[derive(Clone, Copy)]
pub(crate) struct Limited<'a> {
    pub(crate) id: &'a VolumeId,
    pub(crate) pool: &'a str,
    /// The device through which it is used.
    pub(crate) device: Device,
}

impl Default for Limits {
    fn default() -> Self {
        let (pods, registered, looking_up) = (Mutex::default(), watch::Sender::default(), Mutex::default());
        Self { inner: Arc::new(Inner { cgroups: OnceLock::new(), pods, registered, looking_up }) }
    }
}

impl Limits {
    fn registry(&self) -> MutexGuard<'_, BTreeMap<String, Pod>> {
        self.inner.pods.lock()
    }

    /// The UIDs of the pods that use volumes with limits.
    pub(crate) fn pods(&self) -> Vec<String> {
        self.registry().keys().cloned().collect()
    }

    fn cgroups(&self) -> &Cgroups {
        self.inner.cgroups.get_or_init(|| Cgroups::new(PathBuf::from(CGROUPS), ROOT))
    }

    /// Stores what should be in force for a volume in a pod. `replace`: also if that is known already.
    pub(crate) fn register(&self, uid: &str, volume: Limited<'_>, limits: IoLimits, replace: bool) {
        let mut pods = self.registry();
        let is_new = !pods.contains_key(uid);
        let pod = pods.entry(uid.to_owned()).or_default();
        pod.former.insert(volume.device);
        if replace || !pod.volumes.contains_key(volume.id) {
            let wanted = Wanted { pool: volume.pool.to_owned(), device: volume.device, limits };
            pod.volumes.insert(volume.id.clone(), wanted);
        }
        if is_new {
            self.inner.registered.send_replace(());
        }
    }

    /// Removes the limits of a volume that a pod does not use any more. Waits [`BRIEFLY`] for that; it continues on its
    /// own thread.
    pub(crate) async fn withdraw(&self, uid: &str, id: &VolumeId) {
        if self.registry().get_mut(uid).is_none_or(|pod| pod.volumes.remove(id).is_none()) {
            return;
        }
        match tokio::time::timeout(BRIEFLY, self.enforce(uid)).await {
            Ok(Ok(())) => {}
            // Without a cgroup, there are no limits left.
            Ok(Err(obstacle)) if obstacle.is_early() => {}
            Ok(Err(obstacle)) => {
                tracing::warn!(volume = %id, pod = uid, %obstacle, "cannot remove the I/O limits of an unpublished volume");
            }
            Err(_) => tracing::warn!(
                volume = %id, pod = uid,
                "removing the I/O limits of an unpublished volume takes long: does a disk of this pod hang?"
            ),
        }
    }

    /// Compares what should be in force in a pod with what is, on its own thread, and writes what differs.
    pub(crate) async fn enforce(&self, uid: &str) -> std::result::Result<(), Obstacle> {
        let (limits, owned) = (self.clone(), uid.to_owned());
        let ended = errors::blocking(move || Ok(limits.enforce_now(&owned))).await;
        ended.unwrap_or_else(|error| Err(Obstacle::Io { path: PathBuf::from(uid), why: error.message }))
    }

    fn enforce_now(&self, uid: &str) -> std::result::Result<(), Obstacle> {
        let Some(turn) = self.registry().get(uid).map(|pod| Arc::clone(&pod.turn)) else { return Ok(()) };
        let _turn = turn.lock();
        let (wanted, former) = {
            let pods = self.registry();
            // A pod that was removed and registered again has another turn, and was compared then.
            let Some(pod) = pods.get(uid).filter(|pod| Arc::ptr_eq(&pod.turn, &turn)) else { return Ok(()) };
            let wanted: BTreeMap<_, _> = pod.volumes.values().map(|wanted| (wanted.device, wanted.limits)).collect();
            (wanted, pod.former.clone())
        };
        let cgroups = self.cgroups();
        let result = cgroups
            .check()
            .and_then(|()| cgroups.of_pod(uid))
            .and_then(|cgroup| cgroups.limit(&cgroup, &wanted, &former));
        let mut pods = self.registry();
        match pods.get_mut(uid) {
            Some(pod) if pod.volumes.is_empty() => {
                pods.remove(uid);
                self.inner.registered.send_replace(());
            }
            Some(pod) => pod.learn(&result, &wanted, uid),
            None => {}
        }
        result
    }

    /// How many volumes of each pool have limits that are not in force, and the reason for one of them.
    pub(crate) fn not_in_force(&self) -> BTreeMap<String, (u64, String)> {
        let mut all: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for pod in self.registry().values() {
            let Some((obstacle, since)) = &pod.obstacle else { continue };
            if obstacle.is_early() && since.elapsed() < EARLY {
                continue;
            }
            for (id, wanted) in pod.volumes.iter().filter(|(_, wanted)| !wanted.limits.is_none()) {
                let (count, _) =
                    all.entry(wanted.pool.clone()).or_insert_with(|| (0, format!("{}: {obstacle}", id.volume)));
                *count += 1;
            }
        }
        all
    }

    /// What an operator should know about the limits in that pool.
    pub(crate) fn hint(&self, pool: &str) -> Option<String> {
        let (count, why) = self.not_in_force().remove(pool)?;
        let volumes = if count == 1 { "1 volume".to_owned() } else { format!("{count} volumes") };
        Some(format!("the I/O limits of {volumes} in use are not in force: {why}"))
    }
}

impl Pod {
    /// Stores the result of a comparison.
    fn learn(&mut self, result: &std::result::Result<(), Obstacle>, wanted: &BTreeMap<Device, IoLimits>, uid: &str) {
        match result {
            Ok(()) => {
                if self.obstacle.take().is_some() {
                    tracing::info!(pod = uid, "the I/O limits of its volumes are in force now");
                }
                // A volume that was registered meanwhile may have another device.
                let limited = wanted.iter().filter(|(_, limits)| !limits.is_none()).map(|(device, _)| *device);
                self.former = limited.chain(self.volumes.values().map(|wanted| wanted.device)).collect();
            }
            Err(obstacle) if self.obstacle.as_ref().is_some_and(|(known, _)| known == obstacle) => {}
            Err(obstacle) => {
                if !obstacle.is_early() {
                    tracing::warn!(pod = uid, %obstacle, "the I/O limits of its volumes are not in force");
                }
                self.obstacle = Some((obstacle.clone(), Instant::now()));
            }
        }
    }
}

impl Host {
    /// Sets where the cgroups of this host are, and kubelet's `--cgroup-root`. Has no effect after the first volume with
    /// limits was published.
    pub fn set_cgroups(&self, mount: PathBuf, root: &str) {
        let _ = self.limits().inner.cgroups.set(Cgroups::new(mount, root));
    }

    /// Brings the limits of a volume into force for the pod that it is about to be published for.
    ///
    /// # Errors
    /// `Precondition` if they are required and cannot be in force. A pod that has no cgroup yet gets them with it.
    pub(crate) async fn limit_pod(&self, target: &Path, volume: Limited<'_>, record: &Record) -> Result<()> {
        if record.limits.is_none() {
            return Ok(());
        }
        let Some(uid) = pod::uid(target) else {
            let why = format!("the target {target:?} is not in the folder of a pod, so that its cgroup is not known");
            return required(record, &why);
        };
        self.limits().register(&uid, volume, record.limits, true);
        match self.limits().enforce(&uid).await {
            Err(obstacle) if !obstacle.is_early() => {
                let refused = required(record, &obstacle.to_string());
                if refused.is_err() {
                    self.limits().withdraw(&uid, volume.id).await;
                }
                refused
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes the limits of a volume that was unpublished from the pod's cgroup.
    pub(crate) async fn unlimit_pod(&self, target: &Path, id: &VolumeId) {
        if let Some(uid) = pod::uid(target) {
            self.limits().withdraw(&uid, id).await;
        }
    }
}

/// Rejects a volume whose limits are required and not in force.
fn required(record: &Record, why: &str) -> Result<()> {
    if !record.requires_limits {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "its class has \"limits: required\", and its I/O limits ({}) cannot be in force: {why}",
        record.limits
    )))
}
