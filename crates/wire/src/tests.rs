//! Arbitrary values go over the wire and come back. The strategies build their values without `..`, so that a
//! new field does not compile until it is sent as well.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use prost::Message as _;
use quarry_proto::agent::v1 as agent_v1;
use quarry_proto::volume::v1;
use quarry_volume::{
    AccessTypes, Change, Condition, ContentSource, CopyProgress, CowSize, Discard, Encryption, ExtentSize, Extents,
    FencingToken, Filesystem, Greeting, IoLimits, Layout, Parameters, Placement, PoolCapabilities, PoolState, Reason,
    SizeRange, Snapshot, SnapshotCondition, SnapshotId, SnapshotMethod, SnapshotParameters, SnapshotSpec, Space,
    StorageId, ThinUse, Volume, VolumeId, VolumeSpec, Wipe,
};

use crate::agent::{read_change, read_greeting, read_id, read_token, write_change, write_greeting, write_token};
use crate::pool::{read_space, write_space};
use crate::view::{ListedPool, ListedSnapshot, ListedVolume};
use crate::volume::{read_spec, write_spec};
use crate::{MAX_TEXT, pool as wire_pool, snapshot as wire_snapshot, view, volume as wire_volume};

const NODE: &str = "n-1";

fn id() -> impl Strategy<Value = VolumeId> {
    (".{0,20}", "[a-zA-Z0-9+_.-]{1,48}").prop_map(|(storage, volume)| VolumeId {
        storage: StorageId::of(&storage),
        node: NODE.to_owned(),
        volume,
    })
}

fn snapshot_id() -> impl Strategy<Value = SnapshotId> {
    id().prop_map(|VolumeId { storage, node, volume }| SnapshotId { storage, node, snapshot: volume })
}

fn source() -> impl Strategy<Value = ContentSource> {
    prop_oneof![id().prop_map(ContentSource::Volume), snapshot_id().prop_map(ContentSource::Snapshot)]
}

fn access() -> impl Strategy<Value = AccessTypes> {
    prop_oneof![Just(AccessTypes::Mount), Just(AccessTypes::Block), Just(AccessTypes::Both)]
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::Healthy),
        Just(Condition::Degraded),
        Just(Condition::DiskMissing),
        Just(Condition::Unfinished),
        Just(Condition::RecordUnreadable),
        Just(Condition::FilesystemFailed),
        Just(Condition::StorageUnreadable),
        Just(Condition::Other),
    ]
}

fn filesystem() -> impl Strategy<Value = Filesystem> {
    prop::sample::select(Filesystem::ALL.to_vec())
}

/// Layouts that may be requested.
fn offered() -> impl Strategy<Value = Layout> {
    prop_oneof![
        Just(Layout::Linear),
        (2_u32..=64, 12_u32..=22).prop_map(|(stripes, shift)| Layout::Striped { stripes, stripe_size: 1 << shift }),
        (1_u32..=63).prop_map(|mirrors| Layout::Raid1 { mirrors }),
    ]
}

/// Layouts that a record may contain.
fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![
        offered(),
        any::<(u32, u64)>().prop_map(|(stripes, stripe_size)| Layout::Striped { stripes, stripe_size }),
    ]
}

fn limits() -> impl Strategy<Value = IoLimits> {
    prop::array::uniform4(of(1..=u64::MAX)).prop_map(IoLimits::new)
}

prop_compose! {
    fn spec()(
        name in "[^\\p{Cc}]{1,30}",
        required in any::<u64>(),
        more in of(1_u64..1 << 40),
        pool in of(".{1,20}"),
        access in access(),
        kind in filesystem(),
        layout in offered(),
        mkfs_options in ".{0,40}",
        wipe in of(prop::sample::select(&Wipe::ALL[..])),
        discard in of(prop::sample::select(&Discard::ALL[..])),
        limits in limits(),
        requires_limits in any::<bool>(),
        encryption in of(Just(Encryption::Luks2)),
        source in of(source()),
    ) -> VolumeSpec {
        let limit = more.map(|more| required.saturating_add(more));
        let filesystem = Some(kind).filter(|_| access != AccessTypes::Block);
        let release_on_node_loss = false;
        let class = Parameters {
            pool,
            layout,
            mkfs_options,
            wipe,
            discard,
            encryption,
            limits,
            requires_limits,
            release_on_node_loss,
        };
        VolumeSpec { name, size: SizeRange { required, limit }, access, filesystem, class, source }
    }
}

