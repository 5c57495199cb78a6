//! Encrypted volumes whose passphrases are in Secrets, which kubelet reads; and the change of a passphrase, with the
//! commands of docs/encryption.md.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{SYSTEM, lies_on, node_of, selector, volumes_on};
use crate::cluster::{Cluster, items, text};
use crate::objects::{claim, class, pod, sleeper, stateful_set, with};
use crate::space::Space;
use crate::worker::{Worker, until};

/// The StorageClass. Each claim has a Secret of its own, as in examples/encrypted.yaml.
const CLASS: &str = "encrypted";
/// What the pods write, and what must not be on the disks.
const MARKER: &str = "the-marker-of-a-tenant-0f1e2d3c";
/// The page whose commands are run.
const PAGE: &str = include_str!("../../../../docs/encryption.md");
/// The Secret of all volumes of a class in [`PAGE`], and the claim of one of them.
const SHARED: [&str; 2] = ["volume-key", "shared"];

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "encrypted").await?;
    let parameters = json!({
        "encryption": "luks2",
        "csi.storage.k8s.io/node-stage-secret-name": "${pvc.name}-key",
        "csi.storage.k8s.io/node-stage-secret-namespace": "${pvc.namespace}",
    });
    let class = with(class(CLASS, "main"), json!({ "parameters": parameters }));
    space.apply(&[class, secret("data-vault-0", "first"), stateful_set("vault", 2, CLASS, "64Mi")]).await?;
    let pod = space.ready("vault-0").await?;
    // Without its Secret, the other pod waits, and an event names the Secret.
    let events = async |wanted: &'static str| until(wanted, async || Ok(space.events().await.contains(wanted))).await;
    events("data-vault-1-key").await?;
    space.apply(&[secret("data-vault-1", "another")]).await?;
    space.ready("vault-1").await?;

    let worker = node_of(cluster, &pod)?;
    let volume = lies_on(&space, "data-vault-0", worker).await?;
    space.exec("vault-0", &format!("echo {MARKER} >/data/data/file; sync")).await?;
    ensure!(!on_disk(worker, &volume).await?, "what a pod wrote is readable on the disk");

    // The passphrase is changed by mistake, and restored. kubelet needs it when no pod on the node uses the volume.
    space.run(&["scale", "statefulset", "vault", "--replicas=0"]).await?;
    let unstaged = async || Ok(worker.vm.sh(format!("test ! -e /dev/main/{volume}")).await.is_ok());
    until("an unstaged, inactive volume", unstaged).await?;
    space.apply(&[secret("data-vault-0", "wrong")]).await?;
    space.run(&["scale", "statefulset", "vault", "--replicas=2"]).await?;
    events("opens no key slot").await?;
    space.apply(&[secret("data-vault-0", "first")]).await?;
    space.ready("vault-0").await?;
    let found = space.exec("vault-0", "cat /data/data/file").await?;
    ensure!(found.trim() == MARKER, "vault-0 finds {found:?} in its file");

    space.run(&["delete", "statefulset", "vault"]).await?;
    space.run(&["delete", "pvc", "--all"]).await?;
    space.wait_gone("pv", &volume).await?;
    ensure!(!volumes_on(worker).await?.contains(&volume), "the logical volume {volume} is left");
    space.run(&["delete", "storageclass", CLASS]).await?;
    rotated(cluster, &space).await.context("the change of a passphrase")?;
    space.end().await?;
    Ok("2 pods, with a Secret each; one waits for its Secret, one for the right passphrase; a passphrase was changed as \
        docs/encryption.md says"
        .to_owned())
}

