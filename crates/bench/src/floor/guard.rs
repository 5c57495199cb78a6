//! Which logical volumes are this run's.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use quarry_exec::Command;
use quarry_lvm::{LvUuid, parse_device_uuid};
use quarry_mount::Device;

/// Checks that the volume group, and the thin pool, exist.
///
/// # Errors
/// A name that lvm would take for something else, or lvm's message.
pub(super) async fn check_group(group: &str, thin_pool: Option<&str>) -> anyhow::Result<()> {
    for name in std::iter::once(group).chain(thin_pool) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
        anyhow::ensure!(
            !name.is_empty() && !name.starts_with('-') && !matches!(name, "." | "..") && name.chars().all(allowed),
            "{name:?} is not the name of a volume group or a thin pool"
        );
    }
    let report = match thin_pool {
        Some(pool) => Command::query("lvm")
            .subcommand("lvs")
            .args(["--noheadings", "-o", "lv_layout"])
            .arg(format!("{group}/{pool}")),
        None => Command::query("lvm").subcommand("vgs").args(["--noheadings", "-o", "vg_name"]).arg(group),
    };
    let output = report.run().await?.require_success().context("reading the volume group of the floor")?;
    let layout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    anyhow::ensure!(
        thin_pool.is_none() || ["thin", "pool"].iter().all(|word| layout.split(',').any(|part| part == *word)),
        "{group}/{} is not a thin pool, but {layout}",
        thin_pool.unwrap_or_default()
    );
    Ok(())
}

/// How long a report may take: it waits for the commands of others.
const DEADLINE: Duration = Duration::from_secs(300);

/// The logical volumes with this tag, by name.
///
/// # Errors
/// lvm's report failed or cannot be read.
pub(super) async fn tagged(group: &str, tag: &str) -> anyhow::Result<BTreeMap<String, LvUuid>> {
    let command = Command::query("lvm").subcommand("lvs").deadline(DEADLINE);
    let command = command.args(["--noheadings", "--separator", " ", "-o", "lv_uuid,lv_name", "--select"]);
    let output = command.arg(format!("lv_tags=\"{tag}\"")).arg(group).run().await?;
    let output = output.require_success().context("reading the logical volumes of this run")?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Reads lines of `UUID NAME`.
pub(super) fn parse(text: &str) -> anyhow::Result<BTreeMap<String, LvUuid>> {
    let read = |line: &str| -> anyhow::Result<(String, LvUuid)> {
        let (uuid, name) = line.trim().split_once(' ').context("no name")?;
        Ok((name.trim().to_owned(), uuid.parse()?))
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| read(line).with_context(|| format!("cannot read {line:?} in the report of lvm"))).collect()
}

/// The UUID of the logical volume behind a device, as the kernel has it. `None` for other devices.
pub(super) fn uuid_of(device: &str) -> Option<LvUuid> {
    let device = Device::of_node(Path::new(device))?;
    let uuid = std::fs::read_to_string(format!("/sys/dev/block/{device}/dm/uuid")).ok()?;
    parse_device_uuid(uuid.trim_end()).map(|(_, volume)| volume)
}

/// Checks that a device is the logical volume that this run created.
///
/// # Errors
/// A sentence: it is something else, or its UUID is not known.
pub(super) fn check_device(device: &str, created: Option<LvUuid>) -> Result<(), String> {
    compare(device, created, uuid_of(device))
}

/// As [`check_device`]; `found` is the logical volume behind the device.
pub(super) fn compare(device: &str, created: Option<LvUuid>, found: Option<LvUuid>) -> Result<(), String> {
    match (created, found) {
        (Some(created), Some(found)) if created == found => Ok(()),
        (Some(created), Some(found)) => {
            Err(format!("{device} is the logical volume {found}, but this run created {created}; nothing was written"))
        }
        (_, None) => Err(format!("{device} is not an active logical volume; nothing was written")),
        (None, _) => Err(format!("this run does not know that it created {device}; nothing was written")),
    }
}

/// Whether something is mounted at a path.
///
/// # Errors
/// The kernel's table of mounts cannot be read.
pub(super) fn is_mounted(path: &Path) -> anyhow::Result<bool> {
    Ok(quarry_mount::at(path)?.is_some())
}
