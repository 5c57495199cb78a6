//! Real metadata and kernel states with changes that lvm could make, or a newer version of it.

// Test helpers may panic like tests.
#![allow(clippy::expect_used, clippy::panic)]

mod recording;

use quarry_lvm::metadata::NeedsReport;
use recording::{Recording, linear};

#[test]
fn anything_unknown_needs_the_report() {
    for (from, to, label) in [
        ("\"ALLOCATABLE\"", "\"ALLOCATABLE\", \"NEW\"", "unknown"),
        ("flags = []", "flags = [\"NEW\"]", "unknown"),
        ("\"RESIZEABLE\"", "\"RESIZEABLE\", \"CLUSTERED\"", "unknown"),
        ("status = [\"ALLOCATABLE\"]", "status = [\"ALLOCATABLE\", \"MISSING\"]", "missing"),
        ("type = \"striped\"", "type = \"striped+NEW\"", "unknown"),
        ("type = \"striped\"", "type = \"vdo-pool\"", "unknown"),
        ("max_pv = 0", "max_pv = 0\npr = [\"require\"]", "unknown"),
        ("max_pv = 0", "max_pv = 0\nlock_type = \"sanlock\"", "unknown"),
        ("pe_count = 274", "pe_count = 274\nnew = 1", "unknown"),
        ("segment_count = 1", "segment_count = 1\nnew = 1", "unknown"),
        ("stripe_count = 1", "stripe_count = 1\nnew = 1", "unknown"),
        ("contents = ", "new = 1\ncontents = ", "unknown"),
        ("\"pv0\", 0", "\"pvmove0\", 0", "unknown"),
        ("version = 1", "version = 2", "inconsistent"),
        ("extent_size = 8192", "extent_size = 0", "inconsistent"),
        ("extent_size = 8192", "extent_size = -8192", "inconsistent"),
        ("pe_count = 274", "pe_count = 2", "inconsistent"),
        ("pe_count = 274", "pe_count = 4294967296", "inconsistent"),
        ("segment_count = 1", "segment_count = 2", "inconsistent"),
        ("start_extent = 0", "start_extent = 1", "inconsistent"),
        ("stripe_count = 1", "stripe_count = 2", "inconsistent"),
        ("\"pv0\", 3", "\"pv0\", 2", "inconsistent"),
        ("\"VISIBLE\"", "\"READ\"", "inconsistent"),
        ("seqno = 14", "seqno = \"14\"", "inconsistent"),
        ("seqno = 14", "seqno = 14 seqno = 15", "syntax"),
        ("seqno = 14", "seqno = ", "syntax"),
    ] {
        let recording = linear();
        recording.replace(from, to);
        match recording.group() {
            Err(why) => assert_eq!(why.label(), label, "{to}: {why}"),
            Ok(group) => panic!("{to}: {group:?}"),
        }
    }
    for (name, from, to) in [
        ("thin", "thin_pool = \"pool\"", "thin_pool = \"a-snap\""),
        ("thin", "origin = \"a-1\"", "origin = \"gone\""),
        ("thin", "pool = \"pool_tdata\"", "pool = \"empty_tdata\""),
        ("raid1", "\"a_rmeta_1\", \"a_rimage_1\"", "\"a_rmeta_1\", \"gone\""),
        ("raid1", "\"a_rmeta_1\", \"a_rimage_1\"", "\"a_rimage_1\""),
        ("raid1", "device_count = 2", "device_count = 3"),
        ("snapshots", "cow_store = \"s\"", "cow_store = \"theirs\""),
    ] {
        let recording = Recording::load("bookworm", name);
        recording.replace(from, to);
        let why = recording.group().expect_err(to);
        assert!(matches!(why, NeedsReport::Inconsistent { .. }), "{to}: {why}");
    }
}

