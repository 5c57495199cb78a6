//! The cgroups of pods, and the limits in them (Documentation/admin-guide/cgroup-v2.rst, "IO").
//!
//! kubelet makes one cgroup for each pod. Its path depends on kubelet's cgroup driver, on the QoS class of the pod and
//! on kubelet's `--cgroup-root`; only the first two are not known here, so all their paths are tried.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use quarry_mount::Device;
use quarry_volume::{IoLimits, Rate};

/// The cgroup below which kubelet makes the cgroups of all pods.
const KUBEPODS: &str = "kubepods";
/// The QoS classes that have a cgroup of their own. A guaranteed pod's is directly below [`KUBEPODS`].
const QOS: [&str; 2] = ["burstable", "besteffort"];
/// The file with the controllers that a cgroup has.
const CONTROLLERS: &str = "cgroup.controllers";
/// The file with the controllers that the children of a cgroup have.
const SUBTREE: &str = "cgroup.subtree_control";
/// The file with the limits.
pub(super) const MAX: &str = "io.max";
/// The controller that limits.
const IO: &str = "io";

/// The cgroups of a host, as kubelet arranges them.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    mount: PathBuf,
    parents: Vec<Parent>,
}

/// A cgroup that contains the cgroups of pods.
#[derive(Clone, Debug)]
struct Parent {
    path: PathBuf,
    /// The name of the slice, if kubelet uses its systemd driver.
    slice: Option<String>,
}

/// Why limits are not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// There is no cgroup v2 at the path.
    NotUnified(PathBuf),
    /// cgroup v2 has no io controller there.
    NoController(PathBuf),
    /// The io controller cannot limit.
    NoThrottling(PathBuf),
    /// The pod has no cgroup yet. It gets one before its containers start.
    NoCgroup(String),
    /// A file of the pod's cgroup cannot be read or written.
    Io { path: PathBuf, why: String },
    /// Writing to the pod's cgroup does not end: the kernel waits for a disk.
    Hangs(String),
}

impl Obstacle {
    /// Whether it ends by itself when the pod starts.
    pub(crate) fn is_early(&self) -> bool {
        matches!(self, Self::NoCgroup(_))
    }

    /// Whether no limits are possible, so that there are none to remove.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::NoCgroup(_) | Self::NotUnified(_) | Self::NoController(_) | Self::NoThrottling(_))
    }

    fn io(path: &Path, error: &io::Error) -> Self {
        Self::Io { path: path.to_owned(), why: error.to_string() }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUnified(mount) => write!(
                f,
                "there is no cgroup v2 at {}: I/O limits need a host with cgroup v2, and its /sys/fs/cgroup at this path \
                 (--cgroups)",
                mount.display()
            ),
            Self::NoController(mount) => write!(
                f,
                "cgroup v2 at {} has no io controller: it may be disabled (cgroup_disable=io), or used as cgroup v1",
                mount.display()
            ),
            Self::NoThrottling(pod) => write!(
                f,
                "{} has the io controller but no {MAX}: the kernel needs CONFIG_BLK_DEV_THROTTLING",
                pod.display()
            ),
            Self::NoCgroup(uid) => write!(
                f,
                "pod {uid} has no cgroup yet; if that stays so, kubelet may have a --cgroup-root (node.cgroupRoot in the \
                 chart, --cgroup-root of quarry node), or gives pods no cgroups"
            ),
            Self::Hangs(uid) => {
                write!(
                    f,
                    "writing to the cgroup of pod {uid} takes long: a disk of the pod may hang; see the kernel log"
                )
            }
            Self::Io { path, why } => write!(f, "{}: {why}", path.display()),
        }
    }
}

