//! Read-only mappings of block devices, for publishing a raw block volume to a pod that must not write.
//!
//! A read-only mount of a device's node does not stop writes to the device, and the device's own flag would stop every
//! user's. So the pod gets a device-mapper device of its own that maps the whole volume, and whose table is read-only.
//!
//! They are made by device-mapper's own calls and not by dmsetup: only so can udev be told to leave them alone. What lies
//! on the volume is a tenant's, and must not make the host assemble or activate anything. The kernel knows them by their
//! UUIDs, which nobody else gives; all that is remembered of them is there.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use crate::{Device, Error};

/// What the device-mapper UUIDs of these mappings begin with.
pub const READ_ONLY_UUID: &str = "QUARRY-RO-";

/// How often, and after which pause, a removal is tried again while somebody has the device open: a scanner for a moment.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// A read-only mapping that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The rest of its UUID: what it was made for.
    pub key: String,
    /// Its own number.
    pub device: Device,
}

/// All read-only mappings whose keys begin so.
///
/// # Errors
/// `/sys/block` cannot be read.
pub fn read_only_mappings(key: &str) -> Result<Vec<Mapping>, Error> {
    mappings_in(Path::new("/sys/block"), key)
}

fn mappings_in(block: &Path, key: &str) -> Result<Vec<Mapping>, Error> {
    let wanted = format!("{READ_ONLY_UUID}{key}");
    let mut found = Vec::new();
    for entry in fs::read_dir(block).map_err(|error| Error::io("list", block, &error))?.flatten() {
        // A process that ends meanwhile holds nothing.
        let Ok(uuid) = fs::read_to_string(entry.path().join("dm/uuid")) else { continue };
        let number = fs::read_to_string(entry.path().join("dev")).unwrap_or_default();
        if let (Some(key), Some(device)) = (
            uuid.trim().strip_prefix(READ_ONLY_UUID).filter(|_| uuid.starts_with(&wanted)),
            number.trim().parse::<Device>().ok(),
        ) {
            found.push(Mapping { key: key.to_owned(), device });
        }
    }
    Ok(found)
}

/// Makes the read-only mapping of that key, of all of the device, and returns its node. One that a killed process began is
/// completed; one that maps something else is replaced, if nobody has it open.
///
/// # Errors
/// [`Error::Claimed`] when another program holds the device exclusively; otherwise the kernel's.
pub fn map_read_only(device: Device, key: &str) -> Result<PathBuf, Error> {
    let uuid = format!("{READ_ONLY_UUID}{key}");
    let find = || Ok::<_, Error>(read_only_mappings(key)?.into_iter().find(|mapping| mapping.key == key));
    if let Some(found) = find()?.filter(|found| !is_empty(found.device)) {
        if maps(found.device, device) {
            return node_of(found.device);
        }
        unmap_read_only(key)?;
    }
    let sectors = sectors_of(device)?;
    // One whose making was interrupted shows nowhere in sysfs before it has a table.
    if !exists(&uuid)? {
        call(&uuid, "create", &mut Request::new(&uuid, true), ioctl::dev_create)?;
    }
    let mut table = Request::linear(&uuid, sectors, device);
    let loaded = call(&uuid, "load", &mut table, ioctl::table_load);
    loaded.map_err(|error| match error {
        Error::Syscall { source: Errno::EBUSY, .. } => {
            // Left without a table it holds nothing, and it is ours.
            let _ = unmap_read_only(key);
            Error::Claimed { device }
        }
        error => error,
    })?;
    call(&uuid, "resume", &mut Request::new(&uuid, false), ioctl::dev_suspend)?;
    match find()? {
        Some(mapping) if maps(mapping.device, device) => node_of(mapping.device),
        made => Err(Error::Unverified {
            attempted: "the read-only mapping",
            target: node_path(device),
            found: made.map_or_else(|| "nothing".to_owned(), |made| format!("{} otherwise", made.device)),
        }),
    }
}

