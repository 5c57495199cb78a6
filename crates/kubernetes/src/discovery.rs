//! Finds the node plugins: the address of each node's agent, from the pods of the node DaemonSet.
//!
//! A pod is used once it has a node and an address and has not finished. While a node has two pods (a rolling
//! update with a surge, or an old pod that terminates slowly), the newest ready one is used, or else the
//! newest.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use parking_lot::Mutex;
use quarry_controller::{Endpoint, Roster, RosterSource};
use tokio::sync::watch;

use crate::absence::Absences;
use crate::ask::{LIMIT, Unanswered, ask};
use crate::connect::Connection;
use crate::follow::{Mirror, Selection, follow};
use crate::guard::Task;

/// Follows the pods of the node plugin until it is dropped.
#[derive(Debug)]
pub struct Discovery {
    plugins: Plugins,
    roster: RosterSource,
    _task: Task,
}

impl Discovery {
    /// Starts following. `selector` is a label selector that matches only pods of the node plugin; `port` is
    /// the port of their agents.
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

    /// The nodes that have an agent, with updates; `None` until the pods have been read completely once.
    #[must_use]
    pub fn roster(&self) -> RosterSource {
        self.roster.clone()
    }

    /// Which nodes have a pod of the plugin.
    pub(crate) fn plugins(&self) -> Plugins {
        self.plugins.clone()
    }
}

/// The plugin's pods by node, in any state; `None` until they have been read completely once.
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
    /// Whether a pod is assigned to the node, from memory; `None` if the pods have not been read yet.
    pub(crate) fn cached_on(&self, node: &str) -> Option<bool> {
        self.pods.lock().as_ref().map(|pods| pods.contains_key(node))
    }

    /// The same, queried from the API now.
    pub(crate) async fn queried_on(&self, node: &str) -> Result<bool, Unanswered> {
        let parameters = ListParams::default().labels(&self.selector).fields(&format!("spec.nodeName={node}")).limit(1);
        Ok(!ask(LIMIT, self.api.list(&parameters)).await?.items.is_empty())
    }
}

/// The stored part of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plugin {
    name: Box<str>,
    uid: Box<str>,
    /// `None` if the pod has no address yet, or has finished; it cannot be reached then.
    address: Option<IpAddr>,
    ready: bool,
    /// Creation, in seconds since 1970.
    created: i64,
}

impl Plugin {
    /// The node and the stored part; `None` while the pod has no node.
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

    /// Orders two reachable pods; never equal for different pods.
    fn order(&self, other: &Self) -> Ordering {
        (self.ready, self.created, &self.uid).cmp(&(other.ready, other.created, &other.uid))
    }
}

fn chosen(pods: &[Plugin], port: u16) -> Option<Endpoint> {
    let best = pods.iter().filter(|pod| pod.address.is_some()).max_by(|one, other| one.order(other))?;
    let address = SocketAddr::new(best.address?, port).to_string();
    Some(Endpoint { address, pod_uid: best.uid.clone().into_string() })
}

/// Adds or replaces a pod. A pod with the same name and another UID is its successor.
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
    /// Updates the roster for one node. Most changes of a pod change nothing here.
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
        *self.plugins.pods.lock() = Some(fresh);
        self.plugins.absences.reset();
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
            let mut known = self.plugins.pods.lock();
            let Some(pods) = known.as_mut() else { return };
            let pods = pods.entry(node.clone()).or_default();
            put(pods, plugin);
            chosen(pods, self.port)
        };
        self.publish(&node, endpoint);
    }

    fn deleted(&mut self, pod: Pod) {
        let Some((node, plugin)) = Plugin::of(pod) else { return };
        // The pod existed until now: the absence can only start after this.
        self.plugins.absences.seen(&node);
        let endpoint = {
            let mut known = self.plugins.pods.lock();
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
