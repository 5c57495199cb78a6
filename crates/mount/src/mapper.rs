//! Read-only mappings of block devices, for publishing a raw block volume to a pod that must not write.
//!
//! A read-only mount of a device's node does not prevent writes to the device, and the device's own read-only
//! flag would affect all users. So the pod gets its own device-mapper device, which maps the whole volume
//! with a read-only table.
//!
//! Mappings are made with device-mapper's ioctls and not with dmsetup: only then can udev be made to ignore
//! them. The data on the volume belongs to a tenant and must not make the host assemble or activate anything.
//! Mappings are identified by their UUIDs, which have a prefix that only Quarry uses; no other state is kept.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use crate::{Attempt, Device, Error, publications_of_block};

/// The prefix of the device-mapper UUIDs of these mappings.
pub const READ_ONLY_UUID: &str = "QUARRY-RO-";

/// How often, and after which pause, a removal is retried while the device is open: a scanner may open it
/// briefly.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// A read-only mapping that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The rest of its UUID, which identifies its purpose.
    pub key: String,
    /// Its device number.
    pub device: Device,
}

/// All read-only mappings whose keys start with `key`.
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
        // Not a device-mapper device, or it was removed in the meantime.
        let Ok(uuid) = fs::read_to_string(entry.path().join("dm/uuid")) else { continue };
        let Some(key) = uuid.trim().strip_prefix(READ_ONLY_UUID).filter(|_| uuid.starts_with(&wanted)) else {
            continue;
        };
        let number = fs::read_to_string(entry.path().join("dev")).unwrap_or_default();
        if let Ok(device) = number.trim().parse::<Device>() {
            found.push(Mapping { key: key.to_owned(), device });
        }
    }
    Ok(found)
}

/// Makes the read-only mapping with that key, of the whole device, and returns its node. Completes a mapping
/// that a killed process began, and replaces one that maps something else, or less, unless it is in use. (A mount of its
/// node does not open it, so the kernel would remove a mapping that a pod has, and its number could become that of
/// another volume.)
///
/// # Errors
/// [`Error::Published`] if it maps something else, or less, and its node is mounted somewhere. [`Error::Claimed`] if
/// another program holds the device exclusively; otherwise the error of the system call.
pub fn map_read_only(device: Device, key: &str) -> Result<PathBuf, Error> {
    let uuid = format!("{READ_ONLY_UUID}{key}");
    let find = || Ok::<_, Error>(read_only_mappings(key)?.into_iter().find(|mapping| mapping.key == key));
    if let Some(found) = find()?.filter(|found| !is_empty(found.device)) {
        if maps(found.device, device) {
            return node_of(found.device);
        }
        if let Some(entry) = publications_of_block(found.device)?.into_iter().next() {
            return Err(Error::Published { device, mapping: found.device, target: entry.target });
        }
        unmap_read_only(key)?;
    }
    let sectors = sectors_of(device)?;
    // A mapping whose creation was interrupted is not in sysfs until it has a table.
    let subject = Subject::Uuid(&uuid);
    if status(subject)?.is_none() {
        call(subject, "create", &mut Request::create(&uuid), ioctl::dev_create)?;
    }
    let mut table = Request::linear(&uuid, sectors, device);
    let loaded = call(subject, "load", &mut table, ioctl::table_load);
    loaded.map_err(|error| match error {
        Error::Syscall { source: Errno::EBUSY, .. } => {
            // Without a table it maps nothing, and it is Quarry's own.
            let _ = unmap_read_only(key);
            Error::Claimed { device }
        }
        error => error,
    })?;
    call(subject, "resume", &mut Request::of(subject), ioctl::dev_suspend)?;
    match find()? {
        Some(mapping) if maps(mapping.device, device) => node_of(mapping.device),
        made => Err(Error::Unverified {
            attempted: "the read-only mapping",
            target: node_path(device),
            found: made.map_or_else(|| "nothing".to_owned(), |made| format!("{} otherwise", made.device)),
        }),
    }
}

/// Whether a mapping is read-only and maps that device, completely or as far as it reached when the mapping was made: a
/// mapping keeps its size when the device grows. Reads only the kernel's tables.
#[must_use]
pub fn is_read_only_mapping_of(mapping: Device, device: Device) -> bool {
    device.kernel_name().is_some_and(|name| is_read_only_on(&sysfs(mapping), &name))
}