/// The passphrase of a volume in use is changed with the commands of the page: its pod is not affected, the next one needs
/// the new passphrase, and the old one is not accepted any more.
async fn rotated(cluster: &Cluster, space: &Space<'_>) -> Result<()> {
    let [secret, claimed] = SHARED;
    let commands = Commands::new(cluster)?;
    let made = commands.of("# Encryption");
    commands.run(made.get(1).map(String::as_str).context("the page makes no Secret")?).await?;
    let old = cluster.kubectl().get(["secret", secret, &format!("--namespace={SYSTEM}")]).await?;
    let parameters = json!({
        "encryption": "luks2",
        "csi.storage.k8s.io/node-stage-secret-name": secret,
        "csi.storage.k8s.io/node-stage-secret-namespace": SYSTEM,
    });
    let class = with(class(CLASS, "main"), json!({ "parameters": parameters }));
    let user = pod("user", sleeper(&[claimed]));
    space.apply(&[class, claim(claimed, CLASS, "64Mi"), user.clone()]).await?;
    let running = space.ready("user").await?;
    space.exec("user", &format!("echo {MARKER} >/data/{claimed}/file; sync")).await?;

    let volume = space.volume_of(claimed).await?;
    let node = text(&running, "/spec/nodeName");
    let plugins = cluster.kubectl().get(["pods", &format!("--namespace={SYSTEM}"), &selector("node")]).await?;
    let plugin = items(&plugins).find(|pod| text(pod, "/spec/nodeName") == node).context("the node has no plugin")?;
    let steps = commands.of("## Changing the passphrase");
    let [prepare, add, change] = &steps[..] else { bail!("the page has other steps: {steps:?}") };
    commands.run(prepare).await.context("step 0")?;
    let add =
        add.replace("HANDLE", text(&volume, "/spec/csi/volumeHandle")).replace("POD", text(plugin, "/metadata/name"));
    let answer = commands.run(&add).await.context("step 1")?;
    ensure!(answer.contains("was added") && answer.contains("was kept"), "step 1 answered {answer:?}");
    commands.run(change).await.context("step 2")?;
    let remove = add.replace(" --keep-old", "");
    let answer = commands.run(&remove).await.context("step 3")?;
    ensure!(answer.contains("was removed"), "step 3 answered {answer:?}");
    commands.run("shred -u old new key").await?;

    let found = space.exec("user", &format!("cat /data/{claimed}/file")).await?;
    ensure!(found.trim() == MARKER, "the pod that ran meanwhile finds {found:?}");
    let worker = cluster.worker(node)?;
    let name = text(&volume, "/metadata/name").to_owned();
    let again = async || {
        space.run(&["delete", "pod", "user"]).await?;
        let unstaged = async || Ok(worker.vm.sh(format!("test ! -e /dev/main/{name}")).await.is_ok());
        until("an unstaged, inactive volume", unstaged).await?;
        space.apply(std::slice::from_ref(&user)).await
    };
    again().await?;
    space.ready("user").await.context("with the new passphrase")?;
    let found = space.exec("user", &format!("cat /data/{claimed}/file")).await?;
    ensure!(found.trim() == MARKER, "the next pod finds {found:?}");
    let restored = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": secret, "namespace": SYSTEM },
        "data": old.get("data"),
    });
    let new = cluster.kubectl().get(["secret", secret, &format!("--namespace={SYSTEM}")]).await?;
    ensure!(old.get("data") != new.get("data"), "the Secret was not changed");
    commands.apply(&restored).await?;
    again().await?;
    let refused = async || Ok(space.events().await.contains("opens no key slot"));
    until("an event that the old passphrase opens no key slot", refused).await?;
    space.run(&["delete", "pod", "user"]).await?;
    space.run(&["delete", "pvc", claimed]).await?;
    space.wait_gone("pv", &name).await?;
    space.run(&["delete", "storageclass", CLASS]).await?;
    cluster.kubectl().run(["delete", "secret", secret, &format!("--namespace={SYSTEM}")]).await.map(drop)
}

/// Runs commands of [`PAGE`] in a folder of their own.
struct Commands<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
}

impl<'a> Commands<'a> {
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let folder = cluster.kubeconfig().with_file_name("commands");
        std::fs::create_dir_all(&folder).context("a folder for the commands")?;
        Ok(Self { cluster, folder })
    }

    /// The blocks of code in a section of the page, for this cluster.
    fn of(&self, heading: &str) -> Vec<String> {
        let section = PAGE.split(&format!("{heading}\n")).nth(1).unwrap_or_default();
        let section = section.split("\n## ").next().unwrap_or_default();
        let blocks = section.split("```").skip(1).step_by(2);
        blocks
            .map(|block| {
                let (_, commands) = block.split_once('\n').unwrap_or_default();
                commands.replace("--namespace quarry ", &format!("--namespace {SYSTEM} "))
            })
            .collect()
    }

    /// Runs commands, and returns their output.
    async fn run(&self, commands: &str) -> Result<String> {
        let kubectl = self.cluster.kubectl().program().parent().context("kubectl has no folder")?;
        let script = format!(
            "set -euo pipefail; export KUBECONFIG='{}' PATH='{}':$PATH; cd '{}'\n{commands}",
            self.cluster.kubeconfig().display(),
            kubectl.display(),
            self.folder.display()
        );
        quarry_vm::run(Path::new("bash"), ["-c".to_owned(), script], Duration::from_secs(120)).await
    }

    /// Applies an object.
    async fn apply(&self, object: &Value) -> Result<()> {
        let file = self.folder.join("object.json");
        std::fs::write(&file, object.to_string()).context("writing an object")?;
        self.cluster.kubectl().apply(&file).await
    }
}

/// The Secret of a claim.
fn secret(claim: &str, passphrase: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": format!("{claim}-key") },
        // As long as a random key, from which a key is derived fast.
        "stringData": { "passphrase": format!("{passphrase:_>44}") },
    })
}

/// Whether what the pods wrote is readable on the storage of a volume.
async fn on_disk(worker: &Worker, volume: &str) -> Result<bool> {
    let path = format!("$(lvs --noheadings -o lv_path -S lv_name={volume})");
    // The whole volume is there, and it is encrypted.
    worker.vm.sh(format!("blockdev --flushbufs {path}; head -c 4 {path} | grep -q LUKS")).await?;
    let found =
        worker.vm.sh(format!("dd if={path} bs=1M iflag=direct status=none | grep -caF {MARKER} || true")).await?;
    Ok(found.trim() != "0")
}
