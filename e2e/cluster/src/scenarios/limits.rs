//! I/O limits: a pod's cgroup gets those of its claim's class, and a VolumeAttributesClass changes them, and `discard`, under
//! the pod.
//! One node's kubelet uses the cgroup driver `cgroupfs`, the other one's `systemd`.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::node_of;
use crate::cluster::{Cluster, text};
use crate::install;
use crate::objects::{attributes_class, claim, class, pod, sleeper, with};
use crate::space::Space;
use crate::worker::Worker;

const MIB: u64 = 1 << 20;
/// What the measured pod writes, in MiB.
const WRITTEN: u64 = 64;
/// The classes of volume attributes, with the limit of bytes written per second.
const GOLD: (&str, u64) = ("gold", 16 * MIB);
const BRONZE: (&str, u64) = ("bronze", 4 * MIB);
/// The lowest and the highest measured rate over the limit: an emulated pod can be slower than its limit, but never much
/// faster.
const TOLERATED: (f64, f64) = (0.3, 1.2);

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    for worker in &cluster.workers {
        give_pods_cgroups(worker).await.with_context(|| worker.name.clone())?;
    }
    // Pods without a cgroup of their own are started again.
    install::wait_running(cluster).await?;
    let space = Space::new(cluster, "limits").await?;
    let limit = |rate: u64, discard: &str| json!({ "writeBytesPerSecond": rate.to_string(), "discard": discard });
    let limited =
        with(class("limited", "main"), json!({ "parameters": { "writeBytesPerSecond": "8Mi", "readIops": "500" } }));
    let mut objects = vec![
        attributes_class(GOLD.0, &limit(GOLD.1, "periodic")),
        attributes_class(BRONZE.0, &limit(BRONZE.1, "none")),
        attributes_class("wrong", &json!({ "writeBytesPerSecond": "0", "discard": "none" })),
        limited,
    ];
    let nodes: Vec<String> = cluster.workers.iter().map(|worker| worker.name.clone()).collect();
    for node in &nodes {
        let on = json!({ "nodeSelector": { "kubernetes.io/hostname": node } });
        let names = [format!("plain-{node}"), format!("gold-{node}")];
        let gold = json!({ "spec": { "volumeAttributesClassName": GOLD.0 } });
        objects.push(claim(&names[0], "limited", "200Mi"));
        objects.push(with(claim(&names[1], "limited", "200Mi"), gold));
        objects.push(pod(node, with(sleeper(&[&names[0], &names[1]]), on)));
    }
    space.apply(&objects).await?;
    let mut measured = Vec::new();
    for node in &nodes {
        let (plain, gold) = (format!("plain-{node}"), format!("gold-{node}"));
        let running = space.ready(node).await?;
        let worker = node_of(cluster, &running)?;
        has(&space, worker, &running, &plain, "wbps=8388608 riops=500").await?;
        has(&space, worker, &running, &gold, "wbps=16777216 riops=500").await?;
        discards(&space, worker, &plain, "").await?;
        discards(&space, worker, &gold, "periodic").await?;
        let ratio = rate(&space, node, &plain, 8 * MIB).await?;
        // Changed, wrong, and back.
        change(&space, &plain, GOLD.0).await?;
        has(&space, worker, &running, &plain, "wbps=16777216 riops=500").await?;
        discards(&space, worker, &plain, "periodic").await?;
        let faster = rate(&space, node, &plain, GOLD.1).await?;
        request(&space, &plain, "wrong").await?;
        let infeasible = |claim: &Value| text(claim, "/status/modifyVolumeStatus/status") == "Infeasible";
        space.wait("pvc", &plain, "infeasible, because its class is wrong", infeasible).await?;
        has(&space, worker, &running, &plain, "wbps=16777216 riops=500").await?;
        discards(&space, worker, &plain, "periodic").await?;
        change(&space, &plain, BRONZE.0).await?;
        has(&space, worker, &running, &plain, "wbps=4194304 riops=500").await?;
        discards(&space, worker, &plain, "none").await?;
        measured.push(format!("{node} {ratio:.2} and {faster:.2}"));
    }
    space.end().await?;
    for class in [GOLD.0, BRONZE.0, "wrong"] {
        cluster.kubectl().run(["delete", "volumeattributesclass", class]).await?;
    }
    cluster.kubectl().run(["delete", "storageclass", "limited"]).await?;
    Ok(format!("rate / limit: {}; changed under running pods, a wrong class refused", measured.join(", ")))
}

