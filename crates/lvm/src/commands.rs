//! The commands that change a volume group. Each function runs one `lvm` process, which Quarry never kills.
//!
//! Every argument that comes from outside is checked here again before it reaches lvm: a name that begins
//! with a hyphen would be an option, and a tag with characters that lvm does not allow would be another tag.
//!
//! In a volume group that lacks a disk, lvm creates nothing new, but still removes volumes and changes tags.
//! Any such change writes the lost disk off: when it comes back, the disk and its contents count as missing
//! until the operator runs `vgextend --restoremissing`. Callers should avoid such changes as long as the disk
//! may come back.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use quarry_volume::{Extents, Layout};

use crate::mutation::Mutation;
use crate::settings::Discards;
use crate::{COW_CHUNK, Error, ExtentRange, LogicalVolume, VolumeGroup, activation, nested, vg_name_fits};

pub mod group;
pub mod thin;

/// A logical volume to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateLv {
    /// The name, as returned by [`quarry_volume::safe_name`].
    pub name: String,
    /// The usable extents, without the layout's overhead. For striped, a multiple of the stripes.
    pub extents: Extents,
    /// The layout on the physical volumes.
    pub layout: Layout,
    /// Set by the same command, before any other process can see the volume.
    pub tags: Vec<String>,
    /// The physical volumes to use: for striped and raid1 exactly [`Layout::width`] of them, see
    /// [`crate::capacity::choose`]. For linear, an empty list lets lvm choose.
    pub pvs: Vec<PathBuf>,
}

/// Creates a logical volume, and leaves it active.
///
/// lvm zeroes its first 4 KiB and wipes the signatures that it knows (`-Zy -Wy`). That does not make the
/// volume safe to use: Quarry wipes or zeroes it itself, under O_EXCL, when it is known to be the right one.
/// But only a volume that lvm wipes is hidden from udev until then, and its extents may hold data of a
/// removed volume: the host's udev would let mdadm take the device for a member of an array before Quarry
/// could open it.
///
/// linear and striped are one metadata commit, including the tags: if the command is killed at any instant,
/// it leaves the volume or nothing. raid1 needs two: the first has the volume with its tags, but with the
/// activation-skip flag, and with its metadata volumes visible and active, to be cleared; the second has the
/// complete volume. If the command is killed in between, it leaves what
/// [`crate::VolumeGroup::incompleteness`] detects; [`remove`] removes that with all parts. If it is killed
/// after the last commit, any layout may be left complete but inactive.
///
/// raid1 is created without an initial synchronization (`--nosync`). That would copy the first image to the
/// others, which means hours of load per terabyte for bytes that were never written, and until its end, lvm
/// could not repair the loss of the first disk. The price: bytes that were never written may read differently
/// from each image. No filesystem reads what it did not write, and volumes for raw block access are zeroed
/// before they are handed out; a scrub counts such places as mismatches. So signatures must be wiped with
/// unconditional writes: a probe that found none is not reliable.
///
/// # Errors
/// Among others [`Error::AlreadyExists`] and [`Error::NoSpace`]; nothing was created.
pub async fn create(group: &VolumeGroup, request: &CreateLv) -> Result<(), Error> {
    let CreateLv { name, extents, layout, tags, pvs } = request;
    check_name(group, name)?;
    let mut command = Mutation::new("lvcreate", group).args(["-y", "-Wy", "-Zy", "--alloc", "normal"]);
    command = match layout {
        // Without a type, the default of lvm.conf would apply.
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
        // lvm reports a restriction of the host only with a question mark, or as a device that it cannot
        // open.
        Err(Error::Denied { command, stderr }) => {
            Err(Error::Denied { command, stderr: stderr + &activation::describe_lists().await })
        }
        result => result,
    }
}

