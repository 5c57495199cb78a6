//! Space that cannot be used, raid legs, and volumes that are inactive while unstaged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use quarry_proto::csi::v1::VolumeHealthErrorType;
use tonic::Code;

use super::idle;
use crate::csi::{Ask, Made, is_passing, refused};
use crate::node::{GROUP, Node, device};
use crate::scenario::{Context, Passed, Scenario};
use crate::scenarios::steps::{close, open, read, tags, write};

const MIB: u64 = 1 << 20;
/// How long a change may take to show, a copy to be rebuilt: far more than it needs, on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// All of them.
pub fn all() -> Vec<Scenario> {
    let limit = Duration::from_secs(15 * 60);
    vec![
        Scenario {
            name: "raid-legs",
            about: "a raid1's copy fails, is removed, returns: reports are correct, and the printed command repairs it",
            limit,
            run: |context| Box::pin(raid_legs(context)),
        },
        Scenario {
            name: "raid-one-disk",
            about: "an lvm that puts both copies on one disk: rejected, no remnants; reported as not mirrored, and repaired as printed",
            limit,
            run: |context| Box::pin(one_disk(context)),
        },
        Scenario {
            name: "read-only-disk",
            about: "a disk that the kernel has made read-only: no free space, with the reason, until it is writable",
            limit,
            run: |context| Box::pin(read_only(context)),
        },
        Scenario {
            name: "idle-inactive",
            about: "an unstaged volume is inactive: devices below it can be closed; in use, restaged, killed meanwhile",
            limit,
            run: |context| Box::pin(idle::run(context)),
        },
    ]
}

async fn raid_legs(context: Context) -> Passed {
    let mut node = Node::bare("raid-legs", &[256 * MIB, 256 * MIB, 256 * MIB]).await?;
    node.vm.sh(format!("pvchange -qq -xn {}", device("d3"))).await?;
    node.serve().await?;
    let made = node.csi.create(&Ask::mount("mirror", "ext4").parameter("layout", "raid1")).await?;
    open(&node, &made).await?;
    write(&node, &made).await?;
    healthy(&node, &made).await.context("to begin with")?;

    let away = failed_for_a_while(&mut node, &made).await.context("a disk that was away for a while")?;
    context.say(&away);
    second_too(&mut node, &made).await.context("the other copy's disk goes, too")?;
    given_up(&mut node, &made).await.context("a disk that was removed from the raid and returns")?;
    mismatches(&node, &made).await.context("copies that differ")?;
    close(&node, &made).await?;
    node.csi.delete(&made.id).await?;
    Ok(away)
}

/// Pulls a disk out while the volume is written, and puts it back: the kernel does not take it back by itself.
async fn lose_and_return(node: &mut Node, made: &Made) -> Result<()> {
    node.vm.unplug("d2").await?;
    write(node, made).await.context("writing without a copy")?;
    unhealthy(node, made, "is missing", VolumeHealthErrorType::Degraded).await?;
    node.vm.replug("d2").await?;
    unhealthy(node, made, "refresh needed", VolumeHealthErrorType::Degraded).await.map(drop)
}

async fn failed_for_a_while(node: &mut Node, made: &Made) -> Result<String> {
    lose_and_return(node, made).await?;
    let listed = node.csi.unhealthy().await?;
    ensure!(listed.len() == 1 && listed[0].volume_id == made.id, "the controller lists {listed:?}");
    let health = node.csi.health(&made.id).await?;
    let command = commands(&health[0].message).into_iter().find(|command| command.contains("--refresh"));
    let command = command.with_context(|| format!("no command in {:?}", health[0].message))?;
    node.vm.sh(&command).await.with_context(|| format!("the command that is named: {command}"))?;
    let result = if healthy(node, made).await.is_ok() {
        format!("`{command}` repaired a copy whose disk was unplugged and plugged in again")
    } else {
        // The other way that the message names.
        close(node, made).await?;
        inactive(node, made).await?;
        open(node, made).await?;
        healthy(node, made).await.context("after it was unstaged and staged")?;
        format!(
            "`{command}` did not repair a copy whose disk was unplugged and plugged in again; unstage and stage did"
        )
    };
    read(node, made).await?;
    Ok(result)
}