/// Removes the read-only mapping of that key. It is not there: done.
///
/// # Errors
/// [`Error::Busy`] while somebody has it open.
pub fn unmap_read_only(key: &str) -> Result<(), Error> {
    let uuid = format!("{READ_ONLY_UUID}{key}");
    if !exists(&uuid)? {
        return Ok(());
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match call(&uuid, "remove", &mut Request::new(&uuid, false), ioctl::dev_remove) {
            Err(Error::Syscall { source: Errno::ENXIO, .. }) | Ok(()) => return Ok(()),
            Err(Error::Syscall { source: Errno::EBUSY, .. }) if tries < TRIES => std::thread::sleep(PAUSE),
            Err(Error::Syscall { source: Errno::EBUSY, .. }) => {
                return Err(Error::Busy {
                    attempted: "remove the read-only mapping",
                    target: PathBuf::from(uuid),
                    holders: " by a program that has it open, or by a loop device on it".to_owned(),
                });
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether a mapping has no table: its making was interrupted.
fn is_empty(mapping: Device) -> bool {
    sectors_of(mapping).is_ok_and(|sectors| sectors == 0)
}

/// Whether a mapping is read-only, and maps all of that device.
fn maps(mapping: Device, device: Device) -> bool {
    let folder = sysfs(mapping);
    let read_only = fs::read_to_string(folder.join("ro")).is_ok_and(|flag| flag.trim() == "1");
    let below = device.kernel_name().is_some_and(|name| folder.join("slaves").join(name).exists());
    let whole = matches!((sectors_of(mapping), sectors_of(device)), (Ok(one), Ok(other)) if one == other);
    read_only && below && whole
}

/// The size in sectors of 512 bytes, as the kernel counts.
fn sectors_of(device: Device) -> Result<u64, Error> {
    let path = sysfs(device).join("size");
    let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
    text.trim().parse().map_err(|_| Error::Syscall { attempted: "understand", on: path, source: Errno::EINVAL })
}

fn sysfs(device: Device) -> PathBuf {
    Path::new("/sys/dev/block").join(device.to_string())
}

fn node_path(device: Device) -> PathBuf {
    Path::new("/dev").join(device.kernel_name().unwrap_or_else(|| device.to_string()))
}

/// The kernel's own node of a mapping.
fn node_of(mapping: Device) -> Result<PathBuf, Error> {
    let node = node_path(mapping);
    match Device::of_node(&node) {
        Some(found) if found == mapping => Ok(node),
        // Is /dev the host's?
        _ => {
            Err(Error::Syscall { attempted: "find the node of the read-only mapping", on: node, source: Errno::ENOENT })
        }
    }
}

/// `struct dm_ioctl` of linux/dm-ioctl.h.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec`.
#[repr(C)]
struct Target {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

/// A call with the only table that is ever loaded: one target.
#[repr(C)]
struct Request {
    header: Header,
    target: Target,
    parameters: [u8; 64],
}

/// Reads only; also the flag of a table.
const READ_ONLY: u32 = 1;
/// udev's rules of device-mapper (links), of subsystems, of disks (links by content) and of others (LVM, md, mounts) do
/// nothing about the device. The last one has udev remember that for events that others cause.
const LEAVE_ALONE: u32 = (0x01 | 0x02 | 0x04 | 0x08 | 0x40) << 16;

impl Request {
    /// A call about the device of that UUID; its name is only known once the call is made.
    fn new(uuid: &str, named: bool) -> Self {
        let name = if named { uuid.to_ascii_lowercase() } else { String::new() };
        Self {
            header: Header {
                version: [4, 0, 0],
                data_size: u32::try_from(size_of::<Self>()).unwrap_or(u32::MAX),
                data_start: u32::try_from(size_of::<Header>()).unwrap_or(u32::MAX),
                target_count: 0,
                open_count: 0,
                flags: 0,
                event_nr: LEAVE_ALONE,
                padding: 0,
                dev: 0,
                name: text(&name),
                uuid: text(uuid),
                data: [0; 7],
            },
            target: Target { sector_start: 0, length: 0, status: 0, next: 0, target_type: [0; 16] },
            parameters: [0; 64],
        }
    }

    /// A read-only table of all of that device.
    fn linear(uuid: &str, sectors: u64, device: Device) -> Self {
        let mut request = Self::new(uuid, false);
        request.header.flags = READ_ONLY;
        request.header.event_nr = 0;
        request.header.target_count = 1;
        request.target.length = sectors;
        request.target.target_type = text("linear");
        request.parameters = text(&format!("{device} 0"));
        request
    }
}

/// A text with at least one NUL after it; what does not fit is cut off.
fn text<const N: usize>(value: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().take(N - 1).zip(value.bytes()) {
        *to = from;
    }
    bytes
}

#[allow(unsafe_code, missing_docs)]
mod ioctl {
    use super::Header;

    nix::ioctl_readwrite!(dev_create, 0xfd, 3, Header);
    nix::ioctl_readwrite!(dev_remove, 0xfd, 4, Header);
    nix::ioctl_readwrite!(dev_suspend, 0xfd, 6, Header);
    nix::ioctl_readwrite!(dev_status, 0xfd, 7, Header);
    nix::ioctl_readwrite!(table_load, 0xfd, 9, Header);
}

/// One of device-mapper's calls.
type Call = unsafe fn(i32, *mut Header) -> nix::Result<i32>;

/// Makes one call that changes something.
fn call(uuid: &str, what: &'static str, request: &mut Request, ioctl: Call) -> Result<(), Error> {
    let control = control().map_err(|error| Error::io("open", Path::new(CONTROL), &error))?;
    quarry_fault::point(|| format!("mapper:{what}:before"));
    let result = make(&control, request, ioctl);
    quarry_fault::point(|| format!("mapper:{what}:after"));
    result.map_err(|source| Error::Syscall { attempted: what, on: PathBuf::from(uuid), source })
}

/// Whether there is a mapping of that UUID, be it without a table. Where there is no device-mapper, or it is closed to us, we
/// have made none.
fn exists(uuid: &str) -> Result<bool, Error> {
    let control = match control() {
        Ok(control) => control,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => return Ok(false),
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return Ok(false),
        Err(error) => return Err(Error::io("open", Path::new(CONTROL), &error)),
    };
    match make(&control, &mut Request::new(uuid, false), ioctl::dev_status) {
        Ok(()) => Ok(true),
        Err(Errno::ENXIO) => Ok(false),
        Err(source) => Err(Error::Syscall { attempted: "look for", on: PathBuf::from(uuid), source }),
    }
}

/// Where device-mapper takes its calls.
const CONTROL: &str = "/dev/mapper/control";

fn control() -> std::io::Result<File> {
    File::options().read(true).write(true).open(CONTROL)
}

#[allow(unsafe_code)]
fn make(control: &File, request: &mut Request, ioctl: Call) -> Result<(), Errno> {
    // SAFETY: the kernel reads and writes `data_size` bytes from the header on, which is the size of the whole request;
    // both it and the descriptor live until the call returns.
    unsafe { ioctl(control.as_raw_fd(), (&raw mut *request).cast()) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<Header>(), 312);
        assert_eq!(size_of::<Target>(), 40);
        assert_eq!(std::mem::offset_of!(Header, name), 48);
        assert_eq!(std::mem::offset_of!(Header, uuid), 176);
        assert_eq!(std::mem::offset_of!(Request, target), 312);
    }

    #[test]
    fn a_table_is_read_only_and_names_its_device_by_number() {
        let request = Request::linear("QUARRY-RO-a", 65536, Device { major: 253, minor: 3 });
        assert_eq!(request.header.flags & READ_ONLY, READ_ONLY);
        assert!(request.parameters.starts_with(b"253:3 0\0"));
        assert!(request.target.target_type.starts_with(b"linear\0"));
        assert_eq!((request.target.sector_start, request.target.length), (0, 65536));
        assert_eq!(text::<4>("abcdef"), *b"abc\0");
    }

    #[test]
    fn only_mappings_of_ours_are_found() {
        let block = tempfile::tempdir().unwrap();
        let device = |node: &str, uuid: &str, number: &str| {
            let folder = block.path().join(node);
            fs::create_dir_all(folder.join("dm")).unwrap();
            fs::write(folder.join("dm/uuid"), format!("{uuid}\n")).unwrap();
            fs::write(folder.join("dev"), format!("{number}\n")).unwrap();
        };
        device("dm-0", "QUARRY-RO-aa-1", "253:0");
        device("dm-1", "QUARRY-RO-aa-2", "253:1");
        device("dm-2", "QUARRY-RO-bb-1", "253:2");
        device("dm-3", "LVM-x", "253:3");
        fs::create_dir(block.path().join("vda")).unwrap();
        let keys = |key: &str| {
            let mut keys: Vec<_> =
                mappings_in(block.path(), key).unwrap().into_iter().map(|mapping| mapping.key).collect();
            keys.sort();
            keys
        };
        assert_eq!(keys("aa-"), ["aa-1", "aa-2"]);
        assert_eq!(keys("bb-"), ["bb-1"]);
        assert_eq!(keys("cc-"), [""; 0]);
    }
}
