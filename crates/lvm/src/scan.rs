//! Finds the physical volumes of this host by reading their labels, without lvm.
//!
//! lvm opens every device that it may use, and trusts what it finds there. So a single hanging disk could
//! block the commands for every volume group, and a tenant who creates a volume group inside a raw block
//! volume could change what lvm reports about the host's own groups. Therefore the devices are scanned here
//! first: each in its own thread, and never one that is built on a logical volume or on an image, where tenants' data
//! is. lvm then gets access to the devices of one volume group only.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quarry_block::read_direct;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::dm;
use crate::label::{Label, read_label};
use crate::uuid::LVM;

/// How long the first scan waits for the devices: a sleeping disk has to spin up. A device that has not
/// answered by then is left to its thread, and later scans do not wait for it.
pub(crate) const FIRST: Duration = Duration::from_secs(20);
/// How long later scans wait. They have the previous result of each device.
pub(crate) const LATER: Duration = Duration::from_secs(2);
/// Kinds of devices that never hold a pool's disk: memory, optical drives, and floppy disks.
const NEVER: [&str; 5] = ["ram", "zram", "sr", "fd", "nullb"];
/// Kinds of devices that hold an image, with the bytes of a tenant: on this host, or in a Ceph cluster, where it is the
/// volume of another driver.
const IMAGES: [&str; 2] = ["loop", "rbd"];
/// More than any real stack of devices.
const DEPTH: usize = 16;

/// A device that may be a physical volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate {
    /// The device's node.
    pub(crate) device: PathBuf,
    /// The kernel's device number, such as `8:16`.
    number: String,
    /// A device number may be reused for another disk; this sequence number never is. Missing before Linux
    /// 5.15.
    sequence: Option<String>,
}

/// The result of one scan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scan {
    /// The physical volumes.
    pub(crate) labels: Vec<(PathBuf, Label)>,
    /// Devices that did not answer, or returned an error.
    pub(crate) unresponsive: Vec<PathBuf>,
    /// Those of them that returned an error: they may do so for ever, as a path to a disk that is on standby.
    pub(crate) failed: Vec<PathBuf>,
}

/// The devices that may be physical volumes, from sysfs only: no device is opened.
///
/// # Errors
/// `/sys/block` cannot be read.
pub(crate) fn candidates() -> io::Result<Vec<Candidate>> {
    let found = candidates_in(Path::new("/sys"), &dm::nodes_of_volumes())?;
    Ok(found.into_iter().filter(|candidate| is_node(&candidate.device, &candidate.number)).collect())
}

/// `volumes` are nodes of logical volumes that are known without reading each one's UUID in sysfs: a host can have thousands.
fn candidates_in(sys: &Path, volumes: &BTreeSet<String>) -> io::Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sys.join("block"))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if NEVER.iter().any(|kind| name.strip_prefix(kind).is_some_and(is_number))
            || volumes.contains(&name)
            || lies_on_volume(sys, &name, DEPTH)
        {
            continue;
        }
        found.extend(candidate(&entry.path(), &name));
        // A device may disappear during the scan.
        for part in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            let Ok(partition) = part.file_name().into_string() else { continue };
            // The kernel names partitions after their device.
            if partition.starts_with(&name) && part.path().join("partition").exists() {
                found.extend(candidate(&part.path(), &partition));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The device with that folder in sysfs. `None` if it has no medium, or is suspended.
fn candidate(folder: &Path, name: &str) -> Option<Candidate> {
    let empty = read(&folder.join("size")).is_none_or(|size| size == "0");
    let mapped = |file: &str| is_mapped(name).then(|| read(&folder.join("dm").join(file))).flatten();
    if empty || mapped("suspended").is_some_and(|suspended| suspended == "1") {
        return None;
    }
    let mapped = mapped("name").filter(|name| name.bytes().all(|byte| plain(byte) && byte != b'/'));
    let device = match mapped {
        Some(mapped) => Path::new("/dev/mapper").join(mapped),
        // The kernel replaces a slash in a device's name.
        None => Path::new("/dev").join(name.replace('!', "/")),
    };
    let fits = device.as_os_str().as_encoded_bytes().iter().all(|byte| plain(*byte));
    let number = read(&folder.join("dev"))?;
    fits.then(|| Candidate { device, number, sequence: read(&folder.join("diskseq")) })
}

/// Whether it is the name of a device-mapper device.
fn is_mapped(name: &str) -> bool {
    name.starts_with("dm-")
}

/// Bytes in device names that have no special meaning in lvm's configuration and on its command line.
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/_.-+=@,#".contains(&byte)
}

/// Whether a device is a logical volume or an image, or is built on one, at any depth.
fn lies_on_volume(sys: &Path, name: &str, depth: usize) -> bool {
    let folder = sys.join("class/block").join(name);
    let is_image = |kind: &&str| {
        name.strip_prefix(kind).is_some_and(|number| number.starts_with(|first: char| first.is_ascii_digit()))
    };
    // While a device is being removed, it has no UUID any more. One that never had a UUID has an empty file.
    let is_logical = || read(&folder.join("dm/uuid")).is_none_or(|uuid| uuid.starts_with(LVM));
    if IMAGES.iter().any(is_image) || (is_mapped(name) && is_logical()) {
        return true;
    }
    let below = fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
    // If the limit is reached, assume the worst.
    below.filter_map(|entry| entry.file_name().into_string().ok()).any(|below| match depth.checked_sub(1) {
        Some(depth) => lies_on_volume(sys, &below, depth),
        None => true,
    })
}

