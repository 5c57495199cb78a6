//! How the controller handles nodes that are connected, full, unreachable, gone, or replaced.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use quarry_controller::{ControllerService, Fate};
use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_server::Controller as _;
use quarry_volume::{Discard, MODIFY_DISCARD, MutableParameters};
use tonic::{Code, Request, Status};

use crate::support::{self, World, capacity, create, delete, node_of, until};

#[tokio::test]
async fn a_call_that_is_not_supported_says_so() {
    let (_, service) = World::new(&[("a", 100)]).controller().await;
    let request = Request::new(csi::ControllerPublishVolumeRequest::default());
    let status = service.controller_publish_volume(request).await.unwrap_err();
    let message = "ControllerPublishVolume is not supported: a local volume does not need to be attached";
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, message));
}

/// Whether these mount flags, and the parameters of this class, are confirmed for the volume; else why not.
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
async fn validate(
    service: &ControllerService,
    id: &str,
    flags: &[&str],
    parameters: &[(&str, &str)],
    context: &[(&str, &str)],
) -> Result<(), String> {
    let mut capability = support::request("v", 10, &[], &[]).volume_capabilities.remove(0);
    if let Some(csi::volume_capability::AccessType::Mount(mount)) = &mut capability.access_type {
        mount.mount_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }
    let map =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let request = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.into(),
        volume_capabilities: vec![capability],
        parameters: map(parameters),
        volume_context: map(context),
        ..Default::default()
    };
    let answer = service.validate_volume_capabilities(Request::new(request)).await.unwrap().into_inner();
    if answer.confirmed.is_some() { Ok(()) } else { Err(answer.message) }
}

#[tokio::test]
async fn capabilities_are_confirmed_only_if_the_parameters_are_supported_too() {
    let (_, service) = World::new(&[("a", 100)]).controller().await;
    let id = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    validate(&service, &id, &["noatime"], &[], &[]).await.unwrap();
    validate(&service, &id, &["nodiscard"], &[("pool", "fast"), ("discard", "none")], &[]).await.unwrap();
    validate(&service, &id, &[], &[("mkfsOptions", "-m 0")], &[("mkfsOptions", "-m 0")]).await.unwrap();
    for (flags, parameters, context, why) in [
        (&["loop"][..], &[][..], &[][..], "loop"),
        // The class contradicts the option.
        (&["nodiscard"], &[("discard", "online")], &[], "nodiscard"),
        (&[], &[("mkfsOptions", "-F")], &[], "-F"),
        (&[], &[], &[("mkfsOptions", "-F")], "-F"),
        (&[], &[("unknown", "x")], &[], "unknown"),
        (&[], &[("pool", "slow")], &[], "the volume is in pool fast, not in slow"),
    ] {
        let message = validate(&service, &id, flags, parameters, context).await.unwrap_err();
        assert!(message.contains(why), "{flags:?}, {parameters:?}, {context:?}: {message}");
    }
}

/// Requests to expand the volume to that many MiB; 0: without a size.
async fn expand(service: &ControllerService, id: &str, size: u64) -> Result<(u64, bool), Status> {
    let range = csi::CapacityRange { required_bytes: (size * support::MIB).cast_signed(), limit_bytes: 0 };
    let request = csi::ControllerExpandVolumeRequest {
        volume_id: id.into(),
        capacity_range: (size > 0).then_some(range),
        ..Default::default()
    };
    let answer = service.controller_expand_volume(Request::new(request)).await?.into_inner();
    Ok((answer.capacity_bytes.unsigned_abs() / support::MIB, answer.node_expansion_required))
}

