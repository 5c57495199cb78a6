//! `kubectl quarry forget`, with a fake kubectl that answers from files and records its arguments.
#![allow(clippy::disallowed_types)] // quarry-exec is only for programs that Quarry starts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const QUARRY: &str = env!("CARGO_BIN_EXE_quarry");
/// The directory of the fake kubectl.
const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake");
const DRIVER: &str = "disks.example.org";
const STORAGE: &str = "aaaaaaaaaa";

/// A cluster whose node n1 came back with other disks.
struct Cluster(TempDir);

impl Cluster {
    fn new() -> Self {
        let cluster = Self(tempfile::tempdir().unwrap());
        cluster.put("pods", "ns c True\n");
        cluster.put("identity", json!({"name": DRIVER, "ready": true}));
        cluster.put("nodes", json!({"nodes": [node("n1", true), node("n2", true)]}));
        cluster.put("pools", json!({"pools": [pool("n1", "bbbbbbbbbb", true), pool("n2", "cccccccccc", true)]}));
        let volumes = [volume("pv-a", "n1"), volume("pv-b", "n1"), volume("elsewhere", "n2")];
        cluster.put("volumes", json!({ "items": volumes }));
        cluster.put("crd", "");
        cluster.put("whoami", "alice@example.org");
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The file contains what kubectl prints.
    fn put(&self, name: &str, contents: impl ToString) {
        std::fs::write(self.path(name), contents.to_string()).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Runs the plugin without a terminal.
    fn forget(&self, options: &[&str]) -> Output {
        let _ = std::fs::remove_file(self.path("asked"));
        Command::new(QUARRY)
            .arg0("kubectl-quarry")
            .args(["--context=k", "forget", "--storage", STORAGE, "--node", "n1"])
            .args(options)
            .env("PATH", format!("{FAKE}:{}", std::env::var("PATH").unwrap()))
            .env("CLUSTER", self.0.path())
            .env("ASKED", self.path("asked"))
            .env("PODS", self.path("pods"))
            .env_remove("QUARRY_NAMESPACE")
            .env_remove("QUARRY_SELECTOR")
            .env_remove("QUARRY_CONTAINER")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The plugin fails, and changes nothing.
    fn refuses(&self, options: &[&str]) -> String {
        let output = self.forget(options);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(!self.changed(), "{}", self.read("asked"));
        error
    }

    /// Whether kubectl was asked to change anything.
    fn changed(&self) -> bool {
        let asked = self.read("asked");
        asked.contains("|annotate|") || asked.contains("|create|")
    }

    /// The calls of kubectl that change something, in their order.
    fn changes(&self) -> Vec<String> {
        let asked = self.read("asked");
        let changes = asked.lines().filter(|line| line.contains("|annotate|") || line.contains("|create|"));
        changes.map(str::to_owned).collect()
    }

    /// The objects that were created by the last run.
    fn created(&self) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.read("created")).unwrap();
        list["items"].as_array().unwrap().clone()
    }
}

fn node(name: &str, reachable: bool) -> Value {
    json!({"name": name, "reachable": reachable, "why": if reachable { "" } else { "Connection refused" }, "pools": 1})
}

fn pool(node: &str, storage: &str, is_unique: bool) -> Value {
    json!({
        "node": node, "name": "fast", "kind": if is_unique { "lvm" } else { "disk" }, "storage": storage,
        "unique_storage": is_unique, "problems": [], "reachable": true,
    })
}

fn volume(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": {
            "csi": {"driver": DRIVER, "volumeHandle": format!("v1:{STORAGE}:{node}:{name}")},
            "capacity": {"storage": "2Gi"}, "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": "ns", "name": format!("data-{name}")},
        },
        "status": {"phase": "Bound"},
    })
}

fn annotated(mut volume: Value) -> Value {
    volume["metadata"]["annotations"] = json!({ (format!("{DRIVER}/storage-gone")): STORAGE });
    volume
}

