use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use quarry_volume::ExtentSize;

use super::*;
use crate::uuid::testing::uuid;

const STRIPED: Layout = Layout::Striped { stripes: 2, stripe_size: 65536 };
const RAID1: Layout = Layout::Raid1 { mirrors: 1 };
const DISKS: [&str; 4] = ["a", "b", "c", "d"];

fn range(pv: &str, first: u64, extents: u64) -> ExtentRange {
    ExtentRange { pv: uuid(pv), first: Extents(first), extents: Extents(extents) }
}

/// Disks with these free runs.
fn group(free: &[&[(u64, u64)]]) -> VolumeGroup {
    let disk = |(name, runs): (&&str, &&[(u64, u64)])| PhysicalVolume {
        device: Some(format!("/dev/{name}").into()),
        uuid: uuid(name),
        extent_count: Extents(1000),
        free_extents: Extents(runs.iter().map(|(_, extents)| extents).sum()),
        free_fragments: runs.iter().map(|(first, extents)| (Extents(*first), Extents(*extents))).collect(),
        allocatable: true,
        ..PhysicalVolume::default()
    };
    VolumeGroup {
        name: "vg".into(),
        extent_size: ExtentSize(4 << 20),
        physical_volumes: DISKS.iter().zip(free).map(disk).collect(),
        ..VolumeGroup::default()
    }
}

fn lv(name: &str, kind: &str, segments: &[&[ExtentRange]]) -> LogicalVolume {
    LogicalVolume {
        name: name.into(),
        uuid: uuid(name),
        segment_types: BTreeSet::from([kind.to_owned()]),
        segments: u64::try_from(segments.len()).unwrap(),
        stripes: u64::try_from(segments.iter().map(|segment| segment.len()).max().unwrap()).unwrap(),
        ranges: segments.iter().map(|segment| segment.to_vec()).collect(),
        physical_volumes: segments.iter().flat_map(|segment| segment.iter().map(|range| range.pv)).collect(),
        ..LogicalVolume::default()
    }
}

/// The mirror `m`, with one image on each of these disks, after which that extent follows.
fn mirror(group: &mut VolumeGroup, ends: &[(&str, u64)]) -> LogicalVolume {
    for (number, (pv, end)) in ends.iter().enumerate() {
        let image = lv(&format!("m_rimage_{number}"), "linear", &[&[range(pv, end - 1, 1)]]);
        group.logical_volumes.push(LogicalVolume { internal: true, parent: Some("m".into()), ..image });
    }
    let images: Vec<ExtentRange> = ends.iter().map(|(pv, end)| range(pv, end - 1, 1)).collect();
    LogicalVolume { ranges: vec![Vec::new()], ..lv("m", "raid1", &[&images]) }
}

/// What a choice must have: the extents are free, disjoint, and exactly enough.
fn check(group: &VolumeGroup, chosen: &[ExtentRange], total: u64) {
    assert_eq!(chosen.iter().map(|range| range.extents.0).sum::<u64>(), total);
    let mut seen = BTreeSet::new();
    for range in chosen {
        let pv = group.physical_volume(range.pv).expect("known");
        let end = range.first.and(range.extents);
        assert!(
            pv.free_fragments.iter().any(|(first, length)| *first <= range.first && end <= first.and(*length)),
            "{range:?} is not free"
        );
        for extent in range.first.0..end.0 {
            assert!(seen.insert((range.pv, extent)), "{range:?} is chosen twice");
        }
    }
}

#[test]
fn a_linear_volume_continues_where_it_ends() {
    let group = group(&[&[(10, 5), (20, 100)], &[(0, 500)]]);
    let volume = lv("v", "linear", &[&[range("a", 0, 10)]]);
    let choose = |extents, reserve| choose(&group, &volume, &Layout::Linear, Extents(extents), reserve);
    assert_eq!(choose(3, 0).unwrap(), [range("a", 10, 3)]);
    assert_eq!(choose(9, 0).unwrap(), [range("a", 10, 5), range("a", 20, 4)]);
    // Another disk only for the rest.
    assert_eq!(choose(110, 0).unwrap(), [range("a", 10, 5), range("a", 20, 100), range("b", 0, 5)]);
    assert_eq!(largest(&group, &volume, &Layout::Linear, 0), Extents(605));
    assert!(choose(605, 0).is_some() && choose(606, 0).is_none());
    let reserve = 5 * (4 << 20);
    assert_eq!(largest(&group, &volume, &Layout::Linear, reserve), Extents(600));
    assert!(choose(600, reserve).is_some() && choose(601, reserve).is_none() && choose(0, 0).is_none());
}

