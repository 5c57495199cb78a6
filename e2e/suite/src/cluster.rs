//! Virtual nodes on one network, each with `quarry node`, and a machine for `quarry controller`.
//!
//! Quarry issues the certificates itself, in a directory of the controllers' machine. This module does what
//! kubelet does with a mounted Secret: the nodes get the files behind a symbolic link that is swapped.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use quarry_vm::{Config, Disk, Guest, Network, Vm};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::controller::Controller;
use crate::csi::Made;
use crate::node::{self, AGENT, BINARY, Node, TLS};

/// Where the controllers keep the certificates in their machine.
pub const CERTIFICATES: &str = "/etc/quarry/certificates";
/// The list of nodes in the controllers' machine.
pub const AGENTS: &str = "/etc/quarry/agents.yaml";
/// The controllers' number on the network; the nodes have those from 1 on.
const CONTROL: u8 = 100;
/// How long anything may take that is waited for; far more than it should need.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The parts of a certificate for its users.
const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Four machines are a lot for a small host: one cluster at a time.
static TURN: Semaphore = Semaphore::const_new(1);

/// Nodes `n1`, `n2`… and a machine for controllers.
pub struct Cluster {
    pub control: Vm,
    pub nodes: Vec<Node>,
    _turn: SemaphorePermit<'static>,
}

impl Cluster {
    /// A cluster whose nodes have one disk each, of these sizes in bytes, for the pool `main`. The node
    /// plugins serve; no controller runs.
    pub async fn start(name: &str, sizes: &[u64]) -> Result<Self> {
        let mut cluster = Self::bare(name, sizes).await?;
        cluster.issue().await?;
        let files = cluster.issued("node").await?;
        try_join_all(cluster.nodes.iter_mut().map(async |node| {
            mount_secret(&node.vm, TLS, &files).await?;
            node.serve().await
        }))
        .await?;
        Ok(cluster)
    }

    /// As [`Cluster::start`], with nothing that runs, and no certificates.
    pub async fn bare(name: &str, sizes: &[u64]) -> Result<Self> {
        let turn = TURN.acquire().await?;
        let network = Network::new();
        let control = async {
            let vm = Vm::start(Config::new(format!("{name}-control")).network(&network, CONTROL)).await?;
            vm.push(node::binary().await?, BINARY, 0o755).await?;
            anyhow::Ok(vm)
        };
        let nodes = sizes.iter().zip(1..).map(|(size, number)| {
            let config = Config::new(format!("n{number}")).network(&network, number).disk(Disk::new("d1", *size));
            async move {
                let mut node = Node::with_vm(Vm::start(config).await?, 1).await?;
                node.in_cluster();
                anyhow::Ok(node)
            }
        });
        let (control, nodes) = tokio::try_join!(control, try_join_all(nodes))?;
        let cluster = Self { control, nodes, _turn: turn };
        cluster.list_agents(&cluster.addresses()).await?;
        Ok(cluster)
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let number: usize = name.strip_prefix('n').and_then(|number| number.parse().ok()).unwrap_or_default();
        self.nodes.get(number.wrapping_sub(1)).with_context(|| format!("there is no node {name:?}"))
    }

    /// The node that holds a volume, by what the answer said.
    pub fn of(&self, made: &Made) -> Result<&Node> {
        self.node(&made.node)
    }

    /// The names of the nodes with their addresses.
    pub fn addresses(&self) -> Vec<(String, String)> {
        let address = |(index, node): (usize, &Node)| {
            let address = node.vm.address().map(|address| format!("{address}:{AGENT}"));
            (format!("n{}", index + 1), address.unwrap_or_default())
        };
        self.nodes.iter().enumerate().map(address).collect()
    }

    /// Gives the controllers the nodes and their addresses.
    pub async fn list_agents(&self, agents: &[(String, String)]) -> Result<()> {
        list_agents(&self.control, agents).await
    }

    /// Issues certificates, as an operator does before the first controller runs.
    pub async fn issue(&self) -> Result<()> {
        self.certificates("issue").await.map(drop)
    }

    /// `quarry certificates`, as an operator would run it.
    pub async fn certificates(&self, action: &str) -> Result<String> {
        certificates(&self.control, action).await
    }

