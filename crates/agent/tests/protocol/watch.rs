//! The stream of updates: whole, in order, bounded, and over when it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use prost::Message as _;
use quarry_agent::RemoteAgent;
use quarry_proto::agent::v1;
use quarry_proto::agent::v1::agent_client::AgentClient;
use quarry_proto::agent::v1::watch_response::Update as Message;
use quarry_volume::{Agent as _, Change, Error, Reason, Update, UpdateStream};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::common::{
    Fake, Fate, NODE, WAIT, change, connected, connected_through, full_state, greeting, id, node, story, volume, wire,
};

/// More than a single message can hold.
const MANY: usize = 20_001;

async fn all(updates: UpdateStream) -> Vec<Update> {
    updates.map(Result::unwrap).collect().await
}

#[tokio::test]
async fn all_updates_arrive_in_order() {
    for volumes in [0, 1, 500, 501, MANY] {
        let updates_of_node = move || {
            let updates =
                [Update::Greeting(greeting()), Update::FullState(full_state(volumes)), Update::Change(change())];
            Ok(stream::iter(updates.map(Ok)).boxed())
        };
        let (_node, agent) = connected(Fake::watched(updates_of_node)).await;
        let updates = all(agent.watch().await.unwrap()).await;
        let expected = [Update::Greeting(greeting()), Update::FullState(full_state(volumes)), Update::Change(change())];
        assert!(updates == expected, "{volumes} volumes did not come back as they were");
    }
}

#[tokio::test]
async fn a_full_state_may_be_sent_again() {
    let story = || {
        let again = Change { generation: 20, ..full_state(700) };
        [
            Update::Greeting(greeting()),
            Update::FullState(full_state(3)),
            Update::Change(change()),
            Update::FullState(again),
        ]
    };
    let (_node, agent) = connected(Fake::watched(move || Ok(stream::iter(story().map(Ok)).boxed()))).await;
    assert_eq!(all(agent.watch().await.unwrap()).await, story());
}

#[tokio::test]
async fn a_large_full_state_is_sent_in_small_parts() {
    // Few with long stories, then many.
    for (volumes, problem) in [(3_000, 2_000), (MANY, 0)] {
        let updates_of_node = move || {
            let mut full_state = full_state(volumes);
            full_state.volumes.iter_mut().for_each(|volume| volume.problem = "x".repeat(problem));
            full_state.snapshots.iter_mut().for_each(|snapshot| snapshot.problem = "x".repeat(problem));
            Ok(stream::iter([Ok(Update::Greeting(greeting())), Ok(Update::FullState(full_state))]).boxed())
        };
        let (here, there) = wire();
        let _node = node(Fake::watched(updates_of_node), there);
        let mut here = Some(hyper_util::rt::TokioIo::new(here));
        let connect = tower::service_fn(move |_| {
            let io = here.take().ok_or_else(|| std::io::Error::other("one connection only"));
            async move { io }
        });
        let channel = Endpoint::from_static("http://n").connect_with_connector(connect).await.unwrap();
        let request = v1::WatchRequest { node: NODE.into() };
        let mut messages = AgentClient::new(channel).watch(request).await.unwrap().into_inner();
        let mut lasts = Vec::new();
        let (mut sum, mut snapshots) = (0, 0);
        messages.message().await.unwrap().unwrap();
        while let Some(message) = messages.message().await.unwrap() {
            assert!(message.encoded_len() < 2 << 20, "{}", message.encoded_len());
            let Some(Message::FullState(v1::FullStatePart { part: Some(part), last })) = message.update else {
                panic!("a part was expected");
            };
            assert!(part.volumes.len() <= 500 && part.snapshots.len() <= 500 && part.generation == 7);
            sum += part.volumes.len();
            snapshots += part.snapshots.len();
            lasts.push(last);
        }
        assert_eq!((sum, snapshots), (volumes, volumes));
        assert!(lasts.len() > 1 && lasts.pop() == Some(true) && !lasts.contains(&true));
    }
}

