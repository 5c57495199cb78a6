//! Selectors, and the assignment of disks to pools.

use std::path::Path;

use quarry_mount::Device;

use super::super::testing::blank;
use super::super::{Criteria, Disk, Paths, Selector, SelectorError, Sizes, Targets, Transport, Udev, Verdict, assign};

/// `/mnt/disks/fast` points to the disk with minor number 16, `/mnt/disks/slow` to the one with 32.
struct Links;

impl Paths for Links {
    fn names_in(&self, folder: &Path) -> Vec<String> {
        if folder == Path::new("/mnt/disks") { vec!["fast".into(), "slow".into()] } else { Vec::new() }
    }

    fn device(&self, path: &Path) -> Option<Device> {
        let minor = match path.to_str()? {
            "/mnt/disks/fast" => 16,
            "/mnt/disks/slow" => 32,
            _ => return None,
        };
        Some(Device { major: 8, minor })
    }
}

fn globs<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Option<Vec<T>> {
    Some(texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn by_id(patterns: &[&str]) -> Criteria {
    Criteria { by_id: globs(patterns), ..Criteria::default() }
}

fn verdict(include: &Criteria, exclude: &Criteria, disk: &Disk) -> Verdict {
    let selector = Selector::new(include.clone(), exclude.clone()).unwrap();
    selector.verdict(disk, &selector.targets(&Links))
}

/// Criteria that a blank disk matches, each with one of the same kind that it does not match.
fn each_kind() -> Vec<(Criteria, Criteria)> {
    let none = Criteria::default;
    let sizes = |at_least, at_most| Criteria { size: Some(Sizes { at_least, at_most }), ..none() };
    let model = |text: &str| Criteria { model: globs(&[text]), ..none() };
    let paths = |text: &str| Criteria { paths: globs(&[text]), ..none() };
    let rotational = |turns| Criteria { rotational: Some(turns), ..none() };
    let transports = |list: &[Transport]| Criteria { transports: Some(list.to_vec()), ..none() };
    vec![
        (by_id(&["nvme-*", "scsi-sd?"]), by_id(&["nvme-*"])),
        (by_id(&["/dev/disk/by-id/scsi-*"]), by_id(&["/dev/disk/by-path/scsi-*"])),
        (paths("/mnt/disks/*"), paths("/mnt/disks/slow")),
        (model("Mod*"), model("mod*")),
        (sizes(Some(1 << 30), Some(1 << 30)), sizes(Some((1 << 30) + 1), None)),
        (sizes(None, Some(1 << 30)), sizes(None, Some((1 << 30) - 1))),
        (rotational(false), rotational(true)),
        (transports(&[Transport::Nvme, Transport::Scsi]), transports(&[Transport::Nvme])),
    ]
}

/// Combines two that use different criteria.
fn both(a: &Criteria, b: &Criteria) -> Criteria {
    Criteria {
        by_id: a.by_id.clone().or(b.by_id.clone()),
        paths: a.paths.clone().or(b.paths.clone()),
        model: a.model.clone().or(b.model.clone()),
        size: a.size.or(b.size),
        rotational: a.rotational.or(b.rotational),
        transports: a.transports.clone().or(b.transports.clone()),
    }
}

#[test]
fn all_include_criteria_must_match_and_no_exclude_criterion() {
    let disk = blank("sdb");
    let nothing = Criteria::default();
    for (yes, no) in each_kind() {
        assert_eq!(verdict(&yes, &nothing, &disk), Verdict::Selected, "{yes:?}");
        assert_eq!(verdict(&no, &nothing, &disk), Verdict::NotSelected, "{no:?}");
        let other =
            if yes.model.is_some() { by_id(&["scsi-*"]) } else { Criteria { model: globs(&["*"]), ..nothing.clone() } };
        assert_eq!(verdict(&both(&yes, &other), &nothing, &disk), Verdict::Selected, "{yes:?}");
        assert_eq!(verdict(&both(&no, &other), &nothing, &disk), Verdict::NotSelected, "{no:?}");
        assert_eq!(verdict(&other, &yes, &disk), Verdict::Excluded, "{yes:?}");
        assert_eq!(verdict(&other, &no, &disk), Verdict::Selected, "{no:?}");
        // One matching exclude criterion is enough.
        let wrong =
            if yes.model.is_some() { by_id(&["x"]) } else { Criteria { model: globs(&["x"]), ..nothing.clone() } };
        assert_eq!(verdict(&other, &both(&yes, &wrong), &disk), Verdict::Excluded, "{yes:?}");
    }
}

/// Other drivers attach such disks for their volumes, and format them later.
#[test]
fn disks_in_the_network_must_be_asked_for() {
    let nothing = Criteria::default();
    let disk = Disk { transport: Transport::Network, ..blank("sdb") };
    let transports = |list: &[Transport]| Criteria { transports: Some(list.to_vec()), ..Criteria::default() };
    let asked = [
        transports(&[Transport::Nvme, Transport::Network]),
        by_id(&["scsi-sdb"]),
        Criteria { paths: globs(&["/mnt/disks/fast"]), ..Criteria::default() },
    ];
    let not_asked = [
        Criteria { size: Some(Sizes { at_least: Some(1), at_most: None }), ..Criteria::default() },
        Criteria { model: globs(&["Mod*"]), ..Criteria::default() },
        Criteria { rotational: Some(false), ..Criteria::default() },
    ];
    for include in &asked {
        assert_eq!(verdict(include, &nothing, &disk), Verdict::Selected, "{include:?}");
        assert_eq!(verdict(include, &asked[0], &disk), Verdict::Excluded, "{include:?}");
    }
    for include in &not_asked {
        assert_eq!(verdict(include, &nothing, &disk), Verdict::NotSelected, "{include:?}");
        assert_eq!(verdict(include, &nothing, &blank("sdb")), Verdict::Selected, "{include:?}");
        for asked in &asked {
            assert_eq!(verdict(&both(include, asked), &nothing, &disk), Verdict::Selected, "{include:?} {asked:?}");
        }
    }
}

#[test]
fn unknown_facts_match_no_criterion() {
    let disk = Disk { model: None, by_id: Vec::new(), ..blank("sdb") };
    let model = Criteria { model: globs(&["*"]), ..Criteria::default() };
    assert_eq!(verdict(&model, &Criteria::default(), &disk), Verdict::NotSelected);
    assert_eq!(verdict(&by_id(&["*"]), &Criteria::default(), &disk), Verdict::NotSelected);
}

/// Its links may belong to the disk that had its number before.
#[test]
fn stale_names_select_nothing() {
    let with_entry = blank("sdb");
    let why = "the entry describes another disk".to_owned();
    let disk = Disk { udev: Udev::Stale { why }, by_id: Vec::new(), ..with_entry.clone() };
    let size = Some(Sizes { at_least: Some(1), at_most: None });
    let no_names = Criteria { size, ..Criteria::default() };
    let names = [
        by_id(&["*"]),
        Criteria { model: globs(&["*"]), size, ..Criteria::default() },
        Criteria { paths: globs(&["/mnt/disks/fast"]), ..Criteria::default() },
    ];
    for include in names {
        let nothing = Criteria::default();
        assert_eq!(verdict(&include, &nothing, &with_entry), Verdict::Selected, "{include:?}");
        assert_eq!(verdict(&include, &nothing, &disk), Verdict::Doubtful, "{include:?}");
        // If a fact from the kernel does not match, the disk is not doubtful.
        let turning = Criteria { rotational: Some(true), ..include };
        assert_eq!(verdict(&turning, &nothing, &disk), Verdict::NotSelected);
    }
    // It may also be a path to a multipath device.
    assert_eq!(verdict(&no_names, &Criteria::default(), &disk), Verdict::Doubtful);
    assert_eq!(verdict(&no_names, &by_id(&["system"]), &disk), Verdict::Doubtful);
}

/// It may turn out to be one of several paths to a multipath device.
#[test]
fn a_disk_that_udev_has_not_handled_waits_whatever_the_selector_is() {
    let with_entry = blank("sdb");
    let disk = Disk { udev: Udev::Awaited, ..with_entry.clone() };
    let nothing = Criteria::default();
    for (yes, no) in each_kind() {
        assert_eq!(verdict(&yes, &nothing, &with_entry), Verdict::Selected, "{yes:?}");
        assert_eq!(verdict(&yes, &nothing, &disk), Verdict::Doubtful, "{yes:?}");
        assert_eq!(verdict(&no, &nothing, &disk), Verdict::NotSelected, "{no:?}");
    }
}

#[test]
fn an_exclusion_waits_for_udev() {
    let with_entry = blank("sdb");
    let disk = Disk { udev: Udev::Missing, ..with_entry.clone() };
    let include = Criteria { rotational: Some(false), ..Criteria::default() };
    let exclusions = [
        by_id(&["ata-system-*"]),
        Criteria { model: globs(&["x"]), ..Criteria::default() },
        Criteria { paths: globs(&["/mnt/none/*"]), ..Criteria::default() },
    ];
    for exclude in exclusions {
        assert_eq!(verdict(&include, &exclude, &disk), Verdict::Doubtful, "{exclude:?}");
        assert_eq!(verdict(&include, &exclude, &with_entry), Verdict::Selected, "{exclude:?}");
    }
    // Facts from the kernel do not need udev.
    let exclude = Criteria { transports: Some(vec![Transport::Usb]), ..Criteria::default() };
    assert_eq!(verdict(&include, &exclude, &disk), Verdict::Selected);
    assert_eq!(verdict(&include, &Criteria::default(), &disk), Verdict::Selected);
}

#[test]
fn empty_selectors_are_rejected() {
    let nothing = Criteria::default;
    assert_eq!(Selector::new(nothing(), nothing()), Err(SelectorError::Everything));
    assert_eq!(Selector::new(nothing(), by_id(&["a"])), Err(SelectorError::Everything));
    let usable = by_id(&["a"]);
    let size = |at_least, at_most| Criteria { size: Some(Sizes { at_least, at_most }), ..by_id(&["a"]) };
    for (bad, expected) in [
        (by_id(&[]), SelectorError::Empty { criterion: "byId" }),
        (Criteria { paths: Some(vec![]), ..by_id(&["a"]) }, SelectorError::Empty { criterion: "paths" }),
        (Criteria { model: Some(vec![]), ..by_id(&["a"]) }, SelectorError::Empty { criterion: "model" }),
        (Criteria { transports: Some(vec![]), ..by_id(&["a"]) }, SelectorError::Empty { criterion: "transports" }),
        (size(None, None), SelectorError::Size),
        (size(Some(2), Some(1)), SelectorError::Size),
    ] {
        assert_eq!(Selector::new(bad.clone(), nothing()), Err(expected.clone()));
        assert_eq!(Selector::new(usable.clone(), bad), Err(expected));
    }
    assert!(Selector::new(size(Some(1), Some(1)), nothing()).is_ok());
}

#[test]
fn each_disk_belongs_to_one_pool_or_none() {
    let disk = |name: &str, minor| Disk { number: Device { major: 8, minor }, ..blank(name) };
    let disks = [disk("sdb", 16), disk("sdc", 32), disk("sdd", 48), disk("sde", 64)];
    let pool = |name: &str, include| (name.to_owned(), Selector::new(include, Criteria::default()).unwrap());
    let paths = Criteria { paths: globs(&["/mnt/disks/*"]), ..Criteria::default() };
    let pools = [pool("fast", paths), pool("slow", by_id(&["scsi-sd[cd]"])), pool("none", by_id(&["x"]))];
    let assignment = assign(&pools, &disks, &Links);
    let owners: Vec<_> = assignment.pools.iter().map(|(disk, pool)| (disk.as_str(), pool.as_str())).collect();
    assert_eq!(owners, [("sdb", "fast"), ("sdd", "slow")], "a disk of two pools belongs to neither");
    let [conflict] = assignment.conflicts.as_slice() else { panic!("{assignment:?}") };
    let text = conflict.to_string();
    assert!(text.contains("the disk sdc (scsi-sdc) belongs to the pools fast and slow"), "{text}");
    assert!(assignment.doubtful.is_empty());
}

#[test]
fn a_doubtful_disk_belongs_to_no_pool() {
    let disks = [Disk { udev: Udev::Missing, ..blank("sdb") }];
    let selector = Selector::new(by_id(&["scsi-*"]), by_id(&["wwn-1"])).unwrap();
    let assignment = assign(&[("fast".to_owned(), selector)], &disks, &Links);
    assert!(assignment.pools.is_empty() && assignment.conflicts.is_empty());
    assert!(assignment.doubtful.contains("sdb"));
    // It does not belong to a pool without doubt either, as long as another pool may turn out to select it
    // too.
    let sure = Selector::new(by_id(&["scsi-*"]), Criteria::default()).unwrap();
    let doubting = Selector::new(by_id(&["scsi-*"]), by_id(&["wwn-1"])).unwrap();
    let pools = [("sure".to_owned(), sure), ("doubting".to_owned(), doubting)];
    let assignment = assign(&pools, &disks, &Links);
    assert!(assignment.pools.is_empty());
    assert!(assignment.doubtful.contains("sdb"));
    assert_eq!(assignment.possible["sdb"], ["sure", "doubting"]);
    assert_eq!(assign(&pools, &[blank("sdb")], &Links).conflicts.len(), 1);
}

/// What is not known about a disk does not keep a selector from matching it later.
#[test]
fn a_disk_without_facts_may_match_unless_a_known_fact_differs() {
    let may_match = |include: &Criteria, exclude: &Criteria, disk: &Disk| {
        let selector = Selector::new(include.clone(), exclude.clone()).unwrap();
        selector.may_match(disk, &selector.targets(&Links))
    };
    let nothing = Criteria::default();
    let known = blank("sdb");
    let unnamed = Disk { udev: Udev::Missing, model: None, by_id: Vec::new(), ..known.clone() };
    let stale = Disk { udev: Udev::Stale { why: "the entry describes another disk".to_owned() }, ..known.clone() };
    let sizeless = Disk { size: 0, ..known.clone() };
    let empty = Disk { size: 0, removable: true, ..known.clone() };
    for (yes, no) in each_kind() {
        let of_size = no.size.is_some();
        let of_names = no.by_id.is_some() || no.paths.is_some() || no.model.is_some();
        assert!(may_match(&yes, &nothing, &known) && !may_match(&no, &nothing, &known), "{yes:?}");
        for disk in [&unnamed, &stale] {
            assert!(may_match(&yes, &nothing, disk), "{yes:?}");
            assert_eq!(may_match(&no, &nothing, disk), of_names, "{no:?}");
        }
        assert!(may_match(&yes, &nothing, &sizeless), "{yes:?}");
        assert_eq!(may_match(&no, &nothing, &sizeless), of_size || no.rotational.is_some(), "{no:?}");
        // An empty drive has a size of 0, and that is a fact.
        assert!(
            may_match(&no, &nothing, &empty)
                == (no.size == Some(Sizes { at_least: None, at_most: Some((1 << 30) - 1) }))
        );
    }
    // What excludes it is a fact, or not.
    let scsi = Criteria { transports: Some(vec![Transport::Scsi]), ..nothing.clone() };
    let linked = Disk { udev: Udev::Missing, ..known.clone() };
    for (exclude, disk, possible) in [
        (by_id(&["scsi-sdb"]), &known, false),
        (by_id(&["scsi-sdb"]), &linked, false),
        (by_id(&["scsi-sdb"]), &unnamed, true),
        (by_id(&["scsi-sdb"]), &stale, true),
        (Criteria { rotational: Some(false), ..nothing.clone() }, &stale, false),
        (Criteria { size: Some(Sizes { at_least: None, at_most: Some(1) }), ..nothing.clone() }, &sizeless, true),
    ] {
        assert_eq!(may_match(&scsi, &exclude, disk), possible, "{exclude:?} {disk:?}");
    }
}

#[test]
fn paths_without_a_target_select_nothing() {
    let include = Criteria { paths: globs(&["/mnt/disks/*"]), ..Criteria::default() };
    let selector = Selector::new(include, Criteria::default()).unwrap();
    assert_eq!(selector.verdict(&blank("sdb"), &Targets::default()), Verdict::NotSelected);
}
