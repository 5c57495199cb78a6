//! What a look at the disks comes to: volumes, room, and what is wrong.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use quarry_disk::claim::{Claim, ClaimState, Degraded, Identity, capacity};
use quarry_disk::{Disk, State};
use quarry_volume::{Error, Result, Space, StorageId, safe_name};
use uuid::Uuid;

use super::copies::copies;
use super::key::DiskKey;
use super::look::{Gathered, Other, PoolDisk, Raw};
use crate::record::Tag;
use crate::{Health, PoolVolume, Record, Recorded};

/// The room on disks is told in these.
pub(super) const MIB: u64 = 1 << 20;

/// The pool's volumes that were seen since the start. One whose disk is pulled is lost, and has not ceased to exist.
pub(super) type Known = HashMap<Uuid, (DiskKey, PoolVolume)>;

/// The disks at one instant.
pub(super) struct View {
    /// Another one where the volumes may be others.
    pub(super) number: u64,
    /// The pool's disks.
    pub(super) disks: Vec<PoolDisk>,
    volumes: BTreeMap<Uuid, PoolVolume>,
    /// Claims on disks that are no pool's, and what is to be said of them.
    elsewhere: BTreeMap<Uuid, String>,
    /// The same on other pools' disks. Asked for a name, those pools answer for themselves; a volume that was this pool's
    /// has not ceased to exist because its disk was given to another.
    of_others: BTreeMap<Uuid, String>,
    /// Volumes that more than one disk holds, on whosever disks, and what is to be said of them.
    twice: BTreeMap<Uuid, String>,
    /// Disks that could not be read and were never read before: any volume may be there.
    unread: Vec<String>,
    /// Disks with a claim of which nobody can tell whose it is: volumes may be there that were handed out.
    damaged: Vec<String>,
    pub(super) problems: Vec<String>,
}

impl View {
    /// `read_before`: disks that were read at least once, whatever was on them.
    pub(super) fn of(
        pool: &str,
        gathered: Gathered<PoolDisk>,
        known: &mut Known,
        read_before: &mut Vec<DiskKey>,
    ) -> Self {
        let Gathered { own, others, conflicts, failed } = gathered;
        let mut view = Self {
            number: 0,
            disks: Vec::new(),
            volumes: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            of_others: BTreeMap::new(),
            twice: copies(own.iter().map(|seen| &seen.raw).chain(others.iter().map(|other| &other.raw)))
                .into_iter()
                .map(|copies| (copies.volume, copies.why))
                .collect(),
            unread: failed.clone(),
            damaged: Vec::new(),
            problems: conflicts.iter().map(ToString::to_string).chain(failed).collect(),
        };
        for PoolDisk { raw, .. } in &own {
            view.note_own(pool, raw, read_before);
        }
        for other in &others {
            view.note_other(other, read_before);
        }
        view.remember(known, own.iter().map(|seen| &seen.raw).chain(others.iter().map(|other| &other.raw)));
        for PoolDisk { raw, .. } in &own {
            for (identity, _) in raw.found.iter().flat_map(ClaimState::volumes) {
                if let Some(volume) =
                    view.volumes.get(&identity.disk).filter(|_| !view.twice.contains_key(&identity.disk))
                {
                    known.insert(identity.disk, (DiskKey::of(&raw.disk), volume.clone()));
                }
            }
        }
        let concerns = |guid: &&Uuid| view.volumes.contains_key(guid) || view.elsewhere.contains_key(guid);
        let twice: Vec<String> =
            view.twice.iter().filter(|(guid, _)| concerns(guid)).map(|(_, why)| why.clone()).collect();
        view.problems.extend(twice);
        view.disks = own;
        view
    }

