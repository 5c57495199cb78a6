//! Bad requests to the Controller service.

use std::collections::BTreeMap;

use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::volume_capability::access_mode::Mode;
use quarry_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use tonic::Code;

use super::{Base, Call, Case, shown, texts};
use crate::csi::{Ask, MIB};

const INVALID: &[Code] = &[Code::InvalidArgument];
const TOO_FEW_OR_MANY: &[Code] = &[Code::OutOfRange];
const NO_SPACE: &[Code] = &[Code::ResourceExhausted];
const NOT_HERE: &[Code] = &[Code::Unavailable];
const ABSENT: &[Code] = &[Code::NotFound];
const FINE: &[Code] = &[Code::Ok];

pub fn cases(base: &Base) -> Vec<Case> {
    let mut cases = Vec::new();
    names(&mut cases);
    sizes(&mut cases);
    parameters(&mut cases);
    mkfs_options(&mut cases);
    mount_options(&mut cases);
    capabilities(base, &mut cases);
    topology(&mut cases);
    taken(&mut cases);
    expansions(base, &mut cases);
    identifiers(base, &mut cases);
    pages(&mut cases);
    unoffered(base, &mut cases);
    cases.extend(super::snapshots::cases(base));
    cases
}

/// A request that would be served.
fn create() -> csi::CreateVolumeRequest {
    Ask::mount("pvc-bad", "ext4").request()
}

fn names(cases: &mut Vec<Case>) {
    for name in ["", &"a".repeat(129), &"a".repeat(10_000), "a\nb", "a\0b", "\u{1b}[2J", "\n", &"ü".repeat(65)] {
        let request = csi::CreateVolumeRequest { name: name.to_owned(), ..create() };
        cases.push(Case::new(format!("create: name {}", shown(name)), INVALID, Call::Create(request)));
    }
}

fn sizes(cases: &mut Vec<Case>) {
    for (required, limit, codes) in [
        (-1, 0, INVALID),
        (0, -1, INVALID),
        (i64::MIN, i64::MIN, INVALID),
        (64 * MIB, 32 * MIB, TOO_FEW_OR_MANY),
        (33 * MIB, 33 * MIB + 1, TOO_FEW_OR_MANY),
        (1, 1, TOO_FEW_OR_MANY),
        (i64::MAX, 0, TOO_FEW_OR_MANY),
        (i64::MAX, i64::MAX, TOO_FEW_OR_MANY),
        (i64::MAX / 2, 0, NO_SPACE),
        (1 << 50, 0, NO_SPACE),
    ] {
        let range = csi::CapacityRange { required_bytes: required, limit_bytes: limit };
        let request = csi::CreateVolumeRequest { capacity_range: Some(range), ..create() };
        cases.push(Case::new(format!("create: size {required} to {limit}"), codes, Call::Create(request)));
    }
    for (filesystem, size) in [("ext4", 1), ("xfs", 16 * MIB), ("btrfs", 16 * MIB)] {
        let request = Ask::mount("pvc-bad", filesystem).size(size).request();
        cases.push(Case::new(format!("create: {filesystem} of {size} bytes"), TOO_FEW_OR_MANY, Call::Create(request)));
    }
}

