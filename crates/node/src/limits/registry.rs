//! What should be in force for which pod, and what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_mount::Device;
use quarry_volume::{IoLimits, VolumeId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::cgroup::{Cgroups, Obstacle};
use crate::errors;

/// Where a host has its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";
/// kubelet's default `--cgroup-root`.
const ROOT: &str = "/";
/// How long a write to a cgroup may take: the kernel waits for the I/O of a disk that gets its first limit, and that can
/// hang. Nothing waits longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an unpublish waits until the limits are removed: the pod must end.
const BRIEFLY: Duration = Duration::from_secs(2);
/// A pod gets its cgroup before its containers start. One that has none for longer has it at another path.
const EARLY: Duration = Duration::from_secs(60);
/// How soon a pod is compared again after that failed.
pub(super) const RETRY: Duration = Duration::from_secs(10);

/// The limits that should be in force on one node. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Limits {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) cgroups: OnceLock<Cgroups>,
    /// The I/O of how many volumes is measured.
    pub(super) measured: OnceLock<usize>,
    /// How many volumes were registered so far.
    registrations: AtomicU64,
    /// By UID.
    pods: Mutex<BTreeMap<String, Pod>>,
    /// Changes when pods come and go.
    pub(super) registered: watch::Sender<()>,
    /// Changes when other limits than before are not in force.
    pub(super) learned: watch::Sender<()>,
    /// The pools whose volumes in use are being looked up, and what makes that be repeated.
    pub(super) looking_up: Mutex<BTreeMap<String, Arc<Notify>>>,
}

/// A pod that uses volumes that are followed: see [`Limits::follows`].
#[derive(Default)]
pub(super) struct Pod {
    volumes: BTreeMap<VolumeId, Wanted>,
    /// The devices whose limits may be in its cgroup.
    former: BTreeSet<Device>,
    /// For which devices the limits are not in force, why, and since when.
    obstacles: BTreeMap<Device, (Obstacle, Instant)>,
    /// When the last comparison failed.
    failed: Option<Instant>,
    /// Held while its cgroup is compared and written: an older comparison must not end after a newer one.
    turn: Arc<Mutex<()>>,
    /// A task compares it, and does so again if `again`.
    pub(super) is_running: bool,
    pub(super) again: bool,
}

/// The volumes whose limits are not in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problems {
    /// The pool of each, and why.
    pub(crate) volumes: BTreeMap<VolumeId, (String, String)>,
    /// When a pod without a cgroup counts, if one does not yet.
    pub(super) next: Option<Instant>,
}

/// What should be in force for one volume.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) pool: String,
    pub(super) device: Device,
    limits: IoLimits,
    /// When it was registered: smaller than that of every volume that was registered later.
    pub(super) order: u64,
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
        let (cgroups, measured, registrations, pods, looking_up) = Default::default();
        let (registered, learned) = (watch::Sender::default(), watch::Sender::default());
        let inner = Inner { cgroups, measured, registrations, pods, registered, learned, looking_up };
        Self { inner: Arc::new(inner) }
    }
}

