//! The election: one controller's use of the Lease.

use std::sync::Arc;
use std::time::Duration;

use quarry_controller::Election as _;
use quarry_kubernetes::{ElectionSettings, LeaseElection};
use quarry_volume::Reason;
use serde_json::{Value, json};

use crate::fake::{Fake, Fault, NAMESPACE};
use crate::objects::{going_clock, seconds, until};

fn path() -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/quarry-chooser")
}

fn controller(fake: &Fake, pod: &str) -> LeaseElection {
    LeaseElection::new(&fake.connection(pod), ElectionSettings::default(), going_clock())
}

fn spec(fake: &Fake) -> Value {
    fake.get(&path()).unwrap()["spec"].clone()
}

async fn refused(election: &LeaseElection) -> String {
    let error = election.fence().await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable);
    error.message
}

#[tokio::test(start_paused = true)]
async fn the_first_controller_that_needs_the_lease_takes_it() {
    let fake = Fake::new();
    let (one, two) = (controller(&fake, "quarry-0"), controller(&fake, "quarry-1"));
    seconds(100).await;
    assert_eq!(fake.count(|_| true), 0, "not needed, so nothing is sent");
    let fence = one.fence().await.unwrap();
    let lease = spec(&fake);
    assert_eq!(lease["holderIdentity"], one.identity());
    assert!(one.identity().starts_with("quarry-0_"));
    assert_eq!(lease["leaseDurationSeconds"], 15);
    assert_eq!(lease["leaseTransitions"].as_u64().unwrap() + 1, fence);
    let calls = fake.count(|_| true);
    assert_eq!(one.fence().await.unwrap(), fence);
    assert_eq!(one.holds(), Some(fence));
    assert_eq!(fake.count(|_| true), calls, "the holder need not ask");
    let message = refused(&two).await;
    assert!(message.contains(one.identity()), "{message}");
    assert_eq!(two.holds(), None);
    // Requests that come in a bunch ask once.
    let calls = fake.count(|_| true);
    refused(&two).await;
    assert_eq!(fake.count(|_| true), calls);
}

#[tokio::test(start_paused = true)]
async fn it_is_kept_while_it_is_used_and_released_afterwards() {
    let fake = Fake::new();
    let (one, two) = (controller(&fake, "quarry-0"), controller(&fake, "quarry-1"));
    let fence = one.fence().await.unwrap();
    for _ in 0..30 {
        seconds(20).await;
        assert_eq!(one.fence().await.unwrap(), fence, "one term, however long");
    }
    seconds(29).await;
    assert_eq!(one.holds(), Some(fence));
    seconds(6).await;
    assert_eq!(one.holds(), None);
    assert!(spec(&fake)["holderIdentity"].is_null());
    // After a release, the next controller need not wait.
    let second = two.fence().await.unwrap();
    assert!(second > fence);
    let message = refused(&one).await;
    assert!(message.contains(two.identity()), "{message}");
}

#[tokio::test(start_paused = true)]
async fn every_term_has_a_higher_fence_also_for_the_same_controller() {
    let fake = Fake::new();
    let one = controller(&fake, "quarry-0");
    let mut last = 0;
    for _ in 0..5 {
        let fence = one.fence().await.unwrap();
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        seconds(40).await;
        assert_eq!(one.holds(), None);
    }
    // Lost in an outage, and taken again.
    let fence = one.fence().await.unwrap();
    assert!(fence > last);
    fake.down();
    until("the term ends", || one.holds().is_none()).await;
    fake.up();
    seconds(2).await;
    assert_eq!(spec(&fake)["holderIdentity"], one.identity(), "on paper it was never lost");
    assert!(one.fence().await.unwrap() > fence);
}