fn parameters(cases: &mut Vec<Case>) {
    let mut both = |what: String, codes: &'static [Code], pairs: &[(&str, &str)]| {
        let parameters: BTreeMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let request = csi::CreateVolumeRequest { parameters: parameters.clone(), ..create() };
        cases.push(Case::new(format!("create: {what}"), codes, Call::Create(request)));
        if codes == INVALID {
            let request = csi::GetCapacityRequest { parameters, ..csi::GetCapacityRequest::default() };
            cases.push(Case::new(format!("capacity: {what}"), codes, Call::Capacity(request)));
        }
    };
    for key in
        texts().iter().map(String::as_str).chain(["Pool", "pools", "layout ", "csi.storage.k8s.io", "mkfsoptions"])
    {
        both(format!("parameter {}", shown(key)), INVALID, &[(key, "x")]);
    }
    for text in texts() {
        // A pool that this node does not have, another node may have.
        let codes = if text.is_empty() || text.len() > 4096 { INVALID } else { NO_SPACE };
        both(format!("pool {}", shown(&text)), codes, &[("pool", &text)]);
        both(format!("layout {}", shown(&text)), INVALID, &[("layout", &text)]);
        for (key, layout) in [("stripes", "striped"), ("stripeSize", "striped"), ("mirrors", "raid1")] {
            both(format!("{key} {}", shown(&text)), INVALID, &[("layout", layout), (key, &text)]);
        }
    }
    for value in ["", "Online", "weekly", "true", "discard"] {
        both(format!("discard {value}"), INVALID, &[("discard", value)]);
    }
    for layout in ["raid5", "raid6", "raid10", "raid0", "mirror", "thin", "Linear", "linear "] {
        both(format!("layout {layout}"), INVALID, &[("layout", layout)]);
    }
    for (key, value) in [
        ("stripes", "0"),
        ("stripes", "1"),
        ("stripes", "-1"),
        ("stripes", "65"),
        ("stripes", "2.5"),
        ("stripes", "99999999999999999999"),
        ("stripeSize", "0"),
        ("stripeSize", "3Ki"),
        ("stripeSize", "96Ki"),
        ("stripeSize", "1Gi"),
        ("stripeSize", "-4096"),
        ("mirrors", "1"),
    ] {
        both(format!("striped with {key} {value}"), INVALID, &[("layout", "striped"), (key, value)]);
    }
    for (key, value) in
        [("mirrors", "0"), ("mirrors", "-1"), ("mirrors", "1000"), ("stripes", "2"), ("stripeSize", "64Ki")]
    {
        both(format!("raid1 with {key} {value}"), INVALID, &[("layout", "raid1"), (key, value)]);
    }
    for (key, value) in [("stripes", "2"), ("stripeSize", "64Ki"), ("mirrors", "1")] {
        both(format!("linear with {key}"), INVALID, &[(key, value)]);
    }
    // What no volume group of one disk can hold.
    both("striped over more disks than there are".to_owned(), NO_SPACE, &[("layout", "striped"), ("stripes", "64")]);
    both("raid1 over more disks than there are".to_owned(), NO_SPACE, &[("layout", "raid1")]);
}

fn mkfs_options(cases: &mut Vec<Case>) {
    let common = [
        "/dev/sda",
        "4096",
        "-",
        "--",
        "-F",
        "-f",
        "-Z y",
        "-U 11111111-2222-3333-4444-555555555555",
        "-b",
        "-b -1",
        "-b /dev/sda",
        "-b '4096'",
        "-b 4096;",
        "-b $(id)",
        "-b\u{a0}4096",
        "a\0b",
        "--force",
        "@file",
        "-L a/b",
        "-L",
        "..",
    ];
    let ext4 = [
        "-J device=/dev/sda",
        "-O journal_dev",
        "-O ^has_journal",
        "-O mmp",
        "-E offset=4096",
        "-E test_fs",
        "-d /etc",
        "-l /etc/passwd",
        "-z /tmp/undo",
        "-c",
        "-n",
        "-S",
        "-b 1024 -b 2048",
    ];
    let xfs = [
        "-d name=/dev/sda",
        "-d file",
        "-d size=1g",
        "-l logdev=/dev/sda",
        "-r rtdev=/dev/sda",
        "-p /etc/passwd",
        "-c options=/etc/x",
        "-m uuid=11111111-2222-3333-4444-555555555555",
        "-m crc=0",
        "-Kf",
        "-N",
    ];
    let btrfs = [
        "-r /etc",
        "--rootdir=/etc",
        "-b 1g",
        "-d raid0",
        "-m raid1",
        "--csum md5",
        "--uuid=x",
        "-O raid56",
        "-O zoned",
    ];
    let long = "-m 0 ".repeat(2_100);
    for (filesystem, own) in [("ext4", &ext4[..]), ("xfs", &xfs), ("btrfs", &btrfs)] {
        for options in common.iter().chain(own).copied().chain([long.as_str()]) {
            let request = Ask::mount("pvc-bad", filesystem).parameter("mkfsOptions", options).request();
            let what = format!("create: {filesystem} with mkfsOptions {}", shown(options));
            cases.push(Case::new(what, INVALID, Call::Create(request)));
        }
    }
    let request = Ask::block("pvc-bad").parameter("mkfsOptions", "-m 0").request();
    cases.push(Case::new("create: a raw block volume with mkfsOptions", INVALID, Call::Create(request)));
}

