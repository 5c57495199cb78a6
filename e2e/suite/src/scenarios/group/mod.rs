//! Pools that make their volume groups of empty disks.

pub mod refused;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::Disk;

use crate::csi::Ask;
use crate::node::{BINARY, GROUP, Node, STATE, device};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open, read, until, write};

const GIB: u64 = 1 << 30;
/// How long it may take until a disk is used. Disks are looked at every five seconds, and after a failure every minute.
const USED: Duration = Duration::from_secs(240);
/// Long enough for several looks at the disks.
const SEVERAL_LOOKS: Duration = Duration::from_secs(15);
/// Long enough for a disk to be added to a volume group, which is done when it was free for a minute.
const ADDED: Duration = Duration::from_secs(80);

/// The configuration of the pool `main`, which makes the volume group of the disks that match.
pub fn config(select: &str, exclude: &str) -> String {
    format!("pools:\n  - name: main\n    lvm: {{volumeGroup: {GROUP}, create: {{select: {{{select}}}{exclude}}}}}\n")
}

/// The disks `d1`, `d2` … of the machine, and no other one.
pub const SELECT: &str = "byId: ['virtio-d*']";

/// The disks in the volume group, by their serial numbers, sorted: as an operator sees them, with the hints that lvm keeps.
pub async fn members(node: &Node) -> Result<Vec<String>> {
    let script = format!(
        "devices=$(pvs --noheadings | awk '$2 == \"{GROUP}\" {{ print $1 }}'); for link in /dev/disk/by-id/virtio-*; do \
         for device in $devices; do if [ $(readlink -f $link) = $device ]; then echo ${{link##*/virtio-}}; fi; done; done"
    );
    Ok(node.vm.sh(script).await?.lines().map(str::to_owned).collect())
}

/// Waits until the volume group has exactly these disks.
pub async fn has_members(node: &Node, disks: &[&str]) -> Result<Duration> {
    let waited = until("the disks of the volume group", USED, async || Ok(members(node).await? == disks)).await;
    match waited {
        Ok(waited) => Ok(waited),
        Err(error) => {
            let found = members(node).await?;
            let state = node
                .vm
                .sh(format!("ls -l /dev/disk/by-id; pvs -a; vgs; cat {STATE}/volume-groups; {BINARY} disks || true"))
                .await?;
            Err(error.context(format!(
                "{disks:?} should be in the volume group, not {found:?}\n{state}\n{}",
                node.log_tail().await
            )))
        }
    }
}

/// Waits until nothing of an attempt is left: no note about a disk, and no physical volume without a volume group.
pub async fn nothing_left(node: &Node) -> Result<()> {
    let state = async || {
        let notes = node.vm.sh(format!("cat {STATE}/volume-groups")).await?;
        let orphans = node.vm.sh("pvs --noheadings -S 'vg_name=\"\"' -o pv_name").await?;
        Ok::<_, anyhow::Error>((notes, orphans))
    };
    // The note is removed a moment after the volume group has the disk.
    let done = until("nothing is left", USED, async || {
        let (notes, orphans) = state().await?;
        Ok(notes.contains(&format!("group {GROUP} ")) && !notes.contains("\ndisk ") && orphans.trim().is_empty())
    });
    match done.await {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(error.context(format!("notes, and physical volumes of no volume group: {:?}", state().await?)))
        }
    }
}

/// A volume that is created, written to, and read.
pub async fn volume_works(node: &Node, name: &str) -> Result<()> {
    let made = node.csi.create(&Ask::mount(name, "ext4")).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    read(node, &made).await?;
    close(node, &made).await?;
    node.csi.delete(&made.id).await.map_err(Into::into)
}

pub async fn run(context: Context) -> Passed {
    let disks = ["d1", "d2"].map(|serial| Disk::new(serial, GIB)).to_vec();
    let mut node = Node::on_blank_disks("volume-group", disks).await?;
    node.configure(&config(SELECT, "")).await?;
    node.serve().await?;
    let made = has_members(&node, &["d1", "d2"]).await?;
    let facts = node
        .vm
        .sh(format!(
            "vgs --noheadings --units m --nosuffix -o vg_tags,vg_extent_size,pv_count,vg_mda_count,vg_mda_size {GROUP} | xargs"
        ))
        .await?;
    // lvm rounds the 4 MiB of a metadata area up, to where the extents begin.
    ensure!(facts == "quarry/made 4.00 2 2 5.00", "the volume group is {facts}");
    nothing_left(&node).await?;
    volume_works(&node, "first").await.context("in the new volume group")?;
    context.say("made of two disks");

    node.vm.add_disks(vec![Disk::new("d3", GIB)]).await?;
    let extended = has_members(&node, &["d1", "d2", "d3"]).await.context("a disk is plugged in")?;
    let kept = node.csi.create(&Ask::mount("kept", "ext4")).await?;
    open(&node, &kept).await?;
    write(&node, &kept).await?;
    foreign(&mut node).await.context("a disk with data")?;
    context.say("extended by a third disk, and by a fourth one once its filesystem was wiped");
    taken_out(&mut node).await.context("a disk that an operator takes out")?;
    read(&node, &kept).await?;
    close(&node, &kept).await?;
    context.say("a disk taken out stays out");
    all_gone(&mut node).await.context("all disks are gone")?;
    open(&node, &kept).await?;
    read(&node, &kept).await?;
    close(&node, &kept).await?;
    node.csi.delete(&kept.id).await?;
    context.say("no second volume group while the disks are gone");
    devices_file(&mut node).await.context("a host with a devices file")?;
    nothing_left(&node).await?;
    Ok(format!(
        "made after {:.0} s, extended after {:.0} s; a foreign disk, one taken out, and all gone: nothing was written",
        made.as_secs_f64(),
        extended.as_secs_f64()
    ))
}

