//! What changes a volume group: each function is one `lvm` process that is never killed by us.
//!
//! Every argument that comes from outside is checked here once more before it reaches lvm: a name that begins with a
//! hyphen would be an option, a tag outside lvm's alphabet another tag.
//!
//! In a volume group that lacks a disk lvm makes nothing new, but still removes volumes and changes tags. Any such
//! change writes the lost disk off: when it comes back, it and what lies on it count as missing until the operator says
//! `vgextend --restoremissing`. Whoever can do without the change should, for as long as the disk may come back.

use std::path::{Path, PathBuf};

use quarry_exec::{Command, Output};
use quarry_volume::Layout;

use crate::{Error, udev, vg_name_fits};

macro_rules! settings {
    ($more:literal) => {
        concat!(
            "activation/monitoring=0 log/verbose=0 log/debug_classes=[] log/prefix=\"  \" log/command_names=0 ",
            "log/report_command_log=0 devices/hints=\"none\" report/list_item_separator=\",\" report/compact_output=0 report/buffered=1",
            $more
        )
    };
}

/// A logical volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateLv {
    /// The volume group.
    pub vg: String,
    /// The name, as [`crate::safe_name`] gives it.
    pub name: String,
    /// Extents that the volume offers, layout overhead not counted; for striped a multiple of the stripes.
    pub extents: u64,
    /// How it lies on the physical volumes.
    pub layout: Layout,
    /// Given to the volume by the same command, before any other process can see it.
    pub tags: Vec<String>,
    /// The physical volumes to use: for striped and raid1 as many as [`Layout::width`], see
    /// [`crate::capacity::choose`]; for linear none leaves the choice to lvm.
    pub pvs: Vec<PathBuf>,
}

/// Settings pinned in every command, whatever the host's lvm.conf says; all others (filters, devices file, locking,
/// system ID, backups and archives of the metadata) stay the host's.
///
/// * Monitoring: off. lvm would start dmeventd where we run, so inside our container, where it dies with us. What it
///   would say of a raid is in the report. A host that runs dmeventd itself monitors the volumes from the next boot on.
/// * Output: lists with commas and no messages between the lines, or the report could not be read.
/// * Hints: neither read nor written. lvm would note which disks carry physical volumes, and a disk that failed for a moment
///   would be left out by every later command.
/// * Device nodes: where no udevd runs, lvm makes them itself.
pub(crate) fn settings() -> [&'static str; 2] {
    let settings = if udev::listening() { SETTINGS } else { SETTINGS_WITHOUT_UDEV };
    ["--config", settings]
}

const SETTINGS: &str = settings!("");
const SETTINGS_WITHOUT_UDEV: &str = settings!(" activation/udev_sync=0 activation/udev_rules=0");

/// Makes a logical volume, and leaves it active. One extent is not zeroed and no signature is wiped by lvm (`-Zn -Wn`):
/// that is our own task, under O_EXCL, when the volume is known to be the right one.
///
/// linear and striped are one metadata commit, tags included: killed at any instant, the command leaves the volume or
/// nothing. raid1 is two: the first has the volume, tags and all, but flagged to be skipped at activation, and with its
/// metadata volumes visible and active, to be cleared; the second has the whole. Killed between, the command leaves
/// what [`crate::VolumeGroup::incompleteness`] tells; [`remove`] takes it away with its parts. Killed after the last
/// commit, any layout may be left complete but inactive.
///
/// raid1 is made without an initial synchronisation (`--nosync`). It would copy the first image to the others, hours of
/// load per terabyte for bytes that nobody wrote, and until its end the loss of the first disk leaves lvm unable to
/// repair. The price: bytes never written may read different from each image. No file system reads what it did not
/// write, and volumes for raw blocks are zeroed before they are handed out; a scrub will count such places as
/// mismatches. For whoever wipes signatures it means: write unconditionally, do not trust a probe that found none.
///
/// # Errors
/// Among others [`Error::AlreadyExists`] and [`Error::NoSpace`]; nothing was made.
pub async fn create(request: &CreateLv) -> Result<(), Error> {
    let CreateLv { vg, name, extents, layout, tags, pvs } = request;
    check_name(vg, name)?;
    let mut command = mutation("lvcreate", vg).args(["-y", "-Wn", "-Zn", "--alloc", "normal"]);
    command = match layout {
        // Without a type lvm.conf's own choice of a default would come in.
        Layout::Linear => command.args(["--type", "linear"]),
        Layout::Striped { stripes, stripe_size } => {
            check_width(layout, pvs)?;
            let (stripes, stripe_size) = (stripes.to_string(), format!("{stripe_size}b"));
            command.args(["--type", "striped", "--stripes", &stripes, "--stripesize", &stripe_size])
        }
        Layout::Raid1 { mirrors } => {
            check_width(layout, pvs)?;
            command.args(["--type", "raid1", "--mirrors", &mirrors.to_string(), "--nosync"])
        }
        Layout::Raid5 { .. } | Layout::Raid6 { .. } | Layout::Raid10 { .. } => {
            return Err(Error::Argument(format!("layout {layout} is not made by this version")));
        }
    };
    command = command.args(["--extents", &extents.to_string(), "--name", name]);
    for tag in tags {
        command = command.args(["--addtag", check_tag(tag)?]);
    }
    command = command.arg(vg);
    for pv in pvs {
        command = command.arg(check_device(pv)?);
    }
    succeed(command).await
}

