//! A run against a small driver on a real socket: counts, times by ratio, retries, errors, and the clean-up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use quarry_bench::{Kind, Phase, Plan, Results, Series, Stop, Sum, What, plot, report, run};
use quarry_proto::csi::v1::controller_service_capability::rpc::Type as ControllerRpc;
use quarry_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
use quarry_proto::csi::v1::{VolumeCapability, plugin_capability};
use support::{Double, Effect, Served};
use tonic::Code;

const MS: Duration = Duration::from_millis(1);
/// Longer than anything takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn plan(served: &Served) -> Plan {
    Plan {
        controller: served.endpoint(),
        node: served.endpoint(),
        volumes: 4,
        concurrency: vec![2],
        rounds: 1,
        warm_up: false,
        background: 0,
        without: [].into(),
        size: 1 << 30,
        expand_to: 2 << 30,
        capability: VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        },
        parameters: BTreeMap::new(),
        snapshot_parameters: BTreeMap::new(),
        secrets: [("token".to_owned(), "hunter2".to_owned())].into(),
        segments: BTreeMap::new(),
        work_dir: served.work_dir(),
        timeout: LONG,
        patience: LONG,
        retry_interval: MS,
        settle: Duration::ZERO,
        floor: None,
    }
}

async fn measure(plan: &Plan) -> Results {
    run(plan, &Stop::default(), &|_| {}).await.unwrap()
}

fn series(results: &Results, phase: Phase, concurrency: usize) -> &Series {
    find(results, What::Phase(phase), concurrency).unwrap_or_else(|| panic!("{phase} was not measured"))
}

fn find(results: &Results, what: What, concurrency: usize) -> Option<&Series> {
    results.series.iter().find(|series| series.what == what && series.concurrency == concurrency)
}

fn count(results: &Results, phase: Phase) -> usize {
    results.series.iter().filter(|series| series.what == What::Phase(phase)).map(|series| series.samples.len()).sum()
}

/// Nothing is left: no volume, no snapshot, no directory; and the driver saw no request against CSI.
fn assert_clean(double: &Double, served: &Served, results: &Results) {
    let state = double.state();
    assert_eq!(state.wrong, [""; 0]);
    assert!(state.volumes.is_empty() && state.snapshots.is_empty(), "{state:?}");
    assert_eq!(results.left_behind, [""; 0]);
    assert_eq!(served.leftovers(), [""; 0].map(std::path::PathBuf::from));
}