/// Creates a linear logical volume of exactly these extents, and leaves it active. One metadata commit, as for
/// [`create`], which says what lvm wipes. lvm decides in which order it uses the extents.
///
/// # Errors
/// As for [`create`]; [`Error::NoSpace`] also if one of the extents is not free.
pub async fn create_on(group: &VolumeGroup, name: &str, tags: &[String], ranges: &[ExtentRange]) -> Result<(), Error> {
    check_name(group, name)?;
    let total = ranges.iter().fold(Extents::NONE, |sum, range| sum.and(range.extents));
    let mut command = Mutation::new("lvcreate", group).args(["-y", "-Wy", "-Zy", "--alloc", "normal"]);
    command = command.args(["--type", "linear", "--extents", &total.to_string(), "--name", name]);
    for tag in tags {
        command = command.args(["--addtag", check_tag(tag)?]);
    }
    command.arg(&group.name).args(range_arguments(group, ranges)?).run().await
}

/// A snapshot to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSnapshot<'a> {
    /// The volume to take it of. It should be active.
    pub source: &'a LogicalVolume,
    /// Its name.
    pub name: &'a str,
    /// The extents for blocks that are overwritten later: [`crate::cow_extents`].
    pub extents: Extents,
    /// Set by the same command.
    pub tag: &'a str,
    /// The physical volumes to use: [`crate::capacity::choose_for_snapshot`].
    pub pvs: &'a [PathBuf],
}

/// Creates a copy-on-write snapshot of a logical volume, and leaves it active. The volume may be mounted: lvm suspends
/// it, which freezes its filesystem, until the snapshot is in place.
///
/// Its device is read-only. Otherwise something on the host could write to it (mdadm and lvm do when they find a member
/// of an array or a physical volume of a tenant on it), and it would not have the contents of the instant any more.
/// Only the layer below it, with the space for overwritten blocks, is writable.
///
/// Two metadata commits. The first has a linear volume with the tag, which lvm clears; the second makes it a snapshot.
/// If the command is killed in between, it leaves a volume without an origin. If it is killed between the second one
/// and the end of the suspension, the kernel gets the snapshot only when the volume is refreshed or activated next, so
/// the snapshot does not have the contents of the instant at which it was asked for.
///
/// # Errors
/// Among others [`Error::NoSpace`], [`Error::NotFound`] and [`Error::AlreadyExists`].
pub async fn create_snapshot(group: &VolumeGroup, request: &CreateSnapshot<'_>) -> Result<(), Error> {
    snapshot_command(group, request)?.run_freezing(group, request.source).await
}

fn snapshot_command<'a>(group: &'a VolumeGroup, request: &CreateSnapshot<'_>) -> Result<Mutation<'a>, Error> {
    let CreateSnapshot { source, name, extents, tag, pvs } = request;
    check_name(group, name)?;
    if pvs.is_empty() {
        // lvm would use any disk.
        return Err(Error::Argument("no physical volumes are given for a snapshot".to_owned()));
    }
    let mut command = Mutation::new("lvcreate", group);
    command = command.args(["-y", "--snapshot", "--permission", "r", "--alloc", "normal", "--name", name]);
    command = command.args(["--extents", &extents.to_string(), "--chunksize", &format!("{COW_CHUNK}b")]);
    command = command.args(["--addtag", check_tag(tag)?]).arg(target(group, source)?);
    for pv in *pvs {
        command = command.arg(check_device(pv)?);
    }
    Ok(command)
}

/// Makes a logical volume larger, to `size` usable extents, on exactly these extents: for striped and raid1, the
/// same number on the disk of each stripe or image. An active volume's device has the new size afterwards. One
/// metadata commit; if the command is killed after it, the device may still have the old size: see [`refresh`].
///
/// A raid1 must be active: otherwise, lvm asks whether to synchronize the new part, and `-y` agrees. A raid1 that
/// was created without a synchronization is not synchronized here, either.
///
/// For striped and raid1, lvm may use only the disk that a stripe or an image ends on (`--alloc cling`), so that
/// no two of them ever share a disk.
///
/// The filesystem on the volume is not changed: `-r` is never passed.
///
/// # Errors
/// Among others [`Error::NoSpace`] if one of the extents is not free, and [`Error::NotFound`]; nothing was
/// changed.
pub async fn extend(
    group: &VolumeGroup,
    volume: &LogicalVolume,
    layout: &Layout,
    size: Extents,
    ranges: &[ExtentRange],
) -> Result<(), Error> {
    let mut command = Mutation::new("lvextend", group).with_same_devices().arg("-y");
    command = match layout {
        Layout::Linear => command.args(["--alloc", "normal"]),
        Layout::Striped { stripes, stripe_size } => {
            let (stripes, stripe_size) = (stripes.to_string(), format!("{stripe_size}b"));
            command.args(["--alloc", "cling", "--stripes", &stripes, "--stripesize", &stripe_size])
        }
        Layout::Raid1 { .. } => command.args(["--alloc", "cling"]),
    };
    // Not relative: a command that outlives its caller may get lvm's lock only when the volume is larger.
    command = command.args(["--extents", &size.to_string()]).arg(target(group, volume)?);
    command.args(range_arguments(group, ranges)?).run().await
}