/// lvm's words for a logical volume that nothing depends on.
const ALONE: &str = "lv_role!={\"thickorigin\" || \"extthinorigin\"} && \
                     lv_layout!={\"cache\" || \"writecache\" || \"pool\" || \"vdo\"}";

/// Removes a logical volume with its parts. Refused while it is open or mounted: there is no `-f`.
///
/// One that has become the origin of a snapshot, a cached volume or a pool is left alone, because lvm would remove what
/// depends on it as well; that is no error. lvm looks at this under its own lock.
///
/// Only the volume with that UUID is removed. Another one of the same name is left alone, and that is no error: a command
/// that outlives who started it may come to its turn when the name is a newer volume's.
///
/// # Errors
/// Among others [`Error::InUse`] and [`Error::NotFound`].
pub async fn remove(vg: &str, name: &str, uuid: &str) -> Result<(), Error> {
    let alone = format!("{} && {ALONE}", only(uuid)?);
    succeed(mutation("lvremove", vg).args(["-y", "--select", &alone]).arg(target(vg, name)?)).await
}

/// Makes a logical volume's device appear. A volume flagged to be skipped stays inactive, and lvm calls that a success:
/// the caller looks for the device. We never pass `-K`, because that flag on a volume of ours says that its creation was
/// cut off. A raid comes up with a lost disk (`degraded`); one that lacks data does not, whatever lvm.conf says.
///
/// # Errors
/// Among others [`Error::MissingPv`] and [`Error::NotFound`].
pub async fn activate(vg: &str, name: &str) -> Result<(), Error> {
    let command = mutation("lvchange", vg).args(["-y", "--activationmode", "degraded", "--activate", "y"]);
    succeed(command.arg(target(vg, name)?)).await
}

/// Makes a logical volume's device disappear. Its metadata stays as it is, and nothing is written. Refused while the device
/// is open. As with [`remove`], only the volume with that UUID is meant.
///
/// # Errors
/// Among others [`Error::InUse`] and [`Error::NotFound`].
pub async fn deactivate(vg: &str, name: &str, uuid: &str) -> Result<(), Error> {
    let command = mutation("lvchange", vg).args(["-y", "--activate", "n", "--select", &only(uuid)?]);
    succeed(command.arg(target(vg, name)?)).await
}

/// Takes tags from a logical volume and gives it others, in one metadata commit. A tag that is there already, or is not
/// there to be taken, is no error. A tag in both lists stays. As with [`remove`], only the volume with that UUID is meant.
///
/// # Errors
/// Among others [`Error::NotFound`].
pub async fn change_tags(vg: &str, name: &str, uuid: &str, del: &[&str], add: &[&str]) -> Result<(), Error> {
    let del: Vec<&str> = del.iter().copied().filter(|tag| !add.contains(tag)).collect();
    if del.is_empty() && add.is_empty() {
        return Ok(());
    }
    let mut command = mutation("lvchange", vg).args(["-y", "--select", &only(uuid)?]);
    for tag in del {
        command = command.args(["--deltag", check_tag(tag)?]);
    }
    for tag in add {
        command = command.args(["--addtag", check_tag(tag)?]);
    }
    succeed(command.arg(target(vg, name)?)).await
}

/// A command that changes `vg`.
pub(crate) fn mutation(subcommand: &'static str, vg: &str) -> Command {
    Command::mutation("lvm").arg(subcommand).unshown(settings()).on(vg)
}

/// Runs a command that must succeed.
pub(crate) async fn succeed(command: Command) -> Result<(), Error> {
    let output: Output = command.run().await?;
    if output.success() { Ok(()) } else { Err(Error::failed(output)) }
}

/// lvm's words for the one logical volume with that UUID.
fn only(uuid: &str) -> Result<String, Error> {
    if !uuid.is_empty() && uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Ok(format!("lv_uuid=\"{uuid}\""));
    }
    Err(Error::Argument(format!("`{uuid}` cannot be the UUID of a logical volume")))
}

fn target(vg: &str, name: &str) -> Result<String, Error> {
    check_name(vg, name)?;
    Ok(format!("{vg}/{name}"))
}

/// Names are used as found in a report too (a part left behind by a creation), so reserved words are allowed here.
fn check_name(vg: &str, name: &str) -> Result<(), Error> {
    let plain = |text: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
        !text.is_empty() && !text.starts_with('-') && text.len() <= 127 && text.bytes().all(allowed)
    };
    if plain(name) && vg_name_fits(vg) {
        return Ok(());
    }
    Err(Error::Argument(format!("`{vg}/{name}` cannot be the name of a logical volume of ours")))
}

/// lvm's alphabet for tags; it allows no leading hyphen.
fn check_tag(tag: &str) -> Result<&str, Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&byte);
    if !tag.is_empty() && !tag.starts_with('-') && tag.len() <= 1024 && tag.bytes().all(allowed) {
        return Ok(tag);
    }
    Err(Error::Argument(format!("`{tag}` cannot be a tag of lvm's")))
}

fn check_device(device: &Path) -> Result<&Path, Error> {
    // lvm reads a colon as the beginning of a range of extents.
    if device.is_absolute() && !device.as_os_str().as_encoded_bytes().contains(&b':') {
        return Ok(device);
    }
    Err(Error::Argument(format!("{} cannot be named to lvm as a physical volume", device.display())))
}

fn check_width(layout: &Layout, pvs: &[PathBuf]) -> Result<(), Error> {
    if u32::try_from(pvs.len()) == Ok(layout.width()) {
        return Ok(());
    }
    Err(Error::Argument(format!("layout {layout} takes {} physical volumes, not {}", layout.width(), pvs.len())))
}
