//! A real database under load: its node loses power, or a snapshot is taken and restored. Every commit that it
//! acknowledged before is there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quarry_cache::Cache;
use quarry_vm::Daemon;
use serde_json::{Value, json};

use super::snapshots::{self, Snapshotter};
use super::{last_number, node_of};
use crate::cluster::Cluster;
use crate::containerd;
use crate::images;
use crate::install::{self, CLASS};
use crate::objects::{claim, sleeping, stateful_set, with};
use crate::space::Space;

/// For how long the database works before the power goes.
const LOAD: Duration = Duration::from_secs(45);
/// For how long it works after a snapshot.
const AFTER: Duration = Duration::from_secs(10);
/// The node that it runs on: an image of that size does not go to all nodes.
const NODE: &str = "node-2";

/// Creates the database if it does not exist yet, and starts the server.
const SERVE: &str = "export PGDATA=/data/data/pg PATH=/usr/lib/postgresql/15/bin:$PATH
    test -s $PGDATA/PG_VERSION || initdb --auth=trust --username=postgres --no-instructions
    exec postgres -k /tmp -c listen_addresses= -c shared_buffers=16MB -c max_connections=20 -c jit=off";
/// Prints each number when its commit is acknowledged.
const COMMIT: &str = "seq 1 1000000 | sed 's/.*/insert into acknowledged values (&) returning n;/' | \
    stdbuf -oL psql -h /tmp -U postgres -X -q -A -t";

/// The pod of the database, and of the one that is restored from a snapshot.
const POD: &str = "pg-0";
const RESTORED: &str = "restored-0";
/// The size of the volumes.
const SIZE: &str = "600Mi";

pub(super) async fn power_cut(cluster: &mut Cluster) -> Result<String> {
    let acknowledged = {
        let space = Space::new(cluster, "postgresql").await?;
        create(&space).await?;
        let load = Load::start(&space)?;
        tokio::time::sleep(LOAD).await;
        cluster.worker_mut(NODE)?.vm.power_cut().await?;
        load.acknowledged()?
    };
    cluster.worker_mut(NODE)?.boot_again().await?;
    let space = Space { cluster, name: "postgresql".to_owned() };
    let pod = space.restarted(POD).await?;
    ensure!(node_of(cluster, &pod)?.name == NODE, "the database moved to another node");
    all_there(&space, POD, acknowledged).await?;
    install::wait_running(cluster).await?;
    space.end().await?;
    Ok(format!("{acknowledged} acknowledged commits next to pgbench, all there after the power cut"))
}

pub(super) async fn snapshot(cluster: &mut Cluster) -> Result<String> {
    let snapshotter = Snapshotter::start(cluster).await?;
    let space = Space::new(cluster, "postgresql-snapshot").await?;
    create(&space).await?;
    let load = Load::start(&space)?;
    tokio::time::sleep(LOAD).await;
    let before = load.acknowledged()?;
    space.apply(&[snapshots::snapshot_class(), snapshots::snapshot("under-load", "data-pg-0")]).await?;
    snapshots::ready_to_use(&space, "under-load").await?;
    tokio::time::sleep(AFTER).await;
    let during = load.acknowledged()?;
    // Two databases under load are too much for an emulated processor.
    drop(load);
    // As an operator restores a StatefulSet: its claims first.
    let claim = snapshots::from_snapshot(claim("data-restored-0", CLASS, SIZE), "under-load");
    space.apply(&[claim, database("restored")]).await?;
    space.ready(RESTORED).await.context("the restored database")?;
    all_there(&space, RESTORED, before).await?;
    let restored: u64 = query(&space, RESTORED, "select count(*) from acknowledged").await?.trim().parse()?;
    ensure!(restored < during, "the database wrote nothing after the snapshot: {restored} of {during} are restored");
    all_there(&space, POD, during).await.context("the database itself")?;
    space.run(&["delete", "statefulset", "pg", "restored"]).await?;
    space.run(&["delete", "volumesnapshot", "under-load", "--timeout=120s"]).await?;
    space.run(&["delete", "volumesnapshotclass", snapshots::SNAPSHOT_CLASS]).await?;
    space.end().await?;
    snapshotter.end(cluster).await?;
    Ok(format!("{before} commits acknowledged before the snapshot, {restored} restored, {during} in the end"))
}