impl Cgroups {
    /// The cgroups in the hierarchy at `mount`. `root`: kubelet's `--cgroup-root`, such as `/`.
    pub(crate) fn new(mount: PathBuf, root: &str) -> Self {
        let below: Vec<&str> = root.split('/').filter(|part| !part.is_empty()).chain([KUBEPODS]).collect();
        let qos = |class: &'static str| below.iter().copied().chain([class]).collect::<Vec<_>>();
        let all = [below.clone()].into_iter().chain(QOS.map(qos));
        let parents = all.flat_map(|parts| {
            let plain = Parent { path: mount.join(parts.join("/")), slice: None };
            let (path, slice) = slice(&parts);
            [plain, Parent { path: mount.join(path), slice: Some(slice) }]
        });
        Self { parents: parents.collect(), mount }
    }

    /// Whether limits are possible at all.
    pub(crate) fn check(&self) -> Result<(), Obstacle> {
        match words(&self.mount.join(CONTROLLERS)) {
            Err(_) => Err(Obstacle::NotUnified(self.mount.clone())),
            Ok(controllers) if controllers.contains(IO) => Ok(()),
            Ok(_) => Err(Obstacle::NoController(self.mount.clone())),
        }
    }

    /// The cgroup of that pod.
    pub(crate) fn of_pod(&self, uid: &str) -> Result<PathBuf, Obstacle> {
        let path = |parent: &Parent| match &parent.slice {
            None => parent.path.join(format!("pod{uid}")),
            Some(slice) => parent.path.join(format!("{slice}-pod{}.slice", uid.replace('-', "_"))),
        };
        let found = self.parents.iter().map(path).find(|path| path.is_dir());
        found.ok_or_else(|| Obstacle::NoCgroup(uid.to_owned()))
    }

    /// What changes when a pod gets its cgroup, or when its cgroup loses the io controller: the cgroups that contain
    /// those of pods, as far as they exist, and otherwise the nearest one that does; and files in them.
    pub(crate) fn places_to_watch(&self) -> BTreeSet<PathBuf> {
        let mut places = BTreeSet::new();
        for parent in &self.parents {
            for path in parent.path.ancestors().take_while(|path| path.starts_with(&self.mount)) {
                if path.is_dir() {
                    places.insert(path.to_owned());
                    places.insert(path.join(SUBTREE));
                }
            }
        }
        places
    }

    /// Makes the limits of these devices the ones in force in a pod's cgroup, and removes those of `former` devices.
    /// Writes only what differs. Returns for which devices that failed: one that is gone does not concern the others.
    pub(crate) fn limit(
        &self,
        pod: &Path,
        wanted: &BTreeMap<Device, IoLimits>,
        former: &BTreeSet<Device>,
    ) -> Result<BTreeMap<Device, Obstacle>, Obstacle> {
        let path = pod.join(MAX);
        if !path.exists() {
            self.enable(pod)?;
        }
        let current = match read(&path) {
            // Nothing is to be set. The I/O can still be measured.
            Err(error) if error.kind() == ErrorKind::NotFound && wanted.values().all(IoLimits::is_none) => {
                return Ok(BTreeMap::new());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Obstacle::NoThrottling(pod.to_owned())),
            read => read.map_err(|error| Obstacle::io(&path, &error))?,
        };
        let unlimited = IoLimits::default();
        let removed = former.iter().filter(|device| !wanted.contains_key(device)).map(|device| (device, &unlimited));
        let mut failed = BTreeMap::new();
        for (device, limits) in wanted.iter().chain(removed) {
            let limits = effective(*limits);
            if current.get(device).copied().unwrap_or_default() != limits
                && let Err(obstacle) = set(&path, *device, limits)
            {
                failed.insert(*device, obstacle);
            }
        }
        Ok(failed)
    }

    /// Gives a pod's cgroup the io controller, as far as its ancestors do not pass it on already.
    fn enable(&self, pod: &Path) -> Result<(), Obstacle> {
        let ancestors: Vec<&Path> =
            pod.ancestors().skip(1).take_while(|ancestor| ancestor.starts_with(&self.mount)).collect();
        for ancestor in ancestors.into_iter().rev() {
            let path = ancestor.join(SUBTREE);
            let passed = words(&path).map_err(|error| Obstacle::io(&path, &error))?;
            if !passed.contains(IO) {
                tracing::info!(cgroup = %ancestor.display(), "giving its children the io controller");
                write(&path, "+io").map_err(|error| Obstacle::io(&path, &error))?;
            }
        }
        Ok(())
    }
}

