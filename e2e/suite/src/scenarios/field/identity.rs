//! Volumes that were renamed, moved, copied, or modified by hand; and creations that fail half-way.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use quarry_proto::csi::v1 as csi;
use quarry_vm::{Config, Disk, Vm};
use tonic::Code;

use crate::csi::{Ask, MIB, Made, is_passing, refused, retry};
use crate::node::{Node, device};
use crate::scenario::{Context, Passed, Scenario};
use crate::scenarios::kill::{forget_points, points, was_killed};

const DISK: u64 = 512 << 20;
/// A manual change is visible after this long.
const SEEN: Duration = Duration::from_secs(6);

/// All of them.
pub fn all() -> Vec<Scenario> {
    let limit = Duration::from_secs(15 * 60);
    vec![
        Scenario {
            name: "identity-moved",
            about: "two logical volumes with one record, vgsplit, vgmerge: never missing or deleted, always located",
            limit,
            run: |context| Box::pin(moved(context)),
        },
        Scenario {
            name: "identity-renamed",
            about: "vgrename of a pool in use: the pool reports its new name, and mounts keep working",
            limit,
            run: |context| Box::pin(renamed(context)),
        },
        Scenario {
            name: "identity-removed",
            about: "a delete removes only the volume, even if something appears between two steps or it is killed",
            limit,
            run: |context| Box::pin(removed(context)),
        },
        Scenario {
            name: "identity-unfinished",
            about: "a creation whose record does not fit in the metadata area is retried until there is space",
            limit,
            run: |context| Box::pin(unfinished(context)),
        },
        Scenario {
            name: "identity-taken-back",
            about: "a creation on bad sectors rolls back, and is killed in every step of that",
            limit,
            run: |context| Box::pin(taken_back(context)),
        },
    ]
}

async fn seen() {
    tokio::time::sleep(SEEN).await;
}

/// A volume of ext4 that was used: it holds a file.
async fn used(node: &Node, name: &str) -> Result<Made> {
    let made = node.csi.create(&Ask::mount(name, "ext4")).await?;
    node.kubelet_folders(&made).await?;
    node.csi.stage(&made).await?;
    node.vm.sh(format!("echo precious > {}/data && sync", made.staging())).await?;
    node.csi.unstage(&made).await?;
    Ok(made)
}

/// Fails unless the volume can be staged and holds its file.
async fn intact(node: &Node, made: &Made) -> Result<()> {
    node.csi.stage(made).await?;
    node.vm.sh(format!("grep -q precious {}/data", made.staging())).await.context("the file is gone")?;
    node.csi.unstage(made).await?;
    Ok(())
}

async fn moved(_: Context) -> Passed {
    let node = Node::start("identity-moved", &[DISK, DISK]).await?;
    copies(&node).await.context("two with one record")?;
    split(&node).await.context("vgsplit")?;
    merged(&node).await.context("vgmerge")?;
    Ok("a copied record, vgsplit and vgmerge".to_owned())
}

async fn copies(node: &Node) -> Result<()> {
    let made = used(node, "twice").await?;
    let tag = node.vm.sh("lvs --noheadings -o lv_tags vg0/twice | tr -d ' '").await?;
    let tag = tag.trim();
    node.vm.sh(format!("lvcreate -qq -y -Wn -Zn -l 8 -n copy --addtag '{tag}' vg0")).await?;
    seen().await;
    for words in ["vg0/twice", "vg0/copy"] {
        refused("delete", node.csi.delete(&made.id).await, Code::Unavailable, words)?;
        refused("stage", node.csi.stage(&made).await, Code::Unavailable, words)?;
        refused("create", node.csi.create(&made.ask).await, Code::Unavailable, words)?;
    }
    let listed: Vec<String> = node.csi.list().await?.into_iter().map(|volume| volume.volume_id).collect();
    ensure!(listed == [made.id.clone()], "listed: {listed:?}");
    node.vm.sh(format!("lvchange -qq --deltag '{tag}' vg0/copy")).await?;
    seen().await;
    intact(node, &made).await?;
    node.csi.delete(&made.id).await?;
    node.vm.sh("lvremove -qq -y vg0/copy").await.context("the copy was removed with the volume")?;
    node.expect_empty().await
}

