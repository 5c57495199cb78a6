//! While the API is unreachable, the state of every node is unknown. Above all, no node is reported as gone.

use quarry_controller::Fate;

use crate::fake::{Fake, Fault};
use crate::nodes::Watching;
use crate::objects::{clock_at, node, node_path, seconds};

#[tokio::test(start_paused = true)]
async fn while_the_api_is_away_every_fate_is_unknown() {
    let fake = Fake::new();
    fake.put(&node_path("well"), node("True", 0));
    fake.put(&node_path("unwell"), node("Unknown", 0));
    let watching = Watching::started(&fake, clock_at(1_000)).await;
    assert_eq!(watching.fate("gone").await, Fate::Unknown);
    seconds(100).await;
    fake.down();
    seconds(5).await;
    for _ in 0..20 {
        for name in ["well", "unwell", "gone"] {
            assert_eq!(watching.fate(name).await, Fate::Unknown, "{name}");
        }
        seconds(60).await;
    }
    fake.up();
    // Nothing has changed, so no watch says a word; still it is known again.
    watching.becomes("well", Fate::Ready).await;
    // The watches try again after random times, at most some minutes. After that, memory is used again.
    let questions = || fake.count(|call| call.path == node_path("well"));
    for _ in 0..10 {
        seconds(60).await;
        let before = questions();
        assert_eq!(watching.fate("well").await, Fate::Ready);
        if questions() == before {
            return;
        }
    }
    panic!("the API is still asked");
}

/// Each of the questions on the way to "gone" fails in turn, in each way.
#[tokio::test(start_paused = true)]
async fn no_failure_of_a_question_makes_a_node_gone() {
    let lists_pods = |path: &str| path.ends_with("/pods");
    let asks_node = |path: &str| path == node_path("a");
    for refused in [403, 404, 410, 429, 500, 503] {
        for pods in [true, false] {
            if refused == 404 && !pods {
                continue; // That is what an absent Node answers.
            }
            let fake = Fake::new();
            let watching = Watching::started(&fake, clock_at(0)).await;
            assert_eq!(watching.fate("a").await, Fate::Unknown);
            seconds(302).await;
            fake.plan(move |call| {
                let hit = if pods { lists_pods(&call.path) && !call.watches() } else { asks_node(&call.path) };
                Fault { refused: hit.then_some(refused), ..Fault::default() }
            });
            assert_eq!(watching.fate("a").await, Fate::Unknown, "{refused}, pods: {pods}");
            fake.no_plan();
            seconds(3).await;
            assert_eq!(watching.fate("a").await, Fate::Gone, "{refused}, pods: {pods}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_answer_makes_no_node_gone_and_delays_no_caller() {
    let fake = Fake::new();
    let watching = Watching::started(&fake, clock_at(0)).await;
    assert_eq!(watching.fate("a").await, Fate::Unknown);
    seconds(302).await;
    fake.plan(|call| Fault {
        after: std::time::Duration::from_secs(if call.watches() { 0 } else { 3_600 }),
        ..Fault::default()
    });
    let begin = tokio::time::Instant::now();
    assert_eq!(watching.fate("a").await, Fate::Unknown);
    assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
}
