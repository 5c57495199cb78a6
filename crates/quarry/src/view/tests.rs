//! The commands against a small controller on a real socket: the requests, the output and the errors.

mod narrow;
mod orphans;
mod snapshots;

use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use quarry_proto::view::v2::view_server::{View, ViewServer};
use quarry_transport::unix;
use quarry_volume::{
    AccessTypes, Condition, ExtentSize, Extents, Filesystem, IoLimits, Layout, Placement, PoolCapabilities, PoolState,
    Space, Volume,
};
use quarry_wire::view::{ListedPool, ListedSnapshot, ListedVolume, write_pool, write_snapshot, write_volume};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::*;

const GIB: u64 = 1 << 30;

#[derive(clap::Parser)]
enum Line {
    Nodes(Common),
    Pools(Pools),
    Volumes(Volumes),
    Snapshots(Snapshots),
    Orphans(Orphans),
    Doctor(Common),
}

/// Returns its fields, `page` volumes at a time (default: one), and records its requests.
#[derive(Clone, Default)]
struct Controller {
    nodes: Vec<v2::Node>,
    pools: Vec<ListedPool>,
    volumes: Vec<ListedVolume>,
    snapshots: Vec<ListedSnapshot>,
    diagnosis: v2::DiagnoseResponse,
    refuses: bool,
    page: usize,
    /// The names of volumes whose identifiers have a newer format.
    newer: Vec<&'static str>,
    asked: Arc<Mutex<Vec<v2::ListVolumesRequest>>>,
    asked_snapshots: Arc<Mutex<Vec<v2::ListSnapshotsRequest>>>,
}

#[tonic::async_trait]
impl View for Controller {
    async fn list_nodes(&self, _: Request<v2::ListNodesRequest>) -> Result<Response<v2::ListNodesResponse>, Status> {
        Ok(Response::new(v2::ListNodesResponse { nodes: self.nodes.clone(), ..Default::default() }))
    }

    async fn list_pools(&self, _: Request<v2::ListPoolsRequest>) -> Result<Response<v2::ListPoolsResponse>, Status> {
        let pools = self.pools.iter().cloned().map(write_pool).collect();
        Ok(Response::new(v2::ListPoolsResponse { pools, ..Default::default() }))
    }

    async fn list_volumes(
        &self,
        request: Request<v2::ListVolumesRequest>,
    ) -> Result<Response<v2::ListVolumesResponse>, Status> {
        let request = request.into_inner();
        self.asked.lock().unwrap().push(request.clone());
        if self.refuses {
            return Err(Status::failed_precondition("which volumes are wanted is not known"));
        }
        let first: usize = request.page_token.parse().unwrap_or_default();
        let page = self.volumes.iter().skip(first).take(self.page.max(1)).cloned();
        let mut volumes: Vec<_> = page.map(write_volume).collect();
        for volume in volumes.iter_mut().filter_map(|listed| listed.volume.as_mut()) {
            if self.newer.contains(&volume.name.as_str()) {
                volume.id = volume.id.replacen("v1:", "v2:", 1);
            }
        }
        let next = first + volumes.len();
        let next_page_token = if next < self.volumes.len() { next.to_string() } else { String::new() };
        Ok(Response::new(v2::ListVolumesResponse { volumes, next_page_token }))
    }

    async fn list_snapshots(
        &self,
        request: Request<v2::ListSnapshotsRequest>,
    ) -> Result<Response<v2::ListSnapshotsResponse>, Status> {
        let request = request.into_inner();
        let first: usize = request.page_token.parse().unwrap_or_default();
        self.asked_snapshots.lock().unwrap().push(request);
        let page = self.snapshots.iter().skip(first).take(self.page.max(1)).cloned();
        let snapshots: Vec<_> = page.map(write_snapshot).collect();
        let next = first + snapshots.len();
        let next_page_token = if next < self.snapshots.len() { next.to_string() } else { String::new() };
        Ok(Response::new(v2::ListSnapshotsResponse { snapshots, next_page_token }))
    }

    async fn diagnose(&self, _: Request<v2::DiagnoseRequest>) -> Result<Response<v2::DiagnoseResponse>, Status> {
        Ok(Response::new(self.diagnosis.clone()))
    }
}

