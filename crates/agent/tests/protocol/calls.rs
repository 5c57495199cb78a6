//! Both ends over a wire in memory: every call there and back, and every way in which one can fail.

use std::time::Duration;

use quarry_agent::RemoteAgent;
use quarry_volume::{
    Agent as _, ContentSource, Error, FencingToken, MutableParameters, Reason, Result, SizeRange, SnapshotSpec,
};
use quarry_wire::status::code;
use tokio::time::Instant;

use crate::common::{
    Asked, Fake, Fate, NODE, WAIT, change, connected, connected_through, id, node, snapshot, snapshot_id,
    snapshot_spec, spec, volume, wire,
};

/// Every call and its result.
async fn all_calls(agent: &RemoteAgent, wait: Duration) -> Vec<(&'static str, Result<()>)> {
    vec![
        ("create", agent.create(spec("x"), None, wait).await.map(drop)),
        ("delete", agent.delete(&id("x"), wait).await.map(drop)),
        ("get", agent.get(&id("x"), wait).await.map(drop)),
        ("find", agent.find("x", 1, wait).await.map(drop)),
        ("expand", agent.expand(&id("x"), SizeRange::default(), wait).await.map(drop)),
        ("modify", agent.modify(&id("x"), MutableParameters::default(), wait).await.map(drop)),
        ("create snapshot", agent.create_snapshot(snapshot_spec("s"), wait).await.map(drop)),
        ("delete snapshot", agent.delete_snapshot(&snapshot_id("s"), wait).await.map(drop)),
        ("get snapshot", agent.get_snapshot(&snapshot_id("s"), wait).await.map(drop)),
        ("watch", agent.watch().await.map(drop)),
    ]
}

#[tokio::test]
async fn every_call_goes_there_and_back() {
    let (node, agent) = connected(Fake::new()).await;
    assert_eq!(agent.node(), NODE);
    let token = FencingToken { fence: 4, instance: "run-1".into() };
    assert_eq!(agent.create(spec("x"), Some(token.clone()), WAIT).await.unwrap(), (volume("a"), change()));
    assert_eq!(agent.create(spec("y"), None, WAIT).await.unwrap().0, volume("a"));
    assert_eq!(agent.delete(&id("x"), WAIT).await.unwrap(), change());
    assert_eq!(agent.get(&id("x"), WAIT).await.unwrap(), volume("a"));
    let found = agent.find("x", 9, WAIT).await.unwrap();
    assert_eq!((found.instance.as_str(), found.volume), ("run-1", Some(volume("a"))));
    assert_eq!(agent.find("nothing", 9, WAIT).await.unwrap().volume, None);
    let size = SizeRange { required: 5, limit: Some(7) };
    assert_eq!(agent.expand(&id("x"), size, WAIT).await.unwrap(), (volume("a"), change()));
    let parameters = [("readIops", "7"), ("writeBytesPerSecond", "none"), ("discard", "periodic")];
    let parameters = parameters.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let changes = MutableParameters::parse(&parameters.into_iter().collect()).unwrap();
    assert_eq!(agent.modify(&id("x"), changes, WAIT).await.unwrap(), (volume("a"), change()));
    assert_eq!(agent.create_snapshot(snapshot_spec("s"), WAIT).await.unwrap(), (snapshot("s"), change()));
    assert_eq!(agent.delete_snapshot(&snapshot_id("s"), WAIT).await.unwrap(), change());
    assert_eq!(agent.get_snapshot(&snapshot_id("s"), WAIT).await.unwrap(), snapshot("s"));
    let asked = node.fake.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [
            Asked::Create(spec("x"), Some(token)),
            Asked::Create(spec("y"), None),
            Asked::Delete(id("x")),
            Asked::Get(id("x")),
            Asked::Find("x".into(), 9),
            Asked::Find("nothing".into(), 9),
            Asked::Expand(id("x"), size),
            Asked::Modify(id("x"), changes),
            Asked::CreateSnapshot(snapshot_spec("s")),
            Asked::DeleteSnapshot(snapshot_id("s")),
            Asked::GetSnapshot(snapshot_id("s")),
        ]
    );
}