async fn split(node: &Node) -> Result<()> {
    let made = used(node, "split").await?;
    node.vm.sh("lvchange -an vg0/split; vgsplit -qq vg0 elsewhere $(lvs --noheadings -o devices vg0/split | tr -d ' ' | cut -d'(' -f1)").await?;
    seen().await;
    let place = "elsewhere/split";
    refused("delete", node.csi.delete(&made.id).await, Code::Unavailable, place)?;
    refused("stage", node.csi.stage(&made).await, Code::Unavailable, place)?;
    refused("create", node.csi.create(&made.ask).await, Code::Unavailable, place)?;
    node.csi.unstage(&made).await?;
    node.vm.sh("lvs elsewhere/split && vgmerge -qq vg0 elsewhere").await?;
    seen().await;
    intact(node, &made).await?;
    node.csi.delete(&made.id).await?;
    node.csi.delete(&made.id).await.context("a repeated delete")?;
    node.expect_empty().await
}

async fn renamed(_: Context) -> Passed {
    let mut node = Node::start("identity-renamed", &[DISK]).await?;
    let made = used(&node, "group").await?;
    node.csi.stage(&made).await?;
    node.vm.sh("vgrename -qq vg0 parked").await?;
    seen().await;
    refused("delete", node.csi.delete(&made.id).await, Code::FailedPrecondition, &made.staging())?;
    let again = node.csi.create(&made.ask).await?;
    ensure!(again.id == made.id, "the same create answers {} after {}", again.id, made.id);
    // A new process knows the group only by its name.
    node.kill().await?;
    node.serve().await?;
    refused("delete, after a restart", node.csi.delete(&made.id).await, Code::Unavailable, "vg0")?;
    refused("create, after a restart", node.csi.create(&made.ask).await, Code::Unavailable, "vg0")?;
    node.csi.publish(&made).await.context("publish of the staged volume")?;
    let stats =
        csi::NodeGetVolumeStatsRequest { volume_id: made.id.clone(), volume_path: made.target(), ..Default::default() };
    node.csi.node().node_get_volume_stats(stats).await.context("stats of the published volume")?;
    node.vm.sh(format!("grep -q precious {}/data", made.target())).await?;
    node.csi.unpublish(&made).await?;
    node.csi.unstage(&made).await?;
    node.vm.sh("vgrename -qq parked vg0").await?;
    seen().await;
    intact(&node, &made).await?;
    node.csi.delete(&made.id).await?;
    node.expect_empty().await?;
    Ok("published, measured, unpublished and unstaged under another name of its group".to_owned())
}

/// The whole group is merged into another one. This is not undone: a group of the old name would be another one.
async fn merged(node: &Node) -> Result<()> {
    let made = used(node, "merged").await?;
    node.vm.sh("lvchange -an vg0/merged").await?;
    let spare =
        node.vm.sh("pvs --noheadings -o pv_name,pv_used --units b -S pv_used=0 | awk '{print $1}' | head -n 1").await?;
    let spare = spare.trim();
    node.vm.sh(format!("vgreduce -qq vg0 {spare} && vgcreate -qq big {spare} && vgmerge -qq big vg0")).await?;
    seen().await;
    refused("delete", node.csi.delete(&made.id).await, Code::Unavailable, "")?;
    refused("stage", node.csi.stage(&made).await, Code::Unavailable, "")?;
    node.vm.sh("lvs big/merged").await.context("the volume was removed").map(drop)
}

/// Creates a snapshot of the volume between quarry's check and its lvremove.
const WRAPPER: &str = r#"#!/bin/sh
if [ "$1" = lvremove ] && [ -e /run/race ]; then
    rm /run/race
    /usr/sbin/lvm lvcreate -qq -y -s -l 4 -n late vg0/race
fi
exec /usr/sbin/lvm "$@"
"#;

