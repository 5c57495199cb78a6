//! One of two disks is removed below volumes that tolerate it, that do not use it, and that are on it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tonic::{Code, Status};

use crate::csi::{Ask, MIB, Made, refused};
use crate::node::{GROUP, Node, device};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open, read, until, write};

/// The volumes: `-used` ones are published when the disk goes, `-idle` ones were used before.
struct Volumes {
    raid: [Made; 2],
    healthy: [Made; 2],
    broken: [Made; 2],
    /// On the disk that stays, and never used yet.
    fresh: Made,
}

impl Volumes {
    fn all(&self) -> Vec<&Made> {
        let pairs = [&self.raid, &self.healthy, &self.broken];
        pairs.into_iter().flatten().chain([&self.fresh]).collect()
    }
}

pub async fn run(context: Context) -> Passed {
    let mut node = Node::start("lost-disk", &[256 << 20, 256 << 20]).await?;
    let volumes = make(&node).await.context("before the loss")?;
    let lost = node.vm.sh(format!("pvs --noheadings -o pv_uuid {}", device("d2"))).await?.trim().to_owned();
    context.say("pulling a disk out");
    node.vm.unplug("d2").await?;

    go_on(&node, &volumes).await.context("what the loss does not touch")?;
    broken(&node, &volumes, &lost).await.context("volumes on the lost disk")?;
    let restarted = {
        // Nor does it depend on what this process has seen.
        node.stop().await?;
        node.serve().await?;
        closed(&node, &volumes, &lost).await
    };
    restarted.context("after a restart of quarry")?;
    let deleted = try_delete(&node, &volumes).await?;

    context.say("plugging it in again");
    node.vm.replug("d2").await?;
    back(&node, &volumes, deleted).await.context("after the disk returned")?;
    node.expect_empty().await?;
    Ok(format!(
        "7 volumes; a delete without the disk was {}",
        if deleted { "done, and stayed done" } else { "refused" }
    ))
}

async fn make(node: &Node) -> Result<Volumes> {
    let raid = |name| Ask::mount(name, "ext4").parameter("layout", "raid1");
    let allow =
        async |disk: &str, allowed: char| node.vm.sh(format!("pvchange -qq -x{allowed} {}", device(disk))).await;
    let raid = [node.csi.create(&raid("raid-used")).await?, node.csi.create(&raid("raid-idle")).await?];
    allow("d2", 'n').await?;
    let healthy = [
        node.csi.create(&Ask::mount("healthy-used", "ext4")).await?,
        node.csi.create(&Ask::block("healthy-idle")).await?,
    ];
    let fresh = node.csi.create(&Ask::mount("fresh", "ext4")).await?;
    allow("d2", 'y').await?;
    allow("d1", 'n').await?;
    let broken = [
        node.csi.create(&Ask::mount("broken-used", "ext4")).await?,
        node.csi.create(&Ask::mount("broken-idle", "ext4")).await?,
    ];
    allow("d1", 'y').await?;
    let volumes = Volumes { raid, healthy, broken, fresh };
    for [used, idle] in [&volumes.raid, &volumes.healthy, &volumes.broken] {
        open(node, idle).await?;
        write(node, idle).await?;
        close(node, idle).await?;
        open(node, used).await?;
        write(node, used).await?;
    }
    // The test proves nothing if the volumes are elsewhere.
    let places = node.vm.sh(format!("lvs --noheadings -o lv_name,devices {GROUP}")).await?;
    let on = |name: &str, disk: &str| places.lines().any(|line| line.contains(name) && line.contains(disk));
    let second = node.vm.sh(format!("readlink -f {}", device("d2"))).await?;
    ensure!(on("broken-used", &second) && on("broken-idle", &second), "not on {second}:\n{places}");
    ensure!(!on("healthy", &second) && !on("fresh", &second), "on {second}:\n{places}");
    Ok(volumes)
}

/// What does not lack bytes is read, written, closed and opened as ever.
async fn go_on(node: &Node, volumes: &Volumes) -> Result<()> {
    for [used, idle] in [&volumes.raid, &volumes.healthy] {
        read(node, used).await?;
        write(node, used).await.context("writing to a volume in use")?;
        close(node, used).await?;
        // A pod that comes after a reboot finds its volume inactive.
        node.vm.sh(format!("lvchange -qq -an {GROUP}/{}", idle.ask.name)).await?;
        for made in [used, idle] {
            open(node, made).await?;
            read(node, made).await?;
            write(node, made).await?;
            read(node, made).await?;
            close(node, made).await?;
        }
    }
    Ok(())
}

async fn broken(node: &Node, volumes: &Volumes, lost: &str) -> Result<()> {
    let [used, idle] = &volumes.broken;
    node.kubelet_folders(idle).await?;
    refused("stage", node.csi.stage(idle).await, Code::FailedPrecondition, lost)?;
    refused(
        "publish",
        node.csi.publish_at(used, &used.target_in("pod-2"), false).await,
        Code::FailedPrecondition,
        lost,
    )?;
    // A pod whose disk is gone must be able to end.
    node.csi.unpublish(used).await.context("unpublishing a broken volume")?;
    node.csi.unstage(used).await.context("unstaging a broken volume")?;
    let left = node
        .vm
        .sh(format!("grep {} /proc/self/mountinfo || true; ls -d '{}' || true", used.ask.name, used.target()))
        .await?;
    ensure!(!left.contains('/'), "something is left of {}: {left}", used.id);
    refused("stage again", node.csi.stage(used).await, Code::FailedPrecondition, lost)?;
    closed(node, volumes, lost).await
}

