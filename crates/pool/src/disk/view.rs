//! The result of a scan of the disks: volumes, space and problems.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use quarry_disk::claim::{Claim, ClaimState, DiskGuid, Identity, capacity};
use quarry_disk::{Disk, State};
use quarry_volume::{Error, ExtentSize, Extents, Placement, Result, Space, StorageId, safe_name, some_of};

use super::copies::copies;
use super::key::DiskKey;
use super::report::{problems, unused_space};
use super::scan::{Gathered, OtherDisk, PoolDisk, Raw};
use crate::key::VolumeKey;
use crate::record::{NotVolume, Tag};
use crate::{Health, PoolVolume, Record, Recorded, ScratchRecord, ThinPoolRecord};

/// The unit in which space on disks is reported.
const UNIT: ExtentSize = ExtentSize(1 << 20);

/// The pool's volumes that were seen since the start. A volume whose disk is pulled is lost, but still
/// exists.
pub(super) type SeenVolumes = HashMap<DiskGuid, (DiskKey, PoolVolume)>;

/// The disks at one instant.
pub(super) struct View {
    /// Changes whenever the volumes may have changed.
    pub(super) number: u64,
    /// The pool's disks.
    pub(super) disks: Vec<PoolDisk>,
    volumes: BTreeMap<DiskGuid, PoolVolume>,
    /// Claims on disks that belong to no pool, with the problem to report.
    in_no_pool: BTreeMap<DiskGuid, String>,
    /// Claims on other pools' disks, with the problem to report. Calls by name are answered by those pools;
    /// but a volume of this pool still exists after its disk was assigned to another pool.
    in_other_pools: BTreeMap<DiskGuid, String>,
    /// Claims that a newer Quarry made for something that is not a volume, on disks of any pool or of none.
    /// Their names are taken.
    not_volumes: BTreeMap<DiskGuid, Other>,
    /// Volumes that more than one disk holds, on disks of any pool, with the problem to report.
    duplicates: BTreeMap<DiskGuid, String>,
    /// Disks that were never read successfully: they may hold any volume.
    unread: Vec<String>,
    /// Disks with a claim of an unknown volume: they may hold volumes that were handed out.
    damaged: Vec<String>,
    pub(super) problems: Vec<String>,
    /// The volumes whose disks are missing, with the disks.
    gone: Vec<String>,
}

/// Something that is not a volume, and the disks that hold it.
struct Other {
    what: NotVolume,
    disks: Vec<String>,
    /// Whether one of the disks belongs to this pool.
    own: bool,
}

impl std::fmt::Display for Other {
    /// As text: "the disk vdb holds a \"snapshot\" of a newer Quarry (record version 2)".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.disks.as_slice() {
            [disk] => write!(f, "the disk {disk} holds {}", self.what),
            disks => write!(f, "the disks {} hold {}", disks.join(" and "), self.what),
        }
    }
}

impl View {
    /// `read_before`: disks that were read at least once, whatever they held.
    pub(super) fn of(
        pool: &str,
        gathered: Gathered<PoolDisk>,
        known: &mut SeenVolumes,
        read_before: &mut Vec<DiskKey>,
    ) -> Self {
        let Gathered { own, others, conflicts, failed } = gathered;
        let mut view = Self {
            number: 0,
            disks: Vec::new(),
            volumes: BTreeMap::new(),
            in_no_pool: BTreeMap::new(),
            in_other_pools: BTreeMap::new(),
            not_volumes: BTreeMap::new(),
            duplicates: copies(own.iter().map(|seen| &seen.raw).chain(others.iter().map(|other| &other.raw)))
                .into_iter()
                .filter(|copies| copies.volume)
                .map(|copies| (copies.guid, copies.why))
                .collect(),
            unread: failed.clone(),
            damaged: Vec::new(),
            gone: Vec::new(),
            problems: conflicts.iter().map(ToString::to_string).chain(failed).collect(),
        };
        for PoolDisk { raw, .. } in &own {
            view.add_own(pool, raw, read_before);
        }
        for other in &others {
            view.add_other(other, read_before);
        }
        view.add_lost(known, own.iter().map(|seen| &seen.raw).chain(others.iter().map(|other| &other.raw)));
        for PoolDisk { raw, .. } in &own {
            for (identity, _) in raw.found.iter().flat_map(ClaimState::volumes) {
                if let Some(volume) =
                    view.volumes.get(&identity.disk).filter(|_| !view.duplicates.contains_key(&identity.disk))
                {
                    known.insert(identity.disk, (DiskKey::of(&raw.disk), volume.clone()));
                }
            }
        }
        let concerns = |guid: &&DiskGuid| view.volumes.contains_key(guid) || view.in_no_pool.contains_key(guid);
        let duplicates: Vec<String> =
            view.duplicates.iter().filter(|(guid, _)| concerns(guid)).map(|(_, why)| why.clone()).collect();
        view.problems.extend(duplicates);
        view.disks = own;
        view
    }

