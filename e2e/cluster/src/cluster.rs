//! A whole cluster: control plane, nodes, images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quarry_vm::{Disk, Network, Preparation, System};
use serde_json::Value;

use crate::binaries::Binaries;
use crate::containerd;
use crate::control_plane::ControlPlane;
use crate::kubectl::Kubectl;
use crate::worker::{Worker, until};

/// The options of a cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many nodes, 1 to 100.
    pub nodes: u8,
    /// The disks of each node.
    pub disks: Vec<Disk>,
    /// The operating systems of the nodes, which take turns: with two of them, `node-1` has the first and `node-2`
    /// the second.
    pub systems: Vec<System>,
    /// Image archives that every node gets, in groups: what changes seldom comes first, and is prepared once.
    pub images: Vec<Vec<PathBuf>>,
}

impl Plan {
    /// The operating system of a node; the first node is 1.
    fn system(&self, node: u8) -> Result<System> {
        self.systems
            .iter()
            .copied()
            .cycle()
            .nth(usize::from(node.saturating_sub(1)))
            .context("a cluster without an operating system")
    }
}

/// A running cluster. It stops when this value is dropped.
pub struct Cluster {
    /// Its nodes, `node-1` first.
    pub workers: Vec<Worker>,
    control: ControlPlane,
    helm: PathBuf,
    /// What a node that joins later needs.
    network: Network,
    preparations: Vec<Preparation>,
    plan: Plan,
    /// The number of the newest node.
    newest: u8,
}

/// The nodes have routes to each other for this many, so that nodes can join later.
const MOST: u8 = 9;

impl Cluster {
    /// Starts a cluster with its files in `folder`, and waits until all nodes are ready. `say` receives
    /// progress messages.
    ///
    /// # Errors
    /// A part does not start; the error quotes the end of its output.
    pub async fn start(binaries: &Binaries, folder: &Path, plan: Plan, say: &(dyn Fn(&str) + Sync)) -> Result<Self> {
        let network = Network::new();
        let preparations = containerd::preparations(binaries, &plan.images)?;
        let control = ControlPlane::start(binaries, folder).await?;
        say("the control plane serves");
        let starts = (1..=plan.nodes).map(|number| Self::join(&control, &preparations, &network, &plan, number));
        let workers = futures::future::try_join_all(starts).await?;
        say("kubelets run");
        let mut cluster =
            Self { workers, control, helm: binaries.helm.clone(), network, preparations, newest: plan.nodes, plan };
        cluster.wait_ready().await?;
        say("all nodes are ready");
        Ok(cluster)
    }

    /// Starts a node.
    async fn join(
        control: &ControlPlane,
        preparations: &[Preparation],
        network: &Network,
        plan: &Plan,
        number: u8,
    ) -> Result<Worker> {
        let (disks, system) = (plan.disks.clone(), plan.system(number)?);
        let nodes = MOST.max(plan.nodes);
        let worker = Worker::start(control, preparations, network, number, nodes, disks, system).await?;
        worker.start_kubelet().await?;
        Ok(worker)
    }

    /// Adds a node with the same disks as the others, under a name that no node had before, and waits until it is
    /// ready. Its disks are empty. Returns its name.
    ///
    /// # Errors
    /// It does not start, or there are too many nodes.
    pub async fn add_worker(&mut self) -> Result<String> {
        let number = self.newest + 1;
        ensure!(number <= MOST, "a cluster can have {MOST} nodes in its life");
        let worker = Self::join(&self.control, &self.preparations, &self.network, &self.plan, number).await?;
        let name = worker.name.clone();
        self.newest = number;
        self.workers.push(worker);
        self.wait_ready().await?;
        Ok(name)
    }

    /// kubectl for the cluster's administrator.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.control.kubectl
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.control.kubeconfig()
    }

    /// The node of this name.
    ///
    /// # Errors
    /// There is no such node.
    pub fn worker(&self, name: &str) -> Result<&Worker> {
        let found = self.workers.iter().find(|worker| worker.name == name);
        found.with_context(|| format!("there is no node {name:?}"))
    }

    /// The node of this name, to be changed.
    ///
    /// # Errors
    /// There is no such node.
    pub fn worker_mut(&mut self, name: &str) -> Result<&mut Worker> {
        let found = self.workers.iter_mut().find(|worker| worker.name == name);
        found.with_context(|| format!("there is no node {name:?}"))
    }

    /// Removes a node permanently. Kubernetes is not informed.
    ///
    /// # Errors
    /// There is no such node.
    pub fn lose_worker(&mut self, name: &str) -> Result<Worker> {
        let place = self.workers.iter().position(|worker| worker.name == name);
        Ok(self.workers.remove(place.with_context(|| format!("there is no node {name:?}"))?))
    }

    /// Installs or upgrades a chart under the name `quarry`, with values given as `key=value`.
    ///
    /// # Errors
    /// helm fails; the error quotes its output.
    pub async fn helm(&self, verb: &str, arguments: &[&str]) -> Result<String> {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig().display());
        let all = [verb, &kubeconfig].into_iter().chain(arguments.iter().copied());
        quarry_vm::run(&self.helm, all, Duration::from_secs(900)).await
    }

    /// Waits until every node is ready.
    async fn wait_ready(&mut self) -> Result<()> {
        let wanted = self.workers.len();
        let kubectl = self.control.kubectl.clone();
        let waited = until("a cluster with all its nodes ready", async || {
            self.control.check()?;
            let nodes = kubectl.get(["nodes"]).await?;
            Ok(items(&nodes).filter(|node| is(node, "Ready")).count() == wanted)
        })
        .await;
        if let Err(error) = waited {
            let mut logs = String::new();
            for worker in &self.workers {
                logs += &format!("\nkubelet of {}:\n{}", worker.name, worker.log("kubelet").await);
            }
            bail!("{error:#}{logs}");
        }
        Ok(())
    }
}

/// The objects of a list.
pub(crate) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("items").and_then(Value::as_array).into_iter().flatten()
}

/// The text at a JSON pointer, or nothing.
#[must_use]
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a condition of an object's status is true.
#[must_use]
pub(crate) fn is(object: &Value, condition: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|found| text(found, "/type") == condition && text(found, "/status") == "True")
}

/// Recreates the folder of a cluster's files.
///
/// # Errors
/// The folder cannot be created.
pub fn fresh_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
        _ => {}
    }
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}