impl Limits {
    pub(super) fn registry(&self) -> MutexGuard<'_, BTreeMap<String, Pod>> {
        self.inner.pods.lock()
    }

    /// The UIDs of the pods that use volumes that are followed.
    pub(crate) fn pods(&self) -> Vec<String> {
        self.registry().keys().cloned().collect()
    }

    pub(super) fn cgroups(&self) -> &Cgroups {
        self.inner.cgroups.get_or_init(|| Cgroups::new(PathBuf::from(CGROUPS), ROOT))
    }

    /// The I/O of how many volumes is measured. `None`: of none.
    pub(super) fn measured(&self) -> Option<usize> {
        self.inner.measured.get().copied().filter(|max| *max > 0)
    }

    /// Whether the I/O of volumes is measured.
    pub(crate) fn is_measuring(&self) -> bool {
        self.measured().is_some()
    }

    /// Whether pods that use a volume with these limits are followed: there are any, or the I/O of volumes is measured.
    pub(crate) fn follows(&self, limits: IoLimits) -> bool {
        !limits.is_none() || self.is_measuring()
    }

    /// Stores what should be in force for a volume in a pod. Returns whether the pod did not use it before.
    pub(crate) fn register(&self, uid: &str, volume: Limited<'_>, limits: IoLimits) -> bool {
        let mut pods = self.registry();
        let is_new_pod = !pods.contains_key(uid);
        let pod = pods.entry(uid.to_owned()).or_default();
        pod.former.insert(volume.device);
        let next = || self.inner.registrations.fetch_add(1, Ordering::Relaxed);
        let order = pod.volumes.get(volume.id).map_or_else(next, |known| known.order);
        let wanted = Wanted { pool: volume.pool.to_owned(), device: volume.device, limits, order };
        let is_new = pod.volumes.insert(volume.id.clone(), wanted).is_none();
        if is_new_pod {
            self.inner.registered.send_replace(());
        }
        is_new
    }

    /// Removes the limits of a volume that a pod does not use any more. Waits [`BRIEFLY`] for that; it continues on its
    /// own thread.
    pub(crate) async fn withdraw(&self, uid: &str, id: &VolumeId) {
        let removed = self.registry().get_mut(uid).and_then(|pod| pod.volumes.remove(id));
        let Some(Wanted { device, limits, .. }) = removed else { return };
        self.inner.learned.send_replace(());
        match tokio::time::timeout(BRIEFLY, self.enforce(uid, device)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) if limits.is_none() => {}
            Ok(Err(obstacle)) if obstacle.is_absent() => {}
            Ok(Err(obstacle)) => {
                tracing::warn!(volume = %id, pod = uid, %obstacle, "cannot remove the I/O limits of an unpublished volume");
            }
            Err(_) => {
                let obstacle = Obstacle::Hangs(uid.to_owned());
                tracing::warn!(volume = %id, pod = uid, %obstacle, "the I/O limits of an unpublished volume are removed later");
            }
        }
    }

    /// Compares what should be in force in a pod with what is, on its own thread, and writes what differs. Returns why
    /// that failed for this device.
    pub(crate) async fn enforce(&self, uid: &str, device: Device) -> Result<(), Obstacle> {
        let mut obstacles = self.enforce_all(uid).await;
        obstacles.remove(&device).map_or(Ok(()), Err)
    }

    /// The same for all devices of the pod.
    pub(super) async fn enforce_all(&self, uid: &str) -> BTreeMap<Device, Obstacle> {
        let (limits, owned) = (self.clone(), uid.to_owned());
        let ended = errors::blocking(move || Ok(limits.enforce_now(&owned)));
        match tokio::time::timeout(PATIENCE, ended).await {
            Ok(Ok(obstacles)) => obstacles,
            Ok(Err(error)) => self.failed(uid, &Obstacle::Io { path: PathBuf::from(uid), why: error.message }),
            Err(_) => self.failed(uid, &Obstacle::Hangs(uid.to_owned())),
        }
    }

    /// Stores that nothing is known to be in force in the pod.
    fn failed(&self, uid: &str, obstacle: &Obstacle) -> BTreeMap<Device, Obstacle> {
        let mut pods = self.registry();
        let Some(pod) = pods.get_mut(uid) else { return BTreeMap::new() };
        let all = pod.devices().map(|device| (device, obstacle.clone())).collect();
        if pod.learn(&all, uid) {
            self.inner.learned.send_replace(());
        }
        all
    }

    fn enforce_now(&self, uid: &str) -> BTreeMap<Device, Obstacle> {
        let Some(turn) = self.registry().get(uid).map(|pod| Arc::clone(&pod.turn)) else { return BTreeMap::new() };
        let Some(_turn) = turn.try_lock_for(PATIENCE) else {
            return self.failed(uid, &Obstacle::Hangs(uid.to_owned()));
        };
        let cgroups = self.cgroups();
        loop {
            let (wanted, former) = {
                let pods = self.registry();
                // A pod that was removed and registered again has another turn, and was compared then.
                let pod = pods.get(uid).filter(|pod| Arc::ptr_eq(&pod.turn, &turn));
                let Some(pod) = pod else { return BTreeMap::new() };
                (pod.wanted(), pod.former.clone())
            };
            let cgroup = cgroups.check().and_then(|()| cgroups.of_pod(uid));
            let result = cgroup.and_then(|cgroup| cgroups.limit(&cgroup, &wanted, &former));
            let obstacles = result.unwrap_or_else(|obstacle| {
                wanted.keys().chain(&former).map(|device| (*device, obstacle.clone())).collect()
            });
            let mut pods = self.registry();
            let Some(pod) = pods.get_mut(uid) else { return obstacles };
            // While the kernel waited for a disk, a volume was unpublished, or its limits were changed. That call may not
            // wait for them any more.
            if pod.wanted() != wanted {
                continue;
            }
            if pod.volumes.is_empty() {
                pods.remove(uid);
                self.inner.registered.send_replace(());
                return obstacles;
            }
            pod.former = wanted.keys().chain(obstacles.keys()).copied().collect();
            if pod.learn(&obstacles, uid) {
                self.inner.learned.send_replace(());
            }
            return obstacles;
        }
    }

    /// Whether a comparison of the pod failed so recently that it is not repeated yet: a write that fails causes a
    /// notification, too.
    pub(crate) fn has_just_failed(&self, uid: &str) -> bool {
        self.registry().get(uid).is_some_and(|pod| pod.failed.is_some_and(|failed| failed.elapsed() < RETRY))
    }

    /// Whether the limits of any pod are not in force for another reason than that it has no cgroup yet.
    pub(super) fn has_failed(&self) -> bool {
        self.registry().values().any(|pod| pod.failed.is_some() && pod.is_limited())
    }

    /// The volumes whose limits are not in force.
    pub(crate) fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        let pods = self.registry();
        for (id, wanted, pod) in pods.values().flat_map(|pod| pod.volumes.iter().map(move |(id, one)| (id, one, pod))) {
            let Some((obstacle, since)) = pod.obstacles.get(&wanted.device) else { continue };
            if wanted.limits.is_none() {
                continue;
            }
            let counts = *since + EARLY;
            if obstacle.is_early() && counts > Instant::now() {
                problems.next = Some(problems.next.map_or(counts, |next| next.min(counts)));
            } else {
                let of_first = || (wanted.pool.clone(), obstacle.to_string());
                problems.volumes.entry(id.clone()).or_insert_with(of_first);
            }
        }
        problems
    }

    /// How many volumes of each pool have limits that are not in force, and the reason for one of them.
    pub(crate) fn not_in_force(&self) -> BTreeMap<String, (u64, String)> {
        let mut all: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for (id, (pool, why)) in self.problems().volumes {
            all.entry(pool).or_insert_with(|| (0, format!("{}: {why}", id.volume))).0 += 1;
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
    /// The volumes that it uses.
    pub(super) fn volumes(&self) -> impl Iterator<Item = (&VolumeId, &Wanted)> {
        self.volumes.iter()
    }

    /// What should be in force for each device.
    fn wanted(&self) -> BTreeMap<Device, IoLimits> {
        self.volumes.values().map(|wanted| (wanted.device, wanted.limits)).collect()
    }

    /// Whether one of them has limits.
    fn is_limited(&self) -> bool {
        self.volumes.values().any(|wanted| !wanted.limits.is_none())
    }

    fn devices(&self) -> impl Iterator<Item = Device> {
        self.volumes.values().map(|wanted| wanted.device).chain(self.former.iter().copied())
    }

    /// Stores the result of a comparison. Returns whether it differs from that of the last one.
    fn learn(&mut self, obstacles: &BTreeMap<Device, Obstacle>, uid: &str) -> bool {
        let lasting = obstacles.values().any(|obstacle| !obstacle.is_early());
        self.failed = lasting.then(Instant::now);
        if self.is_limited() && obstacles.is_empty() && !self.obstacles.is_empty() {
            tracing::info!(pod = uid, "the I/O limits of its volumes are in force now");
        }
        let known = std::mem::take(&mut self.obstacles);
        let differs = !known.iter().map(|(device, (obstacle, _))| (device, obstacle)).eq(obstacles);
        for (device, obstacle) in obstacles {
            let same = known.get(device).filter(|(known, _)| known == obstacle);
            let is_only_measured =
                self.volumes.values().any(|wanted| wanted.device == *device && wanted.limits.is_none());
            if same.is_none() && !obstacle.is_early() {
                match is_only_measured {
                    true => tracing::warn!(pod = uid, %device, %obstacle, "the I/O of a volume is not measured"),
                    false => {
                        tracing::warn!(pod = uid, %device, %obstacle, "the I/O limits of a volume are not in force");
                    }
                }
            }
            let since = same.map_or_else(Instant::now, |(_, since)| *since);
            self.obstacles.insert(*device, (obstacle.clone(), since));
        }
        differs
    }
}