#[tokio::test]
async fn volumes_are_expanded_on_their_node() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (cluster, service) = world.controller().await;
    let id = create(&service, "v", 10, &["b"], &["b"]).await.unwrap().volume_id;
    assert_eq!(expand(&service, &id, 30).await.unwrap(), (30, true));
    assert_eq!(world.nodes["b"].volumes.lock().unwrap()["v"].size, 30 * support::MIB);
    // The reply also updates what the controller knows.
    assert_eq!(cluster.volumes(None, 1).unwrap().0[0].size, 30 * support::MIB);
    // It is large enough already.
    assert_eq!(expand(&service, &id, 20).await.unwrap(), (30, true));

    for (id, size, code) in [
        ("", 30, Code::InvalidArgument),
        (id.as_str(), 0, Code::InvalidArgument),
        ("vol-0123456789", 30, Code::NotFound),
        (id.replace("b:v", "b:w").as_str(), 30, Code::NotFound),
    ] {
        assert_eq!(expand(&service, id, size).await.unwrap_err().code(), code, "{id:?}");
    }
    world.nodes["b"].cut();
    assert_eq!(expand(&service, &id, 40).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_node_that_is_too_old_is_not_asked_to_expand() {
    let world = World::new(&[("a", 100)]);
    world.nodes["a"].capabilities.lock().unwrap().clear();
    let (_, service) = world.controller().await;
    let id = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    let error = expand(&service, &id, 30).await.unwrap_err();
    // external-resizer would not retry after UNIMPLEMENTED.
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("Quarry on node a is too old to expand volumes: upgrade it"), "{error}");
    assert_eq!(world.nodes["a"].volumes.lock().unwrap()["v"].size, 10 * support::MIB);
}

#[tokio::test]
async fn a_node_that_is_too_old_gets_no_volume_whose_unused_space_must_be_discarded() {
    let world = World::new(&[("a", 200), ("b", 100)]);
    world.nodes["a"].capabilities.lock().unwrap().clear();
    let (_, service) = world.controller().await;
    let create = async |name: &str, nodes: &[&str], block: bool| {
        let mut request = support::request(name, 10, nodes, nodes);
        request.parameters.insert("discard".into(), "online".into());
        if block {
            let raw = csi::volume_capability::AccessType::Block(csi::volume_capability::BlockVolume {});
            request.volume_capabilities[0].access_type = Some(raw);
        }
        service.create_volume(Request::new(request)).await.map(|answer| answer.into_inner().volume.unwrap())
    };
    let error = create("v", &["a"], false).await.unwrap_err();
    // The scheduler selects another node.
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("\"discard: online\": Quarry on node a is too old"), "{error}");
    assert_eq!(node_of(&create("v", &[], false).await.unwrap()), "b");
    // It has no meaning for a raw block volume.
    assert_eq!(node_of(&create("raw", &["a"], true).await.unwrap()), "a");
}

/// The connection is the one of before a downgrade, for example: the claim must not get a volume that is not encrypted.
#[tokio::test]
async fn a_volume_that_is_not_encrypted_as_requested_is_not_passed_on() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    for node in world.nodes.values() {
        node.capabilities.lock().unwrap().push(quarry_volume::ENCRYPTION.into());
    }
    world.nodes["b"].ignores_encryption.store(true, SeqCst);
    let (_, service) = world.controller().await;
    let create = async |name: &str, nodes: &[&str]| {
        let mut request = support::request(name, 10, nodes, nodes);
        request.parameters.insert("encryption".into(), "luks2".into());
        service.create_volume(Request::new(request)).await.map(|answer| answer.into_inner().volume.unwrap())
    };
    create("v", &["a"]).await.unwrap();
    for nodes in [&["b"][..], &["b", "a"]] {
        let error = create("w", nodes).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert!(error.message().contains("which is not encrypted, instead of luks2: upgrade Quarry on"), "{error}");
    }
    assert_eq!(world.holders("w"), ["b"]);
}

