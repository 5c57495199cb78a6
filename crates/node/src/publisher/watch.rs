//! When pools are looked at: while somebody listens, and never so that one waits for another.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use quarry_volume::{Change, PoolState, Space};
use tokio::sync::broadcast;

use super::StatePublisher;

/// How often a pool is looked at while somebody listens.
const TICK: Duration = Duration::from_secs(5);
/// The same for a pool that could not be read: each attempt starts a program, and yet a volume group that comes back is to
/// be seen within ten seconds.
const UNREAD: Duration = Duration::from_secs(7);
/// How long after the first event of a burst a pool is looked at.
const SETTLING: Duration = Duration::from_millis(300);
/// When a pool is looked at again that was being changed by us. Whoever changes it reads it after that anyway.
const CHANGING: Duration = Duration::from_secs(1);
/// A pool that cannot be read for this long is told as one that does not answer.
const SLOW: Duration = Duration::from_secs(3);
impl StatePublisher {
    /// Reads the pool soon, if anybody listens.
    pub(crate) fn refresh_soon(&self, pool: &str) {
        if let Some(index) = self.index(pool)
            && self.inner.updates.receiver_count() > 0
        {
            let publisher = self.clone();
            tokio::spawn(async move { publisher.refresh(index).await });
        }
    }

    /// Reads all pools, each at most [`SLOW`]: those that take longer are told as silent.
    pub(super) async fn refresh_all(&self) {
        let each = (0..self.inner.pools.len()).map(|index| async move {
            let publisher = self.clone();
            let reading = tokio::spawn(async move { publisher.refresh(index).await });
            if tokio::time::timeout(SLOW, reading).await.is_err() {
                self.silent(index);
            }
        });
        join_all(each).await;
    }

    /// Tells a pool as one that does not answer. What was known of its volumes stands.
    fn silent(&self, index: usize) {
        let mut told = self.told();
        let Some(known) = told.pools.get_mut(index) else { return };
        let disks = self.inner.pools.get(index).map(|pool| pool.silent_disks()).unwrap_or_default();
        let why = match disks.first() {
            Some(disk) => format!("pool {} does not answer: {disk}", known.state.name),
            None => format!(
                "pool {} does not answer: reading its storage takes longer than {} s; is a disk hanging, or another lvm \
                 holding a lock?",
                known.state.name,
                SLOW.as_secs()
            ),
        };
        let space = Space { free: Vec::new(), closed: Some(why.clone()), ..known.state.space.clone() };
        let state = PoolState { space, problems: vec![why], ..known.state.clone() };
        let pools = known.replace(state);
        self.publish(&mut told, Change { pools, ..Change::default() });
    }

    /// Begins to listen, and sees to it that changes from outside are looked for.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Change>> {
        let mut told = self.told();
        let receiver = self.inner.updates.subscribe();
        for (index, known) in told.pools.iter_mut().enumerate() {
            if !known.watched {
                known.watched = true;
                let publisher = self.clone();
                tokio::spawn(async move { publisher.watch(index).await });
            }
        }
        receiver
    }

    /// Whether somebody still listens; if not, the caller is the pool's watcher and ends.
    fn listened(&self, index: usize) -> bool {
        let mut told = self.told();
        let listened = self.inner.updates.receiver_count() > 0;
        if let Some(known) = told.pools.get_mut(index) {
            known.watched = listened;
        }
        listened
    }

    /// Looks for changes of a pool from outside until nobody listens any more.
    async fn watch(self, index: usize) {
        let Some(pool) = self.inner.pools.get(index) else { return };
        let mut pause = TICK;
        let mut heard = pool.uevents().heard();
        while self.listened(index) {
            tokio::select! {
                () = pool.uevents().beyond(heard) => tokio::time::sleep(SETTLING).await,
                () = tokio::time::sleep(pause) => {}
            }
            if !self.listened(index) {
                return;
            }
            if pool.changing() {
                pause = CHANGING;
                // The events may be those of our own change.
                heard = pool.uevents().heard();
                continue;
            }
            heard = pool.uevents().heard();
            let publisher = self.clone();
            let mut reading = tokio::spawn(async move { publisher.refresh(index).await });
            let read = loop {
                if let Ok(read) = tokio::time::timeout(SLOW, &mut reading).await {
                    break read.unwrap_or(false);
                }
                self.silent(index);
                if !self.listened(index) {
                    return;
                }
            };
            pause = if read { TICK } else { UNREAD };
        }
    }
}