#[test]
fn a_raid_is_as_healthy_as_the_kernel_says() {
    let healths = |status: &str| {
        let mut recording = Recording::load("bookworm", "raid1");
        let group = recording.group().expect("readable");
        recording.device(&group, "a", "").1.status = Some(("raid".to_owned(), status.to_owned()));
        let group = recording.group()?;
        let health = |name: &str| group.logical_volume(name).expect(name).health.clone();
        Ok::<_, NeedsReport>(["a", "a_rimage_0", "a_rmeta_0", "a_rimage_1", "a_rmeta_1"].map(health))
    };
    let failed = healths("raid1 2 AD 4/4 idle 0 0 -").expect("readable");
    assert_eq!(failed, ["refresh needed", "", "", "refresh needed", "refresh needed"]);
    assert_eq!(healths("raid1 2 AA 4/4 idle 8 0 -").expect("readable"), ["mismatches exist", "", "", "", ""]);
    assert_eq!(healths("raid1 2 Aa 1/4 recover 0 0 -").expect("readable"), [""; 5]);
    for status in ["raid1 3 AAA 4/4 idle 0 0 -", "raid1 2", ""] {
        assert!(matches!(healths(status), Err(NeedsReport::Other(_))), "{status}");
    }
    // Newer versions of lvm mark the devices of images.
    let mut recording = Recording::load("bookworm", "raid1");
    let before = recording.group().expect("readable");
    for part in ["a_rimage_0", "a_rmeta_1"] {
        recording.device(&before, part, "").0.push_str("-real");
    }
    assert_eq!(recording.group().expect("readable"), before);
}

#[test]
fn a_thin_pool_is_active_without_its_volumes() {
    let pool = |status: Option<&str>, top: bool| {
        let mut recording = Recording::load("bookworm", "thin");
        let group = recording.group().expect("readable");
        if let Some(status) = status {
            recording.device(&group, "pool", "-tpool").1.status = Some(("thin-pool".to_owned(), status.to_owned()));
        }
        if !top {
            recording.device(&group, "pool", "-pool").0.clear();
        }
        let pool = recording.group()?.logical_volume("pool").expect("pool").clone();
        Ok::<_, NeedsReport>((pool.active, pool.device_number, pool.open, pool.health))
    };
    let number = Some((253, 5));
    assert_eq!(pool(None, true).expect("readable"), (Some(true), number, Some(true), String::new()));
    // Only volumes of it are active.
    assert_eq!(pool(None, false).expect("readable"), (Some(false), None, None, String::new()));
    assert_eq!(pool(Some("Fail"), true).expect("readable"), (Some(true), number, Some(true), "failed".to_owned()));
    let broken = "5 9/1024 0/1280 - ro discard_passdown queue_if_no_space needs_check 256";
    assert_eq!(pool(Some(broken), true).expect("readable").3, "metadata_read_only");
    assert!(matches!(pool(Some(broken), false), Err(NeedsReport::Other(_))));
    assert!(matches!(pool(Some("?"), true), Err(NeedsReport::Other(_))));
}

#[test]
fn layers_that_nothing_uses_need_the_report() {
    let mut recording = linear();
    let group = recording.group().expect("readable");
    recording.device(&group, "a-b--c", "").0.push_str("-real");
    assert!(matches!(recording.group(), Err(NeedsReport::Other(_))));
    let mut recording = Recording::load("bookworm", "thin");
    let group = recording.group().expect("readable");
    recording.device(&group, "pool", "-tpool").0.clear();
    assert!(matches!(recording.group(), Err(NeedsReport::Other(_))));
}

#[test]
fn segments_that_lvm_joins_are_joined() {
    let recording = linear();
    let before = recording.group().expect("readable");
    let segment = |number: u64, start: u64, extents: u64, first: u64| {
        format!(
            "segment{number} {{\nstart_extent = {start}\nextent_count = {extents}\n\ntype = \"striped\"\n\
             stripe_count = 1\n\nstripes = [\n\"pv0\", {first}\n]\n}}\n"
        )
    };
    let whole = "segment_count = 1\n\nsegment1 {\nstart_extent = 0\nextent_count = 3\n\ntype = \"striped\"\n\
                 stripe_count = 1\t# linear\n\nstripes = [\n\"pv0\", 0\n]\n}\n";
    let whole = if recording.text().contains(whole) { whole.to_owned() } else { whole.replace("\t# linear", "") };
    recording.replace(&whole, &format!("segment_count = 2\n\n{}{}", segment(1, 0, 1, 0), segment(2, 1, 2, 1)));
    assert_eq!(recording.group().expect("readable"), before);
}
