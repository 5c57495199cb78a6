//! The resident memory of an idle node plugin.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::node::Node;

/// After the start, until it has read all volumes.
const CALM: Duration = Duration::from_secs(20);

/// What a plugin that has just been started holds in memory.
pub struct Memory {
    pub volumes: usize,
    /// All of it, in MiB.
    pub resident: f64,
    /// The part that is not the program's file, in MiB.
    pub own: f64,
}

/// Starts Quarry again beside this number of volumes, and reads its memory when it is idle.
pub async fn at(node: &mut Node, volumes: usize) -> Result<Memory> {
    node.serve("info").await?;
    node.sh("quarry csi list >/dev/null; quarry csi capacity >/dev/null").await?;
    tokio::time::sleep(CALM).await;
    let status = node.sh(format!("cat /proc/{}/status", node.pid()?)).await?;
    let mib = |field: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
        let kib: f64 = value.with_context(|| format!("/proc/PID/status has no {field}"))?.parse()?;
        Ok::<_, anyhow::Error>(kib / 1024.0)
    };
    Ok(Memory { volumes, resident: mib("VmRSS:")?, own: mib("RssAnon:")? })
}