/// The pool lists all its volumes, reports the problem, and accepts no new ones.
async fn closed(node: &Node, volumes: &Volumes, lost: &str) -> Result<()> {
    expect_listed(node, &volumes.all()).await?;
    refused("create", node.csi.create(&Ask::mount("one-more", "ext4")).await, Code::ResourceExhausted, lost)?;
    for layout in [None, Some("raid1")] {
        let parameters = layout.map(|layout| ("layout".to_owned(), layout.to_owned())).into_iter().collect();
        let (available, largest) = node.csi.capacity(&parameters).await?;
        ensure!((available, largest) == (0, 0), "layout {layout:?}: {available} bytes are offered, {largest} at most");
    }
    let (status, text) = node.http("/readyz").await?;
    ensure!(status != 200 && text.contains(lost), "/readyz does not name {lost}: {status} {text}");
    for made in volumes.all() {
        // The same name again: the volume that is there, or a reason; never another volume, never "does not exist".
        match node.csi.create(&made.ask).await {
            Ok(again) => ensure!(again.id == made.id, "CreateVolume of {} gave {}", made.id, again.id),
            Err(status) => still_there(&status).with_context(|| format!("CreateVolume of {}", made.id))?,
        }
        node.kubelet_folders(made).await?;
        if let Err(status) = node.csi.stage(made).await {
            still_there(&status).with_context(|| format!("staging {}", made.id))?;
        } else {
            ensure!(!made.ask.name.starts_with("broken"), "{} lacks bytes and was staged", made.id);
            node.csi.unstage(made).await?;
        }
    }
    Ok(())
}

/// A refusal that does not say that the volume is gone.
fn still_there(status: &Status) -> Result<()> {
    ensure!(
        !matches!(status.code(), Code::NotFound | Code::AlreadyExists) && !status.message().contains("does not exist"),
        "{:?}: {}",
        status.code(),
        status.message()
    );
    Ok(())
}

async fn expect_listed(node: &Node, volumes: &[&Made]) -> Result<()> {
    let listed: BTreeSet<String> = node.csi.list().await?.into_iter().map(|volume| volume.volume_id).collect();
    let wanted: BTreeSet<String> = volumes.iter().map(|made| made.id.clone()).collect();
    ensure!(listed == wanted, "listed: {listed:?}, not {wanted:?}");
    Ok(())
}

/// Deletes a broken volume. Either that is rejected, or it is final: then the disk's return must not bring it
/// back.
async fn try_delete(node: &Node, volumes: &Volumes) -> Result<bool> {
    let [_, idle] = &volumes.broken;
    match node.csi.delete(&idle.id).await {
        Ok(()) => {
            let left = node.contents().await?;
            ensure!(!left.contains(&idle.ask.name), "deleted, and still there:\n{left}");
            Ok(true)
        }
        Err(status) => still_there(&status).map(|()| false),
    }
}

/// Room is offered again within ten seconds of a disk's return.
async fn room_again(node: &Node) -> Result<()> {
    let offered = || async { Ok(node.csi.capacity(&Default::default()).await?.0 > 0) };
    if let Err(late) = until("room is offered", Duration::from_secs(10), offered).await {
        let answer = node.csi.create(&Ask::block("never").size(1 << 50)).await;
        bail!("{late:#}: {:?}", answer.err());
    }
    Ok(())
}

async fn back(node: &Node, volumes: &Volumes, deleted: bool) -> Result<()> {
    // The operator's procedure (docs): a disk that was missing during a change is excluded until it is
    // restored explicitly; devices that were active still refer to the removed disk.
    let flagged = node.vm.sh(format!("vgs --noheadings -o vg_missing_pv_count {GROUP}")).await?;
    if flagged.trim() != "0" {
        node.vm.sh(format!("vgextend -qq --restoremissing {GROUP} {}", device("d2"))).await?;
    }
    node.vm.sh(format!("vgchange -qq --refresh {GROUP}")).await?;

    let there: Vec<&Made> =
        volumes.all().into_iter().filter(|made| !(deleted && made.ask.name == "broken-idle")).collect();
    expect_listed(node, &there).await?;
    let (status, text) = node.http("/readyz").await?;
    ensure!(status == 200, "/readyz: {status} {text}");
    room_again(node).await?;
    for made in there {
        open(node, made).await?;
        if made.ask.name != "fresh" {
            read(node, made).await?;
        }
        write(node, made).await?;
        close(node, made).await?;
        node.csi.delete(&made.id).await?;
    }
    let one_more = node.csi.create(&Ask::mount("one-more", "ext4").size(200 * MIB)).await?;
    let on_second = node.csi.create(&Ask::mount("and-another", "ext4").size(200 * MIB)).await?;
    for made in [one_more, on_second] {
        open(node, &made).await?;
        close(node, &made).await?;
        node.csi.delete(&made.id).await?;
    }
    let left = node.contents().await?;
    if !left.is_empty() {
        bail!("left behind:\n{left}");
    }
    // lvm's placeholders for the parts that were missing when a raid was activated without its disk: lvm
    // leaves them behind, and no lvm command removes them (docs).
    node.vm.sh("for d in $(dmsetup ls | sed -n 's/^\\([^[:space:]]*-missing_[0-9_]*\\).*/\\1/p'); do dmsetup remove $d; done").await?;
    Ok(())
}
