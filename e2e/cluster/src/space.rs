//! The namespace of one scenario: creates objects in it, waits for them, and deletes it at the end.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::{Cluster, is, items, text};

/// How long anything may take that is waited for; an emulated processor is slow.
const PATIENCE: Duration = Duration::from_secs(240);
/// The polling interval: each poll is a kubectl, and takes a tenth of a second from the processors that
/// emulate nodes.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// A namespace.
pub struct Space<'a> {
    /// The cluster that it is in.
    pub cluster: &'a Cluster,
    /// Its name.
    pub name: String,
}

impl<'a> Space<'a> {
    /// Makes a namespace.
    ///
    /// # Errors
    /// There is already a namespace with that name.
    pub async fn new(cluster: &'a Cluster, name: &str) -> Result<Self> {
        cluster.kubectl().run(["create", "namespace", name]).await?;
        Ok(Self { cluster, name: name.to_owned() })
    }

    /// kubectl in this namespace.
    ///
    /// # Errors
    /// It fails; the error quotes its output.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let namespace = format!("--namespace={}", self.name);
        self.cluster.kubectl().run(std::iter::once(namespace.as_str()).chain(arguments.iter().copied())).await
    }

    /// Makes objects, or changes those of the same name.
    ///
    /// # Errors
    /// The API server rejects an object.
    pub async fn apply(&self, objects: &[Value]) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = self.cluster.kubeconfig().with_file_name(format!("objects-{number}.json"));
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        std::fs::write(&file, list.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        self.run(&["apply", "--filename", &file.display().to_string()]).await.map(drop)
    }

    /// An object, or nothing.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn get(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let text = self.run(&["get", kind, name, "--ignore-not-found", "--output=json"]).await?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&text).map(Some).context("kubectl printed no JSON")
    }

    /// The objects of a kind in this namespace.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let text = self.run(&["get", kind, "--output=json"]).await?;
        let list: Value = serde_json::from_str(&text).context("kubectl printed no JSON")?;
        Ok(items(&list).cloned().collect())
    }

    /// Waits until an object meets a condition, and returns it.
    ///
    /// # Errors
    /// When it is not so in time; with the object's status and events.
    pub async fn wait(&self, kind: &str, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let began = Instant::now();
        loop {
            let found = self.get(kind, name).await?;
            if let Some(object) = &found
                && holds(object)
            {
                return Ok(object.clone());
            }
            if began.elapsed() > PATIENCE {
                let status = found.map_or_else(
                    || "it does not exist".to_owned(),
                    |object| object.get("status").unwrap_or(&Value::Null).to_string(),
                );
                bail!("{kind} {name} is not {what} after {} s: {status}\n{}", PATIENCE.as_secs(), self.events().await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until an object is gone.
    ///
    /// # Errors
    /// When it is not so in time.
    pub async fn wait_gone(&self, kind: &str, name: &str) -> Result<()> {
        let began = Instant::now();
        while let Some(object) = self.get(kind, name).await? {
            if began.elapsed() > PATIENCE {
                bail!("{kind} {name} is there after {} s: {object}\n{}", PATIENCE.as_secs(), self.events().await);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until a pod is ready, and returns it.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub async fn ready(&self, pod: &str) -> Result<Value> {
        let ready = |pod: &Value| is(pod, "Ready") && pod.pointer("/metadata/deletionTimestamp").is_none();
        self.wait("pod", pod, "ready", ready).await
    }

    /// Waits until kubelet, after its node's boot, has started a pod's container again, and the pod is ready.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub async fn restarted(&self, pod: &str) -> Result<Value> {
        let again =
            |pod: &Value| pod.pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_u64) > Some(0);
        self.wait("pod", pod, "started again", again).await?;
        self.ready(pod).await
    }

    /// Runs a shell command in a pod.
    ///
    /// # Errors
    /// It fails; the error quotes its output.
    pub async fn exec(&self, pod: &str, script: &str) -> Result<String> {
        self.run(&["exec", pod, "--", "/bin/busybox", "sh", "-ec", script]).await
    }

    /// The PersistentVolume of a claim.
    ///
    /// # Errors
    /// When the claim is not bound in time.
    pub async fn volume_of(&self, claim: &str) -> Result<Value> {
        let bound = |claim: &Value| text(claim, "/status/phase") == "Bound";
        let claim = self.wait("pvc", claim, "bound", bound).await?;
        let name = text(&claim, "/spec/volumeName").to_owned();
        self.wait("pv", &name, "there", |_| true).await
    }

    /// What has happened in this namespace, in the order of time.
    pub async fn events(&self) -> String {
        let columns = "--output=custom-columns=KIND:.involvedObject.kind,NAME:.involvedObject.name,REASON:.reason,MESSAGE:.message";
        let events = self.run(&["get", "events", "--sort-by=.lastTimestamp", columns]).await;
        events.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Removes the namespace with all that is in it, and waits until its volumes are gone too.
    ///
    /// # Errors
    /// When something stays.
    pub async fn end(self) -> Result<()> {
        let kubectl = self.cluster.kubectl();
        kubectl.run(["delete", "namespace", &self.name, "--timeout=240s"]).await?;
        let (mut moved, mut before) = (Instant::now(), usize::MAX);
        loop {
            let volumes = kubectl.get(["pv"]).await?;
            let in_namespace = |volume: &&Value| text(volume, "/spec/claimRef/namespace") == self.name;
            let left: Vec<_> =
                items(&volumes).filter(in_namespace).map(|volume| text(volume, "/metadata/name")).collect();
            if left.is_empty() {
                return Ok(());
            }
            // A hundred take their time.
            if left.len() < before {
                (moved, before) = (Instant::now(), left.len());
            }
            if moved.elapsed() > PATIENCE {
                bail!(
                    "the volumes {left:?} of a removed namespace still exist, and none was deleted within {} s",
                    PATIENCE.as_secs()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
