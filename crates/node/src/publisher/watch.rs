//! Watches the pools while there are listeners; no pool waits for another.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quarry_volume::{Change, PoolState, Space};
use tokio::sync::broadcast;

use super::StatePublisher;

/// How often a pool is read while there are listeners.
const TICK: Duration = Duration::from_secs(5);
/// The same for an unreadable pool: each attempt starts a program, but a volume group that comes back must be
/// noticed within ten seconds.
const UNREAD: Duration = Duration::from_secs(7);
/// How long after the first event of a burst a pool is read.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// When to check a pool again that Quarry is changing. The operation that changes it reads it at its end
/// anyway.
const CHANGING: Duration = Duration::from_secs(1);
/// A pool whose reading takes longer is published as unresponsive.
const SLOW: Duration = Duration::from_secs(3);

impl StatePublisher {
    /// Reads the pool in the background, if there are listeners.
    pub(crate) fn refresh_soon(&self, pool: &str) {
        if let Some(index) = self.index(pool)
            && self.inner.updates.receiver_count() > 0
        {
            let publisher = self.clone();
            tokio::spawn(async move { publisher.refresh(index).await });
        }
    }

    /// Reads all pools. Those that take longer than [`SLOW`] are published as unresponsive.
    pub(super) async fn refresh_all(&self) {
        let each = (0..self.inner.pools.len()).map(|index| async move {
            let publisher = self.clone();
            let reading = tokio::spawn(async move { publisher.refresh(index).await });
            if tokio::time::timeout(SLOW, reading).await.is_err() {
                self.publish_unresponsive(index);
            }
        });
        join_all(each).await;
    }

    /// Publishes a pool as unresponsive. The published state of its volumes does not change.
    fn publish_unresponsive(&self, index: usize) {
        let mut published = self.published();
        let Some(known) = published.pools.get_mut(index) else { return };
        let disks = self.inner.pools.get(index).map(|pool| pool.unresponsive_disks()).unwrap_or_default();
        let why = match disks.first() {
            Some(disk) => format!("pool {} is unresponsive: {disk}", known.state.name),
            None => format!(
                "pool {} is unresponsive: reading its storage takes longer than {} s; does a disk hang, or does \
                 another lvm hold a lock?",
                known.state.name,
                SLOW.as_secs()
            ),
        };
        let space = Space { free: Vec::new(), closed: Some(why.clone()), ..known.state.space.clone() };
        let state = PoolState { space, problems: vec![why], ..known.state.clone() };
        let pools = known.replace(state);
        self.publish(&mut published, Change { pools, ..Change::default() });
    }

    /// Subscribes to changes, and starts a watcher for each pool that has none.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Change>> {
        let mut published = self.published();
        let receiver = self.inner.updates.subscribe();
        for (index, known) in published.pools.iter_mut().enumerate() {
            if !known.watched {
                known.watched = true;
                let publisher = self.clone();
                tokio::spawn(async move { publisher.watch(index).await });
            }
        }
        receiver
    }

    /// Whether there are still listeners. If not, the caller, which is the pool's watcher, must end.
    fn has_listeners(&self, index: usize) -> bool {
        let mut published = self.published();
        let has_listeners = self.inner.updates.receiver_count() > 0;
        if let Some(known) = published.pools.get_mut(index) {
            known.watched = has_listeners;
        }
        has_listeners
    }

    /// Watches a pool for changes from outside until there are no listeners.
    async fn watch(self, index: usize) {
        let Some(pool) = self.inner.pools.get(index) else { return };
        let mut pause = TICK;
        let mut seen = pool.uevents().counts();
        while self.has_listeners(index) {
            tokio::select! {
                () = pool.uevents().changed(seen) => tokio::time::sleep(DEBOUNCE).await,
                () = tokio::time::sleep(pause) => {}
            }
            if !self.has_listeners(index) {
                return;
            }
            if pool.changing() {
                pause = CHANGING;
                // The events may come from Quarry's own change.
                seen = pool.uevents().counts();
                continue;
            }
            seen = pool.uevents().counts();
            let publisher = self.clone();
            let mut reading = tokio::spawn(async move { publisher.refresh(index).await });
            let read = loop {
                if let Ok(read) = tokio::time::timeout(SLOW, &mut reading).await {
                    break read.unwrap_or(false);
                }
                self.publish_unresponsive(index);
                if !self.has_listeners(index) {
                    return;
                }
            };
            pause = if read { TICK } else { UNREAD };
        }
    }
}