#[tokio::test]
async fn a_change_too_large_for_a_message_makes_the_reader_watch_again() {
    let updates_of_node = || {
        let updates =
            [Update::Greeting(greeting()), Update::FullState(full_state(0)), Update::Change(full_state(60_000))];
        Ok(stream::iter(updates.map(Ok)).boxed())
    };
    let (_node, agent) = connected(Fake::watched(updates_of_node)).await;
    let mut updates = agent.watch().await.unwrap();
    updates.next().await.unwrap().unwrap();
    updates.next().await.unwrap().unwrap();
    assert_eq!(updates.next().await.unwrap().unwrap_err().reason, Reason::Unavailable);
    assert!(updates.next().await.is_none());
}

#[tokio::test]
async fn a_stalled_reader_blocks_nothing_else_and_misses_nothing() {
    const CHANGES: usize = 3000;
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let updates_of_node = move || {
        let counter = Arc::clone(&counter);
        let changes = stream::iter(0..CHANGES).map(move |number| {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut volume = volume("a");
            volume.problem = "x".repeat(2000);
            Ok(Update::Change(Change { generation: number as u64, volumes: vec![volume], ..Change::default() }))
        });
        Ok(stream::iter([Ok(Update::Greeting(greeting())), Ok(Update::FullState(full_state(0)))])
            .chain(changes)
            .boxed())
    };
    let (_node, agent) = connected(Fake::watched(updates_of_node)).await;
    let mut updates = agent.watch().await.unwrap();
    // Other calls pass beside it; meanwhile the node fills what it may fill.
    for _ in 0..500 {
        agent.get(&id("x"), WAIT).await.unwrap();
    }
    let ahead = taken.load(Ordering::SeqCst);
    assert!(ahead > 0 && ahead < CHANGES / 10, "{ahead} changes of 2 KB were taken without a reader");
    updates.next().await.unwrap().unwrap();
    updates.next().await.unwrap().unwrap();
    for number in 0..CHANGES {
        let Update::Change(change) = updates.next().await.unwrap().unwrap() else { panic!("a change was expected") };
        assert_eq!(change.generation, number as u64);
    }
    assert!(updates.next().await.is_none());
}

/// A stream that stays open, and signals when it is dropped.
fn open_story() -> (Fake, oneshot::Receiver<()>) {
    let (guard, dropped) = oneshot::channel::<()>();
    let guard = std::sync::Mutex::new(Some(guard));
    let fake = Fake::watched(move || {
        let guard = guard.lock().unwrap().take();
        let silence = stream::once(async move {
            let _guard = guard;
            std::future::pending().await
        });
        Ok(stream::iter(story()).chain(silence).boxed())
    });
    (fake, dropped)
}