/// Mount options that are rejected, per filesystem.
pub fn bad_mount_options() -> Vec<(&'static str, &'static str)> {
    let common = [
        "bind",
        "rbind",
        "remount",
        "move",
        "loop=/dev/loop0",
        "_netdev",
        "uid=0",
        "x-systemd.automount",
        "norecovery",
        "shared",
        "fscontext=\"a:b:c:s0\"",
        "ro,rw",
        "noatime=1",
        " noatime",
        "noatime\n",
        "noatime\0",
        "-o",
        "-Z y",
        "'ro'",
        "\"ro\"",
        "..",
        "/",
    ];
    let ext4 = [
        "journal_path=/dev/sda",
        "journal_dev=8:1",
        "usrjquota=/etc/x",
        "errors=panic",
        "noload",
        "sb=1",
        "abort",
        "nobarrier",
        "barrier=0",
        "dax",
        "journal_async_commit",
    ];
    let xfs = ["logdev=/dev/sda", "rtdev=/dev/sda", "nouuid", "nobarrier", "dax=always"];
    let btrfs = ["device=/dev/sda", "subvol=/x", "degraded", "rescue=all", "nobarrier", "clear_cache"];
    [("ext4", &ext4[..]), ("xfs", &xfs), ("btrfs", &btrfs)]
        .into_iter()
        .flat_map(|(filesystem, own)| common.iter().chain(own).map(move |option| (filesystem, *option)))
        .collect()
}

fn mount_options(cases: &mut Vec<Case>) {
    for (filesystem, option) in bad_mount_options() {
        let mut ask = Ask::mount("pvc-bad", filesystem);
        ask.mount_flags = vec!["noatime".to_owned(), option.to_owned()];
        let what = format!("create: {filesystem} with mount option {}", shown(option));
        cases.push(Case::new(what, INVALID, Call::Create(ask.request())));
    }
    let mut ask = Ask::mount("pvc-bad", "ext4");
    ask.mount_flags = vec!["noatime,".repeat(1_300)];
    cases.push(Case::new("create: 10 kB of mount options", INVALID, Call::Create(ask.request())));
}

/// Capabilities that nothing satisfies.
pub fn bad_capabilities() -> Vec<(String, csi::VolumeCapability)> {
    let good = Ask::mount("x", "ext4").capability();
    let mount =
        |mount: MountVolume| csi::VolumeCapability { access_type: Some(AccessType::Mount(mount)), ..good.clone() };
    let mut list = vec![
        ("an empty capability".to_owned(), csi::VolumeCapability::default()),
        ("no access mode".to_owned(), csi::VolumeCapability { access_mode: None, ..good.clone() }),
        ("no access type".to_owned(), csi::VolumeCapability { access_type: None, ..good.clone() }),
        (
            "a mount group".to_owned(),
            mount(MountVolume { volume_mount_group: "1000".to_owned(), ..MountVolume::default() }),
        ),
    ];
    let shared = [Mode::MultiNodeReaderOnly, Mode::MultiNodeSingleWriter, Mode::MultiNodeMultiWriter, Mode::Unknown];
    for mode in shared.map(|mode| mode as i32).into_iter().chain([99, -1, i32::MAX, i32::MIN]) {
        let capability = csi::VolumeCapability { access_mode: Some(AccessMode { mode }), ..good.clone() };
        list.push((format!("access mode {mode}"), capability));
    }
    for text in
        texts().into_iter().filter(|text| !text.is_empty()).chain(["ext3", "EXT4", "ntfs", "tmpfs"].map(String::from))
    {
        let capability = mount(MountVolume { fs_type: text.clone(), ..MountVolume::default() });
        list.push((format!("filesystem {}", shown(&text)), capability));
    }
    list
}

fn capabilities(base: &Base, cases: &mut Vec<Case>) {
    let mut create_with = |what: &str, capabilities: Vec<csi::VolumeCapability>| {
        let request = csi::CreateVolumeRequest { volume_capabilities: capabilities, ..create() };
        cases.push(Case::new(format!("create: {what}"), INVALID, Call::Create(request)));
    };
    create_with("no capability", Vec::new());
    create_with("two filesystems", ["ext4", "xfs"].map(|kind| Ask::mount("x", kind).capability()).to_vec());
    for (what, capability) in bad_capabilities() {
        create_with(&what, vec![capability.clone()]);
        create_with(&format!("a good capability and {what}"), vec![Ask::mount("x", "ext4").capability(), capability]);
    }
    let mut validate = |what: String, codes, volume_id: &str, capabilities: Vec<csi::VolumeCapability>| {
        let request = csi::ValidateVolumeCapabilitiesRequest {
            volume_id: volume_id.to_owned(),
            volume_capabilities: capabilities,
            ..Default::default()
        };
        cases.push(Case::new(format!("validate: {what}"), codes, Call::Validate(request)));
    };
    validate("no capability".to_owned(), INVALID, &base.mount.id, Vec::new());
    validate("block of a mount volume".to_owned(), INVALID, &base.mount.id, vec![base.block.ask.capability()]);
    validate("mount of a block volume".to_owned(), INVALID, &base.block.id, vec![base.mount.ask.capability()]);
    validate("the other filesystem".to_owned(), INVALID, &base.mount.id, vec![Ask::mount("x", "xfs").capability()]);
    for (what, capability) in bad_capabilities() {
        validate(what, INVALID, &base.mount.id, vec![capability]);
    }
}

