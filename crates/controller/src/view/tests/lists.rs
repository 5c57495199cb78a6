//! Lists and their pages.

use prost::Message;
use quarry_volume::{Condition, SnapshotCondition};
use tonic::Code;

use super::*;

fn ids(listed: &[ListedVolume]) -> Vec<String> {
    listed.iter().map(|listed| listed.volume.id.to_string()).collect()
}

/// Follows the pages; returns all volumes and the number of pages.
async fn all(view: &ViewService, request: v2::ListVolumesRequest) -> (Vec<ListedVolume>, usize) {
    let (mut found, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let (page, next) =
            volumes(view, v2::ListVolumesRequest { page_token: token, ..request.clone() }).await.unwrap();
        pages += 1;
        found.extend(page);
        token = next;
        if token.is_empty() {
            return (found, pages);
        }
    }
}

#[tokio::test]
async fn ten_thousand_volumes_come_in_pages_each_once_and_in_order() {
    let nodes = ["n1", "n2", "n3", "n4"];
    let names = ["n1", "n2", "n3", "n4"].map(|node| {
        let volumes = (0..2500).map(|number| volume(node, "fast", &format!("pvc-{number}"))).collect();
        (node, here(node, vec![pool(node, "fast", 50 * GIB)], volumes))
    });
    let view = view(names.into(), World::default()).await;

    let (found, pages) = all(&view, v2::ListVolumesRequest::default()).await;
    assert_eq!((found.len(), pages), (10_000, 20));
    let ids: Vec<VolumeId> = found.iter().map(|listed| listed.volume.id.clone()).collect();
    assert!(ids.windows(2).all(|pair| (&pair[0].node, &pair[0]) < (&pair[1].node, &pair[1])));
    for node in nodes {
        assert_eq!(ids.iter().filter(|id| id.node == node).count(), 2500);
    }
    // Pages that end with a node's last volume, pages that end anywhere, and a page larger than the limit.
    for (size, expected) in [(1250, 8), (999, 11), (5000, 5)] {
        let (again, pages) = all(&view, v2::ListVolumesRequest { page_size: size, ..Default::default() }).await;
        assert_eq!((again.len(), pages), (10_000, expected), "{size}");
        assert_eq!(again, found);
    }
    let one = v2::ListVolumesRequest { node: "n3".into(), page_size: 700, ..Default::default() };
    let (of_one, pages) = all(&view, one).await;
    assert_eq!((of_one.len(), pages), (2500, 4));
    assert!(of_one.iter().all(|listed| listed.volume.id.node == "n3"));
}

#[tokio::test]
async fn a_volume_is_listed_with_everything_that_is_known() {
    let striped = Volume {
        layout: Some(Layout::Striped { stripes: 3, stripe_size: 65536 }),
        access: Some(AccessTypes::Both),
        ready: false,
        problem: "a disk is gone".into(),
        condition: Condition::DiskMissing,
        ..volume("n", "fast", "pvc-a")
    };
    let newer = Volume { layout: None, access: None, filesystem: None, ..volume("n", "fast", "pvc-b") };
    let view = view(
        vec![(
            "n",
            here("n", vec![pool("n", "fast", GIB), pool("n", "slow", GIB)], vec![striped.clone(), newer.clone()]),
        )],
        World::default(),
    )
    .await;
    let request = v2::ListVolumesRequest { pool: "fast".into(), ..Default::default() };
    let (found, _) = volumes(&view, request).await.unwrap();
    let listed = |volume: &Volume| ListedVolume { volume: volume.clone(), orphan: None, reachable: true };
    assert_eq!(found, [listed(&striped), listed(&newer)]);
    let problems = v2::ListVolumesRequest { problems_only: true, ..Default::default() };
    let (found, _) = volumes(&view, problems).await.unwrap();
    assert_eq!(ids(&found), [striped.id.to_string()]);
    let slow = v2::ListVolumesRequest { pool: "slow".into(), ..Default::default() };
    assert_eq!(volumes(&view, slow).await.unwrap().0, []);
}