#[test]
fn a_linear_volume_prefers_its_own_disks_and_takes_few_others() {
    let group = group(&[&[(50, 4)], &[(0, 3)], &[(0, 20)], &[(0, 10)]]);
    let volume = lv("v", "linear", &[&[range("b", 3, 1)], &[range("a", 0, 10)]]);
    let choose = |extents| choose(&group, &volume, &Layout::Linear, Extents(extents), 0).unwrap();
    // It ends on a, and lies on b, too.
    assert_eq!(choose(7), [range("a", 50, 4), range("b", 0, 3)]);
    // The smallest other disk that is large enough; otherwise the largest first.
    assert_eq!(choose(15)[2..], [range("d", 0, 8)]);
    assert_eq!(choose(20)[2..], [range("c", 0, 13)]);
    assert_eq!(choose(30)[2..], [range("c", 0, 20), range("d", 0, 3)]);
}

#[test]
fn disks_that_cannot_be_used_are_avoided() {
    let mut group = group(&[&[(10, 5)], &[(0, 500)], &[(0, 500)]]);
    let volume = lv("v", "linear", &[&[range("a", 0, 10)]]);
    group.physical_volumes[0].allocatable = false;
    group.physical_volumes[1].device_read_only = true;
    assert_eq!(choose(&group, &volume, &Layout::Linear, Extents(3), 0).unwrap(), [range("c", 0, 3)]);
    let striped = lv("s", "striped", &[&[range("b", 500, 1), range("c", 500, 1)]]);
    assert_eq!(largest(&group, &striped, &STRIPED, 0), Extents::NONE);
}

#[test]
fn stripes_stay_on_the_disks_of_the_last_segment() {
    let group = group(&[&[(10, 50)], &[(10, 2), (20, 4), (30, 3)], &[(0, 900)]]);
    let volume =
        lv("s", "striped", &[&[range("c", 900, 5), range("b", 900, 5)], &[range("a", 5, 5), range("b", 5, 5)]]);
    assert_eq!(super::layout(&group, &LogicalVolume { stripe_size: 65536, ..volume.clone() }), Some(STRIPED));
    let choose = |extents| choose(&group, &volume, &STRIPED, Extents(extents), 0);
    assert_eq!(choose(4).unwrap(), [range("a", 10, 2), range("b", 10, 2)]);
    // Pieces of the same length on each disk, so that lvm splits none.
    let pieces = choose(16).unwrap();
    assert_eq!(
        pieces,
        [
            range("a", 10, 4),
            range("b", 20, 4),
            range("a", 14, 2),
            range("b", 10, 2),
            range("a", 16, 2),
            range("b", 30, 2)
        ]
    );
    assert_eq!(choose(5), None, "half a row");
    assert_eq!(largest(&group, &volume, &STRIPED, 0), Extents(18));
    assert!(choose(18).is_some() && choose(20).is_none());
}

#[test]
fn each_copy_stays_on_its_own_disk() {
    let mut group = group(&[&[(10, 50)], &[(20, 30)], &[(0, 900)]]);
    let volume = mirror(&mut group, &[("b", 20), ("a", 10)]);
    assert_eq!(super::layout(&group, &volume), Some(RAID1));
    assert_eq!(largest(&group, &volume, &RAID1, 0), Extents(30));
    let chosen = choose(&group, &volume, &RAID1, Extents(7), 0).unwrap();
    assert_eq!(chosen, [range("a", 10, 7), range("b", 20, 7)]);
    // Half of what the reserve leaves, although the disks of the copies have more.
    let reserve = (980 - 21) * (4 << 20);
    assert_eq!(largest(&group, &volume, &RAID1, reserve), Extents(10));
    // Copies that share a disk already.
    let mut shared = super::tests::group(&[&[(10, 50)]]);
    let volume = mirror(&mut shared, &[("a", 10), ("a", 20)]);
    assert_eq!(largest(&shared, &volume, &RAID1, 0), Extents::NONE);
}

#[test]
fn other_layouts_are_not_expanded() {
    let group = group(&[&[(10, 50)]]);
    for (kinds, segments) in [
        (&["linear", "striped"][..], &[&[range("a", 0, 1)][..]][..]),
        (&["raid5"], &[&[range("a", 0, 1)]]),
        (&["striped"], &[&[range("a", 0, 1)], &[range("a", 1, 1), range("b", 0, 1)]]),
        (&["raid1"], &[&[range("a", 0, 1), range("b", 1, 1)]]),
    ] {
        let volume = lv("v", kinds[0], segments);
        let segment_types = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        assert_eq!(super::layout(&group, &LogicalVolume { segment_types, ..volume }), None, "{kinds:?}");
    }
}