fn question(line: &str, socket: &Path) -> Question {
    let socket = format!("--socket={}", socket.display());
    let words = std::iter::once("quarry").chain(line.split_whitespace()).chain([socket.as_str()]);
    match Line::try_parse_from(words).unwrap() {
        Line::Nodes(common) => Question::Nodes(common),
        Line::Pools(pools) => Question::Pools(pools),
        Line::Volumes(volumes) => Question::Volumes(volumes),
        Line::Snapshots(snapshots) => Question::Snapshots(snapshots),
        Line::Orphans(args) => Question::Orphans(args),
        Line::Doctor(common) => Question::Doctor(common),
    }
}

/// Asks `controller`, and returns the output and how the command ended.
async fn ask(controller: &Controller, line: &str) -> (String, Result<ExitCode, String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("view.sock");
    let server = Server::builder().add_service(ViewServer::new(controller.clone()));
    let server = tokio::spawn(server.serve_with_incoming(unix::listen(&path).unwrap()));
    let mut out = Vec::new();
    let ended = run(question(line, &path), Terminal::default(), &mut out).await.map_err(|error| format!("{error:#}"));
    server.abort();
    (String::from_utf8(out).unwrap(), ended)
}

async fn printed(controller: &Controller, line: &str) -> String {
    let (out, ended) = ask(controller, line).await;
    assert_eq!(ended, Ok(ExitCode::SUCCESS));
    out
}

fn volume(name: &str) -> Volume {
    Volume {
        size: 3 * GIB / 2,
        pool: "fast".into(),
        access: Some(AccessTypes::Mount),
        filesystem: Some(Filesystem::Xfs),
        layout: Some(Layout::Linear),
        ready: true,
        ..Volume::new(format!("v1:aaaaaaaaaa:n1:{name}").parse().unwrap())
    }
}

fn listed(volume: Volume) -> ListedVolume {
    ListedVolume { volume, orphan: Some(false), reachable: true }
}

fn example() -> Controller {
    let up = v2::Node {
        name: "n1".into(),
        reachable: true,
        since_seconds: 300,
        reported: true,
        version: "0.1.0".into(),
        boot_id: "boot".into(),
        instance: "run".into(),
        pools: 2,
        volumes: 120,
        bytes: 2048 * GIB,
        free_bytes: 100 * GIB,
        ..Default::default()
    };
    let away = v2::Node {
        name: "node-2".into(),
        since_seconds: 86400,
        why: "Connection refused".into(),
        ..Default::default()
    };
    let fast = PoolState {
        name: "fast".into(),
        kind: "lvm".into(),
        on: "vg0".into(),
        storage: "aaaaaaaaaa".parse().ok(),
        capabilities: PoolCapabilities { unique_storage: true, ..PoolCapabilities::default() },
        size: 100 * GIB,
        // Two disks, of which a volume takes one.
        space: Space {
            extent: ExtentSize(GIB),
            free: vec![Extents(5); 2],
            placement: Placement::WholeDisk,
            ..Space::default()
        },
        // Half of the area is usable.
        metadata_size: 2000,
        metadata_free: 750,
        volumes: 12,
        ..PoolState::default()
    };
    let lost = PoolState {
        name: "lost".into(),
        problems: vec!["a disk is missing".into(), "another too".into()],
        metadata_size: 0,
        ..fast.clone()
    };
    let pool =
        |node: &str, pool: &PoolState, reachable: bool| ListedPool { node: node.into(), pool: pool.clone(), reachable };
    let raw = Volume {
        limits: IoLimits::new([Some(1 << 20), None, None, Some(500)]),
        limits_problem: "no cgroup".into(),
        encryption: None,
        access: Some(AccessTypes::Block),
        filesystem: None,
        layout: Some(Layout::Raid1 { mirrors: 1 }),
        ready: false,
        problem: "has lost a mirror".into(),
        condition: Condition::Degraded,
        ..volume("pvc-longer")
    };
    let newer = Volume { access: None, filesystem: None, layout: None, ..volume("pvc-c") };
    Controller {
        nodes: vec![up, away],
        pools: vec![pool("n1", &fast, true), pool("n1", &lost, true), pool("node-2", &fast, false)],
        volumes: vec![
            listed(volume("pvc-a")),
            ListedVolume { orphan: Some(true), ..listed(raw) },
            ListedVolume { orphan: None, reachable: false, ..listed(newer) },
        ],
        ..Default::default()
    }
}

