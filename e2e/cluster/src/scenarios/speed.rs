//! The time from a claim and its pod to a running pod, compared with the same pod with a hostPath volume;
//! which step takes how long; and the memory of Quarry's containers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::SYSTEM;
use crate::cluster::{Cluster, items, text};
use crate::install::CLASS;
use crate::objects::{claim, pod, sleeper, sleeping, with};
use crate::space::Space;

/// How many pods of each kind are measured.
const ROUNDS: usize = 20;
/// How many volumes there are when memory is measured the second time.
const VOLUMES: usize = 100;

/// Alternates pods with a new Quarry volume and pods with a hostPath.
pub(super) async fn start(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "speed").await?;
    let host = json!({ "volumes": [{ "name": "data", "hostPath": { "path": "/var/tmp/speed", "type": "DirectoryOrCreate" } }] });
    let before = spent(cluster).await?;
    let (mut ours, mut theirs, mut steps) = (Vec::new(), Vec::new(), Steps::default());
    for round in 0..ROUNDS {
        let claimed = format!("ours-{round}");
        let objects = [claim(&claimed, CLASS, "64Mi"), pod(&claimed, sleeper(&[&claimed]))];
        ours.push(running(&space, &objects, &claimed).await?);
        steps.add(&space, &claimed).await?;
        let plain = format!("host-{round}");
        theirs.push(running(&space, &[pod(&plain, with(sleeping(&["data"]), host.clone()))], &plain).await?);
        space.run(&["delete", "pod", &claimed, &plain, "--wait=false"]).await?;
    }
    let after = spent(cluster).await?;
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let parts: Vec<String> = after
        .iter()
        .map(|(name, seconds)| {
            let own = seconds - before.get(name).copied().unwrap_or_default();
            #[allow(clippy::cast_precision_loss, reason = "a small number")]
            let each = own / ROUNDS as f64;
            format!("{name} {each:.2} s")
        })
        .collect();
    space.end().await?;
    ensure!(ours > Duration::ZERO && theirs > Duration::ZERO, "nothing was measured");
    Ok(format!(
        "median of {ROUNDS}: {:.1} s with a new volume, {:.1} s with a hostPath, difference {:.1} s; on the mean: {}; of it {}",
        ours.as_secs_f64(),
        theirs.as_secs_f64(),
        ours.as_secs_f64() - theirs.as_secs_f64(),
        steps.text(),
        parts.join(", ")
    ))
}

/// What the API server has seen of each pod's way, in seconds: its dates are whole seconds, and their mean over many
/// pods is not far from the truth.
#[derive(Default)]
struct Steps {
    pods: f64,
    chosen: f64,
    provisioned: f64,
    bound: f64,
    started: f64,
}

impl Steps {
    /// Adds a pod, and the claim of the same name.
    async fn add(&mut self, space: &Space<'_>, name: &str) -> Result<()> {
        let pod = space.ready(name).await?;
        let events = space.list("events").await?;
        let event_time = |reason: &str| {
            let of_claim =
                |event: &&Value| text(event, "/reason") == reason && text(event, "/involvedObject/name") == name;
            let event = events.iter().find(of_claim).with_context(|| format!("no event {reason} of {name}"))?;
            seconds(text(event, "/firstTimestamp"))
        };
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let scheduled =
            conditions.iter().find(|found| text(found, "/type") == "PodScheduled").context("never scheduled")?;
        let created = seconds(text(&pod, "/metadata/creationTimestamp"))?;
        let (asked, made) = (event_time("Provisioning")?, event_time("ProvisioningSucceeded")?);
        let bound = seconds(text(scheduled, "/lastTransitionTime"))?;
        let started = seconds(text(&pod, "/status/containerStatuses/0/state/running/startedAt"))?;
        self.pods += 1.0;
        self.chosen += asked - created;
        self.provisioned += made - asked;
        self.bound += bound - made;
        self.started += started - bound;
        Ok(())
    }

    fn text(&self) -> String {
        format!(
            "scheduler's choice {:.1} s, provisioner {:.1} s, binding {:.1} s, kubelet {:.1} s",
            self.chosen / self.pods,
            self.provisioned / self.pods,
            self.bound / self.pods,
            self.started / self.pods
        )
    }
}

/// A date of the API server, `2026-01-02T03:04:05Z`, as seconds of its month: pods are quicker than that.
fn seconds(date: &str) -> Result<f64> {
    let numbers: Vec<f64> = date
        .trim_end_matches('Z')
        .split(['-', 'T', ':'])
        .map(|part| part.parse::<f64>().with_context(|| format!("{date:?} is not a date")))
        .collect::<Result<_>>()?;
    let [_, _, days, hours, minutes, seconds] = numbers[..] else { anyhow::bail!("{date:?} is not a date") };
    Ok(((days * 24.0 + hours) * 60.0 + minutes) * 60.0 + seconds)
}