/// A class with `discard`, on two nodes of which one was downgraded after it had created the volume. The scheduler must
/// not select another node: the volume would be created twice.
#[tokio::test]
async fn a_volume_on_a_node_that_was_downgraded_is_not_created_elsewhere() {
    let world = World::new(&[("a", 200), ("b", 100)]);
    world.nodes["a"].capabilities.lock().unwrap().clear();
    world.nodes["a"].put("v", 10 * support::MIB);
    let (_, service) = world.controller().await;
    let create = async |name: &str, nodes: &[&str]| {
        let mut request = support::request(name, 10, nodes, nodes);
        request.parameters.insert("discard".into(), "online".into());
        service.create_volume(Request::new(request)).await.map(|answer| answer.into_inner().volume.unwrap())
    };
    for nodes in [&["a"][..], &["b", "a"], &[]] {
        let error = create("v", nodes).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{nodes:?}: {error}");
        for part in ["\"v\" exists on node a", "\"discard: online\": Quarry on node a is too old", "upgrade it"] {
            assert!(error.message().contains(part), "{nodes:?}: {error}");
        }
        assert_eq!(world.holders("v"), ["a"]);
    }
    // Any other volume goes elsewhere, also if this controller is not the elected one.
    world.elected.store(false, SeqCst);
    assert_eq!(create("w", &["a"]).await.unwrap_err().code(), Code::ResourceExhausted);
    // While the node cannot be asked, the volume may be there.
    world.nodes["a"].unreadable.store(true, SeqCst);
    let error = create("w", &["a"]).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
}

/// If the node of an existing volume rejects it, the claim is not sent to another node.
#[tokio::test]
async fn a_node_that_has_the_volume_never_counts_as_full() {
    let world = World::new(&[("a", 200), ("b", 100)]);
    let (_, service) = world.controller().await;
    world.nodes["a"].put("v", 10 * support::MIB);
    world.nodes["a"].rejects.store(true, SeqCst);
    let error = create(&service, "v", 10, &[], &[]).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("\"v\" exists on node a"), "{error}");
    assert_eq!(world.holders("v"), ["a"]);
}

#[tokio::test]
async fn volumes_are_created_on_the_requested_nodes() {
    let world = World::new(&[("a", 100), ("b", 300), ("c", 200)]);
    let (_, service) = world.controller().await;
    assert_eq!(node_of(&create(&service, "strict", 10, &["a"], &["a"]).await.unwrap()), "a");
    assert_eq!(node_of(&create(&service, "preferred", 10, &["a", "b", "c"], &["c", "a"]).await.unwrap()), "c");
    // The preferred node is full: the next one in the same request is selected.
    assert_eq!(node_of(&create(&service, "second", 150, &["a", "b", "c"], &["a", "c"]).await.unwrap()), "c");
    assert_eq!(node_of(&create(&service, "anywhere", 10, &[], &[]).await.unwrap()), "b");
    // Retried with the preferences reversed: the volume stays where it is.
    assert_eq!(node_of(&create(&service, "preferred", 10, &["a", "b", "c"], &["b"]).await.unwrap()), "c");
    assert_eq!(world.holders("preferred"), ["c"]);
}

#[tokio::test]
async fn no_space_names_the_request_and_the_free_space() {
    let world = World::new(&[("a", 100), ("b", 300)]);
    let (_, service) = world.controller().await;
    let error = create(&service, "big", 301, &[], &[]).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    for part in ["315621376", "a: 104857600 bytes", "b: 314572800 bytes"] {
        assert!(error.message().contains(part), "{error}");
    }
    // If only one node is permitted, the error is the node's own, prefixed with its name.
    let error = create(&service, "big", 101, &["a"], &["a"]).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().starts_with("node a: "), "{error}");
}

