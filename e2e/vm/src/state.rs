//! The saved state of a machine that has just booted: restoring it takes a second, booting takes ten.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::agent::Guest;
use crate::cache::Cache;
use crate::host;
use crate::machine::{Machine, console_tail};

/// How long a boot may take under emulation on a busy machine.
pub(crate) const BOOT: Duration = Duration::from_secs(180);

/// Finds the folder with the machine's saved state (`state`, and `root.qcow2` as it was then), or boots it once.
pub(crate) async fn saved(cache: &Cache, machine: &Machine<'_>) -> Result<PathBuf> {
    let key = machine.key().await?;
    cache
        .entry("state", &key, async |folder: &Path| {
            eprintln!("quarry-vm: booting the guest to save its state (once)");
            save(machine, folder).await.with_context(|| console_tail(folder))
        })
        .await
}

async fn save(machine: &Machine<'_>, folder: &Path) -> Result<()> {
    overlay(&machine.image.root, "raw", folder).await?;
    let mut qemu = machine.start(folder, false, false).await?;
    qemu.qmp.call("cont", json!({})).await?;
    let guest = Guest::new(qemu.port, folder.to_owned());
    guest.wait_ready(BOOT).await?;
    // What is cached would make the state larger than what it saves.
    guest.sh("sync && echo 3 >/proc/sys/vm/drop_caches").await?;
    qemu.qmp.call("stop", json!({})).await?;
    qemu.qmp.call("migrate", json!({ "uri": "exec:cat >state" })).await?;
    qemu.qmp.wait_status(&["postmigrate"], Duration::from_secs(120)).await?;
    qemu.qmp.call("quit", json!({})).await?;
    qemu.wait(Duration::from_secs(30)).await?;
    for log in ["console.log", "qemu.log"] {
        fs::rename(folder.join(log), folder.join(format!("boot-{log}"))).context("cannot keep the boot's log")?;
    }
    Ok(())
}

/// Makes `root.qcow2` in `folder`: empty, on top of a file that is never written.
pub(crate) async fn overlay(base: &Path, format: &str, folder: &Path) -> Result<()> {
    let base = base.to_str().context("the cache folder's path is not UTF-8")?;
    let arguments = ["create", "-q", "-f", "qcow2", "-F", format, "-b", base, "root.qcow2"];
    host::run("qemu-img", arguments, folder, Duration::from_secs(30)).await?;
    Ok(())
}
