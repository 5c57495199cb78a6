//! The scenarios on a real Kubernetes, one after the other on one cluster.

mod alerts;
mod capacity;
mod disks;
mod empty_disks;
mod encrypted;
mod etcd;
mod expand;
mod kinds;
mod limits;
mod moving;
mod postgresql;
mod power;
mod reclaim;
mod restarts;
mod rolled;
pub(crate) mod snapshots;
mod speed;
mod stateful;
mod suite;
mod uninstall;
mod upgrade;
mod writer;

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, text};
use crate::install;
use crate::space::Space;
use crate::worker::Worker;

/// The namespace that Quarry is installed in.
pub const SYSTEM: &str = install::NAMESPACE;

type Run<'a> = Pin<Box<dyn Future<Output = Result<String>> + 'a>>;

/// A scenario: its name, a description, and the function that runs it.
struct Scenario {
    name: &'static str,
    about: &'static str,
    run: for<'a> fn(&'a mut Cluster) -> Run<'a>,
}

macro_rules! scenario {
    ($name:literal, $about:literal, $run:path) => {
        Scenario { name: $name, about: $about, run: |cluster| Box::pin($run(cluster)) }
    };
}

/// All of them, in the order in which they run.
const ALL: &[Scenario] = &[
    scenario!(
        "stateful-set",
        "a StatefulSet's volumes: bound late, on the pod's node, and its data is kept",
        stateful::run
    ),
    scenario!("reclaim", "Delete removes the volume; Retain keeps it, and a new claim gets it", reclaim::run),
    scenario!("block-and-options", "raw block, mount options, fsGroup, a non-root user", kinds::shapes),
    scenario!("sharing", "a read-only pod next to another; ReadWriteOncePod; ephemeral volumes", kinds::sharing),
    scenario!("classes", "two pools, Immediate binding, allowedTopologies", kinds::classes),
    scenario!("expand", "volumes grow with and without a pod; not beyond what fits, and then less", expand::run),
    scenario!(
        "snapshots",
        "VolumeSnapshots of a StatefulSet's volume, restored into another class and size; a clone of a claim",
        snapshots::run
    ),
    scenario!("suite", "some specs of Kubernetes' own storage suite; `make conformance` runs all of them", suite::run),
    scenario!("moving", "from local volumes to Quarry, as in docs/migrating.md", moving::run),
    scenario!("speed", "from claim and pod to a running pod, compared with a hostPath", speed::start),
    scenario!("memory", "the memory of Quarry's containers, idle and with a hundred volumes", speed::memory),
    scenario!(
        "capacity",
        "the scheduler avoids full nodes; a race for the last free space ends with both pods running",
        capacity::run
    ),
    scenario!("restarts", "node plugin, controller and kubelet restart under running pods", restarts::run),
    scenario!(
        "rolled",
        "the scheduler's view of free space survives a new leader, a killed plugin, a removed socket, replaced plugins",
        rolled::run
    ),
    scenario!(
        "uninstall",
        "an uninstalled chart loses nothing; installed again it serves the same volumes",
        uninstall::run
    ),
    scenario!(
        "empty-disks",
        "from empty disks to the running pods of a StatefulSet, without a command on a host",
        empty_disks::run
    ),
    scenario!("upgrade", "from an older commit to this one, and the controller back, under running pods", upgrade::run),
    scenario!("disks", "disks are plugged in, and a StatefulSet gets one for each pod", disks::run),
    scenario!(
        "alerts",
        "a real Prometheus scrapes the pods; an alert fires after a disk was pulled, and ends when it is back",
        alerts::run
    ),
    scenario!(
        "power-cut",
        "a node loses its power and returns: every flushed byte is there, in a volume that has grown",
        power::cut
    ),
    scenario!(
        "postgresql",
        "PostgreSQL under load, a power cut: every acknowledged commit is there",
        postgresql::power_cut
    ),
    scenario!(
        "restored-postgresql",
        "PostgreSQL under load, a snapshot, a database restored from it: every commit acknowledged before is there",
        postgresql::snapshot
    ),
    scenario!(
        "limits",
        "I/O limits in the cgroups of pods, with both cgroup drivers; a VolumeAttributesClass changes them",
        limits::run
    ),
    scenario!(
        "encrypted",
        "encrypted volumes with a Secret for each claim; pods wait for their Secret and for the right passphrase",
        encrypted::run
    ),
    scenario!(
        "etcd",
        "an etcd of three members loses a node for good, and no acknowledged write: the member starts elsewhere, empty",
        etcd::run
    ),
    scenario!("node-gone", "a node that is gone for good does not block claims or pods", power::gone),
];

