//! Follows the cgroups of pods that use volumes with limits, or any volumes if their I/O is measured. While there is no
//! such pod, this does nothing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quarry_pool::{Pool, PoolVolume};
use quarry_transport::changes::Changes;
use quarry_volume::{Error, Result, StorageId, VolumeId};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::cgroup::MAX;
use super::registry::{Problems, RETRY};
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
/// The shortest and the longest pause before a pool that cannot be read is read again, at the start.
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
    /// being looked up already, that is repeated.
    async fn limit_volumes_in_use(&self, pool: &Arc<dyn Pool>) {
        let looking_up = &self.limits().inner.looking_up;
        match looking_up.lock().entry(pool.name().to_owned()) {
            Entry::Occupied(mut again) => {
                again.insert(true);
                return;
            }
            Entry::Vacant(vacant) => {
                vacant.insert(false);
            }
        }
        loop {
            self.look_up_limited(pool).await;
            let mut looking_up = looking_up.lock();
            if looking_up.insert(pool.name().to_owned(), false) != Some(true) {
                looking_up.remove(pool.name());
                return;
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

    async fn look_up_limited(&self, pool: &Arc<dyn Pool>) {
        let (mut pause, longest) = PAUSES;
        let volumes = loop {
            if pool.unresponsive_disks().is_empty()
                && let Ok(Ok(volumes)) = tokio::time::timeout(LIST, pool.volumes()).await
            {
                break volumes;
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        };
        let follows = |volume: &PoolVolume| volume.record().is_ok_and(|record| self.limits().follows(record.limits));
        for volume in volumes.into_iter().filter(follows).collect::<Vec<_>>() {
            let (host, pool, id) = (self.clone(), Arc::clone(pool), self.id_of(&volume));
            // A publish that begins later does this itself.
            if self.pods_using(&id, &pool, &volume).await.is_ok_and(|(_, pods)| pods.is_empty()) {
                continue;
            }
            // In a task, because a call may change the limits, or unpublish the volume, at the same time.
            let work = |_| async move { host.limit_as_recorded(&pool, &id).await };
            if let Err(error) =
                self.tasks().run_after(&volume.name, MODIFY, &[MODIFY, PUBLISH, UNPUBLISH], LIST, work).await
            {
                tracing::warn!(volume = volume.name, %error, "the I/O limits and metrics of a volume in use are not set up");
            }
        }
    }

    async fn limit_as_recorded(&self, pool: &Arc<dyn Pool>, id: &VolumeId) -> Result<()> {
        // Meanwhile, the volume cannot be published or unpublished.
        let found = tokio::time::timeout(LOOKUP, pool.volume(&id.volume)).await;
        let found = found.map_err(|_| Error::unavailable(format!("pool {} does not answer", pool.name())))?;
        let Some(volume) = found? else { return Ok(()) };
        let limits = volume.record()?.limits;
        if !self.limits().follows(limits) {
            return Ok(());
        }
        self.limit_pods_using(id, pool, &volume, limits).await
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
