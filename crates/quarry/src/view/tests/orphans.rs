//! Orphans: how they are listed, and which ones can be deleted.

use std::sync::Mutex;

use clap::Parser as _;
use quarry_proto::csi::v1::controller_server::ControllerServer;
use quarry_volume::{Filesystem, Snapshot};
use serde_json::{Value, json};

use super::*;
use crate::csi::tests::Driver;
use crate::view::orphans::Id;
use crate::view::orphans::delete::{Delete, Holders, delete};

const VOLUME: &str = "v1:aaaaaaaaaa:n1:pvc-a";
const SNAPSHOT: &str = "s1:aaaaaaaaaa:n1:snap";

fn snapshot(orphan: Option<bool>) -> ListedSnapshot {
    let snapshot = Snapshot {
        size: GIB,
        pool: "fast".into(),
        created: 1,
        ready: true,
        ..Snapshot::new(SNAPSHOT.parse().unwrap(), VOLUME.parse().unwrap())
    };
    ListedSnapshot { snapshot, orphan, reachable: true }
}

/// A controller with one volume and one snapshot, which are orphans or not.
fn with(orphan: Option<bool>) -> Controller {
    Controller {
        volumes: vec![
            listed(volume("pvc-b")),
            ListedVolume { orphan, ..listed(Volume { filesystem: Some(Filesystem::Xfs), ..volume("pvc-a") }) },
        ],
        snapshots: vec![snapshot(orphan)],
        ..Default::default()
    }
}

#[tokio::test]
async fn volumes_and_snapshots_are_two_tables() {
    let orphans = Controller {
        volumes: vec![ListedVolume { orphan: Some(true), ..listed(volume("pvc-a")) }],
        ..with(Some(true))
    };
    for line in ["orphans --node n1 --pool fast", "orphans list --node n1 --pool fast"] {
        let printed = printed(&orphans, line).await;
        let parts: Vec<&str> = printed.split("\n\n").collect();
        assert_eq!(parts.len(), 2, "{printed}");
        assert!(parts[0].contains(VOLUME) && parts[0].contains("ACCESS"), "{printed}");
        assert!(parts[1].contains("s1:aaaaaaaaaa:n1:snap") && parts[1].contains("METHOD"), "{printed}");
    }
    for asked in orphans.asked.lock().unwrap().iter() {
        assert!(asked.orphans_only && asked.node == "n1" && asked.pool == "fast", "{asked:?}");
    }
    let read = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let json = read(printed(&orphans, "orphans -o json").await);
    assert_eq!((&json["volumes"][0]["id"], &json["snapshots"][0]["id"]), (&json!(VOLUME), &json!(SNAPSHOT)));
    assert_eq!(printed(&Controller::default(), "orphans").await, "none\n");
    assert_eq!(read(printed(&Controller::default(), "orphans -o json").await), json!({"volumes": [], "snapshots": []}));
}

#[tokio::test]
async fn only_orphaned_snapshots_are_listed_and_unknown_ones_are_no_failure() {
    let none = Controller { snapshots: vec![snapshot(Some(false))], ..Default::default() };
    assert_eq!(printed(&none, "orphans").await, "none\n");
    let unknown = Controller { snapshots: vec![snapshot(None)], ..Default::default() };
    let text = printed(&unknown, "orphans").await;
    assert!(text.starts_with("none\n\nIt is not known which snapshots are orphans"), "{text}");
    let json: Value = serde_json::from_str(&printed(&unknown, "orphans -o json").await).unwrap();
    assert_eq!(json, json!({"volumes": [], "snapshots": null}));
}

