//! Releases the claims of volumes whose node is gone for good, for classes with `onNodeLoss: release`: their pods then
//! start elsewhere, with empty volumes. Databases that replicate themselves want that.
//!
//! A node that is down, unreachable, or not ready is not gone. A node is gone for good only if its Node object and its
//! plugin's pod have been absent for five minutes ([`Fate::Gone`]). So that a mistake does not delete everything at once,
//! claims are released one after the other, and those of another node only five minutes after the last one of this node.
//! Only one controller releases claims. It cannot know what an earlier one has released, so it first waits as long.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use quarry_volume::{Result, VolumeId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::environment::{Claims, Election, Fate, Nodes};

/// How often lost nodes are looked for. More often than an election ends because it is not asked.
const INTERVAL: Duration = Duration::from_secs(15);
/// The pause after a released claim.
const PAUSE: Duration = Duration::from_secs(10);
/// How long after the last claim of a node those of the next node follow.
const BETWEEN_NODES: Duration = Duration::from_secs(5 * 60);
/// How long a volume without a claim is not looked at again: it hardly ever gets another one, and each look is a request
/// to the Kubernetes API.
const NO_CLAIM: Duration = Duration::from_secs(10 * 60);

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// It was deleted.
    Now,
    /// The class of this volume keeps claims.
    Never,
    /// The volume has no claim now, or it is being deleted already.
    NoClaim,
}

/// Deletes claims.
#[async_trait::async_trait]
pub trait Releases: Send + Sync {
    /// Deletes the claim of this volume, if its class has `onNodeLoss: release`. Its node is gone for good.
    ///
    /// # Errors
    /// `Unavailable` if the API does not answer in time. Then the claim may have been deleted, or may still be; it is tried
    /// again.
    async fn release(&self, id: &VolumeId) -> Result<Released>;
}

/// What [`release_lost`] needs.
pub struct NodeLoss {
    /// Knows which nodes are gone for good.
    pub nodes: Arc<dyn Nodes>,
    /// Knows the volumes.
    pub claims: Arc<dyn Claims>,
    /// Only the elected controller releases claims. Of its own, because its term must last: it is asked all the time.
    pub election: Arc<dyn Election>,
    /// Deletes claims.
    pub releases: Arc<dyn Releases>,
}

/// Releases claims until `stop`.
pub async fn release_lost(parts: NodeLoss, stop: CancellationToken) {
    let mut state = State::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = state.look(&parts) => {}
        }
    }
}

#[derive(Default)]
struct State {
    /// Volumes that need no other look.
    settled: HashSet<VolumeId>,
    /// Volumes that had no claim, and when.
    unclaimed: HashMap<VolumeId, Instant>,
    /// The term in which this controller is elected, and since when.
    term: Option<(u64, Instant)>,
    /// The node whose claim was released last, and when.
    last: Option<(String, Instant)>,
}

impl State {
    /// Whether this controller is elected, and has been for long enough.
    async fn is_settled_leader(&mut self, election: &dyn Election) -> bool {
        let Ok(fence) = election.fence().await else {
            self.term = None;
            return false;
        };
        let since = match self.term {
            Some((term, since)) if term == fence => since,
            _ => Instant::now(),
        };
        self.term = Some((fence, since));
        since.elapsed() >= BETWEEN_NODES
    }

    async fn look(&mut self, parts: &NodeLoss) {
        if !self.is_settled_leader(&*parts.election).await {
            return;
        }
        let Some(handles) = parts.claims.handles() else { return };
        let mut by_node = BTreeMap::<String, Vec<VolumeId>>::new();
        for id in handles.iter().filter_map(|handle| handle.parse::<VolumeId>().ok()) {
            by_node.entry(id.node.clone()).or_default().push(id);
        }
        self.settled.retain(|id| handles.contains(&id.to_string()));
        self.unclaimed.retain(|id, since| since.elapsed() < NO_CLAIM && handles.contains(&id.to_string()));
        drop(handles);
        for (node, ids) in by_node {
            let rests = |id: &VolumeId| self.settled.contains(id) || self.unclaimed.contains_key(id);
            let ids = ids.into_iter().filter(|id| !rests(id)).collect::<Vec<_>>();
            if ids.is_empty() || parts.nodes.fate(&node).await != Fate::Gone {
                continue;
            }
            for id in ids {
                self.release(parts, id).await;
            }
        }
    }

