//! The resident memory of an idle node plugin.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::node::Node;

/// After the start, until it has read all volumes.
const CALM: Duration = Duration::from_secs(20);

/// What a plugin that has just been started holds in memory.
pub struct Memory {
    pub volumes: usize,
    pub mib: f64,
}

/// Starts Quarry again beside this number of volumes, and reads its memory when it is idle.
pub async fn at(node: &mut Node, volumes: usize) -> Result<Memory> {
    node.serve("info").await?;
    node.sh("quarry csi list >/dev/null; quarry csi capacity >/dev/null").await?;
    tokio::time::sleep(CALM).await;
    let script = format!("sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/{}/status", node.pid()?);
    let kib: f64 = node.sh(script).await?.trim().parse().context("VmRSS")?;
    Ok(Memory { volumes, mib: kib / 1024.0 })
}