#[tokio::test(start_paused = true)]
async fn orphans_are_unreferenced_volumes_that_are_not_new() {
    let (wanted, orphan) = (volume("n1", "fast", "pvc-wanted"), volume("n2", "fast", "pvc-orphan"));
    let of = |node: &str, volume: &Volume| here(node, vec![pool(node, "fast", 50 * GIB)], vec![volume.clone()]);
    let handles = HashSet::from([wanted.id.to_string()]);
    let world = World { handles: Some(Arc::new(handles)), ..World::default() };
    let view = view(vec![("n1", of("n1", &wanted)), ("n2", of("n2", &orphan))], world).await;

    let orphans = || v2::ListVolumesRequest { orphans_only: true, ..Default::default() };
    assert_eq!(volumes(&view, orphans()).await.unwrap().0, []);
    assert_eq!(doctor(&view).await.totals.unwrap().orphans, 0);
    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(volumes(&view, orphans()).await.unwrap().0, []);
    tokio::time::advance(Duration::from_secs(2)).await;
    let (found, _) = volumes(&view, orphans()).await.unwrap();
    assert_eq!(ids(&found), [orphan.id.to_string()]);
    assert_eq!(found[0].orphan, Some(true));
    // In a list of all volumes, each one says whether it is an orphan, consistent with the cluster's own
    // answer.
    let (every, _) = all(&view, v2::ListVolumesRequest::default()).await;
    let known: Vec<_> = every.iter().map(|listed| listed.orphan).collect();
    assert_eq!(known, [Some(false), Some(true)]);
    let cluster: Vec<_> =
        view.cluster.orphans(None, 10).unwrap().0.iter().map(|volume| volume.id.to_string()).collect();
    assert_eq!(cluster, ids(&found));
    assert_eq!(doctor(&view).await.totals.unwrap().orphans, 1);
}

