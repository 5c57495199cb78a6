//! Snapshots, and volumes that are filled from them or from other volumes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use quarry_controller::{ControllerService, Fate};
use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_server::Controller as _;
use quarry_proto::csi::v1::volume_content_source::{SnapshotSource, Type, VolumeSource};
use quarry_volume::{SizeRange, VolumeId};
use tonic::{Code, Request, Status};

use crate::support::{self, World, create, fill, until};

#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
async fn take(service: &ControllerService, name: &str, source: &str) -> Result<csi::Snapshot, Status> {
    let request =
        csi::CreateSnapshotRequest { name: name.into(), source_volume_id: source.into(), ..Default::default() };
    service.create_snapshot(Request::new(request)).await.map(|answer| answer.into_inner().snapshot.unwrap())
}

async fn remove(service: &ControllerService, id: &str) -> Result<(), Status> {
    let request = csi::DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    service.delete_snapshot(Request::new(request)).await.map(drop)
}

#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
async fn read(service: &ControllerService, id: &str) -> Result<csi::Snapshot, Status> {
    let request = csi::GetSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    service.get_snapshot(Request::new(request)).await.map(|answer| answer.into_inner().snapshot.unwrap())
}

#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
async fn page(
    service: &ControllerService,
    request: csi::ListSnapshotsRequest,
) -> Result<(Vec<String>, String), Status> {
    let answer = service.list_snapshots(Request::new(request)).await?.into_inner();
    let ids = answer.entries.into_iter().map(|entry| {
        let snapshot = entry.snapshot.unwrap();
        assert!(snapshot.creation_time.is_some() && !snapshot.source_volume_id.is_empty());
        snapshot.snapshot_id
    });
    Ok((ids.collect(), answer.next_token))
}

/// The snapshots with this identifier, and of this volume.
async fn list(service: &ControllerService, id: &str, source: &str) -> Result<Vec<String>, Status> {
    let request =
        csi::ListSnapshotsRequest { snapshot_id: id.into(), source_volume_id: source.into(), ..Default::default() };
    page(service, request).await.map(|(ids, _)| ids)
}

fn from_snapshot(id: &str) -> Option<Type> {
    Some(Type::Snapshot(SnapshotSource { snapshot_id: id.into() }))
}

fn from_volume(id: &str) -> Option<Type> {
    Some(Type::Volume(VolumeSource { volume_id: id.into() }))
}

