//! The resident memory of an idle node plugin.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::node::Node;

/// After the start, until it has read all volumes.
const CALM: Duration = Duration::from_secs(20);

/// How many volumes are created and deleted.
const CHANGES: usize = 10;

/// What a plugin that has just been started holds in memory.
pub struct Memory {
    pub volumes: usize,
    /// All of it, in MiB.
    pub resident: f64,
    /// The part that is not the program's file, in MiB.
    pub own: f64,
    /// The same after volumes were created and deleted: the allocator may keep what was freed.
    pub own_after_changes: f64,
}

/// Starts Quarry again beside this number of volumes, and reads its memory when it is idle.
pub async fn at(node: &mut Node, volumes: usize) -> Result<Memory> {
    node.serve("info").await?;
    node.sh("quarry csi list >/dev/null; quarry csi capacity >/dev/null").await?;
    let before = status(node).await?;
    let change = format!(
        "for n in $(seq {CHANGES}); do \
         id=$(quarry csi create memory --size 64Mi --param pool=fast -o json | \
         sed -n 's/.*\"volume_id\": *\"\\([^\"]*\\)\".*/\\1/p' | head -n 1); test -n \"$id\"; \
         quarry csi delete \"$id\" >/dev/null; done"
    );
    node.sh(format!("set -e; {change}")).await?;
    let after = status(node).await?;
    let own_after_changes = mib(&after, "RssAnon:")?;
    Ok(Memory { volumes, resident: mib(&before, "VmRSS:")?, own: mib(&before, "RssAnon:")?, own_after_changes })
}

/// The plugin's status in /proc, once it is idle.
async fn status(node: &Node) -> Result<String> {
    tokio::time::sleep(CALM).await;
    node.sh(format!("cat /proc/{}/status", node.pid()?)).await
}

/// A field of a status in MiB.
fn mib(status: &str, field: &str) -> Result<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
    let kib: f64 = value.with_context(|| format!("/proc/PID/status has no {field}"))?.parse()?;
    Ok(kib / 1024.0)
}