#[tokio::test]
async fn listing_orphans_without_persistent_volumes_is_rejected() {
    let known = here("n", vec![pool("n", "fast", GIB)], vec![volume("n", "fast", "pvc-a")]);
    let view = view(vec![("n", known)], World::default()).await;
    let refused =
        volumes(&view, v2::ListVolumesRequest { orphans_only: true, ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("runs without Kubernetes"), "{refused}");
    let (found, _) = volumes(&view, v2::ListVolumesRequest::default()).await.unwrap();
    assert_eq!(found[0].orphan, None);
}

#[tokio::test]
async fn lists_fail_while_they_are_not_known() {
    let view = view(vec![("n", here("n", vec![pool("n", "fast", GIB)], vec![]))], World::default()).await;
    let request = |node: &str, pool: &str, token: &str| v2::ListVolumesRequest {
        node: node.into(),
        pool: pool.into(),
        page_token: token.into(),
        ..Default::default()
    };
    for (request, code, named) in [
        (request("nowhere", "", ""), Code::NotFound, "nowhere"),
        (request("", "fats", ""), Code::NotFound, "fats"),
        (request("", "", "x"), Code::InvalidArgument, "page_token"),
        (request("", "", "after:x"), Code::InvalidArgument, "page_token"),
    ] {
        let refused = volumes(&view, request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{request:?}");
        assert!(refused.message().contains(named), "{refused}");
    }
    let pools = v2::ListPoolsRequest { node: "nowhere".into(), ..Default::default() };
    assert_eq!(view.list_pools(Request::new(pools)).await.unwrap_err().code(), Code::NotFound);
    let pools = v2::ListPoolsRequest { page_token: "after:n".into(), ..Default::default() };
    assert_eq!(view.list_pools(Request::new(pools)).await.unwrap_err().code(), Code::InvalidArgument);

    let early = unlisted();
    assert_eq!(volumes(&early, request("", "", "")).await.unwrap_err().code(), Code::Unavailable);
    let nodes = early.list_nodes(Request::new(v2::ListNodesRequest::default())).await;
    assert_eq!(nodes.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn nodes_and_pools_come_in_pages_too() {
    let away = "cannot connect to 192.0.2.3:9810: Connection refused";
    let two = |node: &str| vec![pool(node, "fast", 50 * GIB), pool(node, "slow", 25 * GIB)];
    let view = view(
        vec![
            ("n1", here("n1", two("n1"), vec![volume("n1", "fast", "a"), volume("n1", "slow", "b")])),
            ("n2", here("n2", two("n2"), vec![])),
            ("n3", NodeFake::Away(Unreachable::NoAnswer, away.into())),
        ],
        World::default(),
    )
    .await;
    let (mut nodes, mut token) = (Vec::new(), String::new());
    for last in [false, false, true] {
        let page = view.list_nodes(Request::new(v2::ListNodesRequest { page_size: 1, page_token: token })).await;
        let page = page.unwrap().into_inner();
        assert_eq!(page.next_page_token.is_empty(), last);
        token = page.next_page_token;
        nodes.extend(page.nodes);
    }
    let [first, _, third] = nodes.as_slice() else { panic!("{nodes:?}") };
    assert!(first.reachable && first.reported && first.why.is_empty());
    assert_eq!((first.pools, first.volumes, first.bytes, first.free_bytes), (2, 2, 200 * GIB, 75 * GIB));
    assert_eq!((first.name.as_str(), first.boot_id.as_str()), ("n1", "boot-n1"));
    assert!(!third.reachable && !third.reported);
    assert_eq!((third.why.as_str(), third.pools), (away, 0));

    let (mut pools, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = v2::ListPoolsRequest { page_size: 3, page_token: token, ..Default::default() };
        let page = view.list_pools(Request::new(request)).await.unwrap().into_inner();
        pages += 1;
        pools.extend(page.pools.into_iter().map(read_pool));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let names: Vec<_> = pools.iter().map(|pool| (pool.node.as_str(), pool.pool.name.as_str())).collect();
    assert_eq!((names, pages), (vec![("n1", "fast"), ("n1", "slow"), ("n2", "fast"), ("n2", "slow")], 2));
    let fast = &pools[0].pool;
    assert_eq!((fast.size, fast.free(), fast.space.largest(&Layout::Linear).bytes), (100 * GIB, 50 * GIB, 50 * GIB));
    assert_eq!((fast.usable_metadata(), fast.metadata_free), (512 << 10, 500 << 10));
}

#[tokio::test]
async fn snapshots_come_in_pages_and_are_filtered() {
    let (a, b, c) = (volume("n1", "fast", "pvc-a"), volume("n1", "slow", "pvc-b"), volume("n2", "fast", "pvc-c"));
    let condition = SnapshotCondition::Invalid;
    let broken = Snapshot { problem: "it became full".into(), condition, ..snapshot(&b, "s3") };
    let n1 = here("n1", vec![pool("n1", "fast", GIB), pool("n1", "slow", GIB)], vec![a.clone(), b.clone()]);
    let n2 = here("n2", vec![pool("n2", "fast", GIB)], vec![c.clone()]);
    let of_n1 = vec![snapshot(&a, "s1"), snapshot(&a, "s2"), broken.clone()];
    let nodes = vec![
        ("n1", with_snapshots(n1, of_n1.clone())),
        ("n2", with_snapshots(n2, vec![snapshot(&c, "s4")])),
        ("n3", NodeFake::Away(Unreachable::NoAnswer, "away".into())),
    ];
    let view = view(nodes, World::default()).await;
    for size in [1, 2, 3, 9] {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let request = v2::ListSnapshotsRequest { page_size: size, page_token: token, ..Default::default() };
            let (page, next) = snapshots(&view, request).await.unwrap();
            assert!(page.len() <= size as usize);
            found.extend(page.into_iter().map(|listed| listed.snapshot));
            token = next;
            if token.is_empty() {
                break;
            }
        }
        let mut expected = of_n1.clone();
        expected.sort_by(|one, other| one.id.cmp(&other.id));
        expected.push(snapshot(&c, "s4"));
        assert_eq!(found, expected, "{size}");
    }
    let names = async |request| -> Vec<String> {
        let (found, _) = snapshots(&view, request).await.unwrap();
        let mut names: Vec<_> = found.into_iter().map(|listed| listed.snapshot.name).collect();
        names.sort();
        names
    };
    let none = v2::ListSnapshotsRequest::default;
    assert_eq!(names(v2::ListSnapshotsRequest { node: "n2".into(), ..none() }).await, ["s4"]);
    assert_eq!(names(v2::ListSnapshotsRequest { pool: "slow".into(), ..none() }).await, ["s3"]);
    assert_eq!(names(v2::ListSnapshotsRequest { problems_only: true, ..none() }).await, ["s3"]);
    assert_eq!(names(v2::ListSnapshotsRequest { source: a.id.to_string(), ..none() }).await, ["s1", "s2"]);
    for (request, code) in [
        (v2::ListSnapshotsRequest { node: "nowhere".into(), ..none() }, Code::NotFound),
        (v2::ListSnapshotsRequest { pool: "fats".into(), ..none() }, Code::NotFound),
        (v2::ListSnapshotsRequest { source: "x".into(), ..none() }, Code::InvalidArgument),
        (v2::ListSnapshotsRequest { page_token: "after:v1:aaaaaaaaaa:n:v".into(), ..none() }, Code::InvalidArgument),
    ] {
        assert_eq!(snapshots(&view, request.clone()).await.unwrap_err().code(), code, "{request:?}");
    }
    assert_eq!(snapshots(&unlisted(), none()).await.unwrap_err().code(), Code::Unavailable);
}

/// Follows the pages of a list, each of which must fit a message of the default size. Returns how many entries it has.
async fn count<M: Message>(page: impl AsyncFn(String) -> (M, usize, String)) -> usize {
    let (mut count, mut token) = (0, String::new());
    loop {
        let (message, entries, next) = page(token).await;
        assert!(message.encoded_len() < 4 << 20, "{entries} entries have {} bytes", message.encoded_len());
        count += entries;
        token = next;
        if token.is_empty() {
            return count;
        }
    }
}

#[tokio::test]
async fn a_page_fits_a_message_even_if_every_text_is_as_long_as_possible() {
    let text = || "x".repeat(2048);
    let pools = (0..800).map(|number| PoolState {
        problems: vec![text(), text(), text()],
        ..pool("n", &format!("p-{number:03}"), GIB)
    });
    let volumes: Vec<_> = (0..2100)
        .map(|number| Volume {
            problem: text(),
            limits_problem: text(),
            ..volume("n", "p-000", &format!("pvc-{number:04}"))
        })
        .collect();
    let snapshots = volumes.iter().map(|of| Snapshot { problem: text(), ..snapshot(of, &of.name) }).collect();
    let here = with_snapshots(here("n", pools.collect(), volumes), snapshots);
    let away: Vec<_> = (0..2100).map(|number| format!("away-{number:04}")).collect();
    let mut nodes: Vec<_> =
        away.iter().map(|name| (name.as_str(), NodeFake::Away(Unreachable::NoAnswer, text()))).collect();
    nodes.push(("n", here));
    let view = view(nodes, World::default()).await;
    let view = &view;
    let page_size = u32::MAX;
    let nodes = count(async |page_token| {
        let page = view.list_nodes(Request::new(v2::ListNodesRequest { page_size, page_token })).await;
        let page = page.unwrap().into_inner();
        (page.clone(), page.nodes.len(), page.next_page_token)
    });
    assert_eq!(nodes.await, 2101);
    let pools = count(async |page_token| {
        let request = v2::ListPoolsRequest { page_size, page_token, ..Default::default() };
        let page = view.list_pools(Request::new(request)).await.unwrap().into_inner();
        (page.clone(), page.pools.len(), page.next_page_token)
    });
    assert_eq!(pools.await, 800);
    let volumes = count(async |page_token| {
        let request = v2::ListVolumesRequest { page_size, page_token, ..Default::default() };
        let page = view.list_volumes(Request::new(request)).await.unwrap().into_inner();
        (page.clone(), page.volumes.len(), page.next_page_token)
    });
    assert_eq!(volumes.await, 2100);
    let snapshots = count(async |page_token| {
        let request = v2::ListSnapshotsRequest { page_size, page_token, ..Default::default() };
        let page = view.list_snapshots(Request::new(request)).await.unwrap().into_inner();
        (page.clone(), page.snapshots.len(), page.next_page_token)
    });
    assert_eq!(snapshots.await, 2100);
}