/// The same for a mapping with that folder in sysfs, and the device with that name.
fn is_read_only_on(mapping: &Path, device: &str) -> bool {
    let read_only = fs::read_to_string(mapping.join("ro")).is_ok_and(|flag| flag.trim() == "1");
    read_only && mapping.join("slaves").join(device).exists()
}

/// Removes the read-only mapping with that key. Succeeds if it does not exist.
///
/// # Errors
/// [`Error::Busy`] while it is open.
pub fn unmap_read_only(key: &str) -> Result<(), Error> {
    remove(Subject::Uuid(&format!("{READ_ONLY_UUID}{key}")), "remove the read-only mapping")
}

/// Removes a device-mapper device. Succeeds if it does not exist.
fn remove(subject: Subject<'_>, attempted: &'static str) -> Result<(), Error> {
    if status(subject)?.is_none() {
        return Ok(());
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match call(subject, "remove", &mut Request::of(subject), ioctl::dev_remove) {
            Err(Error::Syscall { source: Errno::ENXIO, .. }) | Ok(()) => return Ok(()),
            Err(Error::Syscall { source: Errno::EBUSY, .. }) if tries < TRIES => std::thread::sleep(PAUSE),
            Err(Error::Syscall { source: Errno::EBUSY, .. }) => {
                return Err(Error::Busy {
                    attempted,
                    target: PathBuf::from(subject.as_str()),
                    holders: " by a program that has it open, or by a loop device on it".to_owned(),
                });
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes the device-mapper device with that UUID, which may belong to another program, and its node under
/// `/dev/mapper`. Reads nothing from the devices below. Succeeds if it does not exist.
///
/// # Errors
/// [`Error::Busy`] while it is open.
pub fn remove_mapping(uuid: &str, name: &str) -> Result<(), Error> {
    remove(Subject::Uuid(uuid), "remove the device-mapper device")?;
    remove_node(name);
    Ok(())
}

/// Removes the device-mapper device with that name if it has no active table: the program that made it was killed on the
/// way, so nothing can use it, but it may hold the devices below. Does nothing if it does not exist, or has a table.
///
/// # Errors
/// The error of the system call.
pub fn remove_unfinished_mapping(name: &str) -> Result<(), Error> {
    let subject = Subject::Name(name);
    match status(subject)? {
        Some(flags) if flags & ACTIVE == 0 => {
            remove(subject, "remove the unfinished device-mapper device")?;
            remove_node(name);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Removes the node that libdevmapper makes if it does not wait for udev. Quarry uses the kernel's own nodes.
fn remove_node(name: &str) {
    let node = Path::new(CONTROL).with_file_name(name);
    let is_node = fs::symlink_metadata(&node)
        .is_ok_and(|found| found.file_type().is_symlink() || found.file_type().is_block_device());
    if is_node {
        // A node that stays is harmless: the next device of that name replaces it.
        let _ = fs::remove_file(&node);
    }
}

/// Whether a mapping has no table because its creation was interrupted.
fn is_empty(mapping: Device) -> bool {
    sectors_of(mapping).is_ok_and(|sectors| sectors == 0)
}

/// Whether a mapping is read-only and maps the whole device.
fn maps(mapping: Device, device: Device) -> bool {
    let whole = matches!((sectors_of(mapping), sectors_of(device)), (Ok(one), Ok(other)) if one == other);
    whole && is_read_only_mapping_of(mapping, device)
}

/// The size in sectors of 512 bytes, the kernel's unit.
fn sectors_of(device: Device) -> Result<u64, Error> {
    let path = sysfs(device).join("size");
    let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
    text.trim().parse().map_err(|_| Error::Syscall {
        attempted: Attempt::Other("parse"),
        on: path,
        source: Errno::EINVAL,
    })
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
        _ => Err(Error::Syscall {
            attempted: Attempt::Other("find the node of the read-only mapping"),
            on: node,
            source: Errno::ENOENT,
        }),
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

/// An ioctl request with space for one target, the only table that is ever loaded.
#[repr(C)]
struct Request {
    header: Header,
    target: Target,
    parameters: [u8; 64],
}

/// Read-only; also the flag of a table.
const READ_ONLY: u32 = 1;
/// `DM_ACTIVE_PRESENT_FLAG`: it has an active table.
const ACTIVE: u32 = 1 << 5;
/// Disables udev's rules for device-mapper (links), for subsystems, for disks (links by content) and for
/// others (LVM, md, mounts). With the last flag, udev remembers this for events that others cause.
const LEAVE_ALONE: u32 = (0x01 | 0x02 | 0x04 | 0x08 | 0x40) << 16;

/// How a request identifies its device: by one of the two.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Uuid(&'a str),
    Name(&'a str),
}

impl<'a> Subject<'a> {
    fn as_str(self) -> &'a str {
        match self {
            Self::Uuid(text) | Self::Name(text) => text,
        }
    }
}

impl Request {
    /// A request for an existing device.
    fn of(subject: Subject<'_>) -> Self {
        match subject {
            Subject::Uuid(uuid) => Self::new("", uuid),
            Subject::Name(name) => Self::new(name, ""),
        }
    }

    /// The request that creates the device with that UUID, and the name that Quarry gives it.
    fn create(uuid: &str) -> Self {
        Self::new(&uuid.to_ascii_lowercase(), uuid)
    }

    fn new(name: &str, uuid: &str) -> Self {
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
                name: text(name),
                uuid: text(uuid),
                data: [0; 7],
            },
            target: Target { sector_start: 0, length: 0, status: 0, next: 0, target_type: [0; 16] },
            parameters: [0; 64],
        }
    }

    /// A read-only table that maps the whole device.
    fn linear(uuid: &str, sectors: u64, device: Device) -> Self {
        let mut request = Self::of(Subject::Uuid(uuid));
        request.header.flags = READ_ONLY;
        request.header.event_nr = 0;
        request.header.target_count = 1;
        request.target.length = sectors;
        request.target.target_type = text("linear");
        request.parameters = text(&format!("{device} 0"));
        request
    }
}

/// The text followed by at least one NUL; truncated if it does not fit.
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

/// One of device-mapper's ioctls.
type Call = unsafe fn(i32, *mut Header) -> nix::Result<i32>;

/// Makes one ioctl that changes something.
fn call(subject: Subject<'_>, what: &'static str, request: &mut Request, ioctl: Call) -> Result<(), Error> {
    let control = control().map_err(|error| Error::io("open", Path::new(CONTROL), &error))?;
    quarry_fault::point(|| format!("mapper:{what}:before"));
    let result = make(&control, request, ioctl);
    quarry_fault::point(|| format!("mapper:{what}:after"));
    let on = || PathBuf::from(subject.as_str());
    result.map_err(|source| Error::Syscall { attempted: Attempt::Other(what), on: on(), source })
}

/// The flags of a mapping, even of one without a table. `None`: it does not exist. If there is no device-mapper, or
/// Quarry cannot access it, Quarry has made none.
fn status(subject: Subject<'_>) -> Result<Option<u32>, Error> {
    let control = match control() {
        Ok(control) => control,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return Ok(None),
        Err(error) => return Err(Error::io("open", Path::new(CONTROL), &error)),
    };
    let mut request = Request::of(subject);
    match make(&control, &mut request, ioctl::dev_status) {
        Ok(()) => Ok(Some(request.header.flags)),
        Err(Errno::ENXIO) => Ok(None),
        Err(source) => {
            let on = PathBuf::from(subject.as_str());
            Err(Error::Syscall { attempted: Attempt::Other("look up"), on, source })
        }
    }
}

/// The control device of device-mapper.
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
    fn only_mappings_of_quarry_are_found() {
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

    #[test]
    fn a_mapping_is_of_the_device_below_it_if_it_is_read_only() {
        let folder = tempfile::tempdir().unwrap();
        let is_of = |name: &str| is_read_only_on(folder.path(), name);
        assert!(!is_of("dm-3"), "it is gone");
        fs::create_dir_all(folder.path().join("slaves/dm-3")).unwrap();
        fs::write(folder.path().join("ro"), "1\n").unwrap();
        assert!(is_of("dm-3") && !is_of("dm-4"));
        fs::write(folder.path().join("ro"), "0\n").unwrap();
        assert!(!is_of("dm-3"));
    }
}
