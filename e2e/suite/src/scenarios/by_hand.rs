//! Changes made by hand are visible within ten seconds, with and without udevd, and identifiers of an old
//! volume group never match a new one with the same name.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Config, Disk, Vm};
use tonic::{Code, Status};

use crate::csi::{Ask, MIB, Made, refused};
use crate::node::{Node, device};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::until;

const DISK: u64 = 512 << 20;
/// How long quarry may answer from its cache.
const FRESH: Duration = Duration::from_secs(10);

pub async fn run(_: Context) -> Passed {
    let config = Config::new("by-hand").disk(Disk::new("d1", DISK)).disk(Disk::new("d2", DISK));
    let mut node = Node::with_vm(Vm::start(config).await?, 1).await?;
    node.serve().await?;
    let with = changes(&node, &Hand { udev: true }).await.context("with udevd")?;
    node.vm.stop_udev().await?;
    let without = changes(&node, &Hand { udev: false }).await.context("without udevd")?;
    anew(&node, &Hand { udev: false }).await.context("a recreated volume group")?;
    Ok(format!("{}; {}", with.figures("with udevd"), without.figures("without")))
}

/// Makes changes by hand, like an operator.
struct Hand {
    udev: bool,
}

impl Hand {
    async fn lvm(&self, node: &Node, commands: &[String]) -> Result<()> {
        let config = if self.udev { "" } else { "--config 'activation{udev_sync=0 udev_rules=0}'" };
        for command in commands {
            node.vm.sh(format!("{command} -qq -y {config}")).await?;
        }
        Ok(())
    }
}

/// How many changes were looked for, and how long the slowest took to show.
#[derive(Default)]
struct Shown {
    count: usize,
    slowest: Duration,
}

impl Shown {
    fn figures(&self, how: &str) -> String {
        format!("{} changes {how}, the slowest seen after {:.1} s", self.count, self.slowest.as_secs_f64())
    }

    /// Retries until the answer is right. A call that starts after ten seconds must be right.
    async fn wait<F: Future<Output = Result<bool, Status>>>(
        &mut self,
        what: &str,
        mut right: impl FnMut() -> F,
    ) -> Result<()> {
        let right = || {
            let answer = right();
            async { Ok(answer.await?) }
        };
        self.slowest = self.slowest.max(until(what, FRESH, right).await?);
        self.count += 1;
        Ok(())
    }
}

