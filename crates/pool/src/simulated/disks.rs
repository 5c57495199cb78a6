//! The storage of a simulated pool: which volume has which extents.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use quarry_volume::{ExtentSize, Extents, Layout};

use crate::SnapshotHealth;

/// Simulated disks and the volumes on them. Compact, because tests have a hundred thousand volumes.
pub(super) struct Disks {
    /// The extents of all disks together.
    size: Extents,
    /// The free extents of each disk.
    free: Vec<Extents>,
    volumes: BTreeMap<Box<str>, Slot>,
    /// Counts the changes.
    mark: u64,
    /// Counts the volumes that were created, so that each has its own identity.
    made: u64,
}

/// One volume.
pub(super) struct Slot {
    /// Distinguishes it from all others.
    pub(super) number: u64,
    /// The size in bytes.
    pub(super) size: u64,
    /// The text of the record.
    pub(super) record: Box<str>,
    /// How many bytes at the beginning are zeroed.
    pub(super) zeroed: u64,
    /// Whether old signatures were wiped.
    pub(super) wiped: bool,
    /// Stands for what was written to it; 0 for nothing.
    pub(super) contents: u64,
    /// How many bytes at the beginning were copied from something else.
    pub(super) copied: u64,
    /// Only for a snapshot: what is wrong with it.
    pub(super) damage: Option<Box<SnapshotHealth>>,
    /// The number of extents on each disk.
    extents: Box<[(usize, Extents)]>,
}

impl Slot {
    /// A slot with these extents, to which nothing was written yet.
    fn new(number: u64, size: u64, record: String, extents: Vec<(usize, Extents)>) -> Self {
        Self {
            number,
            size,
            record: record.into_boxed_str(),
            zeroed: 0,
            wiped: false,
            contents: 0,
            copied: 0,
            damage: None,
            extents: extents.into_boxed_slice(),
        }
    }

    /// The number of its extents on all disks.
    pub(super) fn allocated(&self) -> Extents {
        self.extents.iter().fold(Extents::NONE, |sum, (_, extents)| sum.and(*extents))
    }
}

impl Disks {
    pub(super) fn new(disks: &[u64]) -> Self {
        let free: Vec<Extents> = disks.iter().copied().map(Extents).collect();
        let size = free.iter().fold(Extents::NONE, |sum, free| sum.and(*free));
        Self { size, free, volumes: BTreeMap::new(), mark: 1, made: 0 }
    }

    pub(super) fn size(&self) -> Extents {
        self.size
    }

    pub(super) fn mark(&self) -> u64 {
        self.mark
    }

    pub(super) fn free(&self) -> &[Extents] {
        &self.free
    }

    /// The free extents of each disk, sorted in descending order.
    pub(super) fn sorted(&self) -> Vec<Extents> {
        let mut free = self.free.clone();
        free.sort_unstable_by_key(|free| Reverse(*free));
        free
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.volumes.iter().map(|(name, slot)| (&**name, slot))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Slot> {
        self.volumes.get(name)
    }

    /// For changes that do not show in a reading.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Slot> {
        self.volumes.get_mut(name)
    }

    /// Creates a volume that is known to fit, on the disks that a volume group would use.
    pub(super) fn create(&mut self, name: &str, extents: Extents, layout: &Layout, size: u64, record: String) {
        let mut order: Vec<usize> = (0..self.free.len()).collect();
        let free = |disk: &usize| self.free.get(*disk).copied().unwrap_or_default();
        order.sort_by_key(|disk| Reverse(free(disk)));
        let width = usize::try_from(layout.width()).unwrap_or(usize::MAX);
        let taken: Vec<(usize, Extents)> = match layout {
            Layout::Linear => match order.iter().rev().find(|disk| free(disk) >= extents) {
                Some(one) => vec![(*one, extents)],
                None => {
                    let mut left = extents;
                    let take = |disk: usize| {
                        let part = free(&disk).min(left);
                        left = left.without(part);
                        (disk, part)
                    };
                    order.into_iter().map(take).filter(|(_, part)| *part > Extents::NONE).collect()
                }
            },
            Layout::Raid1 { .. } => order.into_iter().take(width).map(|disk| (disk, extents.and(Extents(1)))).collect(),
            _ => {
                let each = extents.divided_by(u64::from(layout.stripes()));
                order.into_iter().take(width).map(|disk| (disk, each)).collect()
            }
        };
        for (disk, extents) in &taken {
            self.take(*disk, *extents);
        }
        self.made += 1;
        let slot = Slot::new(self.made, size, record, taken);
        self.volumes.insert(name.into(), slot);
        self.mark += 1;
    }

