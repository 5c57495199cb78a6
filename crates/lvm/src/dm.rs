//! The device-mapper devices of a volume group and their status, from the ioctls that `dmsetup ls` and `dmsetup status`
//! use. A host can have thousands of devices, and in sysfs each of them takes ten system calls.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;

use crate::uuid::{LVM, LvUuid, VgUuid, device_prefix, device_uuid};

/// The control node of device-mapper.
const CONTROL: &str = "/dev/mapper/control";
/// The folder of block devices in sysfs.
const BLOCK: &str = "/sys/block";
/// The number of the request that suspends or resumes a device (DM_DEV_SUSPEND in linux/dm-ioctl.h). This process never
/// makes it.
pub(crate) const SUSPEND: u64 = nix::request_code_readwrite!(0xfd, 6, HEADER);
/// The length of `struct dm_ioctl` from linux/dm-ioctl.h in bytes, and the offsets of its fields.
const HEADER: usize = 312;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const OPEN_COUNT: usize = 24;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const NAME: usize = 48;
const NAME_LENGTH: usize = 128;
const UUID: usize = 176;
const UUID_LENGTH: usize = 129;
/// The length of `struct dm_target_spec`: 8 bytes each for start and length, 4 each for status and the offset
/// of the next one, then 16 for the type.
const SPEC: usize = 40;
const SPEC_TYPE: std::ops::Range<usize> = 24..40;
/// The offsets of the fields of `struct dm_name_list`: the device's number, the offset of the next entry, the name. The
/// name is followed by two numbers, of which the second one has flags, and by the UUID; both begin at a multiple of 8.
const ENTRY_NEXT: usize = 8;
const ENTRY_NAME: usize = 12;
/// Flag of an entry: it has a UUID.
const ENTRY_UUID: u32 = 1;
/// Flag of an entry: the device does not have a UUID.
const ENTRY_NO_UUID: u32 = 1 << 1;
/// The first version of the interface whose list can have UUIDs; Linux 5.13.
const LIST_WITH_UUIDS: (u32, u32) = (4, 45);
/// The space for an answer about one device. The status line of a raid with 64 images has a few hundred bytes.
const BUFFER: usize = 16 << 10;
/// The largest space for the list of all devices, whose entries have at most 300 bytes.
const LIST_BUFFER: usize = 64 << 20;
/// Flag: I/O on the device blocks.
const SUSPENDED: u32 = 1 << 1;
/// Flag: the device has a table that is loaded, but not in use.
const INACTIVE_TABLE: u32 = 1 << 6;
/// Flag: the answer needs more space.
const BUFFER_FULL: u32 = 1 << 8;
/// Flag: do not write to a disk first.
const NO_FLUSH: u32 = 1 << 11;
/// Flag: a list with UUIDs. Older kernels ignore it.
const UUIDS: u32 = 1 << 14;

mod request {
    use nix::libc;

    /// `struct dm_ioctl`, needed only for its size, which is part of the request's number.
    #[repr(C)]
    pub(super) struct Header([u8; super::HEADER]);
    nix::ioctl_readwrite!(list_devices, 0xfd, 2, Header);
    nix::ioctl_readwrite!(dev_status, 0xfd, 7, Header);
    nix::ioctl_readwrite!(table_status, 0xfd, 12, Header);
    pub(super) type Answer = nix::Result<libc::c_int>;
    pub(super) type Request = unsafe fn(libc::c_int, *mut Header) -> Answer;
}

/// Which device a question is about.
#[derive(Debug, Clone, Copy)]
enum About<'a> {
    /// All of them.
    All,
    /// The active device with that UUID.
    Uuid(&'a str),
    /// The device with that number, as the kernel encodes it.
    Number(u64),
}

impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("its devices"),
            Self::Uuid(uuid) => write!(f, "device {uuid}"),
            Self::Number(device) => match decode_device(*device) {
                Some((major, minor)) => write!(f, "device {major}:{minor}"),
                None => write!(f, "device {device:#x}"),
            },
        }
    }
}

/// What a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// The device itself. The kernel answers at once.
    Device,
    /// Its targets as well. A thin pool or a volume in it may wait for the disk with its metadata.
    Targets,
}

