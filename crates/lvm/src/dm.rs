//! The device-mapper devices of a volume group in sysfs, and their status from the ioctl that `dmsetup status` uses.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;

use crate::uuid::{LvUuid, VgUuid, device_prefix, device_uuid};

/// The control node of device-mapper.
const CONTROL: &str = "/dev/mapper/control";
/// The length of `struct dm_ioctl` from linux/dm-ioctl.h in bytes, and the offsets of its fields.
const HEADER: usize = 312;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const OPEN_COUNT: usize = 24;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const UUID: usize = 176;
const UUID_LENGTH: usize = 129;
/// The length of `struct dm_target_spec`: 8 bytes each for start and length, 4 each for status and the offset
/// of the next one, then 16 for the type.
const SPEC: usize = 40;
const SPEC_TYPE: std::ops::Range<usize> = 24..40;
/// The space for the answer. The status line of a raid with 64 images has a few hundred bytes.
const BUFFER: usize = 16 << 10;
/// Flag: the device has a table that is loaded, but not in use.
const INACTIVE_TABLE: u32 = 1 << 6;
/// Flag: the answer needs more than [`BUFFER`].
const BUFFER_FULL: u32 = 1 << 8;
/// Flag: do not write to a disk first.
const NO_FLUSH: u32 = 1 << 11;

#[repr(C, align(8))]
struct Buffer([u8; BUFFER]);

mod request {
    use nix::libc;

    /// `struct dm_ioctl`, needed only for its size, which is part of the request's number.
    #[repr(C)]
    pub(super) struct Header([u8; super::HEADER]);
    nix::ioctl_readwrite!(dev_status, 0xfd, 7, Header);
    nix::ioctl_readwrite!(table_status, 0xfd, 12, Header);
    pub(super) type Answer = nix::Result<libc::c_int>;
    pub(super) type Request = unsafe fn(libc::c_int, *mut Header) -> Answer;
}

/// The status line of the active device with that UUID, if it has a single target, of type `kind`.
pub(crate) fn status(uuid: &str, kind: &str) -> Option<String> {
    read(&ask(request::table_status, uuid).ok()?.0, kind)
}

/// How many times the active logical volume with these UUIDs is open: by mounts, processes, and devices on
/// top of it. `None` if it is not active, or if the kernel cannot be asked. Never waits for a disk.
#[must_use]
pub fn open_count(group: VgUuid, volume: LvUuid) -> Option<u32> {
    number(&ask(request::dev_status, &device_uuid(group, volume)).ok()?.0, OPEN_COUNT)
}

/// The major and minor number of the active device with that UUID; `None` if it is not active. One question, however
/// many devices there are. Never waits for a disk.
///
/// # Errors
/// The kernel cannot be asked.
pub fn device_number(uuid: &str) -> io::Result<Option<(u32, u32)>> {
    match ask(request::dev_status, uuid) {
        Ok(answer) => decode_device(&answer.0).map(Some).ok_or_else(|| io::Error::other("an answer without a device")),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The numbers in an answer, which are encoded as the kernel encodes them for programs.
fn decode_device(answer: &[u8]) -> Option<(u32, u32)> {
    let encoded = u64::from_ne_bytes(*answer.get(DEVICE..)?.first_chunk::<8>()?);
    let encoded = u32::try_from(encoded).ok()?;
    Some(((encoded >> 8) & 0xfff, (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00)))
}

/// The device-mapper devices of a volume group, including the layers of its volumes: each one's folder in `block`, which
/// is /sys/block, and its UUID. A device that disappears meanwhile is left out.
///
/// # Errors
/// `block` cannot be read, or the kernel does not answer about a device.
pub(crate) fn devices_in(block: &Path, group: VgUuid) -> io::Result<Vec<(PathBuf, String)>> {
    // The UUID of a volume's layer begins with the UUID of the volume.
    let prefix = device_prefix(group);
    let mut found = Vec::new();
    for entry in fs::read_dir(block)? {
        let folder = entry?.path();
        if let Some(uuid) = attribute(&folder, "dm/uuid")?.filter(|uuid| uuid.starts_with(&prefix)) {
            found.push((folder, uuid));
        }
    }
    Ok(found)
}

/// An attribute of a device in sysfs. `None` if the device has disappeared, or does not have it. Any other error says
/// nothing about the device.
pub(crate) fn attribute(folder: &Path, name: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(folder.join(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            _ => Err(error),
        },
    }
}

/// What device-mapper says about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) open_count: u32,
    /// The type of its target, and its status line. `None` if it has several.
    pub(crate) status: Option<(String, String)>,
}

/// The state of the active device with that UUID. `None` if no such device is active, or the kernel cannot be asked.
pub(crate) fn describe(uuid: &str) -> Option<State> {
    let answer = ask(request::table_status, uuid).ok()?;
    Some(State { open_count: number(&answer.0, OPEN_COUNT)?, status: target(&answer.0) })
}

/// Whether the device with that UUID has a table that is loaded, but not in use. The next resume would use it.
pub(crate) fn has_inactive_table(uuid: &str) -> bool {
    ask(request::dev_status, uuid)
        .ok()
        .and_then(|answer| number(&answer.0, FLAGS))
        .is_some_and(|flags| flags & INACTIVE_TABLE != 0)
}

/// The kernel's answer about the active device with that UUID: `dev_status` for the device itself, or `table_status` for
/// its targets as well. A thin pool or a volume in it may wait for the disk with its metadata before it answers the
/// latter.
fn ask(request: request::Request, uuid: &str) -> Result<Box<Buffer>, Errno> {
    let control = control()?;
    let mut buffer = encode_request(uuid).ok_or(Errno::EINVAL)?;
    // SAFETY: the kernel reads and writes at most the number of bytes given as data size, which is the
    // buffer's length. The buffer is aligned for the structures in it, and lives until the call returns.
    #[allow(unsafe_code)]
    let answer: request::Answer =
        unsafe { request(control.as_raw_fd(), std::ptr::from_mut::<Buffer>(buffer.as_mut()).cast()) };
    answer.map(|_| buffer)
}

/// The control node, which stays open: a host can have thousands of devices.
fn control() -> Result<&'static File, Errno> {
    static OPENED: OnceLock<File> = OnceLock::new();
    if let Some(file) = OPENED.get() {
        return Ok(file);
    }
    let file = File::options().read(true).write(true).open(CONTROL);
    let file = file.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
    Ok(OPENED.get_or_init(|| file))
}