    /// The files of an issued certificate: `node` or `controller`.
    pub async fn issued(&self, role: &str) -> Result<BTreeMap<&'static str, Vec<u8>>> {
        let current = || self.control.sh(format!("readlink -f {CERTIFICATES}/{role}/..data"));
        let mut version = current().await?;
        loop {
            // One link is followed once, so that all files are of one version.
            match self.files(&version).await {
                Ok(files) => return Ok(files),
                // A newer version arrived meanwhile, and the one that was read is gone.
                Err(error) => match current().await? {
                    same if same == version => return Err(error),
                    newer => version = newer,
                },
            }
        }
    }

    async fn files(&self, folder: &str) -> Result<BTreeMap<&'static str, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for file in FILES {
            files.insert(file, self.control.read(&format!("{folder}/{file}")).await?);
        }
        Ok(files)
    }

    /// Brings the nodes' certificate as it is now to a node, as kubelet does.
    pub async fn deliver(&self, node: &Node) -> Result<()> {
        mount_secret(&node.vm, TLS, &self.issued("node").await?).await
    }

    /// Starts a controller. `number` distinguishes it from others; `arguments` are added to the usual ones.
    pub async fn controller(&self, number: u16, arguments: &str) -> Result<Controller> {
        Controller::start(self.control.guest(), number, arguments).await
    }

    /// Starts the only controller, and waits until it is connected to all nodes.
    pub async fn only_controller(&self) -> Result<Controller> {
        let controller = self.controller(1, "").await?;
        controller.connected(self.nodes.len()).await?;
        Ok(controller)
    }

    /// Fails unless nothing is left on any node.
    pub async fn expect_empty(&self) -> Result<()> {
        for node in &self.nodes {
            node.expect_empty().await?;
        }
        Ok(())
    }

    /// The nodes that have a logical volume with this prefix, directly from lvm.
    pub async fn holders(&self, name: &str) -> Result<Vec<String>> {
        let mut holders = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let volumes = node.contents().await?;
            let count = volumes.lines().filter(|line| line.starts_with(&format!("{name} "))).count();
            holders.extend(std::iter::repeat_n(format!("n{}", index + 1), count));
        }
        Ok(holders)
    }
}

/// Gives the controllers of a machine the nodes and their addresses.
pub async fn list_agents(guest: &Guest, agents: &[(String, String)]) -> Result<()> {
    let line = |(node, address): &(String, String)| format!("  - {{node: {node}, address: '{address}'}}\n");
    let text = format!("agents:\n{}", agents.iter().map(line).collect::<String>());
    guest.sh("mkdir -p /etc/quarry /run/quarry").await?;
    guest.write(AGENTS, text.as_bytes(), 0o644).await
}

/// `quarry certificates`, as an operator would run it.
pub async fn certificates(guest: &Guest, action: &str) -> Result<String> {
    guest.sh(format!("{BINARY} certificates {action} --certificates {CERTIFICATES}")).await
}

/// Puts files where a Secret is mounted, as kubelet does: behind a link that is swapped.
pub async fn mount_secret(guest: &Guest, folder: &str, files: &BTreeMap<&str, Vec<u8>>) -> Result<()> {
    let version = guest.sh(format!("mkdir -p {folder} && mktemp -d {folder}/..version-XXXXXX")).await?;
    for (name, bytes) in files {
        guest.write(&format!("{version}/{name}"), bytes, 0o600).await?;
    }
    let links: String = files.keys().map(|name| format!("ln -sfn ..data/{name} {folder}/{name}; ")).collect();
    let script = format!(
        "cd {folder}; before=$(readlink ..data || true); ln -sfn ${{v##*/}} ..data_tmp; mv -T ..data_tmp ..data; {links} \
         test -z \"$before\" || rm -rf \"$before\"; sync -f ."
    );
    guest.sh(format!("v={version}; {script}")).await.map(drop)
}

/// Asks until it is so, at most for `limit`; says how long it took.
pub async fn eventually<F: Future<Output = Result<bool>>>(
    what: &str,
    limit: Duration,
    mut so: impl FnMut() -> F,
) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let asked = began.elapsed();
        if so().await.with_context(|| what.to_owned())? {
            return Ok(asked);
        }
        ensure!(asked <= limit, "not so after {asked:.1?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
