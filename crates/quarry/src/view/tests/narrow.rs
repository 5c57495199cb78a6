//! Tables in a terminal of 80 columns, with the longest names that clusters have.

use quarry_volume::{Condition, PoolState, Snapshot, Volume};
use quarry_wire::view::{ListedPool, ListedSnapshot, ListedVolume};

use super::{Controller, GIB, ask, example, finding, printed, v2, volume};

/// Names of nodes: of a cloud, and the longest possible one.
const NODES: [&str; 3] = [
    "worker-1",
    "ip-10-0-123-145.eu-central-1.compute.internal",
    "storage-rack-17-slot-04.datacenter-frankfurt.example-company.com",
];
const UUID: &str = "1f0c2b1e-6f0c-4a57-9d3e-77b152aa0c41";
const WHY: &str =
    "no connection to 10.0.123.145:9810: cannot connect to 10.0.123.145:9810: Connection refused (os error 111)";

/// The longest node name that Quarry accepts.
fn nodes() -> [&'static str; 3] {
    NODES.map(|name| name.get(..quarry_volume::MAX_NODE).unwrap_or(name))
}

/// The nodes, pools, volumes and snapshots of one node, with a problem everywhere.
fn cluster(node: &str) -> Controller {
    let up = v2::Node { name: node.into(), ..example().nodes[0].clone() };
    let away = v2::Node { name: node.into(), why: WHY.into(), since_seconds: 5 * 86400, ..Default::default() };
    let pool = |problems: Vec<String>| ListedPool {
        node: node.into(),
        pool: PoolState {
            name: "nvme-whole-disks".into(),
            problems,
            size: 1023 * GIB,
            ..example().pools[0].pool.clone()
        },
        reachable: true,
    };
    let healthy = Volume {
        pool: "nvme-whole-disks".into(),
        size: 1023 * GIB,
        ..Volume::new(format!("v1:aaaaaaaaaa:{node}:pvc-{UUID}").parse().unwrap())
    };
    let broken = Volume { problem: "has lost a mirror".into(), condition: Condition::Degraded, ..volume("pvc-short") };
    let snapshot = Snapshot {
        pool: "nvme-whole-disks".into(),
        problem: "it became full: its contents are lost, delete it".into(),
        allocated: 1023 * GIB,
        ..Snapshot::new(format!("s1:aaaaaaaaaa:{node}:snapshot-{UUID}").parse().unwrap(), healthy.id.clone())
    };
    let listed = |volume| ListedVolume { volume, orphan: Some(true), reachable: true };
    Controller {
        nodes: vec![up, away],
        pools: vec![pool(Vec::new()), pool(vec![format!("the disk of {node} does not answer: see the kernel's log")])],
        volumes: vec![listed(healthy), listed(broken)],
        snapshots: vec![ListedSnapshot { snapshot, orphan: None, reachable: true }],
        page: 10,
        ..Default::default()
    }
}

fn longest_line(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or_default()
}

