//! Several controllers; an API that is slow, rejects requests, loses answers and becomes unreachable;
//! requests at any time, for hours of virtual time: never do two controllers rely on the Lease at once, and
//! fences rise from term to term.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quarry_controller::Election as _;
use quarry_kubernetes::{ElectionSettings, LeaseElection};

use crate::fake::{Fake, Fault};
use crate::objects::{going_clock, seconds};

const REPLICAS: usize = 3;

/// Random numbers that depend on the seed alone.
struct Dice(fastrand::Rng);

impl Dice {
    fn one_in(&mut self, count: u64) -> bool {
        self.0.u64(..count) == 0
    }

    fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.0.u64(..most))
    }
}

/// What was observed: which replica (counted through restarts) had which fence.
#[derive(Default)]
struct Observed {
    terms: BTreeMap<u64, u64>,
    handovers: u64,
    last: Option<u64>,
}

impl Observed {
    /// Checks all replicas at this instant.
    fn check(&mut self, replicas: &[(u64, Arc<LeaseElection>)], seed: u64) {
        let holding: Vec<(u64, u64)> =
            replicas.iter().filter_map(|(number, election)| Some((*number, election.holds()?))).collect();
        assert!(holding.len() <= 1, "seed {seed}: two count on the Lease at once: {holding:?}");
        for (number, fence) in holding {
            let known = *self.terms.entry(fence).or_insert(number);
            assert_eq!(known, number, "seed {seed}: fence {fence} was given twice");
            let highest = self.terms.last_key_value().map_or(0, |(fence, _)| *fence);
            assert_eq!(fence, highest, "seed {seed}: a lower fence after a higher one");
            if self.last.is_some_and(|last| last != number) {
                self.handovers += 1;
            }
            self.last = Some(number);
        }
    }
}

/// How bad the weather is: written by the test, read by each request.
fn plan(fake: &Fake, seed: u64) {
    let dice = Mutex::new(Dice(fastrand::Rng::with_seed(seed)));
    fake.plan(move |_| {
        let mut dice = dice.lock().unwrap();
        let slow = dice.one_in(4);
        let most = if slow { 9_000 } else { 200 };
        Fault {
            before: dice.millis(most),
            after: dice.millis(most),
            refused: dice.one_in(12).then_some(if dice.one_in(2) { 500 } else { 429 }),
            answer_lost: dice.one_in(8),
        }
    });
}

fn replica(fake: &Fake, number: u64) -> Arc<LeaseElection> {
    let connection = fake.connection(&format!("quarry-{number}"));
    Arc::new(LeaseElection::new(&connection, ElectionSettings::default(), going_clock()))
}

async fn weather(seed: u64) -> Observed {
    let fake = Fake::new();
    plan(&fake, seed);
    let mut dice = Dice(fastrand::Rng::with_seed(!seed));
    let mut replicas: Vec<(u64, Arc<LeaseElection>)> = Vec::new();
    let mut made = 0;
    let mut observed = Observed::default();
    for _ in 0..6_000 {
        while replicas.len() < REPLICAS {
            made += 1;
            replicas.push((made, replica(&fake, made)));
        }
        let chosen = dice.0.usize(..REPLICAS);
        match dice.0.u64(..400) {
            // A crash, an orderly end.
            0 => drop(replicas.swap_remove(chosen)),
            1 => {
                let (_, leaving) = replicas.swap_remove(chosen);
                tokio::spawn(async move { leaving.close().await });
            }
            2 => fake.down(),
            3..9 => fake.up(),
            9..60 => {
                // A request, whose caller may give up at any time.
                let (election, patience) = (Arc::clone(&replicas[chosen].1), dice.millis(10_000));
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(patience, election.fence()).await;
                });
            }
            _ => {}
        }
        tokio::time::sleep(dice.millis(400)).await;
        observed.check(&replicas, seed);
    }
    observed
}

#[tokio::test(start_paused = true)]
async fn never_two_at_once_and_fences_rise() {
    let (mut terms, mut handovers) = (0, 0);
    for seed in 0..24 {
        let observed = weather(seed).await;
        terms += observed.terms.len();
        handovers += observed.handovers;
    }
    // Otherwise nothing was put to the test.
    assert!(terms > 200 && handovers > 100, "{terms} terms, {handovers} handovers");
}

/// In good conditions the replica that receives the requests is elected, whichever was elected before.
#[tokio::test(start_paused = true)]
async fn the_lease_follows_the_requests() {
    let fake = Fake::new();
    let replicas = [replica(&fake, 1), replica(&fake, 2), replica(&fake, 3)];
    let mut last = 0;
    for round in 0..9 {
        let election = &replicas[round % 3];
        let begin = tokio::time::Instant::now();
        let fence = loop {
            match election.fence().await {
                Ok(fence) => break fence,
                Err(_) => seconds(2).await,
            }
        };
        assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
        assert!(fence > last);
        last = fence;
        for _ in 0..5 {
            seconds(10).await;
            assert_eq!(election.fence().await.unwrap(), fence);
        }
    }
}
