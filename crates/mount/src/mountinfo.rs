//! `/proc/self/mountinfo`: the kernel's table of mounts, read as bytes.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::libc::{O_DIRECTORY, O_NOFOLLOW, O_PATH};

use crate::context::context_in;
use crate::{Error, target};

/// A device number, as `major:minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// The driver.
    pub major: u64,
    /// The driver's device.
    pub minor: u64,
}

impl Device {
    /// Converts a `st_dev` or `st_rdev` of stat(2).
    #[must_use]
    pub fn from_stat(number: u64) -> Self {
        Self { major: nix::sys::stat::major(number), minor: nix::sys::stat::minor(number) }
    }

    /// The kernel's name of the block device, such as `dm-3`. `None` if there is no such device.
    #[must_use]
    pub fn kernel_name(self) -> Option<String> {
        let link = std::fs::read_link(format!("/sys/dev/block/{self}")).ok()?;
        link.file_name()?.to_str().map(str::to_owned)
    }

    /// The disk that a partition is on; of any other device, the device itself.
    #[must_use]
    pub fn disk(self) -> Self {
        let sysfs = PathBuf::from(format!("/sys/dev/block/{self}"));
        if !sysfs.join("partition").exists() {
            return self;
        }
        // The link leads to the directory of the partition, which is in that of its disk.
        let disk = std::fs::canonicalize(&sysfs).ok().and_then(|path| Some(path.parent()?.join("dev")));
        let number = disk.and_then(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
        number.unwrap_or(self)
    }

    /// The number of the block device at `path`; symbolic links are followed. `None` if there is no block
    /// device.
    #[must_use]
    pub fn of_node(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        metadata.file_type().is_block_device().then(|| Self::from_stat(metadata.rdev()))
    }
}

impl FromStr for Device {
    type Err = NotADevice;

    fn from_str(text: &str) -> Result<Self, NotADevice> {
        let (major, minor) = text.split_once(':').ok_or(NotADevice)?;
        let number = |text: &str| number(text.as_bytes()).ok_or(NotADevice);
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

/// The text is not a device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a device number of the form MAJOR:MINOR")]
pub struct NotADevice;

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The mount's ID.
    pub id: u64,
    /// The ID of the mount that contains it.
    pub parent: u64,
    /// The filesystem's device; for btrfs an anonymous number, not that of the block device.
    pub device: Device,
    /// The mounted part of the filesystem, as a path from the filesystem's root.
    pub root: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// The options of this mount only: `rw`, `nosuid`, …
    pub options: Vec<String>,
    /// The type of the filesystem.
    pub fstype: String,
    /// What was mounted: for a filesystem on a disk, the device's path.
    pub source: PathBuf,
    /// The options of the filesystem, the same in all of its mounts.
    pub super_options: Vec<String>,
}

impl Entry {
    /// Whether this mount is read-only.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.has_option("ro")
    }

    /// Whether this mount (not its filesystem) has the option.
    #[must_use]
    pub fn has_option(&self, option: &str) -> bool {
        self.options.iter().any(|has| has == option)
    }

    /// The SELinux context of all its files, if it was mounted with `context=`.
    #[must_use]
    pub fn context(&self) -> Option<&str> {
        context_in(&self.super_options)
    }

    /// Whether this is a mount of the filesystem on that block device.
    #[must_use]
    pub fn is_of_device(&self, device: Device) -> bool {
        self.is_of_device_by(device, Device::of_node)
    }

    /// The same. `of_node` looks at a node.
    fn is_of_device_by(&self, device: Device, of_node: impl FnOnce(&Path) -> Option<Device>) -> bool {
        // btrfs mounts have anonymous device numbers (major 0): use the source's device node instead. The sources of
        // other mounts may be files on a dead network mount, which would hang.
        self.device == device
            || (self.device.major == 0 && self.source.starts_with("/dev") && of_node(&self.source) == Some(device))
    }
}

impl Entry {
    /// The path that names the block device of this mount, if it is a mount of one: of its node, from the root
    /// of the node's filesystem (a removed node appears as `/dm-3//deleted`), or of the filesystem's source. The
    /// device may be gone by now.
    #[must_use]
    pub fn device_path(&self) -> &Path {
        if self.is_node() { &self.root } else { &self.source }
    }
}

impl Entry {
    /// Whether this may be a mount of a single file, such as a device node.
    pub(crate) fn is_node(&self) -> bool {
        matches!(self.fstype.as_str(), "devtmpfs" | "tmpfs") && self.root != Path::new("/")
    }

