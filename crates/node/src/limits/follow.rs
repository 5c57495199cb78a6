//! Follows the cgroups of pods that use volumes with limits, or any volumes if their I/O is measured. While there is no
//! such pod, this does nothing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use quarry_pool::{Pool, PoolVolume};
use quarry_transport::changes::Changes;
use quarry_volume::{Error, Result, StorageId, VolumeId};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::cgroup::MAX;
use super::registry::{Problems, RETRY};
use super::{Limited, Limits};
use crate::host::Host;
use crate::modify::MODIFY;
use crate::publish::PUBLISH;
use crate::unmount::UNPUBLISH;

/// How long after a change the cgroups are compared: a pod's files come after its cgroup.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often they are compared if the kernel sends no notifications.
const BLIND: Duration = Duration::from_secs(10);
/// How long a pool may take to list its volumes: a little longer than a report may take.
const LIST: Duration = Duration::from_secs(40);
/// How long it may take to find one of them again.
const LOOKUP: Duration = Duration::from_secs(10);
/// The shortest and the longest pause before a pool that cannot be read is read again, or a volume whose limits could not be
/// set up is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Host {
    /// Brings the limits of volumes that are in use into force, as their records say, and keeps them so until `stopping`.
    pub async fn keep_limits(self, stopping: CancellationToken) {
        let limits = self.limits().clone();
        let keep = async {
            let started = join_all(self.pools().iter().map(|pool| self.limit_volumes_in_use(pool)));
            tokio::join!(started, limits.follow(), self.show_limits());
        };
        let _: Option<()> = stopping.run_until_cancelled(keep).await;
    }

    /// Brings the limits of the volumes on that storage that are in use into force as soon as their pool can be read: it
    /// cannot be read now, and only their records have the limits.
    pub(crate) fn limit_later(&self, storage: &StorageId) {
        for pool in self.pools().iter().filter(|pool| pool.last_storage().is_none_or(|last| last == *storage)) {
            let (host, pool) = (self.clone(), Arc::clone(pool));
            tokio::spawn(async move { host.limit_volumes_in_use(&pool).await });
        }
    }

    /// An earlier run of the plugin, or this one in the middle of a change, may have left other limits. If the pool is
    /// being looked up already, that is repeated. Ends when the limits of all volumes in use are set up: no call would do
    /// that later.
    async fn limit_volumes_in_use(&self, pool: &Arc<dyn Pool>) {
        let looking_up = &self.limits().inner.looking_up;
        let again = match looking_up.lock().entry(pool.name().to_owned()) {
            Entry::Occupied(running) => {
                running.get().notify_one();
                return;
            }
            Entry::Vacant(vacant) => Arc::clone(vacant.insert(Arc::new(Notify::new()))),
        };
        let (shortest, longest) = PAUSES;
        let (mut only, mut pause) = (None, shortest);
        loop {
            let failed = self.look_up_limited(pool, only.as_ref()).await;
            let mut is_to_be_repeated = false;
            if failed.is_empty() {
                let mut looking_up = looking_up.lock();
                is_to_be_repeated = again.notified().now_or_never().is_some();
                if !is_to_be_repeated {
                    looking_up.remove(pool.name());
                    return;
                }
            }
            if is_to_be_repeated || timeout(pause, again.notified()).await.is_ok() {
                (only, pause) = (None, shortest);
            } else {
                (only, pause) = (Some(failed), (pause * 2).min(longest));
            }
        }
    }

    /// Publishes the pools again whenever other limits than before are not in force.
    async fn show_limits(&self) {
        let mut learned = self.limits().inner.learned.subscribe();
        let mut shown = BTreeMap::new();
        loop {
            learned.borrow_and_update();
            let Problems { volumes, next } = self.limits().problems();
            let differs = |(id, problem): &(&VolumeId, &(String, String))| shown.get(*id) != Some(*problem);
            let new = volumes.iter().filter(differs).map(|(_, (pool, _))| pool);
            let over = shown.iter().filter(|(id, _)| !volumes.contains_key(*id)).map(|(_, (pool, _))| pool);
            new.chain(over).collect::<BTreeSet<_>>().into_iter().for_each(|pool| self.publisher().refresh_soon(pool));
            shown = volumes;
            let counts = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = counts => {}
                changed = learned.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Sets up the limits of the volumes in use as soon as their pool can be read. `only`: of those with these names.
    /// Returns the names of those where that failed.
    async fn look_up_limited(&self, pool: &Arc<dyn Pool>, only: Option<&BTreeSet<String>>) -> BTreeSet<String> {
        let (mut pause, longest) = PAUSES;
        let volumes = loop {
            if pool.unresponsive_disks().is_empty()
                && let Ok(Ok(volumes)) = timeout(LIST, pool.volumes()).await
            {
                break volumes;
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        };
        let follows = |volume: &PoolVolume| volume.record().is_ok_and(|record| self.limits().follows(record.limits));
        let asked = |volume: &PoolVolume| only.is_none_or(|only| only.contains(&volume.name));
        let mut failed = BTreeSet::new();
        for volume in volumes.into_iter().filter(asked).filter(follows).collect::<Vec<_>>() {
            let Err(error) = self.limit_if_in_use(pool, &volume).await else { continue };
            // Later, its log would only repeat that.
            match only {
                None => tracing::warn!(
                    volume = volume.name,
                    %error,
                    "the I/O limits and metrics of a volume in use are not set up: trying again"
                ),
                Some(_) => {
                    tracing::debug!(volume = volume.name, %error, "the I/O limits of a volume are still not set up");
                }
            }
            failed.insert(volume.name);
        }
        failed
    }

    async fn limit_if_in_use(&self, pool: &Arc<dyn Pool>, volume: &PoolVolume) -> Result<()> {
        let (host, of, id) = (self.clone(), Arc::clone(pool), self.id_of(volume));
        // A publish that begins later sets up the limits itself. One that is running now may have left that to this look-up,
        // and its mount may not exist yet.
        let is_being_published = self.tasks().require_none(&volume.name, &[PUBLISH]).is_err();
        if !is_being_published && self.pods_using(&id, pool, volume).await.is_ok_and(|(_, pods)| pods.is_empty()) {
            return Ok(());
        }
        // In a task, because a call may change the limits, or unpublish the volume, at the same time.
        let work = |_| async move { host.limit_as_recorded(&of, &id).await };
        self.tasks().run_after(&volume.name, MODIFY, &[MODIFY, PUBLISH, UNPUBLISH], LIST, work).await
    }

    async fn limit_as_recorded(&self, pool: &Arc<dyn Pool>, id: &VolumeId) -> Result<()> {
        // Meanwhile, the volume cannot be published or unpublished.
        let found = timeout(LOOKUP, pool.volume(&id.volume)).await;
        let found = found.map_err(|_| Error::unavailable(format!("pool {} does not answer", pool.name())))?;
        let Some(volume) = found? else { return Ok(()) };
        let limits = volume.record()?.limits;
        if !self.limits().follows(limits) {
            return Ok(());
        }
        let (Some(device), pods) = self.pods_using(id, pool, &volume).await? else { return Ok(()) };
        for uid in pods {
            self.limits().register(&uid, Limited { id, pool: pool.name(), device }, limits);
            // From here on, what is not in force is shown, and tried again, in `follow`.
            let _ = self.limits().enforce(&uid, device).await;
        }
        Ok(())
    }
}

impl Limits {
    /// Compares the cgroups of all registered pods whenever they may have changed.
    async fn follow(&self) {
        let mut registered = self.inner.registered.subscribe();
        loop {
            registered.borrow_and_update();
            let pods = self.pods();
            if pods.is_empty() {
                if registered.changed().await.is_err() {
                    return;
                }
                continue;
            }
            // Before the comparison, so that no change is missed in between.
            let changes = Changes::in_places(self.places_to_watch(&pods));
            if let Err(error) = &changes {
                tracing::debug!(%error, "cannot watch the cgroups: comparing them more often");
            }
            pods.iter().filter(|uid| !self.has_just_failed(uid)).for_each(|uid| self.enforce_soon(uid));
            let changed = async {
                match &changes {
                    Ok(changes) => changes.changed().await,
                    Err(_) => sleep(BLIND).await,
                }
            };
            let retry = async { if self.has_failed() { sleep(RETRY).await } else { std::future::pending().await } };
            tokio::select! {
                () = changed => sleep(DEBOUNCE).await,
                () = retry => {}
                changed = registered.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The places where a change of the limits, or the cgroup of a new pod, shows.
    fn places_to_watch(&self, pods: &[String]) -> BTreeSet<PathBuf> {
        let cgroups = self.cgroups();
        let mut places = cgroups.places_to_watch();
        let of_pods = pods.iter().filter_map(|uid| cgroups.of_pod(uid).ok()).map(|cgroup| cgroup.join(MAX));
        places.extend(of_pods.filter(|file| file.exists()));
        places
    }

    /// Compares the cgroup of a pod in a task of its own: a write to it can hang with a disk. At most one at a time.
    pub(super) fn enforce_soon(&self, uid: &str) {
        match self.registry().get_mut(uid) {
            None => return,
            Some(pod) if pod.is_running => {
                pod.again = true;
                return;
            }
            Some(pod) => pod.is_running = true,
        }
        let (limits, uid) = (self.clone(), uid.to_owned());
        tokio::spawn(async move {
            loop {
                // The result is stored.
                let _ = limits.enforce_all(&uid).await;
                let mut pods = limits.registry();
                let Some(pod) = pods.get_mut(&uid) else { return };
                pod.is_running = std::mem::take(&mut pod.again);
                if !pod.is_running {
                    return;
                }
            }
        });
    }
}
