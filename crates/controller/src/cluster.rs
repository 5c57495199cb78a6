//! The nodes of the cluster: their names, their addresses and what the controller knows about them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use quarry_agent::Dial;
use quarry_volume::{
    Agent, Capacity, EXPAND, Error, Greeting, LIMITS, MODIFY_DISCARD, MutableParameters, Parameters, Result, SizeRange,
    Unreachable, Volume, VolumeId,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::environment::{Abandoned, Claims, Election, Endpoint, Fate, Nodes, Roster, RosterSource};
use crate::member::{Connections, Member, Timing};
use crate::memory::RESTARTING;
use crate::metrics::Placements;

/// How often nodes that left the roster are checked, and how many of them at the same time.
const SWEEP: Duration = Duration::from_secs(60);
const CHECKED: usize = 64;

/// A connected node, its agent, and what the agent said about itself when it was connected.
pub(crate) type Connected = (Arc<Member>, Arc<dyn Agent>, Arc<Greeting>);

/// The nodes of the cluster. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    members: RwLock<Members>,
    pub(crate) nodes: Arc<dyn Nodes>,
    pub(crate) election: Arc<dyn Election>,
    pub(crate) claims: Arc<dyn Claims>,
    /// See [`Parts::only`].
    pub(crate) only: Option<String>,
    pub(crate) placements: Placements,
    pub(crate) connections: Arc<Connections>,
}

#[derive(Default)]
struct Members {
    /// When the roster was first read completely.
    synced: Option<Instant>,
    by_name: BTreeMap<String, Arc<Member>>,
}

/// The parts of a cluster, for [`Cluster::follow`].
pub struct Parts {
    /// Opens connections.
    pub dial: Arc<dyn Dial>,
    /// When connections are opened, retried and replaced.
    pub timing: Timing,
    /// Knows the nodes as machines.
    pub nodes: Arc<dyn Nodes>,
    /// Elects the controller that selects nodes.
    pub election: Arc<dyn Election>,
    /// Knows which volumes are claimed.
    pub claims: Arc<dyn Claims>,
    /// The only node of this installation, if there can be only one: then no request leaves a choice.
    pub only: Option<String>,
}

impl Cluster {
    /// Follows the nodes in `roster` until `stop`. Must be called within a tokio runtime.
    #[must_use]
    pub fn follow(mut roster: RosterSource, parts: Parts, stop: CancellationToken) -> Self {
        let Parts { dial, timing, nodes, election, claims, only } = parts;
        let placements = Placements::default();
        let connections = Arc::new(Connections::new(dial, timing));
        let inner = Inner { members: RwLock::default(), nodes, election, claims, only, placements, connections };
        let cluster = Self { inner: Arc::new(inner) };
        tokio::spawn(cluster.clone().report_unlimited(stop.clone()));
        let followed = cluster.clone();
        tokio::spawn(async move {
            let mut following: HashMap<String, (Endpoint, CancellationToken)> = HashMap::new();
            let mut sweep = tokio::time::interval(SWEEP);
            sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The nodes without a pod, of which it is being asked whether they are gone for good. Meanwhile, the roster is
            // followed.
            let mut asked = JoinSet::new();
            loop {
                let now = roster.borrow_and_update().clone();
                if let Some(now) = now {
                    followed.apply_roster(&now, &mut following, |member, endpoint, stop| {
                        tokio::spawn(member.follow(Arc::clone(&followed.inner.connections), endpoint, stop));
                    });
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    changed = roster.changed() => if changed.is_err() { stop.cancelled().await; break },
                    _ = sweep.tick(), if asked.is_empty() => {
                        let absent = followed.members().into_iter().filter(|member| !following.contains_key(&member.name));
                        asked.spawn(followed.clone().gone_for_good(absent.collect()));
                    }
                    Some(gone) = asked.join_next() => followed.forget(&gone.unwrap_or_default(), &following),
                }
            }
            for (_, token) in following.values() {
                token.cancel();
            }
        });
        cluster
    }