    fn add_other(&mut self, OtherDisk { raw, why, may_belong, has_pool }: &OtherDisk, read_before: &[DiskKey]) {
        let volumes = raw.found.as_ref().map(ClaimState::volumes).unwrap_or_default();
        for (identity, claim) in &volumes {
            if let Some(what) = claim.and_then(not_volume) {
                self.add_not_volume(identity.disk, what, &raw.disk, false);
                continue;
            }
            if self.volumes.contains_key(&identity.disk) {
                continue;
            }
            let holds = match (&raw.found, claim) {
                (Ok(ClaimState::Claimed(claim)), _) => title(claim),
                (Ok(found), Some(claim)) => format!("{} ({})", title(claim), found.describe()),
                (Ok(found), None) => format!("a volume with the GUID {} ({})", identity.disk, found.describe()),
                (Err(_), _) => continue,
            };
            let text = format!("the disk {} holds {holds}, but no longer belongs to the pool: {why}", raw.disk.name);
            if *has_pool {
                self.in_other_pools.insert(identity.disk, text);
            } else {
                self.problems.push(text.clone());
                self.in_no_pool.insert(identity.disk, text);
            }
        }
        let is_unknown = matches!(raw.found, Ok(ClaimState::Damaged(_) | ClaimState::Newer { .. }) | Err(_));
        if *may_belong && volumes.is_empty() && is_unknown {
            self.add_unknown(raw, false, read_before);
        }
    }

    /// The disk holds something that is not a volume. `own`: the disk belongs to this pool.
    fn add_not_volume(&mut self, guid: DiskGuid, what: NotVolume, disk: &Disk, own: bool) {
        let other = self.not_volumes.entry(guid).or_insert(Other { what, disks: Vec::new(), own });
        other.disks.push(disk.name.clone());
        other.own |= own;
    }

    /// The contents of the disk are unknown: it may hold any volume. `own`: the disk belongs to this pool for certain.
    fn add_unknown(&mut self, raw: &Raw, own: bool, read_before: &[DiskKey]) {
        let disk = &raw.disk;
        match &raw.found {
            Ok(found) => {
                let why = format!("the disk {} holds {}; see docs/disk-format.md", disk.name, found.describe());
                self.damaged.push(why.clone());
                self.problems.push(why);
            }
            Err(why) => {
                let possible = if own { "" } else { ", which may belong to the pool," };
                let why = format!("the disk {}{possible} cannot be read: {why}", disk.name);
                self.problems.push(why.clone());
                let here = DiskKey::of(disk);
                if here.sequence.is_none() || !read_before.contains(&here) {
                    self.unread.push(format!("{why}; replace it, or exclude it from the pool"));
                }
            }
        }
    }

    fn add_own(&mut self, pool: &str, raw: &Raw, read_before: &mut Vec<DiskKey>) {
        let here = DiskKey::of(&raw.disk);
        let volumes = raw.found.as_ref().map(ClaimState::volumes).unwrap_or_default();
        let problem = match &raw.found {
            Ok(ClaimState::Claimed(_)) => None,
            Ok(found) if !volumes.is_empty() => {
                let why = format!("the disk {} holds {}", raw.disk.name, found.describe());
                Some(if found.repairs(&raw.disk.node).is_empty() {
                    format!("{why}; see docs/disk-format.md")
                } else {
                    format!("{why}; `quarry disks` on this node prints the commands that repair it")
                })
            }
            Ok(ClaimState::Damaged(_) | ClaimState::Newer { .. }) | Err(_) => {
                self.add_unknown(raw, true, read_before);
                None
            }
            Ok(_) => None,
        };
        for (identity, claim) in volumes {
            if let Some(what) = claim.and_then(not_volume) {
                self.add_not_volume(identity.disk, what, &raw.disk, true);
                continue;
            }
            let volume = match (claim, &raw.found) {
                (Some(claim), _) => to_volume(pool, claim),
                (None, Ok(found)) => unreadable_volume(pool, identity, found),
                (None, Err(_)) => continue,
            };
            let lost = self.duplicates.get(&identity.disk).or(problem.as_ref());
            let health = lost.map_or(volume.health.clone(), |why| Health::Lost(why.clone()));
            self.volumes.entry(identity.disk).or_insert(PoolVolume { health, ..volume });
        }
        self.problems.extend(problem);
        if raw.found.is_ok() && !read_before.contains(&here) {
            read_before.push(here);
        }
    }

