//! Snapshots, restores and clones of encrypted volumes: the contents are those of the source, the passphrases too, and
//! after the deletion of all of them no key is left.

use std::time::Duration;

use anyhow::bail;

use super::*;
use crate::scenarios::snapshot::contents::{changed, contents, fill};
use crate::scenarios::steps::until;

/// How long a full copy may take.
const COPIED: Duration = Duration::from_secs(120);
/// A key that opens none of the volumes.
const WRONG: &str = "d3JvbmctcmFuZG9tLWtleS0wMTIzNDU2Nzg5YWJjZGVmMDE=";

/// On LVM, in a thin pool, and on whole disks; a sample, except in `make soak`.
pub async fn copies(context: Context) -> Passed {
    let mut node = Node::bare("encrypted-copies", &[1300 << 20, 1300 << 20]).await?;
    node.serve().await?;
    let asks = [
        Ask::mount("pvc-ext4", "ext4").encrypted(KEY),
        Ask::mount("pvc-xfs", "xfs").encrypted(PASSPHRASE),
        Ask::block("pvc-block").encrypted(KEY),
    ];
    let mut random = context.random();
    let mut some = |count: usize| {
        let chosen = random.sample(count, asks.len());
        let chosen = asks.iter().enumerate().filter(|(index, _)| context.settings.soak || chosen.contains(index));
        chosen.map(|(_, ask)| ask).collect::<Vec<_>>()
    };
    let (on_lvm, on_thin_pool) = (some(2), some(1));
    for ask in &on_lvm {
        copied(&node, ask, "copy").await.with_context(|| ask.name.clone())?;
    }
    let left = on_disks(&node, "/run/uuids").await?;
    ensure!(left == 0, "the UUIDs of headers are left on the disks, {left} times");
    refused_copies(&node).await.context("what cannot be copied")?;
    node.stop().await?;

    let node = Node::on_thin_pool("encrypted-copies-thin", &[1300 << 20, 1300 << 20]).await?;
    for ask in &on_thin_pool {
        copied(&node, ask, "cow").await.with_context(|| format!("{} in a thin pool", ask.name))?;
    }

    // A whole disk has no snapshots, and is copied while nothing uses it.
    let disks = ["d1", "d2"].map(|name| Disk::new(name, 100 << 20)).into();
    let mut node = Node::on_disks("encrypted-copies-disks", disks).await?;
    node.serve().await?;
    let ask = asks[0].clone().parameter("wipe", "none");
    let made = retry(|| node.csi.create(&ask)).await?;
    open(&node, &made).await?;
    fill(&node, &made, "disk").await?;
    let filled = contents(&node, &made).await?;
    let clone = made.ask.clone().named("pvc-clone").filled_from_volume(&made);
    refused("a clone while it is used", node.csi.create(&clone).await, Code::FailedPrecondition, "no pod uses it")?;
    close(&node, &made).await?;
    let clone = retry(|| node.csi.create(&clone)).await?;
    for one in [&made, &clone] {
        open(&node, one).await?;
    }
    filled.check(&node, &clone).await.context("the clone of a whole disk")?;
    for one in [&made, &clone] {
        end(&node, one).await?;
    }
    let names = |asks: &[&Ask]| asks.iter().map(|ask| ask.name.as_str()).collect::<Vec<_>>().join(", ");
    Ok(format!("copies of {} on LVM, of {} in a thin pool, of a whole disk", names(&on_lvm), names(&on_thin_pool)))
}