    /// Follows nodes that are new or have moved, and stops following nodes that left.
    fn apply_roster(
        &self,
        roster: &Roster,
        following: &mut HashMap<String, (Endpoint, CancellationToken)>,
        follow: impl Fn(Arc<Member>, Endpoint, CancellationToken),
    ) {
        following.retain(|name, (endpoint, token)| {
            let stays = roster.get(name) == Some(endpoint);
            if !stays {
                token.cancel();
                if let Some(member) = self.member(name) {
                    let (cause, why) = match roster.get(name) {
                        None => (Unreachable::NoPod, "it has no plugin pod".to_owned()),
                        Some(next) => (Unreachable::Starting, format!("its plugin pod moved to {}", next.address)),
                    };
                    member.down(cause, why);
                }
            }
            stays
        });
        for (name, endpoint) in roster.iter().filter(|(name, _)| !following.contains_key(*name)).collect::<Vec<_>>() {
            let token = CancellationToken::new();
            follow(self.enter(name), endpoint.clone(), token.clone());
            following.insert(name.clone(), (endpoint.clone(), token));
        }
        self.write().synced.get_or_insert_with(Instant::now);
    }

    /// Which of these nodes are gone for good.
    async fn gone_for_good(self, absent: Vec<Arc<Member>>) -> Vec<Arc<Member>> {
        let asked = absent.into_iter().map(|member| {
            let nodes = Arc::clone(&self.inner.nodes);
            async move { (nodes.fate(&member.name).await == Fate::Gone).then_some(member) }
        });
        futures::stream::iter(asked).buffer_unordered(CHECKED).filter_map(std::future::ready).collect().await
    }

    /// Forgets nodes that are gone for good, unless they have a plugin pod again.
    fn forget(&self, gone: &[Arc<Member>], following: &HashMap<String, (Endpoint, CancellationToken)>) {
        for member in gone.iter().filter(|member| !following.contains_key(&member.name)) {
            tracing::info!(node = member.name, volumes = member.memory().count(), "the node is gone for good");
            self.write().by_name.remove(&member.name);
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Members> {
        self.inner.members.write()
    }

    fn read(&self) -> RwLockReadGuard<'_, Members> {
        self.inner.members.read()
    }

    fn enter(&self, name: &str) -> Arc<Member> {
        let fresh = || Arc::new(Member::new(name));
        Arc::clone(self.write().by_name.entry(name.to_owned()).or_insert_with(fresh))
    }

    pub(crate) fn member(&self, name: &str) -> Option<Arc<Member>> {
        self.read().by_name.get(name).cloned()
    }

    /// All nodes that are or were in the roster, by name.
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.read().by_name.values().cloned().collect()
    }

    /// Whether the roster was read completely, so that an unknown node does not exist.
    pub(crate) fn synced(&self) -> bool {
        self.read().synced.is_some()
    }

    /// The agent of a node, and what it said about itself when it was connected.
    ///
    /// # Errors
    /// `Unavailable`, immediately, if the node cannot be reached.
    pub(crate) fn agent(&self, node: &str) -> Result<Connected> {
        let member = self.member(node).ok_or_else(|| {
            Error::unavailable(match self.synced() {
                true => {
                    format!("node {node} has no plugin pod: check that the DaemonSet runs there, then retry")
                }
                false => format!("node {node} is not known yet: the controller is still listing the nodes; retry"),
            })
        })?;
        let (agent, greeting) = member.agent()?;
        Ok((member, agent, greeting))
    }

    /// Like [`Cluster::agent`], for a call that only nodes with `capability` know. `what` completes the sentence "it is
    /// too old to …".
    ///
    /// # Errors
    /// `Unavailable` also if the node does not have the capability: the sidecars retry then, and would not after
    /// `Unsupported`.
    pub(crate) fn able_agent(&self, node: &str, capability: &str, what: &str) -> Result<Connected> {
        let (member, agent, greeting) = self.agent(node)?;
        require_able(node, Some(&greeting), capability, what)?;
        Ok((member, agent, greeting))
    }

