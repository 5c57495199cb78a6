//! A real Prometheus scrapes Quarry as the chart's PodMonitors say, with the chart's alerts. A disk with a volume is
//! pulled: an alert fires, and it ends after the disk is back.
//!
//! Prometheus runs on this machine, and reaches the pods through the API server. The Prometheus Operator, which would
//! turn the chart's objects into the same configuration, does not run here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quarry_cache::Cache;
use quarry_vm::{Bus, Daemon, Disk};
use serde_json::{Value, json};

use super::SYSTEM;
use crate::binaries;
use crate::cluster::{Cluster, is, items, text};
use crate::control_plane::free_ports;
use crate::install;
use crate::objects::{class, stateful_set};
use crate::space::Space;
use crate::worker::until;

/// The pool, its class, and the serial of its only disk.
const POOL: &str = "pulled";
/// The node with the disk.
const NODE: &str = "node-1";
/// The node that gets a disk when that one is given up.
const OTHER: &str = "node-2";
/// The serial of that disk.
const SPARE: &str = "spare";
/// The node of a CSIStorageCapacity.
const TOPOLOGY: &str = "/nodeTopology/matchLabels/topology.local.csi.quarry.dev~1node";
/// The alert that must fire.
const ALERT: &str = "QuarryVolumeLost";
/// How long after the disk was pulled the alert may fire: it waits for five minutes.
const FIRES: Duration = Duration::from_secs(600);
/// How long after the disk is back the alert may end.
const ENDS: Duration = Duration::from_secs(180);

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let disk = Disk::new(POOL, 1 << 30).bus(Bus::Scsi);
    cluster.worker_mut(NODE)?.vm.add_disks(vec![disk]).await?;
    let pool = json!({ "name": POOL, "disk": { "select": { "transports": ["scsi"] } } });
    install::install_with(cluster, pool).await?;
    install::wait_running(cluster).await?;
    let before = {
        let space = Space::new(cluster, "alerts").await?;
        space.apply(&[class(POOL, POOL), stateful_set("db", 1, POOL, "512Mi")]).await?;
        let pod = space.ready("db-0").await?;
        ensure!(text(&pod, "/spec/nodeName") == NODE, "db-0 is not on {NODE}");
        text(&pod, "/metadata/uid").to_owned()
    };

    let prometheus = Prometheus::start(cluster).await?;
    let wanted = prometheus.targets(cluster).await?;
    let up = async || Ok(prometheus.query("up == 1").await?.len() == wanted);
    until(&format!("{wanted} targets that are up"), up).await?;
    // Rules have been evaluated several times.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let firing = prometheus.firing().await?;
    ensure!(firing.is_empty(), "alerts fire although nothing is wrong: {firing:?}");

    cluster.worker_mut(NODE)?.vm.unplug(POOL).await?;
    let pulled = Instant::now();
    let fired = loop {
        let firing = prometheus.firing().await?;
        if let Some(alert) = firing.iter().find(|alert| text(alert, "/alertname") == ALERT) {
            ensure!(
                text(alert, "/node") == NODE && text(alert, "/pool") == POOL,
                "it is about something else: {alert}"
            );
            break pulled.elapsed();
        }
        ensure!(pulled.elapsed() < FIRES, "{ALERT} does not fire; firing: {firing:?}");
        tokio::time::sleep(Duration::from_secs(5)).await;
    };

    // What its runbook says: put the disk back, and delete the pod, whose filesystem is on the device that is gone.
    cluster.worker_mut(NODE)?.vm.replug(POOL).await?;
    let space = Space { cluster, name: "alerts".to_owned() };
    space.run(&["delete", "pod", "db-0"]).await?;
    space.wait("pod", "db-0", "another one", |pod| text(pod, "/metadata/uid") != before).await?;
    space.ready("db-0").await?;
    let back = Instant::now();
    loop {
        let firing = prometheus.firing().await?;
        if firing.is_empty() {
            break;
        }
        ensure!(back.elapsed() < ENDS, "alerts still fire: {firing:?}");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let ended = back.elapsed();
    drop(prometheus);
    let again = given_up(cluster).await.context("a disk that never comes back")?;
    let space = Space { cluster, name: "alerts".to_owned() };
    space.run(&["delete", "statefulset", "db"]).await?;
    space.run(&["delete", "storageclass", POOL]).await?;
    space.end().await?;
    install::install(cluster).await?;
    install::wait_running(cluster).await?;
    drop(cluster.worker_mut(OTHER)?.vm.take_disk(SPARE).await?);
    Ok(format!(
        "{wanted} targets; {ALERT} fired {:.0} s after a disk was pulled, and ended {:.0} s after its pod ran again. The \
         disk was pulled for good, and the claim and the pod were deleted: the pod ran elsewhere after {:.0} s",
        fired.as_secs_f64(),
        ended.as_secs_f64(),
        again.as_secs_f64()
    ))
}

