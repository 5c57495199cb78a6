//! The nodes of the cluster: who there is, how to reach them, and what is known of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use quarry_agent::Dial;
use quarry_volume::{Agent, Capacity, Error, Parameters, Result, Unreachable, Volume, VolumeId};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::member::{Member, Timing};
use crate::memory::RESTARTING;
use crate::metrics::Placements;
use crate::surroundings::{Claims, Election, Endpoint, Fate, Nodes, Roster, RosterSource};

/// How many connections are made at the same time: each costs a handshake.
const DIALING: usize = 64;
/// How often nodes that have left are looked at.
const SWEEP: Duration = Duration::from_secs(60);

/// The nodes of the cluster. Cheap to clone; all clones are the same cluster.
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
}

#[derive(Default)]
struct Members {
    /// Since when the roster is known: it was read completely then for the first time.
    synced: Option<Instant>,
    by_name: BTreeMap<String, Arc<Member>>,
}

/// What the cluster consists of, for [`Cluster::follow`].
pub struct Parts {
    /// Makes connections.
    pub dial: Arc<dyn Dial>,
    /// How they are made and kept.
    pub timing: Timing,
    /// Who knows the nodes as machines.
    pub nodes: Arc<dyn Nodes>,
    /// Who decides where there is a choice.
    pub election: Arc<dyn Election>,
    /// Who knows which volumes are wanted.
    pub claims: Arc<dyn Claims>,
    /// The only node there can ever be, where that is so: then no request leaves a choice.
    pub only: Option<String>,
}

impl Cluster {
    /// The cluster whose nodes `roster` names; followed until `stop`. Must be called within a tokio runtime.
    #[must_use]
    pub fn follow(mut roster: RosterSource, parts: Parts, stop: CancellationToken) -> Self {
        let Parts { dial, timing, nodes, election, claims, only } = parts;
        let placements = Placements::default();
        let inner = Inner { members: RwLock::default(), nodes, election, claims, only, placements };
        let cluster = Self { inner: Arc::new(inner) };
        let followed = cluster.clone();
        tokio::spawn(async move {
            let dialing = Arc::new(Semaphore::new(DIALING));
            let mut following: HashMap<String, (Endpoint, CancellationToken)> = HashMap::new();
            let mut sweep = tokio::time::interval(SWEEP);
            loop {
                let now = roster.borrow_and_update().clone();
                if let Some(now) = now {
                    followed.enrol(&now, &mut following, |member, endpoint, stop| {
                        let (dial, timing, dialing) = (Arc::clone(&dial), timing.clone(), Arc::clone(&dialing));
                        tokio::spawn(member.follow(dial, endpoint, timing, dialing, stop));
                    });
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    changed = roster.changed() => if changed.is_err() { stop.cancelled().await; break },
                    _ = sweep.tick() => followed.forget(&following).await,
                }
            }
            for (_, token) in following.values() {
                token.cancel();
            }
        });
        cluster
    }

    /// Follows those that came or moved, and leaves those that went.
    fn enrol(
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

    /// Forgets nodes that have no plugin pod any more and are gone for good.
    async fn forget(&self, following: &HashMap<String, (Endpoint, CancellationToken)>) {
        for member in self.members() {
            if !following.contains_key(&member.name) && self.inner.nodes.fate(&member.name).await == Fate::Gone {
                tracing::info!(node = member.name, volumes = member.memory().count(), "the node is gone for good");
                self.write().by_name.remove(&member.name);
            }
        }
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Members> {
        self.inner.members.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Members> {
        self.inner.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, name: &str) -> Arc<Member> {
        let fresh = || Arc::new(Member::new(name));
        Arc::clone(self.write().by_name.entry(name.to_owned()).or_insert_with(fresh))
    }

    pub(crate) fn member(&self, name: &str) -> Option<Arc<Member>> {
        self.read().by_name.get(name).cloned()
    }

    /// All that are or were in the roster, by name.
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.read().by_name.values().cloned().collect()
    }

    /// Whether the roster was read completely, so that who is not known does not exist.
    pub(crate) fn synced(&self) -> bool {
        self.read().synced.is_some()
    }

    /// The agent of a node, and its run.
    ///
    /// # Errors
    /// `Unavailable`, at once, if it cannot be reached.
    pub(crate) fn agent(&self, node: &str) -> Result<(Arc<Member>, Arc<dyn Agent>, String)> {
        let member = self.member(node).ok_or_else(|| {
            Error::unavailable(match self.synced() {
                true => {
                    format!("node {node} has no plugin pod: does the DaemonSet run there? The call may be repeated")
                }
                false => format!("node {node} is not known yet: the nodes are still being listed; retry"),
            })
        })?;
        let (agent, instance) = member.agent()?;
        Ok((member, agent, instance))
    }

    /// What keeps the controller from doing its work, a line each. A node that is away is none of it: the others go on.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        match self.synced() {
            true => Vec::new(),
            false => vec!["the nodes have not been listed yet".to_owned()],
        }
    }

