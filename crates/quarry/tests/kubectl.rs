//! `kubectl quarry`, with a fake kubectl that records its arguments: the binary under that name, and
//! `deploy/kubectl-quarry`, which does the same where the binary does not run.
#![allow(clippy::disallowed_types)] // quarry-exec is only for programs that Quarry starts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const QUARRY: &str = env!("CARGO_BIN_EXE_quarry");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/kubectl-quarry");
/// The directory of the fake kubectl.
const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake");

/// Runs the plugin in a cluster with these pods (`namespace name ready` each), and returns its output and
/// kubectl's arguments.
fn run(pods: &str, arguments: &[&str]) -> (Output, Vec<String>) {
    run_with(pods, "", arguments, &tempfile::tempdir().unwrap())
}

/// The same for pods whose containers have these arguments, as jsonpath prints them. `directory` has the files of the
/// fakes. The script does the same as the binary.
fn run_with(pods: &str, of_pod: &str, arguments: &[&str], directory: &TempDir) -> (Output, Vec<String>) {
    let mut binary = Command::new(QUARRY);
    binary.arg0("/usr/local/bin/kubectl-quarry");
    let (output, asked) = start(binary, pods, of_pod, arguments, directory.path());

    let of_script = tempfile::tempdir().unwrap();
    let mut script = Command::new("sh");
    script.arg(SCRIPT);
    let (by_script, asked_by_script) = start(script, pods, of_pod, arguments, of_script.path());
    assert_eq!(asked, asked_by_script);
    assert_eq!(
        (output.status.code(), &output.stdout, output.stderr.is_empty()),
        (by_script.status.code(), &by_script.stdout, by_script.stderr.is_empty()),
        "{output:?} {by_script:?}"
    );
    (output, asked)
}

fn start(mut plugin: Command, pods: &str, of_pod: &str, arguments: &[&str], directory: &Path) -> (Output, Vec<String>) {
    let at = |name: &str| directory.join(name);
    std::fs::write(at("pods"), pods).unwrap();
    let path = format!("{FAKE}:{}", std::env::var("PATH").unwrap());
    let output = plugin
        .args(arguments)
        .env("PATH", path)
        .env("ASKED", at("asked"))
        .env("PODS", at("pods"))
        .env("ARGUMENTS", of_pod)
        .env("OPENED", at("opened"))
        .env("DISPLAY", ":0")
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
    let pods = "storage controller-a False\nstorage controller-b True\nstorage controller-c True\n";
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
fn one_of_two_installations_is_not_chosen_silently() {
    let disks = ["disks", "--node", "n1"];
    for (pods, words, named) in [
        (
            "a c True one controller\nb c True two controller\n",
            ["doctor"].as_slice(),
            ["namespace a, instance one", "b"],
        ),
        ("a c True one controller\na d False two controller\n", &["doctor"], ["instance one", "instance two"]),
        ("a c True\nb d True\n", &["page"], ["namespace a", "namespace b"]),
        ("a n1 True one node\na n2 True two node\n", &disks, ["instance one", "instance two"]),
    ] {
        let (output, asked) = run(pods, words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), asked.len()), (Some(1), 1), "{error}");
        for name in named.into_iter().chain(["more than one Quarry", "--namespace", "instance=NAME"]) {
            assert!(error.contains(name), "{name}: {error}");
        }
    }
}

#[test]
fn labels_tell_pods_apart_if_there_are_any() {
    for pods in [
        "a c False one controller\na d True one controller\n",
        // Pods without these labels, as without the chart; one has never been ready.
        "a c   \na d True  \n",
        // A selector that matches both components, or labels of your own.
        "a n True one node\na d True one controller\n",
        "a d True one storage\n",
    ] {
        let (_, asked) = run(pods, &["doctor"]);
        assert_eq!(asked[1], "exec|--namespace=a|d|--|quarry|doctor|", "{pods}");
    }
    let (_, asked) = run("a d True one controller\na n True one node\n", &["disks", "--node", "n1"]);
    assert_eq!(asked[1], "exec|--namespace=a|n|--|quarry|disks|");
}

#[test]
fn orphans_are_listed_and_deleted_in_the_pod() {
    for words in ["orphans -o json", "orphans list --pool fast", "orphans delete v1:aaaaaaaaaa:n1:pvc-a --yes"] {
        let arguments: Vec<&str> = words.split(' ').collect();
        let (_, asked) = run("ns c True\n", &arguments);
        // The test has no terminal, so the plugin asks kubectl for none.
        assert_eq!(asked[1], format!("exec|--namespace=ns|c|--|quarry|{}|", arguments.join("|")));
    }
}

