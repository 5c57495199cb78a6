//! Names that lvm accepts, and replacements for others.

use std::collections::BTreeSet;

use proptest::prelude::*;
use quarry_lvm::{mapper_path, safe_name, vg_name_fits};

#[test]
fn valid_names_are_kept() {
    for name in
        ["pvc-0b0f3fd4-7a4c-4a0c-9d3c-2f0e5cbd2b5f", "a", "A+b_c.d-e", "xsnapshot", "lvol0", "1", "_x", ".a", "q"]
    {
        assert_eq!(safe_name(name), name);
    }
    assert_eq!(safe_name(&"a".repeat(48)), "a".repeat(48));
}

/// Each of these was rejected by lvcreate 2.03.16, or is too long for a device's name.
#[test]
fn invalid_names_are_replaced() {
    let refused = [
        "",
        ".",
        "..",
        "-a",
        "snapshot",
        "snapshot0",
        "pvmove",
        "pvmove0",
        "a_cdata",
        "a_cdata0",
        "_cdata",
        "x_cmeta",
        "x_corig",
        "x_cpool",
        "x_cvol",
        "x_mimage",
        "x_mimagetmp_1",
        "x_mlog",
        "lvol0_pmspare",
        "x_rimage_0",
        "x_rmeta_0",
        "x_tdata",
        "x_tmeta",
        "x_vdata",
        "x_vorigin",
        "x_wcorig",
        "x_iorig",
        "x_imeta",
        "a/b",
        "a b",
        "a\nb",
        "a\0b",
        "ä",
        "a:b",
        "a@b",
        "../x",
        "$(id)",
    ];
    let mut seen = BTreeSet::new();
    for name in
        refused.iter().map(|name| (*name).to_owned()).chain(["a".repeat(49), "a-".repeat(21), "x".repeat(10_000)])
    {
        let safe = safe_name(&name);
        assert!(safe.len() == 27 && safe.starts_with('q'), "{name:?}: {safe}");
        assert!(safe.bytes().all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte)), "{safe}");
        assert!(seen.insert(safe), "{name:?}");
    }
}

/// Frozen: these names are on disks.
#[test]
fn golden() {
    assert_eq!(safe_name(""), "qv4jutopv7gq2nicajxvdnxgjjg");
    assert_eq!(safe_name("snapshot"), "qfuli4h7sbeyoigxazdu3bp6jpo");
    assert_eq!(safe_name(&"a".repeat(128)), "qa5j57clnadzayjd7p2gis553qt");
}

#[test]
fn a_name_that_looks_safe_is_replaced() {
    let safe = safe_name("snapshot");
    let again = safe_name(&safe);
    assert_ne!(safe, again, "otherwise two names would lead to the same volume");
    assert_eq!(again.len(), 27);
}

#[test]
fn volume_group_names() {
    for name in ["vg0", "pool-a", "data_1.x+y", &"v".repeat(53), &"-v".repeat(17)[1..]] {
        assert!(vg_name_fits(name), "{name}");
    }
    for name in ["", ".", "..", "-vg", "a/b", "a b", "ä", &"v".repeat(54), &"v-".repeat(18)] {
        assert!(!vg_name_fits(name), "{name}");
    }
    let longest = mapper_path(&"v".repeat(53), &safe_name(&"a".repeat(48))).file_name().expect("a name").len();
    assert!(longest + "_rimage_127".len() <= 127);
}

proptest! {
    #[test]
    fn every_name_fits(asked in prop_oneof![".{0,140}", "[a-z0-9_.+-]{0,80}", "[a-c]_(rmeta|cdata|x)[0-9]?"]) {
        let name = safe_name(&asked);
        prop_assert!(!name.is_empty() && name.len() <= 48 && !name.starts_with('-'));
        prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte)));
        prop_assert!(name.replace('-', "--").len() <= 60);
        prop_assert_eq!(safe_name(&asked), name);
    }
}
