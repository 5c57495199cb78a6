//! The difference between two lists of volumes or snapshots.

use std::cmp::Ordering;

/// The items that are new or different in `after`, and the IDs of those that are gone. Both lists must be
/// sorted by ID.
pub(super) fn difference<T: Clone + PartialEq, I: Clone + Ord>(
    before: &[T],
    after: &[T],
    id: fn(&T) -> &I,
) -> (Vec<T>, Vec<I>) {
    let (mut changed, mut gone) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return (changed, gone),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => id(old).cmp(id(new)),
        };
        let was = if order.is_le() { old.next() } else { None };
        let is = if order.is_ge() { new.next() } else { None };
        match (was, is) {
            (Some(was), None) => gone.push(id(was).clone()),
            (was, Some(is)) if was != Some(is) => changed.push(is.clone()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use quarry_volume::{StorageId, Volume, VolumeId};

    use super::*;

    fn volumes(map: &BTreeMap<u8, u64>) -> Vec<Volume> {
        let volume = |(number, size): (&u8, &u64)| Volume {
            size: *size,
            ..Volume::new(VolumeId { storage: StorageId::of("s"), node: "n".into(), volume: format!("{number:03}") })
        };
        map.iter().map(volume).collect()
    }

    proptest! {
        #[test]
        fn applied_to_before_it_gives_after_and_it_is_minimal(
            before in prop::collection::btree_map(0_u8..30, 0_u64..3, 0..20),
            after in prop::collection::btree_map(0_u8..30, 0_u64..3, 0..20),
        ) {
            let (before, after) = (volumes(&before), volumes(&after));
            let (changed, gone) = difference(&before, &after, |volume| &volume.id);
            prop_assert!(changed.iter().all(|volume| !before.contains(volume)));
            let mut applied: BTreeMap<_, _> = before.into_iter().map(|volume| (volume.id.clone(), volume)).collect();
            for id in gone {
                prop_assert!(applied.remove(&id).is_some());
            }
            applied.extend(changed.into_iter().map(|volume| (volume.id.clone(), volume)));
            prop_assert_eq!(applied.into_values().collect::<Vec<_>>(), after);
        }
    }
}