    fn note_other(&mut self, Other { raw, why, may_be_ours, has_pool }: &Other, read_before: &[DiskKey]) {
        let volumes = raw.found.as_ref().map(ClaimState::volumes).unwrap_or_default();
        for (identity, claim) in &volumes {
            if self.volumes.contains_key(&identity.disk) {
                continue;
            }
            let holds = match (&raw.found, claim) {
                (Ok(ClaimState::Claimed(claim)), _) => title(claim),
                (Ok(found), Some(claim)) => format!("{} ({})", title(claim), found.words()),
                (Ok(found), None) => format!("a volume with the GUID {} ({})", identity.disk, found.words()),
                (Err(_), _) => continue,
            };
            let text = format!("the disk {} holds {holds}, but no longer belongs to the pool: {why}", raw.disk.name);
            if *has_pool {
                self.of_others.insert(identity.disk, text);
            } else {
                self.problems.push(text.clone());
                self.elsewhere.insert(identity.disk, text);
            }
        }
        let is_unknown = matches!(raw.found, Ok(ClaimState::Damaged(_) | ClaimState::Newer { .. }) | Err(_));
        if *may_be_ours && volumes.is_empty() && is_unknown {
            self.note_unknown(raw, read_before);
        }
    }

    /// What lies on the disk is not known: any volume may.
    fn note_unknown(&mut self, raw: &Raw, read_before: &[DiskKey]) {
        let disk = &raw.disk;
        match &raw.found {
            Ok(found) => {
                let why = format!("the disk {} holds {}; see docs/disk-format.md", disk.name, found.words());
                self.damaged.push(why.clone());
                self.problems.push(why);
            }
            Err(why) => {
                let why = format!("the disk {} cannot be read: {why}", disk.name);
                self.problems.push(why.clone());
                let here = DiskKey::of(disk);
                if here.sequence.is_none() || !read_before.contains(&here) {
                    self.unread.push(format!("{why}; replace it, or exclude it from the pool"));
                }
            }
        }
    }

    fn note_own(&mut self, pool: &str, raw: &Raw, read_before: &mut Vec<DiskKey>) {
        let here = DiskKey::of(&raw.disk);
        let volumes = raw.found.as_ref().map(ClaimState::volumes).unwrap_or_default();
        let problem = match &raw.found {
            Ok(ClaimState::Claimed(_)) => None,
            Ok(found) if !volumes.is_empty() => {
                let why = format!("the disk {} holds {}", raw.disk.name, found.words());
                Some(if found.mends(&raw.disk.node).is_empty() {
                    format!("{why}; see docs/disk-format.md")
                } else {
                    format!("{why}; `quarry disks` on this node prints the commands that repair it")
                })
            }
            Ok(ClaimState::Damaged(_) | ClaimState::Newer { .. }) | Err(_) => {
                self.note_unknown(raw, read_before);
                None
            }
            Ok(_) => None,
        };
        for (identity, claim) in volumes {
            let volume = match (claim, &raw.found) {
                (Some(claim), _) => describe(pool, claim),
                (None, Ok(found)) => unread(pool, identity, found),
                (None, Err(_)) => continue,
            };
            let lost = self.twice.get(&identity.disk).or(problem.as_ref());
            let health = lost.map_or(volume.health.clone(), |why| Health::Lost(why.clone()));
            self.volumes.entry(identity.disk).or_insert(PoolVolume { health, ..volume });
        }
        self.problems.extend(problem);
        if raw.found.is_ok() && !read_before.contains(&here) {
            read_before.push(here);
        }
    }