/// One copy is out of date, and the disk of the good one fails: nothing keeps working, and nothing is
/// reported to.
async fn second_too(node: &mut Node, made: &Made) -> Result<()> {
    lose_and_return(node, made).await?;
    node.vm.unplug("d1").await?;
    unhealthy(node, made, "no intact copy left", VolumeHealthErrorType::Inaccessible).await?;
    close(node, made).await?;
    refused("stage", node.csi.stage(made).await, Code::FailedPrecondition, "no intact copy left")?;
    node.vm.replug("d1").await?;
    let began = Instant::now();
    while let Err(error) = open(node, made).await {
        ensure!(began.elapsed() < PATIENCE, "after the good disk returned: {error:#}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    healthy(node, made).await.context("after the good disk returned")?;
    read(node, made).await
}

/// An operator removes a lost disk from the group; later it returns, with lvm's old metadata.
async fn given_up(node: &mut Node, made: &Made) -> Result<()> {
    node.vm.unplug("d2").await?;
    node.vm.sh(format!("vgreduce -qq --removemissing --force {GROUP}")).await?;
    let health = unhealthy(node, made, "repair needed", VolumeHealthErrorType::Degraded).await?;
    let command = commands(&health).into_iter().find(|command| command.contains("--repair"));
    let command = command.with_context(|| format!("no command in {health:?}"))?;
    node.vm.sh(format!("pvchange -qq -xy {}; yes | {command}", device("d3"))).await?;
    healthy(node, made).await.with_context(|| format!("after {command}"))?;

    let class = BTreeMap::new();
    let before = node.csi.capacity(&class).await?;
    node.vm.replug("d2").await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let listed = node.csi.list().await?;
    ensure!(listed.len() == 1 && listed[0].volume_id == made.id, "with the old disk back: {listed:?}");
    let after = node.csi.capacity(&class).await?;
    ensure!(after == before, "the old disk's room is offered: {before:?}, then {after:?}");
    ensure!(node.csi.create(&made.ask).await?.id == made.id, "the same name is another volume now");
    healthy(node, made).await.context("with the old disk back")?;
    read(node, made).await
}

/// Mismatches that a scrub finds are shown, and the command in the message repairs them.
async fn mismatches(node: &Node, made: &Made) -> Result<()> {
    let name = &made.ask.name;
    // Bytes of the second copy change behind the raid's back, near its end.
    node.vm
        .sh(format!(
            "sync; image=$(ls /dev/mapper/{GROUP}-{name}_rimage_* | tail -n 1); \
             dd if=/dev/urandom of=$image bs=4096 seek=$(($(blockdev --getsize64 $image) / 4096 - 8)) count=4 \
             conv=notrunc,fsync status=none; lvchange --syncaction check {GROUP}/{name}"
        ))
        .await?;
    let health = unhealthy(node, made, "mismatches exist", VolumeHealthErrorType::Degraded).await?;
    let command = commands(&health).into_iter().find(|command| command.contains("--syncaction repair"));
    let command = command.with_context(|| format!("no command in {health:?}"))?;
    node.vm.sh(format!("{command}; sleep 5; lvchange --syncaction check {GROUP}/{name}")).await?;
    healthy(node, made).await.with_context(|| format!("after {command}"))
}

/// Hides lvm: `lvcreate` of a raid puts all copies on the first disk that it is given.
const ONE_DISK: &str = r#"#!/bin/sh
case " $* " in
    *" lvcreate "*" raid1 "*)
        for last; do :; done
        count=$#
        for word; do
            if [ "$word" = normal ]; then word=anywhere; fi
            if [ "$word" != "$last" ]; then set -- "$@" "$word"; fi
        done
        shift $count
        ;;
esac
exec /usr/sbin/lvm "$@"
"#;

async fn one_disk(_context: Context) -> Passed {
    let mut node = Node::bare("raid-one-disk", &[256 * MIB, 256 * MIB]).await?;
    node.vm.write("/opt/shadow/lvm", ONE_DISK.as_bytes(), 0o755).await?;
    node.shadow_programs("/opt/shadow");
    node.serve().await?;
    let ask = |name: &str| Ask::mount(name, "ext4").parameter("layout", "raid1");
    refused("create", node.csi.create(&ask("shared")).await, Code::ResourceExhausted, "several copies on one disk")?;
    node.expect_empty().await.context("after a rejected create")?;

    node.vm.sh("rm /opt/shadow/lvm").await?;
    let made = node.csi.create(&ask("mirror")).await.context("with an lvm that allocates well")?;
    open(&node, &made).await?;
    close(&node, &made).await?;
    healthy(&node, &made).await?;
    // The same volume as an older lvm may have created it: same name, same record.
    let record = tags(&node, &made).await?;
    let first = device("d1");
    node.vm
        .sh(format!(
            "lvremove -qqy {GROUP}/mirror; \
             lvcreate -qqy -Wn -Zn --type raid1 -m 1 --nosync --alloc anywhere -L 32M -n mirror --addtag '{record}' {GROUP} {first}"
        ))
        .await?;
    let health = unhealthy(&node, &made, "not mirrored", VolumeHealthErrorType::Degraded).await?;
    let printed = commands(&health);
    ensure!(printed.len() == 2, "the commands in {health:?} are {printed:?}");
    for command in printed {
        node.vm.sh(format!("{command} -qq -y")).await.with_context(|| command.clone())?;
    }
    healthy(&node, &made).await.context("after the printed commands")?;
    node.csi.delete(&made.id).await?;
    Ok(String::new())
}

async fn read_only(_context: Context) -> Passed {
    let node = Node::start("read-only-disk", &[128 * MIB, 128 * MIB]).await?;
    let kept = node.csi.create(&Ask::mount("kept", "ext4")).await?;
    let disk = node.vm.sh(format!("readlink -f {}", device("d2"))).await?.trim().to_owned();
    node.vm.sh(format!("blockdev --setro {disk}")).await?;
    let words = format!("does not allow writes to {disk}");
    refused("create", node.csi.create(&Ask::mount("new", "ext4")).await, Code::ResourceExhausted, &words)?;
    room(&node, false).await?;
    let storage = node.csi.storage_health().await?;
    ensure!(storage.len() == 1 && storage[0].message.contains(&words), "the node's storage: {storage:?}");
    // Calls that need no space keep working. lvm's removals do without a disk, and update its metadata later.
    open(&node, &kept).await?;
    write(&node, &kept).await?;
    close(&node, &kept).await?;
    let deleted = node.csi.delete(&kept.id).await;
    ensure!(deleted.is_ok() || deleted.is_err_and(|status| is_passing(&status)), "a delete is rejected permanently");
    node.vm.sh(format!("blockdev --setrw {disk}")).await?;
    room(&node, true).await?;
    ensure!(node.csi.storage_health().await?.is_empty());
    let made = node.csi.create(&Ask::mount("new", "ext4")).await?;
    for id in [kept.id, made.id] {
        node.csi.delete(&id).await?;
    }
    node.vm.sh(format!("vgck {GROUP}")).await?;
    node.expect_empty().await?;
    Ok(String::new())
}

/// Waits until free space is reported, or none.
async fn room(node: &Node, some: bool) -> Result<()> {
    let began = Instant::now();
    while (node.csi.capacity(&BTreeMap::new()).await?.0 > 0) != some {
        ensure!(began.elapsed() < PATIENCE, "room is offered: {}", !some);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Waits until the volume's device is gone.
pub(super) async fn inactive(node: &Node, made: &Made) -> Result<()> {
    let path = format!("/dev/mapper/{GROUP}-{}", made.ask.name);
    node.vm.wait_paths(vec![path.clone()], false, PATIENCE).await.with_context(|| format!("{path} is still there"))
}

/// Waits until nothing is wrong with the volume.
async fn healthy(node: &Node, made: &Made) -> Result<()> {
    wait_for(node, &made.id, |health| health.is_empty()).await.map(drop)
}

/// Waits until the volume has a problem with these words and this status; returns its message.
async fn unhealthy(node: &Node, made: &Made, words: &str, status: VolumeHealthErrorType) -> Result<String> {
    let health = wait_for(node, &made.id, |health| health.iter().any(|one| one.message.contains(words)))
        .await
        .context(words.to_owned())?;
    ensure!(health[0].status() == status, "{words}: {health:?}");
    Ok(health[0].message.clone())
}

type Entries = Vec<quarry_proto::csi::v1::volume_health::VolumeHealthEntry>;

async fn wait_for(node: &Node, id: &str, reached: impl Fn(&Entries) -> bool) -> Result<Entries> {
    let began = Instant::now();
    loop {
        let health = node.csi.health(id).await?;
        if reached(&health) {
            return Ok(health);
        }
        if began.elapsed() > PATIENCE {
            bail!(
                "the volume's health is {health:?}; {}",
                node.vm.sh(format!("lvs -a -o +lv_health_status,devices {GROUP}; dmsetup status")).await?
            );
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The commands in a message, which are between backticks.
fn commands(message: &str) -> Vec<String> {
    message.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
