//! The same kills while snapshots are taken and deleted, and volumes are restored and cloned: each copy is complete
//! or does not exist, its source keeps its bytes, and nothing else is left.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_proto::csi::v1 as csi;

use tonic::Status;

use super::sweep::sweep;
use super::{Course, Life, Plan, Step};
use crate::csi::{Ask, Csi, MIB, Made, retry};
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open};

const DISK: u64 = 700 << 20;
/// The name of the snapshot.
pub const SNAPSHOT: &str = "snap-1";
/// The name of the second volume.
const COPY: &str = "pvc-copy";

/// At every fault point.
pub async fn points_of_copies(context: Context) -> Passed {
    let mut node = Node::start("kill-copies", &[DISK, DISK]).await?;
    let kinds = [
        (Ask::mount("pvc-ext4", "ext4"), Course::Copied, 1),
        (Ask::block("pvc-block").size(8 * MIB), Course::Copied, 2),
        (Ask::mount("pvc-btrfs", "btrfs").parameter("layout", "raid1"), Course::Copied, 1),
        (Ask::block("pvc-block").size(8 * MIB), Course::FullyCopied, 1),
    ];
    sweep(&context, &mut node, kinds).await
}

/// CreateSnapshot with `method: copy`, as its caller repeats it until the copy is complete.
pub async fn complete(csi: &Csi, made: &Made) -> Result<(), Status> {
    loop {
        if csi.snapshot_with(SNAPSHOT, &made.id, &[("method", "copy")]).await?.ready_to_use {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The volume that is restored from the snapshot of this one, larger than it.
pub fn restored(made: &Made) -> Ask {
    made.ask.clone().named(COPY).size(made.size + 16 * MIB).filled_from_snapshot(&snapshot_of(made))
}

/// The clone of this volume.
pub fn cloned(made: &Made) -> Ask {
    made.ask.clone().named(COPY).size(made.size).filled_from_volume(made)
}

/// The identifier of the second volume.
pub fn copy_of(made: &Made) -> String {
    made.id.replace(&made.ask.name, COPY)
}

/// The identifier of the snapshot.
pub fn snapshot_of(made: &Made) -> String {
    made.id.replace("v1:", "s1:").replace(&made.ask.name, SNAPSHOT)
}

impl Step {
    /// Whether it creates or deletes a copy of a volume.
    pub fn is_of_copy(self) -> bool {
        self.makes_a_copy() || matches!(self, Self::DeleteCopy | Self::DeleteSnapshot)
    }

    /// Whether it creates one.
    pub fn makes_a_copy(self) -> bool {
        matches!(self, Self::Snapshot | Self::FullCopy | Self::Restore | Self::Clone)
    }
}

impl<P: Plan> Life<'_, P> {
    /// From creation to deletion, copied on the way.
    pub async fn copied(&mut self) -> Result<()> {
        self.used().await?;
        for step in [Step::Snapshot, Step::Restore, Step::DeleteCopy, Step::Clone] {
            self.step(step).await?;
        }
        self.step_without_kill(Step::DeleteCopy).await?;
        self.step(Step::DeleteSnapshot).await?;
        self.end().await
    }

    /// The same with a full copy. A volume is restored from it as from any snapshot: without kills.
    pub async fn fully_copied(&mut self) -> Result<()> {
        self.used().await?;
        self.step(Step::FullCopy).await?;
        for step in [Step::Restore, Step::DeleteCopy] {
            self.step_without_kill(step).await?;
        }
        self.step(Step::DeleteSnapshot).await?;
        self.end().await
    }

    /// It is published, and contains bytes that [`Self::read`] finds again.
    async fn used(&mut self) -> Result<()> {
        for step in [Step::Create, Step::Stage, Step::Publish] {
            self.step_without_kill(step).await?;
        }
        self.write().await
    }

    /// The interrupted copy is never asked for again: what is there of it is deleted, and nothing is left.
    pub async fn abandon_copy(&mut self, step: Step) -> Result<()> {
        let made = self.made()?.clone();
        if matches!(step, Step::Snapshot | Step::FullCopy) {
            let id = snapshot_of(&made);
            retry(|| self.node.csi.delete_snapshot(&id)).await.context("deleted instead")?;
            return self.check_copies(Step::DeleteSnapshot).await;
        }
        let id = copy_of(&made);
        retry(|| self.node.csi.delete(&id)).await.context("deleted instead")?;
        self.check_copies(Step::DeleteCopy).await
    }

    /// What holds between a kill and the repeated call.
    pub async fn check_between_copies(&self, made: &Made, listed: &[csi::Volume]) -> Result<()> {
        let is_expected = |volume: &csi::Volume| volume.volume_id == made.id || volume.volume_id == copy_of(made);
        let source = listed.iter().any(|volume| volume.volume_id == made.id);
        ensure!(
            source && listed.len() <= 2 && listed.iter().all(is_expected),
            "{} and its copy, not {listed:?}",
            made.id
        );
        let snapshots = retry(|| self.node.csi.snapshots()).await?;
        let is_ours = |found: &csi::Snapshot| found.snapshot_id == snapshot_of(made);
        ensure!(snapshots.len() <= 1 && snapshots.iter().all(is_ours), "{snapshots:?}");
        self.read().await
    }

    /// What holds when a step was answered OK.
    pub async fn check_copies(&self, step: Step) -> Result<()> {
        let made = self.made()?;
        let listed = self.node.csi.list().await?;
        let copies = usize::from(matches!(step, Step::Restore | Step::Clone));
        ensure!(listed.len() == 1 + copies, "{copies} copy of {} should exist, not {listed:?}", made.id);
        let snapshots = self.node.csi.snapshots().await?;
        let expected = usize::from(step.makes_a_copy());
        if step != Step::DeleteCopy {
            ensure!(snapshots.len() == expected, "{expected} snapshot should exist, not {snapshots:?}");
        }
        ensure!(snapshots.iter().all(|snapshot| snapshot.ready_to_use), "{snapshots:?}");
        // As the host reports it: no logical volume that is neither.
        let found = self.node.found().await?;
        let all = found.iter().filter(|found| found.volume.is_some()).count();
        let stored = listed.len() + snapshots.len();
        ensure!(all == stored, "{stored} should be stored:\n{}", self.node.contents().await?);
        self.read().await.context("the source")?;
        if copies == 0 {
            return Ok(());
        }
        let ask = if step == Step::Restore { restored(made) } else { cloned(made) };
        let copy = retry(|| self.node.csi.create(&ask)).await?;
        open(self.node, &copy).await?;
        let (target, old) = (copy.target(), made.size);
        let script = if ask.is_block() {
            // The zeros are below the encryption.
            let raw = if ask.is_encrypted() { self.node.storage.device(&ask.name) } else { target.clone() };
            format!(
                "yes {} | head -c {old} | cmp -n {old} - '{target}'; cmp -n {} -i {}:0 '{raw}' /dev/zero",
                made.ask.name,
                copy.size - old,
                old + ask.overhead()
            )
        } else {
            format!("seq 20000 | cmp - '{target}/file'")
        };
        self.node.vm.sh(script).await.context("the copy's contents")?;
        close(self.node, &copy).await
    }
}
