//! Tests of the record. Some are golden: what they compare with is on users' disks.

use super::*;
use proptest::prelude::*;
use uuid::uuid;

fn sample() -> Record {
    Record {
        state: State::New,
        name: "pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11".to_owned(),
        size: 10 << 30,
        access: AccessTypes::Mount,
        filesystem: Some(Filesystem::Ext4),
        layout: Layout::Linear,
        thin: false,
        parameters: "abcdefghijklm".to_owned(),
        zeroed: Gib::NONE,
        wipe: None,
        filesystem_uuid: None,
        wiped: false,
        source: None,
        filling: false,
        expansion: None,
        discard: None,
        limits: IoLimits::default(),
        requires_limits: false,
        encryption: None,
        unknown: Vec::new(),
    }
}

const UUID: Uuid = uuid!("b79cd4be-d8b3-5e16-ac2f-178919c3c36b");

// A tag of lvm has at most 1024 bytes.
const _: () = assert!(MAX_RECORD <= 1024 && MAX_RECORD <= quarry_disk::claim::MAX_RECORD);

/// Golden: these records are on users' disks. They must never change.
#[test]
fn records_are_frozen() {
    let record = sample();
    let block = Record {
        name: "größe/1 ".to_owned(),
        access: AccessTypes::Block,
        filesystem: None,
        layout: Layout::Striped { stripes: 2, stripe_size: 65536 },
        zeroed: Gib(64),
        ..sample()
    };
    let both = Record {
        state: State::Ready,
        access: AccessTypes::Both,
        filesystem: Some(Filesystem::Xfs),
        layout: Layout::Raid1 { mirrors: 1 },
        ..sample()
    };
    let disk = Record { zeroed: Gib(192), wipe: Some(Wipe::Discard), ..both.clone() };
    let disk = Record { layout: Layout::Linear, ..disk };
    let made = record.ready_with(UUID);
    let restored = Record { zeroed: Gib(10), filesystem_uuid: Some(UUID), ..record.clone() };
    let all = Record { wiped: true, ..restored.clone() };
    let clean = Record { wipe: Some(Wipe::None), ..record.wiped() };
    let expanding = disk.expanding(Some(ExpansionProgress { size: 300 << 30, zeroed: Gib(64) }));
    let source = |text: &str| Some(text.parse::<ContentSource>().unwrap());
    let restored_from = source("s1:d5hwhwt27w:worker-1:snapshot-1");
    let filling = Record { source: restored_from, filling: true, zeroed: Gib(64), ..record.clone() };
    let filled = filling.ready_with(UUID);
    let thin = Record { thin: true, ..record.wiped() };
    let online = Record { discard: Some(Discard::Online), ..thin.ready_with(UUID) };
    let trimmed = Record { discard: Some(Discard::Periodic), ..expanding.clone() };
    let never = Record { discard: Some(Discard::None), ..filling.clone() };
    let limited = trimmed.limited(IoLimits::new([Some(64 << 20), None, None, Some(500)]), false);
    let required = never.limited(IoLimits::new([None, Some(u64::MAX), Some(1), None]), true);
    let unlimited = made.limited(IoLimits::default(), true);
    let from_nothing = filling.filled_with_nothing();
    let clone = Record { source: source("v1:d5hwhwt27w:worker-1:pvc-1"), filling: true, ..block.clone() };
    let erased = Record { filesystem_uuid: Some(UUID), ..disk.clone() };
    let encrypted = Record { encryption: Some(Encryption::Luks2), ..trimmed.clone() };
    let encrypted_block = Record { encryption: Some(Encryption::Luks2), zeroed: Gib::NONE, ..block.clone() };
    for (record, text) in [
        (
            encrypted,
            "quarry3/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=mb/f=xfs/l=l/p=abcdefghijklm/z=192/w=discard/e=322122547200.64/d=periodic/x=luks2",
        ),
        (encrypted_block, "quarry3/s=new/n=!M5ZMHNWDT5SS6MJA/b=10737418240/a=b/l=s2.65536/p=abcdefghijklm/x=luks2"),
        (
            limited,
            "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=mb/f=xfs/l=l/p=abcdefghijklm/z=192/w=discard/e=322122547200.64/d=periodic/r=67108864.0.0.500",
        ),
        (
            required,
            "quarry2/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/z=64/i=s1:d5hwhwt27w:worker-1:snapshot-1/d=none/r=0.18446744073709551615.1.0!",
        ),
        (
            unlimited,
            "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/u=b79cd4bed8b35e16ac2f178919c3c36b/r=0.0.0.0!",
        ),
        (
            online,
            "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=t/p=abcdefghijklm/u=b79cd4bed8b35e16ac2f178919c3c36b/d=online",
        ),
        (
            trimmed,
            "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=mb/f=xfs/l=l/p=abcdefghijklm/z=192/w=discard/e=322122547200.64/d=periodic",
        ),
        (
            never,
            "quarry2/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/z=64/i=s1:d5hwhwt27w:worker-1:snapshot-1/d=none",
        ),
        (
            thin,
            "quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=t/p=abcdefghijklm/c=1",
        ),
        (
            made,
            "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/u=b79cd4bed8b35e16ac2f178919c3c36b",
        ),
        (
            restored,
            "quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/z=10/u=b79cd4bed8b35e16ac2f178919c3c36b",
        ),
        (
            filling,
            "quarry2/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/z=64/i=s1:d5hwhwt27w:worker-1:snapshot-1",
        ),
        (
            filled,
            "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/u=b79cd4bed8b35e16ac2f178919c3c36b/i=s1:d5hwhwt27w:worker-1:snapshot-1",
        ),
        (
            from_nothing,
            "quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/i=s1:d5hwhwt27w:worker-1:snapshot-1",
        ),
        (
            clone,
            "quarry2/s=new/n=!M5ZMHNWDT5SS6MJA/b=10737418240/a=b/l=s2.65536/p=abcdefghijklm/z=64/i=v1:d5hwhwt27w:worker-1:pvc-1",
        ),
        (
            clean,
            "quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/w=none/c=1",
        ),
        (
            all,
            "quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm/z=10/u=b79cd4bed8b35e16ac2f178919c3c36b/c=1",
        ),
        (
            erased,
            "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=mb/f=xfs/l=l/p=abcdefghijklm/z=192/w=discard/u=b79cd4bed8b35e16ac2f178919c3c36b",
        ),
        (
            expanding,
            "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=mb/f=xfs/l=l/p=abcdefghijklm/z=192/w=discard/e=322122547200.64",
        ),
        (
            disk,
            "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=mb/f=xfs/l=l/p=abcdefghijklm/z=192/w=discard",
        ),
        (
            record,
            "quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm",
        ),
        (block, "quarry1/s=new/n=!M5ZMHNWDT5SS6MJA/b=10737418240/a=b/l=s2.65536/p=abcdefghijklm/z=64"),
        (
            both,
            "quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=mb/f=xfs/l=r1.1/p=abcdefghijklm",
        ),
    ] {
        assert_eq!(record.to_string(), text);
        assert_eq!(Record::parse(text), Tag::Record(Box::new(record)));
    }
}