/// Loads the table of an active logical volume again, so that its device has the size in the metadata. As in
/// [`remove`], only the volume with that UUID is affected.
///
/// # Errors
/// Among others [`Error::NotFound`].
pub async fn refresh(group: &VolumeGroup, volume: &LogicalVolume) -> Result<(), Error> {
    let command = Mutation::new("lvchange", group).with_same_devices();
    command.args(["-y", "--refresh", "--select", &select(volume)]).arg(target(group, volume)?).run().await
}

/// lvm's selection criteria for a logical volume without dependents.
const WITHOUT_DEPENDENTS: &str = "lv_role!={\"thickorigin\" || \"extthinorigin\"} && \
                     lv_layout!={\"cache\" || \"writecache\" || \"pool\" || \"vdo\"}";

/// Removes a logical volume with its parts. Rejected while it is open or mounted: there is no `-f`. A
/// tenant's logical volume inside it that the host activated and that is not in use does not prevent this: it
/// is deactivated.
///
/// A volume that has become the origin of a snapshot, a cached volume or a pool is not removed, because lvm
/// would remove its dependents as well. That is not an error. lvm checks this under its own lock.
///
/// `discards`: what happens to the bytes in its extents. lvm discards them if the host says so; the volume that gets
/// them next may read anything there then.
///
/// Only the volume with that UUID is removed. Another one with the same name is kept, and that is not an
/// error: a command that outlives its caller may get lvm's lock only when the name belongs to a newer volume. Nor
/// is anything removed while lvm misses a disk of the volume group, see [`change_tags`].
///
/// # Errors
/// Among others [`Error::InUse`] and [`Error::NotFound`].
pub async fn remove(group: &VolumeGroup, volume: &LogicalVolume, discards: Discards) -> Result<(), Error> {
    let command = remove_command(group, volume, discards)?;
    nested::release(group, volume.uuid).await;
    command.run().await
}

fn remove_command<'a>(
    group: &'a VolumeGroup,
    volume: &LogicalVolume,
    discards: Discards,
) -> Result<Mutation<'a>, Error> {
    let condition = format!("{} && {WITHOUT_DEPENDENTS}", select_in_complete_group(volume));
    let command = Mutation::new("lvremove", group).with_discards(discards).args(["-y", "--select", &condition]);
    Ok(command.arg(target(group, volume)?))
}

/// Makes the device of a logical volume appear. A volume with the activation-skip flag stays inactive, and
/// lvm calls that a success, so the caller must look for the device. If the host's lvm.conf does not let lvm
/// activate the volume, or only read-only, the result is [`Error::Denied`]. `-K` is never passed, because
/// that flag on one of Quarry's volumes means that its creation was interrupted. A raid is activated without
/// a lost disk (`degraded`), but never without data, whatever lvm.conf says.
///
/// # Errors
/// Among others [`Error::MissingPv`] and [`Error::NotFound`].
pub async fn activate(group: &VolumeGroup, volume: &LogicalVolume) -> Result<(), Error> {
    let command = Mutation::new("lvchange", group).args(["-y", "--activationmode", "degraded", "--activate", "y"]);
    let target = target(group, volume)?;
    command.arg(&target).run().await?;
    match activation::refusal(group, volume).await {
        Some(stderr) => Err(Error::Denied { command: format!("lvm lvchange --activate y {target}"), stderr }),
        None => Ok(()),
    }
}