#[tokio::test]
async fn tables_are_aligned_and_sizes_readable() {
    let controller = example();
    assert_eq!(
        printed(&controller, "nodes").await,
        "\
NODE    STATE  SINCE  VERSION  POOLS  VOLUMES  SIZE   FREE  PROBLEM
n1      up        5m  0.1.0        2      120   2Ti  100Gi  -
node-2  down     24h  ?            ?        ?     ?      ?  Connection refused
"
    );
    assert_eq!(
        printed(&controller, "pools").await,
        "\
NODE    POOL  KIND  ON    SIZE  FREE  LARGEST  VOLUMES  METADATA  STATE    PROBLEM
n1      fast  lvm   vg0  100Gi  10Gi      5Gi       12       25%  ok       -
n1      lost  lvm   vg0  100Gi  10Gi      5Gi       12         -  problem  a disk is missing; another too
node-2  fast  lvm   vg0  100Gi  10Gi      5Gi       12       25%  ?        its node is down: last known state
"
    );
    // One volume per page: later rows stay aligned as far as possible.
    assert_eq!(
        printed(&controller, "volumes").await,
        "\
NODE  POOL  ID                      NAME    SIZE  ACCESS  FS   LAYOUT  STATE  ORPHAN  SOURCE  PROBLEM
n1    fast  v1:aaaaaaaaaa:n1:pvc-a  pvc-a  1.5Gi  mount   xfs  linear  ready  -       -       -
n1    fast  v1:aaaaaaaaaa:n1:pvc-longer  pvc-longer  1.5Gi  block   -    raid1 x2  new    ORPHAN  -       has lost a mirror
n1    fast  v1:aaaaaaaaaa:n1:pvc-c       pvc-c       1.5Gi  ?       -    ?         ready  ?       -       its node is down: last known state
"
    );
    let empty = Controller::default();
    for list in ["nodes", "pools", "volumes", "snapshots"] {
        assert_eq!(printed(&empty, list).await, "none\n");
    }
}

#[tokio::test]
async fn json_is_one_object_with_stable_names_and_bytes_as_numbers() {
    let controller = example();
    let read = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let nodes = read(printed(&controller, "nodes -o json").await);
    assert_eq!(
        nodes,
        json!({"nodes": [
            {
                "name": "n1", "reachable": true, "since_seconds": 300, "why": "", "version": "0.1.0", "boot_id": "boot",
                "pod_uid": "", "instance": "run", "pools": 2, "volumes": 120, "bytes": 2048 * GIB,
                "free_bytes": 100 * GIB,
            },
            {
                "name": "node-2", "reachable": false, "since_seconds": 86400, "why": "Connection refused",
                "version": null, "boot_id": null, "pod_uid": null, "instance": null, "pools": null, "volumes": null,
                "bytes": null, "free_bytes": null,
            },
        ]})
    );
    let pools = read(printed(&controller, "pools -o json").await);
    assert_eq!(
        pools["pools"][0],
        json!({
            "node": "n1", "name": "fast", "kind": "lvm", "on": "vg0", "storage": "aaaaaaaaaa", "unique_storage": true,
            "bytes": 100 * GIB,
            "free_bytes": 10 * GIB, "largest_bytes": 5 * GIB, "metadata_bytes": 1000, "metadata_free_bytes": 750,
            "thin": null, "volumes": 12, "problems": [], "reachable": true,
        })
    );
    assert_eq!(pools["pools"][1]["problems"], json!(["a disk is missing", "another too"]));
    let volumes = read(printed(&controller, "volumes -o json").await);
    assert_eq!(
        volumes["volumes"][1],
        json!({
            "id": "v1:aaaaaaaaaa:n1:pvc-longer", "name": "pvc-longer", "node": "n1", "pool": "fast",
            "bytes": 3 * GIB / 2, "access": "block", "filesystem": null, "layout": "raid1", "disks": 2, "ready": false,
            "problem": "has lost a mirror", "orphan": true, "reachable": true, "source": null, "copied_bytes": null,
            "to_copy_bytes": null, "limits": { "readBytesPerSecond": 1 << 20, "writeIops": 500 },
            "limits_problem": "no cgroup", "encryption": null,
        })
    );
    let known = |index: usize| (&volumes["volumes"][index]["orphan"], &volumes["volumes"][index]["access"]);
    assert_eq!(known(0), (&json!(false), &json!("mount")));
    assert_eq!(known(2), (&Value::Null, &Value::Null));
    assert_eq!(volumes["volumes"].as_array().unwrap().len(), 3);
    for list in ["nodes", "pools", "volumes", "snapshots"] {
        let none = read(printed(&Controller::default(), &format!("{list} -o json")).await);
        assert_eq!(none, json!({list: []}));
    }
}