async fn read_story(updates: &mut UpdateStream) {
    for _ in 0..3 {
        updates.next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn when_the_node_stops_its_streams_end() {
    let (fake, dropped) = open_story();
    let (node, agent) = connected(fake).await;
    let mut updates = agent.watch().await.unwrap();
    read_story(&mut updates).await;
    node.shutdown.cancel();
    assert!(updates.next().await.is_none());
    dropped.await.unwrap_err();
    node.server.await.unwrap().unwrap();
    assert_eq!(agent.watch().await.map(drop).unwrap_err().reason, Reason::Unavailable);
}

#[tokio::test]
async fn the_agents_stream_is_dropped_when_the_reader_leaves() {
    let (fake, dropped) = open_story();
    let (_node, agent) = connected(fake).await;
    let mut updates = agent.watch().await.unwrap();
    read_story(&mut updates).await;
    drop(updates);
    dropped.await.unwrap_err();
    // The connection stays.
    agent.get(&id("x"), WAIT).await.unwrap();
}

#[tokio::test]
async fn a_stream_keeps_its_connection_and_the_last_one_closes_it() {
    let (fake, dropped) = open_story();
    let (_node, agent) = connected(fake).await;
    let mut updates = agent.watch().await.unwrap();
    drop(agent);
    read_story(&mut updates).await;
    drop(updates);
    dropped.await.unwrap_err();
}

#[tokio::test]
async fn a_broken_stream_yields_an_error_immediately() {
    let (fake, dropped) = open_story();
    let (_node, agent, end) = connected_through(fake).await;
    let mut updates = agent.watch().await.unwrap();
    read_story(&mut updates).await;
    end.send(Fate::Cut).unwrap();
    let error = updates.next().await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable);
    assert!(error.message.starts_with("node n-1: connection lost during Watch: "), "{error}");
    assert!(updates.next().await.is_none());
    dropped.await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_silent_disconnect_is_detected_on_both_sides() {
    let (fake, dropped) = open_story();
    let (_node, agent, end) = connected_through(fake).await;
    let mut updates = agent.watch().await.unwrap();
    read_story(&mut updates).await;
    let began = Instant::now();
    end.send(Fate::Frozen).unwrap();
    assert_eq!(updates.next().await.unwrap().unwrap_err().reason, Reason::Unavailable);
    assert!(began.elapsed() <= Duration::from_secs(16), "{:?}", began.elapsed());
    dropped.await.unwrap_err();
    assert!(began.elapsed() <= Duration::from_secs(31), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_stays_open() {
    let (fake, _dropped) = open_story();
    let (_node, agent) = connected(fake).await;
    let mut updates = agent.watch().await.unwrap();
    read_story(&mut updates).await;
    tokio::time::timeout(Duration::from_secs(3600), updates.next()).await.unwrap_err();
    agent.get(&id("x"), WAIT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_never_accepts_a_watch_is_timed_out() {
    let (here, _there) = wire();
    let tuning = quarry_agent::Tuning { watch_wait: Duration::from_secs(3), ..quarry_agent::Tuning::default() };
    let agent = RemoteAgent::tuned(here, NODE, &tuning).await.unwrap();
    assert_eq!(agent.watch().await.map(drop).unwrap_err().reason, Reason::TimedOut);
}

#[tokio::test]
async fn an_agent_that_fails_during_a_stream_reports_why() {
    let updates_of_node = || {
        let failed = Err(Error::host("the uevents are gone"));
        Ok(stream::iter([Ok(Update::Greeting(greeting())), Ok(Update::FullState(full_state(1))), failed]).boxed())
    };
    let (_node, agent) = connected(Fake::watched(updates_of_node)).await;
    let mut updates = agent.watch().await.unwrap();
    updates.next().await.unwrap().unwrap();
    updates.next().await.unwrap().unwrap();
    let error = updates.next().await.unwrap().unwrap_err();
    assert_eq!((error.reason, error.message.as_str()), (Reason::Host, "the uevents are gone"));
}

#[tokio::test]
async fn updates_out_of_order_are_rejected() {
    let (greeting, full_state, change) =
        (|| Update::Greeting(greeting()), || Update::FullState(full_state(1)), || Update::Change(change()));
    let other =
        || Update::Greeting(quarry_volume::Greeting { node: "n-2".into(), ..quarry_volume::Greeting::default() });
    for (what, story, good) in [
        ("a change first", vec![change()], 0),
        ("a full state first", vec![full_state()], 0),
        ("a change before the full state", vec![greeting(), change()], 1),
        ("two greetings", vec![greeting(), greeting()], 1),
        ("a late greeting after a second full state", vec![greeting(), full_state(), full_state(), greeting()], 3),
        ("a greeting late", vec![greeting(), full_state(), greeting()], 2),
        ("another node", vec![other()], 0),
    ] {
        let updates_of_node = move || Ok(stream::iter(story.clone().into_iter().map(Ok)).boxed());
        let (_node, agent) = connected(Fake::watched(updates_of_node)).await;
        let updates: Vec<_> = agent.watch().await.unwrap().collect().await;
        assert_eq!(updates.len(), good + 1, "{what}");
        assert!(updates.last().unwrap().is_err() && updates[..good].iter().all(Result::is_ok), "{what}");
        let reason = updates.last().unwrap().as_ref().unwrap_err().reason;
        assert_eq!(reason, if what == "another node" { Reason::Unavailable } else { Reason::Host }, "{what}");
    }
}