/// Sets the limits of a device in an `io.max`.
fn set(path: &Path, device: Device, limits: IoLimits) -> Result<(), Obstacle> {
    match write(path, &line(device, limits)) {
        Ok(()) => {}
        // The device is gone, and its limits with it.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) && limits.is_none() => return Ok(()),
        Err(error) => return Err(Obstacle::io(path, &error)),
    }
    let now = read(path).map_err(|error| Obstacle::io(path, &error))?;
    if now.get(&device).copied().unwrap_or_default() == limits {
        return Ok(());
    }
    let why = format!("the kernel did not accept {:?}", line(device, limits));
    Err(Obstacle::Io { path: path.to_owned(), why })
}

/// The path of a slice of systemd below these parents, and its name without the suffix: systemd names every slice with
/// the names of its ancestors.
fn slice(parts: &[&str]) -> (PathBuf, String) {
    let (mut path, mut name) = (PathBuf::new(), String::new());
    for part in parts {
        let separator = if name.is_empty() { "" } else { "-" };
        name = format!("{name}{separator}{}", part.replace('-', "_"));
        path.push(format!("{name}.slice"));
    }
    (path, name)
}

/// The words in a file of a cgroup.
fn words(path: &Path) -> io::Result<BTreeSet<String>> {
    Ok(std::fs::read_to_string(path)?.split_ascii_whitespace().map(str::to_owned).collect())
}

