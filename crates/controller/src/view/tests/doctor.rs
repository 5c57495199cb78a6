//! What the doctor reports, and what it does not.

use std::time::SystemTime;

use quarry_volume::{Placement, SnapshotCondition};
use tonic::Code;

use super::*;

/// Findings as `level check subject: problem`, to compare all of them at once.
fn lines(answer: &v2::DiagnoseResponse) -> Vec<String> {
    let line = |finding: &v2::Finding| {
        assert!(!finding.advice.is_empty(), "{finding:?}");
        let level = finding.level().as_str_name().trim_start_matches("LEVEL_").to_lowercase();
        format!("{level} {} {}: {}", finding.check, finding.subject, finding.problem)
    };
    answer.findings.iter().map(line).collect()
}

/// A world in which everything is known.
fn healthy(volumes: &[Volume]) -> World {
    let handles = volumes.iter().map(|volume| volume.id.to_string()).collect();
    World { handles: Some(Arc::new(handles)), ..World::default() }
}

fn advice<'a>(answer: &'a v2::DiagnoseResponse, subject: &str) -> &'a str {
    let found = answer.findings.iter().find(|finding| finding.subject == subject);
    &found.unwrap_or_else(|| panic!("{subject}: {answer:?}")).advice
}

#[tokio::test]
async fn a_healthy_cluster_has_no_findings() {
    let volumes = [volume("n1", "fast", "pvc-a"), volume("n2", "fast", "pvc-b")];
    let of = |node: &str, volume: &Volume| here(node, vec![pool(node, "fast", 50 * GIB)], vec![volume.clone()]);
    let view = view(vec![("n1", of("n1", &volumes[0])), ("n2", of("n2", &volumes[1]))], healthy(&volumes)).await;
    let answer = doctor(&view).await;
    assert_eq!(lines(&answer), Vec::<String>::new());
    assert_eq!(
        answer.totals.unwrap(),
        v2::Totals { nodes: 2, reachable_nodes: 2, pools: 2, volumes: 2, orphans_known: true, ..Default::default() }
    );
    assert_eq!(answer.version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn unreachable_nodes_are_reported_with_advice() {
    let away = |cause, why: &str| NodeFake::Away(cause, why.into());
    let mut world = healthy(&[]);
    world.fates = [("n3", Fate::NotReady(Duration::from_secs(3 * 3600))), ("n4", Fate::Gone), ("n2", Fate::Ready)]
        .map(|(node, fate)| (node.to_owned(), fate))
        .into();
    let expired =
        "node n2: no connection to 192.0.2.2:9810: the node's certificate has expired: x; the controller retries";
    let nodes = vec![
        ("n1", here("n1", vec![pool("n1", "fast", 50 * GIB)], vec![])),
        ("n2", away(Unreachable::Certificate, expired)),
        ("n3", away(Unreachable::NoAnswer, "192.0.2.3:9810 did not respond within 30s")),
        ("n4", away(Unreachable::NoAnswer, "192.0.2.4:9810 did not respond within 30s")),
        (
            "n5",
            away(Unreachable::ConnectionRefused, "cannot connect to 192.0.2.5:9810: Connection refused (os error 111)"),
        ),
    ];
    let answer = doctor(&view(nodes, world).await).await;
    assert_eq!(
        lines(&answer),
        [
            "error node-unreachable node n2: unreachable for 0 s: no connection to 192.0.2.2:9810: the node's \
             certificate has expired: x",
            "error node-unreachable node n5: unreachable for 0 s: cannot connect to 192.0.2.5:9810: \
             Connection refused (os error 111)",
            "error node-unreachable node n3: unreachable for 0 s: 192.0.2.3:9810 did not respond within 30s",
            "note node-unreachable node n4: unreachable for 0 s: 192.0.2.4:9810 did not respond within 30s",
        ]
    );
    for (node, named) in [
        ("node n2", "authority"),
        ("node n3", "not been ready for 3 h"),
        ("node n4", "removed permanently"),
        ("node n5", "kubectl logs"),
    ] {
        assert!(advice(&answer, node).contains(named), "{node}: {}", advice(&answer, node));
    }
    let totals = answer.totals.unwrap();
    assert_eq!((totals.nodes, totals.reachable_nodes), (5, 1));
}

#[tokio::test]
async fn an_unreachable_rack_is_one_finding() {
    let names: Vec<String> = (10..40).map(|number| format!("n{number}")).collect();
    let why = "cannot connect to 192.0.2.3:9810: No route to host";
    let nodes = names.iter().map(|name| (name.as_str(), NodeFake::Away(Unreachable::NoAnswer, why.into()))).collect();
    let answer = doctor(&view(nodes, healthy(&[])).await).await;
    assert_eq!(
        lines(&answer),
        [format!(
            "error node-unreachable 30 nodes: n10, n11, n12, n13, n14 and 25 more: unreachable, for up to 0 s; the \
             first one: {why}"
        )]
    );
    assert!(advice(&answer, &answer.findings[0].subject).contains("firewall"));
}

#[tokio::test]
async fn degraded_and_nearly_full_pools_are_reported() {
    let lost = PoolState { problems: vec!["disk /dev/sdb is missing".into()], ..pool("n", "a-lost", 50 * GIB) };
    let mut closed = pool("n", "b-closed", GIB);
    closed.space.closed = Some("the metadata area is full".into());
    let full = pool("n", "c-full", 10 * GIB - (4 << 20));
    let not_full = pool("n", "d-tenth", 10 * GIB);
    let disks = PoolState { enlarge: "add a disk that its selector matches".into(), ..pool("n", "g-disks", 0) };
    let gone = PoolState { repair: vec!["put it back".into(), "`command`".into()], ..pool("n", "j-gone", 50 * GIB) };
    let older = PoolState { enlarge: String::new(), ..pool("n", "i-older", 0) };
    let metadata = PoolState { metadata_free: 100 << 10, ..pool("n", "e-metadata", 50 * GIB) };
    let enough = PoolState { metadata_free: 103 << 10, ..pool("n", "f-metadata", 50 * GIB) };
    let grown = PoolState { hints: vec!["/dev/sdc has grown".into()], ..pool("n", "h-grown", 50 * GIB) };
    let view = view(
        vec![
            ("n", here("n", vec![lost, closed, full, not_full, metadata, enough, disks, grown, older, gone], vec![])),
            ("o", here("o", vec![], vec![])),
        ],
        healthy(&[]),
    )
    .await;
    let answer = doctor(&view).await;
    for (pool, enlarge) in [
        ("c-full", "add a disk to it (vgextend)"),
        ("g-disks", "add a disk that its selector matches"),
        // Its node does not report how to make it larger.
        ("i-older", "add storage to it"),
    ] {
        let advice = advice(&answer, &format!("pool {pool} on node n"));
        let list = format!("`quarry volumes --node n --pool {pool}` lists them");
        assert_eq!(advice, format!("{enlarge}, or delete volumes; {list}"));
    }
    assert_eq!(advice(&answer, "pool j-gone on node n"), "1. put it back; 2. `command`");
    assert_eq!(
        lines(&answer),
        [
            "error pool-problem pool a-lost on node n: disk /dev/sdb is missing",
            "error pool-problem pool b-closed on node n: the metadata area is full",
            "error disk-missing pool j-gone on node n: a disk with volumes is missing",
            "warning pool-nearly-full pool c-full on node n: has 9.9Gi of 100Gi free for new volumes",
            "warning pool-metadata-nearly-full pool e-metadata on node n: has 100Ki of 512Ki left in its metadata \
             area, with 0 volumes",
            "warning pool-nearly-full pool g-disks on node n: has 0 of 100Gi free for new volumes",
            "warning pool-nearly-full pool i-older on node n: has 0 of 100Gi free for new volumes",
            "warning node-without-pools node o: has no pool, so no volume can be created there",
            "note pool-hint pool h-grown on node n: /dev/sdc has grown",
        ]
    );
}

/// A hint can be about something that will be lost.
#[tokio::test]
async fn the_advice_on_a_hint_is_not_to_ignore_it() {
    let snapshot = "snapshot s of volume v (vg/s) uses 85 % of its space, and is lost when that is full: delete it, or \
                    enlarge it (lvextend)";
    let limits = "the I/O limits of 1 volume in use are not in force: v: the host has no cgroups of version 2";
    let hints = vec![snapshot.to_owned(), limits.to_owned()];
    let node = here("n", vec![PoolState { hints, ..pool("n", "fast", 50 * GIB) }], vec![]);
    let answer = doctor(&view(vec![("n", node)], healthy(&[])).await).await;
    let subject = "pool fast on node n";
    assert_eq!(
        lines(&answer),
        [format!("note pool-hint {subject}: {snapshot}"), format!("note pool-hint {subject}: {limits}")]
    );
    for finding in &answer.findings {
        assert_eq!(finding.advice, "do what it says, or remove its cause, unless this is intended");
    }
}

/// A pool of whole disks, all of which are used.
fn used_disks(node: &str, name: &str) -> PoolState {
    let mut state = PoolState { kind: "disk".into(), enlarge: "add a disk".into(), ..pool(node, name, 0) };
    state.space.placement = Placement::WholeDisk;
    (state.metadata_size, state.metadata_free) = (0, 0);
    state
}

#[tokio::test]
async fn disks_that_are_all_used_are_one_note_for_each_pool() {
    let lost = PoolState { problems: vec!["disk a is missing".into()], ..used_disks("n3", "whole") };
    let free = PoolState { space: pool("n4", "whole", 50 * GIB).space, ..used_disks("n4", "whole") };
    let nodes = vec![
        ("n1", here("n1", vec![used_disks("n1", "whole"), used_disks("n1", "other")], vec![])),
        ("n2", here("n2", vec![used_disks("n2", "whole")], vec![])),
        ("n3", here("n3", vec![lost], vec![])),
        ("n4", here("n4", vec![free], vec![])),
    ];
    let answer = doctor(&view(nodes, healthy(&[])).await).await;
    assert_eq!(
        lines(&answer),
        [
            "error pool-problem pool whole on node n3: disk a is missing",
            "note pool-nearly-full pool other on n1: nearly all of its disks hold volumes, or are being wiped",
            "note pool-nearly-full pool whole on n1, n2: nearly all of its disks hold volumes, or are being wiped",
        ]
    );
    assert!(advice(&answer, "pool whole on n1, n2").contains("then add a disk, or delete volumes; `quarry volumes"));
}

/// The storage ID of a pool of whole disks is derived from its name, so every node has the same.
#[tokio::test]
async fn nodes_with_one_boot_id_share_storage_only_if_its_id_is_unique() {
    for unique_storage in [true, false] {
        let capabilities = PoolCapabilities { unique_storage, ..PoolCapabilities::default() };
        let pool = |node| PoolState { storage: Some(StorageId::of("one")), capabilities, ..pool(node, "p", 50 * GIB) };
        let nodes = ["n1", "n2"].map(|node| {
            let mut fake = here(node, vec![pool(node)], vec![]);
            greeting(&mut fake, |greeting| greeting.boot_id = "boot-x".into());
            (node, fake)
        });
        let answer = doctor(&view(nodes.into(), healthy(&[])).await).await;
        let reported = answer.findings.iter().any(|finding| finding.check == "boot-id-shared");
        assert_eq!(reported, unique_storage, "{:?}", lines(&answer));
    }
}

/// The same for storage alone.
#[tokio::test]
async fn only_storage_with_a_unique_id_is_reported_as_shared() {
    for unique_storage in [true, false] {
        let capabilities = PoolCapabilities { unique_storage, ..PoolCapabilities::default() };
        let pool = |node| PoolState { storage: Some(StorageId::of("one")), capabilities, ..pool(node, "p", 50 * GIB) };
        let nodes = ["n1", "n2"].map(|node| (node, here(node, vec![pool(node)], vec![])));
        let answer = doctor(&view(nodes.into(), healthy(&[])).await).await;
        let reported = answer.findings.iter().any(|finding| finding.check == "storage-shared");
        assert_eq!(reported, unique_storage, "{:?}", lines(&answer));
    }
}

#[tokio::test]
async fn volumes_with_problems_are_reported_by_pool_and_published_ones_are_errors() {
    let unhealthy =
        |name: &str, ready: bool, problem: &str| Volume { ready, problem: problem.into(), ..volume("n", "fast", name) };
    let unused = Volume { ready: false, problem: "was interrupted".into(), ..volume("n", "slow", "pvc-d") };
    let volumes = vec![
        unhealthy("pvc-a", false, "was interrupted"),
        unhealthy("pvc-b", true, "has lost a mirror"),
        unhealthy("pvc-c", true, "is lost"),
        unused,
    ];
    let world = healthy(&volumes);
    let pools = vec![pool("n", "fast", 50 * GIB), pool("n", "slow", 50 * GIB)];
    let (first, second) = (volumes[1].id.clone(), volumes[3].id.clone());
    let answer = doctor(&view(vec![("n", here("n", pools, volumes))], world).await).await;
    assert_eq!(
        lines(&answer),
        [
            format!("error volume-problem 3 volumes in pool fast on node n: the first is {first}: has lost a mirror"),
            format!("warning volume-problem 1 volume in pool slow on node n: {second}: was interrupted"),
        ]
    );
    let subject = "3 volumes in pool fast on node n";
    assert!(advice(&answer, subject).contains("`quarry volumes --problems --node n --pool fast`"));
}

#[tokio::test]
async fn nodes_are_compared_with_each_other_and_with_the_controller() {
    let mut fakes: Vec<NodeFake> = Vec::new();
    let part = |text: &str| text.parse::<u64>().unwrap();
    let (major, minor) = (part(env!("CARGO_PKG_VERSION_MAJOR")), part(env!("CARGO_PKG_VERSION_MINOR")));
    let (near, far) = (format!("{major}.{}.0", minor + 1), format!("{major}.{}.0", minor + 2));
    let other = format!("{}.{minor}.0", major + 1);
    for (node, boot, version) in [
        ("n1", "boot-x", format!("{major}.{minor}.7")),
        ("n2", "boot-x", near),
        // Started from the same image as the first two, but with its own disks.
        ("n3", "boot-x", far.clone()),
        ("n4", "", other.clone()),
        ("n5", "", "odd".to_owned()),
    ] {
        let kind = if node == "n3" { "disk" } else { "lvm" };
        let storage = if node < "n3" { Some(StorageId::of("one")) } else { pool(node, "fast", 0).storage };
        let pools = vec![PoolState { kind: kind.into(), storage, ..pool(node, "fast", 50 * GIB) }];
        let mut fake = here(node, pools, vec![]);
        greeting(&mut fake, |greeting| {
            greeting.boot_id = boot.into();
            greeting.version = version;
        });
        fakes.push(fake);
    }
    let nodes = ["n1", "n2", "n3", "n4", "n5"].into_iter().zip(fakes).collect();
    let answer = doctor(&view(nodes, healthy(&[])).await).await;
    let current = env!("CARGO_PKG_VERSION");
    let skew = |node: &str, version: &str| {
        format!(
            "error version-skew 1 node: {node}: run version \"{version}\", but this controller runs {current}: more \
             than one minor version apart"
        )
    };
    assert_eq!(
        lines(&answer),
        [
            skew("n3", &far),
            skew("n4", &other),
            skew("n5", "odd"),
            "warning boot-id-shared 2 nodes: n1, n2: have the same boot ID, boot-x, and the same storage: two node \
             plugins run on one host, or the nodes are copies of one machine"
                .into(),
            "warning pool-kinds-differ pool fast: has different kinds: disk on n3; lvm on n1, n2, n4, n5".into(),
            format!(
                "warning storage-shared 2 nodes: n1, n2: have storage with the same identity ({}): several hosts share \
                 disks, or these are copies of one disk",
                StorageId::of("one").as_str()
            ),
        ]
    );
}

#[tokio::test]
async fn unknown_persistent_volumes_are_a_note_not_an_error() {
    let fakes = here("n", vec![pool("n", "fast", 50 * GIB)], vec![volume("n", "fast", "pvc-a")]);
    let answer = doctor(&view(vec![("n", fakes)], World::default()).await).await;
    assert_eq!(
        lines(&answer),
        ["note claims-unknown volumes: the controller does not know the PersistentVolumes, so it cannot detect \
             orphans"]
    );
    assert!(!answer.totals.unwrap().orphans_known);
}

#[tokio::test(start_paused = true)]
async fn orphans_are_counted_and_the_advice_names_the_command() {
    let volumes = vec![volume("n", "fast", "pvc-a"), volume("n", "fast", "pvc-b"), volume("n", "fast", "pvc-c")];
    let world = healthy(&volumes[..1]);
    let view = view(vec![("n", here("n", vec![pool("n", "fast", 50 * GIB)], volumes))], world).await;
    tokio::time::advance(Duration::from_secs(301)).await;
    let answer = doctor(&view).await;
    assert_eq!(lines(&answer), ["warning orphans 2 volumes: no PersistentVolume references them, on n"]);
    assert!(advice(&answer, "2 volumes").contains("`quarry orphans`"));
}

#[tokio::test]
async fn an_empty_or_unlisted_cluster_is_an_error() {
    let empty = doctor(&view(Vec::new(), healthy(&[])).await).await;
    assert_eq!(lines(&empty), ["error no-nodes cluster: no node has a plugin pod, so there is no storage"]);
    let unlisted = doctor(&unlisted()).await;
    assert!(lines(&unlisted)[0].starts_with("error nodes-not-listed "), "{unlisted:?}");
}

#[tokio::test]
async fn extra_findings_are_added_and_the_most_severe_comes_first() {
    let extras = || async {
        vec![
            Finding::note("rotation", "certificates", "a rotation is in progress", "nothing"),
            Finding::error("certificate-expired", "controller", "its certificate has expired", "issue another"),
        ]
    };
    let nodes = vec![("n", here("n", vec![pool("n", "fast", GIB)], vec![]))];
    let answer = doctor(&view_with(nodes, healthy(&[]), extras).await).await;
    let checks: Vec<_> = answer.findings.iter().map(|finding| finding.check.as_str()).collect();
    assert_eq!(checks, ["certificate-expired", "pool-nearly-full", "rotation"]);
}

#[tokio::test(start_paused = true)]
async fn a_diagnosis_has_a_timeout() {
    let nodes = vec![("n", here("n", vec![pool("n", "fast", 50 * GIB)], vec![]))];
    let answer = doctor(&view_with(nodes, healthy(&[]), std::future::pending).await).await;
    assert_eq!(
        lines(&answer),
        ["error diagnosis-incomplete controller: the checks of certificates and Kubernetes did not finish within 10 s"]
    );
}

#[tokio::test]
async fn invalid_snapshots_are_errors_and_other_problems_warnings() {
    let source = volume("n1", "fast", "pvc-a");
    let with = |name: &str, condition, problem: &str| Snapshot {
        condition,
        problem: problem.into(),
        ..snapshot(&source, name)
    };
    let taken = vec![
        snapshot(&source, "good"),
        with("full-1", SnapshotCondition::Invalid, "it became full"),
        with("full-2", SnapshotCondition::Invalid, "it became full"),
        with("half", SnapshotCondition::Unfinished, "it was not taken completely"),
    ];
    let node = with_snapshots(here("n1", vec![pool("n1", "fast", 50 * GIB)], vec![source.clone()]), taken);
    let answer = doctor(&view(vec![("n1", node)], healthy(std::slice::from_ref(&source))).await).await;
    let id = |name: &str| snapshot(&source, name).id;
    assert_eq!(
        lines(&answer),
        [
            format!(
                "error snapshot-invalid 2 snapshots in pool fast on node n1: the first is {}: it became full",
                id("full-1")
            ),
            format!(
                "warning snapshot-problem 1 snapshot in pool fast on node n1: {}: it was not taken completely",
                id("half")
            ),
        ]
    );
    assert!(advice(&answer, "2 snapshots in pool fast on node n1").contains("cowSize"));
    assert_eq!(answer.totals.unwrap().snapshots, 4);
}

#[tokio::test]
async fn snapshots_that_nothing_references_are_orphans_unless_they_are_young() {
    let source = volume("n", "fast", "pvc-a");
    let aged = |name: &str, created| Snapshot { created, ..snapshot(&source, name) };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let taken = vec![aged("wanted", 1), aged("old", 1), aged("young", now), aged("half", 0), aged("later", now + 900)];
    let wanted = Some(Arc::new(HashSet::from([taken[0].id.to_string()])));
    let world = |snapshot_handles| World { snapshot_handles, ..healthy(std::slice::from_ref(&source)) };
    let node = || with_snapshots(here("n", vec![pool("n", "fast", 50 * GIB)], vec![source.clone()]), taken.clone());
    let answer = doctor(&view(vec![("n", node())], world(wanted.clone())).await).await;
    assert_eq!(lines(&answer), ["warning snapshot-orphans 1 snapshot: no VolumeSnapshotContent references them, on n"]);
    assert!(advice(&answer, "1 snapshot").contains("`quarry orphans`"));
    // Without the VolumeSnapshotContents, nothing is known of them.
    let unknown = view(vec![("n", node())], world(None)).await;
    assert_eq!(lines(&doctor(&unknown).await), [""; 0]);
    let orphans = || v2::ListSnapshotsRequest { orphans_only: true, ..Default::default() };
    assert_eq!(snapshots(&unknown, orphans()).await.unwrap_err().code(), Code::FailedPrecondition);
    let known = view(vec![("n", node())], world(wanted)).await;
    let (found, _) = snapshots(&known, orphans()).await.unwrap();
    assert_eq!(found.iter().map(|listed| listed.snapshot.name.as_str()).collect::<Vec<_>>(), ["old"]);
    let (every, _) = snapshots(&known, v2::ListSnapshotsRequest::default()).await.unwrap();
    assert_eq!(every.iter().filter(|listed| listed.orphan == Some(true)).count(), 1);
    let (every, _) = snapshots(&unknown, v2::ListSnapshotsRequest::default()).await.unwrap();
    assert!(every.iter().all(|listed| listed.orphan.is_none()));
}
