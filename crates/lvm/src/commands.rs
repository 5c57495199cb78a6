//! What changes a volume group: each function is one `lvm` process that is never killed by us.
//!
//! Every argument that comes from outside is checked here once more before it reaches lvm: a name that begins with a
//! hyphen would be an option, a tag outside lvm's alphabet another tag.
//!
//! In a volume group that lacks a disk lvm makes nothing new, but still removes volumes and changes tags. Any such
//! change writes the lost disk off: when it comes back, it and what lies on it count as missing until the operator says
//! `vgextend --restoremissing`. Whoever can do without the change should, for as long as the disk may come back.

use std::path::{Path, PathBuf};

use quarry_volume::Layout;

use crate::mutation::Mutation;
use crate::{Error, VolumeGroup, activation, nested, vg_name_fits};

/// A logical volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateLv {
    /// The name, as [`quarry_volume::safe_name`] gives it.
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

/// Makes a logical volume, and leaves it active.
///
/// lvm zeroes its first 4 KiB and wipes the signatures that it knows (`-Zy -Wy`). That is not what makes the volume safe
/// to use: we wipe or zero it ourselves, under O_EXCL, when it is known to be the right one. But only a volume that lvm
/// itself wipes is hidden from udev until then, and its extents may hold what another volume left: the host's udev would
/// have mdadm take the device for a member of an array before we could open it.
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
pub async fn create(group: &VolumeGroup, request: &CreateLv) -> Result<(), Error> {
    let CreateLv { name, extents, layout, tags, pvs } = request;
    check_name(&group.name, name)?;
    let mut command = Mutation::new("lvcreate", group).args(["-y", "-Wy", "-Zy", "--alloc", "normal"]);
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
    };
    command = command.args(["--extents", &extents.to_string(), "--name", name]);
    for tag in tags {
        command = command.args(["--addtag", check_tag(tag)?]);
    }
    command = command.arg(&group.name);
    for pv in pvs {
        command = command.arg(check_device(pv)?);
    }
    match command.run().await {
        // lvm hides what is the host's own choice behind a question mark, or behind a device that it cannot open.
        Err(Error::Denied { command, stderr }) => {
            Err(Error::Denied { command, stderr: stderr + &activation::lists_in_words().await })
        }
        result => result,
    }
}

/// lvm's words for a logical volume that nothing depends on.
const ALONE: &str = "lv_role!={\"thickorigin\" || \"extthinorigin\"} && \
                     lv_layout!={\"cache\" || \"writecache\" || \"pool\" || \"vdo\"}";

/// Removes a logical volume with its parts. Refused while it is open or mounted: there is no `-f`. A tenant's logical
/// volume inside of it, which the host activated and nobody uses, is no reason to refuse: it is deactivated.
///
/// One that has become the origin of a snapshot, a cached volume or a pool is left alone, because lvm would remove what
/// depends on it as well; that is no error. lvm looks at this under its own lock.
///
/// Only the volume with that UUID is removed. Another one of the same name is left alone, and that is no error: a command
/// that outlives who started it may come to its turn when the name is a newer volume's.
///
/// # Errors
/// Among others [`Error::InUse`] and [`Error::NotFound`].
pub async fn remove(group: &VolumeGroup, name: &str, uuid: &str) -> Result<(), Error> {
    let alone = format!("{} && {ALONE}", only(uuid)?);
    nested::release(group, uuid).await;
    let command = Mutation::new("lvremove", group).args(["-y", "--select", &alone]);
    command.arg(target(&group.name, name)?).run().await
}

/// Makes a logical volume's device appear. A volume flagged to be skipped stays inactive, and lvm calls that a success:
/// the caller looks for the device. One that the host's lvm.conf does not let lvm activate, or only read-only, is
/// [`Error::Denied`]. We never pass `-K`, because that flag on one of Quarry's volumes means that its creation was
/// cut off. A raid comes up with a lost disk (`degraded`); one that lacks data does not, whatever lvm.conf says.
///
/// # Errors
/// Among others [`Error::MissingPv`] and [`Error::NotFound`].
pub async fn activate(group: &VolumeGroup, name: &str) -> Result<(), Error> {
    let command = Mutation::new("lvchange", group).args(["-y", "--activationmode", "degraded", "--activate", "y"]);
    command.arg(target(&group.name, name)?).run().await?;
    match activation::refusal(group, name).await {
        Some(stderr) => {
            Err(Error::Denied { command: format!("lvm lvchange --activate y {}/{name}", group.name), stderr })
        }
        None => Ok(()),
    }
}

/// Makes a logical volume's device disappear. Its metadata stays as it is, and nothing is written. Refused while the device
/// is open. As with [`remove`], only the volume with that UUID is meant.
///
/// # Errors
/// Among others [`Error::InUse`] and [`Error::NotFound`].
pub async fn deactivate(group: &VolumeGroup, name: &str, uuid: &str) -> Result<(), Error> {
    let command = Mutation::new("lvchange", group).args(["-y", "--activate", "n", "--select", &only(uuid)?]);
    command.arg(target(&group.name, name)?).run().await
}

/// Takes tags from a logical volume and gives it others, in one metadata commit. A tag that is there already, or is not
/// there to be taken, is no error. A tag in both lists stays. As with [`remove`], only the volume with that UUID is meant.
///
/// # Errors
/// Among others [`Error::NotFound`].
pub async fn change_tags(group: &VolumeGroup, name: &str, uuid: &str, del: &[&str], add: &[&str]) -> Result<(), Error> {
    let del: Vec<&str> = del.iter().copied().filter(|tag| !add.contains(tag)).collect();
    if del.is_empty() && add.is_empty() {
        return Ok(());
    }
    let mut command = Mutation::new("lvchange", group).args(["-y", "--select", &only(uuid)?]);
    for tag in del {
        command = command.args(["--deltag", check_tag(tag)?]);
    }
    for tag in add {
        command = command.args(["--addtag", check_tag(tag)?]);
    }
    command.arg(target(&group.name, name)?).run().await
}

/// lvm's words for the one logical volume with that UUID.
fn only(uuid: &str) -> Result<String, Error> {
    if !uuid.is_empty() && uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Ok(format!("lv_uuid=\"{uuid}\""));
    }
    Err(Error::Argument(format!("`{uuid}` is not a valid UUID of a logical volume")))
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
    Err(Error::Argument(format!("`{vg}/{name}` is not a valid name of a logical volume")))
}

/// lvm's alphabet for tags; it allows no leading hyphen.
fn check_tag(tag: &str) -> Result<&str, Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&byte);
    if !tag.is_empty() && !tag.starts_with('-') && tag.len() <= 1024 && tag.bytes().all(allowed) {
        return Ok(tag);
    }
    Err(Error::Argument(format!("`{tag}` is not a valid lvm tag")))
}

fn check_device(device: &Path) -> Result<&Path, Error> {
    // lvm reads a colon as the beginning of a range of extents.
    if device.is_absolute() && !device.as_os_str().as_encoded_bytes().contains(&b':') {
        return Ok(device);
    }
    Err(Error::Argument(format!("{} is not a valid path of a physical volume for lvm", device.display())))
}

fn check_width(layout: &Layout, pvs: &[PathBuf]) -> Result<(), Error> {
    if u32::try_from(pvs.len()) == Ok(layout.width()) {
        return Ok(());
    }
    Err(Error::Argument(format!("layout {layout} needs {} physical volumes, not {}", layout.width(), pvs.len())))
}