/// A device-mapper device, from one answer of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// Its major and minor number.
    pub(crate) number: (u32, u32),
    pub(crate) open_count: u32,
    /// Whether I/O on it blocks.
    pub(crate) suspended: bool,
    /// Whether it has a table that is loaded, but not in use. The next resume would use it.
    pub(crate) inactive_table: bool,
    /// The type of its target, and its status line. `None` if it has several, or if only the device was asked about.
    pub(crate) status: Option<(String, String)>,
}

impl State {
    fn decode(answer: &[u8]) -> Option<Self> {
        let flags = number(answer, FLAGS)?;
        Some(Self {
            name: text(answer.get(NAME..NAME + NAME_LENGTH)?),
            uuid: text(answer.get(UUID..UUID + UUID_LENGTH)?),
            number: decode_device(u64::from_ne_bytes(*answer.get(DEVICE..)?.first_chunk()?))?,
            open_count: number(answer, OPEN_COUNT)?,
            suspended: flags & SUSPENDED != 0,
            inactive_table: flags & INACTIVE_TABLE != 0,
            status: target(answer),
        })
    }

    /// Its folder in `block`, which is /sys/block.
    pub(crate) fn folder(&self, block: &Path) -> PathBuf {
        block.join(node(self.number))
    }
}

/// The name of a device's node, and of its folder in sysfs.
pub(crate) fn node((_, minor): (u32, u32)) -> String {
    format!("dm-{minor}")
}

/// The status line of the active device with that UUID, if it has a single target, of type `kind`.
pub(crate) fn status(uuid: &str, kind: &str) -> Option<String> {
    let (found, line) = state(What::Targets, About::Uuid(uuid)).ok()??.status?;
    (found == kind).then_some(line)
}

/// How many times the active logical volume with these UUIDs is open: by mounts, processes, and devices on
/// top of it. `None` if it is not active, or if the kernel cannot be asked. Never waits for a disk.
#[must_use]
pub fn open_count(group: VgUuid, volume: LvUuid) -> Option<u32> {
    Some(state(What::Device, About::Uuid(&device_uuid(group, volume))).ok()??.open_count)
}

/// Whether the active device with that UUID is suspended. Never waits for a disk.
pub(crate) fn is_suspended(uuid: &str) -> bool {
    state(What::Device, About::Uuid(uuid)).is_ok_and(|state| state.is_some_and(|state| state.suspended))
}

/// The major and minor number of the active device with that UUID; `None` if it is not active. One question, however
/// many devices there are. Never waits for a disk.
///
/// # Errors
/// The kernel cannot be asked.
pub fn device_number(uuid: &str) -> io::Result<Option<(u32, u32)>> {
    Ok(state(What::Device, About::Uuid(uuid))?.map(|state| state.number))
}

/// The folders in sysfs of the device-mapper devices for whose names `wanted` is true. One question, however many devices
/// there are. If device-mapper does not answer, the folders of all block devices: the caller reads the name there in any
/// case, because the kernel gives the number of a removed device to the next one. Never waits for a disk.
///
/// # Errors
/// `/sys/block` cannot be read.
pub fn folders_named(wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let block = Path::new(BLOCK);
    let Ok(listed) = list() else { return fs::read_dir(block)?.map(|entry| Ok(entry?.path())).collect() };
    let wanted = listed.into_iter().filter(|listed| wanted(&listed.name));
    Ok(wanted.filter_map(|listed| Some(block.join(node(decode_device(listed.device)?)))).collect())
}

/// The names of the nodes of all logical volumes and their layers, such as `dm-7`, as far as device-mapper lists UUIDs.
/// One question, however many devices there are. Never waits for a disk.
pub(crate) fn nodes_of_volumes() -> BTreeSet<String> {
    let listed = list().unwrap_or_default().into_iter();
    let volumes = listed.filter(|listed| listed.uuid.as_ref().is_some_and(|uuid| uuid.starts_with(LVM)));
    volumes.filter_map(|listed| decode_device(listed.device)).map(node).collect()
}

/// The device-mapper devices of a volume group, including the layers of its volumes, without their targets. A device that
/// disappears meanwhile is left out. Never waits for a disk.
///
/// # Errors
/// The kernel cannot be asked.
pub(crate) fn devices(group: VgUuid) -> io::Result<Vec<State>> {
    of_group(group, list_all()?, What::Device, state)
}

/// Like [`devices`], with their targets. A thin pool or a volume in it may wait for the disk with its metadata.
///
/// # Errors
/// The kernel cannot be asked.
pub(crate) fn described(group: VgUuid) -> io::Result<Vec<State>> {
    of_group(group, list_all()?, What::Targets, state)
}