#[test]
fn a_request_that_differs_from_the_record_is_a_conflict() {
    let spec = VolumeSpec::mount("a", 1 << 30, Filesystem::Ext4);
    let record = Record::new(&spec, 1 << 30);
    assert_eq!(record.conflict(&spec), None);
    let mut discards = spec.clone();
    discards.class.wipe = Some(Wipe::Discard);
    let restored = spec.clone().filled_from("s1:abcdefghij:n:s".parse().unwrap());
    let mut options = spec.clone();
    options.class.mkfs_options = "-m 0".to_owned();
    let plain = spec.clone();
    let mut encrypted = spec.clone();
    encrypted.class.encryption = Some(Encryption::Luks2);
    for (other, named) in [
        (VolumeSpec::block("a", 1 << 30), "a raw block device"),
        (VolumeSpec::mount("a", 1 << 30, Filesystem::Xfs), "xfs"),
        (spec.with_layout(Layout::Raid1 { mirrors: 1 }), "raid1"),
        (options, "mkfsOptions"),
        (discards, "with wipe mode set by the pool, not discard"),
        (encrypted, "with encryption not encrypted, not luks2"),
        (restored.clone(), "with the contents of s1:abcdefghij:n:s"),
    ] {
        let conflict = record.conflict(&other).unwrap();
        assert!(conflict.contains(named), "{conflict}");
    }
    // They can be changed.
    let mut limited = plain;
    limited.class.limits = IoLimits::new([Some(1 << 20), None, None, None]);
    limited.class.requires_limits = true;
    limited.class.discard = Some(Discard::Periodic);
    assert_eq!(record.conflict(&limited), None);
}