    /// The number of the block device whose node is mounted here. `None` if this is not a mount of a node, or
    /// the device is gone.
    #[must_use]
    pub fn node_device(&self) -> Option<Device> {
        self.is_node().then(|| Device::of_node(&self.target)).flatten()
    }

    /// Whether the block device of this mount is gone: a filesystem on a disk that was pulled, or its node.
    /// While such a mount exists, the kernel does not reuse the device number.
    #[must_use]
    pub fn is_device_gone(&self) -> bool {
        if self.is_node() {
            return self.root.as_os_str().as_bytes().ends_with(b"//deleted");
        }
        match self.device.major {
            // btrfs mounts have anonymous device numbers: use the source's device node instead.
            0 => self.fstype == "btrfs" && self.source.starts_with("/dev") && Device::of_node(&self.source).is_none(),
            _ => !Path::new("/sys/dev/block").join(self.device.to_string()).exists(),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} (device {}, root {:?})", self.fstype, self.source, self.device, self.root)
    }
}

/// Parses the text of a mountinfo file. Lines that cannot be parsed are skipped.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    // Fields are separated by exactly one space; an empty source appears as two spaces.
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let root = path(fields.next()?);
    let target = path(fields.next()?);
    let options = words(fields.next()?);
    // Any number of optional fields, terminated by a single hyphen.
    fields.find(|&field| field == b"-")?;
    let fstype = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    let source = path(fields.next()?);
    let super_options = words(fields.next().unwrap_or_default());
    Some(Entry { id, parent, device, root, target, options, fstype, source, super_options })
}

fn number(field: &[u8]) -> Option<u64> {
    // `parse` alone would accept a leading plus sign.
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

/// Splits at commas outside of double quotes: an SELinux context with categories is quoted.
fn words(field: &[u8]) -> Vec<String> {
    let is_quoting = field.iter().filter(|&&byte| byte == b'"').count() % 2 == 0;
    let mut quoted = false;
    field
        .split(move |&byte| {
            quoted ^= is_quoting && byte == b'"';
            byte == b',' && !quoted
        })
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(&unescape(word)).into_owned())
        .collect()
}

/// Replaces `\ooo`, the kernel's escape of space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] if byte == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

/// The kernel's table of mounts, as this process sees it.
///
/// # Errors
/// The table cannot be read.
pub fn table() -> Result<Vec<Entry>, Error> {
    // Kernels before 5.8 can miss an entry when another mount goes away between two read calls: read until
    // two readings are equal. On a host whose mounts change all the time, use the last reading.
    const ATTEMPTS: usize = 5;
    let mut last = read()?;
    for _ in 1..ATTEMPTS {
        let again = read()?;
        if again == last {
            break;
        }
        last = again;
    }
    Ok(parse(&last))
}

fn read() -> Result<Vec<u8>, Error> {
    let mut text = Vec::with_capacity(64 * 1024);
    File::open("/proc/self/mountinfo").and_then(|mut file| file.read_to_end(&mut text)).map_err(Error::Table)?;
    Ok(text)
}

/// The topmost mount at `target`, which is the one that processes see.
///
/// # Errors
/// The path cannot be a target, or the table cannot be read.
pub fn at(target: &Path) -> Result<Option<Entry>, Error> {
    Ok(all_at(target)?.into_iter().next())
}

/// All mounts at `target`, the topmost first. Mounts that are unreachable because another mount covers a
/// directory above them are omitted.
///
/// # Errors
/// The path cannot be a target, or the table cannot be read.
pub fn all_at(target: &Path) -> Result<Vec<Entry>, Error> {
    match target::resolve(target)? {
        Some(resolved) => stack_at(&resolved),
        None => Ok(Vec::new()),
    }
}