#[tokio::test]
async fn every_phase_of_every_volume_is_counted() {
    let double = Double { delay: 5 * MS, ..Double::default() };
    let served = double.serve(true, true);
    let results = measure(&Plan { volumes: 6, concurrency: vec![1, 3], rounds: 2, ..plan(&served) }).await;
    assert!(results.is_complete(), "{results:?}");
    assert_eq!((results.steps.len(), results.left_out.len()), (18, 0));
    for phase in results.steps.iter().copied() {
        // Two concurrencies, two rounds; unpublish and unstage come twice.
        let times = if matches!(phase, Phase::Unpublish | Phase::Unstage) { 2 } else { 1 };
        assert_eq!(count(&results, phase), 24 * times, "{phase}");
    }
    for sum in Sum::ALL {
        assert_eq!(find(&results, What::Sum(sum), 3).unwrap().samples.len(), 12, "{sum:?}");
    }
    let calls = double.state().calls.clone();
    // The volumes, and those that were restored.
    assert_eq!((calls["create_volume"], calls["delete_volume"]), (48, 48));
    assert_eq!((calls["node_stage_volume"], calls["node_expand_volume"]), (48, 24));
    assert_eq!(double.state().most["create_volume"], 3, "at once");
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn times_are_those_of_the_driver() {
    let double = Double { delay: 20 * MS, ..Double::default() };
    let served = double.serve(true, true);
    // Two of twenty are much slower.
    double.fault("node_stage_volume", "", 2, Effect::Late(400 * MS));
    let plan = Plan { volumes: 20, concurrency: vec![1, 10], ..plan(&served) };
    let results = measure(&Plan { without: [Phase::Snapshot, Phase::Restage].into(), ..plan }).await;
    let stage = series(&results, Phase::Stage, 1).latency().unwrap();
    assert!(stage.min >= 20 * MS && stage.p99 >= 420 * MS && stage.p50 < 210 * MS, "{stage:?}");
    assert!(stage.p99 > 2 * stage.p50 && stage.p50 <= stage.p90 && stage.p90 <= stage.p99, "{stage:?}");

    let throughput = |concurrency| series(&results, Phase::Publish, concurrency).throughput().unwrap();
    let ratio = throughput(10) / throughput(1);
    assert!((2.0..=12.0).contains(&ratio), "ten at once do up to ten times as much, not {ratio}");
    // The sum contains its parts.
    let whole = find(&results, What::Sum(Sum::CreateToPublish), 1).unwrap().latency().unwrap();
    assert!(whole.min >= 80 * MS && whole.max >= stage.max, "{whole:?}");
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn what_follows_an_unstage_waits_until_the_driver_is_done() {
    let double = Double::default();
    let served = double.serve(true, true);
    let settle = 300 * MS;
    let results = measure(&Plan { settle, ..plan(&served) }).await;
    assert!(results.is_complete(), "{results:?}");
    let ends = |phase, half: usize| {
        let samples = &series(&results, phase, 2).samples;
        samples.chunks(4).nth(half).unwrap().iter().map(|sample| sample.at + sample.took).max().unwrap()
    };
    let begins = |phase| series(&results, phase, 2).samples.iter().map(|sample| sample.at).min().unwrap();
    // Volumes are unstaged twice.
    assert!(begins(Phase::Restage) >= ends(Phase::Unstage, 0) + settle, "{results:?}");
    assert!(begins(Phase::Detach) >= ends(Phase::Unstage, 1) + settle, "{results:?}");
    assert!(series(&results, Phase::Unstage, 2).wall < settle, "the wait is not timed: {results:?}");
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn an_interruption_ends_the_wait_after_an_unstage() {
    let double = Double::default();
    let served = double.serve(true, true);
    let stop = Stop::default();
    let (token, watched) = (stop.stop.clone(), double.clone());
    tokio::spawn(async move {
        while watched.state().calls.get("node_unstage_volume").is_none_or(|calls| *calls < 4) {
            tokio::time::sleep(MS).await;
        }
        tokio::time::sleep(50 * MS).await;
        token.cancel();
    });
    let plan = Plan { settle: 60 * LONG, ..plan(&served) };
    let results = tokio::time::timeout(LONG, run(&plan, &stop, &|_| {})).await.expect("it waits").unwrap();
    assert!(results.interrupted && count(&results, Phase::Restage) == 0, "{results:?}");
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn retryable_codes_are_repeated_and_counted() {
    let double = Double { unready: 2, ..Double::default() };
    let served = double.serve(true, true);
    double.fault("create_volume", "-0001", 2, Effect::Fails(Code::Aborted));
    double.fault("create_volume", "-0002", 1, Effect::Fails(Code::Unavailable));
    double.fault("delete_volume", "", 3, Effect::Fails(Code::DeadlineExceeded));
    let results = measure(&Plan { without: [Phase::Restore].into(), ..plan(&served) }).await;
    assert!(results.is_complete(), "{results:?}");
    let retries = |phase| series(&results, phase, 2).retries.clone();
    assert_eq!(retries(Phase::Create), [("ABORTED".to_owned(), 2), ("UNAVAILABLE".to_owned(), 1)].into());
    assert_eq!(retries(Phase::Delete), [("DEADLINE_EXCEEDED".to_owned(), 3)].into());
    assert_eq!(retries(Phase::Snapshot), [("NOT_READY".to_owned(), 8)].into());
    assert_eq!(count(&results, Phase::Create), 4);
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn other_errors_are_counted_shown_and_cleaned_up() {
    let double = Double::default();
    let served = double.serve(true, true);
    double.fault("node_publish_volume", "-0001", 1, Effect::Fails(Code::Internal));
    double.fault("create_volume", "-0003", 1, Effect::Fails(Code::ResourceExhausted));
    double.fault("create_snapshot", "-0002", 1, Effect::FailsAfterwards(Code::Internal));
    let results = measure(&plan(&served)).await;
    assert!(!results.is_complete());
    let publish = &series(&results, Phase::Publish, 2).errors["INTERNAL"];
    assert_eq!(publish.count, 1);
    assert!(publish.first.contains("node_publish_volume of id-bench-"), "{publish:?}");
    assert_eq!(series(&results, Phase::Create, 2).errors["RESOURCE_EXHAUSTED"].count, 1);
    assert_eq!(
        (count(&results, Phase::Create), count(&results, Phase::Publish), count(&results, Phase::Delete)),
        (3, 2, 1)
    );
    assert_eq!(double.state().calls["create_snapshot"], 3, "once more, to learn the ID of what may exist");
    let text = report::text(&results);
    assert!(text.contains("2 at once, driver, publish: INTERNAL 1; the first: node_publish_volume of"), "{text}");
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn a_volume_whose_creation_failed_late_is_removed() {
    let double = Double::default();
    let served = double.serve(true, true);
    // It was made each time, and the driver never said so in time.
    double.fault("create_volume", "-0001", 1, Effect::FailsAfterwards(Code::DeadlineExceeded));
    let plan = Plan { patience: Duration::ZERO, ..plan(&served) };
    let results = measure(&plan).await;
    assert_eq!(series(&results, Phase::Create, 2).errors["DEADLINE_EXCEEDED"].count, 1);
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn a_volume_that_may_exist_is_named() {
    let double = Double::default();
    let served = double.serve(true, true);
    double.fault("create_volume", "-0001", 2, Effect::FailsAfterwards(Code::Unavailable));
    let results = measure(&Plan { patience: Duration::ZERO, ..plan(&served) }).await;
    let [left] = results.left_behind.as_slice() else { panic!("{:?}", results.left_behind) };
    assert!(left.contains("-0001: UNCERTAIN"), "{left}");
    assert!(!results.is_complete());
}

#[tokio::test]
async fn what_an_earlier_attempt_may_have_made_is_removed() {
    for call in ["create_volume", "create_snapshot"] {
        let double = Double::default();
        let served = double.serve(true, true);
        // It was made, and then the driver says something that alone would mean that it was not.
        double.fault(call, "-0001", 1, Effect::FailsAfterwards(Code::DeadlineExceeded));
        double.fault(call, "-0001", 1, Effect::Fails(Code::ResourceExhausted));
        let results = measure(&plan(&served)).await;
        let failed = results.series.iter().filter(|series| series.errors.contains_key("RESOURCE_EXHAUSTED")).count();
        assert_eq!(failed, 1, "{call}");
        assert_clean(&double, &served, &results);
    }
}

#[tokio::test]
async fn what_may_exist_is_named_although_the_clean_up_is_refused() {
    for (call, words) in [("create_volume", "volume bench-"), ("create_snapshot", "the snapshot of bench-")] {
        let double = Double::default();
        let served = double.serve(true, true);
        double.fault(call, "-0001", 1, Effect::FailsAfterwards(Code::Internal));
        double.fault(call, "-0001", 1, Effect::Fails(Code::FailedPrecondition));
        let results = measure(&Plan { without: [Phase::Restore].into(), ..plan(&served) }).await;
        let named = results.left_behind.iter().any(|left| left.starts_with(words) && left.contains("-0001: UNCERTAIN"));
        assert!(named, "{call}: {:?}", results.left_behind);
    }
}

#[tokio::test]
async fn an_interruption_cleans_up() {
    let double = Double { delay: 10 * MS, ..Double::default() };
    let served = double.serve(true, true);
    let stop = Stop::default();
    let (token, watched) = (stop.stop.clone(), double.clone());
    tokio::spawn(async move {
        while watched.state().calls.get("node_publish_volume").is_none_or(|calls| *calls < 3) {
            tokio::time::sleep(MS).await;
        }
        token.cancel();
    });
    // These would be repeated for a minute; nothing is repeated after the interruption.
    double.fault("node_publish_volume", "-0000", usize::MAX, Effect::Fails(Code::Aborted));
    let results = run(&Plan { rounds: 100, ..plan(&served) }, &stop, &|_| {}).await.unwrap();
    assert!(results.interrupted && !results.is_complete());
    assert!(series(&results, Phase::Publish, 2).errors.is_empty(), "an interruption is not an error: {results:?}");
    assert_eq!(count(&results, Phase::Delete), 0);
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn a_second_interruption_names_what_remains() {
    let double = Double::default();
    let served = double.serve(true, true);
    double.fault("delete_volume", "-0001", usize::MAX, Effect::Hangs);
    let stop = Stop::default();
    let (both, watched) = (stop.clone(), double.clone());
    tokio::spawn(async move {
        while watched.state().calls.get("delete_volume").is_none_or(|calls| *calls < 4) {
            tokio::time::sleep(MS).await;
        }
        both.stop.cancel();
        both.abandon.cancel();
    });
    let results = run(&Plan { without: [Phase::Snapshot].into(), ..plan(&served) }, &stop, &|_| {}).await.unwrap();
    let left = results.left_behind.join("\n");
    assert!(left.contains("-0001") && !left.contains("-0000"), "{left}");
    assert!(results.interrupted);
}

#[tokio::test]
async fn what_the_driver_does_not_have_is_left_out() {
    let double = Double { controller: vec![ControllerRpc::CreateDeleteVolume], node: Vec::new(), ..Double::default() };
    let served = double.serve(true, true);
    let results = measure(&plan(&served)).await;
    assert!(results.is_complete(), "{results:?}");
    let names: Vec<&str> = results.steps.iter().map(|phase| phase.name()).collect();
    assert_eq!(names, ["create", "publish", "unpublish", "republish", "unpublish", "delete"]);
    let calls: Vec<&str> = double.state().calls.keys().copied().collect();
    assert_eq!(calls, ["create_volume", "delete_volume", "node_publish_volume", "node_unpublish_volume"]);
    let text = report::text(&results);
    assert!(text.contains("snapshot: the controller does not have CREATE_DELETE_SNAPSHOT"), "{text}");
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn two_sockets_serve_one_driver() {
    let double = Double::default();
    let (controller, node) = (double.serve(true, false), double.serve(false, true));
    let results = measure(&Plan { node: node.endpoint(), ..plan(&controller) }).await;
    assert!(results.is_complete(), "{results:?}");
    assert_clean(&double, &controller, &results);

    // Without a node, only the controller is measured.
    let alone = measure(&plan(&controller)).await;
    assert!(alone.is_complete() && count(&alone, Phase::Create) == 4 && count(&alone, Phase::Publish) == 0);

    let other = Double { name: "other.example.com", ..Double::default() }.serve(false, true);
    let mixed = Plan { node: other.endpoint(), ..plan(&controller) };
    let error = run(&mixed, &Stop::default(), &|_| {}).await.unwrap_err().to_string();
    assert!(error.contains("different drivers: double.example.com and other.example.com"), "{error}");
}

#[tokio::test]
async fn a_volume_that_existed_before_is_never_touched() {
    let double = Double { answers: Some("precious"), ..Double::default() };
    let served = double.serve(true, true);
    double.state().volumes.insert("precious".to_owned(), support::VolumeState::default());
    let results = measure(&plan(&served)).await;
    assert_eq!(series(&results, Phase::Create, 2).errors["FOREIGN_ID"].count, 4);
    assert!(double.state().touched.is_empty(), "{:?}", double.state().touched);
    assert!(double.state().volumes.contains_key("precious"));
    let said = "left alone: the driver returned precious for a new volume, which existed before";
    assert_eq!(results.left_behind, [said]);

    // A driver that gives one volume to two names: each is used and deleted once.
    let double = Double { answers: Some("same"), ..Double::default() };
    let served = double.serve(true, true);
    let results = measure(&Plan { without: [Phase::Restore].into(), ..plan(&served) }).await;
    assert_eq!(series(&results, Phase::Create, 2).errors["SAME_ID"].count, 3);
    assert_eq!(double.state().calls["delete_volume"], 1);
    assert_eq!(results.left_behind, ["left alone: the driver returned same for two volumes"]);

    // Without an ID, the name is all that is known.
    let double = Double { answers: Some(""), ..Double::default() };
    let served = double.serve(true, true);
    let results = measure(&plan(&served)).await;
    assert_eq!(series(&results, Phase::Create, 2).errors["NO_ID"].count, 4);
    assert!(results.left_behind.len() == 4 && results.left_behind[3].contains("-0003"), "{:?}", results.left_behind);
    assert!(double.state().touched.is_empty(), "{:?}", double.state().touched);
}

#[tokio::test]
async fn an_id_may_be_used_again_and_be_that_of_a_snapshot() {
    let double = Double { numbered: true, ..Double::default() };
    let served = double.serve(true, true);
    let results = measure(&Plan { rounds: 2, ..plan(&served) }).await;
    assert!(results.is_complete(), "{results:?}");
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn what_cannot_be_measured_is_said_at_once() {
    let cannot = Double { controller: Vec::new(), ..Double::default() }.serve(true, true);
    let double = Double::default();
    let served = double.serve(true, true);
    for (plan, words) in [
        (plan(&cannot), "does not create volumes"),
        (Plan { concurrency: vec![1, 8], ..plan(&served) }, "--volumes 8"),
        (Plan { expand_to: 1 << 30, ..plan(&served) }, "--expand-to"),
        (Plan { work_dir: "relative".into(), ..plan(&served) }, "--work-dir relative"),
        (Plan { controller: "unix:///nonexistent/csi.sock".to_owned(), ..plan(&served) }, "cannot connect"),
    ] {
        let error = run(&plan, &Stop::default(), &|_| {}).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(double.state().calls.is_empty());
}

#[tokio::test]
async fn a_run_in_which_nothing_is_created_ends_after_the_first_round() {
    let double = Double::default();
    let served = double.serve(true, true);
    double.fault("create_volume", "", usize::MAX, Effect::Fails(Code::InvalidArgument));
    let results = measure(&Plan { rounds: 5, ..plan(&served) }).await;
    assert_eq!(series(&results, Phase::Create, 2).errors["INVALID_ARGUMENT"].count, 4);
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn the_warm_up_is_not_measured_and_its_errors_count() {
    let double = Double::default();
    let served = double.serve(true, true);
    // The first calls of their kind are those of the warm-up.
    double.fault("node_stage_volume", "", 1, Effect::Late(500 * MS));
    double.fault("node_unstage_volume", "", 1, Effect::Fails(Code::Internal));
    double.fault("delete_volume", "-restored", 1, Effect::Fails(Code::Aborted));
    let steps = std::sync::Mutex::new(Vec::new());
    let progress = |step: quarry_bench::Step| steps.lock().unwrap().push((step.text, step.done, step.all));
    let plan = Plan { warm_up: true, ..plan(&served) };
    let results = run(&plan, &Stop::default(), &progress).await.unwrap();
    let stage = series(&results, Phase::Stage, 2);
    assert!(stage.samples.len() == 4 && stage.latency().unwrap().max < 500 * MS, "{stage:?}");
    let unstage = series(&results, Phase::Unstage, 2);
    assert_eq!((unstage.samples.len(), unstage.errors["INTERNAL"].count), (8, 1), "{unstage:?}");
    assert!(series(&results, Phase::DeleteRestored, 2).retries.is_empty());
    assert_eq!(find(&results, What::Sum(Sum::CreateToPublish), 2).unwrap().samples.len(), 4);
    assert!(!results.is_complete());
    let steps = steps.into_inner().unwrap();
    let measured: Vec<_> = steps.iter().filter(|(text, ..)| text.starts_with("round 1 of 1, 2 at once")).collect();
    assert!(steps.first().unwrap().0.starts_with("warm-up, driver: create"), "{steps:?}");
    assert!(
        measured.iter().map(|(_, done, _)| *done).eq(0..18) && measured.iter().all(|step| step.2 == 18),
        "{steps:?}"
    );
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn volumes_in_the_background_are_there_and_not_measured() {
    let double = Double::default();
    let served = double.serve(true, true);
    let results = measure(&Plan { background: 5, ..plan(&served) }).await;
    assert!(results.is_complete(), "{results:?}");
    assert_eq!(count(&results, Phase::Create), 4);
    assert_eq!(double.state().calls["create_volume"], 13, "with those that were restored");
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn expansion_of_unpublished_volumes_only_is_left_out() {
    let offline =
        plugin_capability::VolumeExpansion { r#type: plugin_capability::volume_expansion::Type::Offline.into() };
    let double = Double { plugin: vec![plugin_capability::Type::VolumeExpansion(offline)], ..Double::default() };
    let served = double.serve(true, true);
    let results = measure(&plan(&served)).await;
    assert!(results.is_complete() && count(&results, Phase::Expand) == 0, "{results:?}");
    assert_clean(&double, &served, &results);
}

#[tokio::test]
async fn reports_and_plots_show_the_run() {
    let double = Double::default();
    let served = double.serve(true, true);
    let results = measure(&Plan { concurrency: vec![1, 2, 4], ..plan(&served) }).await;
    let json = report::json(&results, true).unwrap();
    let read: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read["driver"]["name"], "double.example.com");
    let rows = read["results"].as_array().unwrap();
    let create = rows.iter().find(|row| row["phase"] == "create" && row["concurrency"] == 4).unwrap();
    assert_eq!((create["latency_ms"]["count"].as_u64(), create["samples"].as_array().unwrap().len()), (Some(4), 4));
    assert_eq!(read["settings"]["secrets"], serde_json::json!(["token"]));
    for text in [&json, &report::text(&results)] {
        assert!(!text.contains("hunter2"), "a secret is shown");
    }
    for svg in [plot::against_concurrency(&results).unwrap(), plot::over_time(&results).unwrap()] {
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for phase in &results.steps {
            assert!(svg.contains(&format!("\n{phase}\n")), "{phase} is missing");
        }
    }
    assert!(results.series.iter().all(|series| series.kind == Kind::Driver));
}

/// A token for each page, without an end.
fn endless(token: &str) -> String {
    (token.parse().unwrap_or(0) + 1).to_string()
}

#[tokio::test]
async fn a_list_that_has_no_end_is_an_error() {
    for (next_token, words) in [
        ((|token| if token == "a" { "b" } else { "a" }.to_owned()) as fn(&str) -> String, "the same page again"),
        (|_| "a".to_owned(), "the same page again"),
        (endless, "pages"),
    ] {
        let double = Double { next_token, ..Double::default() };
        let served = double.serve(true, true);
        let (plan, stop) = (plan(&served), Stop::default());
        let listed = tokio::time::timeout(LONG, run(&plan, &stop, &|_| {})).await.expect("it lists without end");
        let error = format!("{:#}", listed.unwrap_err());
        assert!(error.contains(words), "{error}");
        assert!(double.state().calls.is_empty(), "nothing is created without a complete list");
    }
}

#[tokio::test]
async fn an_interruption_ends_a_list() {
    let double = Double { next_token: endless, ..Double::default() };
    let served = double.serve(true, true);
    let stop = Stop::default();
    stop.stop.cancel();
    let plan = plan(&served);
    let listed = tokio::time::timeout(LONG, run(&plan, &stop, &|_| {})).await.expect("it lists without end");
    let error = format!("{:#}", listed.unwrap_err());
    assert!(error.contains("interrupted"), "{error}");
}

#[tokio::test]
async fn a_list_of_several_pages_is_read() {
    let next_token = |token: &str| if token == "9" { String::new() } else { endless(token) };
    let double = Double { next_token, ..Double::default() };
    let served = double.serve(true, true);
    let results = measure(&plan(&served)).await;
    assert!(results.is_complete(), "{results:?}");
    assert_clean(&double, &served, &results);
}