#[test]
fn keys_of_a_later_revision_are_kept() {
    let text = "quarry1/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/k=luks2/q=a=b";
    let Tag::Record(record) = Record::parse(text) else { panic!("not read") };
    assert_eq!(record.ready().to_string(), text.replace("s=new", "s=ready"));
}

#[test]
fn a_retry_names_the_same_source() {
    let spec = VolumeSpec::mount("a", 1 << 30, Filesystem::Ext4);
    let restored = spec.clone().filled_from("s1:abcdefghij:n:s".parse().unwrap());
    let cloned = spec.clone().filled_from("v1:abcdefghij:n:s".parse().unwrap());
    let record = Record::new(&restored, 1 << 30);
    for record in [record.clone(), record.zeroed(Gib(1)), record.ready_with(UUID), record.filled_with_nothing()] {
        assert_eq!(record.conflict(&restored), None);
        assert!(record.conflict(&cloned).is_some() && record.conflict(&spec).is_some());
    }
}

/// Another form would be written back as another tag.
#[test]
fn only_records_in_the_form_that_is_written_are_of_a_volume_that_is_being_filled() {
    let text = "quarry2/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/z=2/i=s1:abcdefghij:n:s/q=1";
    let Tag::Record(record) = Record::parse(text) else { panic!("not read") };
    assert!(record.filling && record.to_string() == text);
    for other in [
        text.replace("quarry2", "quarry3"),
        text.replace("s=new", "s=ready"),
        text.replace("/i=s1:abcdefghij:n:s", ""),
        text.replace("i=s1:", "i=s2:"),
        text.replace("/z=2", "/z=0"),
        text.replace("/z=2", "/z=02"),
        text.replace("/b=1", "/b=+1"),
        text.replace("/p=x/z=2/i=s1:abcdefghij:n:s", "/i=s1:abcdefghij:n:s/p=x/z=2"),
        text.replace("ext4", "ntfs"),
        format!("{text}/"),
    ] {
        assert!(matches!(Record::parse(&other), Tag::Newer { .. }), "{other}");
    }
    // A complete volume can be used, even if its source has a newer form.
    for source in ["i=s2:abcdefghij:n:s", "i=", "i=s2:abcdefghij:n:s/e=2.0/d=online"] {
        let complete = format!("quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/{source}/q=1");
        let Tag::Record(record) = Record::parse(&complete) else { panic!("not read") };
        assert_eq!((record.source.clone(), record.to_string()), (None, complete));
    }
}

