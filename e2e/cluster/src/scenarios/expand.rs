//! Volumes grow: under a running pod, while no pod uses them, and not beyond what fits.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::capacity::bytes;
use crate::cluster::{Cluster, is, text};
use crate::install::{CLASS, SECOND_POOL};
use crate::objects::{claim, class, merge, pod, sleeper, stateful_set, with};
use crate::space::Space;
use crate::worker::Worker;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The pod with all volumes that grow online.
const POD: &str = "holder";
/// How much of the second pool contains bytes of a previous owner, in MiB and in extents.
const DIRTY: u64 = 192;
const DIRTY_EXTENTS: u64 = DIRTY / 4;
/// More than any pool of this cluster has.
const TOO_MUCH: u64 = 100 * GIB;

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let worker = cluster.worker("node-1")?;
    dirty(worker).await.context("cannot fill the disk of the second pool")?;
    let space = Space::new(cluster, "expand").await?;
    let grows = |object: Value| with(object, json!({ "allowVolumeExpansion": true }));
    let xfs = with(class("grow-xfs", "main"), json!({ "parameters": { "csi.storage.k8s.io/fstype": "xfs" } }));
    let raw = with(claim("raw", "grow-raw", "64Mi"), json!({ "spec": { "volumeMode": "Block" } }));
    space
        .apply(&[
            grows(xfs),
            grows(class("grow-raw", SECOND_POOL)),
            // The chart's own class lets claims grow, too.
            claim("ext4", CLASS, "64Mi"),
            claim("xfs", "grow-xfs", "320Mi"),
            raw,
            pod(POD, holder(&worker.name)),
            stateful_set("db", 1, CLASS, "64Mi"),
        ])
        .await?;
    space.ready(POD).await?;
    space.ready("db-0").await?;
    let mut before = Vec::new();
    for volume in ["ext4", "xfs"] {
        space.exec(POD, &format!("dd if=/dev/urandom of=/data/{volume}/file bs=1M count=8 2>/dev/null; sync")).await?;
        before.push((volume, size_in(&space, POD, volume).await?, sum_of(&space, POD, volume).await?));
    }
    space.exec(POD, "echo precious | dd of=/dev/raw conv=fsync 2>/dev/null").await?;
    space.exec("db-0", "echo precious >/data/data/file; sync").await?;
    let db_before = size_in(&space, "db-0", "data").await?;

    // Three volumes under a running pod; kubelet looks for work every 15 to 23 s in this cluster.
    for (name, size) in [("ext4", "128Mi"), ("xfs", "640Mi"), ("raw", "128Mi")] {
        request(&space, name, size).await?;
    }
    // Meanwhile a volume without a pod: its filesystem grows at its next mount.
    space.run(&["scale", "statefulset", "db", "--replicas=0"]).await?;
    space.wait_gone("pod", "db-0").await?;
    request(&space, "data-db-0", "128Mi").await?;
    let pending = |claim: &Value| is(claim, "FileSystemResizePending");
    let waiting = space.wait("pvc", "data-db-0", "larger on its disk, and waiting for a pod", pending).await?;
    let old = text(&waiting, "/status/capacity/storage");
    ensure!(bytes(old)? == 64 * MIB, "without a pod, the claim says {old}");
    space.run(&["scale", "statefulset", "db", "--replicas=1"]).await?;
    space.ready("db-0").await?;
    has(&space, "data-db-0", 128 * MIB).await?;
    is_larger(size_in(&space, "db-0", "data").await?, db_before, "the filesystem that grew at its mount")?;
    let found = space.exec("db-0", "cat /data/data/file").await?;
    ensure!(found.trim() == "precious", "after its volume grew, db-0 finds {found:?} in its file");

    let raw_volume = has(&space, "raw", 128 * MIB).await?;
    is_zero_from(&space, 64).await?;
    in_dirty_extents(worker, &raw_volume).await?;
    has(&space, "ext4", 128 * MIB).await?;
    has(&space, "xfs", 640 * MIB).await?;
    for (volume, size, sum) in &before {
        is_larger(size_in(&space, POD, volume).await?, *size, volume)?;
        same(&sum_of(&space, POD, volume).await?, sum, volume)?;
    }

    let largest = too_much(&space).await?;
    request(&space, "ext4", "256Mi").await?;
    has(&space, "ext4", 256 * MIB).await?;
    if let Some((volume, size, sum)) = before.first() {
        is_larger(size_in(&space, POD, volume).await?, 2 * size, volume)?;
        same(&sum_of(&space, POD, volume).await?, sum, volume)?;
    }
    for class in ["grow-xfs", "grow-raw"] {
        space.run(&["delete", "storageclass", class]).await?;
    }
    space.end().await?;
    Ok(format!(
        "ext4, xfs and raw block under a running pod, ext4 without a pod; 100Gi were refused with {largest} bytes as the \
         largest size, and 256Mi given"
    ))
}