prop_compose! {
    fn volume()(
        id in id(),
        name in ".{0,30}",
        size in any::<u64>(),
        pool in ".{0,20}",
        access in of(access()),
        filesystem in of(filesystem()),
        layout in of(layout()),
        ready in any::<bool>(),
        problem in ".{1,60}",
        condition in condition(),
        source in of(source()),
        progress: Option<(u64, u64)>,
        limits in limits(),
        limits_problem in ".{0,60}",
        encryption in of(Just(Encryption::Luks2)),
    ) -> Volume {
        let problem = if condition == Condition::Healthy { String::new() } else { problem };
        let copying = progress.map(|(copied, total)| CopyProgress { copied, total });
        Volume {
            id, name, size, pool, access, filesystem, layout, ready, problem, condition, source, copying, limits,
            limits_problem, encryption,
        }
    }
}

fn snapshot_condition() -> impl Strategy<Value = SnapshotCondition> {
    prop_oneof![
        Just(SnapshotCondition::Healthy),
        Just(SnapshotCondition::Unfinished),
        Just(SnapshotCondition::DiskMissing),
        Just(SnapshotCondition::Invalid),
        Just(SnapshotCondition::RecordUnreadable),
        Just(SnapshotCondition::Other),
    ]
}

prop_compose! {
    fn snapshot()(
        id in snapshot_id(),
        name in ".{0,30}",
        source in id(),
        pool in ".{0,20}",
        numbers in any::<[u64; 3]>(),
        ready in any::<bool>(),
        problem in ".{1,60}",
        condition in snapshot_condition(),
        method in method(),
        progress: Option<(u64, u64)>,
    ) -> Snapshot {
        let copying = progress.map(|(copied, total)| CopyProgress { copied, total });
        let [size, created, allocated] = numbers;
        let problem = if condition == SnapshotCondition::Healthy { String::new() } else { problem };
        Snapshot { id, name, source, size, pool, method, created, ready, allocated, problem, condition, copying }
    }
}

fn method() -> impl Strategy<Value = SnapshotMethod> {
    prop_oneof![Just(SnapshotMethod::Cow), Just(SnapshotMethod::Copy)]
}

fn cow_size() -> impl Strategy<Value = CowSize> {
    prop_oneof![Just(CowSize::Whole), (1_u8..=99).prop_map(CowSize::Percent), (1..=u64::MAX).prop_map(CowSize::Bytes),]
}

prop_compose! {
    fn snapshot_spec()(
        name in "[^\\p{Cc}]{1,30}", source in id(), method in method(), cow_size in cow_size(),
    ) -> SnapshotSpec {
        SnapshotSpec { name, source, class: SnapshotParameters { method, cow_size } }
    }
}

prop_compose! {
    fn space()(
        extent in any::<u64>(),
        free in vec(any::<u64>(), 0..9),
        reserve in any::<u64>(),
        closed in of(".{1,60}"),
        placement in prop::sample::select(&[Placement::Extents, Placement::WholeDisk][..]),
    ) -> Space {
        let free = free.into_iter().map(Extents).collect();
        Space { extent: ExtentSize(extent), free, reserve: Extents(reserve), closed, placement }
    }
}

prop_compose! {
    fn capabilities()(wipe: bool, snapshots: bool, unique_storage: bool) -> PoolCapabilities {
        PoolCapabilities { wipe, snapshots, unique_storage }
    }
}

prop_compose! {
    fn pool()(
        texts in (".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}"),
        storage in of(".{0,20}"),
        numbers in any::<[u64; 4]>(),
        space in space(),
        capabilities in capabilities(),
        problems in vec(".{0,60}", 0..4),
        hints in vec(".{0,60}", 0..4),
        repair in vec(".{0,60}", 0..4),
        thin in of(any::<(u8, u8, u64)>()),
    ) -> PoolState {
        let [size, metadata_size, metadata_free, volumes] = numbers;
        let (name, kind, on, enlarge) = texts;
        let storage = storage.as_deref().map(StorageId::of);
        PoolState {
            name,
            kind,
            on,
            storage,
            size,
            space,
            capabilities,
            metadata_size,
            metadata_free,
            volumes,
            problems,
            hints,
            enlarge,
            repair,
            thin: thin.map(|(data_percent, metadata_percent, virtual_size)| ThinUse {
                data_percent,
                metadata_percent,
                virtual_size,
            }),
        }
    }
}