/// Makes kubelet give each pod a cgroup, which other scenarios do not need: with the driver `systemd` where that is the
/// first process.
async fn give_pods_cgroups(worker: &Worker) -> Result<()> {
    const CONFIGURATION: &str = "/etc/kubernetes/kubelet.json";
    let systemd = worker.vm.sh("[ -d /run/systemd/system ] && echo yes || true").await?.trim() == "yes";
    let driver = if systemd { "systemd" } else { "cgroupfs" };
    let file = worker.vm.read(CONFIGURATION).await?;
    let configuration: Value = serde_json::from_slice(&file).context("kubelet's configuration")?;
    let changed = with(configuration, json!({ "cgroupsPerQOS": true, "cgroupDriver": driver }));
    worker.vm.write(CONFIGURATION, changed.to_string().as_bytes(), 0o644).await?;
    worker.stop_kubelet().await?;
    if systemd {
        // Its shims, and with them the containers, stay.
        let script = "sed -i 's/SystemdCgroup = false/SystemdCgroup = true/' /etc/containerd/config.toml; \
             systemctl restart containerd; until ctr version >/dev/null 2>&1; do sleep 0.2; done";
        worker.vm.sh(script).await?;
    }
    worker.start_kubelet().await
}

/// Requests another VolumeAttributesClass for a claim.
async fn request(space: &Space<'_>, claim: &str, class: &str) -> Result<()> {
    let patch = json!({ "spec": { "volumeAttributesClassName": class } }).to_string();
    space.run(&["patch", "pvc", claim, "--patch", &patch]).await.map(drop)
}

/// The same, and waits until the claim has it.
async fn change(space: &Space<'_>, claim: &str, class: &str) -> Result<()> {
    request(space, claim, class).await?;
    let has = |claim: &Value| text(claim, "/status/currentVolumeAttributesClassName") == class;
    space.wait("pvc", claim, &format!("of class {class}"), has).await.map(drop)
}

/// Fails unless the cgroup of a pod has these limits for the volume of a claim.
async fn has(space: &Space<'_>, worker: &Worker, pod: &Value, claim: &str, limits: &str) -> Result<()> {
    let uid = text(pod, "/metadata/uid");
    let volume = space.volume_of(claim).await?;
    let name = text(&volume, "/metadata/name");
    let script = format!(
        "number=$(lvs --noheadings -o lv_kernel_major,lv_kernel_minor --separator : --select lv_name={name} | tr -d ' '); \
         cat $(find /sys/fs/cgroup -type d \\( -name '*pod{uid}' -o -name '*pod{}.slice' \\))/io.max | grep \"^$number \" || true",
        uid.replace('-', "_")
    );
    // It is in force before the claim's status says so, and before a pod is ready.
    let seen = worker.vm.sh(&script).await?;
    ensure!(seen.contains(limits), "the limits of {claim} on {} are {seen:?}, not {limits}", worker.name);
    Ok(())
}

/// Fails unless the record of the volume of a claim has this value of `discard`; empty for none.
async fn discards(space: &Space<'_>, worker: &Worker, claim: &str, discard: &str) -> Result<()> {
    let volume = space.volume_of(claim).await?;
    let name = text(&volume, "/metadata/name");
    let record = worker.vm.sh(&format!("lvs --noheadings -o lv_tags --select lv_name={name}")).await?;
    let found = record.split('/').find_map(|field| field.trim().strip_prefix("d=")).unwrap_or_default();
    ensure!(found == discard, "the record of {claim} on {} has discard {found:?}, not {discard:?}", worker.name);
    Ok(())
}

/// Writes to the volume of a claim in a pod, and returns the measured rate over the limit.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
async fn rate(space: &Space<'_>, pod: &str, claim: &str, limit: u64) -> Result<f64> {
    let script = format!(
        "read began rest </proc/uptime; dd if=/dev/zero of=/data/{claim}/file bs=1M count={WRITTEN} conv=fsync \
         2>/dev/null; read ended rest </proc/uptime; echo $began $ended"
    );
    let times = space.exec(pod, &script).await?;
    let times: Vec<f64> = times.split_whitespace().filter_map(|time| time.parse().ok()).collect();
    let [began, ended] = times.as_slice() else { anyhow::bail!("no times: {times:?}") };
    let ratio = (WRITTEN * MIB) as f64 / (ended - began) / limit as f64;
    ensure!((TOLERATED.0..=TOLERATED.1).contains(&ratio), "{claim} is written at {ratio:.2} times its limit");
    Ok(ratio)
}
