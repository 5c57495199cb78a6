//! Unused devices that the host's udev built on a tenant's volume.
//!
//! A tenant may create a volume group inside a raw block volume. kubelet puts a loop device on such a volume,
//! where the host's udev detects the volume group and activates it. Then a logical volume of the tenant is
//! active on the host, and keeps the loop device open, which keeps Quarry's volume open, forever. Before a
//! volume is removed, such logical volumes are removed from the kernel's device table. The kernel rejects
//! that if one is open or mounted. Nothing on any disk changes.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quarry_exec::Command;
use tokio::sync::{Mutex, oneshot};

use crate::uuid::{LVM, device_prefix};
use crate::{LvUuid, VgUuid, VolumeGroup, device_uuid, dm};

/// More than any real stack of devices.
const DEPTH: usize = 16;
/// How long a look at the host's loop devices may take. It usually takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Held by the one thread that looks at the host's loop devices.
static LOOKING: Mutex<()> = Mutex::const_new(());

/// A logical volume that is built on the volume. Its UUID in device-mapper is its own, while the kernel gives the number of
/// a removed device to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Nested {
    uuid: String,
    name: String,
}

/// Removes from the kernel's device table all unused logical volumes that are built, directly or indirectly,
/// on the volume with that UUID. If one cannot be removed, the next command reports that the volume is in
/// use.
///
/// A loop device may be on something that hangs, and that has nothing to do with this volume. So they are looked at for
/// [`PATIENCE`] only. Without an answer, nothing is released.
pub(crate) async fn release(group: &VolumeGroup, volume: LvUuid) {
    let group_uuid = group.uuid;
    let node = match dm::device_number(&device_uuid(group_uuid, volume)) {
        // Nothing is built on a volume that is not active.
        Ok(None) => return,
        Ok(Some(number)) => Some(dm::node(number)),
        Err(_) => None,
    };
    match look(PATIENCE, move || Kernel::new("/sys").nested_on(group_uuid, volume, node)).await {
        Some(found) => remove(found, &group.scope.subject).await,
        None => tracing::warn!(group = group.name, "a loop device of this host does not answer; see `losetup --list`"),
    }
}

/// The result of that work, in the one thread for it. `None` if it takes longer than `patience`.
async fn look<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let look = async {
        let looking = LOOKING.lock().await;
        let (report, answer) = oneshot::channel();
        let thread = move || {
            let found = work();
            drop(looking);
            // No caller is left if it took too long.
            drop(report.send(found));
        };
        std::thread::Builder::new().name("loop devices".to_owned()).spawn(thread).ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(patience, look).await.ok().flatten()
}

/// Like [`release`], for all logical volumes that are built on a device of which nothing belongs to a pool. Reads only
/// sysfs, so it never waits for a disk; it does not see what is on loop devices. `device`: its name according to the
/// kernel, such as `dm-7`.
pub async fn release_nested_on(device: &str) {
    let name = device.to_owned();
    let found = tokio::task::spawn_blocking(move || Kernel::new("/sys").all_on(&name)).await;
    remove(found.unwrap_or_default(), device).await;
}

async fn remove(found: Vec<Nested>, below: &str) {
    for Nested { uuid, name } in found {
        let command = Command::mutation("dmsetup").args(["remove", "--uuid", &uuid]);
        match command.on(below).run().await {
            Ok(output) if output.success() => {
                tracing::info!(name, "deactivated an unused logical volume inside a volume that is being removed");
            }
            Ok(output) => tracing::info!(name, words = output.stderr, "a logical volume inside a volume is in use"),
            Err(error) => tracing::warn!(name, %error, "cannot deactivate a logical volume inside a volume"),
        }
    }
}

/// The kernel's view of its devices.
struct Kernel {
    sys: PathBuf,
}

impl Kernel {
    fn new(sys: impl Into<PathBuf>) -> Self {
        Self { sys: sys.into() }
    }