/// The volume group's devices among those that are listed, each as `ask` describes it.
fn of_group(
    group: VgUuid,
    listed: Vec<Listed>,
    what: What,
    ask: impl Fn(What, About<'_>) -> io::Result<Option<State>>,
) -> io::Result<Vec<State>> {
    // The UUID of a volume's layer begins with the UUID of the volume.
    let prefix = device_prefix(group);
    let mut found = Vec::new();
    for Listed { device, uuid, .. } in listed {
        let uuid = match uuid {
            Some(uuid) => uuid,
            // Not the targets: those of another group's pool could wait for that group's disks.
            None => match ask(What::Device, About::Number(device))? {
                Some(state) => state.uuid,
                None => continue,
            },
        };
        if uuid.starts_with(&prefix) {
            found.extend(ask(what, About::Uuid(&uuid))?);
        }
    }
    Ok(found)
}

/// All devices.
///
/// # Errors
/// The kernel cannot be asked.
fn list_all() -> io::Result<Vec<Listed>> {
    match list() {
        Ok(listed) => Ok(listed),
        // Without its module, it has no devices.
        Err(_) if !has_devices(Path::new(BLOCK))? => Ok(Vec::new()),
        Err(errno) => Err(io::Error::other(format!("device-mapper does not list its devices: {errno}"))),
    }
}

fn has_devices(block: &Path) -> io::Result<bool> {
    let mut names = fs::read_dir(block)?.flatten().map(|entry| entry.file_name());
    Ok(names.any(|name| name.as_encoded_bytes().starts_with(b"dm-")))
}

/// The device; `None` if it is not active.
fn state(what: What, about: About<'_>) -> io::Result<Option<State>> {
    let request = match what {
        What::Device => request::dev_status,
        What::Targets => request::table_status,
    };
    let failed = |why: &str| io::Error::other(format!("device-mapper does not describe {about}: {why}"));
    match ask(request, about, BUFFER) {
        Ok(answer) => State::decode(&answer).map(Some).ok_or_else(|| failed("its answer has no device")),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(failed(errno.desc())),
    }
}

/// A device in the list of all devices.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    name: String,
    /// Its number as the kernel encodes it.
    device: u64,
    /// Its UUID, empty if it has none. `None` if the kernel does not list UUIDs.
    uuid: Option<String>,
}

/// All devices.
fn list() -> Result<Vec<Listed>, Errno> {
    let mut space = BUFFER;
    loop {
        let answer = ask(request::list_devices, About::All, space)?;
        match number(&answer, FLAGS) {
            Some(flags) if flags & BUFFER_FULL == 0 => return entries(&answer).ok_or(Errno::EBADMSG),
            _ if space >= LIST_BUFFER => return Err(Errno::EOVERFLOW),
            _ => space *= 4,
        }
    }
}

/// The entries of an answer. `None` if one of them cannot be read: the devices after it would count as inactive.
fn entries(answer: &[u8]) -> Option<Vec<Listed>> {
    let has_uuids = (number(answer, 0)?, number(answer, 4)?) >= LIST_WITH_UUIDS;
    let mut found = Vec::new();
    let mut at = usize::try_from(number(answer, DATA_START)?).ok()?;
    loop {
        let entry = answer.get(at..)?;
        let device = u64::from_ne_bytes(*entry.first_chunk()?);
        if device == 0 && found.is_empty() {
            // In an empty list, the number of the first entry is 0.
            return Some(found);
        }
        let name = entry.get(ENTRY_NAME..)?;
        let end = name.iter().position(|byte| *byte == 0)? + 1;
        let uuid = has_uuids.then(|| listed_uuid(entry, ENTRY_NAME + end)).flatten();
        found.push(Listed { name: text(name), device, uuid });
        match number(entry, ENTRY_NEXT)? {
            0 => return Some(found),
            next => at = at.checked_add(usize::try_from(next).ok()?)?,
        }
    }
}

/// The UUID in an entry whose name ends there.
fn listed_uuid(entry: &[u8], end: usize) -> Option<String> {
    let numbers = end.next_multiple_of(8);
    match number(entry, numbers + 4)? {
        flags if flags & ENTRY_UUID != 0 => Some(text(entry.get(numbers + 8..)?)),
        flags if flags & ENTRY_NO_UUID != 0 => Some(String::new()),
        _ => None,
    }
}