/// What the API answers, one answer for each question; the last one is repeated.
struct Api(Mutex<Vec<Vec<&'static str>>>);

impl Api {
    fn new(answers: &[&[&'static str]]) -> Self {
        Self(Mutex::new(answers.iter().rev().map(|names| names.to_vec()).collect()))
    }
}

impl Holders for Api {
    async fn holders(&self, _: &Id) -> anyhow::Result<Vec<String>> {
        let mut answers = self.0.lock().unwrap();
        let names = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        let names = names.ok_or_else(|| anyhow::anyhow!("UNAVAILABLE: the API is down"))?;
        Ok(names.into_iter().map(str::to_owned).collect())
    }
}

#[derive(clap::Parser)]
struct DeleteLine {
    #[command(flatten)]
    args: Delete,
}

/// Tries to delete `id`. Returns the output or the error, and the calls that reached the driver.
async fn try_delete(
    controller: &Controller,
    api: &Api,
    id: &str,
    options: &[&str],
) -> (Result<String, String>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let (view, csi) = (directory.path().join("view.sock"), directory.path().join("csi.sock"));
    let driver = Driver::default();
    let viewed = Server::builder().add_service(ViewServer::new(controller.clone()));
    let viewed = tokio::spawn(viewed.serve_with_incoming(unix::listen(&view).unwrap()));
    let called = Server::builder().add_service(ControllerServer::new(driver.clone()));
    let called = tokio::spawn(called.serve_with_incoming(unix::listen(&csi).unwrap()));
    let sockets = [format!("--socket={}", view.display()), format!("--endpoint=unix://{}", csi.display())];
    let words = ["delete", id].into_iter().chain(sockets.iter().map(String::as_str)).chain(options.iter().copied());
    let args = DeleteLine::try_parse_from(words).unwrap().args;
    let mut out = Vec::new();
    let ended = delete(&args, api, &mut out).await;
    viewed.abort();
    called.abort();
    let asked = driver.asked.lock().unwrap().clone();
    (ended.map(|_| String::from_utf8(out).unwrap()).map_err(|error| format!("{error:#}")), asked)
}

#[tokio::test]
async fn an_orphan_is_shown_and_deleted() {
    let (printed, calls) = try_delete(&with(Some(true)), &Api::new(&[&[]]), VOLUME, &["--yes"]).await;
    let printed = printed.unwrap();
    for fact in
        ["node:       n1", "size:       1.5Gi", "filesystem: xfs", "state:      ready: it may contain data", SNAPSHOT]
    {
        assert!(printed.contains(fact), "{fact}: {printed}");
    }
    assert!(
        printed.contains("cannot be undone") && printed.ends_with(&format!("deleted volume {VOLUME}\n")),
        "{printed}"
    );
    assert!(calls.len() == 1 && calls[0].starts_with("DeleteVolumeRequest") && calls[0].contains(VOLUME), "{calls:?}");

    let (printed, calls) = try_delete(&with(Some(true)), &Api::new(&[&[]]), SNAPSHOT, &["--yes"]).await;
    let printed = printed.unwrap();
    assert!(printed.contains(&format!("source:     {VOLUME}")), "{printed}");
    assert!(
        calls.len() == 1 && calls[0].starts_with("DeleteSnapshotRequest") && calls[0].contains(SNAPSHOT),
        "{calls:?}"
    );
}

/// Its name, what the controller knows, what the API answers, the options, and the reason for the refusal.
type Case<'a> = (&'a str, Controller, &'a [&'a [&'static str]], &'a [&'a str], &'a str);

#[tokio::test]
async fn what_is_no_orphan_is_not_deleted() {
    let yes: &[&str] = &["--yes"];
    let down = {
        let mut down = with(Some(true));
        down.volumes[1].reachable = false;
        down.snapshots[0].reachable = false;
        down
    };
    for id in [VOLUME, SNAPSHOT] {
        let cases: [Case; 8] = [
            ("it is named", with(Some(false)), &[&["pv-a"]], yes, "pv-a names it"),
            // A PersistentVolume that the controller does not know yet, or of another driver.
            ("only the API knows", with(Some(true)), &[&["pv-a", "pv-b"]], yes, "pv-a, pv-b name it"),
            ("it is named while the person decides", with(Some(true)), &[&[], &["pv-a"]], yes, "pv-a names it"),
            ("it is young", with(Some(false)), &[&[]], yes, "is not an orphan yet"),
            ("the API is down", with(Some(true)), &[], yes, "UNAVAILABLE: the API is down"),
            ("the controller does not know the objects", with(None), &[&[]], yes, "not known whether"),
            ("its node is down", down.clone(), &[&[]], yes, "its node is down"),
            ("nobody confirmed", with(Some(true)), &[&[]], &[], "--yes"),
        ];
        for (case, controller, answers, options, reason) in cases {
            // Without --yes, a person at a terminal would be asked.
            if options.is_empty() && io::IsTerminal::is_terminal(&io::stdin()) {
                continue;
            }
            let (refused, calls) = try_delete(&controller, &Api::new(answers), id, options).await;
            let refused = refused.expect_err(case);
            assert!(refused.contains(reason), "{case}: {refused}");
            assert!(calls.is_empty(), "{case}: {calls:?}");
        }
    }
    for unknown in ["v1:aaaaaaaaaa:n1:pvc-z", "v1:bbbbbbbbbb:n1:pvc-a", "s1:aaaaaaaaaa:n1:other"] {
        let (refused, calls) = try_delete(&with(Some(true)), &Api::new(&[&[]]), unknown, yes).await;
        assert!(
            refused.unwrap_err().starts_with("NOT_FOUND: the controller knows no ") && calls.is_empty(),
            "{unknown}"
        );
    }
}

#[test]
fn only_identifiers_of_quarry_are_accepted() {
    for id in ["pvc-a", "v2:aaaaaaaaaa:n1:pvc-a", ""] {
        let error = DeleteLine::try_parse_from(["delete", id]).map(drop).unwrap_err().to_string();
        assert!(error.contains("`quarry orphans` lists them"), "{error}");
    }
}
