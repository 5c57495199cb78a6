//! The saved state of a freshly booted machine: a restore takes a second, a boot takes ten.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use quarry_cache::{Cache, key};
use serde_json::json;

use crate::agent::Guest;
use crate::host;
use crate::machine::{CONSOLE_LOG, Machine, Qemu, console_tail};
use crate::preparation::Preparation;

/// How long a boot may take under emulation on a busy machine.
pub(crate) const BOOT: Duration = Duration::from_secs(180);

/// How long a restored guest may take to answer.
const RESTORE: Duration = Duration::from_secs(60);

/// How long a guest may take to power off in good order.
const POWER_OFF: Duration = Duration::from_secs(60);

/// Finds the folder with the machine's saved state (`state`, and `root.qcow2` as it was then), or makes it: boots the
/// image, and then, for each preparation, does it on the state before and boots what that made of the disk.
pub(crate) async fn saved(cache: &Cache, machine: &Machine<'_>, preparations: &[Preparation]) -> Result<PathBuf> {
    let mut state_key = machine.key().await?;
    let mut saved = cache
        .entry("state", &state_key, async |folder: &Path| {
            eprintln!("quarry-vm: booting the guest to save its state (once)");
            let made = async {
                overlay(&machine.image.root, "raw", folder).await?;
                save(machine, folder).await
            };
            made.await.with_context(|| console_tail(folder))
        })
        .await?;
    for preparation in preparations {
        state_key = key([state_key.as_bytes(), preparation.key.as_bytes()]);
        let before = saved;
        saved = cache
            .entry("prepared-guest", &state_key, async |folder: &Path| {
                eprintln!("quarry-vm: preparing a guest, once: {}", preparation.name);
                prepare(machine, &before, preparation, folder)
                    .await
                    .with_context(|| format!("cannot prepare a guest ({}); {}", preparation.name, console_tail(folder)))
            })
            .await?;
    }
    Ok(saved)
}

/// Starts a machine in `folder` from a saved state; nothing is written there.
pub(crate) async fn restore(
    machine: &Machine<'_>,
    saved: &Path,
    folder: &Path,
    reach_host: bool,
) -> Result<(Qemu, Guest)> {
    overlay(&saved.join("root.qcow2"), "qcow2", folder).await?;
    symlink(saved.join("state"), folder.join("state")).context("cannot link the saved state")?;
    let qemu = machine.start(folder, true, reach_host).await?;
    qemu.qmp.wait_status(&["paused", "prelaunch"], RESTORE).await.context("cannot restore the saved state")?;
    qemu.qmp.call("cont", json!({})).await?;
    let guest = Guest::new(qemu.port, folder.to_owned());
    guest.wait_ready(RESTORE).await?;
    Ok((qemu, guest))
}

/// Powers a guest off in good order: everything is synced and flushed.
pub(crate) async fn power_off(guest: &Guest, mut qemu: Qemu) -> Result<()> {
    // The guest may be gone before the agent says how the command ended.
    let _ = guest.exec(["sh", "-c", "sync; mount -o remount,ro /; busybox poweroff -f"]).await;
    qemu.wait(POWER_OFF).await
}

async fn prepare(machine: &Machine<'_>, before: &Path, preparation: &Preparation, folder: &Path) -> Result<()> {
    let (qemu, guest) = restore(machine, before, folder, false).await?;
    // Certificates and archives have dates: the guest's clock is stopped in the saved state.
    guest.identify("quarry-vm").await?;
    (preparation.work)(guest.clone()).await?;
    // Its memory is not wanted: a guest that has just booted is a smaller state, and the same for whatever was done.
    power_off(&guest, qemu).await?;
    fs::remove_file(folder.join("state")).context("cannot unlink the state before")?;
    save(machine, folder).await
}

/// Boots the machine from `root.qcow2` in `folder` and saves its state there.
async fn save(machine: &Machine<'_>, folder: &Path) -> Result<()> {
    let mut qemu = machine.start(folder, false, false).await?;
    qemu.qmp.call("cont", json!({})).await?;
    let guest = Guest::new(qemu.port, folder.to_owned());
    guest.wait_ready(BOOT).await?;
    // The page cache would make the state larger than the time that it saves is worth.
    guest.sh("sync && echo 3 >/proc/sys/vm/drop_caches").await?;
    qemu.qmp.call("stop", json!({})).await?;
    qemu.qmp.call("migrate", json!({ "uri": "exec:cat >state" })).await?;
    qemu.qmp.wait_status(&["postmigrate"], Duration::from_secs(120)).await?;
    qemu.qmp.call("quit", json!({})).await?;
    qemu.wait(Duration::from_secs(30)).await?;
    for log in [CONSOLE_LOG, "qemu.log"] {
        fs::rename(folder.join(log), folder.join(format!("boot-{log}"))).context("cannot keep the boot's log")?;
    }
    Ok(())
}

/// Makes `root.qcow2` in `folder`: empty, on top of a file that is never written.
async fn overlay(base: &Path, format: &str, folder: &Path) -> Result<()> {
    let base = base.to_str().context("the cache folder's path is not UTF-8")?;
    let arguments = ["create", "-q", "-f", "qcow2", "-F", format, "-b", base, "root.qcow2"];
    host::run("qemu-img", arguments, folder, Duration::from_secs(30)).await?;
    Ok(())
}
