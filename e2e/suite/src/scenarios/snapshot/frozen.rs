//! How long a pod's writes wait while a snapshot is taken, compared with what the metric says.

use anyhow::{Context as _, Result, ensure};
use quarry_vm::Throttle;

use crate::csi::{Ask, MIB, retry};
use crate::node::Node;
use crate::scenarios::steps::{close, open};

/// The speed of the disk, in bytes per second.
const SPEED: u64 = 16 << 20;
/// What is in the page cache, and is written while the filesystem is frozen: that takes four seconds.
const DIRTY: u64 = 64 << 20;
/// The largest difference, in seconds: the pauses of a writer on an emulated processor that is busy with other guests.
const DIFFERENCE: f64 = 1.5;
/// The metrics: how long sources were frozen, and for how many snapshots.
const SECONDS: &str = "quarry_snapshot_frozen_seconds_total";
const TAKEN: &str = "quarry_snapshots_taken_total";
/// The kernel writes nothing of its own accord while the test runs.
const KEEP_DIRTY: &str = "sysctl -qw vm.dirty_ratio=90 vm.dirty_background_ratio=80 vm.dirty_expire_centisecs=60000";

/// Takes a snapshot of a filesystem on disk `d1` with much to write, while something writes to it again and again.
/// Returns both times in seconds: the longest that a write took, and what was added to the metric.
pub async fn measured(node: &mut Node, filesystem: &'static str) -> Result<(f64, f64)> {
    let ask = Ask::mount("pvc-frozen", filesystem).size(400 * MIB);
    let source = retry(|| node.csi.create(&ask)).await?;
    open(node, &source).await?;
    let target = source.target();
    let writes = format!(
        "{KEEP_DIRTY}; dd if=/dev/zero of='{target}/dirty' bs=1M count={} status=none; rm -f /run/written /run/longest; \
         (longest=0; before=$(date +%s%N); until [ -e /run/written ]; do echo > '{target}/again'; now=$(date +%s%N); \
         [ $((now - before)) -le $longest ] || longest=$((now - before)); before=$now; done; \
         echo $longest > /run/longest) > /run/writer 2>&1 &",
        DIRTY >> 20
    );
    let (before, count) = (node.metric(SECONDS).await?, node.metric(TAKEN).await?);
    node.vm.sh(writes).await?;
    node.vm.set_throttle("d1", Throttle { bytes_per_second: SPEED, ..Throttle::default() }).await?;
    let snapshot = retry(|| node.csi.snapshot("snap-frozen", &source.id)).await;
    node.vm.set_throttle("d1", Throttle::default()).await?;
    let snapshot = snapshot.context("CreateSnapshot")?;
    let longest = "touch /run/written; for n in $(seq 100); do [ ! -s /run/longest ] || break; sleep 0.1; done; \
                   cat /run/writer /run/longest";
    let longest = node.vm.sh(longest).await?;
    let waited = longest.trim().parse::<f64>().with_context(|| format!("the writer says {longest:?}"))? / 1e9;
    let (frozen, taken) = (node.metric(SECONDS).await? - before, node.metric(TAKEN).await? - count);
    ensure!((taken - 1.0).abs() < 0.1, "{taken} snapshots were counted instead of one");
    ensure!(waited > 3.0, "the longest write took {waited:.2} s: too little to compare");
    ensure!(
        (waited - frozen).abs() < DIFFERENCE,
        "{filesystem}: a write waited for {waited:.2} s, and the metric says {frozen:.2} s"
    );
    close(node, &source).await?;
    retry(|| node.csi.delete_snapshot(&snapshot.snapshot_id)).await?;
    retry(|| node.csi.delete(&source.id)).await?;
    node.expect_empty().await?;
    Ok((waited, frozen))
}