async fn changes(node: &Node, hand: &Hand) -> Result<Shown> {
    let csi = &node.csi;
    let mut shown = Shown::default();
    let free = || async { csi.capacity(&Default::default()).await.map(|capacity| capacity.0) };
    let listed = |made: &Made| {
        let id = made.id.clone();
        async move { Ok::<_, Status>(csi.list().await?.into_iter().find(|volume| volume.volume_id == id)) }
    };
    let (ours, other) =
        (csi.create(&Ask::mount("ours", "ext4")).await?, csi.create(&Ask::mount("other", "ext4")).await?);
    ensure!(listed(&ours).await?.is_some() && listed(&other).await?.is_some(), "a created volume is not listed");

    let before = free().await?;
    hand.lvm(node, &[format!("vgextend vg0 {}", device("d2"))]).await?;
    shown.wait("vgextend", || async { Ok(free().await? > before + 400 * MIB) }).await?;

    let before = free().await?;
    hand.lvm(node, &["lvcreate -an -Zn -Wn -n somebodys -L 64M vg0".to_owned()]).await?;
    shown.wait("lvcreate", || async { Ok(free().await? == before - 64 * MIB) }).await?;
    ensure!(csi.list().await?.len() == 2, "a foreign logical volume is listed");
    let forged = ours.id.replace(":ours", ":somebodys");
    ensure!(forged != ours.id, "an identifier does not end in the volume's name");
    csi.delete(&forged).await?;

    let tag = node.vm.sh("lvs --noheadings -o lv_tags vg0/ours | tr -d ' '").await?;
    ensure!(tag.starts_with("quarry1/"), "a volume's tag is {tag:?}");
    hand.lvm(node, &[format!("lvchange --deltag '{tag}' vg0/ours")]).await?;
    shown.wait("lvchange --deltag", || async { Ok(listed(&ours).await?.is_none()) }).await?;
    // Without Quarry's tag the volume is foreign: not used, not deleted, and its name is in use.
    node.kubelet_folders(&ours).await?;
    refused("stage of a volume without its record", csi.stage(&ours).await, Code::NotFound, "")?;
    csi.delete(&ours.id).await?;
    refused("create of that name", csi.create(&ours.ask).await, Code::AlreadyExists, "ours")?;
    node.vm.sh("lvs vg0/ours vg0/somebodys").await.context("a foreign volume was removed")?;
    hand.lvm(node, &[format!("lvchange --addtag '{tag}' vg0/ours")]).await?;
    shown.wait("lvchange --addtag", || async { Ok(listed(&ours).await?.is_some()) }).await?;

    hand.lvm(node, &["lvextend -L +8M vg0/ours".to_owned()]).await?;
    let grown = ours.size + 8 * MIB;
    shown
        .wait("lvextend", || async { Ok(listed(&ours).await?.is_some_and(|volume| volume.capacity_bytes == grown)) })
        .await?;

    hand.lvm(node, &["lvremove vg0/ours".to_owned()]).await?;
    shown.wait("lvremove", || async { Ok(listed(&ours).await?.is_none()) }).await?;
    refused("stage of a removed volume", csi.stage(&ours).await, Code::NotFound, "")?;
    csi.delete(&ours.id).await?;

    csi.delete(&other.id).await?;
    hand.lvm(node, &["lvremove vg0/somebodys".to_owned(), format!("vgreduce vg0 {}", device("d2"))]).await?;
    shown.wait("vgreduce", || async { Ok(free().await? < 512 * MIB) }).await?;
    node.expect_empty().await?;
    Ok(shown)
}

/// The volume group is removed and recreated with the same name: volumes on the old one are not known to be
/// deleted.
async fn anew(node: &Node, hand: &Hand) -> Result<()> {
    let csi = &node.csi;
    let old = csi.create(&Ask::mount("anew", "ext4")).await?;
    node.kubelet_folders(&old).await?;
    hand.lvm(node, &["lvremove vg0/anew".to_owned(), "vgremove vg0".to_owned()]).await?;
    Shown::default().wait("vgremove", || async { Ok(csi.capacity(&Default::default()).await? == (0, 0)) }).await?;
    let unavailable = |what: &'static str, result| refused(what, result, Code::Unavailable, "vg0");
    unavailable("delete, without its volume group", csi.delete(&old.id).await)?;
    unavailable("stage, without its volume group", csi.stage(&old).await)?;
    unavailable("create, without its volume group", csi.create(&old.ask).await.map(drop))?;
    // A volume that is not mounted is unpublished and unstaged successfully.
    csi.unpublish(&old).await?;
    csi.unstage(&old).await?;

    hand.lvm(node, &[format!("vgcreate vg0 {}", device("d1"))]).await?;
    Shown::default().wait("vgcreate", || async { Ok(csi.capacity(&Default::default()).await?.0 > 0) }).await?;
    let new = csi.create(&old.ask).await?;
    ensure!(new.id != old.id, "the new volume has the old one's identifier");
    let elsewhere = |what: &'static str, result| refused(what, result, Code::Unavailable, "replaced");
    elsewhere("delete of the old one", csi.delete(&old.id).await)?;
    elsewhere("stage of the old one", csi.stage(&old).await)?;
    let listed: Vec<String> = csi.list().await?.into_iter().map(|volume| volume.volume_id).collect();
    ensure!(listed == [new.id.clone()], "listed: {listed:?}");
    csi.stage(&new).await?;
    csi.unstage(&new).await?;
    csi.delete(&new.id).await?;
    node.expect_empty().await
}
