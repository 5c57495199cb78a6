//! What an operator changes while one of Quarry's commands waits for lvm's lock: after Quarry has read the volume group,
//! and before lvm reads it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Config, Disk, Vm};
use tonic::Code;

use crate::csi::{Ask, Source, refused, retry};
use crate::node::{GROUP, Node, device};
use crate::scenario::{Context, Passed, Scenario};
use crate::scenarios::steps::{close, open, read, write};

const DISK: u64 = 512 << 20;
/// Hides lvm: before a command that changes a tag, removes or clones a volume, it runs the operator's commands, once.
const WRAPPER: &str = r#"#!/bin/sh
when=
case " $* " in
    *" lvchange "*" --addtag "*) when=tag ;;
    *" lvremove "*) when=remove ;;
    *" lvcreate "*" --snapshot "*) when=clone ;;
esac
if [ -n "$when" ] && mv /run/operator.$when /run/operator.now 2>/dev/null; then sh -e /run/operator.now >&2 || exit 99; fi
exec /usr/sbin/lvm "$@"
"#;

/// The scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![Scenario {
        name: "under-lock",
        about: "a disk is added, a volume renamed or replaced while a command waits for lvm's lock: no disk is written off, no OK",
        limit: Duration::from_secs(900),
        run: |context| Box::pin(run(context)),
    }]
}

async fn run(_context: Context) -> Passed {
    disks_and_names().await?;
    clone_of_another().await.context("a thin clone")?;
    Ok("2 disks added, 1 volume replaced, 1 source renamed".to_owned())
}

/// The operator's commands, before the next command of Quarry's of that kind.
async fn meanwhile(node: &Node, when: &str, commands: &str) -> Result<()> {
    node.vm.write(&format!("/run/operator.{when}"), format!("{commands}\n").as_bytes(), 0o644).await
}

async fn disks_and_names() -> Result<()> {
    let disks = (1..=3).map(|number| Disk::new(format!("d{number}"), DISK));
    let vm = Vm::start(disks.fold(Config::new("under-lock"), Config::disk)).await?;
    let mut node = Node::with_vm(vm, 1).await?;
    node.vm.write("/opt/shadow/lvm", WRAPPER.as_bytes(), 0o755).await?;
    node.shadow_programs("/opt/shadow");
    node.serve().await?;

    let made = node.csi.create(&Ask::mount("pvc-1", "ext4")).await?;
    meanwhile(&node, "tag", &format!("vgextend -qq {GROUP} {}", device("d2"))).await?;
    node.kubelet_folders(&made).await?;
    let staged = node.csi.stage(&made).await;
    refused("stage while a disk is added", staged, Code::Unavailable, "lvm did not change the record")?;
    every_disk_in_use(&node, 2).await.context("a disk that was added while a volume was staged")?;
    open(&node, &made).await?;
    write(&node, &made).await?;
    close(&node, &made).await?;

    meanwhile(&node, "remove", &format!("vgextend -qq {GROUP} {}", device("d3"))).await?;
    let deleted = node.csi.delete(&made.id).await;
    refused("delete while a disk is added", deleted, Code::Unavailable, "lvm did not remove")?;
    every_disk_in_use(&node, 3).await.context("a disk that was added while a volume was deleted")?;
    retry(|| node.csi.delete(&made.id)).await?;

    // Another volume gets the name.
    let made = node.csi.create(&Ask::mount("pvc-2", "ext4")).await?;
    let replace = format!("lvrename -qq {GROUP}/pvc-2 kept; lvcreate -qq -y -Wn -Zn -l 1 -n pvc-2 {GROUP}");
    meanwhile(&node, "tag", &replace).await?;
    node.kubelet_folders(&made).await?;
    let staged = node.csi.stage(&made).await;
    refused("stage while the volume is replaced", staged, Code::Unavailable, "lvm did not change the record")?;
    let tagged = node.vm.sh(format!("lvs --noheadings -o lv_tags {GROUP}/pvc-2")).await?;
    ensure!(tagged.trim().is_empty(), "an operator's volume has the tag {tagged}");
    node.vm.sh(format!("lvremove -qq -y {GROUP}/pvc-2; lvrename -qq {GROUP}/kept pvc-2")).await?;
    open(&node, &made).await?;
    close(&node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    node.expect_empty().await
}

/// Fails unless the volume group has so many disks, and lvm has written off none of them.
async fn every_disk_in_use(node: &Node, count: usize) -> Result<()> {
    let disks = node.vm.sh(format!("pvs --noheadings -o pv_missing --select vg_name={GROUP} --binary 2>&1")).await?;
    let flags: Vec<&str> = disks.lines().map(str::trim).collect();
    ensure!(flags.len() == count && flags.iter().all(|flag| *flag == "0"), "pv_missing of the disks: {disks}");
    let used = node.vm.sh(format!("vgs {GROUP} 2>&1 | grep -c WARNING || true")).await?;
    ensure!(used.trim() == "0", "lvm warns about the volume group");
    Ok(())
}

/// lvm gets the name of a clone's source. Meanwhile it is the name of another volume.
async fn clone_of_another() -> Result<()> {
    let mut node = Node::on_thin_pool("under-lock-thin", &[DISK]).await?;
    node.stop().await?;
    node.vm.write("/opt/shadow/lvm", WRAPPER.as_bytes(), 0o755).await?;
    node.shadow_programs("/opt/shadow");
    node.serve().await?;
    let source = node.csi.create(&Ask::mount("pvc-source", "ext4")).await?;
    let other = node.csi.create(&Ask::mount("pvc-other", "ext4")).await?;
    for volume in [&source, &other] {
        open(&node, volume).await?;
        write(&node, volume).await?;
        close(&node, volume).await?;
    }
    let swap = |one: &str, two: &str| {
        let step = |from: &str, to: &str| format!("lvrename -qq {GROUP}/{from} {to}");
        [step(one, "between"), step(two, one), step("between", two)].join("; ")
    };
    meanwhile(&node, "clone", &swap("pvc-source", "pvc-other")).await?;
    let ask = Ask { source: Some(Source::Volume(source.id.clone())), ..Ask::mount("pvc-clone", "ext4") };
    refused("clone", node.csi.create(&ask).await, Code::Unavailable, "its source was renamed")?;
    node.vm.sh(swap("pvc-source", "pvc-other")).await?;
    let clone = retry(|| node.csi.create(&ask)).await?;
    open(&node, &clone).await?;
    open(&node, &source).await?;
    read(&node, &source).await?;
    let files = format!("cmp {}/file {}/file", clone.target(), source.target());
    node.vm.sh(files).await.context("the clone has other bytes than its source")?;
    for volume in [&clone, &source, &other] {
        close(&node, volume).await?;
        retry(|| node.csi.delete(&volume.id)).await?;
    }
    node.expect_empty().await
}
