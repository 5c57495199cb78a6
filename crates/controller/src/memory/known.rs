//! What a node reported of one kind, volumes or snapshots: each with the generation of its state.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use quarry_volume::{Snapshot, SnapshotId, Volume, VolumeId};
use tokio::time::Instant;

/// Something that a node reports by its identifier.
pub(crate) trait Item {
    /// Its identifier.
    type Id: Ord + Clone + Hash;

    fn id(&self) -> &Self::Id;

    /// Whether a copy into it is running: this is its state before.
    fn is_filled_since(&self, before: &Self) -> bool;
}

impl Item for Volume {
    type Id = VolumeId;

    fn id(&self) -> &VolumeId {
        &self.id
    }

    fn is_filled_since(&self, before: &Self) -> bool {
        self.copying != before.copying
    }
}

impl Item for Snapshot {
    type Id = SnapshotId;

    fn id(&self) -> &SnapshotId {
        &self.id
    }

    fn is_filled_since(&self, before: &Self) -> bool {
        self.copying != before.copying
    }
}

/// An item, ordered by its identifier, which is therefore not stored twice.
#[derive(Clone, Debug)]
pub(super) struct Known<T> {
    item: T,
    /// The node's generation of this state.
    generation: u64,
    /// When this controller first saw the item, or last saw that a copy fills it.
    since: Instant,
}

impl Borrow<VolumeId> for Known<Volume> {
    fn borrow(&self) -> &VolumeId {
        &self.item.id
    }
}

impl Borrow<SnapshotId> for Known<Snapshot> {
    fn borrow(&self) -> &SnapshotId {
        &self.item.id
    }
}

impl<T: Item> PartialEq for Known<T> {
    fn eq(&self, other: &Self) -> bool {
        self.item.id() == other.item.id()
    }
}

impl<T: Item> Eq for Known<T> {}

impl<T: Item> PartialOrd for Known<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Item> Ord for Known<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.item.id().cmp(other.item.id())
    }
}

/// When each item was first seen.
pub(super) type Ages<T> = BTreeMap<<T as Item>::Id, Instant>;

/// The items of one kind.
#[derive(Debug)]
pub(super) struct Items<T: Item> {
    known: BTreeSet<Known<T>>,
    /// Items that a reply reported as deleted, until the stream has caught up with the reply.
    gone: HashMap<T::Id, u64>,
}

impl<T: Item> Items<T>
where
    Known<T>: Borrow<T::Id>,
{
    pub(super) fn new() -> Self {
        Self { known: BTreeSet::new(), gone: HashMap::new() }
    }

    /// Forgets everything up to `generation`, or everything if that is `None`, ahead of a full state. Returns when
    /// each item was first seen.
    pub(super) fn forget(&mut self, generation: Option<u64>) -> Ages<T> {
        let ages = self.known.iter().map(|known| (known.item.id().clone(), known.since)).collect();
        match generation {
            Some(generation) => {
                self.known.retain(|known| known.generation > generation);
                self.gone.retain(|_, of| *of > generation);
            }
            None => {
                self.known.clear();
                self.gone.clear();
            }
        }
        ages
    }

    /// Applies what a change reports. The stream is complete up to `stream_generation`.
    pub(super) fn merge(
        &mut self,
        items: Vec<T>,
        gone: Vec<T::Id>,
        generation: u64,
        stream_generation: u64,
        ages: &Ages<T>,
    ) {
        let now = Instant::now();
        for item in items {
            let known = self.known.get(item.id());
            if self.gone.get(item.id()).is_some_and(|of| *of > generation)
                || known.is_some_and(|known| known.generation > generation)
            {
                continue;
            }
            let since = match known {
                Some(known) if item.is_filled_since(&known.item) => now,
                Some(known) => known.since,
                None => ages.get(item.id()).copied().unwrap_or(now),
            };
            self.gone.remove(item.id());
            self.known.replace(Known { item, generation, since });
        }
        for id in gone {
            if self.known.get(&id).is_some_and(|known| known.generation > generation) {
                continue;
            }
            self.known.remove(&id);
            if generation > stream_generation {
                self.gone.insert(id, generation);
            }
        }
    }

    /// The stream is complete up to `generation`.
    pub(super) fn caught_up(&mut self, generation: u64) {
        self.gone.retain(|_, of| *of > generation);
    }

    /// The items after `after`, ordered by identifier, each with how long this controller has known it.
    pub(super) fn after(&self, after: Option<&T::Id>) -> impl Iterator<Item = (&T, Duration)> {
        use std::ops::Bound::{Excluded, Unbounded};

        let start = after.map_or(Unbounded, Excluded);
        self.known.range::<T::Id, _>((start, Unbounded)).map(|known| (&known.item, known.since.elapsed()))
    }

    /// The number of items.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.gone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use quarry_volume::CopyProgress;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_volume_ages_only_while_no_copy_fills_it() {
        let id: VolumeId = "v1:vd655koxk7:n:pvc-restored".parse().unwrap();
        let mut items = Items::new();
        let mut generation = 0;
        // No PersistentVolume names it until the copy is complete, however long that takes.
        for (copied, age) in [(Some(0), 0), (Some(5), 0), (Some(5), 300), (Some(9), 0), (None, 0), (None, 300)] {
            generation += 1;
            let copying = copied.map(|copied| CopyProgress { copied, total: 10 });
            let volume = Volume { copying, ..Volume::new(id.clone()) };
            items.merge(vec![volume], Vec::new(), generation, generation, &Ages::<Volume>::new());
            let known: Vec<_> = items.after(None).map(|(volume, age)| (volume.copying, age.as_secs())).collect();
            assert_eq!(known, [(copying, age)]);
            tokio::time::advance(Duration::from_secs(300)).await;
        }
        // A new connection to the node changes nothing.
        let ages = items.forget(None);
        items.merge(vec![Volume::new(id)], Vec::new(), 1, 1, &ages);
        assert_eq!(items.after(None).next().unwrap().1, Duration::from_secs(600));
    }
}