/// The numbers of a device, which are encoded as the kernel encodes them for programs.
fn decode_device(encoded: u64) -> Option<(u32, u32)> {
    let encoded = u32::try_from(encoded).ok()?;
    Some(((encoded >> 8) & 0xfff, (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00)))
}

/// The kernel's answer, of at most `space` bytes.
fn ask(request: request::Request, about: About<'_>, space: usize) -> Result<Vec<u8>, Errno> {
    let control = control()?;
    let mut buffer = encode_request(about, space).ok_or(Errno::EINVAL)?;
    // SAFETY: the kernel reads and writes at most the number of bytes given as data size, which is the
    // buffer's length. The buffer lives until the call returns, and needs no alignment.
    #[allow(unsafe_code)]
    let answer: request::Answer = unsafe { request(control.as_raw_fd(), buffer.as_mut_ptr().cast()) };
    answer.map(|_| buffer)
}

/// The control node, which stays open.
fn control() -> Result<&'static File, Errno> {
    static OPENED: OnceLock<File> = OnceLock::new();
    if let Some(file) = OPENED.get() {
        return Ok(file);
    }
    let file = File::options().read(true).write(true).open(CONTROL);
    let file = file.map_err(|error| match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
        // As the answer to a question, this means that the device is not active.
        Errno::ENXIO => Errno::ENODEV,
        errno => errno,
    })?;
    Ok(OPENED.get_or_init(|| file))
}

/// The request with `space` bytes for the answer. `None` if the UUID is too long for a device.
fn encode_request(about: About<'_>, space: usize) -> Option<Vec<u8>> {
    let mut buffer = vec![0; space];
    let mut put = |offset: usize, bytes: &[u8]| {
        buffer.get_mut(offset..offset + bytes.len()).map(|field| field.copy_from_slice(bytes))
    };
    // The oldest version of the interface with these features; a kernel supports every older minor version.
    put(0, &4_u32.to_ne_bytes())?;
    put(DATA_SIZE, &u32::try_from(space).ok()?.to_ne_bytes())?;
    put(DATA_START, &u32::try_from(HEADER).ok()?.to_ne_bytes())?;
    put(FLAGS, &NO_FLUSH.to_ne_bytes())?;
    match about {
        About::All => put(FLAGS, &UUIDS.to_ne_bytes())?,
        // Terminated by a zero byte.
        About::Uuid(uuid) => (uuid.len() < UUID_LENGTH).then(|| put(UUID, uuid.as_bytes()))??,
        About::Number(device) => put(DEVICE, &device.to_ne_bytes())?,
    }
    Some(buffer)
}

