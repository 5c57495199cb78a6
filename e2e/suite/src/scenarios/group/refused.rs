//! The disks that a pool of whole disks never uses are not used for a volume group either: no byte of them changes, and
//! the reason of each is named.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::{Bus, Disk};
use tonic::Code;

use super::{config, members, nothing_left};
use crate::csi::Ask;
use crate::node::{GROUP, Node, STATE};
use crate::scenario::{Context, Passed};
use crate::scenarios::disk::refused::{Case, blank, checksums, make, names_every_disk};
use crate::scenarios::disk::signatures;
use crate::scenarios::steps::until;

const MIB: u64 = 1 << 20;
/// The disks, in pairs with sectors of 512 and of 4096 bytes.
const BUSES: [Bus; 3] = [Bus::Virtio, Bus::Nvme, Bus::Scsi];
const SIZE: u64 = 64 * MIB;
/// How long it may take until a state is known: the disks are looked at every five seconds.
const KNOWN: Duration = Duration::from_secs(60);

pub async fn run(context: Context) -> Passed {
    let pair = |(index, bus)| {
        [512, 4096].map(|sector| Disk::new(format!("d{index}-{sector}"), SIZE).bus(bus).block_size(sector))
    };
    let disks: Vec<Disk> = BUSES.into_iter().enumerate().flat_map(pair).collect();
    let mut node = Node::on_blank_disks("group-refused", disks.clone()).await?;
    // Every disk, the root disk among them.
    node.configure(&config("transports: [virtio, nvme, scsi]", "")).await?;
    let mut refusals = 0;
    for batch in signatures::ALL.chunks(BUSES.len()) {
        blank(&node, &disks).await?;
        let mut cases = Vec::new();
        for (signature, pair) in batch.iter().zip(disks.chunks(2)) {
            for disk in pair {
                make(&node, signature, disk).await.with_context(|| format!("making {} on {disk}", signature.what))?;
                let what = format!("{}, sectors of {}", signature.what, disk.block_size);
                cases.push(Case { disk, what, words: signature.words.to_vec() });
            }
        }
        // The last batch may have fewer signatures than there are disks.
        for disk in disks.iter().skip(2 * batch.len()) {
            node.vm
                .sh(format!("printf '\\125\\252' | dd of={} bs=1 seek=510 conv=notrunc status=none", disk.path()))
                .await?;
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