#[test]
fn the_script_says_where_forget_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut script = Command::new("sh");
    script.arg(SCRIPT);
    let arguments = ["forget", "--storage", "aaaaaaaaaa", "--node", "n1"];
    let (output, asked) = start(script, "ns c True\n", "", &arguments, directory.path());
    assert_eq!((output.status.code(), asked.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("docs/operating.md"), "{output:?}");
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

/// The arguments of a controller's containers, as jsonpath prints them.
const SERVES: &str =
    r#"["controller","--node-pods=a=b,c=d","--page=127.0.0.1:9814","--log=info"] ["--csi-address=/run/c"]"#;

#[test]
fn the_page_is_forwarded_and_opened() {
    let directory = tempfile::tempdir().unwrap();
    let (output, asked) = run_with("ns c True\n", SERVES, &["--context", "k", "page"], &directory);
    assert!(asked[0].contains("app.kubernetes.io/component=controller|"), "{asked:?}");
    assert!(asked[1].starts_with("--context=k|get|pod|c|--namespace=ns|"), "{asked:?}");
    assert_eq!(asked[2], "--context=k|port-forward|--namespace=ns|--address=127.0.0.1|pod/c|9814:9814|");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed, "http://127.0.0.1:40404/ (Ctrl+C ends it)\n");
    assert_eq!(output.status.code(), Some(6), "the exit code is kubectl's");
    let (began, opened) = (Instant::now(), directory.path().join("opened"));
    while !opened.exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "no browser was opened");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(std::fs::read_to_string(opened).unwrap(), "http://127.0.0.1:40404/|");
}

#[test]
fn the_page_has_options_of_its_own() {
    for arguments in [["page", "--port", "0", "--no-open"].as_slice(), &["page", "--no-open", "--port=0"]] {
        let directory = tempfile::tempdir().unwrap();
        let (_, asked) = run_with("ns c True\n", SERVES, arguments, &directory);
        assert!(asked[2].ends_with("|pod/c|0:9814|"), "{asked:?}");
        std::thread::sleep(Duration::from_millis(200));
        assert!(!directory.path().join("opened").exists());
    }
    for arguments in [["page", "--port"].as_slice(), &["page", "--node", "a"], &["page", "x"]] {
        let (output, asked) = run("ns c True\n", arguments);
        assert_eq!((output.status.code(), asked.len()), (Some(2), 0), "{arguments:?}");
    }
    let without = SERVES.replace("--page=", "--pages=");
    let (output, asked) = run_with("ns c True\n", &without, &["page"], &tempfile::tempdir().unwrap());
    assert_eq!((output.status.code(), asked.len()), (Some(1), 2), "{asked:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("controller.pagePort"), "{output:?}");
}

#[test]
fn without_a_command_usage_is_printed() {
    let (output, asked) = run("", &[]);
    assert_eq!((output.status.code(), asked.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("doctor"), "{output:?}");
    let (output, _) = run("", &["-n"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_mistake_is_found_without_a_cluster() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, mistake) in [
        (["volumes", "--orphan"].as_slice(), "--orphan"),
        (&["volumes", "-o", "yaml"], "yaml"),
        (&["orphans", "delete", "pvc-a"], "pvc-a"),
        (&["orphans", "delete"], "ID"),
        (&["forget", "--node", "n1"], "--storage"),
        (&["standalone"], "standalone"),
    ] {
        let mut binary = Command::new(QUARRY);
        binary.arg0("kubectl-quarry");
        let (output, asked) = start(binary, "ns c True\n", "", arguments, directory.path());
        assert_eq!((output.status.code(), asked.len()), (Some(2), 0), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(mistake), "{output:?}");
    }
}

#[test]
fn a_failure_of_kubectl_is_not_hidden() {
    let mut binary = Command::new(QUARRY);
    binary.arg0("kubectl-quarry");
    let directory = tempfile::tempdir().unwrap();
    // The fake prints the pods with cat, which fails.
    let output = binary
        .arg("nodes")
        .env("PATH", format!("{FAKE}:{}", std::env::var("PATH").unwrap()))
        .env("ASKED", directory.path().join("asked"))
        .env("PODS", "/nonexistent/pods")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("/nonexistent/pods") && error.contains("cannot list the pods of Quarry"), "{error}");
}

#[test]
fn words_are_completed_as_kubectl_asks_for_it() {
    let completed = |words: &[&str]| {
        let mut binary = Command::new(QUARRY);
        binary.arg0("kubectl_complete-quarry");
        String::from_utf8(binary.args(words).output().unwrap().stdout).unwrap()
    };
    let commands = completed(&[""]);
    for name in ["doctor\t", "disks\t", "forget\t", "orphans\t", "page\t", "volumes\tList the volumes of all nodes"] {
        assert!(commands.lines().any(|line| line.starts_with(name)), "{name}: {commands}");
    }
    assert!(commands.ends_with("\n:4\n") && !commands.contains("--"), "{commands}");
    let options = completed(&["-n", "quarry", "volumes", "--or"]);
    assert_eq!(options, "--orphans\tOnly volumes without a PersistentVolume\n:4\n");
    assert!(completed(&["volumes", "-o", ""]).contains("wide\t"));
    assert!(completed(&["orphans", "de"]).starts_with("delete\tDelete one orphan"));
    assert!(completed(&["forget", "--st"]).starts_with("--storage\t"));
}

#[test]
fn bash_accepts_the_script_of_completions() {
    let script = Command::new(QUARRY).args(["completions", "bash"]).output().unwrap();
    assert!(script.status.success() && script.stdout.len() > 10_000, "{script:?}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("quarry");
    std::fs::write(&path, &script.stdout).unwrap();
    let output = Command::new("bash").arg("-n").arg(&path).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    // The script completes a word in a real shell.
    let ask = format!(
        "source {}; COMP_WORDS=(quarry csi snap); COMP_CWORD=2; _quarry quarry snap csi; echo \"${{COMPREPLY[@]}}\"",
        path.display()
    );
    let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "snapshot\n", "{output:?}");
}