/// The checksum of a disk.
async fn checksum(node: &Node, serial: &str) -> Result<String> {
    node.vm.sh(format!("dd if={} bs=1M iflag=direct status=none | md5sum", device(serial))).await
}

/// A disk with a filesystem is left alone until an operator wipes it.
async fn foreign(node: &mut Node) -> Result<()> {
    // The selector matches it only when its filesystem is there.
    node.vm.add_disks(vec![Disk::new("foreign", GIB)]).await?;
    node.vm.sh(format!("mkfs.ext4 -q -L keep {}; sync", device("foreign"))).await?;
    node.configure(&config("byId: ['virtio-d*', 'virtio-foreign']", "")).await?;
    node.stop().await?;
    let before = checksum(node, "foreign").await?;
    node.serve().await?;
    tokio::time::sleep(ADDED).await;
    ensure!(members(node).await? == ["d1", "d2", "d3"], "it was added");
    ensure!(checksum(node, "foreign").await? == before, "its bytes were changed");
    let listed = node.vm.sh(format!("{BINARY} disks --config /etc/quarry/pools.yaml")).await?;
    let rows: Vec<String> = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    ensure!(rows.iter().any(|row| row.contains("main not-empty") && row.contains("ext4")), "{listed}");
    ensure!(listed.replace('\n', " ").contains("vg0"), "the others belong to the volume group:\n{listed}");
    node.vm.sh(format!("wipefs -qa {}; udevadm settle", device("foreign"))).await?;
    has_members(node, &["d1", "d2", "d3", "foreign"]).await.context("after it was wiped").map(drop)
}

/// docs/pools.md: taking a disk out of the volume group.
async fn taken_out(node: &mut Node) -> Result<()> {
    let disk = device("foreign");
    // Without a restart: what is taken out has a label, and is not empty.
    node.vm
        .sh(format!(
            "pvmove -qq {disk} || [ -z \"$(pvs --noheadings -o lv_name {disk} | xargs)\" ]; vgreduce -qq {GROUP} {disk}"
        ))
        .await?;
    tokio::time::sleep(ADDED).await;
    ensure!(members(node).await? == ["d1", "d2", "d3"], "it was added again");
    let group = node.vm.sh(format!("pvs --noheadings -o vg_name {disk}")).await?;
    ensure!(group.trim().is_empty(), "it belongs to {group}");
    node.configure(&config(SELECT, "")).await?;
    node.stop().await?;
    node.vm.sh(format!("pvremove -qq {disk}")).await?;
    node.serve().await?;
    tokio::time::sleep(ADDED).await;
    ensure!(members(node).await? == ["d1", "d2", "d3"], "it was added again once it was empty");
    node.vm.take_disk("foreign").await.map(drop)
}

/// While all disks of the volume group are gone, an empty one is not used: the volume group would exist twice.
async fn all_gone(node: &mut Node) -> Result<()> {
    node.stop().await?;
    node.vm.sh(format!("vgchange -qq -an {GROUP}")).await?;
    for disk in ["d1", "d2", "d3"] {
        node.vm.unplug(disk).await?;
    }
    node.vm.add_disks(vec![Disk::new("d4", GIB)]).await?;
    node.serve().await?;
    let told = async || {
        let message =
            node.csi.create(&Ask::mount("never", "ext4")).await.err().map(|status| status.message().to_owned());
        Ok(message.is_some_and(|message| message.contains("existed on this node")))
    };
    until("an answer that says so", USED, told).await?;
    tokio::time::sleep(SEVERAL_LOOKS).await;
    node.vm.sh(format!("cmp -n 1048576 /dev/zero {}", device("d4"))).await.context("it was written to")?;
    for disk in ["d1", "d2", "d3"] {
        node.vm.replug(disk).await?;
    }
    has_members(node, &["d1", "d2", "d3", "d4"]).await.context("the disks are back").map(drop)
}

/// On a host with a devices file, lvm uses only the disks in it. Quarry does not change that file, and uses no disk.
async fn devices_file(node: &mut Node) -> Result<()> {
    let listed = ["d1", "d2", "d3", "d4"].map(device).join(" ");
    node.vm
        .sh(format!(
            "for disk in {listed}; do lvm lvmdevices -y --config devices/use_devicesfile=1 --adddev $disk; done >/dev/null"
        ))
        .await?;
    node.stop().await?;
    node.serve().await?;
    node.vm.add_disks(vec![Disk::new("d5", GIB)]).await?;
    let told = async || Ok(node.http("/readyz").await?.1.contains(&format!("vgextend {GROUP} /dev/")));
    until("a problem that says so", USED, told).await?;
    node.vm.sh(format!("cmp -n 1048576 /dev/zero {}", device("d5"))).await.context("it was written to")?;
    node.vm.sh("rm /etc/lvm/devices/system.devices").await?;
    has_members(node, &["d1", "d2", "d3", "d4", "d5"]).await?;
    volume_works(node, "extended").await
}