prop_compose! {
    fn change()(
        generation in any::<u64>(),
        pools in vec(pool(), 0..4),
        volumes in vec(volume(), 0..4),
        gone in vec(id(), 0..4),
        snapshots in vec(snapshot(), 0..4),
        gone_snapshots in vec(snapshot_id(), 0..4),
    ) -> Change {
        Change { generation, pools, volumes, gone, snapshots, gone_snapshots }
    }
}

/// What the other end receives if a newer version adds a field that this one does not know.
fn sent<M: prost::Message + Default>(message: &M, newer: bool) -> M {
    let mut bytes = message.encode_to_vec();
    if newer {
        // Field 2000, a string.
        prost::encoding::string::encode(2000, &"an unknown field".to_owned(), &mut bytes);
    }
    M::decode(bytes.as_slice()).unwrap()
}

proptest! {
    #[test]
    fn a_snapshot_and_a_request_for_it_come_back_as_they_were(
        snapshot in snapshot(), spec in snapshot_spec(), orphan: Option<bool>, reachable: bool, newer: bool,
    ) {
        prop_assert_eq!(wire_snapshot::read(sent(&wire_snapshot::write(snapshot.clone()), newer)), Some(snapshot.clone()));
        let message = sent(&wire_snapshot::write_spec(spec.clone()), newer);
        prop_assert_eq!(wire_snapshot::read_spec(Some(message)).unwrap(), spec);
        let listed = ListedSnapshot { snapshot, orphan, reachable };
        prop_assert_eq!(view::read_snapshot(sent(&view::write_snapshot(listed.clone()), newer)), Some(listed));
    }

    #[test]
    fn a_volume_and_a_pool_come_back_as_they_were(volume in volume(), pool in pool(), newer in any::<bool>()) {
        prop_assert_eq!(wire_volume::read(sent(&wire_volume::write(volume.clone()), newer)), Some(volume));
        prop_assert_eq!(wire_pool::read(sent(&wire_pool::write(pool.clone()), newer)), pool);
    }

    #[test]
    fn an_entry_of_a_list_comes_back_as_it_was(
        volume in volume(), orphan: Option<bool>, pool in pool(), node in ".{0,20}", reachable: bool, newer: bool,
    ) {
        let volume = ListedVolume { volume, orphan, reachable };
        prop_assert_eq!(view::read_volume(sent(&view::write_volume(volume.clone()), newer)), Ok(volume));
        let pool = ListedPool { node, pool, reachable };
        prop_assert_eq!(view::read_pool(sent(&view::write_pool(pool.clone()), newer)), pool);
    }

    #[test]
    fn a_request_comes_back_as_it_was(spec in spec(), newer in any::<bool>()) {
        let message = sent(&write_spec(spec.clone()), newer);
        prop_assert_eq!(read_spec(Some(message)).unwrap(), spec);
    }

    #[test]
    fn a_change_comes_back_as_it_was(change in change(), newer in any::<bool>()) {
        prop_assert_eq!(read_change(NODE, sent(&write_change(change.clone()), newer)), change);
    }

    #[test]
    fn a_greeting_and_a_fencing_token_come_back(texts in any::<[String; 5]>(), capabilities in vec(".{0,20}", 0..4), fence: u64) {
        let [node, instance, pod_uid, boot_id, version] = texts;
        let token = FencingToken { fence, instance: instance.clone() };
        prop_assert_eq!(read_token(sent(&write_token(token.clone()), true)), token);
        let greeting = Greeting { node, instance, pod_uid, boot_id, version, capabilities };
        prop_assert_eq!(read_greeting(sent(&write_greeting(greeting.clone()), true)), greeting);
    }

    #[test]
    fn nothing_that_a_peer_sends_makes_us_panic(bytes in vec(any::<u8>(), 0..200), text in ".{0,60}", number: i32) {
        if let Ok(message) = agent_v1::Change::decode(bytes.as_slice()) {
            let _ = read_change(NODE, message);
        }
        if let Ok(message) = v1::VolumeSpec::decode(bytes.as_slice()) {
            let _ = read_spec(Some(message));
        }
        if let Ok(message) = v1::SnapshotSpec::decode(bytes.as_slice()) {
            let _ = wire_snapshot::read_spec(Some(message));
        }
        let _ = wire_snapshot::read_id(&text);
        let (name, source) = ("s".to_owned(), "v1:aaaaaaaaaa:n-1:a".to_owned());
        let method = text.clone();
        let _ = wire_snapshot::read_spec(Some(v1::SnapshotSpec { name, source, cow_size: text.clone(), method }));
        let spec = write_spec(plain());
        let _ = read_spec(Some(v1::VolumeSpec { source: text.clone(), ..spec.clone() }));
        let _ = read_spec(Some(v1::VolumeSpec { layout: text.clone(), ..spec.clone() }));
        let _ = read_spec(Some(v1::VolumeSpec { name: text.clone(), access: number, ..spec }));
        let _ = read_id(&text);
    }

    #[test]
    fn a_request_with_numbers_out_of_range_is_rejected(stripes: u32, stripe_size: u64) {
        let layout = Layout::Striped { stripes, stripe_size };
        let good = (2..=64).contains(&stripes) && stripe_size.is_power_of_two() && (4096..=4 << 20).contains(&stripe_size);
        let answer = read_spec(Some(write_spec(plain().with_layout(layout))));
        prop_assert_eq!(answer.is_ok(), good);
    }
}