fn is_node(device: &Path, number: &str) -> bool {
    fs::metadata(device).is_ok_and(|metadata| {
        let rdev = metadata.rdev();
        metadata.file_type().is_block_device()
            && format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)) == number
    })
}

/// The numbers of the devices that a thread is reading now.
static IN_PROGRESS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn in_progress() -> MutexGuard<'static, BTreeSet<String>> {
    IN_PROGRESS.lock()
}

/// Held during a scan. Two concurrent scans would each find the devices that the other is reading, and report
/// them as unresponsive.
static SCANNING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Marks a device as being read, until it is dropped. So a hanging device has only one thread, however often
/// it is scanned.
struct Reading(String);

impl Reading {
    fn begin(number: &str) -> Option<Self> {
        in_progress().insert(number.to_owned()).then(|| Self(number.to_owned()))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        in_progress().remove(&self.0);
    }
}

/// Reads the labels of these devices, all at once, and waits `patience` for them.
pub(crate) async fn scan(candidates: &[Candidate], patience: Duration) -> Scan {
    let _guard = SCANNING.lock().await;
    let (sender, mut answers) = mpsc::unbounded_channel();
    let mut open: BTreeSet<PathBuf> = candidates.iter().map(|candidate| candidate.device.clone()).collect();
    let mut waited_for = 0_usize;
    for Candidate { device, number, .. } in candidates {
        // A device that still hangs in an earlier scan is not read again.
        let Some(reading) = Reading::begin(number) else { continue };
        let (device, sender) = (device.clone(), sender.clone());
        let started = std::thread::Builder::new().name("label".to_owned()).spawn(move || {
            let label = read_direct(&device, read_label);
            drop(reading);
            // The receiver is gone if the deadline has passed.
            let _ = sender.send((device, label));
        });
        waited_for += usize::from(started.is_ok());
    }
    let mut found = Scan::default();
    let deadline = Instant::now() + patience;
    while waited_for > 0 {
        let Ok(Some((device, label))) = timeout_at(deadline, answers.recv()).await else { break };
        waited_for -= 1;
        match label {
            Ok(label) => {
                open.remove(&device);
                found.labels.extend(label.map(|label| (device, label)));
            }
            // It has no medium, or cannot be opened now, so it holds nothing that could be used.
            Err(error) if no_medium(&error) => {
                open.remove(&device);
            }
            Err(error) => {
                tracing::debug!(device = %device.display(), %error, "cannot read a device's label");
                found.failed.push(device);
            }
        }
    }
    found.unresponsive = open.into_iter().collect();
    found.labels.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

fn no_medium(error: &io::Error) -> bool {
    use nix::libc::{EMEDIUMTYPE, ENODEV, ENOENT, ENOMEDIUM, ENXIO};
    matches!(error.raw_os_error(), Some(ENOMEDIUM | ENXIO | ENODEV | EMEDIUMTYPE | ENOENT))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    struct Host(tempfile::TempDir);

    impl Host {
        fn device(&self, name: &str, files: &[(&str, &str)], below: &[&str]) -> PathBuf {
            let folder = self.0.path().join("block").join(name);
            self.folder(&folder, name, files, below);
            folder
        }

        fn folder(&self, folder: &Path, name: &str, files: &[(&str, &str)], below: &[&str]) {
            for (file, text) in [("size", "8192"), ("dev", "8:0")].iter().chain(files) {
                let path = folder.join(file);
                fs::create_dir_all(path.parent().expect("parent")).expect("folder");
                fs::write(path, format!("{text}\n")).expect("file");
            }
            for name in below {
                fs::create_dir_all(folder.join("slaves").join(name)).expect("folder");
            }
            let class = self.0.path().join("class/block");
            fs::create_dir_all(&class).expect("folder");
            std::os::unix::fs::symlink(folder, class.join(name)).expect("link");
        }

        fn found(&self) -> Vec<String> {
            self.found_beside(&[])
        }

        fn found_beside(&self, volumes: &[&str]) -> Vec<String> {
            let volumes = volumes.iter().map(|name| (*name).to_owned()).collect();
            let found = candidates_in(self.0.path(), &volumes).expect("read");
            found.iter().map(|candidate| candidate.device.to_string_lossy().into_owned()).collect()
        }
    }

    #[test]
    fn a_device_on_a_volume_or_an_image_is_never_a_candidate() {
        let host = Host(tempfile::tempdir().expect("folder"));
        let vda = host.device("vda", &[], &[]);
        host.folder(&vda.join("vda1"), "vda1", &[("partition", "1")], &[]);
        host.device("cciss!c0d0", &[], &[]);
        host.device("dm-0", &[("dm/uuid", "LVM-abc"), ("dm/name", "vg0-pvc")], &["vda1"]);
        host.device("dm-1", &[("dm/uuid", "LVM-nested"), ("dm/name", "tenant-inner")], &["loop0"]);
        host.device("dm-2", &[("dm/uuid", "mpath-36"), ("dm/name", "mpatha")], &["vda"]);
        host.device("dm-3", &[("dm/uuid", "CRYPT-LUKS2"), ("dm/name", "luks")], &["dm-2"]);
        host.device("dm-4", &[("dm/uuid", "CRYPT-LUKS2"), ("dm/name", "tenants")], &["dm-0"]);
        host.device("dm-5", &[("dm/uuid", "part1-LVM-abc"), ("dm/name", "vg0-pvc1")], &["dm-0"]);
        host.device("dm-6", &[("dm/uuid", "x"), ("dm/name", "slow"), ("dm/suspended", "1")], &["vda"]);
        host.device("dm-7", &[("dm/uuid", "x"), ("dm/name", r"odd\x20name")], &["vda"]);
        let md = host.device("md127", &[], &["dm-0"]);
        host.folder(&md.join("md127p1"), "md127p1", &[("partition", "1")], &[]);
        host.device("md0", &[], &["vda1"]);
        host.device("bcache0", &[], &["dm-4"]);
        let image = host.device("loop0", &[], &[]);
        host.folder(&image.join("loop0p1"), "loop0p1", &[("partition", "1")], &[]);
        host.device("md1", &[], &["loop0p1"]);
        let image = host.device("rbd1", &[], &[]);
        host.folder(&image.join("rbd1p1"), "rbd1p1", &[("partition", "1")], &[]);
        // A volume of another driver, encrypted by that.
        host.device("dm-8", &[("dm/uuid", "CRYPT-LUKS2"), ("dm/name", "luks-rbd")], &["rbd1"]);
        // A logical volume that is being removed.
        host.device("dm-9", &[("dm/name", "vg0-removed")], &["vda1"]);
        host.device("sr0", &[], &[]);
        host.device("zram0", &[], &[]);
        host.device("sdb", &[("size", "0")], &[]);
        assert_eq!(
            host.found(),
            [
                "/dev/cciss/c0d0",
                "/dev/dm-7",
                "/dev/mapper/luks",
                "/dev/mapper/mpatha",
                "/dev/md0",
                "/dev/vda",
                "/dev/vda1"
            ]
        );
        let without: Vec<String> = host.found().into_iter().filter(|device| device != "/dev/mapper/luks").collect();
        assert_eq!(host.found_beside(&["dm-0", "dm-3"]), without, "what device-mapper lists as a volume is not read");
    }

    #[test]
    fn a_device_cycle_is_not_a_candidate() {
        let host = Host(tempfile::tempdir().expect("folder"));
        host.device("md0", &[], &["md1"]);
        host.device("md1", &[], &["md0"]);
        assert!(host.found().is_empty());
    }

    fn named(path: &Path, number: &str) -> Candidate {
        Candidate { device: path.to_owned(), number: number.to_owned(), sequence: None }
    }

    #[tokio::test]
    async fn concurrent_scans_do_not_report_each_others_devices_as_unresponsive() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("healthy");
        fs::write(&path, crate::label::testing::disk(&crate::label::testing::label())).expect("write");
        let candidates = [named(&path, "test:4")];
        for _ in 0..50 {
            let (one, other) = tokio::join!(scan(&candidates, LATER), scan(&candidates, LATER));
            assert_eq!(
                (one.labels.len(), other.labels.len()),
                (1, 1),
                "{:?} {:?}",
                one.unresponsive,
                other.unresponsive
            );
        }
    }

    /// A FIFO without a writer: opening it hangs, like reading a hanging disk.
    fn hanging(folder: &Path) -> PathBuf {
        let path = folder.join("hangs");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        path
    }

    #[tokio::test]
    async fn a_device_that_hangs_costs_one_thread_and_only_its_own_label() {
        let folder = tempfile::tempdir().expect("folder");
        let healthy = folder.path().join("healthy");
        fs::write(&healthy, crate::label::testing::disk(&crate::label::testing::label())).expect("write");
        let (healthy, hangs) = (named(&healthy, "test:1"), named(&hanging(folder.path()), "test:2"));
        let candidates = [healthy.clone(), hangs.clone(), named(Path::new("/dev/quarry-no-such-disk"), "test:3")];
        let began = Instant::now();
        let first = scan(&candidates, LATER).await;
        assert!(began.elapsed() >= LATER);
        for later in [&first, &scan(&candidates, LATER).await] {
            assert_eq!(later.unresponsive, std::slice::from_ref(&hangs.device));
            assert_eq!(later.labels.len(), 1);
            assert_eq!(later.labels[0].0, healthy.device);
        }
        assert!(began.elapsed() < LATER * 2, "a device that hangs was waited for twice");
        assert!(in_progress().contains("test:2"));
        // It answers at last, so it is read again.
        let writer = File::options().read(true).write(true).open(&hangs.device).expect("open");
        while in_progress().contains("test:2") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(writer);
    }
}