/// The disk is pulled for good, and its claim is given up, as docs/pools.md says. Returns how long it takes until the pod of
/// the StatefulSet runs on another node, with an empty volume.
async fn given_up(cluster: &mut Cluster) -> Result<Duration> {
    let other = Disk::new(SPARE, 1 << 30).bus(Bus::Scsi);
    cluster.worker_mut(OTHER)?.vm.add_disks(vec![other]).await?;
    let volume = {
        let space = Space { cluster, name: "alerts".to_owned() };
        space.exec("db-0", "echo old >/data/data/file; sync").await?;
        let namespace = format!("--namespace={SYSTEM}");
        until("the capacity of the other node's disk", async || {
            let capacities = cluster.kubectl().get(["csistoragecapacities", &namespace]).await?;
            let mut of_pool = items(&capacities).filter(|capacity| text(capacity, "/storageClassName") == POOL);
            Ok(of_pool.any(|capacity| text(capacity, TOPOLOGY) == OTHER && text(capacity, "/capacity") != "0"))
        })
        .await?;
        text(&space.volume_of("data-db-0").await?, "/metadata/name").to_owned()
    };
    cluster.worker_mut(NODE)?.vm.take_disk(POOL).await?;
    let space = Space { cluster, name: "alerts".to_owned() };
    let began = Instant::now();
    space.run(&["delete", "pvc", "data-db-0", "--wait=false"]).await?;
    space.run(&["delete", "pod", "db-0"]).await?;
    let elsewhere = |pod: &Value| is(pod, "Ready") && text(pod, "/spec/nodeName") == OTHER;
    space.wait("pod", "db-0", "ready on another node", elsewhere).await?;
    let took = began.elapsed();
    let files = space.exec("db-0", "ls /data/data").await?;
    ensure!(!files.contains("file"), "the new volume has the old file");
    // The plugin forgets the volume when it starts again; then its PersistentVolume goes.
    super::delete_pods(cluster, "node").await?;
    install::wait_running(cluster).await?;
    space.wait_gone("pv", &volume).await?;
    Ok(took)
}

/// A running Prometheus. It stops when this value is dropped.
struct Prometheus {
    _running: [Daemon; 2],
    /// promtool, which asks it.
    tool: PathBuf,
    url: String,
    /// The PodMonitors of the chart.
    monitors: Vec<Value>,
}

impl Prometheus {
    async fn start(cluster: &Cluster) -> Result<Self> {
        let programs = binaries::prometheus(&Cache::open()?).await?;
        let [api, own] = free_ports()?;
        let file = |name: &str| cluster.kubeconfig().with_file_name(name);
        let rendered = render(cluster).await?;
        let (mut monitors, mut groups) = (Vec::new(), Vec::new());
        for object in rendered {
            match text(&object, "/kind") {
                "PodMonitor" => monitors.push(object),
                "PrometheusRule" => groups.extend(object.pointer("/spec/groups").and_then(Value::as_array).cloned()),
                other => bail!("the chart has a {other}"),
            }
        }
        ensure!(monitors.len() == 2 && groups.len() == 1, "not two PodMonitors and a PrometheusRule");
        let rules = file("rules.json");
        write(&rules, &json!({ "groups": groups.concat() }))?;
        let scrapes: Vec<_> = monitors.iter().flat_map(|monitor| scrapes(monitor, api)).collect();
        let config = file("prometheus.json");
        write(
            &config,
            &json!({
                "global": { "scrape_interval": "15s", "evaluation_interval": "15s" },
                "rule_files": [rules],
                "scrape_configs": scrapes,
            }),
        )?;
        let kubectl = cluster.kubectl();
        let proxy = kubectl.arguments(["proxy".to_owned(), format!("--port={api}")]);
        let proxy = Daemon::start(kubectl.program(), proxy, file("proxy.log"))?;
        let arguments = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", file("prometheus").display()),
            format!("--web.listen-address=127.0.0.1:{own}"),
        ];
        let server = Daemon::start(&programs.server, arguments, file("prometheus.log"))?;
        let running = [server, proxy];
        let this = Self { _running: running, tool: programs.tool, url: format!("http://127.0.0.1:{own}"), monitors };
        until("a Prometheus that answers", async || Ok(this.query("vector(1)").await.is_ok())).await?;
        Ok(this)
    }

    /// The labels of each series of an instant query.
    async fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let arguments = ["query", "instant", "--format=json", &self.url, expression];
        let printed = quarry_vm::run(&self.tool, arguments, Duration::from_secs(60)).await?;
        let series: Vec<Value> = serde_json::from_str(&printed).context("promtool printed no JSON")?;
        Ok(series.into_iter().map(|one| one.get("metric").cloned().unwrap_or_default()).collect())
    }

    /// The labels of the alerts that fire.
    async fn firing(&self) -> Result<Vec<Value>> {
        self.query("ALERTS{alertstate=\"firing\"}").await
    }

    /// How many endpoints the PodMonitors select now.
    async fn targets(&self, cluster: &Cluster) -> Result<usize> {
        let mut count = 0;
        for monitor in &self.monitors {
            let endpoints = monitor.pointer("/spec/podMetricsEndpoints").and_then(Value::as_array);
            let namespace = format!("--namespace={SYSTEM}");
            let selector = format!("--selector={}", selector(monitor));
            let pods = cluster.kubectl().get(["pods", &namespace, &selector]).await?;
            count += items(&pods).count() * endpoints.map_or(0, Vec::len);
        }
        ensure!(count > 0, "the PodMonitors select no pod");
        Ok(count)
    }
}