/// [`all_at`] for an already resolved path.
pub(crate) fn stack_at(resolved: &Path) -> Result<Vec<Entry>, Error> {
    let entries = table()?;
    let top = match mount_id(resolved) {
        Leads::Into(id) => entries.iter().find(|entry| entry.id == id && entry.target == resolved),
        Leads::Nowhere => None,
        Leads::Unknown => topmost(&entries, resolved),
    };
    let mut stack: Vec<Entry> = Vec::new();
    let mut next = top;
    while let Some(entry) = next {
        stack.push(entry.clone());
        // A mount on top of another one has it as its parent, and the same target. The second condition ends
        // a cycle, which the kernel never shows.
        next = entries.iter().find(|under| {
            under.id == entry.parent && under.target == resolved && !stack.iter().any(|seen| seen.id == under.id)
        });
    }
    Ok(stack)
}

/// Where a path leads.
enum Leads {
    /// Into the mount with that ID.
    Into(u64),
    /// Nothing is there.
    Nowhere,
    /// Unknown: the filesystem cannot even be opened.
    Unknown,
}

/// Asks the kernel which mount a path leads into.
fn mount_id(path: &Path) -> Leads {
    // O_PATH does not access the filesystem itself, so it works on a dead one.
    let file = match File::options().read(true).custom_flags(O_PATH | O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Leads::Nowhere,
        Err(_) => return Leads::Unknown,
    };
    mount_of(&file).map_or(Leads::Unknown, Leads::Into)
}

/// The ID of the mount that an open file is in.
fn mount_of(file: &File) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// Opens the directory where a filesystem is mounted. `None`: this mount is not there any more, or another one covers
/// it. While the directory is open, nothing can unmount it.
///
/// # Errors
/// The filesystem no longer works.
pub fn open_mounted(entry: &Entry) -> Result<Option<File>, Error> {
    match File::options().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(&entry.target) {
        Ok(directory) => Ok((mount_of(&directory) == Some(entry.id)).then_some(directory)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io("open", &entry.target, &error)),
    }
}

/// The topmost entry at a target, according to the table only: the one that is not the parent of another one
/// at the same target.
fn topmost<'a>(entries: &'a [Entry], target: &Path) -> Option<&'a Entry> {
    let here = || entries.iter().filter(|entry| entry.target == target);
    here().rfind(|entry| !here().any(|other| other.id != entry.id && other.parent == entry.id))
}

/// Every mount of the filesystem on that block device, including binds: while one exists, the volume is in
/// use. Mounts in other mount namespaces are not visible.
///
/// # Errors
/// The table cannot be read.
pub fn mounts_of_device(device: Device) -> Result<Vec<Entry>, Error> {
    Ok(table()?.into_iter().filter(|entry| entry.is_of_device(device)).collect())
}

