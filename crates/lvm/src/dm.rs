//! The device-mapper devices of a volume group and their status, from the ioctls that `dmsetup ls` and `dmsetup status`
//! use. A host can have thousands of devices, and in sysfs each of them takes ten system calls.

use std::collections::BTreeSet;
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
    let (found, line) = target(&ask(request::table_status, About::Uuid(uuid), BUFFER).ok()?)?;
    (found == kind).then_some(line)
}

/// How many times the active logical volume with these UUIDs is open: by mounts, processes, and devices on
/// top of it. `None` if it is not active, or if the kernel cannot be asked. Never waits for a disk.
#[must_use]
pub fn open_count(group: VgUuid, volume: LvUuid) -> Option<u32> {
    number(&ask(request::dev_status, About::Uuid(&device_uuid(group, volume)), BUFFER).ok()?, OPEN_COUNT)
}

/// The major and minor number of the active device with that UUID; `None` if it is not active. One question, however
/// many devices there are. Never waits for a disk.
///
/// # Errors
/// The kernel cannot be asked.
pub fn device_number(uuid: &str) -> io::Result<Option<(u32, u32)>> {
    Ok(state(request::dev_status, About::Uuid(uuid))?.map(|state| state.number))
}

/// The folders in sysfs of the device-mapper devices whose names fulfil `wanted`. One question, however many devices
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
    let mut found = Vec::new();
    for listed in listed_of(group)? {
        let state = state(request::dev_status, About::Number(listed.device))?;
        found.extend(state.filter(|state| is_of(group, &state.uuid)));
    }
    Ok(found)
}

/// Like [`devices`], with their targets. A thin pool or a volume in it may wait for the disk with its metadata.
///
/// # Errors
/// The kernel cannot be asked.
pub(crate) fn described(group: VgUuid) -> io::Result<Vec<State>> {
    let mut found = Vec::new();
    for Listed { device, uuid, .. } in listed_of(group)? {
        // Another group's pool would be waited for in vain.
        let uuid = match uuid {
            Some(uuid) => Some(uuid),
            None => state(request::dev_status, About::Number(device))?.map(|state| state.uuid),
        };
        if let Some(uuid) = uuid.filter(|uuid| is_of(group, uuid)) {
            found.extend(state(request::table_status, About::Uuid(&uuid))?);
        }
    }
    Ok(found)
}

/// The listed devices that belong to the volume group, or may belong to it.
fn listed_of(group: VgUuid) -> io::Result<impl Iterator<Item = Listed>> {
    let listed = match list() {
        Ok(listed) => listed,
        // Without its module, it has no devices.
        Err(_) if !has_devices(Path::new(BLOCK))? => Vec::new(),
        Err(errno) => return Err(io::Error::other(format!("device-mapper does not list its devices: {errno}"))),
    };
    Ok(listed.into_iter().filter(move |listed| listed.uuid.as_ref().is_none_or(|uuid| is_of(group, uuid))))
}

fn has_devices(block: &Path) -> io::Result<bool> {
    let mut names = fs::read_dir(block)?.flatten().map(|entry| entry.file_name());
    Ok(names.any(|name| name.as_encoded_bytes().starts_with(b"dm-")))
}

/// Whether a device with that UUID belongs to the volume group. The UUID of a volume's layer begins with the UUID of the
/// volume.
fn is_of(group: VgUuid, uuid: &str) -> bool {
    uuid.starts_with(&device_prefix(group))
}

/// The device; `None` if it is not active.
fn state(request: request::Request, about: About<'_>) -> io::Result<Option<State>> {
    match ask(request, about, BUFFER) {
        Ok(answer) => match State::decode(&answer) {
            Some(state) => Ok(Some(state)),
            None => Err(io::Error::other(format!("device-mapper describes no device ({about:?})"))),
        },
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(io::Error::other(format!("device-mapper does not describe {about:?}: {errno}"))),
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
            Some(flags) if flags & BUFFER_FULL == 0 => return Ok(entries(&answer)),
            _ if space >= LIST_BUFFER => return Err(Errno::EOVERFLOW),
            _ => space *= 4,
        }
    }
}