fn plain() -> VolumeSpec {
    VolumeSpec::mount("pvc-1", 1 << 30, Filesystem::Ext4)
}

#[test]
fn a_request_that_is_not_completely_understood_is_rejected() {
    let good = || write_spec(plain());
    for (what, spec) in [
        ("no spec", None),
        ("no name", Some(v1::VolumeSpec { name: String::new(), ..good() })),
        ("a newer access type", Some(v1::VolumeSpec { access: 9, ..good() })),
        ("no access type", Some(v1::VolumeSpec { access: 0, ..good() })),
        ("a newer way to wipe", Some(v1::VolumeSpec { wipe: "shred".into(), ..good() })),
        ("a newer way to discard", Some(v1::VolumeSpec { discard: "nightly".into(), ..good() })),
        ("a newer filesystem", Some(v1::VolumeSpec { filesystem: "bcachefs".into(), ..good() })),
        ("no filesystem", Some(v1::VolumeSpec { filesystem: String::new(), ..good() })),
        ("a filesystem on raw block", Some(v1::VolumeSpec { access: v1::AccessTypes::Block.into(), ..good() })),
        ("a newer layout", Some(v1::VolumeSpec { layout: "vdo.7".into(), ..good() })),
        ("no layout", Some(v1::VolumeSpec { layout: String::new(), ..good() })),
        ("a layout that is not offered", Some(v1::VolumeSpec { layout: "r5.2.65536".into(), ..good() })),
        ("a layout beyond the bounds", Some(v1::VolumeSpec { layout: "r1.64".into(), ..good() })),
        ("a newer source", Some(v1::VolumeSpec { source: "x1:aaaaaaaaaa:n-1:a".into(), ..good() })),
    ] {
        assert_eq!(read_spec(spec).unwrap_err().reason, Reason::InvalidRequest, "{what}");
    }
    let reversed = v1::VolumeSpec { required_bytes: 2, limit_bytes: 1, ..good() };
    assert_eq!(read_spec(Some(reversed)).unwrap_err().reason, Reason::SizeOutOfRange);
    for text in ["", "pvc-1", "v2:aaaaaaaaaa:n:v", "v1:aaaaaaaaaa:n:v\n"] {
        assert_eq!(read_id(text).unwrap_err().reason, Reason::InvalidRequest, "never NotFound: {text:?}");
    }
}