    async fn release(&mut self, parts: &NodeLoss, id: VolumeId) {
        if self.last.as_ref().is_some_and(|(node, since)| *node != id.node && since.elapsed() < BETWEEN_NODES) {
            return;
        }
        // The pauses take time: the node may be back, and another controller may be elected.
        if !self.is_settled_leader(&*parts.election).await || parts.nodes.fate(&id.node).await != Fate::Gone {
            return;
        }
        match parts.releases.release(&id).await {
            Ok(Released::Now) => {
                tracing::warn!(volume = %id, node = id.node, "released its claim: the node is gone for good");
            }
            Ok(Released::Never) => {
                self.settled.insert(id);
                return;
            }
            Ok(Released::NoClaim) => {
                self.unclaimed.insert(id, Instant::now());
                return;
            }
            Err(error) => {
                tracing::warn!(volume = %id, %error, "cannot release the claim of a volume on a lost node");
            }
        }
        // Also after an error: the claim may have been deleted.
        self.last = Some((id.node, Instant::now()));
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use quarry_volume::{Error, StorageId};

    use super::*;
    use crate::environment::Abandoned;

    #[derive(Default)]
    struct World {
        gone: Mutex<HashSet<String>>,
        handles: Mutex<HashSet<String>>,
        elected: Mutex<bool>,
        /// The term of the elected controller.
        term: Mutex<u64>,
        /// The classes that keep claims, by volume.
        keeps: Mutex<HashSet<String>>,
        fails: Mutex<bool>,
        /// The API deletes the claims of these volumes, and answers too late.
        answers_late: Mutex<HashSet<String>>,
        /// What was released, and when.
        released: Mutex<HashMap<String, Instant>>,
        asked: Mutex<usize>,
    }

    #[async_trait::async_trait]
    impl Nodes for World {
        async fn fate(&self, node: &str) -> Fate {
            if self.gone.lock().contains(node) { Fate::Gone } else { Fate::NotReady(Duration::from_secs(9999)) }
        }

        async fn report_abandoned(&self, _: &VolumeId, _: Abandoned) {}
    }

    impl Claims for World {
        fn handles(&self) -> Option<Arc<HashSet<String>>> {
            Some(Arc::new(self.handles.lock().clone()))
        }
    }

    #[async_trait::async_trait]
    impl Election for World {
        async fn fence(&self) -> Result<u64> {
            if *self.elected.lock() {
                Ok(*self.term.lock())
            } else {
                Err(Error::unavailable("another controller is elected"))
            }
        }
    }

    #[async_trait::async_trait]
    impl Releases for World {
        async fn release(&self, id: &VolumeId) -> Result<Released> {
            *self.asked.lock() += 1;
            if *self.fails.lock() {
                return Err(Error::unavailable("the API is away"));
            }
            if self.keeps.lock().contains(&id.volume) {
                return Ok(Released::Never);
            }
            if self.released.lock().contains_key(&id.volume) {
                return Ok(Released::NoClaim);
            }
            self.released.lock().insert(id.volume.clone(), Instant::now());
            if self.answers_late.lock().remove(&id.volume) {
                return Err(Error::unavailable("no answer in time"));
            }
            Ok(Released::Now)
        }
    }

    fn started(volumes: &[(&str, &str)]) -> (Arc<World>, CancellationToken) {
        let world = Arc::new(World::default());
        for (node, volume) in volumes {
            let id = VolumeId { storage: StorageId::of("vg"), node: (*node).to_owned(), volume: (*volume).to_owned() };
            world.handles.lock().insert(id.to_string());
        }
        world.handles.lock().insert("of another format".to_owned());
        *world.elected.lock() = true;
        let parts =
            NodeLoss { nodes: world.clone(), claims: world.clone(), election: world.clone(), releases: world.clone() };
        let stop = CancellationToken::new();
        tokio::spawn(release_lost(parts, stop.clone()));
        (world, stop)
    }

    async fn minutes(minutes: u64) {
        tokio::time::sleep(Duration::from_secs(60 * minutes)).await;
    }

    fn released(world: &World) -> Vec<String> {
        let mut names: Vec<_> = world.released.lock().keys().cloned().collect();
        names.sort();
        names
    }

    #[tokio::test(start_paused = true)]
    async fn only_claims_of_nodes_that_are_gone_for_good_are_released() {
        let (world, _stop) = started(&[("a", "a1"), ("a", "a2"), ("b", "b1")]);
        world.keeps.lock().insert("a2".to_owned());
        minutes(60).await;
        assert!(released(&world).is_empty(), "a node that is not ready is not gone");
        world.gone.lock().insert("a".to_owned());
        minutes(2).await;
        assert_eq!(released(&world), ["a1"]);
        world.handles.lock().retain(|handle| !handle.ends_with(":a1"));
        minutes(2).await;
        let asked = *world.asked.lock();
        minutes(60).await;
        assert_eq!(*world.asked.lock(), asked, "a class that keeps claims is not asked about again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_without_a_claim_is_looked_at_every_ten_minutes() {
        let (world, _stop) = started(&[("a", "a1")]);
        world.gone.lock().insert("a".to_owned());
        minutes(10).await;
        assert_eq!(released(&world), ["a1"]);
        let before = *world.asked.lock();
        minutes(60).await;
        let asked = *world.asked.lock() - before;
        assert!((5..=6).contains(&asked), "asked {asked} times in an hour");
        // It was bound to another claim.
        world.released.lock().clear();
        minutes(11).await;
        assert_eq!(released(&world), ["a1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn claims_are_released_one_after_the_other_and_node_after_node() {
        let (world, _stop) = started(&[("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")]);
        // It makes no difference whether the API says that it has deleted one.
        world.answers_late.lock().extend(["a1".to_owned(), "a3".to_owned()]);
        world.gone.lock().extend(["a".to_owned(), "b".to_owned()]);
        minutes(4).await;
        assert!(released(&world).is_empty(), "an earlier controller may have just released some");
        minutes(5).await;
        assert_eq!(released(&world), ["a1", "a2", "a3"]);
        let mut times: Vec<_> = world.released.lock().values().copied().collect();
        times.sort();
        assert!(times.is_sorted_by(|one, other| *other - *one >= PAUSE));
        minutes(5).await;
        assert_eq!(released(&world), ["a1", "a2", "a3", "b1"]);
        let since = world.released.lock()["b1"] - times[2];
        assert!(since >= BETWEEN_NODES, "{since:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_newly_elected_controller_waits_first() {
        let (world, _stop) = started(&[("a", "a1")]);
        minutes(10).await;
        // Another one was elected in between.
        *world.term.lock() = 3;
        world.gone.lock().insert("a".to_owned());
        minutes(4).await;
        assert!(released(&world).is_empty());
        minutes(2).await;
        assert_eq!(released(&world), ["a1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_elected_controller_releases_and_errors_are_tried_again() {
        let (world, stop) = started(&[("a", "a1")]);
        world.gone.lock().insert("a".to_owned());
        *world.elected.lock() = false;
        minutes(10).await;
        assert_eq!((released(&world).len(), *world.asked.lock()), (0, 0));
        *world.elected.lock() = true;
        *world.fails.lock() = true;
        minutes(8).await;
        assert!(*world.asked.lock() > 1);
        // The node comes back before the API does.
        world.gone.lock().clear();
        *world.fails.lock() = false;
        minutes(10).await;
        assert!(released(&world).is_empty());
        world.gone.lock().insert("a".to_owned());
        minutes(1).await;
        assert_eq!(released(&world), ["a1"]);
        stop.cancel();
    }
}