async fn copied(node: &Node, ask: &Ask, method: &str) -> Result<()> {
    let made = retry(|| node.csi.create(ask)).await?;
    // A volume that was never used has an empty snapshot.
    let empty = retry(|| node.csi.snapshot("snap-empty", &made.id)).await?;
    ensure!(empty.size_bytes == made.size, "{} bytes of {}", empty.size_bytes, made.size);
    let fresh = ask.clone().named("pvc-fresh").filled_from_snapshot(&empty.snapshot_id);
    let fresh = retry(|| node.csi.create(&fresh)).await?;
    open(node, &fresh).await.context("filled with nothing")?;
    end(node, &fresh).await?;
    retry(|| node.csi.delete_snapshot(&empty.snapshot_id)).await?;

    open(node, &made).await?;
    fill(node, &made, "before").await?;
    let before = contents(node, &made).await?;
    let parameters = [("method", method)];
    let taken = || node.csi.snapshot_with("snap-1", &made.id, &parameters);
    let snapshot = retry(taken).await?.snapshot_id;
    until("the snapshot is ready", COPIED, || async { Ok(retry(taken).await?.ready_to_use) }).await?;
    fill(node, &made, "after").await?;
    let after = contents(node, &made).await?;
    ensure!(changed(&before, &after), "nothing was written");

    let larger = ask.clone().named("pvc-restored").size(made.size + 16 * MIB).filled_from_snapshot(&snapshot);
    let restored = retry(|| node.csi.create(&larger)).await?;
    node.kubelet_folders(&restored).await?;
    let wrong = Made { ask: Ask { passphrase: Some(WRONG.into()), ..restored.ask.clone() }, ..restored.clone() };
    let answer = node.csi.stage(&wrong).await;
    refused("another passphrase", answer, Code::FailedPrecondition, "a copy has the passphrases")?;
    open(node, &restored).await?;
    before.check(node, &restored).await?;
    after.check(node, &made).await.context("the source, in use at the same time")?;
    fill(node, &restored, "restored").await?;
    after.check(node, &made).await.context("the source, while its copy is written")?;
    let devices = [&made, &restored].map(|made| node.storage.device(&made.ask.name));
    let uuids = format!("for device in {}; do cryptsetup luksUUID $device; done", devices.join(" "));
    let uuids = node.vm.sh(format!("{uuids} >>/run/uuids; tail -n 2 /run/uuids")).await?;
    let mut lines = uuids.lines();
    ensure!(lines.next() != lines.next(), "two headers have one UUID: {uuids}");
    end(node, &restored).await?;
    after.check(node, &made).await.context("the source, after the deletion of its copy")?;

    let clone = ask.clone().named("pvc-clone").size(made.size).filled_from_volume(&made);
    let clone = retry(|| node.csi.create(&clone)).await?;
    open(node, &clone).await?;
    after.check(node, &clone).await?;
    // A copy of a copy.
    let again = ask.clone().named("pvc-again").size(made.size).filled_from_volume(&clone);
    let again = retry(|| node.csi.create(&again)).await?;
    open(node, &again).await?;
    after.check(node, &again).await.context("a clone of a clone")?;
    end(node, &again).await?;
    end(node, &clone).await?;

    retry(|| node.csi.delete_snapshot(&snapshot)).await?;
    after.check(node, &made).await.context("the source, after the deletion of its snapshot")?;
    end(node, &made).await?;
    node.expect_empty().await
}

async fn end(node: &Node, made: &Made) -> Result<()> {
    close(node, made).await?;
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}

/// A copy is as encrypted as its source, and two btrfs with one UUID never exist.
async fn refused_copies(node: &Node) -> Result<()> {
    let asks = [
        Ask::mount("pvc-plain", "ext4"),
        Ask::mount("pvc-encrypted", "ext4").encrypted(KEY),
        Ask::mount("pvc-btrfs", "btrfs").encrypted(KEY),
    ];
    let mut made = Vec::new();
    for ask in &asks {
        made.push(retry(|| node.csi.create(ask)).await?);
    }
    let [plain, encrypted, btrfs] = made.as_slice() else { bail!("{} volumes", made.len()) };
    let ask = Ask::mount("pvc-copy", "ext4");
    let asked = node.csi.create(&ask.clone().filled_from_volume(encrypted)).await;
    refused("a plain copy of an encrypted volume", asked, Code::InvalidArgument, "its source is encrypted (luks2)")?;
    let asked = node.csi.create(&ask.encrypted(KEY).filled_from_volume(plain)).await;
    refused("an encrypted copy of a plain volume", asked, Code::InvalidArgument, "its source is not encrypted")?;
    open(node, btrfs).await?;
    let asked = node.csi.snapshot("snap-btrfs", &btrfs.id).await;
    refused("a snapshot of btrfs", asked, Code::FailedPrecondition, "two btrfs with one UUID")?;
    let clone = Ask::mount("pvc-copy", "btrfs").encrypted(KEY).filled_from_volume(btrfs);
    refused("a clone of btrfs", node.csi.create(&clone).await, Code::FailedPrecondition, "two btrfs with one UUID")?;
    close(node, btrfs).await?;
    for made in &made {
        retry(|| node.csi.delete(&made.id)).await?;
    }
    node.expect_empty().await
}