    fn read(&self, device: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.sys.join("class/block").join(device).join(file)).ok().map(|text| text.trim().to_owned())
    }

    /// The logical volumes of other volume groups that are built on one of Quarry's volumes, the uppermost
    /// first. `node` is that volume's, if it is known, such as `dm-7`.
    fn nested_on(&self, group: VgUuid, volume: LvUuid, node: Option<String>) -> Vec<Nested> {
        let (own, whole) = (device_prefix(group), device_uuid(group, volume));
        let devices = names(&self.sys.join("block"));
        let is_volume = |name: &&String| self.read(name, "dm/uuid").as_ref() == Some(&whole);
        // A host can have thousands of devices.
        let Some(device) = node.iter().find(is_volume).or_else(|| devices.iter().find(is_volume)) else {
            return Vec::new();
        };
        let loops = devices.iter().filter(|name| name.starts_with("loop"));
        let loops: Vec<(String, String)> = loops.filter_map(|name| Some((name.clone(), self.backing(name)?))).collect();
        let mut found = Vec::new();
        // If the volume group itself has something on it (a snapshot, a conversion), lvm decides.
        if self.collect(device, Some(&own), &loops, DEPTH, &mut found) { found } else { Vec::new() }
    }

    /// All logical volumes that are built on a device, the uppermost first; not those on loop devices.
    fn all_on(&self, device: &str) -> Vec<Nested> {
        let mut found = Vec::new();
        if self.collect(device, None, &[], DEPTH, &mut found) { found } else { Vec::new() }
    }

    /// Adds the devices that are built on a device. Returns false if one of them belongs to the volume group
    /// itself, whose devices have that prefix.
    fn collect(
        &self,
        device: &str,
        own: Option<&str>,
        loops: &[(String, String)],
        depth: usize,
        found: &mut Vec<Nested>,
    ) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        let folder = self.sys.join("class/block").join(device);
        let mut above = names(&folder.join("holders"));
        // Partitions of a loop device have their own holders.
        above.extend(names(&folder).into_iter().filter(|name| folder.join(name).join("partition").exists()));
        if let Some(number) = self.read(device, "dev") {
            above.extend(loops.iter().filter(|(_, backing)| *backing == number).map(|(name, _)| name.clone()));
        }
        above.iter().all(|name| {
            let uuid = self.read(name, "dm/uuid").unwrap_or_default();
            if own.is_some_and(|own| uuid.starts_with(own)) || !self.collect(name, own, loops, depth, found) {
                return false;
            }
            if uuid.starts_with(LVM) {
                let nested = Nested { uuid, name: self.read(name, "dm/name").unwrap_or_default() };
                // A volume that is found through several paths is added once.
                if !found.contains(&nested) {
                    found.push(nested);
                }
            }
            true
        })
    }

    /// The number of the block device behind a loop device. `None` if that is a file, or not where a volume is.
    fn backing(&self, name: &str) -> Option<String> {
        let file = self.read(name, "loop/backing_file").map(PathBuf::from).filter(|file| may_be_volume(file))?;
        match fs::metadata(&file) {
            Ok(metadata) if metadata.file_type().is_block_device() => Some(number(metadata.rdev())),
            Ok(_) => None,
            // kubelet makes the loop device over a mount of the node. That mount may be gone, or not visible
            // to this process.
            Err(_) => status(&Path::new("/dev").join(name)),
        }
    }
}

/// Whether a loop device with that path may be on a volume: it is on a device node, or kubelet made it. Nothing else is
/// opened or looked up, because a file may be on a filesystem that hangs.
fn may_be_volume(file: &Path) -> bool {
    file.starts_with("/dev") || file.iter().any(|part| part == "volumeDevices")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn number(device: u64) -> String {
    format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device))
}