/// Nodes remember the highest fence they have seen: deleting the Lease must not begin the count again.
#[tokio::test(start_paused = true)]
async fn a_new_lease_after_a_deletion_has_a_higher_fence() {
    let fake = Fake::new();
    let (one, two) = (controller(&fake, "quarry-0"), controller(&fake, "quarry-1"));
    let fence = one.fence().await.unwrap();
    fake.delete(&path());
    until("the holder notices", || one.holds().is_none()).await;
    let second = two.fence().await.unwrap();
    assert!(second > fence);
    seconds(60).await;
    let third = two.fence().await.unwrap();
    assert!(third > second);
    fake.delete(&path());
    until("the holder notices", || two.holds().is_none()).await;
    assert!(two.fence().await.unwrap() > third);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_died_is_followed_after_the_whole_duration() {
    let fake = Fake::new();
    let (one, two) = (controller(&fake, "quarry-0"), controller(&fake, "quarry-1"));
    let fence = one.fence().await.unwrap();
    drop(one);
    let begin = tokio::time::Instant::now();
    let second = loop {
        match two.fence().await {
            Ok(second) => break second,
            Err(error) => assert_eq!(error.reason, Reason::Unavailable),
        }
        seconds(1).await;
    };
    assert!(second > fence);
    assert!((15..=17).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

/// A holder must not be considered dead because its Lease was not read for a while.
#[tokio::test(start_paused = true)]
async fn an_old_read_does_not_count_against_a_holder_that_renews() {
    let fake = Fake::new();
    let (one, two) = (controller(&fake, "quarry-0"), controller(&fake, "quarry-1"));
    one.fence().await.unwrap();
    refused(&two).await;
    for _ in 0..10 {
        seconds(10).await;
        one.fence().await.unwrap();
    }
    refused(&two).await;
    assert!(one.holds().is_some());
}

#[tokio::test(start_paused = true)]
async fn it_is_released_at_shutdown() {
    let fake = Fake::new();
    let (one, two) = (controller(&fake, "quarry-0"), controller(&fake, "quarry-1"));
    let fence = one.fence().await.unwrap();
    one.close().await;
    assert_eq!(one.holds(), None);
    assert!(refused(&one).await.contains("shutting down"));
    assert!(two.fence().await.unwrap() > fence);
    // Shutdown does not wait for an API that is away.
    fake.plan(|_| Fault { after: Duration::from_secs(3_600), ..Fault::default() });
    let begin = tokio::time::Instant::now();
    two.close().await;
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_before_the_renewal_was_sent() {
    let fake = Fake::new();
    let one = controller(&fake, "quarry-0");
    fake.plan(|call| Fault {
        before: Duration::from_secs(3 * u64::from(call.method != http::Method::GET)),
        ..Fault::default()
    });
    let begin = tokio::time::Instant::now();
    one.fence().await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 3);
    fake.down();
    tokio::time::sleep_until(begin + Duration::from_millis(9_990)).await;
    assert!(one.holds().is_some());
    tokio::time::sleep_until(begin + Duration::from_millis(10_010)).await;
    assert_eq!(one.holds(), None);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_does_not_end_the_term() {
    let fake = Fake::new();
    let one = controller(&fake, "quarry-0");
    let fence = one.fence().await.unwrap();
    let mut count = 0;
    fake.plan(move |call| {
        let put = call.method == http::Method::PUT;
        count += u64::from(put);
        Fault { answer_lost: put && count % 3 == 1, ..Fault::default() }
    });
    for _ in 0..20 {
        seconds(7).await;
        assert_eq!(one.fence().await.unwrap(), fence);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_holder_took_is_lost() {
    let fake = Fake::new();
    let one = controller(&fake, "quarry-0");
    let fence = one.fence().await.unwrap();
    let mut lease = fake.get(&path()).unwrap();
    lease["spec"]["holderIdentity"] = json!("an operator");
    fake.put(&path(), lease);
    until("it is noticed", || one.holds().is_none()).await;
    let message = refused(&one).await;
    assert!(message.contains("an operator"), "{message}");
    // This holder does not renew.
    until("the first reads are old", || true).await;
    seconds(16).await;
    assert!(one.fence().await.unwrap() > fence);
}

/// A caller that gives up during the exchange leaves nothing half done.
#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_does_no_harm() {
    let fake = Fake::new();
    let one = Arc::new(controller(&fake, "quarry-0"));
    fake.plan(|_| Fault { before: Duration::from_secs(1), after: Duration::from_secs(1), ..Fault::default() });
    for patience in 1..40 {
        let wait = Duration::from_millis(patience * 100);
        let _ = tokio::time::timeout(wait, one.fence()).await;
        if let Some(fence) = one.holds() {
            assert_eq!(spec(&fake)["leaseTransitions"].as_u64().unwrap() + 1, fence);
        }
    }
    fake.no_plan();
    let fence = one.fence().await.unwrap();
    assert_eq!(spec(&fake)["leaseTransitions"].as_u64().unwrap() + 1, fence);
    assert_eq!(spec(&fake)["holderIdentity"], one.identity());
}