    /// How many extents the volume can get at most, on the disks that a volume group would use.
    pub(super) fn most_more(&self, volume: &Slot, layout: &Layout) -> Extents {
        let free = |disk: usize| self.free.get(disk).copied().unwrap_or_default();
        match layout {
            Layout::Linear => self.free.iter().fold(Extents::NONE, |sum, free| sum.and(*free)),
            _ => {
                let each = volume.extents.iter().map(|(disk, _)| free(*disk)).min().unwrap_or_default();
                each.times(u64::from(layout.stripes()))
            }
        }
    }

    /// Reserves extents for a volume, which are known to fit, under another name.
    pub(super) fn reserve(
        &mut self,
        name: &str,
        volume: &str,
        extents: Extents,
        layout: &Layout,
        (extent, record): (ExtentSize, String),
    ) {
        let Some(slot) = self.volumes.get(volume) else { return };
        let own: Vec<usize> = slot.extents.iter().map(|(disk, _)| *disk).collect();
        let taken: Vec<(usize, Extents)> = match layout {
            Layout::Linear => {
                let mut order: Vec<usize> = (0..self.free.len()).collect();
                // Its own disks first, then as few others as possible.
                order.sort_by_key(|disk| (!own.contains(disk), Reverse(self.free.get(*disk).copied())));
                let mut left = extents;
                let take = |disk: usize| {
                    let part = self.free.get(disk).copied().unwrap_or_default().min(left);
                    left = left.without(part);
                    (disk, part)
                };
                order.into_iter().map(take).filter(|(_, part)| *part > Extents::NONE).collect()
            }
            _ => {
                let each = extents.divided_by(u64::from(layout.stripes()));
                own.into_iter().map(|disk| (disk, each)).collect()
            }
        };
        let size = extent.bytes(taken.iter().fold(Extents::NONE, |sum, (_, extents)| sum.and(*extents)));
        for (disk, extents) in &taken {
            self.take(*disk, *extents);
        }
        let slot = Slot::new(0, size, record, taken);
        self.volumes.insert(name.into(), slot);
        self.mark += 1;
    }

    /// Takes a snapshot of a volume, with that much space for overwritten blocks on the disks of the volume. Returns
    /// whether there was enough.
    pub(super) fn take_snapshot(&mut self, name: &str, volume: &str, cow: Extents, record: String) -> bool {
        let Some(source) = self.volumes.get(volume) else { return false };
        let (size, contents) = (source.size, source.contents);
        let mut left = cow;
        let take = |(disk, _): &(usize, Extents)| {
            let part = self.free.get(*disk).copied().unwrap_or_default().min(left);
            left = left.without(part);
            (*disk, part)
        };
        let taken: Vec<(usize, Extents)> = source.extents.iter().map(take).collect();
        if left > Extents::NONE {
            return false;
        }
        for (disk, extents) in &taken {
            self.take(*disk, *extents);
        }
        self.made += 1;
        let slot = Slot { contents, ..Slot::new(self.made, size, record, taken) };
        self.volumes.insert(name.into(), slot);
        self.mark += 1;
        true
    }

    /// Adds reserved extents to a volume, which has `size` bytes then.
    pub(super) fn join(&mut self, reserved: &str, volume: &str, size: u64) {
        let Some(new) = self.volumes.remove(reserved) else { return };
        let Some(slot) = self.volumes.get_mut(volume) else { return };
        let mut extents = std::mem::take(&mut slot.extents).into_vec();
        for (disk, more) in new.extents {
            match extents.iter_mut().find(|(own, _)| *own == disk) {
                Some((_, own)) => *own = own.and(more),
                None => extents.push((disk, more)),
            }
        }
        slot.extents = extents.into_boxed_slice();
        if slot.zeroed >= slot.size && new.zeroed >= new.size {
            slot.zeroed = size;
        }
        slot.size = size;
        self.mark += 1;
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Slot> {
        let slot = self.volumes.remove(name)?;
        for (disk, extents) in &slot.extents {
            if let Some(free) = self.free.get_mut(*disk) {
                *free = free.and(*extents);
            }
        }
        self.mark += 1;
        Some(slot)
    }

    /// Changes what is wrong with a snapshot.
    pub(super) fn set_damage(&mut self, name: &str, health: SnapshotHealth) {
        if let Some(slot) = self.volumes.get_mut(name) {
            slot.damage = (health != SnapshotHealth::Whole).then(|| Box::new(health));
            self.mark += 1;
        }
    }

    pub(super) fn set_record(&mut self, name: &str, record: String) {
        if let Some(slot) = self.volumes.get_mut(name) {
            slot.record = record.into_boxed_str();
            self.mark += 1;
        }
    }

    /// Takes up to that many free extents of a disk.
    pub(super) fn take(&mut self, disk: usize, extents: Extents) -> Extents {
        let Some(free) = self.free.get_mut(disk) else { return Extents::NONE };
        let taken = extents.min(*free);
        *free = free.without(taken);
        self.mark += 1;
        taken
    }
}