fn topology(cases: &mut Vec<Case>) {
    let key = "topology.local.csi.quarry.dev/node";
    let long = "a".repeat(10_000);
    for node in ["another", "", "bad-input\n", "..", "BAD-INPUT", long.as_str()] {
        let topology = csi::Topology { segments: BTreeMap::from([(key.to_owned(), node.to_owned())]) };
        for (list, requirement) in [
            ("requisite", csi::TopologyRequirement { requisite: vec![topology.clone()], preferred: Vec::new() }),
            ("preferred", csi::TopologyRequirement { requisite: Vec::new(), preferred: vec![topology.clone()] }),
        ] {
            let request = csi::CreateVolumeRequest { accessibility_requirements: Some(requirement), ..create() };
            let what = format!("create: {list} topology {}", shown(node));
            cases.push(Case::new(what, NO_SPACE, Call::Create(request)));
        }
    }
}

/// Names in use, and features that are not offered.
fn taken(cases: &mut Vec<Case>) {
    const TAKEN: &[Code] = &[Code::AlreadyExists];
    for (what, ask) in [
        ("a larger size", Ask::mount("pvc-good", "ext4").size(64 * MIB)),
        ("another filesystem", Ask::mount("pvc-good", "btrfs").size(32 * MIB)),
        ("as block", Ask::block("pvc-good")),
        ("as mount", Ask::mount("pvc-raw", "ext4")),
        ("other mkfsOptions", Ask::mount("pvc-good", "ext4").parameter("mkfsOptions", "-m 3")),
        ("another layout", Ask::mount("pvc-good", "ext4").parameter("layout", "raid1")),
        ("a foreign logical volume", Ask::mount("foreign", "ext4")),
    ] {
        cases.push(Case::new(format!("create: a name that exists, {what}"), TAKEN, Call::Create(ask.request())));
    }
    let source = csi::VolumeContentSource::default();
    let request = csi::CreateVolumeRequest { volume_content_source: Some(source), ..create() };
    cases.push(Case::new("create: from an empty source", INVALID, Call::Create(request)));
    for (key, value) in [("iops", "9"), ("discard", "weekly"), ("mkfsOptions", "-m 0")] {
        let mutable = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let request = csi::CreateVolumeRequest { mutable_parameters: mutable, ..create() };
        cases.push(Case::new(format!("create: mutable parameter {key}={value}"), INVALID, Call::Create(request)));
    }
}

/// Identifiers in Quarry's format that match no volume: (identifier, whether it belongs to another node).
pub fn wrong_identifiers(base: &Base) -> Vec<(String, bool)> {
    let id = &base.mount.id;
    let (front, _) = id.rsplit_once(':').expect("identifiers have parts");
    let mut parts: Vec<&str> = id.split(':').collect();
    let mut with = |index: usize, text: &'static str| {
        let old = std::mem::replace(&mut parts[index], text);
        let joined = parts.join(":");
        parts[index] = old;
        joined
    };
    vec![
        (with(1, "aaaaaaaaaa"), true),
        (with(2, "another"), true),
        (format!("{front}:missing"), false),
        (format!("{front}:foreign"), false),
        (format!("{front}:.."), false),
        (format!("{front}:-Z"), false),
        (format!("{front}:--help"), false),
    ]
}