#[test]
fn a_request_for_a_snapshot_that_is_not_completely_understood_is_rejected() {
    let good =
        || v1::SnapshotSpec { name: "s".into(), source: "v1:aaaaaaaaaa:n-1:a".into(), ..v1::SnapshotSpec::default() };
    assert_eq!(wire_snapshot::read_spec(Some(good())).unwrap().class.cow_size, CowSize::Whole);
    for (what, spec) in [
        ("no spec", None),
        ("no name", Some(v1::SnapshotSpec { name: String::new(), ..good() })),
        ("no source", Some(v1::SnapshotSpec { source: String::new(), ..good() })),
        ("a snapshot as source", Some(v1::SnapshotSpec { source: "s1:aaaaaaaaaa:n-1:a".into(), ..good() })),
        ("a newer source", Some(v1::SnapshotSpec { source: "v2:aaaaaaaaaa:n-1:a".into(), ..good() })),
        ("a newer size", Some(v1::SnapshotSpec { cow_size: "auto".into(), ..good() })),
        ("a newer method", Some(v1::SnapshotSpec { method: "cloud".into(), ..good() })),
        ("no space", Some(v1::SnapshotSpec { cow_size: "0".into(), ..good() })),
    ] {
        assert_eq!(wire_snapshot::read_spec(spec).unwrap_err().reason, Reason::InvalidRequest, "{what}");
    }
    for text in ["", "snapshot-1", "s2:aaaaaaaaaa:n:v", "v1:aaaaaaaaaa:n:v", "s1:aaaaaaaaaa:n:v\n"] {
        assert_eq!(
            wire_snapshot::read_id(text).unwrap_err().reason,
            Reason::InvalidRequest,
            "never NotFound: {text:?}"
        );
    }
}

#[test]
fn a_limit_of_nothing_is_not_sent_as_no_limit() {
    let size = SizeRange { required: 0, limit: Some(0) };
    let read = read_spec(Some(write_spec(VolumeSpec { size, ..plain() }))).unwrap();
    assert_eq!(read.size.choose(4096).unwrap_err().reason, Reason::SizeOutOfRange);
}

#[test]
fn known_parts_of_a_newer_nodes_messages_are_accepted() {
    let message = |id: &str| v1::Volume {
        id: id.into(),
        access: 77,
        filesystem: "bcachefs".into(),
        layout: "vdo.7".into(),
        bytes: 5,
        source: "x1:a newer source".into(),
        ..v1::Volume::default()
    };
    let snapshot = |id: &str, source: &str| v1::Snapshot {
        id: id.into(),
        source: source.into(),
        condition: 77,
        problem: "new".into(),
        method: "cloud".into(),
        ..v1::Snapshot::default()
    };
    let change = agent_v1::Change {
        generation: 3,
        volumes: vec![message("v1:aaaaaaaaaa:n-1:a"), message("v2:zz"), message("v1:aaaaaaaaaa:other:b")],
        gone: vec!["v2:zz".into(), "v1:aaaaaaaaaa:n-1:c".into(), "v1:aaaaaaaaaa:other:d".into()],
        pools: vec![v1::Pool { name: "p".into(), storage: "not one".into(), ..v1::Pool::default() }],
        snapshots: vec![
            snapshot("s1:aaaaaaaaaa:n-1:s", "v1:aaaaaaaaaa:n-1:a"),
            snapshot("s2:zz", "v1:aaaaaaaaaa:n-1:a"),
            snapshot("s1:aaaaaaaaaa:n-1:t", "v2:zz"),
            snapshot("s1:aaaaaaaaaa:other:s", "v1:aaaaaaaaaa:n-1:a"),
            snapshot("s1:aaaaaaaaaa:n-1:u", "v1:aaaaaaaaaa:other:a"),
        ],
        gone_snapshots: vec![
            "v1:aaaaaaaaaa:n-1:c".into(),
            "s1:aaaaaaaaaa:n-1:g".into(),
            "s1:aaaaaaaaaa:other:d".into(),
        ],
    };
    let change = read_change(NODE, change);
    let [volume] = change.volumes.as_slice() else { panic!("{change:?}") };
    assert_eq!((volume.id.volume.as_str(), volume.size), ("a", 5));
    assert_eq!((volume.access, volume.filesystem, volume.layout), (None, None, None));
    assert_eq!(volume.source, None);
    assert_eq!(change.gone.iter().map(|id| id.volume.as_str()).collect::<Vec<_>>(), ["c"]);
    let [snapshot] = change.snapshots.as_slice() else { panic!("{change:?}") };
    assert_eq!((snapshot.id.snapshot.as_str(), snapshot.condition), ("s", SnapshotCondition::Other));
    assert_eq!(change.gone_snapshots.iter().map(|id| id.snapshot.as_str()).collect::<Vec<_>>(), ["g"]);
    assert_eq!((change.pools[0].storage.as_ref(), &change.pools[0].space), (None, &Space::default()));
}

