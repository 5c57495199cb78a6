//! What pods read and write on their volumes, and how long they wait for it: `io.stat` and `io.pressure` of their cgroups
//! (Documentation/admin-guide/cgroup-v2.rst, "IO Interface Files"; Documentation/accounting/psi.rst).
//!
//! Nothing is stored: a scrape reads the files. An operator switches it on, because there are several figures for each
//! volume in use.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use quarry_mount::Device;
use quarry_volume::VolumeId;

use super::Limits;
use super::cgroup::fields;
use super::registry::Wanted;

/// The file with what the processes of a cgroup have read and written, by device.
const STAT: &str = "io.stat";
/// The file with how long they have waited for I/O.
const PRESSURE: &str = "io.pressure";

/// The I/O of the volumes in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Each volume in each pod.
    pub(crate) volumes: Vec<VolumeIo>,
    /// The pods that use them.
    pub(crate) pods: Vec<PodWaits>,
    /// How many volumes in use are left out: more of them are in use than are measured, or the cgroup of the pod
    /// cannot be read.
    pub(crate) left_out: u64,
}

/// The I/O of one volume in one pod, since the pod started to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeIo {
    pub(crate) pool: String,
    pub(crate) volume: String,
    pub(crate) pod_uid: String,
    pub(crate) io: Io,
}

/// What was read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Io {
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

/// How long the processes of a pod have waited for I/O of any device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodWaits {
    pub(crate) pod_uid: String,
    /// At least one of them waited.
    pub(crate) some: Duration,
    /// All that were not idle waited.
    pub(crate) full: Duration,
}

impl Limits {
    /// Reads what the volumes in use have read and written. Reads only files of the kernel. `None`: it is not measured.
    pub(crate) fn measure(&self) -> Option<Measured> {
        let max = self.measured()?;
        let mut all = Vec::new();
        for (uid, pod) in &*self.registry() {
            let of = |(id, wanted): (&VolumeId, &Wanted)| {
                (wanted.order, uid.clone(), wanted.pool.clone(), id.volume.clone(), wanted.device)
            };
            all.extend(pod.volumes().map(of));
        }
        // A new pod never takes the place of one that is measured already.
        all.sort();
        let in_use = all.len();
        all.truncate(max);
        let mut pods: BTreeMap<String, Option<PodIo>> = BTreeMap::new();
        let mut measured = Measured::default();
        for (_, uid, pool, volume, device) in all {
            let read = || self.cgroups().of_pod(&uid).ok().and_then(|cgroup| PodIo::read(&cgroup));
            let Some(pod) = pods.entry(uid.clone()).or_insert_with(read) else { continue };
            // A device without a line was not used yet.
            let io = pod.devices.get(&device).copied().unwrap_or_default();
            measured.volumes.push(VolumeIo { pool, volume, pod_uid: uid, io });
        }
        measured.left_out = u64::try_from(in_use - measured.volumes.len()).unwrap_or(u64::MAX);
        let waits = pods.into_iter().filter_map(|(pod_uid, pod)| {
            let (some, full) = pod?.waits?;
            Some(PodWaits { pod_uid, some, full })
        });
        measured.pods = waits.collect();
        Some(measured)
    }
}

/// The I/O of one pod.
struct PodIo {
    devices: BTreeMap<Device, Io>,
    /// `None`: the kernel does not measure them (`psi=0`).
    waits: Option<(Duration, Duration)>,
}

impl PodIo {
    /// `None`: the cgroup has no io controller.
    fn read(cgroup: &Path) -> Option<Self> {
        let stat = std::fs::read_to_string(cgroup.join(STAT)).ok()?;
        let pressure = std::fs::read_to_string(cgroup.join(PRESSURE)).ok();
        Some(Self { devices: devices(&stat), waits: pressure.as_deref().and_then(waits) })
    }
}

/// The lines of an `io.stat`. One that cannot be parsed is left out.
fn devices(text: &str) -> BTreeMap<Device, Io> {
    let line = |line| {
        let (device, values) = fields(line)?;
        let value = |key: &str| values.get(key).and_then(|value| value.parse().ok()).unwrap_or_default();
        let io = Io {
            read_bytes: value("rbytes"),
            written_bytes: value("wbytes"),
            reads: value("rios"),
            writes: value("wios"),
        };
        Some((device, io))
    };
    text.lines().filter_map(line).collect()
}

/// The totals of an `io.pressure`, which are in microseconds: those of its lines `some` and `full`.
fn waits(text: &str) -> Option<(Duration, Duration)> {
    let total = |kind: &str| {
        let mut words = text.lines().find_map(|line| line.strip_prefix(kind))?.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix("total=")?.parse().ok()).map(Duration::from_micros)
    };
    Some((total("some ")?, total("full ")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_kernel_are_parsed() {
        let stat = "\
253:3 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0
7:0\u{20}
7:3 7:2 7:1 rbytes=3 wbytes=4 rios=1 wios=1
254:0 rbytes=1 wbytes=x rios=
broken
253:4 rbytes=5 wbytes=6 rios=7 wios=8 dbytes=0 dios=0 cost.usage=3\n";
        let found = devices(stat);
        let io = |read_bytes, written_bytes, reads, writes| Io { read_bytes, written_bytes, reads, writes };
        let wanted = [
            ((7, 0), io(0, 0, 0, 0)),
            ((7, 1), io(3, 4, 1, 1)),
            ((253, 3), io(4096, 8192, 1, 2)),
            ((253, 4), io(5, 6, 7, 8)),
            ((254, 0), io(1, 0, 0, 0)),
        ];
        assert_eq!(found, wanted.map(|((major, minor), io)| (Device { major, minor }, io)).into());
        let pressure =
            "some avg10=1.53 avg60=0.87 avg300=0.27 total=1084012\nfull avg10=0.00 avg60=0.13 avg300=0.05 total=69\n";
        assert_eq!(waits(pressure), Some((Duration::from_micros(1_084_012), Duration::from_micros(69))));
        assert_eq!(waits("some avg10=0 total=5\n"), None);
        assert_eq!(waits(""), None);
    }
}