    /// What keeps the controller from working, one line each. An unreachable node does not count: the other
    /// nodes keep working.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        match self.synced() {
            true => Vec::new(),
            false => vec!["the controller has not listed the nodes yet".to_owned()],
        }
    }

    /// Reads a volume from the node that holds it.
    ///
    /// # Errors
    /// `NotFound` only if that node has read its pools and does not have the volume; `Unavailable` if it
    /// cannot be reached.
    pub async fn get(&self, id: &VolumeId, wait: Duration) -> Result<Volume> {
        let (_, agent, _) = self.agent(&id.node)?;
        agent.get(id, wait).await
    }

    /// Makes a volume larger, on the node that holds it.
    ///
    /// # Errors
    /// As for [`Agent::expand`]. `Unavailable`, immediately, if the node cannot be reached, or if its Quarry is
    /// too old: external-resizer retries then, and would not after `Unsupported`.
    pub async fn expand(&self, id: &VolumeId, size: SizeRange, wait: Duration) -> Result<Volume> {
        let able = self.able_agent(&id.node, EXPAND, "expand volumes");
        let (member, agent, greeting) = able.map_err(|error| error.context(format_args!("expanding volume {id}")))?;
        let (volume, change) = agent.expand(id, size, wait).await?;
        member.reply(&greeting.instance, change);
        Ok(volume)
    }

    /// Changes the mutable parameters of a volume, on the node that holds it.
    ///
    /// # Errors
    /// As for [`Agent::modify`]. `Unavailable`, immediately, if the node cannot be reached, or if its Quarry is too
    /// old: external-resizer retries then.
    pub async fn modify(&self, id: &VolumeId, changes: MutableParameters, wait: Duration) -> Result<Volume> {
        let able =
            self.able_agent(&id.node, LIMITS, "limit the I/O of volumes").and_then(|able| match changes.discard {
                Some(_) => self.able_agent(&id.node, MODIFY_DISCARD, "change \"discard\" of a volume"),
                None => Ok(able),
            });
        let (member, agent, greeting) = able.map_err(|error| error.context(format_args!("modifying volume {id}")))?;
        let (volume, change) = agent.modify(id, changes, wait).await?;
        member.reply(&greeting.instance, change);
        Ok(volume)
    }

    /// Deletes a volume on the node that holds it. On a node that is gone for good there is nothing left
    /// to delete, and neither on storage of which an operator has confirmed that.
    ///
    /// # Errors
    /// `Unavailable`, immediately, if the node cannot be reached but may come back.
    pub async fn delete(&self, id: &VolumeId, wait: Duration) -> Result<()> {
        match self.agent(&id.node) {
            Ok((member, agent, greeting)) => match agent.delete(id, wait).await {
                Ok(change) => {
                    member.reply(&greeting.instance, change);
                    Ok(())
                }
                Err(error) if error.storage_absent && self.inner.nodes.is_storage_gone(id).await => {
                    self.inner.nodes.report_abandoned(id, Abandoned::StorageGone).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Err(error) => {
                if self.inner.nodes.fate(&id.node).await != Fate::Gone {
                    return Err(error.context(format_args!("deleting volume {id}")));
                }
                self.inner.nodes.report_abandoned(id, Abandoned::NodeGone).await;
                Ok(())
            }
        }
    }

    /// What one node (or all nodes, if `node` is `None`) can still allocate for a class with these
    /// parameters, from memory.
    ///
    /// # Errors
    /// `Unavailable` while that is not known, and while the node's plugin may be restarting.
    pub fn capacity(&self, node: Option<&str>, parameters: &Parameters) -> Result<Capacity> {
        if !self.synced() {
            return Err(Error::unavailable("the controller has not listed the nodes yet: retry"));
        }
        let Some(node) = node else {
            let known = self.members().into_iter().filter_map(|member| member.memory().capacity(parameters));
            return Ok(known.fold(Capacity::default(), Capacity::and));
        };
        let Some(member) = self.member(node) else { return Ok(Capacity::default()) };
        let capacity = member.memory().capacity(parameters);
        capacity.ok_or_else(|| match member.agent() {
            Ok(_) => Error::unavailable(format!("node {node} has not reported its pools yet: retry")),
            Err(away) => away.context("its free space is not known"),
        })
    }

    /// Like [`Cluster::capacity`], for callers that publish the result. external-provisioner writes the
    /// result to the node's CSIStorageCapacity; after an error it leaves the object unchanged. Therefore this
    /// returns an error while a node's plugin pod is being replaced, also on a controller that has just
    /// started: nodes and controllers may be upgraded at the same time.
    ///
    /// # Errors
    /// Like [`Cluster::capacity`].
    pub async fn published_capacity(&self, node: Option<&str>, parameters: &Parameters) -> Result<Capacity> {
        let known = self.read().synced.map(|since| since.elapsed());
        if let (Some(node), Some(known)) = (node, known.filter(|known| *known < RESTARTING))
            && self.member(node).is_none()
            && matches!(self.inner.nodes.fate(node).await, Fate::Ready | Fate::NotReady(_))
        {
            return Err(Error::unavailable(format!(
                "node {node} has had no plugin pod for the {} s since this controller listed the nodes; \
                 its free space is not known yet: retry",
                known.as_secs()
            )));
        }
        self.capacity(node, parameters)
    }

    /// Up to `most` volumes from memory, ordered by node and identifier, and whether there are more.
    ///
    /// # Errors
    /// `Unavailable` until the nodes are listed.
    pub fn volumes(&self, after: Option<&VolumeId>, most: usize) -> Result<(Vec<Volume>, bool)> {
        let (mut page, mut more) = (Vec::new(), false);
        self.each_volume(after, |volume| {
            more = page.len() == most;
            if !more {
                page.push(volume.clone());
            }
            !more
        })?;
        Ok((page, more))
    }

    /// Passes the volumes after `after` from memory to `visit`, ordered by node and identifier, until it returns false.
    /// Their node's memory is locked meanwhile.
    ///
    /// # Errors
    /// `Unavailable` until the nodes are listed.
    pub(crate) fn each_volume(&self, after: Option<&VolumeId>, mut visit: impl FnMut(&Volume) -> bool) -> Result<()> {
        if !self.synced() {
            return Err(Error::unavailable("the controller has not listed the nodes yet: retry"));
        }
        let members: Vec<_> = {
            let read = self.read();
            match after {
                Some(id) => read.by_name.range(id.node.clone()..).map(|(_, member)| Arc::clone(member)).collect(),
                None => read.by_name.values().cloned().collect(),
            }
        };
        for member in members {
            let memory = member.memory();
            if !memory.volumes(after.filter(|id| id.node == member.name)).all(&mut visit) {
                break;
            }
        }
        Ok(())
    }

    /// Waits until every node in the roster has reported once, for at most `wait`. For setups with a single
    /// node.
    pub async fn all_reported(&self, wait: Duration) -> bool {
        let complete = async {
            loop {
                let members = self.members();
                let all = members.iter().all(|member| member.memory().greeting().is_some());
                if self.synced() && !members.is_empty() && all {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(wait, complete).await.is_ok()
    }
}

/// See [`Cluster::able_agent`].
pub(crate) fn require_able(node: &str, greeting: Option<&Greeting>, capability: &str, what: &str) -> Result<()> {
    match greeting.is_some_and(|greeting| greeting.capabilities.iter().any(|one| one == capability)) {
        true => Ok(()),
        false => Err(Error::unavailable(format!("Quarry on node {node} is too old to {what}: upgrade it"))),
    }
}