    /// Adds the volumes that were seen earlier and have lost their disk.
    fn add_lost<'a>(&mut self, known: &mut SeenVolumes, raws: impl Iterator<Item = &'a Raw> + Clone) {
        known.retain(|guid, (seen_on, volume)| {
            if self.volumes.contains_key(guid) {
                return true;
            }
            let there = raws.clone().find(|raw| DiskKey::of(&raw.disk) == *seen_on);
            let in_no_pool = self.in_no_pool.get(guid).or(self.in_other_pools.get(guid));
            let why = match (in_no_pool, there.map(|raw| &raw.found)) {
                (Some(why), _) => why.clone(),
                (None, Some(Err(why))) => format!("the disk {} cannot be read: {why}", seen_on.name),
                (
                    None,
                    Some(Ok(found @ (ClaimState::Damaged(_) | ClaimState::Newer { .. } | ClaimState::Foreign { .. }))),
                ) => {
                    format!("the disk {} now holds {}", seen_on.name, found.describe())
                }
                // The same disk is there without the claim, which was removed by hand; or a newer Quarry made
                // something else of the volume.
                (None, Some(Ok(_))) if seen_on.sequence.is_some() => return false,
                (None, _) => match self.not_volumes.get(guid) {
                    Some(other) => format!(
                        "volume {} was on the disk {}, and now {other} under its name: if that is right, restart \
                         Quarry on this node, so that it forgets the volume",
                        volume.name, seen_on.name
                    ),
                    None => format!(
                        "volume {} is on the disk {}, which is missing: put the disk back; if it is lost for good, \
                         restart Quarry on this node, so that it forgets the volume",
                        volume.name, seen_on.name
                    ),
                },
            };
            if in_no_pool.is_none() && there.is_none() && !self.not_volumes.contains_key(guid) {
                self.gone.push(format!("{}, on {}", volume.name, seen_on.name));
            }
            self.volumes.insert(*guid, PoolVolume { health: Health::Lost(why), ..volume.clone() });
            true
        });
    }

    /// What an operator does about missing disks, step by step.
    pub(super) fn repair(&self) -> Vec<String> {
        if self.gone.is_empty() {
            return Vec::new();
        }
        vec![
            "put back every disk that can come back, end the pods that used it, and look again: the other steps give up what \
             is missing now"
                .to_owned(),
            format!("the data of the missing disks is lost: delete the claims of their volumes ({})", some_of(&self.gone)),
            "restart Quarry on this node (delete the node plugin's pod), so that it forgets the volumes. Then their \
             PersistentVolumes are deleted"
                .to_owned(),
        ]
    }

    /// All volumes.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &PoolVolume> {
        self.volumes.values()
    }

    /// Whether it has the same volumes, with the same records, in the same health.
    pub(super) fn same_volumes(&self, other: &Self) -> bool {
        let same = |(one, other): (&PoolVolume, &PoolVolume)| {
            (&one.key, &one.name, one.size, &one.record, &one.health)
                == (&other.key, &other.name, other.size, &other.record, &other.health)
        };
        self.volumes.len() == other.volumes.len() && self.volumes().zip(other.volumes()).all(same)
    }

    /// Fails if a disk was never read: then no volume can be reported as nonexistent.
    ///
    /// # Errors
    /// `Unavailable`, naming the disk.
    pub(super) fn check_complete(&self, pool: &str) -> Result<()> {
        match self.unread.first() {
            None => Ok(()),
            Some(why) => Err(Error::unavailable(format!("pool {pool}: its volumes are not fully known: {why}"))),
        }
    }

    /// The volume with that name on the storage. `handed_out`: it is known to have been created in this pool,
    /// so it may be the one with a damaged claim, or the one whose disk belongs to another pool now.
    ///
    /// # Errors
    /// `Unavailable` if it was not found, but may exist; or if two disks hold it.
    pub(super) fn volume(&self, pool: &str, name: &str, handed_out: bool) -> Result<Option<PoolVolume>> {
        let guid = Identity::of(name).disk;
        if let Some(why) = self.duplicates.get(&guid) {
            return Err(Error::unavailable(format!("pool {pool}: {why}")));
        }
        // A volume whose record cannot be read has the GUID of its disk as its name.
        let by_name = || self.volumes().find(|volume| volume.name == name);
        if let Some(volume) = self.volumes.get(&guid).or_else(by_name) {
            return Ok(Some(volume.clone()));
        }
        let in_other_pools = self.in_other_pools.get(&guid).filter(|_| handed_out);
        if let Some(why) = self.in_no_pool.get(&guid).or(in_other_pools) {
            return Err(Error::unavailable(format!("pool {pool}: {why}")));
        }
        self.check_complete(pool)?;
        match self.damaged.first().filter(|_| handed_out) {
            Some(why) => Err(Error::unavailable(format!(
                "pool {pool}: volume {name} may be on an unreadable disk: \
                                                         {why}"
            ))),
            None => Ok(None),
        }
    }

    /// Checks that the name of a new volume is not taken by something that is not a volume.
    ///
    /// # Errors
    /// `Precondition` if it is.
    pub(super) fn check_name_free(&self, pool: &str, name: &str) -> Result<()> {
        match self.not_volumes.get(&Identity::of(name).disk) {
            None => Ok(()),
            Some(other) => Err(Error::precondition(format!(
                "pool {pool}: the name {name} is taken: {other}, which is not a volume; upgrade Quarry on this node, or \
                 request another name"
            ))),
        }
    }

    /// What uses disks of the pool without being a volume, for an operator who misses the space; and the disks that
    /// became larger than their volumes.
    pub(super) fn hints(&self) -> Vec<String> {
        let describe = |other: &Other| {
            format!("{other}, which is not a volume and is left alone: upgrade Quarry on this node to manage it")
        };
        let others = self.not_volumes.values().filter(|other| other.own).map(describe);
        let unused = self.disks.iter().filter_map(|seen| match &seen.raw.found {
            Ok(ClaimState::Claimed(claim)) => unused_space(&seen.raw.disk, claim),
            _ => None,
        });
        others.chain(unused).collect()
    }

    /// The problem to report for a volume that two disks hold.
    pub(super) fn duplicates(&self, disk: DiskGuid) -> Option<&str> {
        self.duplicates.get(&disk).map(String::as_str)
    }

    /// Whether the pool has that very disk, and it was read.
    pub(super) fn has_read(&self, disk: &Disk) -> bool {
        let here = DiskKey::of(disk);
        self.disks.iter().any(|seen| seen.raw.found.is_ok() && DiskKey::of(&seen.raw.disk) == here)
    }

    /// The disk with that GUID, and the claim on it.
    pub(super) fn claim(&self, guid: DiskGuid) -> Option<(&Disk, &Claim)> {
        self.disks.iter().find_map(|seen| match &seen.raw.found {
            Ok(ClaimState::Claimed(claim)) if claim.identity.disk == guid => Some((&seen.raw.disk, claim)),
            _ => None,
        })
    }

    /// The free disks, with the size in bytes of a volume on each; the smallest first.
    pub(super) fn free(&self) -> Vec<(u64, &PoolDisk)> {
        let free = self.disks.iter().filter(|seen| seen.state == State::Free);
        let mut free: Vec<_> =
            free.map(|seen| (capacity(seen.raw.disk.size), seen)).filter(|(bytes, _)| *bytes > 0).collect();
        free.sort_by_key(|(bytes, _)| *bytes);
        free
    }

    /// The space for new volumes. `is_reserved`: whether a disk is being claimed for one.
    pub(super) fn space(&self, pool: &str, is_reserved: impl Fn(&Disk) -> bool) -> Space {
        let free = self.free().into_iter().filter(|(_, seen)| !is_reserved(&seen.raw.disk));
        let mut free: Vec<Extents> = free.map(|(bytes, _)| UNIT.whole_in(bytes)).collect();
        free.sort_unstable_by_key(|extents| Reverse(*extents));
        Space {
            extent: UNIT,
            free,
            reserve: Extents::NONE,
            closed: self.check_complete(pool).err().map(|error| error.message),
            placement: Placement::WholeDisk,
        }
    }

    /// The total size of all disks of the pool, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.disks.iter().fold(0, |sum, seen| sum.saturating_add(capacity(seen.raw.disk.size)))
    }

    /// Every disk that is not free, with the reason, for an error about missing space.
    pub(super) fn list_not_free(&self) -> String {
        const MOST: usize = 8;
        let taken: Vec<_> = self.disks.iter().filter(|seen| seen.state != State::Free).collect();
        let entry = |seen: &&PoolDisk| format!("{} {}", seen.raw.disk.name, seen.state.reason().unwrap_or_default());
        let mut parts: Vec<String> = taken.iter().take(MOST).map(entry).collect();
        if taken.len() > MOST {
            parts.push(format!("and {} more", taken.len() - MOST));
        }
        if parts.is_empty() { "the pool's selector matches no other disk".to_owned() } else { parts.join("; ") }
    }

    pub(super) fn with_number(self, number: u64) -> Self {
        Self { number, ..self }
    }
}

