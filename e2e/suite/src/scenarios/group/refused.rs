//! The disks that a pool of whole disks never uses are not used for a volume group either: no byte of them changes, and
//! the reason of each is named.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use quarry_vm::Disk;
use tonic::Code;

use super::{config, members, nothing_left};
use crate::csi::Ask;
use crate::node::{GROUP, Node, STATE};
use crate::scenario::{Context, Passed};
use crate::scenarios::disk::refused::{Case, batches, blank, boot_sector, cases, checksums, names_every_disk, pairs};
use crate::scenarios::steps::until;

/// How long it may take until a state is known: the disks are looked at every five seconds.
const KNOWN: Duration = Duration::from_secs(60);

pub async fn run(context: Context) -> Passed {
    let disks = pairs();
    let mut node = Node::on_blank_disks("group-refused", disks.clone()).await?;
    // Every disk, the root disk among them.
    node.configure(&config("transports: [virtio, nvme, scsi]", "")).await?;
    let mut refusals = 0;
    for batch in batches() {
        blank(&node, &disks).await?;
        let cases = cases(&node, batch, &disks).await?;
        // The last batch may have fewer signatures than there are disks.
        for disk in disks.iter().skip(cases.len()) {
            node.vm.sh(boot_sector(&disk.path())).await?;
        }
        node.vm.sh("sync; udevadm settle").await?;
        let before = checksums(&node, &cases).await?;
        node.serve().await?;
        named(&node, &cases).await?;
        node.stop().await?;
        let after = checksums(&node, &cases).await?;
        for (case, (before, after)) in cases.iter().zip(before.lines().zip(after.lines())) {
            ensure!(before == after, "{}: the disk's bytes were changed", case.what);
        }
        ensure!(members(&node).await?.is_empty(), "there is a volume group");
        let notes = node.vm.sh(format!("cat {STATE}/volume-groups 2>/dev/null || true")).await?;
        ensure!(notes.is_empty(), "noted: {notes}");
        refusals += cases.len();
        context.say(batch.iter().map(|signature| signature.what).collect::<Vec<_>>().join("; "));
    }
    // Blank, they are used: only what was on them was the reason.
    blank(&node, &disks).await?;
    node.serve().await?;
    let used = async || {
        let count = node.vm.sh(format!("vgs --noheadings -o pv_count {GROUP} 2>/dev/null || true")).await?;
        Ok(count.trim().parse::<usize>().ok() == Some(same_sectors(&disks)))
    };
    until("the blank disks are used", KNOWN, used).await?;
    nothing_left(&node).await?;
    let problem = node.http("/readyz").await?.1;
    ensure!(problem.contains("lvm does not mix them"), "disks with other sectors: {problem}");
    Ok(format!("{refusals} signatures tried, {refusals} rejected, 0 bytes changed"))
}

/// Waits until the answer to CreateVolume says of each disk why it is not free.
async fn named(node: &Node, cases: &[Case<'_>]) -> Result<()> {
    let began = Instant::now();
    loop {
        let status = match node.csi.create(&Ask::mount("never", "ext4").size(1)).await {
            Err(status) if status.code() == Code::Unavailable => status,
            other => bail!("CreateVolume must fail because there is no volume group, not with: {other:?}"),
        };
        match names_every_disk(node, cases, status.message()).await {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > KNOWN => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// How many disks are used: lvm does not mix sizes of sectors in a volume group.
fn same_sectors(disks: &[Disk]) -> usize {
    disks.len() / 2
}
