//! `deploy/kubectl-quarry`, with a fake kubectl that records its arguments.
#![allow(clippy::disallowed_types)] // quarry-exec is only for programs that Quarry starts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::{Command, Output};

const PLUGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/kubectl-quarry");
/// The directory of the fake kubectl.
const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake");

/// Runs the plugin in a cluster with these pods (`namespace name ready` each), and returns its output and
/// kubectl's arguments.
fn run(pods: &str, arguments: &[&str]) -> (Output, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("pods"), pods).unwrap();
    let path = format!("{FAKE}:{}", std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .arg(PLUGIN)
        .args(arguments)
        .env("PATH", path)
        .env("ASKED", at("asked"))
        .env("PODS", at("pods"))
        .env_remove("QUARRY_NAMESPACE")
        .env_remove("QUARRY_SELECTOR")
        .env_remove("QUARRY_CONTAINER")
        .output()
        .unwrap();
    let asked = std::fs::read_to_string(at("asked")).unwrap_or_default();
    (output, asked.lines().map(str::to_owned).collect())
}

#[test]
fn the_first_ready_controller_is_asked() {
    let pods = "storage controller-a False\nstorage controller-b True\nother controller-c True\n";
    let (output, asked) = run(pods, &["volumes", "--pool", "two words", "-o", "json"]);
    assert!(asked[0].starts_with("get|pods|--all-namespaces|--selector=app.kubernetes.io/name=quarry,"), "{asked:?}");
    assert_eq!(
        asked[1], "exec|--namespace=storage|controller-b|--|quarry|volumes|--pool|two words|-o|json|",
        "{asked:?}"
    );
    // The output and exit code of quarry are those of the plugin.
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), b"answer\n".as_slice()));
}

#[test]
fn kubectls_own_flags_reach_kubectl() {
    let (_, asked) = run("ns c True\n", &["-n", "ns", "--context=my cluster", "--kubeconfig", "/k f", "doctor"]);
    let own = "--context=my cluster|--kubeconfig=/k f|";
    assert!(asked[0].starts_with(&format!("{own}get|pods|--namespace=ns|")), "{asked:?}");
    assert_eq!(asked[1], format!("{own}exec|--namespace=ns|c|--|quarry|doctor|"));
}

#[test]
fn a_controller_that_is_not_ready_is_used_if_there_is_no_other() {
    let (_, asked) = run("ns c False\n", &["doctor"]);
    assert_eq!(asked[1], "exec|--namespace=ns|c|--|quarry|doctor|");
    let (output, asked) = run("", &["doctor"]);
    assert_eq!((output.status.code(), asked.len()), (Some(1), 1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no controller runs"), "{output:?}");
}

#[test]
fn disks_are_read_on_their_node() {
    for arguments in
        [["disks", "--node", "worker 1", "-o", "json"].as_slice(), &["disks", "--node=worker 1", "-o", "json"]]
    {
        let (_, asked) = run("ns node-a True\n", arguments);
        assert!(asked[0].contains("app.kubernetes.io/component=node|"), "{asked:?}");
        assert!(asked[0].contains("--field-selector=status.phase=Running,spec.nodeName=worker 1|"), "{asked:?}");
        assert_eq!(asked[1], "exec|--namespace=ns|node-a|--|quarry|disks|-o|json|");
    }
    let (output, _) = run("", &["disks", "--node", "worker-1"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no node plugin runs on worker-1"), "{output:?}");
    for arguments in [["disks"].as_slice(), &["disks", "--node"]] {
        let (output, asked) = run("ns node-a True\n", arguments);
        assert_eq!((output.status.code(), asked.len()), (Some(2), 0));
    }
    // For other commands, --node is an argument of quarry.
    let (_, asked) = run("ns c True\n", &["pools", "--node", "worker-1"]);
    assert_eq!(asked[1], "exec|--namespace=ns|c|--|quarry|pools|--node|worker-1|");
}

#[test]
fn without_a_command_usage_is_printed() {
    let (output, asked) = run("", &[]);
    assert_eq!((output.status.code(), asked.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("doctor"), "{output:?}");
    let (output, _) = run("", &["-n"]);
    assert_eq!(output.status.code(), Some(2));
}