/// Makes the device of a logical volume disappear. Its metadata is not changed, and nothing is written.
/// Rejected while the device is open. As in [`remove`], only the volume with that UUID is affected.
///
/// # Errors
/// Among others [`Error::InUse`] and [`Error::NotFound`].
pub async fn deactivate(group: &VolumeGroup, volume: &LogicalVolume) -> Result<(), Error> {
    let command = Mutation::new("lvchange", group).args(["-y", "--activate", "n", "--select", &select(volume)]);
    command.arg(target(group, volume)?).run().await
}

/// A change of a logical volume's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagChange<'a> {
    /// The tags to remove. It is not an error if one is not there.
    pub del: &'a [&'a str],
    /// The tags to add. It is not an error if one is there already. A tag in both lists is kept.
    pub add: &'a [&'a str],
}

/// Removes tags from a logical volume and adds others, in one metadata commit. As in [`remove`], only the
/// volume with that UUID is affected.
///
/// While lvm misses a disk of the volume group, nothing is changed, and that is not an error either: lvm would mark the
/// disk as missing for good with the same commit. The disk may be one that this command must not open, because it was
/// added to the group after `group` was read. lvm checks this under its own lock.
///
/// # Errors
/// Among others [`Error::NotFound`].
pub async fn change_tags(group: &VolumeGroup, volume: &LogicalVolume, change: TagChange<'_>) -> Result<(), Error> {
    let TagChange { del, add } = change;
    let del: Vec<&str> = del.iter().copied().filter(|tag| !add.contains(tag)).collect();
    if del.is_empty() && add.is_empty() {
        return Ok(());
    }
    let mut command = Mutation::new("lvchange", group).args(["-y", "--select", &select_in_complete_group(volume)]);
    for tag in del {
        command = command.args(["--deltag", check_tag(tag)?]);
    }
    for tag in add {
        command = command.args(["--addtag", check_tag(tag)?]);
    }
    command.arg(target(group, volume)?).run().await
}

/// lvm's selection criterion for the logical volume with that UUID.
fn select(volume: &LogicalVolume) -> String {
    format!("lv_uuid=\"{}\"", volume.uuid)
}

/// The same, as long as lvm finds all disks of the volume group.
fn select_in_complete_group(volume: &LogicalVolume) -> String {
    format!("{} && vg_missing_pv_count=0", select(volume))
}

fn target(group: &VolumeGroup, volume: &LogicalVolume) -> Result<String, Error> {
    check_name(group, &volume.name)?;
    Ok(format!("{}/{}", group.name, volume.name))
}

/// Also accepts names from a report (a part left by an interrupted creation), so reserved words are allowed
/// here.
fn check_name(group: &VolumeGroup, name: &str) -> Result<(), Error> {
    let vg = &group.name;
    let plain = |text: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
        !text.is_empty() && !text.starts_with('-') && text.len() <= 127 && text.bytes().all(allowed)
    };
    if plain(name) && vg_name_fits(vg) {
        return Ok(());
    }
    Err(Error::Argument(format!("`{vg}/{name}` is not a valid name of a logical volume")))
}

/// Checks the characters that lvm allows in tags. A leading hyphen is not allowed.
fn check_tag(tag: &str) -> Result<&str, Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&byte);
    if !tag.is_empty() && !tag.starts_with('-') && tag.len() <= 1024 && tag.bytes().all(allowed) {
        return Ok(tag);
    }
    Err(Error::Argument(format!("`{tag}` is not a valid lvm tag")))
}

fn check_device(device: &Path) -> Result<&Path, Error> {
    // lvm takes a colon for the beginning of a range of extents.
    if device.is_absolute() && !device.as_os_str().as_encoded_bytes().contains(&b':') {
        return Ok(device);
    }
    Err(Error::Argument(format!("{} is not a valid path of a physical volume for lvm", device.display())))
}