#[tokio::test]
async fn capacity_is_current_in_the_next_call_here_and_soon_on_other_replicas() {
    let world = World::new(&[("a", 100), ("b", 50)]);
    world.fates.lock().unwrap().insert("unknown".into(), Fate::Unknown);
    let (_, here) = world.controller().await;
    let (_, there) = world.controller().await;
    assert_eq!(capacity(&here, Some("a")).await.unwrap(), (100, 100));
    assert_eq!(capacity(&here, None).await.unwrap(), (150, 100));
    assert_eq!(capacity(&here, Some("unknown")).await.unwrap(), (0, 0));
    let volume = create(&here, "v", 30, &["a"], &["a"]).await.unwrap();
    assert_eq!(capacity(&here, Some("a")).await.unwrap(), (70, 70));
    until("the other replica's figures", || {
        futures::executor::block_on(capacity(&there, Some("a"))).is_ok_and(|figures| figures == (70, 70))
    })
    .await;
    delete(&here, &volume.volume_id).await.unwrap();
    assert_eq!(capacity(&here, Some("a")).await.unwrap(), (100, 100));
}

// external-provisioner publishes the answer, and leaves its figures unchanged after an error.
#[tokio::test(start_paused = true)]
async fn a_node_whose_pod_is_being_replaced_keeps_its_published_figures() {
    let world = World::new(&[("a", 100)]);
    let (_, service) = world.controller().await;
    let code = async |node| capacity(&service, Some(node)).await.map_err(|status| status.code());
    // Nodes and controllers are upgraded at once: no controller has seen the old pod, and the new one does
    // not run yet.
    assert_eq!(code("b").await, Err(Code::Unavailable));
    world.fates.lock().unwrap().insert("b".into(), Fate::NotReady(Duration::from_secs(20)));
    assert_eq!(code("b").await, Err(Code::Unavailable));
    world.fates.lock().unwrap().insert("b".into(), Fate::Gone);
    assert_eq!(code("b").await, Ok((0, 0)), "no such machine");
    world.fates.lock().unwrap().insert("b".into(), Fate::Ready);

    // A pod that stops while the controller runs, and comes back.
    let pods = world.roster.borrow().clone();
    world.roster.send_replace(Some(Arc::default()));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(code("a").await, Ok((100, 100)));
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(code("a").await, Err(Code::Unavailable));
    world.roster.send_replace(pods);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(code("a").await, Ok((100, 100)));

    // A node that stays away gets no pods.
    world.roster.send_replace(Some(Arc::default()));
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!((code("a").await, code("b").await), (Ok((0, 0)), Ok((0, 0))));
}

#[tokio::test]
async fn concurrent_requests_create_as_many_volumes_as_fit() {
    let world = World::new(&[("a", 10), ("b", 7)]);
    let (_, service) = world.controller().await;
    let names: Vec<String> = (0..30).map(|number| format!("v{number}")).collect();
    let calls = names.iter().map(|name| create(&service, name, 3, &["a", "b"], &["a"]));
    let made = futures::future::join_all(calls).await.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(made, 5);
}

#[tokio::test]
async fn only_the_elected_controller_selects_nodes() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (_, service) = world.controller().await;
    world.elected.store(false, SeqCst);
    assert_eq!(create(&service, "v", 10, &["a", "b"], &[]).await.unwrap_err().code(), Code::Unavailable);
    // A single permitted node needs no selection.
    create(&service, "w", 10, &["a"], &["a"]).await.unwrap();
    world.elected.store(true, SeqCst);
    world.term.store(7, SeqCst);
    create(&service, "v", 10, &["a", "b"], &[]).await.unwrap();
    assert_eq!(world.nodes["b"].fence.load(SeqCst), 7);
}

#[tokio::test]
async fn swapped_addresses_are_detected() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let swapped = [("a".to_owned(), support::endpoint("b")), ("b".to_owned(), support::endpoint("a"))];
    world.roster.send_replace(Some(Arc::new(swapped.into())));
    let (parts, stop) = (world.parts(), world.stop.clone());
    let cluster = quarry_controller::Cluster::follow(world.roster.subscribe(), parts, stop);
    let service = quarry_controller::ControllerService::new(cluster, support::KEY);
    let mut last = String::new();
    for _ in 0..1000 {
        last = create(&service, "v", 10, &["a"], &["a"]).await.unwrap_err().to_string();
        if last.contains("address of node b") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(last.contains("address of node b"), "{last}");
    assert!(world.holders("v").is_empty());
}