/// Prints names and meanings.
pub fn list() {
    for scenario in ALL {
        println!("{:20} {}", scenario.name, scenario.about);
    }
}

/// The scenarios of one run, and what became of them.
pub struct Tally {
    chosen: Vec<&'static Scenario>,
    passed: usize,
    failed: usize,
}

impl Tally {
    /// The scenarios whose name contains one of `only` (all, if it is empty).
    ///
    /// # Errors
    /// No scenario has such a name.
    pub fn new(only: &[String]) -> Result<Self> {
        let chosen: Vec<_> = ALL
            .iter()
            .filter(|scenario| only.is_empty() || only.iter().any(|part| scenario.name.contains(part.as_str())))
            .collect();
        ensure!(!chosen.is_empty(), "no scenario's name contains any of {only:?}; --list shows them");
        Ok(Self { chosen, passed: 0, failed: 0 })
    }

    /// Runs the scenarios one after the other. When this is stopped early, the tally holds those that ended.
    pub async fn run(&mut self, cluster: &mut Cluster) {
        for scenario in &self.chosen {
            let began = Instant::now();
            println!("start {}", scenario.name);
            let result = (scenario.run)(cluster).await;
            let took = began.elapsed().as_secs_f64();
            let (word, text) = match result {
                Ok(figures) => {
                    self.passed += 1;
                    ("ok   ", format!(" {figures}"))
                }
                Err(error) => {
                    self.failed += 1;
                    ("FAIL ", format!(": {error:?}"))
                }
            };
            let ended = self.passed + self.failed;
            println!("{word} {} ({took:.0} s, {ended}/{}){text}", scenario.name, self.chosen.len());
        }
    }

    /// Prints how many passed, failed and did not end, with the names of these. Returns how many failed.
    pub fn print(&self) -> usize {
        let left_out: Vec<_> =
            self.chosen.iter().skip(self.passed + self.failed).map(|scenario| scenario.name).collect();
        if !left_out.is_empty() {
            println!("not run to the end for lack of time: {}", left_out.join(", "));
        }
        println!(
            "scenarios on Kubernetes: {} passed, {} failed, {} left out",
            self.passed,
            self.failed,
            left_out.len()
        );
        self.failed
    }
}

/// Deletes the pods of a component (`controller` or `node`), and does not wait until they are gone.
async fn delete_pods(cluster: &Cluster, component: &str) -> Result<()> {
    let arguments = ["delete", "pod", &format!("--namespace={SYSTEM}"), &selector(component), "--wait=false"];
    cluster.kubectl().run(arguments).await.map(drop)
}

/// kubectl's option that selects the objects of a component.
fn selector(component: &str) -> String {
    format!("--selector=app.kubernetes.io/name=quarry,app.kubernetes.io/component={component}")
}

/// The node that a pod runs on.
fn node_of<'a>(cluster: &'a Cluster, pod: &Value) -> Result<&'a Worker> {
    cluster.worker(text(pod, "/spec/nodeName"))
}

/// The names of the logical volumes of a node.
async fn volumes_on(worker: &Worker) -> Result<Vec<String>> {
    let text = worker.vm.sh("lvs --noheadings -o lv_name").await?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Fails unless the volume of a claim is a logical volume of this node, and its PersistentVolume is tied to it.
async fn lies_on(space: &Space<'_>, claim: &str, worker: &Worker) -> Result<String> {
    let volume = space.volume_of(claim).await?;
    let name = text(&volume, "/metadata/name").to_owned();
    let term = "/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0";
    let expression = volume.pointer(term).cloned().unwrap_or_default();
    ensure!(
        text(&expression, "/key") == "topology.local.csi.quarry.dev/node"
            && text(&expression, "/values/0") == worker.name,
        "the volume of {claim} is not tied to {}: {expression}",
        worker.name
    );
    let there = volumes_on(worker).await?;
    ensure!(there.contains(&name), "{} has no logical volume {name}, but {there:?}", worker.name);
    Ok(name)
}

/// The last number that a pod printed, one per line, before its node lost power.
fn last_number(text: &str) -> Result<u64> {
    // The last line may have been cut.
    let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
    let last = whole.lines().filter_map(|line| line.trim().parse().ok()).next_back();
    last.with_context(|| format!("the pod printed no number: {text}"))
}
