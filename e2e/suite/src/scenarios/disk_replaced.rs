//! A disk is lost for good: what `quarry doctor` prints for this very state is done, step by step, and mends it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Bus, Config, Disk, Vm};
use serde_json::Value;
use tonic::Code;

use crate::csi::{Ask, refused, retry};
use crate::node::{GROUP, Node, device};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open, read, until, write};

/// The pool of whole disks, and the serial of its disk.
const WHOLE: &str = "whole";

pub async fn run(context: Context) -> Passed {
    let disk = |name| Disk::new(name, 1 << 30);
    let whole = Disk::new(WHOLE, 64 << 20).bus(Bus::Scsi);
    // The third disk is the one that the operator puts in.
    let config = Config::new("disk-replaced").disk(disk("d1")).disk(disk("d2")).disk(disk("d3")).disk(whole);
    let mut node = Node::with_vm(Vm::start(config).await?, 2).await?;
    node.configure(&format!(
        "pools:\n  - name: main\n    lvm: {{volumeGroup: {GROUP}}}\n  - name: {WHOLE}\n    \
         disk: {{select: {{transports: [scsi]}}}}\n"
    ))
    .await?;
    node.with_arguments("--view /run/quarry/view.sock");
    node.serve().await?;
    let commands = group(&mut node, &context).await.context("a disk of a volume group")?;
    whole_disk(&mut node).await.context("a whole disk")?;
    node.expect_empty().await?;
    Ok(format!("{commands} commands that doctor printed were run"))
}

/// Returns how many commands were run.
async fn group(node: &mut Node, context: &Context) -> Result<usize> {
    let on = |ask: Ask| ask.parameter("pool", "main");
    let allow =
        async |disk: &str, allowed: char| node.vm.sh(format!("pvchange -qq -x{allowed} {}", device(disk))).await;
    let raid = node.csi.create(&on(Ask::mount("raid", "ext4").parameter("layout", "raid1"))).await?;
    let used = node.csi.create(&on(Ask::mount("raid-used", "xfs").parameter("layout", "raid1"))).await?;
    allow("d1", 'n').await?;
    let lost = node.csi.create(&on(Ask::mount("lost", "ext4"))).await?;
    allow("d1", 'y').await?;
    for made in [&raid, &used, &lost] {
        open(node, made).await?;
        write(node, made).await?;
    }
    close(node, &raid).await?;
    close(node, &lost).await?;

    node.vm.unplug("d2").await?;
    refused("delete without the disk", node.csi.delete(&lost.id).await, Code::Unavailable, "")?;
    let advice = advice(node, "main").await?;
    context.say(format_args!("doctor: {advice}"));
    let commands: Vec<String> =
        commands_in(&advice).iter().map(|one| one.replace("NEW_DEVICE", &device("d3"))).collect();
    let expected = [
        format!("vgextend {GROUP} {}", device("d3")),
        format!("lvchange --activate y {GROUP}/raid"),
        format!("lvconvert --yes --repair {GROUP}/raid"),
        format!("lvchange --activate y {GROUP}/raid-used"),
        format!("lvconvert --yes --repair {GROUP}/raid-used"),
        format!("lvremove --yes {GROUP}/lost"),
        format!("vgreduce --removemissing {GROUP}"),
    ];
    let mut sorted = [commands.clone(), expected.to_vec()];
    sorted.iter_mut().for_each(|list| list[1..5].sort());
    ensure!(sorted[0] == sorted[1], "doctor prints {commands:?}, not {expected:?}");
    for command in &commands {
        node.vm.sh(command.clone()).await.with_context(|| format!("`{command}`"))?;
    }
    retry(|| node.csi.delete(&lost.id)).await.context("the lost volume")?;
    nothing_missing(node).await?;
    read(node, &used).await?;
    open(node, &raid).await?;
    for made in [&raid, &used] {
        read(node, made).await?;
        write(node, made).await?;
        close(node, made).await?;
        // Both copies are there again.
        let copies = node.vm.sh(format!("lvs --noheadings -a -o devices {GROUP} | grep -c missing || true")).await?;
        ensure!(copies.trim() == "0", "something is still on the missing disk");
        retry(|| node.csi.delete(&made.id)).await?;
    }
    ensure!(node.csi.capacity(&on(Ask::block("x")).parameters).await?.0 > 0, "no space is offered");
    Ok(commands.len())
}

async fn whole_disk(node: &mut Node) -> Result<()> {
    let made = node.csi.create(&Ask::mount("pvc-whole", "ext4").parameter("pool", WHOLE)).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    close(node, &made).await?;
    node.vm.unplug(WHOLE).await?;
    let advice = advice(node, WHOLE).await?;
    ensure!(advice.contains("pvc-whole") && advice.contains("restart Quarry on this node"), "doctor: {advice}");
    refused("delete without the disk", node.csi.delete(&made.id).await, Code::Unavailable, "")?;
    node.stop().await?;
    node.serve().await?;
    retry(|| node.csi.delete(&made.id)).await.context("after the restart")?;
    nothing_missing(node).await
}

/// The findings of `quarry doctor` about missing disks.
async fn findings(node: &Node) -> Result<Vec<Value>> {
    // It fails if there are errors.
    let printed = node.vm.sh("quarry doctor --socket /run/quarry/view.sock -o json || true").await?;
    let answer: Value = serde_json::from_str(&printed).with_context(|| format!("doctor printed {printed}"))?;
    let findings = answer.get("findings").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(findings.into_iter().filter(|finding| text(finding, "check") == "disk-missing").collect())
}

/// What doctor advises about the missing disk of a pool.
pub(super) async fn advice(node: &Node, pool: &str) -> Result<String> {
    let of_pool = |finding: &Value| text(finding, "subject").starts_with(&format!("pool {pool} "));
    let found = async || Ok(findings(node).await?.iter().any(of_pool));
    until("doctor reports the missing disk", Duration::from_secs(30), found).await?;
    let findings = findings(node).await?;
    let finding = findings.iter().find(|finding| of_pool(finding)).context("it is reported no more")?;
    Ok(text(finding, "advice").to_owned())
}

async fn nothing_missing(node: &Node) -> Result<()> {
    let nothing = async || Ok(findings(node).await?.is_empty());
    until("doctor reports no missing disk", Duration::from_secs(30), nothing).await.map(drop)
}

/// The commands in a text, which are in backticks.
fn commands_in(advice: &str) -> Vec<String> {
    advice.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn text<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding.get(key).and_then(Value::as_str).unwrap_or_default()
}