/// The controller is newer than this command.
#[tokio::test]
async fn a_volume_with_an_identifier_of_a_newer_version_is_shown_as_it_is() {
    let controller = Controller { newer: vec!["pvc-a", "pvc-longer"], page: 3, ..example() };
    assert_eq!(
        printed(&controller, "volumes").await,
        "\
NODE  POOL  ID                           NAME         SIZE  ACCESS  FS   LAYOUT    STATE  ORPHAN  SOURCE  PROBLEM
?     fast  v2:aaaaaaaaaa:n1:pvc-a       pvc-a       1.5Gi  mount   xfs  linear    ready  -       -       this version cannot parse its identifier: use the `quarry` of the controller's own version
?     fast  v2:aaaaaaaaaa:n1:pvc-longer  pvc-longer  1.5Gi  block   -    raid1 x2  new    ORPHAN  -       has lost a mirror; this version cannot parse its identifier: use the `quarry` of the controller's own version
n1    fast  v1:aaaaaaaaaa:n1:pvc-c       pvc-c       1.5Gi  ?       -    ?         ready  ?       -       its node is down: last known state
"
    );
    let json: Value = serde_json::from_str(&printed(&controller, "volumes -o json").await).unwrap();
    let shown = |index: usize| (&json["volumes"][index]["id"], &json["volumes"][index]["node"]);
    assert_eq!(shown(0), (&json!("v2:aaaaaaaaaa:n1:pvc-a"), &Value::Null));
    assert_eq!(shown(2), (&json!("v1:aaaaaaaaaa:n1:pvc-c"), &json!("n1")));
    assert_eq!(json["volumes"][1]["disks"], json!(2));
}

#[tokio::test]
async fn flags_filter_volumes_and_all_pages_are_requested() {
    let controller = example();
    printed(&controller, "volumes --node n1 --pool fast --orphans --problems").await;
    let asked = controller.asked.lock().unwrap().clone();
    let tokens: Vec<_> = asked.iter().map(|request| request.page_token.as_str()).collect();
    assert_eq!(tokens, ["", "1", "2"]);
    for request in &asked {
        assert_eq!((request.node.as_str(), request.pool.as_str()), ("n1", "fast"));
        assert!(request.orphans_only && request.problems_only);
    }
}

#[tokio::test]
async fn ten_thousand_volumes_are_printed() {
    let volumes = (0..10_000).map(|number| listed(volume(&format!("pvc-{number:05}")))).collect();
    let controller = Controller { volumes, page: 500, ..Default::default() };
    let table = printed(&controller, "volumes").await;
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 10_001);
    assert!(lines.iter().skip(1).all(|line| line.len() == lines[1].len()), "aligned over all pages");
    let json: Value = serde_json::from_str(&printed(&controller, "volumes -o json").await).unwrap();
    assert_eq!(json["volumes"].as_array().unwrap().len(), 10_000);
}

fn finding(level: v2::Level, subject: &str) -> v2::Finding {
    v2::Finding {
        level: level.into(),
        check: "some-check".into(),
        subject: subject.into(),
        problem: "is not as it should be".into(),
        advice: "make it so".into(),
    }
}

