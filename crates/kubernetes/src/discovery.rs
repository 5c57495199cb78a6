//! Finds the node plugins: where each node's agent can be reached, from the pods of the node DaemonSet.
//!
//! A pod counts once it has a node and an address and has not finished. While a node has two (a rolling update with a
//! surge, or an old one that is slow to go), the newest that is ready is taken, else the newest.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use quarry_controller::{Endpoint, Roster, RosterSource};
use tokio::sync::watch;

use crate::absence::Absences;
use crate::ask::{LIMIT, Unanswered, ask};
use crate::connect::Connection;
use crate::follow::{Mirror, Selection, follow};
use crate::guard::{Task, lock};

/// Follows the pods of the node plugin until it is dropped.
#[derive(Debug)]
pub struct Discovery {
    plugins: Plugins,
    roster: RosterSource,
    _task: Task,
}

impl Discovery {
    /// Begins to follow. `selector` is a label selector that only pods of the node plugin match, `port` the one on which
    /// their agents listen.
    #[must_use]
    pub fn start(connection: &Connection, selector: &str, port: u16) -> Self {
        let api = Api::<Pod>::namespaced(connection.client.clone(), &connection.namespace);
        let plugins = Plugins {
            api: api.clone(),
            selector: selector.to_owned(),
            absences: Absences::default(),
            pods: Arc::default(),
        };
        let (sender, roster) = watch::channel(None);
        let mirror = PodMirror { plugins: plugins.clone(), port, fresh: None, roster: sender };
        let task = follow(api, &Selection { labels: selector.to_owned() }, mirror, "the pods of the node plugin");
        Self { plugins, roster, _task: task }
    }

    /// The nodes that have an agent, as that changes; `None` until the pods were read completely once.
    #[must_use]
    pub fn roster(&self) -> RosterSource {
        self.roster.clone()
    }

    /// What else is to be known of the plugin's pods.
    pub(crate) fn plugins(&self) -> Plugins {
        self.plugins.clone()
    }
}

/// The plugin's pods by node, whatever state they are in; `None` until they were read completely once.
type ByNode = Option<HashMap<String, Vec<Plugin>>>;

/// Which nodes have a pod of the plugin.
#[derive(Clone)]
pub(crate) struct Plugins {
    api: Api<Pod>,
    selector: String,
    pub(crate) absences: Absences,
    pods: Arc<Mutex<ByNode>>,
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugins").field("selector", &self.selector).finish_non_exhaustive()
    }
}

impl Plugins {
    /// Whether a pod is assigned to the node, from memory; `None` if the pods were not read yet.
    pub(crate) fn remembered_on(&self, node: &str) -> Option<bool> {
        lock(&self.pods).as_ref().map(|pods| pods.contains_key(node))
    }

    /// The same, asked of the API now.
    pub(crate) async fn asked_on(&self, node: &str) -> Result<bool, Unanswered> {
        let parameters = ListParams::default().labels(&self.selector).fields(&format!("spec.nodeName={node}")).limit(1);
        Ok(!ask(LIMIT, self.api.list(&parameters)).await?.items.is_empty())
    }
}

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plugin {
    name: Box<str>,
    uid: Box<str>,
    /// `None`: no address yet, or finished; nobody can be reached there.
    address: Option<IpAddr>,
    ready: bool,
    /// Creation, in seconds since 1970.
    created: i64,
}

impl Plugin {
    /// The node and what is kept; `None` while the pod has no node.
    fn of(pod: Pod) -> Option<(String, Self)> {
        let node = pod.spec.and_then(|spec| spec.node_name).filter(|node| !node.is_empty())?;
        let status = pod.status.unwrap_or_default();
        let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let address = status.pod_ip.filter(|_| !finished).and_then(|address| address.parse().ok());
        let ready = status.conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let created = pod.metadata.creation_timestamp.map_or(0, |time| time.0.as_second());
        let name = pod.metadata.name.unwrap_or_default().into_boxed_str();
        let uid = pod.metadata.uid.unwrap_or_default().into_boxed_str();
        Some((node, Self { name, uid, address, ready, created }))
    }

    /// Which of two that can be reached is the better one; never equal for different pods.
    fn order(&self, other: &Self) -> Ordering {
        (self.ready, self.created, &self.uid).cmp(&(other.ready, other.created, &other.uid))
    }
}

fn chosen(pods: &[Plugin], port: u16) -> Option<Endpoint> {
    let best = pods.iter().filter(|pod| pod.address.is_some()).max_by(|one, other| one.order(other))?;
    let address = SocketAddr::new(best.address?, port).to_string();
    Some(Endpoint { address, pod_uid: best.uid.clone().into_string() })
}

/// Adds a pod, or replaces what was known of it. A pod of the same name with another UID is its successor.
fn put(pods: &mut Vec<Plugin>, pod: Plugin) {
    pods.retain(|known| known.name != pod.name);
    pods.push(pod);
}

struct PodMirror {
    plugins: Plugins,
    port: u16,
    /// The list that is being read.
    fresh: Option<HashMap<String, Vec<Plugin>>>,
    roster: watch::Sender<Option<Arc<Roster>>>,
}

impl PodMirror {
    /// Brings the roster up to date for one node. Most changes of a pod change nothing here.
    fn publish(&self, node: &str, endpoint: Option<Endpoint>) {
        self.roster.send_if_modified(|roster| {
            let Some(roster) = roster else { return false };
            if roster.get(node) == endpoint.as_ref() {
                return false;
            }
            let changed = Arc::make_mut(roster);
            match endpoint {
                Some(endpoint) => changed.insert(node.to_owned(), endpoint),
                None => changed.remove(node),
            };
            true
        });
    }
}

impl Mirror<Pod> for PodMirror {
    fn begin(&mut self) {
        self.fresh = Some(HashMap::new());
    }

    fn listed(&mut self, pod: Pod) {
        if let (Some(fresh), Some((node, plugin))) = (&mut self.fresh, Plugin::of(pod)) {
            put(fresh.entry(node).or_default(), plugin);
        }
    }

    fn complete(&mut self) {
        let Some(fresh) = self.fresh.take() else { return };
        let roster: BTreeMap<String, Endpoint> =
            fresh.iter().filter_map(|(node, pods)| Some((node.clone(), chosen(pods, self.port)?))).collect();
        *lock(&self.plugins.pods) = Some(fresh);
        self.plugins.absences.begin_anew();
        self.roster.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&roster);
            if changed {
                *known = Some(Arc::new(roster));
            }
            changed
        });
    }

    fn applied(&mut self, pod: Pod) {
        let Some((node, plugin)) = Plugin::of(pod) else { return };
        self.plugins.absences.seen(&node);
        let endpoint = {
            let mut known = lock(&self.plugins.pods);
            let Some(pods) = known.as_mut() else { return };
            let pods = pods.entry(node.clone()).or_default();
            put(pods, plugin);
            chosen(pods, self.port)
        };
        self.publish(&node, endpoint);
    }

    fn deleted(&mut self, pod: Pod) {
        let Some((node, plugin)) = Plugin::of(pod) else { return };
        // It was there until now: the absence can only begin after this.
        self.plugins.absences.seen(&node);
        let endpoint = {
            let mut known = lock(&self.plugins.pods);
            let Some(by_node) = known.as_mut() else { return };
            let Some(pods) = by_node.get_mut(&node) else { return };
            pods.retain(|known| known.uid != plugin.uid);
            let endpoint = chosen(pods, self.port);
            if pods.is_empty() {
                by_node.remove(&node);
            }
            endpoint
        };
        self.publish(&node, endpoint);
    }

    fn current(&mut self, _current: bool) {}
}