    /// Adds the volumes that were seen earlier and have lost their disk.
    fn remember<'a>(&mut self, known: &mut Known, raws: impl Iterator<Item = &'a Raw> + Clone) {
        known.retain(|guid, (seen_on, volume)| {
            if self.volumes.contains_key(guid) {
                return true;
            }
            let there = raws.clone().find(|raw| DiskKey::of(&raw.disk) == *seen_on);
            let elsewhere = self.elsewhere.get(guid).or(self.of_others.get(guid));
            let why = match (elsewhere, there.map(|raw| &raw.found)) {
                (Some(why), _) => why.clone(),
                (None, Some(Err(why))) => format!("the disk {} cannot be read: {why}", seen_on.name),
                (
                    None,
                    Some(Ok(found @ (ClaimState::Damaged(_) | ClaimState::Newer { .. } | ClaimState::Foreign { .. }))),
                ) => {
                    format!("the disk {} now holds {}", seen_on.name, found.words())
                }
                // The very disk is there, and the claim is not: somebody took it away by hand.
                (None, Some(Ok(_))) if seen_on.sequence.is_some() => return false,
                (None, _) => format!(
                    "volume {} is on the disk {}, which is missing: put the disk back; if it is lost for good, \
                     restart Quarry on this node, so that it forgets the volume",
                    volume.name, seen_on.name
                ),
            };
            self.volumes.insert(*guid, PoolVolume { health: Health::Lost(why), ..volume.clone() });
            true
        });
    }

    /// All volumes.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &PoolVolume> {
        self.volumes.values()
    }

    /// Whether it has the same volumes, with the same records, in the same health.
    pub(super) fn same_volumes(&self, other: &Self) -> bool {
        let same = |(one, other): (&PoolVolume, &PoolVolume)| {
            (&one.uuid, &one.name, one.size, &one.record, &one.health)
                == (&other.uuid, &other.name, other.size, &other.record, &other.health)
        };
        self.volumes.len() == other.volumes.len() && self.volumes().zip(other.volumes()).all(same)
    }

    /// Refuses to say that a volume does not exist while a disk was never read.
    ///
    /// # Errors
    /// `Unavailable`, naming the disk.
    pub(super) fn complete(&self, pool: &str) -> Result<()> {
        match self.unread.first() {
            None => Ok(()),
            Some(why) => Err(Error::unavailable(format!("pool {pool}: its volumes are not fully known while {why}"))),
        }
    }

    /// The volume of that name on the storage. `handed_out`: it is known to have been made in this pool, so that it may be
    /// the one whose claim is damaged, or whose disk another pool has now.
    ///
    /// # Errors
    /// `Unavailable` if it was not found, and may be there; or if two disks hold it.
    pub(super) fn volume(&self, pool: &str, name: &str, handed_out: bool) -> Result<Option<PoolVolume>> {
        let guid = Identity::of(name).disk;
        if let Some(why) = self.twice.get(&guid) {
            return Err(Error::unavailable(format!("pool {pool}: {why}")));
        }
        if let Some(volume) = self.volumes.get(&guid) {
            return Ok(Some(volume.clone()));
        }
        let of_others = self.of_others.get(&guid).filter(|_| handed_out);
        if let Some(why) = self.elsewhere.get(&guid).or(of_others) {
            return Err(Error::unavailable(format!("pool {pool}: {why}")));
        }
        self.complete(pool)?;
        match self.damaged.first().filter(|_| handed_out) {
            Some(why) => Err(Error::unavailable(format!(
                "pool {pool}: volume {name} may be on an unreadable disk: \
                                                         {why}"
            ))),
            None => Ok(None),
        }
    }

    /// What is to be said of a volume that two disks hold.
    pub(super) fn twice(&self, guid: &str) -> Option<&str> {
        self.twice.iter().find(|(twice, _)| twice.to_string() == guid).map(|(_, why)| why.as_str())
    }

    /// The disk and the claim of a volume.
    pub(super) fn claim(&self, guid: &str) -> Option<(&Disk, &Claim)> {
        self.disks.iter().find_map(|seen| match &seen.raw.found {
            Ok(ClaimState::Claimed(claim)) if claim.identity.disk.to_string() == guid => Some((&seen.raw.disk, claim)),
            _ => None,
        })
    }

    /// The free disks, with the bytes of the volume that each can be, the smallest first.
    pub(super) fn free(&self) -> Vec<(u64, &PoolDisk)> {
        let free = self.disks.iter().filter(|seen| seen.state == State::Free);
        let mut free: Vec<_> =
            free.map(|seen| (capacity(seen.raw.disk.size), seen)).filter(|(bytes, _)| *bytes > 0).collect();
        free.sort_by_key(|(bytes, _)| *bytes);
        free
    }

    /// What new volumes can get. `is_reserved`: whether a disk is being taken for one already.
    pub(super) fn space(&self, pool: &str, is_reserved: impl Fn(&Disk) -> bool) -> Space {
        let free = self.free().into_iter().filter(|(_, seen)| !is_reserved(&seen.raw.disk));
        let mut free: Vec<u64> = free.map(|(bytes, _)| bytes / MIB).collect();
        free.sort_unstable_by_key(|units| Reverse(*units));
        Space {
            extent: MIB,
            free,
            reserve: 0,
            closed: self.complete(pool).err().map(|error| error.message),
            whole: true,
        }
    }

    /// What all disks of the pool together can hold, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.disks.iter().fold(0, |sum, seen| sum.saturating_add(capacity(seen.raw.disk.size)))
    }

    /// Every disk that is not free, and why, in words for one who finds no room.
    pub(super) fn taken(&self) -> String {
        const MOST: usize = 8;
        let taken: Vec<_> = self.disks.iter().filter(|seen| seen.state != State::Free).collect();
        let word = |seen: &&PoolDisk| format!("{} {}", seen.raw.disk.name, seen.state.why().unwrap_or_default());
        let mut words: Vec<String> = taken.iter().take(MOST).map(word).collect();
        if taken.len() > MOST {
            words.push(format!("and {} more", taken.len() - MOST));
        }
        if words.is_empty() { "the pool's selector matches no other disk".to_owned() } else { words.join("; ") }
    }

    pub(super) fn numbered(self, number: u64) -> Self {
        Self { number, ..self }
    }
}