/// Requests another size for a claim.
pub(super) async fn request(space: &Space<'_>, claim: &str, size: &str) -> Result<()> {
    let patch = json!({ "spec": { "resources": { "requests": { "storage": size } } } }).to_string();
    space.run(&["patch", "pvc", claim, "--patch", &patch]).await.map(drop)
}

/// Waits until a claim has this size and nothing is left to do, and fails if its PersistentVolume has another.
/// Returns the name of the PersistentVolume.
pub(super) async fn has(space: &Space<'_>, claim: &str, size: u64) -> Result<String> {
    let done = |claim: &Value| {
        bytes(text(claim, "/status/capacity/storage")).ok() == Some(size)
            && claim.pointer("/status/allocatedResourceStatuses/storage").is_none()
    };
    space.wait("pvc", claim, &format!("of {} MiB", size / MIB), done).await?;
    let volume = space.volume_of(claim).await?;
    let capacity = text(&volume, "/spec/capacity/storage");
    ensure!(bytes(capacity)? == size, "the claim {claim} has {size} bytes, and its PersistentVolume {capacity}");
    Ok(text(&volume, "/metadata/name").to_owned())
}

/// Requests more than the pool has: the claim says why not, and what would fit. Returns that.
async fn too_much(space: &Space<'_>) -> Result<u64> {
    request(space, "ext4", "100Gi").await?;
    let refused = |claim: &Value| is(claim, "ControllerResizeError");
    let claim = space.wait("pvc", "ext4", "refused, because no pool has 100 GiB", refused).await?;
    let conditions = claim.pointer("/status/conditions").and_then(Value::as_array);
    let message: String = conditions.into_iter().flatten().map(|condition| text(condition, "/message")).collect();
    ensure!(message.contains("OutOfRange") && message.contains("largest"), "the condition of the claim: {message:?}");
    let infeasible = text(&claim, "/status/allocatedResourceStatuses/storage");
    ensure!(infeasible == "ControllerResizeInfeasible", "external-resizer treats the refusal as {infeasible:?}");
    let largest = largest(&message).with_context(|| format!("no size in {message:?}"))?;
    ensure!((GIB..10 * GIB).contains(&largest), "the largest size is said to be {largest} bytes: {message:?}");
    ensure!(bytes(text(&claim, "/status/capacity/storage"))? == 128 * MIB, "a refused claim changed: {claim}");
    Ok(largest)
}

/// The largest number in a message that is less than what was requested.
fn largest(message: &str) -> Option<u64> {
    let words = message.split_whitespace().map(|word| word.trim_matches(|c: char| c.is_ascii_punctuation()));
    words.filter_map(|word| word.parse::<u64>().ok()).filter(|number| *number < TOO_MUCH).max()
}

/// A pod on a node with two filesystems and a raw volume.
fn holder(node: &str) -> Value {
    let mut spec = with(sleeper(&["ext4", "xfs"]), json!({ "nodeSelector": { "kubernetes.io/hostname": node } }));
    if let Some(volumes) = spec.pointer_mut("/volumes").and_then(Value::as_array_mut) {
        volumes.push(json!({ "name": "raw", "persistentVolumeClaim": { "claimName": "raw" } }));
    }
    if let Some(container) = spec.pointer_mut("/containers/0") {
        merge(container, json!({ "volumeDevices": [{ "name": "raw", "devicePath": "/dev/raw" }] }));
    }
    spec
}