#[tokio::test]
async fn lists_fit_80_columns() {
    for node in nodes() {
        let cluster = cluster(node);
        for list in ["nodes", "pools", "volumes", "snapshots"] {
            let text = printed(&cluster, &format!("{list} --width 80")).await;
            assert!(longest_line(&text) <= 80, "{text}");
            // Nothing is lost but whole columns, which are named. Names and problems may be wrapped.
            let joined: String = text.split_whitespace().collect();
            let all = printed(&cluster, &format!("{list} --width 80 -o wide")).await;
            assert_eq!(all, printed(&cluster, &format!("{list} -o wide")).await);
            for row in all.lines().skip(1) {
                let name = row.split_whitespace().find(|cell| cell.ends_with(UUID) && !cell.contains(':'));
                assert!(name.is_none_or(|name| text.contains(name)), "{text}");
                assert!(row.contains("v1:") || row.contains(node), "{all}");
            }
            let unlimited = printed(&cluster, list).await;
            let room = unlimited.lines().next().unwrap().split_whitespace().filter(|title| !text.contains(title));
            for title in room.filter(|title| *title != "PROBLEM") {
                assert!(
                    joined.contains(&format!("noroomfor{title}")) || joined.contains(&format!(",{title}")),
                    "{text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_below_its_row() {
    assert_eq!(
        printed(&cluster("worker-1"), "nodes --width 80").await,
        "\
NODE      STATE  SINCE  VERSION  POOLS  VOLUMES  SIZE   FREE
worker-1  up        5m  0.1.0        2      120   2Ti  100Gi
worker-1  down      5d  ?            ?        ?     ?      ?
  PROBLEM:  no connection to 10.0.123.145:9810: cannot connect to
            10.0.123.145:9810: Connection refused (os error 111)
"
    );
}

#[tokio::test]
async fn long_names_of_nodes_are_wrapped_and_names_of_volumes_are_whole() {
    assert_eq!(
        printed(&cluster(NODES[1]), "volumes --width 80").await,
        "\
NODE              POOL          NAME                                        SIZE
ip-10-0-123-145.  nvme-whole-d  pvc-1f0c2b1e-6f0c-4a57-9d3e-77b152aa0c41  1023Gi
eu-central-1.com  isks
pute.internal
n1                fast          pvc-short                                  1.5Gi
  PROBLEM:  has lost a mirror

no room for ID, ACCESS, FS, LAYOUT, STATE, ORPHAN, SOURCE: see -o wide
"
    );
}

#[tokio::test]
async fn identifiers_to_copy_are_whole() {
    for node in nodes() {
        let cluster = cluster(node);
        let volumes = printed(&cluster, "volumes --orphans --width 80").await;
        assert!(volumes.contains(&format!("v1:aaaaaaaaaa:{node}:pvc-{UUID}")), "{volumes}");
        let snapshots = printed(&cluster, "snapshots --orphans --width 80").await;
        assert!(snapshots.contains(&format!("s1:aaaaaaaaaa:{node}:snapshot-{UUID}")), "{snapshots}");
    }
    let short = printed(&cluster("worker-1"), "volumes --orphans --width 80").await;
    assert!(longest_line(&short) <= 80, "{short}");
}

#[tokio::test]
async fn findings_fit_and_only_levels_are_painted() {
    let findings = vec![
        v2::Finding { problem: WHY.into(), ..finding(v2::Level::Error, &format!("node {}", nodes()[2])) },
        finding(v2::Level::Warning, "pool p"),
        finding(v2::Level::Note, "x"),
    ];
    let controller =
        Controller { diagnosis: v2::DiagnoseResponse { findings, ..Default::default() }, ..Default::default() };
    let (plain, _) = ask(&controller, "doctor --width 80").await;
    assert!(longest_line(&plain) <= 80, "{plain}");
    let (painted, _) = ask(&controller, "doctor --width 80 --color always").await;
    let expected =
        plain.replacen("ERROR", "\u{1b}[31mERROR\u{1b}[0m", 1).replacen("WARNING", "\u{1b}[33mWARNING\u{1b}[0m", 1);
    assert_eq!(painted, expected);
}

#[tokio::test]
async fn states_and_problems_are_painted_only_on_demand() {
    let controller = example();
    let painted = printed(&controller, "nodes --color always").await;
    assert!(
        painted.contains("\u{1b}[31mdown\u{1b}[0m") && painted.contains("\u{1b}[31mConnection refused"),
        "{painted}"
    );
    let pools = printed(&controller, "pools --color always").await;
    assert!(pools.contains("\u{1b}[33m?\u{1b}[0m") && pools.contains("\u{1b}[31mproblem\u{1b}[0m"), "{pools}");
    let orphans = printed(&controller, "volumes --color always").await;
    assert!(orphans.contains("\u{1b}[33mORPHAN\u{1b}[0m"), "{orphans}");
    for plain in ["nodes", "nodes --color never", "nodes -o json --color always"] {
        assert!(!printed(&controller, plain).await.contains('\u{1b}'), "{plain}");
    }
}