#[tokio::test]
async fn what_is_supported_is_advertised() {
    use csi::controller_service_capability::{Type as Kind, rpc};

    let (_, service) = World::new(&[("a", 100)]).controller().await;
    let request = Request::new(csi::ControllerGetCapabilitiesRequest {});
    let answer = service.controller_get_capabilities(request).await.unwrap().into_inner();
    for wanted in
        [rpc::Type::CreateDeleteSnapshot, rpc::Type::ListSnapshots, rpc::Type::GetSnapshot, rpc::Type::CloneVolume]
    {
        let has = |capability: &csi::ControllerServiceCapability| matches!(&capability.r#type, Some(Kind::Rpc(rpc)) if rpc.r#type() == wanted);
        assert!(answer.capabilities.iter().any(has), "{wanted:?}");
    }
}

#[tokio::test]
async fn snapshots_are_taken_read_and_deleted_on_the_node_of_their_source() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["b"], &["b"]).await.unwrap().volume_id;
    let taken = take(&service, "s", &volume).await.unwrap();
    assert!(taken.snapshot_id.starts_with("s1:") && taken.snapshot_id.ends_with(":b:s"), "{taken:?}");
    assert_eq!((taken.source_volume_id.as_str(), taken.size_bytes), (volume.as_str(), 10 << 20));
    assert_eq!((taken.creation_time.map(|time| time.seconds), taken.ready_to_use), (Some(1_800_000_000), true));
    assert_eq!(take(&service, "s", &volume).await.unwrap(), taken, "taken once");
    assert_eq!(read(&service, &taken.snapshot_id).await.unwrap(), taken);
    assert_eq!(list(&service, &taken.snapshot_id, "").await.unwrap(), vec![taken.snapshot_id.clone()]);
    assert!(world.nodes["a"].snapshots.lock().unwrap().is_empty());

    remove(&service, &taken.snapshot_id).await.unwrap();
    assert!(world.nodes["b"].snapshots.lock().unwrap().is_empty());
    // The reply also updates what the controller knows.
    assert_eq!(list(&service, "", "").await.unwrap(), Vec::<String>::new());
    remove(&service, &taken.snapshot_id).await.unwrap();
    assert_eq!(read(&service, &taken.snapshot_id).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn fields_are_checked_and_foreign_identifiers_are_unknown() {
    let world = World::new(&[("a", 100)]);
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    let long = "x".repeat(129);
    for (name, source, code) in [
        ("", volume.as_str(), Code::InvalidArgument),
        (long.as_str(), volume.as_str(), Code::InvalidArgument),
        ("s", "", Code::InvalidArgument),
        ("s", "vol-0123456789", Code::NotFound),
        ("s", "s1:aaaaaaaaaa:a:s", Code::NotFound),
        ("s", volume.replace("a:v", "a:w").as_str(), Code::NotFound),
    ] {
        assert_eq!(take(&service, name, source).await.unwrap_err().code(), code, "{name:?} {source:?}");
    }
    let odd = csi::CreateSnapshotRequest {
        name: "s".into(),
        source_volume_id: volume.clone(),
        parameters: BTreeMap::from([("method".to_owned(), "magic".to_owned())]),
        ..Default::default()
    };
    assert_eq!(service.create_snapshot(Request::new(odd)).await.unwrap_err().code(), Code::InvalidArgument);

    for (id, deleted, found) in [
        ("", Some(Code::InvalidArgument), Code::InvalidArgument),
        ("reallyfakesnapshotid", None, Code::NotFound),
        (volume.as_str(), None, Code::NotFound),
    ] {
        assert_eq!(remove(&service, id).await.err().map(|error| error.code()), deleted, "{id:?}");
        assert_eq!(read(&service, id).await.unwrap_err().code(), found, "{id:?}");
    }
    // A filter that names nothing of Quarry's matches nothing.
    take(&service, "s", &volume).await.unwrap();
    for (id, source) in [("none-exist-id", ""), ("", "fake-vol"), ("none-exist-id", volume.as_str())] {
        assert_eq!(list(&service, id, source).await.unwrap(), Vec::<String>::new(), "{id:?} {source:?}");
    }
    // A node without a plugin pod may have snapshots, unless it is gone for good.
    for (id, source) in [("s1:aaaaaaaaaa:nowhere:s", ""), ("", "v1:aaaaaaaaaa:nowhere:v")] {
        for fate in [Fate::Ready, Fate::NotReady(Duration::MAX), Fate::Unknown] {
            world.fates.lock().unwrap().insert("nowhere".into(), fate);
            let error = list(&service, id, source).await.unwrap_err();
            assert!(error.code() == Code::Unavailable && error.message().contains("node nowhere"), "{error}");
        }
        world.fates.lock().unwrap().insert("nowhere".into(), Fate::Gone);
        assert_eq!(list(&service, id, source).await.unwrap(), Vec::<String>::new(), "{id:?} {source:?}");
    }
    assert_eq!(list(&service, &long, "").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_name_is_used_once_in_the_cluster() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (_, service) = world.controller().await;
    let v = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    let w = create(&service, "w", 10, &["a"], &["a"]).await.unwrap().volume_id;
    let x = create(&service, "x", 10, &["b"], &["b"]).await.unwrap().volume_id;
    take(&service, "s", &v).await.unwrap();
    for other in [&w, &x] {
        assert_eq!(take(&service, "s", other).await.unwrap_err().code(), Code::AlreadyExists, "{other}");
    }
    assert!(world.nodes["b"].snapshots.lock().unwrap().is_empty());
}

#[tokio::test]
async fn snapshots_are_listed_in_pages_and_by_filters() {
    let world = World::new(&[("a", 1000), ("b", 1000)]);
    let (_, service) = world.controller().await;
    let mut every = Vec::new();
    for node in ["a", "b"] {
        let volume = create(&service, &format!("v-{node}"), 10, &[node], &[node]).await.unwrap().volume_id;
        let mut taken = Vec::new();
        for number in 0..3 {
            taken.push(take(&service, &format!("s-{node}-{number}"), &volume).await.unwrap().snapshot_id);
        }
        assert_eq!(list(&service, "", &volume).await.unwrap(), taken);
        assert_eq!(list(&service, &taken[1], &volume).await.unwrap(), vec![taken[1].clone()]);
        assert_eq!(list(&service, &taken[1], "v1:aaaaaaaaaa:a:other").await.unwrap(), Vec::<String>::new());
        every.extend(taken);
    }
    assert_eq!(list(&service, "", "").await.unwrap(), every);
    for most in 1..=6 {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let request = csi::ListSnapshotsRequest { max_entries: most, starting_token: token, ..Default::default() };
            let (ids, next) = page(&service, request).await.unwrap();
            assert!(ids.len() <= usize::try_from(most).unwrap());
            found.extend(ids);
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, every, "{most}");
    }
    let bad = csi::ListSnapshotsRequest { starting_token: "x".into(), ..Default::default() };
    assert_eq!(page(&service, bad).await.unwrap_err().code(), Code::Aborted);
    let negative = csi::ListSnapshotsRequest { max_entries: -1, ..Default::default() };
    assert_eq!(page(&service, negative).await.unwrap_err().code(), Code::InvalidArgument);

    // A snapshot that is not complete yet is not listed.
    let source = world.nodes["a"].put("u", 1);
    let (mut half, _) = world.nodes["a"].put_snapshot("half", &source, 1);
    until("it is listed", || {
        futures::executor::block_on(list(&service, "", "")).is_ok_and(|ids| ids.contains(&half.id.to_string()))
    })
    .await;
    half.created = 0;
    world.nodes["a"].report_snapshot(&half);
    until("it is not listed", || futures::executor::block_on(list(&service, "", "")).is_ok_and(|ids| ids == every))
        .await;
}

#[tokio::test]
async fn a_node_that_is_too_old_is_not_asked() {
    let world = World::new(&[("a", 100)]);
    world.nodes["a"].capabilities.lock().unwrap().clear();
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    let snapshot = volume.replace("v1:", "s1:");
    for answer in [
        take(&service, "s", &volume).await.map(drop),
        remove(&service, &snapshot).await,
        read(&service, &snapshot).await.map(drop),
        list(&service, &snapshot, "").await.map(drop),
        list(&service, "", &volume).await.map(drop),
        fill(&service, "r", 10, &[], &[], from_snapshot(&snapshot)).await.map(drop),
        fill(&service, "c", 10, &["a"], &["a"], from_volume(&volume)).await.map(drop),
    ] {
        let error = answer.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.message().contains("Quarry on node a is too old to"), "{error}");
        assert!(error.message().ends_with(": upgrade it"), "{error}");
    }
    assert_eq!(list(&service, "", "").await.unwrap(), Vec::<String>::new());
    assert_eq!(world.nodes["a"].created.load(SeqCst), 1);
    assert!(world.nodes["a"].snapshots.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_node_that_knows_no_full_copies_takes_other_snapshots() {
    let world = World::new(&[("a", 100)]);
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    let take_with = async |method: &str| {
        let request = csi::CreateSnapshotRequest {
            name: method.into(),
            source_volume_id: volume.clone(),
            parameters: BTreeMap::from([("method".to_owned(), method.to_owned())]),
            ..Default::default()
        };
        service.create_snapshot(Request::new(request)).await
    };
    let error = take_with("copy").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("too old to take snapshots with method copy: upgrade it"), "{error}");
    assert!(world.nodes["a"].snapshots.lock().unwrap().is_empty());
    take_with("cow").await.unwrap();
}

#[tokio::test]
async fn a_volume_is_filled_on_the_node_of_its_source_only() {
    let world = World::new(&[("a", 100), ("b", 100), ("c", 100)]);
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["b"], &["b"]).await.unwrap().volume_id;
    let snapshot = take(&service, "s", &volume).await.unwrap().snapshot_id;
    // No elected controller is needed: there is no choice.
    world.elected.store(false, SeqCst);
    for (name, source) in [("restored", from_snapshot(&snapshot)), ("cloned", from_volume(&volume))] {
        for requisite in [&["a"][..], &["a", "c"]] {
            let refused = fill(&service, name, 10, requisite, requisite, source.clone()).await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted, "{requisite:?}");
            for part in ["node b", "nodeSelector", "volumeBindingMode Immediate"] {
                assert!(refused.message().contains(part), "{refused}");
            }
        }
        let filled = fill(&service, name, 10, &["a", "b", "c"], &["a"], source.clone()).await.unwrap();
        assert_eq!(filled.content_source.clone().and_then(|source| source.r#type), source);
        assert_eq!(world.holders(name), ["b"]);
        // A retry, with and without a choice, finds it.
        for requisite in [&["b"][..], &[]] {
            assert_eq!(fill(&service, name, 10, requisite, &[], source.clone()).await.unwrap(), filled);
        }
    }
}

#[tokio::test]
async fn without_a_minimum_a_volume_is_as_large_as_its_source() {
    let world = World::new(&[("a", 100)]);
    let (cluster, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    let snapshot = take(&service, "s", &volume).await.unwrap().snapshot_id;
    for (name, source) in [("r", from_snapshot(&snapshot)), ("c", from_volume(&volume))] {
        let filled = fill(&service, name, 0, &["a"], &["a"], source).await.unwrap();
        assert_eq!(filled.capacity_bytes, 10 << 20, "{name}");
    }
    // A retry, after the source has grown.
    let id = volume.parse().unwrap();
    let size = SizeRange { required: 20 << 20, limit: None };
    cluster.expand(&id, size, Duration::from_secs(10)).await.unwrap();
    let again = fill(&service, "c", 0, &["a"], &["a"], from_volume(&volume)).await.unwrap();
    assert_eq!(again.capacity_bytes, 10 << 20);
    // A retry, after the source was deleted.
    remove(&service, &snapshot).await.unwrap();
    let again = fill(&service, "r", 0, &["a"], &["a"], from_snapshot(&snapshot)).await.unwrap();
    assert_eq!(again.capacity_bytes, 10 << 20);
    for source in [from_snapshot(&snapshot.replace("a:s", "a:t")), from_volume(&volume.replace("a:v", "a:w"))] {
        let missing = fill(&service, "x", 0, &["a"], &["a"], source).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_source_that_names_nothing_is_rejected() {
    let world = World::new(&[("a", 100)]);
    let (_, service) = world.controller().await;
    for (source, code) in [
        (from_snapshot(""), Code::InvalidArgument),
        (from_volume(""), Code::InvalidArgument),
        (from_snapshot("non-existing-snapshot-id"), Code::NotFound),
        (from_volume("fake-vol-id"), Code::NotFound),
        (from_volume("s1:aaaaaaaaaa:a:s"), Code::NotFound),
    ] {
        let refused = fill(&service, "r", 10, &["a"], &["a"], source.clone()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{source:?}: {refused}");
    }
    assert_eq!(world.nodes["a"].created.load(SeqCst), 0);
}

/// A node whose greeting says that it can, and that does not.
#[tokio::test]
async fn an_empty_volume_is_never_answered_as_a_filled_one() {
    let world = World::new(&[("a", 100)]);
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    world.nodes["a"].ignores_sources.store(true, SeqCst);
    let refused = fill(&service, "c", 10, &["a"], &["a"], from_volume(&volume)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("not filled from"), "{refused}");
}

#[tokio::test]
async fn a_node_that_is_away_may_return_and_one_that_is_gone_has_nothing_left() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    let snapshot = take(&service, "s", &volume).await.unwrap().snapshot_id;
    world.nodes["a"].cut();
    world.roster.send_replace(Some(Arc::new([("b".to_owned(), support::endpoint("b"))].into())));
    until("the loss is noticed", || {
        let answer = futures::executor::block_on(read(&service, &snapshot));
        answer.is_err_and(|error| error.message().contains("has been unreachable"))
    })
    .await;
    for answer in [
        take(&service, "t", &volume).await.map(drop),
        remove(&service, &snapshot).await,
        fill(&service, "r", 10, &["a"], &["a"], from_snapshot(&snapshot)).await.map(drop),
        fill(&service, "c", 10, &[], &[], from_volume(&volume)).await.map(drop),
    ] {
        assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    }
    // It is still listed.
    assert_eq!(list(&service, &snapshot, "").await.unwrap(), vec![snapshot.clone()]);
    world.fates.lock().unwrap().insert("a".into(), Fate::Gone);
    // external-snapshotter lets a VolumeSnapshot be deleted only after a final error.
    let refused = take(&service, "t", &volume).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    remove(&service, &snapshot).await.unwrap();
    let refused = fill(&service, "r", 10, &["a"], &["a"], from_snapshot(&snapshot)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
}

#[tokio::test]
async fn no_snapshot_is_taken_of_a_volume_on_storage_that_is_gone() {
    let world = World::new(&[("a", 100)]);
    let (_, service) = world.controller().await;
    let volume = create(&service, "v", 10, &["a"], &["a"]).await.unwrap().volume_id;
    world.nodes["a"].has_other_storage.store(true, SeqCst);
    assert_eq!(take(&service, "s", &volume).await.unwrap_err().code(), Code::Unavailable);
    world.storage_gone.lock().unwrap().push(volume.parse::<VolumeId>().unwrap().storage);
    assert_eq!(take(&service, "s", &volume).await.unwrap_err().code(), Code::NotFound);
}