/// A field of an answer.
fn number(answer: &[u8], offset: usize) -> Option<u32> {
    let bytes = answer.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// A text of an answer, which ends with a zero byte.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The type and the status line of the only target in an answer.
fn target(answer: &[u8]) -> Option<(String, String)> {
    if number(answer, FLAGS)? & BUFFER_FULL != 0 || number(answer, TARGET_COUNT)? != 1 {
        return None;
    }
    let target = answer.get(usize::try_from(number(answer, DATA_START)?).ok()?..)?;
    let kind = text(target.get(SPEC_TYPE)?);
    // An answer about the device alone has the number of targets, but not the targets.
    (!kind.is_empty()).then(|| Some((kind, text(target.get(SPEC..)?))))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uuid::testing::uuid;

    /// An answer as the kernel writes it: the header, one target, and its line.
    fn answer(targets: u32, kind: &str, line: &str) -> Vec<u8> {
        let mut bytes = encode_request(About::Uuid("LVM-x"), BUFFER).unwrap();
        bytes[TARGET_COUNT..TARGET_COUNT + 4].copy_from_slice(&targets.to_ne_bytes());
        let at = HEADER + SPEC_TYPE.start;
        bytes[at..at + kind.len()].copy_from_slice(kind.as_bytes());
        bytes[HEADER + SPEC..HEADER + SPEC + line.len()].copy_from_slice(line.as_bytes());
        bytes
    }

    #[test]
    fn reads_the_line_of_the_one_target() {
        let line = "raid1 2 AA 4096/4096 idle 0 0 -";
        assert_eq!(target(&answer(1, "raid", line)), Some(("raid".to_owned(), line.to_owned())));
        assert_eq!(target(&answer(1, "linear", "")), Some(("linear".to_owned(), String::new())));
        assert_eq!(target(&answer(2, "raid", line)), None);
        assert_eq!(target(&answer(1, "raid", line)[..HEADER + 10]), None);
        assert_eq!(target(&[]), None);
    }

    /// At the places of the fields in linux/dm-ioctl.h.
    #[test]
    fn an_answer_describes_a_device() {
        let mut bytes = answer(1, "raid", "line");
        bytes[24..28].copy_from_slice(&2_u32.to_ne_bytes());
        bytes[28..32].copy_from_slice(&((1_u32 << 1) | (1 << 6)).to_ne_bytes());
        bytes[40..48].copy_from_slice(&0xfd07_u64.to_ne_bytes());
        bytes[48..53].copy_from_slice(b"vg-lv");
        let state = State::decode(&bytes).unwrap();
        let expected = State {
            name: "vg-lv".to_owned(),
            uuid: "LVM-x".to_owned(),
            number: (253, 7),
            open_count: 2,
            suspended: true,
            inactive_table: true,
            status: Some(("raid".to_owned(), "line".to_owned())),
        };
        assert_eq!(state, expected);
        assert_eq!(state.folder(Path::new("/sys/block")), Path::new("/sys/block/dm-7"));
        bytes[28..32].copy_from_slice(&0_u32.to_ne_bytes());
        let state = State::decode(&bytes).unwrap();
        assert!(!state.suspended && !state.inactive_table);
        assert_eq!(State::decode(&bytes[..HEADER - 20]), None);
        // Of the device alone.
        bytes[HEADER..].fill(0);
        assert_eq!(State::decode(&bytes).unwrap().status, None);
    }

    #[test]
    fn only_devices_of_the_group_are_described() {
        let (group, other): (VgUuid, VgUuid) = (uuid("a"), uuid("b"));
        let (own, foreign) = (device_uuid(group, uuid("v")), device_uuid(other, uuid("v")));
        let layer = format!("{own}-real");
        let described = |uuid: &str, status: Option<&str>| State {
            name: "vg-lv".to_owned(),
            uuid: uuid.to_owned(),
            number: (253, 0),
            open_count: 0,
            suspended: false,
            inactive_table: false,
            status: status.map(|kind| (kind.to_owned(), String::new())),
        };
        // The device with number 2 has been removed, and 3 belongs to another group.
        let by_number = [own.as_str(), layer.as_str(), "", foreign.as_str(), "CRYPT-LUKS2-x"];
        let asked = std::cell::RefCell::new(Vec::new());
        let ask = |what: What, about: About<'_>| {
            let uuid = match about {
                About::Uuid(uuid) => uuid.to_owned(),
                About::Number(number) => by_number[number as usize].to_owned(),
                About::All => unreachable!(),
            };
            asked.borrow_mut().push((what, uuid.clone()));
            let status = (what == What::Targets).then_some("thin-pool");
            Ok(Some(uuid).filter(|uuid| !uuid.is_empty()).map(|uuid| described(&uuid, status)))
        };
        let list = |has_uuids: bool| {
            let entry = |(number, uuid): (usize, &&str)| listed("x", number as u64, has_uuids.then_some(*uuid));
            by_number.iter().enumerate().map(entry).collect::<Vec<_>>()
        };
        for has_uuids in [true, false] {
            for (what, status) in [(What::Device, None), (What::Targets, Some("thin-pool"))] {
                let found = of_group(group, list(has_uuids), what, ask).unwrap();
                assert_eq!(found, [described(&own, status), described(&layer, status)], "{what:?}, UUIDs: {has_uuids}");
                let targets = |(what, uuid): &(What, String)| *what == What::Device || uuid.starts_with(&own);
                assert!(asked.borrow().iter().all(targets), "the targets of another group: {asked:?}");
            }
        }
        let fails = |_: What, _: About<'_>| Err(io::Error::other("no answer"));
        assert!(of_group(group, list(true), What::Device, fails).is_err());
        assert!(of_group(group, list(false), What::Device, fails).is_err());
    }

    /// Writes an entry of a list. `name` also has what follows the name.
    fn put_entry(bytes: &mut [u8], at: usize, device: u64, next: u32, name: &[u8]) {
        bytes[at..at + 8].copy_from_slice(&device.to_ne_bytes());
        bytes[at + 8..at + 12].copy_from_slice(&next.to_ne_bytes());
        bytes[at + 12..at + 12 + name.len()].copy_from_slice(name);
    }

    fn listed(name: &str, device: u64, uuid: Option<&str>) -> Listed {
        Listed { name: name.to_owned(), device, uuid: uuid.map(str::to_owned) }
    }

    #[test]
    fn a_list_has_names_and_numbers() {
        let mut bytes = encode_request(About::All, 1024).unwrap();
        assert_eq!(entries(&bytes), Some(Vec::new()), "no device");
        put_entry(&mut bytes, HEADER, 0xfd00, 40, b"vg-a\0\x7f\x7f\x7f");
        put_entry(&mut bytes, HEADER + 40, 0xfd01, 0, b"vg-b--c\0");
        assert_eq!(entries(&bytes), Some(vec![listed("vg-a", 0xfd00, None), listed("vg-b--c", 0xfd01, None)]));
        // A list that is cut off, or leads nowhere, is no list: its devices would count as inactive.
        assert_eq!(entries(&bytes[..HEADER + 45]), None);
        put_entry(&mut bytes, HEADER + 40, 0xfd01, u32::MAX, b"");
        assert_eq!(entries(&bytes), None);
        assert_eq!(entries(&[]), None);
    }

    #[test]
    fn newer_kernels_list_uuids() {
        let mut bytes = encode_request(About::All, 1024).unwrap();
        // After the name and its zero byte: up to 24, event number and flags, and the UUID.
        put_entry(&mut bytes, HEADER, 0xfd00, 48, b"vg-a\0......._\0\0\0\x01\0\0\0LVM-x\0");
        // The name ends at a multiple of 8.
        put_entry(&mut bytes, HEADER + 48, 0xfd01, 48, b"linear-none\0_\0\0\0\x02\0\0\0...");
        put_entry(&mut bytes, HEADER + 96, 0xfd02, 0, b"vg-b\0......._\0\0\0\0\0\0\0...");
        let names = |uuids: [Option<&str>; 3]| {
            let [a, b, c] = uuids;
            vec![listed("vg-a", 0xfd00, a), listed("linear-none", 0xfd01, b), listed("vg-b", 0xfd02, c)]
        };
        bytes[4..8].copy_from_slice(&44_u32.to_ne_bytes());
        assert_eq!(entries(&bytes), Some(names([None; 3])), "of an older kernel, these bytes mean nothing");
        bytes[4..8].copy_from_slice(&45_u32.to_ne_bytes());
        assert_eq!(entries(&bytes), Some(names([Some("LVM-x"), Some(""), None])));
    }

    #[test]
    fn without_device_mapper_no_device_is_expected() {
        let block = tempfile::tempdir().unwrap();
        fs::create_dir(block.path().join("vda")).unwrap();
        assert!(!has_devices(block.path()).unwrap());
        fs::create_dir(block.path().join("dm-0")).unwrap();
        assert!(has_devices(block.path()).unwrap());
        assert!(has_devices(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn the_request_has_the_kernels_layout() {
        let request = encode_request(About::Uuid("LVM-abc"), BUFFER).unwrap();
        assert_eq!(request[..4], 4_u32.to_ne_bytes());
        assert_eq!(request[12..16], 16_384_u32.to_ne_bytes());
        assert_eq!(request[16..20], 312_u32.to_ne_bytes());
        assert_eq!(&request[176..184], b"LVM-abc\0");
        assert_eq!(size_of::<request::Header>(), 312);
        assert!(encode_request(About::Uuid(&"x".repeat(129)), BUFFER).is_none());
        let request = encode_request(About::All, BUFFER).unwrap();
        assert_eq!(request[28..32], (1_u32 << 14).to_ne_bytes());
        let request = encode_request(About::Number(0xfd07), BUFFER).unwrap();
        assert_eq!(request[40..48], 0xfd07_u64.to_ne_bytes());
        assert_eq!(request[176], 0);
    }

    #[test]
    fn the_numbers_of_a_device_are_decoded() {
        for (encoded, numbers) in
            [(0xfd00, (253, 0)), (0xfdff, (253, 255)), (0x10_fd01, (253, 257)), (0xfff0_feff, (254, 0xf_ffff))]
        {
            assert_eq!(decode_device(encoded), Some(numbers), "{encoded:#x}");
        }
        assert_eq!(decode_device(u64::MAX), None);
    }

    #[test]
    fn a_device_that_does_not_exist_has_no_status() {
        assert_eq!(status("LVM-no-such-device", "raid"), None);
    }
}