/// The request about the device with that UUID. `None` if the UUID is too long for a device.
fn encode_request(uuid: &str) -> Option<Box<Buffer>> {
    let mut buffer = Box::new(Buffer([0; BUFFER]));
    let mut put = |offset: usize, bytes: &[u8]| {
        buffer.0.get_mut(offset..offset + bytes.len()).map(|field| field.copy_from_slice(bytes))
    };
    // The oldest version of the interface with these features; a kernel supports every older minor version.
    put(0, &4_u32.to_ne_bytes())?;
    put(DATA_SIZE, &u32::try_from(BUFFER).ok()?.to_ne_bytes())?;
    put(DATA_START, &u32::try_from(HEADER).ok()?.to_ne_bytes())?;
    put(FLAGS, &NO_FLUSH.to_ne_bytes())?;
    // Terminated by a zero byte.
    (uuid.len() < UUID_LENGTH).then(|| put(UUID, uuid.as_bytes()))??;
    Some(buffer)
}

/// A field of an answer.
fn number(answer: &[u8], offset: usize) -> Option<u32> {
    let bytes = answer.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// The status line in an answer about a device whose target is of type `kind`.
fn read(answer: &[u8], kind: &str) -> Option<String> {
    target(answer).filter(|(found, _)| found == kind).map(|(_, line)| line)
}

/// The type and the status line of the only target in an answer.
fn target(answer: &[u8]) -> Option<(String, String)> {
    let number = |offset: usize| number(answer, offset);
    if number(FLAGS)? & BUFFER_FULL != 0 || number(TARGET_COUNT)? != 1 {
        return None;
    }
    let target = answer.get(usize::try_from(number(DATA_START)?).ok()?..)?;
    let text = |bytes: &[u8]| Some(String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next()?).into_owned());
    Some((text(target.get(SPEC_TYPE)?)?, text(target.get(SPEC..)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as the kernel writes it: the header, one target, and its line.
    fn answer(targets: u32, kind: &str, line: &str) -> Vec<u8> {
        let mut bytes = encode_request("LVM-x").unwrap().0.to_vec();
        bytes[TARGET_COUNT..TARGET_COUNT + 4].copy_from_slice(&targets.to_ne_bytes());
        let at = HEADER + SPEC_TYPE.start;
        bytes[at..at + kind.len()].copy_from_slice(kind.as_bytes());
        bytes[HEADER + SPEC..HEADER + SPEC + line.len()].copy_from_slice(line.as_bytes());
        bytes
    }

    #[test]
    fn reads_the_line_of_the_one_target() {
        let line = "raid1 2 AA 4096/4096 idle 0 0 -";
        assert_eq!(read(&answer(1, "raid", line), "raid").as_deref(), Some(line));
        assert_eq!(read(&answer(1, "linear", ""), "raid"), None);
        assert_eq!(read(&answer(2, "raid", line), "raid"), None);
        assert_eq!(read(&answer(1, "raid", line)[..HEADER + 10], "raid"), None);
        assert_eq!(read(&[], "raid"), None);
    }

    #[test]
    fn the_request_has_the_kernels_layout() {
        let request = encode_request("LVM-abc").unwrap().0;
        assert_eq!(request[..4], 4_u32.to_ne_bytes());
        assert_eq!(request[12..16], 16_384_u32.to_ne_bytes());
        assert_eq!(request[16..20], 312_u32.to_ne_bytes());
        assert_eq!(&request[176..184], b"LVM-abc\0");
        assert_eq!(size_of::<request::Header>(), 312);
        assert!(super::encode_request(&"x".repeat(129)).is_none());
    }

    #[test]
    fn the_numbers_of_a_device_are_decoded() {
        let mut bytes = answer(1, "linear", "");
        for (encoded, numbers) in
            [(0xfd00_u32, (253, 0)), (0xfdff, (253, 255)), (0x10_fd01, (253, 257)), (0xfff0_feff, (254, 0xf_ffff))]
        {
            // At the place of `dev` in struct dm_ioctl.
            bytes[40..48].copy_from_slice(&u64::from(encoded).to_ne_bytes());
            assert_eq!(decode_device(&bytes), Some(numbers), "{encoded:#x}");
        }
        assert_eq!(decode_device(&bytes[..DEVICE]), None);
    }

    #[test]
    fn a_device_that_does_not_exist_has_no_status() {
        assert_eq!(status("LVM-no-such-device", "raid"), None);
    }
}