#[test]
fn each_volume_on_the_storage_gets_an_event_and_the_annotation() {
    let cluster = Cluster::new();
    let output = cluster.forget(&["--yes"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{printed} {}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<&str> = printed.lines().take(3).collect();
    assert_eq!(
        rows[1].split_whitespace().collect::<Vec<_>>(),
        ["pv-a", "ns/data-pv-a", "2Gi", "Bound", "Delete", "no"]
    );
    assert!(!printed.contains("elsewhere") && printed.contains("Bound (2)"), "{printed}");
    assert!(printed.ends_with("confirmed on 2 PersistentVolumes\n"), "{printed}");
    assert_eq!(
        cluster.changes(),
        [
            "--context=k|create|--filename=-|--output=name|".to_owned(),
            format!("--context=k|annotate|persistentvolume|--overwrite|pv-a|pv-b|{DRIVER}/storage-gone={STORAGE}|"),
        ]
    );
    let events = cluster.created();
    assert_eq!(events.len(), 2);
    let regarding = json!({"apiVersion": "v1", "kind": "PersistentVolume", "name": "pv-a", "uid": "uid-pv-a"});
    assert_eq!((&events[0]["regarding"], &events[0]["metadata"]["namespace"]), (&regarding, &json!("default")));
    let note = events[0]["note"].as_str().unwrap();
    assert!(note.starts_with("alice@example.org confirmed") && note.contains("v1:aaaaaaaaaa:n1:pv-a"), "{note}");
    // As the API parses it: with six digits.
    let time = events[0]["eventTime"].as_str().unwrap();
    assert_eq!((time.len(), &time[19..20], &time[26..]), (27, ".", "Z"), "{time}");
}

#[test]
fn storage_that_exists_is_refused() {
    let cluster = Cluster::new();
    for (node, where_) in [("n1", "node n1 has storage aaaaaaaaaa"), ("n2", "on node n2")] {
        cluster.put("pools", json!({"pools": [pool("n1", "bbbbbbbbbb", true), pool(node, STORAGE, true)]}));
        let error = cluster.refuses(&["--yes", "--unchecked"]);
        assert!(error.contains("nothing was changed") && error.contains(where_), "{error}");
    }
}

#[test]
fn a_node_that_cannot_be_asked_needs_an_option() {
    let cluster = Cluster::new();
    for (nodes, why) in [(vec![node("n1", false)], "cannot reach node n1"), (vec![], "does not know node n1")] {
        cluster.put("nodes", json!({ "nodes": nodes }));
        let error = cluster.refuses(&["--yes"]);
        assert!(error.contains(why) && error.contains("--unchecked"), "{error}");
        let output = cluster.forget(&["--yes", "--unchecked"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap().replace('\n', " ");
        assert!(printed.contains(why) && cluster.changed(), "{printed}");
    }
}

#[test]
fn without_a_terminal_the_option_is_needed() {
    let cluster = Cluster::new();
    let error = cluster.refuses(&[]);
    assert!(error.contains("nothing was changed") && error.contains("--yes"), "{error}");
}

#[test]
fn a_second_run_does_only_what_is_left() {
    let cluster = Cluster::new();
    cluster.put("volumes", json!({"items": [annotated(volume("pv-a", "n1")), volume("pv-b", "n1")]}));
    assert_eq!(cluster.forget(&["--yes"]).status.code(), Some(0));
    assert_eq!(
        cluster.changes()[1],
        format!("--context=k|annotate|persistentvolume|--overwrite|pv-b|{DRIVER}/storage-gone={STORAGE}|")
    );
    assert_eq!(cluster.created().len(), 1);

    cluster.put("volumes", json!({"items": [annotated(volume("pv-a", "n1"))]}));
    let output = cluster.forget(&[]);
    assert!(output.status.success() && !cluster.changed(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("already"), "{output:?}");

    cluster.put("volumes", json!({"items": []}));
    let output = cluster.forget(&[]);
    assert!(output.status.success() && !cluster.changed(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("nothing to do"), "{output:?}");
}

#[test]
fn several_volumes_with_one_handle_are_all_annotated() {
    let cluster = Cluster::new();
    let mut copy = volume("pv-copy", "n1");
    copy["spec"]["csi"]["volumeHandle"] = json!(format!("v1:{STORAGE}:n1:pv-a"));
    cluster.put("volumes", json!({"items": [volume("pv-a", "n1"), copy]}));
    assert_eq!(cluster.forget(&["--yes"]).status.code(), Some(0));
    assert!(cluster.changes()[1].contains("|pv-a|pv-copy|"), "{:?}", cluster.changes());
}

#[test]
fn many_volumes_are_annotated_in_batches() {
    let cluster = Cluster::new();
    let volumes: Vec<Value> = (0..51).map(|number| volume(&format!("pv-{number:02}"), "n1")).collect();
    cluster.put("volumes", json!({ "items": volumes }));
    assert_eq!(cluster.forget(&["--yes"]).status.code(), Some(0));
    let changes = cluster.changes();
    assert_eq!(changes.len(), 4, "{changes:?}");
    assert!(changes[1].contains("|pv-00|") && changes[1].contains("|pv-49|") && changes[3].contains("|pv-50|"));
}

#[test]
fn a_user_who_may_not_annotate_writes_no_events() {
    for verb in ["get", "patch"] {
        let cluster = Cluster::new();
        cluster.put(&format!("{verb}-forbidden"), "");
        let error = cluster.refuses(&["--yes"]);
        assert!(error.contains(&format!("nothing was changed: you may not {verb} persistentvolumes/pv-a")), "{error}");
    }
}

#[test]
fn a_failure_says_how_far_it_came() {
    let cluster = Cluster::new();
    cluster.put("create-fails", "");
    let output = cluster.forget(&["--yes"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), cluster.changes().len()),
        (Some(1), 1),
        "no annotation without its event: {error}"
    );
    assert!(error.contains("cannot write the events (0 of 2 confirmed; run the command again)"), "{error}");
    std::fs::remove_file(cluster.path("create-fails")).unwrap();
    cluster.put("annotate-fails", "");
    let output = cluster.forget(&["--yes"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("cannot annotate the PersistentVolumes pv-a, pv-b (0 of 2 confirmed"), "{error}");
}

#[test]
fn snapshots_on_the_storage_are_named() {
    let cluster = Cluster::new();
    cluster.put("crd", "customresourcedefinition.apiextensions.k8s.io/volumesnapshotcontents\n");
    let content = |name: &str, driver: &str, status: Value, source: Value| json!({"metadata": {"name": name}, "spec": {"driver": driver, "source": source}, "status": status});
    let (handle, none) = (format!("s1:{STORAGE}:n1:snap"), json!({"volumeHandle": "v"}));
    let contents = [
        content("taken", DRIVER, json!({"snapshotHandle": handle}), none.clone()),
        content("given", DRIVER, Value::Null, json!({"snapshotHandle": handle})),
        content("foreign", "other.example.org", json!({"snapshotHandle": handle}), none.clone()),
        content("other", DRIVER, json!({"snapshotHandle": format!("s1:{STORAGE}:n2:snap")}), none),
    ];
    cluster.put("contents", json!({ "items": contents }));
    let output = cluster.forget(&["--yes"]);
    let printed = String::from_utf8(output.stdout).unwrap().replace('\n', " ");
    assert!(printed.contains("2 VolumeSnapshotContents are also on this storage: taken, given."), "{printed}");
    assert!(printed.contains("deletionPolicy"), "{printed}");
    // What is not known about them does not stop the command.
    cluster.put("contents", "nonsense");
    let output = cluster.forget(&["--yes"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && printed.contains("It is not known which VolumeSnapshotContents"), "{printed}");
}

#[test]
fn a_user_whose_name_is_not_known_can_confirm_too() {
    let cluster = Cluster::new();
    std::fs::remove_file(cluster.path("whoami")).unwrap();
    let output = cluster.forget(&["--yes"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(cluster.created()[0]["note"].as_str().unwrap().starts_with("an operator confirmed"));
}

#[test]
fn mistakes_are_found_without_a_cluster() {
    let cluster = Cluster::new();
    for storage in ["vg0", "AAAAAAAAAA", "v1:aaaaaaaaaa:n1:pvc"] {
        let output = Command::new(QUARRY)
            .arg0("kubectl-quarry")
            .args(["forget", "--storage", storage, "--node", "n1"])
            .env("PATH", format!("{FAKE}:{}", std::env::var("PATH").unwrap()))
            .env("ASKED", cluster.path("asked"))
            .output()
            .unwrap();
        assert_eq!((output.status.code(), cluster.read("asked").is_empty()), (Some(2), true), "{storage}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("ten characters"), "{output:?}");
    }
}