#[test]
fn foreign_newer_and_broken_tags_are_distinguished() {
    for foreign in ["", "db", "quarry", "quarry/s=new", "quarryx1/s=new", "quarry0/s=new"] {
        assert_eq!(Record::parse(foreign), Tag::Foreign, "{foreign:?}");
    }
    assert_eq!(Record::parse("quarry2/anything at all"), Tag::Newer { version: 2 });
    assert_eq!(Record::parse("quarry99999999999"), Tag::Newer { version: u32::MAX });
    assert_eq!(Record::parse("quarry3/s=frozen/ok=1/n=k=2"), Tag::Newer { version: 3 });
    for broken in [
        "quarry1",
        "quarry1/s=new",
        "quarry1/s=old/n=a/b=1/a=m/f=ext4/l=l/p=x",
        "quarry1/s=new/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x",
        "quarry1/s=new/n=a/b=1/a=m/f=ntfs/l=l/p=x",
        "quarry1/s=new/n=a/b=1/a=m/l=l/p=x",
        "quarry1/s=new/n=a/b=-1/a=m/f=ext4/l=l/p=x",
        "quarry1/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/w=shred",
        "quarry1/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/c=0",
        "quarry1/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/d=weekly",
        "quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/u=",
        "quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/u=b79cd4bed8b35e16ac2f178919c3c36",
        "quarry1/s=ready/n=a/b=1/a=b/l=l/p=x/e=64",
        "quarry1/s=ready/n=a/b=1/a=b/l=l/p=x/r=1.2.3",
        "quarry1/s=ready/n=a/b=1/a=b/l=l/p=x/r=1.2.3.4.5",
        "quarry1/s=ready/n=a/b=1/a=b/l=l/p=x/r=01.0.0.0",
        "quarry1/s=ready/n=a/b=1/a=b/l=l/p=x/r=1.0.0.0!!",
        "quarry1/s=ready/n=a/b=1/a=b/l=l/p=x/e=1073741824.064",
        "quarry1/s=ready/n=a/b=1/a=b/l=l/p=x/e=1073741824.-1",
        // Another form would be written back as another tag.
        "quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/u=B79CD4BED8B35E16AC2F178919C3C36B",
        "quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/u=b79cd4be-d8b3-5e16-ac2f-178919c3c36b",
    ] {
        assert!(matches!(Record::parse(broken), Tag::Broken { .. }), "{broken:?}");
    }
}

#[test]
fn an_expanded_volume_that_was_zeroed_completely_is_so_afterwards() {
    const GIB: u64 = 1 << 30;
    let raw = Record { access: AccessTypes::Both, zeroed: Gib(10), ..sample() };
    let expanding = raw.expanding(Some(ExpansionProgress { size: 20 * GIB, zeroed: Gib(2) }));
    let expanded = expanding.expanded(10 * GIB, 20 * GIB);
    assert_eq!((expanded.zeroed, expanded.expansion), (Gib(20), None));
    assert_eq!(expanded.expanded(20 * GIB, 21 * GIB + 1).zeroed, Gib(22));
    // It is not complete yet; or it is in use, and the key is gone.
    for zeroed in [Gib(9), Gib::NONE] {
        assert_eq!(raw.zeroed(zeroed).expanded(10 * GIB, 20 * GIB).zeroed, zeroed);
    }
}

#[test]
fn the_unused_space_of_a_thin_volume_is_discarded_by_default() {
    let discards = |thin, filesystem, discard| Record { thin, filesystem, discard, ..sample() }.discards();
    let ext4 = Some(Filesystem::Ext4);
    assert_eq!(discards(true, ext4, None), Discard::Periodic);
    assert_eq!(discards(false, ext4, None), Discard::None);
    for discard in Discard::ALL {
        for thin in [true, false] {
            assert_eq!(discards(thin, ext4, Some(discard)), discard);
            assert_eq!(discards(thin, None, Some(discard)), Discard::None, "the user of the device discards");
        }
    }
}

#[test]
fn a_volume_has_the_discard_mode_of_its_own_class() {
    let mut spec = VolumeSpec::mount("a", 1 << 30, Filesystem::Ext4).filled_from("s1:abcdefghij:n:s".parse().unwrap());
    spec.class.discard = Some(Discard::Online);
    for record in [Record::new(&spec, 1 << 30), Record::new_thin(&spec, 1 << 30)] {
        for record in [record.filled_at_once(Some(UUID)), record.ready_with(UUID), record.filled_with_nothing()] {
            assert_eq!((record.discards(), record.conflict(&spec)), (Discard::Online, None));
        }
    }
    // A class that is used for raw block volumes, too.
    let raw = VolumeSpec { class: spec.class, ..VolumeSpec::block("a", 1 << 30) };
    let record = Record::new(&raw, 1 << 30);
    assert_eq!((record.discard, record.conflict(&raw)), (None, None));
}