/// The size of the filesystem of a pod's volume in KiB, as the pod sees it.
async fn size_in(space: &Space<'_>, pod: &str, volume: &str) -> Result<u64> {
    let said = space.exec(pod, &format!("df -Pk /data/{volume} | tail -n 1")).await?;
    let size = said.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    size.with_context(|| format!("df of {volume} in {pod}: {said:?}"))
}

/// The checksum of the file in a pod's volume.
async fn sum_of(space: &Space<'_>, pod: &str, volume: &str) -> Result<String> {
    space.exec(pod, &format!("md5sum /data/{volume}/file")).await
}

fn same(now: &str, before: &str, volume: &str) -> Result<()> {
    ensure!(now == before, "after the growth of {volume}, its file has the sum {now:?} instead of {before:?}");
    Ok(())
}

/// Fails unless a filesystem, whose volume was doubled, has at least one and a half times its former size.
fn is_larger(now: u64, before: u64, what: &str) -> Result<()> {
    ensure!(now >= before + before / 2, "{what} has {now} KiB, and had {before}");
    Ok(())
}

/// Fails unless the raw volume has only zeros from an offset in MiB to its end at 128 MiB, and its first bytes as
/// before.
async fn is_zero_from(space: &Space<'_>, offset: u64) -> Result<()> {
    let script = format!(
        "dd if=/dev/raw bs=1M 2>/dev/null | wc -c; head -c 8 /dev/raw; echo
         dd if=/dev/raw bs=1M skip={offset} 2>/dev/null | tr -d '\\000' | wc -c"
    );
    let said = space.exec(POD, &script).await?;
    let words: Vec<&str> = said.split_whitespace().collect();
    ensure!(
        words == ["134217728", "precious", "0"],
        "the raw volume has this many bytes, these first ones, and so many that are not zero after MiB {offset}: {words:?}"
    );
    Ok(())
}

/// Fills the beginning of the second pool's disk, on which no volume is.
async fn dirty(worker: &Worker) -> Result<()> {
    let script = format!(
        "set -e
         test -z \"$(lvs --noheadings -o lv_name {SECOND_POOL})\"
         start=$(pvs --noheadings --nosuffix --units b -o pe_start --select vg_name={SECOND_POOL})
         tr '\\000' x </dev/zero | dd of=/dev/disk/by-id/virtio-d2 bs=1M count={DIRTY} iflag=fullblock oflag=seek_bytes seek=$((start)) \
             conv=notrunc,fsync status=none"
    );
    worker.vm.sh(script).await.map(drop)
}

/// Fails unless all extents of a volume of the second pool held bytes of a previous owner: otherwise its zeros prove
/// nothing.
async fn in_dirty_extents(worker: &Worker, volume: &str) -> Result<()> {
    let ranges = worker.vm.sh(format!("lvs --noheadings -o seg_pe_ranges {SECOND_POOL}/{volume}")).await?;
    let extents = extents(&ranges).with_context(|| format!("the extents of {volume}: {ranges:?}"))?;
    ensure!(
        extents.len() == 32 && extents.iter().all(|extent| *extent < DIRTY_EXTENTS),
        "{volume} is not where bytes of a previous owner were: {ranges:?}"
    );
    Ok(())
}

/// The extents of lvm's `/dev/vdc:0-15 /dev/vdc:16-31`.
fn extents(ranges: &str) -> Option<BTreeSet<u64>> {
    let mut all = BTreeSet::new();
    for range in ranges.split_whitespace() {
        let (first, last) = range.rsplit_once(':')?.1.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read() {
        assert_eq!(extents("  /dev/vdc:0-1 /dev/vdc:4-5\n"), Some([0, 1, 4, 5].into()));
        assert_eq!(extents("/dev/vdc"), None);
    }

    #[test]
    fn the_largest_size_is_found_in_a_message() {
        let message =
            "expanding volume v1:a:node-1:pvc-12345678: 107374182400 bytes: the largest size is 9991880704 bytes.";
        assert_eq!(largest(message), Some(9_991_880_704));
        assert_eq!(largest("no room"), None);
    }
}