/// The identity of the storage of a pool of that name: see [`super::DiskPool`].
pub(super) fn storage(pool: &str) -> StorageId {
    StorageId::of(&format!("disk pool {pool}"))
}

/// Whose a claim is, in words.
pub(super) fn title(claim: &Claim) -> String {
    match name(claim) {
        Some(name) => format!("volume {name}"),
        None => format!("a volume with the GUID {}", claim.identity.disk),
    }
}

/// The name of the volume that a claim is of, if its record can be read.
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
fn unread(pool: &str, identity: Identity, found: &ClaimState) -> PoolVolume {
    let record = match found {
        ClaimState::Newer { version, .. } => Recorded::Newer(*version),
        _ => Recorded::Broken(found.words()),
    };
    let size = if let ClaimState::Damaged(damaged) = found { damaged.partition.unwrap_or_default() } else { 0 };
    PoolVolume {
        name: identity.disk.to_string(),
        stored_as: identity.disk.to_string(),
        storage: storage(pool),
        group: identity.disk.to_string(),
        uuid: identity.volume.to_string(),
        size,
        record,
        health: Health::Whole,
    }
}

/// A claim as a volume.
pub(super) fn describe(pool: &str, claim: &Claim) -> PoolVolume {
    let guid = claim.identity.disk;
    let record = match std::str::from_utf8(&claim.record).map(Record::parse) {
        Ok(Tag::Record(record)) => Recorded::Here(record),
        Ok(Tag::Newer { version }) => Recorded::Newer(version),
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
    // A copy of the record that is older is brought up to date before anything is done with the volume.
    let degraded: Vec<String> =
        claim.degraded.iter().filter(|what| **what != Degraded::Record).map(ToString::to_string).collect();
    let health = match degraded.is_empty() {
        true => Health::Whole,
        false => Health::Degraded(format!("volume {name}: {}; see docs/disk-format.md", degraded.join("; "))),
    };
    PoolVolume {
        stored_as: name.clone(),
        name,
        storage: storage(pool),
        group: guid.to_string(),
        uuid: claim.identity.volume.to_string(),
        size: claim.length,
        record,
        health,
    }
}