async fn removed(_: Context) -> Passed {
    let config = Config::new("identity-removed").disk(Disk::new("d1", DISK));
    let mut node = Node::with_vm(Vm::start(config).await?, 1).await?;
    node.vm.write("/opt/shadow/lvm", WRAPPER.as_bytes(), 0o755).await?;
    node.shadow_programs("/opt/shadow");
    node.serve().await?;
    let made = used(&node, "race").await?;

    node.vm.sh("touch /run/race").await?;
    refused("delete", node.csi.delete(&made.id).await, Code::FailedPrecondition, "vg0/late")?;
    node.vm.sh("test ! -e /run/race && lvs vg0/race vg0/late").await.context("something was removed")?;
    intact(&node, &made).await.context("the origin of a snapshot")?;

    node.vm.sh("lvremove -qq -y vg0/late").await?;
    seen().await;

    // A volume that an operator has turned into a cache.
    let cache = used(&node, "cache").await?;
    node.vm.sh("lvchange -an vg0/cache; lvconvert -qq -y --type cache-pool vg0/cache").await?;
    seen().await;
    refused("delete of a cache pool", node.csi.delete(&cache.id).await, Code::Unavailable, "cache_cdata")?;
    refused("stage of a cache pool", node.csi.stage(&cache).await, Code::Unavailable, "cache_cdata")?;
    node.vm.sh("lvs -a vg0 | grep -q cache_cdata && lvremove -qq -y vg0/cache").await.context("it was removed")?;
    seen().await;
    node.csi.delete(&cache.id).await?;

    // Open, by a loop device as kubelet creates it, and by a process.
    let raw = node.csi.create(&Ask::block("raw")).await?;
    node.vm.sh("losetup -f /dev/vg0/raw").await?;
    refused(
        "delete under a loop device",
        node.csi.delete(&raw.id).await,
        Code::FailedPrecondition,
        "loop0 (backing file",
    )?;
    node.vm
        .sh("losetup -d /dev/loop0; sleep 1000 3<>/dev/vg0/raw >/dev/null 2>&1 & echo $! > /run/holder; sleep 1")
        .await?;
    refused("delete under a process", node.csi.delete(&raw.id).await, Code::FailedPrecondition, "(sleep)")?;
    node.vm.sh("kill $(cat /run/holder); sleep 1").await?;
    node.csi.delete(&raw.id).await?;

    intact(&node, &made).await?;
    node.csi.delete(&made.id).await?;
    node.expect_empty().await?;
    Ok("a snapshot made in between; a cache pool; two holders".to_owned())
}

/// A disk whose first 16 MiB and last 4 MiB are good: between them every access fails. The rest of the group
/// has no space.
const BAD: &str = "
vgcreate -qq vg1 $good
sectors=$(blockdev --getsz $bad); size=$((sectors - 2048)); end=$((size - 8192))
printf '0 32768 linear %s 2048\\n32768 %s error\\n%s 8192 linear %s %s\\n' $bad $((end - 32768)) $end $bad $((end + 2048)) | dmsetup create bad
pvcreate -qq -y /dev/mapper/bad && vgextend -qq vg1 /dev/mapper/bad
lvcreate -qq -y -an -Wn -Zn -n filler -l 100%PVS vg1 $good
";