/// Golden: an older Quarry leaves an encrypted volume alone that is being filled.
#[test]
fn an_encrypted_volume_that_is_being_filled_has_a_record_of_version_4() {
    let text = "quarry4/s=new/n=a/b=1/a=m/f=ext4/l=l/p=x/z=7/i=v1:abcdefghij:node-1:pvc-1/x=luks2";
    let Tag::Record(record) = Record::parse(text) else { panic!("not read") };
    assert!(record.filling && record.shares_filesystem_uuid());
    assert_eq!(record.to_string(), text);
    let ready = "quarry3/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/i=v1:abcdefghij:node-1:pvc-1/x=luks2";
    assert_eq!(record.ready().to_string(), ready);
    assert!(matches!(Record::parse(ready), Tag::Record(record) if !record.filling && record.shares_filesystem_uuid()));
    for other in [text.replace("s=new", "s=ready"), text.replace("/i=v1:abcdefghij:node-1:pvc-1", "")] {
        assert_eq!(Record::parse(&other), Tag::Newer { version: 4 }, "{other}");
    }
    // If its source contained nothing, its first stage writes the header.
    for thin in [false, true] {
        let nothing = Record { thin, ..(*record).clone() }.filled_with_nothing();
        assert_eq!((nothing.state, nothing.filling, nothing.zeroed), (State::New, false, Gib::NONE));
        assert_eq!(nothing.wiped, thin);
    }
}

/// An encrypted volume must never be taken for a plain one, which would be formatted or mounted as it is.
#[test]
fn only_a_record_of_version_3_is_of_an_encrypted_volume() {
    let fields = "s=new/n=a/b=1/a=b/l=l/p=x";
    let encrypted = format!("quarry3/{fields}/x=luks2");
    assert!(matches!(Record::parse(&encrypted), Tag::Record(record) if record.encryption == Some(Encryption::Luks2)));
    assert!(matches!(Record::parse(&format!("{encrypted}/q=1")), Tag::Record(record) if record.needs_no_zeroes()));
    for (text, version) in [
        (format!("quarry3/{fields}"), 3),
        (format!("quarry3/{fields}/x=luks3"), 3),
        (format!("quarry3/x=luks2/{fields}"), 3),
        (format!("quarry2/{fields}/x=luks2"), 2),
        (format!("quarry4/{fields}/x=luks2"), 4),
    ] {
        assert_eq!(Record::parse(&text), Tag::Newer { version }, "{text}");
    }
    assert!(matches!(Record::parse(&format!("quarry1/{fields}/x=luks2")), Tag::Broken { .. }));
    assert!(matches!(Record::parse(&format!("{encrypted}/k=archive")), Tag::NotVolume(_)));
}

#[test]
fn the_size_of_an_encrypted_volume_is_without_its_header() {
    let mut spec = VolumeSpec::block("a", 1 << 30);
    spec.class.encryption = Some(Encryption::Luks2);
    let record = Record::new(&spec, (1 << 30) + (16 << 20));
    assert_eq!((record.usable_size(), record.overhead()), (1 << 30, 16 << 20));
    assert_eq!(Record::new(&VolumeSpec::block("a", 1 << 30), 1 << 30).usable_size(), 1 << 30);
    // A thin volume contains zeros, but no header yet, so it is not `ready`.
    let thin = Record::new_thin(&spec, 1 << 30);
    assert_eq!((thin.state, thin.zeroed), (State::New, Gib::NONE));
    let mounted = VolumeSpec { filesystem: Some(Filesystem::Xfs), access: AccessTypes::Mount, ..spec };
    assert_eq!(Record::new_thin(&mounted, 1 << 30).discards(), Discard::None, "a discard shows what is unused");
}