fn entries(answer: &[u8]) -> Vec<Listed> {
    let version = (number(answer, 0).unwrap_or_default(), number(answer, 4).unwrap_or_default());
    let mut found = Vec::new();
    let mut at = number(answer, DATA_START).unwrap_or_default() as usize;
    // Of an empty list, the first entry has no number.
    while let Some(entry) = answer.get(at..)
        && let Some(device) = entry.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)).filter(|device| *device != 0)
        && let (Some(next), Some(name)) = (number(entry, ENTRY_NEXT), entry.get(ENTRY_NAME..).map(text))
    {
        let uuid = (version >= LIST_WITH_UUIDS).then(|| listed_uuid(entry, ENTRY_NAME + name.len() + 1)).flatten();
        found.push(Listed { name, device, uuid });
        if next == 0 {
            break;
        }
        at = at.saturating_add(next as usize);
    }
    found
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

/// The kernel's answer, of at most `space` bytes: `dev_status` for a device itself, `table_status` for its targets as
/// well.
fn ask(request: request::Request, about: About<'_>, space: usize) -> Result<Vec<u8>, Errno> {
    let control = control()?;
    let mut buffer = encode_request(about, space).ok_or(Errno::EINVAL)?;
    // SAFETY: the kernel reads and writes at most the number of bytes given as data size, which is the
    // buffer's length. The buffer lives until the call returns, and its type has no alignment.
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
    let file = file.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
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
    Some((text(target.get(SPEC_TYPE)?), text(target.get(SPEC..)?)))
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

        let (group, other): (VgUuid, VgUuid) = (uuid("a"), uuid("b"));
        let volume = device_uuid(group, uuid("v"));
        assert!(is_of(group, &volume) && is_of(group, &format!("{volume}-real")));
        assert!(!is_of(group, &device_uuid(other, uuid("v"))) && !is_of(group, "CRYPT-LUKS2-x") && !is_of(group, ""));
    }

    /// An entry of a list with these bytes after its name.
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
        assert_eq!(entries(&bytes), [], "no device");
        put_entry(&mut bytes, HEADER, 0xfd00, 40, b"vg-a\0\x7f\x7f\x7f");
        put_entry(&mut bytes, HEADER + 40, 0xfd01, 0, b"vg-b--c\0");
        let both = [listed("vg-a", 0xfd00, None), listed("vg-b--c", 0xfd01, None)];
        assert_eq!(entries(&bytes), both);
        // An answer that is cut off, or leads nowhere, ends the list.
        assert_eq!(entries(&bytes[..HEADER + 45]), both[..1]);
        put_entry(&mut bytes, HEADER + 40, 0xfd01, u32::MAX, b"");
        assert_eq!(entries(&bytes), both);
        assert_eq!(entries(&[]), []);
    }

    #[test]
    fn newer_kernels_list_uuids() {
        let mut bytes = encode_request(About::All, 1024).unwrap();
        // After the name and its zero byte: up to 24, event number and flags, and the UUID.
        put_entry(&mut bytes, HEADER, 0xfd00, 48, b"vg-a\0......._\0\0\0\x01\0\0\0LVM-x\0");
        put_entry(&mut bytes, HEADER + 48, 0xfd01, 48, b"linear-one\0._\0\0\0\x02\0\0\0...");
        put_entry(&mut bytes, HEADER + 96, 0xfd02, 0, b"vg-b\0......._\0\0\0\0\0\0\0...");
        let names = |uuids: [Option<&str>; 3]| {
            let [a, b, c] = uuids;
            [listed("vg-a", 0xfd00, a), listed("linear-one", 0xfd01, b), listed("vg-b", 0xfd02, c)]
        };
        bytes[4..8].copy_from_slice(&44_u32.to_ne_bytes());
        assert_eq!(entries(&bytes), names([None; 3]), "of an older kernel, these bytes mean nothing");
        bytes[4..8].copy_from_slice(&45_u32.to_ne_bytes());
        assert_eq!(entries(&bytes), names([Some("LVM-x"), Some(""), None]));
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