/// Asks a loop device for the device behind it. `None` if that is a file.
#[allow(unsafe_code)]
fn status(device: &Path) -> Option<String> {
    /// The kernel's `loop_info64`, which has 232 bytes.
    type Status = [u64; 29];
    /// The offset of the backing device's number, in words.
    const DEVICE: usize = 2;
    nix::ioctl_read_bad!(loop_get_status64, 0x4c05, Status);
    let file = File::open(device).ok()?;
    let mut status = [0_u64; 29];
    // SAFETY: LOOP_GET_STATUS64 writes one `loop_info64`, the size of the array; the file is open during the
    // call.
    unsafe { loop_get_status64(file.as_raw_fd(), &raw mut status) }.ok()?;
    status.get(DEVICE).copied().filter(|device| *device != 0).map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "Zr3Ot2-MsTU-yPvW-5Ttd-gaYN-WeYT-vP8EJt";
    const VOLUME: &str = "ABCDEF-ghij-KLMN-opqr-STUV-wxyz-012345";
    const OWN: &str = "LVM-Zr3Ot2MsTUyPvW5TtdgaYNWeYTvP8EJt";

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().expect("folder"));
            host.device("dm-3", "254:3", &format!("{OWN}ABCDEFghijKLMNopqrSTUVwxyz012345"), "vg0-raw");
            host
        }

        fn device(&self, name: &str, number: &str, uuid: &str, mapped: &str) {
            let folder = self.0.path().join("block").join(name);
            for (file, text) in [("dev", number), ("dm/uuid", uuid), ("dm/name", mapped)] {
                let path = folder.join(file);
                fs::create_dir_all(path.parent().expect("parent")).expect("folder");
                fs::write(path, format!("{text}\n")).expect("file");
            }
            self.class(name, &folder);
        }

        fn class(&self, name: &str, folder: &Path) {
            let class = self.0.path().join("class/block");
            fs::create_dir_all(&class).expect("folder");
            std::os::unix::fs::symlink(folder, class.join(name)).expect("link");
        }

        fn add_holder(&self, above: &str, below: &str) {
            fs::create_dir_all(self.0.path().join("class/block").join(below).join("holders").join(above))
                .expect("folder");
        }

        fn nested(&self) -> Vec<String> {
            let nested = |node: Option<&str>| {
                let (group, volume) = (GROUP.parse().expect(GROUP), VOLUME.parse().expect(VOLUME));
                Kernel::new(self.0.path()).nested_on(group, volume, node.map(str::to_owned))
            };
            let found = nested(None);
            for node in ["dm-3", "dm-7"] {
                assert_eq!(nested(Some(node)), found, "a node that is known, or belongs to another device by now");
            }
            found.into_iter().map(|nested| nested.name).collect()
        }
    }

    #[test]
    fn nested_volumes_are_found_uppermost_first() {
        let host = Host::new();
        assert!(host.nested().is_empty());
        // A tenant's mirror: two images below, one volume above; and a device that is not lvm's.
        for (name, number, uuid, mapped) in [
            ("dm-4", "254:4", "LVM-tenantsImage0", "t-m_rimage_0"),
            ("dm-5", "254:5", "LVM-tenantsImage1", "t-m_rimage_1"),
            ("dm-6", "254:6", "LVM-tenants", "t-m"),
            ("dm-7", "254:7", "CRYPT-LUKS2-x", "operators"),
        ] {
            host.device(name, number, uuid, mapped);
        }
        for (above, below) in [("dm-4", "dm-3"), ("dm-5", "dm-3"), ("dm-6", "dm-4"), ("dm-6", "dm-5"), ("dm-7", "dm-3")]
        {
            host.add_holder(above, below);
        }
        assert_eq!(host.nested(), ["t-m", "t-m_rimage_0", "t-m_rimage_1"]);
        let uuids = Kernel::new(host.0.path()).all_on("dm-3").into_iter().map(|nested| nested.uuid);
        assert_eq!(uuids.collect::<Vec<_>>(), ["LVM-tenants", "LVM-tenantsImage0", "LVM-tenantsImage1"]);
        // On an image of the mirror, as on the open device of an encrypted volume.
        let names = |device| Kernel::new(host.0.path()).all_on(device).into_iter().map(|nested| nested.name);
        assert_eq!(names("dm-4").collect::<Vec<_>>(), ["t-m"]);
        assert_eq!(names("dm-6").count(), 0);
    }

    #[test]
    fn volumes_on_loop_devices_and_their_partitions_are_found() {
        let host = Host::new();
        host.device("loop0", "7:0", "", "");
        let part = host.0.path().join("block/loop0/loop0p1");
        fs::create_dir_all(part.join("holders/dm-9")).expect("folder");
        fs::write(part.join("partition"), "1").expect("file");
        host.class("loop0p1", &part);
        host.device("dm-9", "254:9", "LVM-tenants", "t-inner");
        let loops = [("loop0".to_owned(), "254:3".to_owned())];
        let mut found = Vec::new();
        assert!(Kernel::new(host.0.path()).collect("dm-3", Some(OWN), &loops, DEPTH, &mut found));
        assert_eq!(found.iter().map(|nested| nested.name.as_str()).collect::<Vec<_>>(), ["t-inner"]);
    }

    /// A file may be on a network filesystem of which the server is gone.
    #[test]
    fn a_loop_device_on_a_file_elsewhere_is_not_looked_up() {
        for (path, may_be) in [
            ("/dev/dm-3", true),
            ("/dev/vg0/pvc-1", true),
            ("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/pvc-1/dev/pod", true),
            ("/data/k0s/kubelet/plugins/kubernetes.io/csi/volumeDevices/pvc-1/dev/pod (deleted)", true),
            ("/srv/nfs/image", false),
            ("/development/image", false),
            ("/var/lib/snapd/snaps/core.snap", false),
        ] {
            assert_eq!(may_be_volume(Path::new(path)), may_be, "{path}");
        }
    }

    #[tokio::test]
    async fn a_loop_device_that_hangs_is_waited_for_only_for_a_moment() {
        let (heal, healed) = std::sync::mpsc::channel::<()>();
        let patience = Duration::from_millis(200);
        let began = std::time::Instant::now();
        assert_eq!(look(patience, move || healed.recv().is_ok()).await, None);
        // There is no second thread.
        assert_eq!(look(patience, || panic!("a second thread was started")).await, None::<()>);
        assert!((2 * patience..20 * patience).contains(&began.elapsed()), "{:?}", began.elapsed());
        drop(heal);
        assert_eq!(look(Duration::from_secs(60), || 7).await, Some(7));
    }

    #[test]
    fn the_groups_own_dependents_are_left_to_lvm() {
        let host = Host::new();
        host.device("dm-4", "254:4", &format!("{OWN}snapshot"), "vg0-snapshot");
        host.device("dm-5", "254:5", "LVM-tenants", "t-inner");
        host.add_holder("dm-4", "dm-3");
        host.add_holder("dm-5", "dm-3");
        assert!(host.nested().is_empty());
    }
}