/// The arguments for these extents: `/dev/vdb:0-4`. Without them, lvm would use any free extents.
fn range_arguments(group: &VolumeGroup, ranges: &[ExtentRange]) -> Result<Vec<OsString>, Error> {
    if ranges.is_empty() {
        return Err(Error::Argument("no extents are given for a change that needs some".to_owned()));
    }
    let argument = |range: &ExtentRange| {
        let ExtentRange { pv, first, extents } = range;
        let device = group.physical_volume(*pv).and_then(|pv| pv.device.as_deref());
        let Some(device) = device.filter(|_| *extents > Extents::NONE) else {
            return Err(Error::Argument(format!("{extents} extents of physical volume {pv} cannot be used")));
        };
        let mut argument = check_device(device)?.as_os_str().to_owned();
        argument.push(format!(":{first}-{}", first.and(*extents).without(Extents(1))));
        Ok(argument)
    };
    ranges.iter().map(argument).collect()
}

fn check_width(layout: &Layout, pvs: &[PathBuf]) -> Result<(), Error> {
    if u32::try_from(pvs.len()) == Ok(layout.width()) {
        return Ok(());
    }
    Err(Error::Argument(format!("layout {layout} needs {} physical volumes, not {}", layout.width(), pvs.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PhysicalVolume;
    use crate::uuid::testing::uuid;

    #[test]
    fn a_snapshot_names_its_source_and_its_disks() {
        let group = VolumeGroup { name: "vg".into(), ..VolumeGroup::default() };
        let source = LogicalVolume { name: "a".into(), ..LogicalVolume::default() };
        let pvs = [PathBuf::from("/dev/vdb"), PathBuf::from("/dev/vdc")];
        let request = CreateSnapshot { source: &source, name: "s", extents: Extents(7), tag: "quarry2/x", pvs: &pvs };
        let command = snapshot_command(&group, &request).expect("valid");
        assert_eq!(
            command.arguments().join(" "),
            "-y --snapshot --permission r --alloc normal --name s --extents 7 --chunksize 65536b --addtag quarry2/x \
             vg/a /dev/vdb /dev/vdc"
        );
        for wrong in [
            CreateSnapshot { name: "-s", ..request.clone() },
            CreateSnapshot { tag: "a b", ..request.clone() },
            CreateSnapshot { pvs: &[], ..request.clone() },
        ] {
            assert!(matches!(snapshot_command(&group, &wrong), Err(Error::Argument(_))), "{wrong:?}");
        }
    }

    #[test]
    fn only_the_removal_of_zeroed_space_never_discards_it() {
        let group = VolumeGroup { name: "vg".into(), ..VolumeGroup::default() };
        let volume = LogicalVolume { name: "a".into(), ..LogicalVolume::default() };
        let settings = |discards| remove_command(&group, &volume, discards).expect("valid").settings();
        let (configured, never) = (settings(Discards::AsConfigured), settings(Discards::Never));
        assert!(!configured.contains("issue_discards"), "the host decides: {configured}");
        assert!(never.contains(" devices/issue_discards=0 "), "{never}");
        assert_eq!(never.replace("devices/issue_discards=0 ", ""), configured);
    }

    #[test]
    fn extents_are_passed_as_ranges_of_their_device() {
        let pv = |label: &str, device: Option<&str>| PhysicalVolume {
            uuid: uuid(label),
            device: device.map(PathBuf::from),
            ..PhysicalVolume::default()
        };
        let physical_volumes = vec![pv("a", Some("/dev/vdb")), pv("b", None), pv("c", Some("/dev/disk/by-path/x:0"))];
        let group = VolumeGroup { name: "vg".into(), physical_volumes, ..VolumeGroup::default() };
        let range =
            |label: &str, extents| ExtentRange { pv: uuid(label), first: Extents(7), extents: Extents(extents) };
        let arguments = range_arguments(&group, &[range("a", 1), range("a", 3)]).expect("valid");
        assert_eq!(arguments, ["/dev/vdb:7-7", "/dev/vdb:7-9"]);
        // No device, a device whose name contains a range, an unknown disk, no extents.
        for wrong in [vec![range("b", 1)], vec![range("c", 1)], vec![range("d", 1)], vec![range("a", 0)], vec![]] {
            assert!(matches!(range_arguments(&group, &wrong), Err(Error::Argument(_))), "{wrong:?}");
        }
    }
}