/// A StatefulSet with one database.
fn database(name: &str) -> Value {
    let ready =
        json!({ "exec": { "command": ["/usr/lib/postgresql/15/bin/pg_isready", "-h", "/tmp"] }, "timeoutSeconds": 20 });
    let mut pod = sleeping(&["data"]);
    if let Some(container) = pod.pointer_mut("/containers/0") {
        *container = with(
            container.clone(),
            json!({ "image": images::POSTGRESQL, "command": ["sh", "-ec", SERVE], "readinessProbe": ready }),
        );
    }
    let more = json!({
        // PostgreSQL rejects a folder to which kubelet has given the group access when mounting it again.
        "securityContext": { "fsGroup": 5432, "fsGroupChangePolicy": "OnRootMismatch" },
        "nodeSelector": { "kubernetes.io/hostname": NODE },
    });
    let template = json!({ "spec": { "template": { "spec": with(pod, more) } } });
    with(stateful_set(name, 1, CLASS, SIZE), template)
}

/// Creates the database, and its tables.
async fn create(space: &Space<'_>) -> Result<()> {
    let image = images::postgresql(&Cache::open()?).await?;
    containerd::import(&space.cluster.worker(NODE)?.vm, &image).await?;
    space.apply(&[database("pg")]).await?;
    space.ready(POD).await?;
    query(space, POD, "create table acknowledged (n int primary key)").await?;
    let fill = ["exec", POD, "--", "pgbench", "-h", "/tmp", "-U", "postgres", "-i", "-q", "-s", "1", "postgres"];
    space.run(&fill).await.map(drop)
}

/// What works on the database, until it is dropped.
struct Load {
    _running: [Daemon; 2],
    /// What was committed, a number in each line.
    output: PathBuf,
}

impl Load {
    fn start(space: &Space<'_>) -> Result<Self> {
        let kubectl = space.cluster.kubectl();
        let log = |name: &str| space.cluster.kubeconfig().with_file_name(format!("{}-{name}", space.name));
        let namespace = format!("--namespace={}", space.name);
        let exec = |script: &str| kubectl.arguments([namespace.as_str(), "exec", POD, "--", "sh", "-c", script]);
        let bench = exec("pgbench -h /tmp -U postgres -n -c 2 -T 600 postgres");
        let bench = Daemon::start(kubectl.program(), bench, log("pgbench"))?;
        let output = log("committed");
        let commits = Daemon::start(kubectl.program(), exec(COMMIT), &output)?;
        Ok(Self { _running: [bench, commits], output })
    }

    /// How many commits were acknowledged.
    fn acknowledged(&self) -> Result<u64> {
        last_number(&std::fs::read_to_string(&self.output).context("cannot read what was committed")?)
    }
}

/// Fails unless that many commits are in a database.
async fn all_there(space: &Space<'_>, pod: &str, acknowledged: u64) -> Result<()> {
    let count = format!("select count(*) from acknowledged where n <= {acknowledged}");
    let found = query(space, pod, &count).await?;
    ensure!(
        found.trim() == acknowledged.to_string(),
        "of {acknowledged} acknowledged commits {} are there",
        found.trim()
    );
    query(space, pod, "select sum(abalance) from pgbench_accounts").await.map(drop)
}

/// Runs a statement in a database and returns its output.
async fn query(space: &Space<'_>, pod: &str, statement: &str) -> Result<String> {
    let psql = ["exec", pod, "--", "psql", "-h", "/tmp", "-U", "postgres", "-X", "-A", "-t", "-c", statement];
    space.run(&psql).await
}