/// Golden: a newer Quarry relies on older ones not to touch objects other than volumes.
#[test]
fn other_objects_than_volumes_are_recognized_in_every_higher_version() {
    let not_volume = |version, kind: &str| Tag::NotVolume(NotVolume { version, kind: kind.to_owned() });
    for (tag, found) in [
        ("quarry2/k=archive/s=ready/n=old-1/o=v1:abc:node-1:pvc-1", not_volume(2, "archive")),
        ("quarry2/s=ready/n=old-1/k=archive", not_volume(2, "archive")),
        // A snapshot in a newer form.
        ("quarry2/k=snapshot/s=merging/n=snap-1/o=v1:abcdefghij:node-1:pvc-1/a=b", not_volume(2, "snapshot")),
        ("quarry3/k=snapshot/s=ready/n=snap-1/o=v1:abcdefghij:node-1:pvc-1/a=b", not_volume(3, "snapshot")),
        ("quarry3/k=copy", not_volume(3, "copy")),
        ("quarry2/k=", not_volume(2, "")),
        ("quarry99999999999/k=x/y", not_volume(u32::MAX, "x")),
    ] {
        assert_eq!(Record::parse(tag), found, "{tag}");
    }
    // A record of version 1 is always a volume's: an older Quarry reads it as one.
    let volume = "quarry1/s=ready/n=a/b=1/a=m/f=ext4/l=l/p=x/k=archive";
    let Tag::Record(record) = Record::parse(volume) else { panic!("not read") };
    assert_eq!(record.to_string(), volume);
    let shown = Record::parse("quarry2/k=archive").not_volume().map(|other| other.to_string());
    assert_eq!(shown.as_deref(), Some("a \"archive\" of a newer Quarry (record version 2)"));
}

proptest! {
    #[test]
    fn every_name_fits_and_round_trips(name in "\\PC{1,128}", size in any::<i64>(), filesystem in 0..Filesystem::ALL.len(), zeroed in 0_u64..1 << 20, whole in any::<bool>(), uuid in any::<Option<u128>>(), wiped in any::<bool>(), node in "[a-z.-]{1,63}", source in 0..3, filling in any::<bool>(), discard in prop::option::of(0..3_usize), expansion in any::<Option<(i64, u32)>>(), limits in any::<([Option<std::num::NonZeroU64>; 4], bool)>(), encrypted in any::<bool>()) {
        let mut name = name;
        while name.len() > 128 { name.pop(); }
        let source: Option<ContentSource> = match source {
            0 => None,
            1 => Some(format!("s1:abcdefghij:{node}:{}", "s".repeat(48)).parse().unwrap()),
            _ => Some(format!("v1:abcdefghij:{node}:{}", "v".repeat(48)).parse().unwrap()),
        };
        let record = Record {
            filling: filling && source.is_some(),
            encryption: encrypted.then_some(Encryption::Luks2),
            source,
            name,
            size: size.unsigned_abs(),
            filesystem: Some(Filesystem::ALL[filesystem]),
            access: AccessTypes::Both,
            // Only whole disks have a wipe mode, and those are linear.
            layout: if whole { Layout::Linear } else { Layout::Striped { stripes: 64, stripe_size: 4 << 20 } },
            wipe: whole.then_some(Wipe::Discard),
            zeroed: Gib(zeroed),
            filesystem_uuid: uuid.map(Uuid::from_u128),
            wiped,
            discard: discard.map(|index| Discard::ALL[index]),
            limits: IoLimits::new(limits.0.map(|limit| limit.map(std::num::NonZeroU64::get))),
            requires_limits: limits.1,
            expansion: expansion.filter(|_| whole).map(|(size, zeroed)| ExpansionProgress {
                size: size.unsigned_abs(),
                zeroed: Gib(u64::from(zeroed)),
            }),
            ..sample()
        };
        let text = record.to_string();
        prop_assert!(text.len() <= MAX_RECORD, "{} bytes", text.len());
        // The characters that LVM allows in tags, without a leading hyphen.
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&byte)));
        prop_assert_eq!(Record::parse(&text), Tag::Record(Box::new(record)));
    }

    #[test]
    fn arbitrary_tags_do_not_panic(tag in "(quarry1?/?)?\\PC{0,80}") {
        if let Tag::Record(record) = Record::parse(&tag) {
            let text = record.to_string();
            prop_assert_eq!(Record::parse(&text), Tag::Record(record));
        }
    }
}
