//! The cluster's nodes as machines: ready, not ready (and for how long), or gone for good.
//!
//! Memory answers if a wrong answer does no harm: for a node that is ready, or has not been unready for long,
//! the caller waits. Before an answer lets the caller continue without the node, the API is queried, so a
//! stale watch (a minute at most) misleads no caller. While the API is unreachable, the answer is "unknown",
//! never "gone".

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use parking_lot::Mutex;
use quarry_controller::{Abandoned, Fate, Nodes};
use quarry_volume::VolumeId;
use tokio::time::Instant;

use crate::ask::{LIMIT, ask};
use crate::claims::VolumeClaims;
use crate::connect::Connection;
use crate::discovery::{Discovery, Plugins};
use crate::events::EventReporter;
use crate::follow::{Mirror, Selection, follow};
use crate::guard::{Clock, Task, timestamp};

/// How long a node must be absent from every source before it is gone for good; also how long it must have
/// been unready before memory alone is no longer trusted. The five minutes of the design.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// How long an answer of the API is reused: many requests wait for the same node.
const REUSE: Duration = Duration::from_secs(2);

/// Follows the Nodes until it is dropped.
pub struct ClusterNodes {
    api: Api<Node>,
    plugins: Plugins,
    memory: Arc<Mutex<Memory>>,
    recent: Mutex<HashMap<String, (Instant, Fate)>>,
    reporter: EventReporter,
    clock: Clock,
    _task: Task,
}

impl std::fmt::Debug for ClusterNodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterNodes").field("plugins", &self.plugins).finish_non_exhaustive()
    }
}

/// The state of the watch.
#[derive(Default)]
struct Memory {
    /// `None` until the nodes have been read completely once.
    nodes: Option<HashMap<String, Health>>,
    /// Whether changes arrive.
    current: bool,
}

/// The stored part of a Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Ready,
    NotReady {
        /// The transition time from the API: only compared, to distinguish one outage from the next.
        transition: Option<Timestamp>,
        /// When this outage was first seen, by this host's clock,
        seen: Instant,
        /// and how old it was then.
        age: Duration,
    },
}

impl Health {
    /// Parses a Node. `before` is its previous state; `Err(now)` if it is unknown because the process has
    /// just started, which is the only case in which the clocks of two hosts are compared.
    fn of(node: &Node, before: Result<Option<Self>, Timestamp>) -> Self {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
        if ready.is_some_and(|condition| condition.status == "True") {
            return Self::Ready;
        }
        let changed = ready.and_then(|condition| condition.last_transition_time.as_ref());
        let transition = changed.or(node.metadata.creation_timestamp.as_ref()).map(|time| time.0);
        match before {
            Ok(Some(known @ Self::NotReady { transition: same, .. })) if same == transition => known,
            Ok(_) => Self::NotReady { transition, seen: Instant::now(), age: Duration::ZERO },
            Err(now) => {
                let age =
                    transition.map_or(Duration::ZERO, |then| now.duration_since(then).try_into().unwrap_or_default());
                Self::NotReady { transition, seen: Instant::now(), age }
            }
        }
    }

    fn fate(self) -> Fate {
        match self {
            Self::Ready => Fate::Ready,
            Self::NotReady { seen, age, .. } => Fate::NotReady(age.saturating_add(seen.elapsed())),
        }
    }
}

impl ClusterNodes {
    /// Starts following. `discovery` knows which nodes have a pod of the plugin, `claims` the
    /// PersistentVolume of a volume; `driver` is the CSI driver's name, which reports events.
    #[must_use]
    pub fn start(
        connection: &Connection,
        discovery: &Discovery,
        claims: &VolumeClaims,
        driver: &str,
        clock: Clock,
    ) -> Self {
        let api = Api::<Node>::all(connection.client.clone());
        let plugins = discovery.plugins();
        let memory = Arc::<Mutex<Memory>>::default();
        let mirror = NodeMirror {
            memory: Arc::clone(&memory),
            plugins: plugins.clone(),
            clock: Arc::clone(&clock),
            fresh: None,
        };
        let task = follow(api.clone(), &Selection::default(), mirror, "the cluster's nodes");
        let reporter = EventReporter::new(connection, claims, driver);
        Self { api, plugins, memory, recent: Mutex::default(), reporter, clock, _task: task }
    }