#[test]
fn extents_of_an_earlier_choice_suit_only_the_same_expansion() {
    let mut group = group(&[&[(10, 50)], &[(20, 30)], &[(0, 900)]]);
    let mirror = mirror(&mut group, &[("b", 20), ("a", 10)]);
    let linear = lv("v", "linear", &[&[range("a", 0, 10)]]);
    let on = |ranges: &[ExtentRange]| {
        (
            suits(&group, &linear, &Layout::Linear, Extents(6), ranges),
            suits(&group, &mirror, &RAID1, Extents(3), ranges),
        )
    };
    assert_eq!(on(&[range("a", 100, 3), range("b", 100, 1), range("b", 200, 2)]), (true, true));
    // A copy was moved to another disk since.
    assert_eq!(on(&[range("a", 100, 3), range("c", 100, 3)]), (true, false));
    assert_eq!(on(&[range("a", 100, 4), range("b", 100, 2)]), (true, false));
    assert_eq!(on(&[range("a", 100, 3), range("b", 100, 4)]), (false, false));
    assert_eq!(pieces(&[range("a", 0, 3), range("b", 0, 2)], &RAID1), None);
    assert_eq!(pieces(&[], &RAID1), None);
}

/// Free runs that neither touch nor overlap.
fn runs() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((1_u64..20, 1_u64..20), 0..6).prop_map(|pairs| {
        let mut at = 0;
        let place = |(gap, length)| {
            let first = at + gap;
            at = first + length;
            (first, length)
        };
        pairs.into_iter().map(place).collect()
    })
}

proptest! {
    #[test]
    fn every_choice_is_free_disjoint_exact_and_on_the_right_disks(
        free in prop::collection::vec(runs(), 4),
        reserve in 0_u64..30,
        kind in 0..3_usize,
        part in 1_u64..=100,
        ends in prop::collection::vec(1_u64..40, 2),
    ) {
        let views: Vec<&[(u64, u64)]> = free.iter().map(Vec::as_slice).collect();
        let mut group = group(&views);
        let (layout, volume) = match kind {
            0 => (Layout::Linear, lv("v", "linear", &[&[range("b", 0, 1)], &[range("a", ends[0] - 1, 1)]])),
            1 => (STRIPED, lv("s", "striped", &[&[range("c", ends[0] - 1, 1), range("a", ends[1] - 1, 1)]])),
            _ => (RAID1, mirror(&mut group, &[("c", ends[0]), ("a", ends[1])])),
        };
        let bytes = reserve * (4 << 20);
        let most = largest(&group, &volume, &layout, bytes);
        let unit = u64::from(layout.stripes());
        // Exact: what the disks and the reserve allow, and no more.
        let sum = |disk: usize| free[disk].iter().map(|(_, length)| length).sum::<u64>();
        let budget = (0..4).map(sum).sum::<u64>().saturating_sub(reserve);
        let each = sum(0).min(sum(2)).min(budget / 2);
        prop_assert_eq!(most.0, match kind { 0 => budget, 1 => each * 2, _ => each });
        prop_assert_eq!(choose(&group, &volume, &layout, most.and(Extents(unit)), bytes), None);
        let extents = (most.0 * part / 100) / unit * unit;
        let Some(chosen) = choose(&group, &volume, &layout, Extents(extents), bytes) else {
            prop_assert_eq!(extents, 0);
            return Ok(());
        };
        let copies = if kind == 2 { 2 } else { 1 };
        check(&group, &chosen, extents * copies);
        prop_assert!(suits(&group, &volume, &layout, Extents(extents), &chosen));
        let mut on: BTreeMap<PvUuid, Vec<u64>> = BTreeMap::new();
        for range in &chosen {
            on.entry(range.pv).or_default().push(range.extents.0);
        }
        if kind == 0 {
            // Other disks only if its own are full.
            let others = DISKS[2..].iter().any(|disk| on.contains_key(&uuid(disk)));
            let own: u64 = DISKS[..2].iter().filter_map(|disk| on.get(&uuid(disk))).flatten().sum();
            prop_assert!(!others || own == sum(0) + sum(1));
        } else {
            prop_assert_eq!(on.len(), 2);
            // The same lengths in the same order, on both.
            let lengths: Vec<&Vec<u64>> = on.values().collect();
            prop_assert_eq!(lengths[0], lengths[1]);
            // What lvm makes of them is cut in the same way again.
            let again = pieces(&chosen, &layout).unwrap();
            let sorted = |mut ranges: Vec<ExtentRange>| { ranges.sort_unstable(); ranges };
            prop_assert_eq!(sorted(again), sorted(chosen));
        }
    }
}