    /// Looks a volume up on the node that holds it.
    ///
    /// # Errors
    /// `NotFound` only on the word of that node, which has read its pools; `Unavailable` if it cannot be asked.
    pub async fn get(&self, id: &VolumeId, wait: Duration) -> Result<Volume> {
        let (_, agent, _) = self.agent(&id.node)?;
        agent.get(id, wait).await
    }

    /// Deletes a volume on the node that holds it. Of a node that is gone for good, nothing is left to delete.
    ///
    /// # Errors
    /// `Unavailable`, at once, if the node cannot be reached but may come back.
    pub async fn delete(&self, id: &VolumeId, wait: Duration) -> Result<()> {
        match self.agent(&id.node) {
            Ok((member, agent, instance)) => {
                let change = agent.delete(id, wait).await?;
                member.reply(&instance, change);
                Ok(())
            }
            Err(error) => {
                if self.inner.nodes.fate(&id.node).await != Fate::Gone {
                    return Err(error.context(format_args!("deleting volume {id}")));
                }
                tracing::warn!(volume = %id, node = id.node, "given up: its node is gone for good");
                self.inner.nodes.gave_up(id).await;
                Ok(())
            }
        }
    }

    /// What one node (all of them, when none is named) can still give to a class with these parameters, from memory.
    ///
    /// # Errors
    /// `Unavailable` as long as that is not known, and while the node's plugin may be just restarting.
    pub fn capacity(&self, node: Option<&str>, parameters: &Parameters) -> Result<Capacity> {
        if !self.synced() {
            return Err(Error::unavailable("the nodes have not been listed yet: retry"));
        }
        let Some(node) = node else {
            let known = self.members().into_iter().filter_map(|member| member.memory().capacity(parameters));
            return Ok(known.fold(Capacity::default(), Capacity::and));
        };
        let Some(member) = self.member(node) else { return Ok(Capacity::default()) };
        let capacity = member.memory().capacity(parameters);
        capacity.ok_or_else(|| match member.agent() {
            Ok(_) => Error::unavailable(format!("node {node} has not told what it has yet: retry")),
            Err(away) => away.context("what is free there is not known"),
        })
    }

    /// The same for those who publish it. external-provisioner writes what is answered into the node's CSIStorageCapacity, and
    /// leaves the object as it is where an error is answered. So of a node whose plugin pod is between two lives nothing is
    /// said, also by a controller that has just been started: nodes and controllers may be upgraded at once.
    ///
    /// # Errors
    /// As [`Cluster::capacity`].
    pub async fn published_capacity(&self, node: Option<&str>, parameters: &Parameters) -> Result<Capacity> {
        let known = self.read().synced.map(|since| since.elapsed());
        if let (Some(node), Some(known)) = (node, known.filter(|known| *known < RESTARTING))
            && self.member(node).is_none()
            && matches!(self.inner.nodes.fate(node).await, Fate::Ready | Fate::NotReady(_))
        {
            return Err(Error::unavailable(format!(
                "node {node} has had no plugin pod in the {} s that this controller knows the nodes; what is free there is \
                 not known yet: retry",
                known.as_secs()
            )));
        }
        self.capacity(node, parameters)
    }

    /// Up to `most` volumes from memory, in the order of node and identifier, and whether there are more.
    ///
    /// # Errors
    /// `Unavailable` until the nodes were listed.
    pub fn volumes(&self, after: Option<&VolumeId>, most: usize) -> Result<(Vec<Volume>, bool)> {
        if !self.synced() {
            return Err(Error::unavailable("the nodes have not been listed yet: retry"));
        }
        let mut page = Vec::new();
        let members: Vec<_> = {
            let read = self.read();
            match after {
                Some(id) => read.by_name.range(id.node.clone()..).map(|(_, member)| Arc::clone(member)).collect(),
                None => read.by_name.values().cloned().collect(),
            }
        };
        for member in members {
            let memory = member.memory();
            for volume in memory.volumes(after.filter(|id| id.node == member.name)) {
                if page.len() == most {
                    return Ok((page, true));
                }
                page.push(volume.clone());
            }
        }
        Ok((page, false))
    }

    /// Waits until every node of the roster has been heard once, at most `wait`. For those who start with one node.
    pub async fn heard(&self, wait: Duration) -> bool {
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