/// The monitoring objects of the chart.
async fn render(cluster: &Cluster) -> Result<Vec<Value>> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/chart");
    let arguments = [
        "quarry",
        &chart.display().to_string(),
        "--namespace",
        SYSTEM,
        "--show-only=templates/monitoring.yaml",
        "--set=monitoring.podMonitors.enabled=true,monitoring.alerts.enabled=true",
        "--set-json=pools=[{\"name\":\"main\",\"lvm\":{\"volumeGroup\":\"main\"}}]",
    ];
    let rendered = cluster.helm("template", &arguments).await?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&rendered).context("helm printed no YAML")?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The labels that a PodMonitor selects, in kubectl's words.
fn selector(monitor: &Value) -> String {
    let labels = monitor.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let words =
        labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    words.collect::<Vec<_>>().join(",")
}

/// The scrape configurations for a PodMonitor, one for each of its endpoints, as the Prometheus Operator writes them. But
/// pods are reached through the API server.
fn scrapes(monitor: &Value, api: u16) -> Vec<Value> {
    let server = format!("http://127.0.0.1:{api}");
    let discovery = json!({
        "role": "pod",
        "api_server": server,
        "namespaces": { "names": [SYSTEM] },
        "selectors": [{ "role": "pod", "label": selector(monitor) }],
    });
    let endpoints = monitor.pointer("/spec/podMetricsEndpoints").and_then(Value::as_array);
    let mut found = Vec::new();
    for (index, endpoint) in endpoints.into_iter().flatten().enumerate() {
        let copied = |from: &str, to: &str| json!({ "source_labels": [from], "target_label": to });
        let mut labels = vec![
            json!({
                "action": "keep",
                "source_labels": ["__meta_kubernetes_pod_container_port_name"],
                "regex": text(endpoint, "/port"),
            }),
            copied("__meta_kubernetes_namespace", "namespace"),
            copied("__meta_kubernetes_pod_container_name", "container"),
            copied("__meta_kubernetes_pod_name", "pod"),
        ];
        let own = endpoint.get("relabelings").and_then(Value::as_array);
        labels.extend(own.into_iter().flatten().map(in_snake_case));
        labels.push(json!({
            "source_labels": [
                "__meta_kubernetes_namespace", "__meta_kubernetes_pod_name", "__meta_kubernetes_pod_container_port_number",
            ],
            "regex": "(.*);(.*);(.*)",
            "replacement": "/api/v1/namespaces/$1/pods/$2:$3/proxy/metrics",
            "target_label": "__metrics_path__",
        }));
        labels.push(json!({ "replacement": format!("127.0.0.1:{api}"), "target_label": "__address__" }));
        found.push(json!({
            "job_name": format!("{SYSTEM}/{}/{index}", text(monitor, "/metadata/name")),
            "kubernetes_sd_configs": [discovery],
            "relabel_configs": labels,
        }));
    }
    found
}

/// An object with its keys as Prometheus writes them: `sourceLabels` becomes `source_labels`.
fn in_snake_case(object: &Value) -> Value {
    let mut renamed = serde_json::Map::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        let mut name = String::new();
        for character in key.chars() {
            if character.is_ascii_uppercase() {
                name.push('_');
            }
            name.push(character.to_ascii_lowercase());
        }
        renamed.insert(name, value.clone());
    }
    Value::Object(renamed)
}

fn write(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, value.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_prometheus_writes_them() {
        let relabeling = json!({ "sourceLabels": ["a"], "targetLabel": "node" });
        assert_eq!(in_snake_case(&relabeling), json!({ "source_labels": ["a"], "target_label": "node" }));
    }
}