/// A creation that cannot be prepared rolls back; if killed at any step, it leaves no volume that is not
/// listed.
async fn taken_back(_: Context) -> Passed {
    let config = Config::new("identity-taken-back").disk(Disk::new("d1", 64 << 20)).disk(Disk::new("d2", DISK));
    let mut node = Node::with_vm(Vm::start(config).await?, 0).await?;
    let disk = |serial| format!("$(readlink -f {})", device(serial));
    node.vm.sh(format!("good={} bad={}; {BAD}", disk("d1"), disk("d2"))).await?;
    node.configure("pools:\n  - name: main\n    lvm: {volumeGroup: vg1}\n").await?;
    node.serve().await?;

    let (mut kills, mut kept) = (0, 0);
    loop {
        let ask = Ask::mount(&format!("bad-{kills}"), "ext4").size(200 * MIB);
        forget_points(&node, Some(kills + 1)).await?;
        ensure!(node.csi.create(&ask).await.is_err(), "a volume on bad sectors was created");
        node.vm.sh("rm -f /run/quarry-faults/kill-at").await?;
        let killed = was_killed(&node).await?;
        if killed {
            node.wait_for_end().await?;
            node.serve().await?;
        }
        let Err(answer) = node.csi.create(&ask).await else { bail!("a volume on bad sectors was created") };
        let there = node.vm.sh("lvs --noheadings -o lv_name vg1 | grep bad || true").await?;
        ensure!(
            is_passing(&answer) != there.trim().is_empty(),
            "after kill {kills}: {answer:?}, and there is {there:?}"
        );
        for volume in node.csi.list().await? {
            kept += 1;
            retry(|| node.csi.delete(&volume.volume_id)).await?;
        }
        node.vm
            .sh("test \"$(lvs --noheadings -o lv_name vg1 | tr -d ' ')\" = filler")
            .await
            .context("something is left")?;
        if !killed {
            break;
        }
        kills += 1;
    }
    ensure!(kept > 0, "no kill left a volume behind");
    Ok(format!(
        "{kills} kills in a creation on bad sectors: {kept} volumes stayed and were retried, the others were rolled back"
    ))
}

/// Fills the metadata area of the group to its last byte with a tag.
const FILL: &str = "
lvcreate -qq -y -an -Wn -Zn -l 1 -n filler vg1
tag() { head -c $1 /dev/zero | tr '\\0' $2; }
n=0
for size in 1000 100 10 1; do
    for i in $(seq 200); do
        n=$((n + 1)); lvchange -qq --addtag $(tag $size a)$n vg1/filler 2>/dev/null || break
    done
done
last=b
lvchange -qq --addtag $last vg1/filler 2>/dev/null || last=$(lvs --noheadings -o lv_tags vg1/filler | tr ',' '\\n' | tail -n 1 | tr -d ' ')
while lvchange -qq --deltag $last --addtag ${last}c vg1/filler 2>/dev/null; do last=${last}c; done
";

async fn unfinished(context: Context) -> Passed {
    let mut node = Node::bare("identity-unfinished", &[DISK]).await?;
    node.vm.add_disks(vec![Disk::new("d2", DISK)]).await?;
    node.vm.sh(format!("vgcreate -qq --metadatasize 32768b --dataalignment 64k vg1 {}", device("d2"))).await?;
    node.configure("pools:\n  - name: main\n    lvm: {volumeGroup: vg1}\n").await?;
    node.serve().await?;

    // Where in a creation the zeroes are written.
    forget_points(&node, None).await?;
    let first = node.csi.create(&Ask::block("first")).await?;
    let passed = points(&node).await?;
    let zeroed = passed.iter().position(|point| point == "device:zero:after").context("no zeroing was seen")?;
    node.csi.delete(&first.id).await?;

    let ask = Ask::block("late");
    forget_points(&node, Some(zeroed as u64 + 1)).await?;
    ensure!(node.csi.create(&ask).await.is_err(), "the creation was not killed");
    node.wait_for_end().await?;
    node.vm.sh("rm -f /run/quarry-faults/kill-at").await?;
    node.vm.sh(FILL).await.context("filling the metadata area")?;
    node.serve().await?;
    refused("create, with no room for its record", node.csi.create(&ask).await, Code::Unavailable, "")?;
    context.say("kept coming");
    node.vm.sh("lvs vg1/late").await.context("the result of an earlier call was removed")?;
    node.vm.sh("lvremove -qq -y vg1/filler").await?;
    let made = retry(|| node.csi.create(&ask)).await.context("with room again")?;
    node.csi.delete(&made.id).await?;
    node.vm.sh("test -z \"$(lvs --noheadings vg1)\"").await.context("something is left")?;
    Ok("a record that found no room: UNAVAILABLE, and done when there was room".to_owned())
}