/// The time from the objects' creation until the pod runs.
async fn running(space: &Space<'_>, objects: &[Value], name: &str) -> Result<Duration> {
    let began = Instant::now();
    space.apply(objects).await?;
    // It watches, and takes no processor from the nodes meanwhile.
    let waiting = ["wait", &format!("pod/{name}"), "--for=jsonpath={.status.phase}=Running", "--timeout=240s"];
    if let Err(error) = space.run(&waiting).await {
        bail!("pod {name} does not run: {error:#}\n{}", space.events().await);
    }
    Ok(began.elapsed())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Seconds that all our processes have spent, in calls and in the programs that these run.
async fn spent(cluster: &Cluster) -> Result<BTreeMap<String, f64>> {
    const CALLS: [&str; 3] = ["Controller/CreateVolume", "Node/NodeStageVolume", "Node/NodePublishVolume"];
    const PROGRAMS: [&str; 2] = ["lvm lvcreate", "mkfs.ext4"];
    let mut all = BTreeMap::new();
    for line in metrics(cluster).await?.lines() {
        let Some((metric, value)) = line.rsplit_once(' ') else { continue };
        let label = |begins: &str| metric.strip_prefix(begins).and_then(|rest| rest.strip_suffix("\"}"));
        let call = label("quarry_csi_call_seconds_sum{method=\"");
        let program = label("quarry_command_seconds_total{program=\"");
        let wanted = call.filter(|name| CALLS.contains(name)).or(program.filter(|name| PROGRAMS.contains(name)));
        if let Some(name) = wanted {
            *all.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap_or_default();
        }
    }
    Ok(all)
}

/// What all our pods say at /metrics.
async fn metrics(cluster: &Cluster) -> Result<String> {
    let pods = our_pods(cluster).await?;
    let mut all = String::new();
    for pod in &pods {
        let name = text(pod, "/metadata/name");
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:9808/proxy/metrics");
        all += &cluster.kubectl().run(["get", "--raw", &path]).await?;
    }
    Ok(all)
}

async fn our_pods(cluster: &Cluster) -> Result<Vec<Value>> {
    let namespace = format!("--namespace={SYSTEM}");
    let pods = cluster.kubectl().get(["pods", &namespace]).await?;
    Ok(items(&pods).cloned().collect())
}

/// How much memory each of our containers holds, at rest and with a hundred volumes.
pub(super) async fn memory(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "memory").await?;
    let rest = held(cluster).await?;
    let at_once = with(crate::objects::class("memory", "main"), json!({ "volumeBindingMode": "Immediate" }));
    let claims: Vec<Value> = (0..VOLUMES).map(|number| claim(&format!("data-{number}"), "memory", "16Mi")).collect();
    space.apply(&[at_once]).await?;
    space.apply(&claims).await?;
    for number in 0..VOLUMES {
        space.volume_of(&format!("data-{number}")).await?;
    }
    let full = held(cluster).await?;
    let figures: Vec<String> = rest
        .iter()
        .map(|(name, bytes)| {
            let mib = |bytes: u64| bytes / (1 << 20);
            format!("{name} {} MiB, then {} MiB", mib(*bytes), mib(full.get(name).copied().unwrap_or_default()))
        })
        .collect();
    let figures = format!("{VOLUMES} volumes: {}", figures.join("; "));
    space.run(&["delete", "storageclass", "memory"]).await?;
    space.end().await.context(figures.clone())?;
    Ok(figures)
}

/// The anonymous memory of each kind of Quarry's containers, in bytes: the largest of its kind. The kernel
/// can reclaim file pages, such as the program itself, at any time.
async fn held(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let mut held = BTreeMap::new();
    for pod in our_pods(cluster).await? {
        let component = text(&pod, "/metadata/labels/app.kubernetes.io~1component").to_owned();
        let worker = cluster.worker(text(&pod, "/spec/nodeName"))?;
        let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array).cloned().unwrap_or_default();
        for status in statuses {
            let id = text(&status, "/containerID").trim_start_matches("containerd://").to_owned();
            let script =
                format!("awk '$1 == \"anon\" {{ print $2 }}' $(find /sys/fs/cgroup -path '*{id}/memory.stat')");
            let bytes: u64 =
                worker.vm.sh(script).await?.trim().parse().context("a container's memory is not a number")?;
            let largest = held.entry(format!("{component}/{}", text(&status, "/name"))).or_insert(0);
            *largest = bytes.max(*largest);
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        assert!(
            (seconds("2026-11-22T01:02:03Z").unwrap() - seconds("2026-11-22T00:59:58Z").unwrap() - 125.0).abs() < 0.1
        );
        assert!(seconds("yesterday").is_err());
    }
}