#[test]
fn a_pool_that_is_closed_without_a_reason_stays_closed() {
    let closed = read_space(write_space(Space { closed: Some(String::new()), ..Space::default() })).closed;
    assert!(!closed.unwrap().is_empty());
}

#[test]
fn texts_are_truncated_at_a_character() {
    let space = write_space(Space { closed: Some("é".repeat(5000)), ..Space::default() });
    assert!(space.closed.len() <= MAX_TEXT + '…'.len_utf8() && space.closed.ends_with("é…"));
}

/// One field of a message: its number, and a text or a small number.
fn field(number: u8, text: &str) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// Golden: the numbers and types of the fields are what versions agree on.
#[test]
fn the_bytes_of_a_pool_are_frozen() {
    let space = Space {
        extent: ExtentSize(1),
        free: vec![Extents(2), Extents(3)],
        reserve: Extents(4),
        closed: Some("closed".into()),
        placement: Placement::WholeDisk,
    };
    let pool = PoolState {
        name: "fast".into(),
        kind: "lvm".into(),
        on: "vg0".into(),
        storage: Some("aaaaaaaaaa".parse().unwrap()),
        size: 5,
        space,
        capabilities: PoolCapabilities { wipe: true, snapshots: true, unique_storage: true },
        metadata_size: 6,
        metadata_free: 7,
        volumes: 8,
        problems: vec!["p".into(), "q".into()],
        hints: vec!["h".into()],
        enlarge: "add".into(),
        repair: vec!["r".into(), "s".into()],
        thin: Some(ThinUse { data_percent: 1, metadata_percent: 2, virtual_size: 3 }),
    };
    let space = [number(1, 1), vec![2 << 3 | 2, 2, 2, 3], number(3, 4), field(4, "closed"), number(5, 1)].concat();
    let bytes = [
        field(1, "fast"),
        field(2, "lvm"),
        field(3, "vg0"),
        field(4, "aaaaaaaaaa"),
        number(5, 5),
        [vec![6 << 3 | 2, u8::try_from(space.len()).unwrap()], space].concat(),
        number(7, 6),
        number(8, 7),
        number(9, 8),
        field(10, "p"),
        field(10, "q"),
        field(11, "h"),
        // 30 << 3 takes two bytes.
        [vec![12 << 3 | 2, 7], number(1, 1), number(2, 1), vec![0xf0, 1, 1]].concat(),
        field(13, "add"),
        [vec![14 << 3 | 2, 6], number(1, 1), number(2, 2), number(3, 3)].concat(),
        field(15, "r"),
        field(15, "s"),
    ]
    .concat();
    assert_eq!(wire_pool::write(pool).encode_to_vec(), bytes);
}

/// An older node does not report what its pools can do.
#[test]
fn the_capabilities_of_an_older_nodes_pool_follow_from_its_space() {
    let capabilities = |pool| wire_pool::read(sent(&pool, false)).capabilities;
    let older = |whole| v1::Pool { space: Some(v1::Space { whole, ..v1::Space::default() }), ..v1::Pool::default() };
    let none = PoolCapabilities::default();
    assert_eq!(capabilities(older(true)), PoolCapabilities { wipe: true, ..none });
    assert_eq!(capabilities(older(false)), PoolCapabilities { unique_storage: true, ..none });
    // A node that reports none has none, whatever its space is.
    for placement in [Placement::Extents, Placement::WholeDisk] {
        let space = Space { placement, ..Space::default() };
        let newer = wire_pool::write(PoolState { space, ..PoolState::default() });
        assert_eq!(capabilities(newer), PoolCapabilities::default());
    }
}

/// An older controller reads `whole` only.
#[test]
fn an_older_controller_sees_which_pools_have_whole_disks() {
    for (placement, whole) in [(Placement::Extents, false), (Placement::WholeDisk, true)] {
        assert_eq!(write_space(Space { placement, ..Space::default() }).whole, whole);
    }
}