/// The limits in an `io.max`. A line that cannot be parsed is left out.
fn read(path: &Path) -> io::Result<BTreeMap<Device, IoLimits>> {
    Ok(std::fs::read_to_string(path)?.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<(Device, IoLimits)> {
    let (device, values) = fields(line)?;
    // `max` is not a number.
    Some((device, IoLimits::new(Rate::ALL.map(|rate| values.get(rate.io_max_key())?.parse().ok()))))
}

/// A line of a file with one line for each device: the device, and its values by their keys. Some kernels write devices
/// without values into the line of the next one.
pub(super) fn fields(line: &str) -> Option<(Device, BTreeMap<&str, &str>)> {
    let words = line.split_ascii_whitespace();
    let device = words.clone().map_while(|word| word.parse().ok()).last()?;
    Some((device, words.filter_map(|word| word.split_once('=')).collect()))
}

/// A line that sets all limits of a device.
fn line(device: Device, limits: IoLimits) -> String {
    let value = |rate: Rate| limits.get(rate).map_or_else(|| "max".to_owned(), |limit| limit.to_string());
    let words = Rate::ALL.map(|rate| format!("{}={}", rate.io_max_key(), value(rate)));
    format!("{device} {}", words.join(" "))
}

/// The limits as the kernel stores them: the largest number is no limit.
fn effective(limits: IoLimits) -> IoLimits {
    IoLimits::new(Rate::ALL.map(|rate| limits.get(rate).filter(|limit| *limit < rate.max())))
}

/// Writes to a file of the kernel, which takes a whole line at once.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).truncate(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b5ae1c6-6f0a-4d3e-9c1a-6f1d2b3c4d5e";

    fn device(text: &str) -> Device {
        text.parse().unwrap()
    }

    /// A hierarchy of plain files, with the pod's cgroup at that path.
    fn hierarchy(pod: &str, has_limits: bool) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let pod = folder.path().join(pod);
        std::fs::create_dir_all(&pod).unwrap();
        for cgroup in pod.ancestors().take_while(|path| path.starts_with(folder.path())) {
            std::fs::write(cgroup.join(CONTROLLERS), "cpu io memory\n").unwrap();
            std::fs::write(cgroup.join(SUBTREE), "cpu memory\n").unwrap();
        }
        if has_limits {
            std::fs::write(pod.join(MAX), "").unwrap();
        }
        (folder, pod)
    }

    #[test]
    fn the_cgroup_of_a_pod_is_found_with_every_driver_class_and_root() {
        let under = UID.replace('-', "_");
        for (root, path) in [
            ("/", format!("kubepods/pod{UID}")),
            ("/", format!("kubepods/burstable/pod{UID}")),
            ("", format!("kubepods/besteffort/pod{UID}")),
            ("/", format!("kubepods.slice/kubepods-pod{under}.slice")),
            ("/", format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice")),
            ("/kube-let/x", format!("kube-let/x/kubepods/besteffort/pod{UID}")),
            (
                "/kube-let",
                format!(
                    "kube_let.slice/kube_let-kubepods.slice/kube_let-kubepods-burstable.slice/kube_let-kubepods-burstable-pod{under}.slice"
                ),
            ),
        ] {
            let (folder, pod) = hierarchy(&path, true);
            let cgroups = Cgroups::new(folder.path().to_owned(), root);
            assert_eq!(cgroups.of_pod(UID), Ok(pod), "{path}");
            assert_eq!(cgroups.of_pod("other"), Err(Obstacle::NoCgroup("other".into())));
            let parent = folder.path().join(&path).parent().unwrap().to_owned();
            assert!(cgroups.places_to_watch().contains(&parent), "{path}");
            assert_eq!(cgroups.check(), Ok(()));
        }
    }

    #[test]
    fn a_host_without_limits_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::new(folder.path().to_owned(), "/");
        assert_eq!(cgroups.check(), Err(Obstacle::NotUnified(folder.path().to_owned())));
        std::fs::write(folder.path().join(CONTROLLERS), "cpu memory").unwrap();
        assert_eq!(cgroups.check(), Err(Obstacle::NoController(folder.path().to_owned())));
        let (folder, pod) = hierarchy("kubepods/pod1", false);
        let cgroups = Cgroups::new(folder.path().to_owned(), "/");
        let wanted = BTreeMap::from([(device("253:1"), IoLimits::new([Some(1), None, None, None]))]);
        let failed = cgroups.limit(&pod, &wanted, &BTreeSet::new());
        assert_eq!(failed, Err(Obstacle::NoThrottling(pod.clone())));
        // It was tried.
        for cgroup in [folder.path(), pod.parent().unwrap()] {
            assert_eq!(std::fs::read_to_string(cgroup.join(SUBTREE)).unwrap(), "+io");
        }
        assert_eq!(std::fs::read_to_string(pod.join(SUBTREE)).unwrap(), "cpu memory\n");
    }

    #[test]
    fn only_what_differs_is_written() {
        let (folder, pod) = hierarchy("kubepods/pod1", true);
        let cgroups = Cgroups::new(folder.path().to_owned(), "/");
        let file = pod.join(MAX);
        let limits = IoLimits::new([Some(1 << 20), None, Some(u64::from(u32::MAX)), Some(7)]);
        let (one, wanted) = (device("253:1"), BTreeMap::from([(device("253:1"), limits)]));
        assert_eq!(cgroups.limit(&pod, &wanted, &BTreeSet::new()), Ok(BTreeMap::new()));
        let text = "253:1 rbps=1048576 wbps=max riops=max wiops=7";
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        // The line of another program stays, and nothing has to be written.
        let others = format!("{text}\n8:0 rbps=max wbps=4096 riops=max wiops=max\n");
        std::fs::write(&file, &others).unwrap();
        assert_eq!(cgroups.limit(&pod, &wanted, &BTreeSet::from([one])), Ok(BTreeMap::new()));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), others);
        assert_eq!(cgroups.limit(&pod, &BTreeMap::new(), &BTreeSet::from([one])), Ok(BTreeMap::new()));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "253:1 rbps=max wbps=max riops=max wiops=max");
        // A device that never had limits.
        std::fs::write(&file, &others).unwrap();
        let unlimited = BTreeMap::from([(device("253:9"), IoLimits::default())]);
        assert_eq!(cgroups.limit(&pod, &unlimited, &BTreeSet::new()), Ok(BTreeMap::new()));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), others);
    }
}
