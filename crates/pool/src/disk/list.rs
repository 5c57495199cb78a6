//! Lists every disk of a host for an operator. It reads the disks as a pool does, but without a pool: it does
//! not claim, release, wipe or remember anything, so it can run before there is a pool, and next to a running
//! Quarry.

use std::sync::Arc;

use nix::unistd::geteuid;
use quarry_disk::{Contents, Disk, ExclusiveOpen, Remnants, Selector, State, classify};
use quarry_filesystem::Probe;
use quarry_volume::{Error, Result, some_of};
use tokio::task::JoinSet;

use super::blocking;
use super::copies::copies;
use super::disks::Disks;
use super::host::HostDisks;
use super::reader::read_only_reader;
use super::report::{DiskReport, Owner};
use super::scan::{self, PoolDisk, Raw};
use crate::{PoolConfig, config};

/// The disks of a host.
#[derive(Clone, Debug, Default)]
pub struct DiskList {
    /// Every disk, ordered by name.
    pub disks: Vec<DiskReport>,
    /// Why the kernel's facts about further disks could not be used. Nothing else is known about those disks.
    pub failed: Vec<String>,
}

/// Reads every disk of this host. With a configuration, each disk also gets the pool that it belongs to.
///
/// Only root can read disks: for other users, a disk that no table shows as used is [`State::Unknown`].
///
/// # Errors
/// `Unavailable` if the host's tables cannot be read.
pub async fn list_disks(configured: Option<&[PoolConfig]>) -> Result<DiskList> {
    let selectors = configured.map(config::selectors);
    let root = geteuid().is_root();
    let mut found = list(&(Arc::new(HostDisks::new()) as Arc<dyn Disks>), selectors, root).await?;
    if root {
        add_volume_groups(&mut found).await;
    }
    Ok(found)
}

/// Adds to which volume group a disk belongs, and which logical volumes lie on it: what an operator must know before
/// taking the disk out of the volume group.
async fn add_volume_groups(found: &mut DiskList) {
    let is_used = |report: &&mut DiskReport| {
        matches!(report.state, State::InUse { .. } | State::NotEmpty { .. }) && report.disk.partitions.is_empty()
    };
    let mut used: Vec<&mut DiskReport> = found.disks.iter_mut().filter(is_used).collect();
    if used.is_empty() {
        return;
    }
    // Without lvm, or if it does not answer, the other facts are shown nevertheless.
    let groups = match quarry_lvm::all_volume_groups().await {
        Ok(found) => found.groups,
        Err(error) => {
            tracing::debug!(%error, "cannot list the volume groups");
            return;
        }
    };
    for group in &groups {
        for physical in &group.physical_volumes {
            let node = physical.device.as_ref();
            let Some(report) = used.iter_mut().find(|report| Some(&report.disk.node) == node) else { continue };
            let on_it = |volume: &&quarry_lvm::LogicalVolume| volume.physical_volumes.contains(&physical.uuid);
            let volumes: Vec<&str> = group.volumes().filter(on_it).map(|volume| volume.name.as_str()).collect();
            report.notes.push(match volumes.as_slice() {
                [] => format!("belongs to volume group {}; no logical volume lies on it", group.name),
                _ => format!("belongs to volume group {}; on it: {}", group.name, some_of(volumes)),
            });
        }
    }
}

/// The same for any host. `root`: whether this process may read disks.
pub(super) async fn list(
    disks: &Arc<dyn Disks>,
    selectors: Option<Arc<[(String, Selector)]>>,
    root: bool,
) -> Result<DiskList> {
    let all = {
        let disks = Arc::clone(disks);
        blocking(move || {
            let found = disks.find().map_err(|error| Error::unavailable(error.to_string()))?;
            let assignment = selectors.map(|selectors| disks.assign(&selectors, &found.disks));
            Ok((found, assignment))
        })
    };
    let (found, assignment) = all.await?;
    let mut list = DiskList { disks: Vec::new(), failed: found.failed.iter().map(ToString::to_string).collect() };
    let readable = found.disks.iter().filter(|disk| !scan::is_unreadable(disk)).cloned().collect();
    let raws = {
        let disks = Arc::clone(disks);
        blocking(move || Ok(read_only_reader().read(&disks, readable))).await?
    };
    let duplicates = copies(raws.iter());
    // All at once, because each read takes as long as its disk does.
    let mut reading = JoinSet::new();
    for (index, raw) in raws.into_iter().enumerate() {
        let disks = Arc::clone(disks);
        let hidden = !root && raw.found.is_err();
        reading.spawn(async move {
            let seen = if hidden { Err(ROOT_ONLY.to_owned()) } else { with_state(&disks, raw).await };
            (index, seen)
        });
    }
    let mut states = reading.join_all().await;
    states.sort_by_key(|(index, _)| *index);
    let mut states = states.into_iter();
    for disk in found.disks {
        let owner = assignment.as_ref().map(|assignment| Owner::of(assignment, &disk));
        let seen = if scan::is_unreadable(&disk) { None } else { states.next() };
        let unread = match seen {
            None => "was not read".to_owned(),
            Some((_, Ok(seen))) => {
                list.disks.push(DiskReport::of(seen, owner));
                continue;
            }
            Some((_, Err(why))) => why,
        };
        let state = by_tables(&disk, unread);
        list.disks.push(DiskReport::unread(disk, owner, state));
    }
    for report in &mut list.disks {
        let copies = duplicates.iter().filter(|copies| copies.disks.contains(&report.disk.name));
        report.notes.extend(copies.map(|copies| copies.why.clone()));
    }
    Ok(list)
}

/// Why a user other than root could not read a disk.
const ROOT_ONLY: &str = "only root can read its contents";

async fn with_state(disks: &Arc<dyn Disks>, raw: Raw) -> Result<PoolDisk, String> {
    let seen = scan::determine_states(disks, &scan::Queries::default(), vec![raw], &[])
        .await
        .map_err(|error| error.message)?;
    seen.into_iter().next().ok_or_else(|| "was not checked: please report it".to_owned())
}

/// The state according to the kernel's tables of a disk that was not read: in use or unusable. `why` is the
/// reason why it was not read, phrased to follow "it".
fn by_tables(disk: &Disk, why: String) -> State {
    let nothing = Contents::Other { probe: Probe::Blank, remnants: Remnants::default() };
    match classify(disk, &nothing, || ExclusiveOpen::Unknown { why: why.clone() }) {
        state @ State::InUse { .. } => state,
        state @ State::Unusable { .. } if disk.size == 0 || scan::is_unreadable(disk) => state,
        // Its partitions may be those of a volume.
        _ => State::Unknown { why },
    }
}