/// Sizes that a volume cannot be expanded to.
fn expansions(base: &Base, cases: &mut Vec<Case>) {
    for (required, limit, codes) in [
        (-1, 0, INVALID),
        (0, -1, INVALID),
        (64 * MIB, 32 * MIB, TOO_FEW_OR_MANY),
        // It has 32 MiB, and cannot be made smaller.
        (1, 16 * MIB, TOO_FEW_OR_MANY),
        (33 * MIB, 33 * MIB + 1, TOO_FEW_OR_MANY),
        (1 << 50, 0, TOO_FEW_OR_MANY),
        (i64::MAX, 0, TOO_FEW_OR_MANY),
        (i64::MAX, i64::MAX, TOO_FEW_OR_MANY),
        (32 * MIB, 0, FINE),
        (1, 0, FINE),
        (0, 32 * MIB, FINE),
        (0, 0, FINE),
    ] {
        for made in [&base.mount, &base.block, &base.fresh] {
            let request = csi::ControllerExpandVolumeRequest {
                capacity_range: Some(csi::CapacityRange { required_bytes: required, limit_bytes: limit }),
                ..expand(&made.id)
            };
            let what = format!("controller expand {}: {required} to {limit} bytes", made.ask.name);
            cases.push(Case::new(what, codes, Call::ControllerExpand(request)));
        }
    }
    let request = csi::ControllerExpandVolumeRequest { capacity_range: None, ..expand(&base.mount.id) };
    cases.push(Case::new("controller expand: no size", INVALID, Call::ControllerExpand(request)));
    let capability = Some(csi::VolumeCapability::default());
    let request = csi::ControllerExpandVolumeRequest { volume_capability: capability, ..expand(&base.mount.id) };
    cases.push(Case::new("controller expand: an empty capability", INVALID, Call::ControllerExpand(request)));
}

/// A request that would be served.
fn expand(id: &str) -> csi::ControllerExpandVolumeRequest {
    csi::ControllerExpandVolumeRequest {
        volume_id: id.to_owned(),
        capacity_range: Some(csi::CapacityRange { required_bytes: 32 * MIB, limit_bytes: 0 }),
        ..Default::default()
    }
}

fn identifiers(base: &Base, cases: &mut Vec<Case>) {
    let mut push = |method: &str, codes: &'static [Code], id: &str, call: Call| {
        cases.push(Case::new(format!("{method}: identifier {}", shown(id)), codes, call));
    };
    let delete = |id: &str| Call::Delete(csi::DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() });
    let get = |id: &str| Call::Get(csi::ControllerGetVolumeRequest { volume_id: id.to_owned() });
    let validate = |id: &str| {
        Call::Validate(csi::ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: vec![base.mount.ask.capability()],
            ..Default::default()
        })
    };
    for text in texts() {
        let invalid = text.is_empty() || text.len() > 128 || text.chars().any(char::is_control);
        // Quarry never created a volume with an invalid identifier.
        push("delete", if invalid { INVALID } else { FINE }, &text, delete(&text));
        push("get", if invalid { INVALID } else { ABSENT }, &text, get(&text));
        push("validate", if invalid { INVALID } else { ABSENT }, &text, validate(&text));
        push("expand", if invalid { INVALID } else { ABSENT }, &text, Call::ControllerExpand(expand(&text)));
    }
    for (id, elsewhere) in wrong_identifiers(base) {
        push("delete", if elsewhere { NOT_HERE } else { FINE }, &id, delete(&id));
        push("get", if elsewhere { NOT_HERE } else { ABSENT }, &id, get(&id));
        push("validate", if elsewhere { NOT_HERE } else { ABSENT }, &id, validate(&id));
        push("expand", if elsewhere { NOT_HERE } else { ABSENT }, &id, Call::ControllerExpand(expand(&id)));
    }
    // It is published, and staged.
    const IN_USE: &[Code] = &[Code::FailedPrecondition];
    push("delete in use", IN_USE, &base.mount.id, delete(&base.mount.id));
}

fn pages(cases: &mut Vec<Case>) {
    const ABORTED: &[Code] = &[Code::Aborted];
    for token in texts().into_iter().filter(|text| !text.is_empty()).chain(["after:".to_owned(), "7".to_owned()]) {
        let what = format!("list: token {}", shown(&token));
        let request = csi::ListVolumesRequest { max_entries: 1, starting_token: token };
        cases.push(Case::new(what, ABORTED, Call::List(request)));
    }
    for max_entries in [-1, i32::MIN] {
        let request = csi::ListVolumesRequest { max_entries, ..Default::default() };
        cases.push(Case::new(format!("list: {max_entries} entries"), INVALID, Call::List(request)));
    }
    let capability = csi::VolumeCapability::default();
    let request = csi::GetCapacityRequest { volume_capabilities: vec![capability], ..Default::default() };
    cases.push(Case::new("capacity: an empty capability", INVALID, Call::Capacity(request)));
}

fn unoffered(base: &Base, cases: &mut Vec<Case>) {
    const UNOFFERED: &[Code] = &[Code::Unimplemented];
    let request = csi::ControllerPublishVolumeRequest { volume_id: base.mount.id.clone(), ..Default::default() };
    cases.push(Case::new("controller publish", UNOFFERED, Call::ControllerPublish(request)));
}