#[tokio::test(start_paused = true)]
async fn orphans_are_volumes_that_stay_unreferenced() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (cluster, service) = world.controller().await;
    let wanted = create(&service, "wanted", 10, &["a"], &["a"]).await.unwrap();
    let orphan = create(&service, "orphan", 10, &["b"], &["b"]).await.unwrap();
    assert!(cluster.orphans(None, 10).is_none());
    *world.handles.lock().unwrap() = Some([wanted.volume_id].into());
    assert_eq!(cluster.orphans(None, 10).unwrap().0.len(), 0);
    tokio::time::sleep(Duration::from_secs(301)).await;
    let (orphans, more) = cluster.orphans(None, 10).unwrap();
    assert_eq!((orphans.len(), more), (1, false));
    assert_eq!(orphans[0].id.to_string(), orphan.volume_id);
    // Nothing was deleted.
    assert_eq!(world.holders("orphan"), ["b"]);
}

#[tokio::test]
async fn a_single_node_installation_needs_no_selection() {
    let world = World::new(&[("a", 100)]);
    let stop = world.stop.clone();
    let parts = quarry_controller::Parts { only: Some("a".into()), ..world.parts() };
    let cluster = quarry_controller::Cluster::follow(world.roster.subscribe(), parts, stop);
    assert!(cluster.all_reported(Duration::from_secs(20)).await);
    let service = quarry_controller::ControllerService::new(cluster, support::KEY);
    // No elected controller is needed, and no node is queried for the name.
    world.elected.store(false, SeqCst);
    create(&service, "v", 10, &[], &[]).await.unwrap();
    create(&service, "w", 10, &["b", "a"], &[]).await.unwrap();
    assert_eq!(world.nodes["a"].fence.load(SeqCst), 0);
    assert_eq!(create(&service, "x", 10, &["b", "c"], &[]).await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn the_limits_of_a_volume_change_on_its_node() {
    let world = World::new(&[("a", 200)]);
    let (_, service) = world.controller().await;
    let mut request = support::request("v", 10, &["a"], &["a"]);
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    request.parameters = map(&[("readIops", "5"), ("writeIops", "6")]);
    request.mutable_parameters = map(&[("readIops", "7")]);
    let volume = service.create_volume(Request::new(request)).await.unwrap().into_inner().volume.unwrap();
    let limits = || world.nodes["a"].volumes.lock().unwrap()["v"].limits.values();
    assert_eq!(limits(), [None, None, Some(7), Some(6)]);
    let modify = async |id: &str, pairs: &[(&str, &str)]| {
        let mutable_parameters = map(pairs);
        let request =
            csi::ControllerModifyVolumeRequest { volume_id: id.into(), mutable_parameters, ..Default::default() };
        service.controller_modify_volume(Request::new(request)).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(modify(&volume.volume_id, &[("readIops", "none"), ("readBytesPerSecond", "1Mi")]).await, Ok(()));
    assert_eq!(limits(), [Some(1 << 20), None, None, Some(6)]);
    // Nothing is applied.
    for bad in [("readIops", "0"), ("mkfsOptions", "-m 0"), ("discard", "weekly")] {
        assert_eq!(modify(&volume.volume_id, &[("writeIops", "9"), bad]).await, Err(Code::InvalidArgument), "{bad:?}");
    }
    assert_eq!(limits(), [Some(1 << 20), None, None, Some(6)]);
    assert_eq!(modify(&volume.volume_id.replace(":v", ":w"), &[]).await, Err(Code::NotFound));
    assert_eq!(modify("", &[]).await, Err(Code::InvalidArgument));
    // external-resizer retries until the node is upgraded.
    let old = World::new(&[("a", 200)]);
    old.nodes["a"].capabilities.lock().unwrap().clear();
    let (_, service) = old.controller().await;
    let id = old.nodes["a"].put("v", 10);
    let request = csi::ControllerModifyVolumeRequest { volume_id: id.to_string(), ..Default::default() };
    assert_eq!(service.controller_modify_volume(Request::new(request)).await.unwrap_err().code(), Code::Unavailable);
    let mut request = support::request("w", 10, &["a"], &["a"]);
    request.parameters = map(&[("readIops", "5")]);
    let error = service.create_volume(Request::new(request)).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("I/O limits: Quarry on node a is too old"), "{error}");
}

#[tokio::test]
async fn discard_of_a_volume_changes_on_a_node_that_is_new_enough() {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let changes: &[(&str, &str)] = &[("readIops", "7"), ("discard", "none")];
    for is_new in [true, false] {
        let world = World::new(&[("a", 200)]);
        let node = &world.nodes["a"];
        if !is_new {
            node.capabilities.lock().unwrap().retain(|capability| capability != MODIFY_DISCARD);
        }
        let (_, service) = world.controller().await;
        let volume_id = node.put("v", 10).to_string();
        let modify = async |pairs: &[(&str, &str)]| {
            let (volume_id, mutable_parameters) = (volume_id.clone(), map(pairs));
            let request = csi::ControllerModifyVolumeRequest { volume_id, mutable_parameters, ..Default::default() };
            service.controller_modify_volume(Request::new(request)).await
        };
        let changed = modify(changes).await;
        if is_new {
            changed.unwrap();
        } else {
            // The node would reject the key, which would be final. external-resizer retries until it is upgraded.
            let error = changed.unwrap_err();
            assert_eq!(error.code(), Code::Unavailable);
            assert!(error.message().contains("too old to change \"discard\" of a volume"), "{error}");
            modify(&[("readIops", "7")]).await.unwrap();
        }
        let discard = is_new.then_some(Discard::None);
        let modified = node.modified.lock().unwrap().clone();
        let limits = MutableParameters::parse(&map(&[("readIops", "7")])).unwrap().limits;
        assert_eq!(modified, [MutableParameters { limits, discard }]);
    }
}

/// A raw block volume ignores `discard` of its StorageClass, which claims of both kinds share, but not that of its own
/// VolumeAttributesClass.
#[tokio::test]
async fn a_new_volume_has_the_discard_of_its_attributes_class_unless_it_is_raw() {
    let world = World::new(&[("a", 200)]);
    let (_, service) = world.controller().await;
    let map = |value: &str| [("discard".to_owned(), value.to_owned())].into();
    let block = csi::volume_capability::AccessType::Block(csi::volume_capability::BlockVolume {});
    for (raw, mutable, code) in
        [(false, "none", None), (true, "none", Some(Code::InvalidArgument)), (true, "", None), (false, "online", None)]
    {
        let mut request = support::request("v", 10, &["a"], &["a"]);
        request.name = format!("v-{raw}-{mutable}");
        request.parameters = map("periodic");
        if raw {
            request.volume_capabilities[0].access_type = Some(block.clone());
        }
        if !mutable.is_empty() {
            request.mutable_parameters = map(mutable);
        }
        let created = service.create_volume(Request::new(request)).await;
        assert_eq!(created.as_ref().err().map(Status::code), code, "{raw} {mutable}: {created:?}");
        if code.is_none() && !raw {
            let asked = world.nodes["a"].specs.lock().unwrap().pop().unwrap();
            assert_eq!(asked.discard(), Some(mutable.parse().unwrap()));
        }
    }
    // The mount options of its StorageClass contradict it.
    let mut request = support::request("w", 10, &["a"], &["a"]);
    request.mutable_parameters = map("online");
    let mount = csi::volume_capability::MountVolume { mount_flags: vec!["nodiscard".into()], ..Default::default() };
    request.volume_capabilities[0].access_type = Some(csi::volume_capability::AccessType::Mount(mount));
    let error = service.create_volume(Request::new(request)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("contradicts"), "{error}");
}