    /// Queries the API. `remembered` is the node's state from the watch.
    async fn query(&self, node: &str, remembered: Option<Health>) -> Fate {
        let answer = match ask(LIMIT, self.api.get_opt(node)).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(node, "cannot read the state of the node: {error}");
                return Fate::Unknown;
            }
        };
        let absences = &self.plugins.absences;
        if let Some(found) = answer {
            absences.seen(node);
            return Health::of(&found, Ok(remembered)).fate();
        }
        let in_list = self.memory.lock().nodes.as_ref().is_none_or(|nodes| nodes.contains_key(node));
        if in_list || self.plugins.cached_on(node) != Some(false) {
            absences.seen(node);
            return Fate::Unknown;
        }
        let since = absences.since(node);
        if since.elapsed() < PATIENCE {
            return Fate::Unknown;
        }
        match self.plugins.queried_on(node).await {
            Ok(false) if absences.lasts_since(node, since) => {
                tracing::info!(node, "the node is gone for good: no Node and no pod of the plugin for {PATIENCE:?}");
                Fate::Gone
            }
            Ok(false) => Fate::Unknown,
            Ok(true) => {
                absences.seen(node);
                Fate::Unknown
            }
            Err(error) => {
                tracing::debug!(node, "cannot read whether the node has a pod of the plugin: {error}");
                Fate::Unknown
            }
        }
    }

    fn recently(&self, node: &str) -> Option<Fate> {
        let recent = self.recent.lock();
        recent.get(node).filter(|(when, _)| when.elapsed() < REUSE).map(|(_, fate)| *fate)
    }
}

#[async_trait::async_trait]
impl Nodes for ClusterNodes {
    async fn fate(&self, node: &str) -> Fate {
        let (remembered, current) = {
            let memory = self.memory.lock();
            let Some(nodes) = &memory.nodes else { return Fate::Unknown };
            (nodes.get(node).copied(), memory.current)
        };
        if let Some(health) = remembered.filter(|_| current) {
            match health.fate() {
                Fate::NotReady(long) if long >= PATIENCE => {}
                waits => return waits,
            }
        }
        if let Some(fate) = self.recently(node) {
            return fate;
        }
        let fate = self.query(node, remembered).await;
        let mut recent = self.recent.lock();
        recent.retain(|_, (when, _)| when.elapsed() < REUSE);
        recent.insert(node.to_owned(), (Instant::now(), fate));
        fate
    }

    async fn is_storage_gone(&self, id: &VolumeId) -> bool {
        self.reporter.is_storage_gone(id).await
    }

    async fn report_abandoned(&self, id: &VolumeId, why: Abandoned) {
        self.reporter.report_abandoned(id, why, (self.clock)()).await;
    }

    async fn report_unlimited(&self, id: &VolumeId, why: &str) -> bool {
        self.reporter.report_unlimited(id, why, (self.clock)()).await
    }
}

struct NodeMirror {
    memory: Arc<Mutex<Memory>>,
    plugins: Plugins,
    clock: Clock,
    /// The list that is being read.
    fresh: Option<HashMap<String, Health>>,
}

impl NodeMirror {
    fn health(&self, node: &Node, name: &str) -> Health {
        let before = match &self.memory.lock().nodes {
            Some(nodes) => Ok(nodes.get(name).copied()),
            None => Err(timestamp((self.clock)())),
        };
        Health::of(node, before)
    }
}

impl Mirror<Node> for NodeMirror {
    fn begin(&mut self) {
        self.fresh = Some(HashMap::new());
    }

    fn listed(&mut self, node: Node) {
        let Some(name) = node.metadata.name.as_deref() else { return };
        let health = self.health(&node, name);
        if let Some(fresh) = &mut self.fresh {
            fresh.insert(name.to_owned(), health);
        }
    }

    fn complete(&mut self) {
        if let Some(fresh) = self.fresh.take() {
            self.memory.lock().nodes = Some(fresh);
            self.plugins.absences.reset();
        }
    }

    fn applied(&mut self, node: Node) {
        let Some(name) = node.metadata.name.as_deref() else { return };
        let health = self.health(&node, name);
        if let Some(nodes) = &mut self.memory.lock().nodes {
            nodes.insert(name.to_owned(), health);
        }
        self.plugins.absences.seen(name);
    }

    fn deleted(&mut self, node: Node) {
        let Some(name) = node.metadata.name.as_deref() else { return };
        if let Some(nodes) = &mut self.memory.lock().nodes {
            nodes.remove(name);
        }
        // The node existed until now: the absence can only start after this.
        self.plugins.absences.seen(name);
    }

    fn current(&mut self, current: bool) {
        self.memory.lock().current = current;
    }
}
