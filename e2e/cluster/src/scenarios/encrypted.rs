//! Encrypted volumes whose passphrases are in Secrets, which kubelet reads.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{lies_on, node_of, volumes_on};
use crate::cluster::Cluster;
use crate::objects::{class, stateful_set, with};
use crate::space::Space;
use crate::worker::{Worker, until};

/// The StorageClass. Each claim has a Secret of its own, as in examples/encrypted.yaml.
const CLASS: &str = "encrypted";
/// What the pods write, and what must not be on the disks.
const MARKER: &str = "the-marker-of-a-tenant-0f1e2d3c";

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
    space.end().await?;
    Ok("2 pods, with a Secret each; one waits for its Secret, one for the right passphrase".to_owned())
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