/// The identity of the storage of a pool with that name: see [`super::DiskPool`].
pub(super) fn storage(pool: &str) -> StorageId {
    StorageId::of(&format!("disk pool {pool}"))
}

/// The volume of a claim, or what else it was made for, as text.
pub(super) fn title(claim: &Claim) -> String {
    match (name(claim), not_volume(claim)) {
        (Some(name), _) => format!("volume {name}"),
        (None, Some(other)) => other.to_string(),
        (None, None) => format!("a volume with the GUID {}", claim.identity.disk),
    }
}

/// The object of a newer Quarry that the claim is for, if it is not a volume.
pub(super) fn not_volume(claim: &Claim) -> Option<NotVolume> {
    std::str::from_utf8(&claim.record).ok().and_then(|record| Record::parse(record).not_volume())
}

/// The name of a claim's volume, if its record can be read.
pub(super) fn name(claim: &Claim) -> Option<String> {
    record(claim).map(|record| record.name)
}

/// The record of a claim, if it can be read.
pub(super) fn record(claim: &Claim) -> Option<Record> {
    match std::str::from_utf8(&claim.record).map(Record::parse) {
        Ok(Tag::Record(record)) => Some(*record),
        _ => None,
    }
}

/// A volume whose record cannot be read.
fn unreadable_volume(pool: &str, identity: Identity, found: &ClaimState) -> PoolVolume {
    let record = match found {
        ClaimState::Newer { version, .. } => Recorded::Newer(*version),
        _ => Recorded::Broken(found.describe()),
    };
    let size = if let ClaimState::Damaged(damaged) = found { damaged.partition.unwrap_or_default() } else { 0 };
    PoolVolume {
        name: identity.disk.to_string(),
        stored_as: identity.disk.to_string(),
        storage: storage(pool),
        key: VolumeKey::Disk(identity),
        size,
        record,
        health: Health::Whole,
    }
}