/// Every mount of the node of that block device: the publications of a raw block volume.
///
/// # Errors
/// The table cannot be read.
pub fn publications_of_block(device: Device) -> Result<Vec<Entry>, Error> {
    let name = device.kernel_name();
    let published = |entry: &Entry| {
        // Device nodes are on devtmpfs, or on a tmpfs in a container with its own /dev.
        if !matches!(entry.fstype.as_str(), "devtmpfs" | "tmpfs") || entry.root == Path::new("/") {
            return false;
        }
        match entry.target.symlink_metadata() {
            Ok(metadata) => metadata.file_type().is_block_device() && Device::from_stat(metadata.rdev()) == device,
            // stat fails: use the name under which the node was bound instead.
            Err(_) => name.as_ref().is_some_and(|name| entry.root.file_name() == Some(OsStr::new(name))),
        }
    };
    Ok(table()?.into_iter().filter(published).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REAL: &[u8] = b"\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw,errors=remount-ro
36 22 253:3 / /var/lib/kubelet/plugins/a\\040b\\011c\\012d\\134e/globalmount rw,noatime shared:7 master:2 - xfs /dev/mapper/vg-lv rw,attr2
37 22 0:5 /dm-3 /publish rw,nosuid shared:2 - devtmpfs udev rw,size=4k
this line is broken
38 22 0:44 / /empty rw - tmpfs  rw
39 22 0:45 /sub/vol /\xff\xfe ro,relatime - btrfs /dev/dm-4 rw,subvol=/sub/vol
40 22 0:46 / /fuse rw - fuse.sshfs user@host:/x rw";

    /// The source of a mount of another filesystem may be a file on a dead network mount.
    #[test]
    fn only_sources_in_dev_are_looked_at() {
        let device = Device { major: 253, minor: 4 };
        let is_of = |source: &str| {
            let line = format!("39 22 0:45 / /mnt rw - btrfs {source} rw");
            let [entry] = <[Entry; 1]>::try_from(parse(line.as_bytes())).unwrap();
            entry.is_of_device_by(device, |path| {
                assert!(path.starts_with("/dev"), "{path:?} was looked at");
                Some(device)
            })
        };
        assert!(is_of("/dev/dm-4") && is_of("/dev/mapper/vg-lv"));
        assert!(!is_of("/mnt/nfs/image") && !is_of("/device") && !is_of("server:/x"));
    }

    #[test]
    fn a_mount_names_its_device() {
        for (line, path) in [
            ("36 22 253:3 / /staged rw - xfs /dev/mapper/vg-lv rw", "/dev/mapper/vg-lv"),
            ("36 22 0:45 / /staged rw - btrfs /dev/dm-4 rw", "/dev/dm-4"),
            ("37 22 0:5 /dm-3 /published rw - devtmpfs udev rw", "/dm-3"),
            ("37 22 0:5 /mapper/vg-lv /published rw - tmpfs tmpfs rw", "/mapper/vg-lv"),
            ("38 22 0:44 / /run rw - tmpfs tmpfs rw", "tmpfs"),
        ] {
            assert_eq!(parse(line.as_bytes())[0].device_path(), Path::new(path));
        }
    }

    #[test]
    fn a_quoted_context_is_one_option() {
        let options = |text: &str| parse(format!("1 2 253:3 / /a rw - ext4 /dev/dm-3 {text}").as_bytes())[0].clone();
        let entry = options("rw,context=\"a:b:c:s0:c1,c2\",data=ordered");
        assert_eq!(entry.super_options, ["rw", "context=\"a:b:c:s0:c1,c2\"", "data=ordered"]);
        assert_eq!(entry.context(), Some("a:b:c:s0:c1,c2"));
        assert_eq!(options("rw,context=a:b:c:s0").context(), Some("a:b:c:s0"));
        // Not a pair of quotes: a name with a quote in it.
        assert_eq!(options("rw,lowerdir=a\"b,ro").super_options, ["rw", "lowerdir=a\"b", "ro"]);
    }

    #[test]
    fn a_mount_without_its_device_is_recognized() {
        let is_device_gone = |line: &str| parse(line.as_bytes())[0].is_device_gone();
        assert!(is_device_gone("36 22 4000:3 / /staged rw - xfs /dev/sdz2 rw"));
        assert!(is_device_gone("36 22 0:45 / /staged rw - btrfs /dev/no-such-disk2 rw"));
        assert!(is_device_gone("37 22 0:5 /sdz2//deleted /published rw - devtmpfs udev rw"));
        assert!(!is_device_gone("37 22 0:5 /sdz2 /published rw - devtmpfs udev rw"));
        assert!(!is_device_gone("38 22 0:44 / /run rw - tmpfs tmpfs rw"));
        assert!(!is_device_gone("38 22 0:46 / /share rw - nfs4 host:/export rw"));
        // Any device of the machine that this runs on.
        for device in std::fs::read_dir("/sys/dev/block").into_iter().flatten().flatten().take(1) {
            let number = device.file_name().into_string().unwrap();
            assert!(!is_device_gone(&format!("36 22 {number} / /staged rw - xfs /dev/sdz2 rw")));
        }
    }

    #[test]
    fn a_real_table_is_parsed() {
        let entries = parse(REAL);
        assert_eq!(entries.len(), 6, "only the broken line is skipped");
        let kubelet = &entries[1];
        assert_eq!(kubelet.target, Path::new("/var/lib/kubelet/plugins/a b\tc\nd\\e/globalmount"));
        assert_eq!((kubelet.id, kubelet.parent), (36, 22));
        assert_eq!(kubelet.device, Device { major: 253, minor: 3 });
        assert_eq!((kubelet.fstype.as_str(), kubelet.source.as_path()), ("xfs", Path::new("/dev/mapper/vg-lv")));
        assert_eq!(kubelet.options, ["rw", "noatime"]);
        assert_eq!(kubelet.super_options, ["rw", "attr2"]);
        assert_eq!(entries[2].root, Path::new("/dm-3"));
        assert_eq!(entries[3].source, Path::new(""), "an empty source shifts nothing");
        assert_eq!(entries[3].super_options, ["rw"]);
        assert_eq!(entries[4].target.as_os_str().as_bytes(), b"/\xff\xfe");
        assert!(entries[4].read_only() && !kubelet.read_only());
        assert_eq!(entries[5].fstype, "fuse.sshfs");
    }

    #[test]
    fn broken_lines_are_skipped() {
        for bad in [
            &b""[..],
            b"22",
            b"a 1 259:1 / / rw - ext4 /dev/root rw",
            b"22 1 2591 / / rw - ext4 /dev/root rw",
            b"22 1 259:+1 / / rw - ext4 /dev/root rw",
            b"22 1 259:1 / / rw shared:1 ext4 /dev/root rw",
            b"22 1 259:1 / / rw -",
            b"99999999999999999999999 1 259:1 / / rw - ext4 /dev/root rw",
        ] {
            assert_eq!(parse(bad), [], "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn octal_needs_three_digits_that_fit_a_byte() {
        assert_eq!(unescape(br"a\040b\1x\400\\\377"), b"a b\\1x\\400\\\\\xff");
        assert_eq!(unescape(br"\134040"), br"\040", "unescaped text is not unescaped again");
    }

    #[test]
    fn the_topmost_mount_is_the_one_without_a_mount_on_top() {
        // Newer kernels may list a mount before the one below it.
        let entries = parse(
            b"52 51 0:3 / /t rw - tmpfs c rw\n51 50 0:2 / /t rw - tmpfs b rw\n50 1 0:1 / /t rw - tmpfs a rw\n1 0 0:9 / / rw - x y rw",
        );
        assert_eq!(topmost(&entries, Path::new("/t")).unwrap().id, 52);
        assert_eq!(topmost(&entries, Path::new("/u")), None);
    }

    #[test]
    fn this_process_finds_its_own_proc() {
        let proc = at(Path::new("/proc")).unwrap().expect("/proc is mounted");
        assert_eq!(proc.fstype, "proc");
        assert_eq!(at(Path::new("/proc/self")).unwrap(), None, "a path inside a mount is not a mount point");
        assert_eq!(at(Path::new("/no/such/place")).unwrap(), None);
    }

    /// Escapes as the kernel's seq_path does.
    fn escape(plain: &[u8]) -> Vec<u8> {
        plain
            .iter()
            .flat_map(|&byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
                _ => vec![byte],
            })
            .collect()
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&text);
        }

        #[test]
        fn nearly_valid_tables_do_not_panic(at in 0..REAL.len(), byte: u8) {
            let mut text = REAL.to_vec();
            text[at] = byte;
            // One changed byte can break one line, or two if it was the newline between them; or split one.
            prop_assert!((4..=7).contains(&parse(&text).len()));
        }

        #[test]
        fn escaped_text_is_restored(
            target in proptest::collection::vec(any::<u8>().prop_filter("a path has no NUL", |&b| b != 0), 1..80),
            source in proptest::collection::vec(1u8.., 0..40),
            (id, parent, major, minor) in any::<(u32, u32, u16, u32)>(),
            optional in proptest::collection::vec("(shared|master|propagate_from):[0-9]{1,4}", 0..3),
        ) {
            let mut line = format!("{id} {parent} {major}:{minor} / ").into_bytes();
            line.extend(escape(&target));
            line.extend(b" rw,noatime ");
            for field in &optional {
                line.extend(field.as_bytes());
                line.push(b' ');
            }
            line.extend(b"- ext4 ");
            line.extend(escape(&source));
            line.extend(b" rw\n");
            let entries = parse(&line);
            prop_assert_eq!(entries.len(), 1);
            let entry = &entries[0];
            prop_assert_eq!(entry.target.as_os_str().as_bytes(), &target[..]);
            prop_assert_eq!(entry.source.as_os_str().as_bytes(), &source[..]);
            prop_assert_eq!((entry.id, entry.parent), (u64::from(id), u64::from(parent)));
            prop_assert_eq!(entry.device, Device { major: u64::from(major), minor: u64::from(minor) });
        }
    }
}