#[tokio::test]
async fn doctor_fails_only_for_errors() {
    let totals = v2::Totals {
        nodes: 3,
        reachable_nodes: 2,
        pools: 4,
        volumes: 5,
        orphans: 1,
        orphans_known: true,
        snapshots: 6,
    };
    let with = |findings: Vec<v2::Finding>| Controller {
        diagnosis: v2::DiagnoseResponse { findings, totals: Some(totals), version: "0.1.0".into() },
        ..Default::default()
    };
    let looked_at = "2 of 3 nodes up, 4 pools, 5 volumes, 1 orphan, 6 snapshots; controller 0.1.0\n";
    assert_eq!(printed(&with(vec![]), "doctor").await, format!("No problem found; {looked_at}"));
    let warned = with(vec![finding(v2::Level::Warning, "pool p"), finding(v2::Level::Note, "x")]);
    assert!(printed(&warned, "doctor").await.ends_with(&format!("\n\n0 errors, 1 warning; {looked_at}")));

    let bad = with(vec![finding(v2::Level::Error, "node n"), finding(v2::Level::Warning, "pool \u{1b}[2J")]);
    let (out, ended) = ask(&bad, "doctor").await;
    assert_eq!(ended, Ok(ExitCode::FAILURE));
    assert_eq!(
        out,
        format!(
            "\
ERROR    node n: is not as it should be
         -> make it so
WARNING  pool \\u{{1b}}[2J: is not as it should be
         -> make it so

1 error, 1 warning; {looked_at}"
        )
    );
    let (out, ended) = ask(&bad, "doctor -o json").await;
    assert_eq!(ended, Ok(ExitCode::FAILURE));
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        json["findings"][0],
        json!({
            "level": "error", "check": "some-check", "subject": "node n", "problem": "is not as it should be",
            "advice": "make it so",
        })
    );
    assert_eq!((&json["nodes"], &json["reachable_nodes"], &json["orphans"]), (&json!(3), &json!(2), &json!(1)));
}

#[test]
fn long_advice_is_wrapped_in_a_terminal_and_its_commands_are_not() {
    let command = format!("`lvconvert --yes --repair vg/{}`", "x".repeat(36));
    let advice = format!("{}{command}, then {}", "do this and ".repeat(30), "do that ".repeat(10));
    let long = v2::Finding { advice, ..finding(v2::Level::Error, "node n") };
    let diagnosis = v2::DiagnoseResponse { findings: vec![long], ..Default::default() };
    let shown = |width| rows::diagnosis(&diagnosis, Terminal { width, ..Terminal::default() });
    for (width, fits) in [(200, 120), (120, 120), (80, 80), (40, 40)] {
        let out = shown(Some(width));
        let lines: Vec<_> = out.lines().take_while(|line| !line.is_empty()).collect();
        assert!(lines.len() > 4, "{out}");
        // Only the line with the command may be longer.
        assert!(lines.iter().all(|line| line.len() <= fits || line.contains(&command)), "{width}: {out}");
        let beneath = |line: &&str| line.starts_with("       ");
        assert!(lines.iter().skip(1).all(beneath), "under the text, not under the level: {out}");
        assert!(lines.iter().any(|line| line.contains(&command)), "{width}: {out}");
    }
    // A file or a pipe has no width.
    let out = shown(None);
    assert_eq!(out.lines().position(str::is_empty), Some(2), "{out}");
}

#[tokio::test]
async fn errors_say_what_to_run_and_where() {
    let refusing = Controller { refuses: true, ..example() };
    let (_, refused) = ask(&refusing, "volumes --orphans").await;
    assert_eq!(refused.unwrap_err(), "FAILED_PRECONDITION: which volumes are wanted is not known");

    let nowhere = question("doctor", Path::new("/nonexistent/view.sock"));
    let error = run(nowhere, Terminal::default(), &mut Vec::new()).await.unwrap_err().to_string();
    assert!(error.starts_with("UNAVAILABLE: cannot connect to /nonexistent/view.sock: "), "{error}");
    assert!(error.contains("`kubectl quarry doctor`") && error.contains("--socket"), "{error}");
}

/// A reader that closes the pipe early, like `head`.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_closed_pipe_is_not_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("view.sock");
    let server = Server::builder().add_service(ViewServer::new(example()));
    let server = tokio::spawn(server.serve_with_incoming(unix::listen(&path).unwrap()));
    for line in ["volumes", "nodes -o json", "doctor"] {
        assert_eq!(
            run(question(line, &path), Terminal::default(), &mut Closed).await.unwrap(),
            ExitCode::SUCCESS,
            "{line}"
        );
    }
    server.abort();
}