/// The volume of a claim that may have been made with that record.
pub(super) fn claimed_volume(pool: &str, record: &Record) -> PoolVolume {
    let name = safe_name(&record.name);
    PoolVolume {
        stored_as: name.clone(),
        storage: storage(pool),
        key: VolumeKey::Disk(Identity::of(&name)),
        name,
        size: record.size,
        record: Recorded::Here(Box::new(record.clone())),
        health: Health::Whole,
    }
}

/// Converts a claim to a volume.
pub(super) fn to_volume(pool: &str, claim: &Claim) -> PoolVolume {
    let guid = claim.identity.disk;
    let record = match std::str::from_utf8(&claim.record).map(Record::parse) {
        Ok(Tag::Record(record)) => Recorded::Here(record),
        Ok(Tag::Newer { version } | Tag::NotVolume(NotVolume { version, .. })) => Recorded::Newer(version),
        Ok(Tag::Scratch(_)) => Recorded::Newer(ScratchRecord::VERSION),
        Ok(Tag::Snapshot(record)) => Recorded::Newer(record.version()),
        Ok(Tag::ThinPool(_)) => Recorded::Newer(ThinPoolRecord::VERSION),
        Ok(Tag::Broken { why }) => Recorded::Broken(why),
        Ok(Tag::Foreign) | Err(_) => Recorded::Broken("it is not a record".to_owned()),
    };
    let (name, record) = match record {
        Recorded::Here(record) => {
            let name = safe_name(&record.name);
            if Identity::of(&name) == claim.identity {
                (name, Recorded::Here(record))
            } else {
                (guid.to_string(), Recorded::Broken(format!("it is the record of another volume, {}", record.name)))
            }
        }
        other => (guid.to_string(), other),
    };
    let degraded = problems(claim);
    let health = match degraded.is_empty() {
        true => Health::Whole,
        false => Health::Degraded(format!("volume {name}: {}; see docs/disk-format.md", degraded.join("; "))),
    };
    PoolVolume {
        stored_as: name.clone(),
        name,
        storage: storage(pool),
        key: VolumeKey::Disk(claim.identity),
        size: claim.length,
        record,
        health,
    }
}