#[tokio::test]
async fn every_reason_comes_back_with_its_code_and_message() {
    let (node, agent) = connected(Fake::new()).await;
    for reason in Reason::ALL {
        // Non-ASCII text with the maximum length of a message.
        let message = format!("{reason:?}: zu groß\n{}", "é".repeat(1000));
        *node.fake.fail.lock().unwrap() = Some(Error::new(reason, message.clone()));
        for (call, answer) in all_calls(&agent, WAIT).await {
            let error = answer.expect_err(call);
            assert_eq!(code(error.reason), code(reason), "{call}");
            assert_eq!(error.message, message, "{call}");
        }
    }
}

#[tokio::test]
async fn another_node_rejects_every_call_and_changes_nothing() {
    let (here, there) = wire();
    let node = node(Fake::new(), there);
    let agent = RemoteAgent::over(here, "n-2").await.unwrap();
    for (call, answer) in all_calls(&agent, WAIT).await {
        let error = answer.expect_err(call);
        assert_eq!(error.reason, Reason::Unavailable, "{call}");
        assert_eq!(error.message, "this is node n-1, not n-2: another pod has the address now; retry", "{call}");
    }
    assert_eq!(*node.fake.asked.lock().unwrap(), []);
}

#[tokio::test]
async fn a_volume_or_snapshot_of_another_node_is_not_reported_as_missing() {
    let (node, agent) = connected(Fake::new()).await;
    let mut other = id("x");
    other.node = "n-2".into();
    let mut snapshot = snapshot_id("s");
    snapshot.node = "n-2".into();
    let of_other = SnapshotSpec { source: other.clone(), ..snapshot_spec("s") };
    let filled = |source| spec("x").filled_from(source);
    for (what, answer) in [
        ("delete", agent.delete(&other, WAIT).await.map(drop)),
        ("get", agent.get(&other, WAIT).await.map(drop)),
        ("expand", agent.expand(&other, SizeRange::default(), WAIT).await.map(drop)),
        ("modify", agent.modify(&other, MutableParameters::default(), WAIT).await.map(drop)),
        ("clone", agent.create(filled(ContentSource::Volume(other)), None, WAIT).await.map(drop)),
        ("restore", agent.create(filled(ContentSource::Snapshot(snapshot.clone())), None, WAIT).await.map(drop)),
        ("create snapshot", agent.create_snapshot(of_other, WAIT).await.map(drop)),
        ("delete snapshot", agent.delete_snapshot(&snapshot, WAIT).await.map(drop)),
        ("get snapshot", agent.get_snapshot(&snapshot, WAIT).await.map(drop)),
    ] {
        assert_eq!(answer.expect_err(what).reason, Reason::Unavailable, "{what}");
    }
    assert_eq!(*node.fake.asked.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn the_agents_own_timeout_error_reaches_the_caller_and_the_work_continues() {
    for wait in [Duration::from_millis(100), Duration::from_secs(10)] {
        let (node, agent) = connected(Fake::slow()).await;
        let began = Instant::now();
        let error = agent.create(spec("x"), None, wait).await.unwrap_err();
        assert_eq!((error.reason, error.message.as_str()), (Reason::TimedOut, "the agent's own words"), "{wait:?}");
        assert!(began.elapsed() <= wait && began.elapsed() >= wait / 2, "{:?}", began.elapsed());
        node.fake.release.add_permits(2);
        node.fake.done.acquire().await.unwrap().forget();
        agent.create(spec("x"), None, wait).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_exceeds_its_wait_is_timed_out() {
    let (_node, agent) = connected(Fake { patient: true, ..Fake::slow() }).await;
    let began = Instant::now();
    let error = agent.create(spec("x"), None, Duration::from_secs(10)).await.unwrap_err();
    assert_eq!(error.reason, Reason::TimedOut);
    assert!(error.message.starts_with("node n-1 did not finish"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn the_node_limits_a_caller_that_waits_too_long() {
    let (node, agent) = connected(Fake::new()).await;
    agent.create(spec("x"), None, Duration::from_secs(3600)).await.unwrap();
    assert!(node.fake.wait.lock().unwrap().unwrap() <= Duration::from_secs(50));
}

#[tokio::test]
async fn a_connection_that_breaks_during_a_call_is_detected_immediately() {
    let (node, agent, end) = connected_through(Fake::slow()).await;
    let calling = tokio::spawn({
        let agent = agent.clone();
        async move { agent.create(spec("x"), None, WAIT).await }
    });
    node.fake.begun.acquire().await.unwrap().forget();
    let began = Instant::now();
    end.send(Fate::Cut).unwrap();
    let error = calling.await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable);
    assert!(error.message.starts_with("node n-1: connection lost during CreateVolume: "), "{error}");
    assert!(error.message.ends_with("; retry"), "{error}");
    assert!(began.elapsed() < WAIT / 2);
    // Nothing reconnects.
    for (call, answer) in all_calls(&agent, WAIT).await {
        let error = answer.expect_err(call);
        assert_eq!(error.reason, Reason::Unavailable, "{call}: {error}");
        assert!(error.message.contains("connection lost during"), "{call}: {error}");
    }
    // The started operation continues.
    node.fake.release.add_permits(1);
    node.fake.done.acquire().await.unwrap().forget();
}

#[tokio::test(start_paused = true)]
async fn an_unresponsive_peer_is_given_up_after_the_keep_alive_timeout() {
    let (node, agent, end) = connected_through(Fake::slow()).await;
    let calling = tokio::spawn({
        let agent = agent.clone();
        async move { agent.create(spec("x"), None, WAIT).await }
    });
    node.fake.begun.acquire().await.unwrap().forget();
    let began = Instant::now();
    end.send(Fate::Frozen).unwrap();
    let error = calling.await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable, "{error}");
    assert!(error.message.contains("connection lost during CreateVolume"), "{error}");
    assert!(began.elapsed() <= Duration::from_secs(16), "{:?}", began.elapsed());
    // A call whose wait is shorter than that ends with its wait, and no later call hangs.
    assert_eq!(agent.get(&id("x"), WAIT).await.unwrap_err().reason, Reason::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_short_wait_for_an_unresponsive_peer_ends_on_time() {
    let (here, _there) = wire();
    let agent = RemoteAgent::over(here, NODE).await.unwrap();
    let began = Instant::now();
    let error = agent.get(&id("x"), Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(error.reason, Reason::TimedOut, "{error}");
    assert_eq!(began.elapsed().as_secs(), 3);
}

#[tokio::test]
async fn a_peer_that_does_not_speak_the_protocol_is_unavailable() {
    let (here, mut there) = wire();
    let agent = RemoteAgent::over(here, NODE).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut there, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = agent.get(&id("x"), WAIT).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable, "{error}");
}

#[tokio::test]
async fn a_call_under_way_ends_well_while_the_node_stops() {
    let (node, agent) = connected(Fake::slow()).await;
    let calling = tokio::spawn({
        let agent = agent.clone();
        async move { agent.create(spec("x"), None, WAIT).await }
    });
    node.fake.begun.acquire().await.unwrap().forget();
    node.shutdown.cancel();
    node.fake.release.add_permits(1);
    assert_eq!(calling.await.unwrap().unwrap(), (volume("a"), change()));
    node.server.await.unwrap().unwrap();
    assert_eq!(agent.get(&id("x"), WAIT).await.unwrap_err().reason, Reason::Unavailable);
}

#[tokio::test]
async fn a_thousand_calls_at_once_all_come_back() {
    let (_node, agent) = connected(Fake::new()).await;
    let calls = (0..1000).map(|_| {
        let agent = agent.clone();
        async move { agent.get(&id("x"), WAIT).await.unwrap() }
    });
    assert_eq!(futures::future::join_all(calls).await.len(), 1000);
}
