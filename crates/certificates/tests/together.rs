//! Several replicas at once, their operations interleaved in many orders, by clocks that differ.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use common::{Life, MINUTE, World, certificate, certificates, interleave, mutual, run};
use quarry_certificates::{Authority, Data, Error, Item, Outcome, Phase, Requested, Role, Settings, file};

type Step<'a> = Pin<Box<dyn Future<Output = Result<Outcome, Error>> + 'a>>;

/// Replicas whose clocks are right, ten minutes ahead and ten minutes behind.
fn replicas(world: &World) -> [Authority; 3] {
    [0, 600, -600].map(|ahead| world.replica(&Life::default(), ahead))
}

fn steps(replicas: &[Authority]) -> Vec<Step<'_>> {
    replicas.iter().map(|replica| Box::pin(replica.step()) as Step<'_>).collect()
}

#[test]
fn three_replicas_that_start_together_create_one_authority_and_its_leaves() {
    for seed in 0..300 {
        let world = World::new();
        if seed % 3 == 0 {
            // The items were created in advance, empty, so that no permission to create is needed.
            for item in Item::ALL {
                world.store.poke(item, Some(Data::new()));
            }
        }
        let replicas = replicas(&world);
        let outcomes = interleave(&mut fastrand::Rng::with_seed(seed), 0.0, steps(&replicas));
        let controller = world.files(Item::Controller);
        let authority = certificate(&world.files(Item::Authority));
        for outcome in outcomes {
            let outcome = outcome.unwrap().unwrap();
            assert_eq!(outcome.phase, Some(Phase::Steady), "seed {seed}");
            assert_eq!(outcome.controller.unwrap().certificate.as_bytes(), controller[file::CERTIFICATE]);
        }
        assert_eq!(certificates(&controller[file::AUTHORITIES]), [authority]);
        world.trusts().unwrap();
        // Each item was written once: the losers of the race use what the winner made.
        let written =
            world.history().into_iter().filter(|(_, _, data)| data.as_ref().is_some_and(|data| !data.is_empty()));
        assert_eq!(written.count(), 3, "seed {seed}");
    }
}

#[test]
fn two_replicas_that_renew_together_issue_one_certificate_per_role() {
    for seed in 0..100 {
        let world = World::new();
        run(world.healthy().step()).unwrap();
        let before = world.history().len();
        world.pass(25 * common::DAY);
        let replicas = replicas(&world);
        for outcome in interleave(&mut fastrand::Rng::with_seed(seed), 0.0, steps(&replicas)) {
            outcome.unwrap().unwrap();
        }
        let mut items: Vec<Item> = world.history()[before..].iter().map(|(_, item, _)| *item).collect();
        items.sort();
        assert_eq!(items, [Item::Controller, Item::Node], "seed {seed}");
        world.trusts().unwrap();
    }
}

#[test]
fn two_replicas_that_request_a_rotation_together_start_one() {
    for seed in 0..50 {
        let world = World::new();
        run(world.healthy().step()).unwrap();
        let replicas = replicas(&world);
        let asked = replicas.iter().map(|replica| Box::pin(replica.rotate()) as Pin<Box<dyn Future<Output = _> + '_>>);
        let answers = interleave(&mut fastrand::Rng::with_seed(seed), 0.0, asked.collect());
        let begun = answers.into_iter().filter(|answer| matches!(answer, Some(Ok(Requested::Begun)))).count();
        assert_eq!(begun, 1, "seed {seed}");
    }
}

/// Whether all peers that are up to `propagation` behind, in any mixture, trust each other after every change.
fn no_outage(history: &[(u64, Item, Option<Data>)]) -> Result<(), String> {
    let propagation = Settings::default().propagation.as_secs();
    for now in 0..history.len() {
        let at = history[now].0;
        let held = |item: Item| {
            let of_item = move |change: &usize| history[*change].1 == item;
            let changes: Vec<usize> = (0..=now).filter(of_item).collect();
            (0..changes.len())
                .filter(|place| changes.get(place + 1).is_none_or(|next| history[*next].0 + propagation > at))
                .map(|place| history[changes[place]].2.as_ref().unwrap())
                .collect::<Vec<_>>()
        };
        for controller in held(Item::Controller) {
            for node in held(Item::Node) {
                mutual(controller, node, at).map_err(|why| format!("after change {now}: {why}"))?;
            }
        }
    }
    Ok(())
}

/// A rotation by three replicas whose steps overlap, whose clocks differ by up to twenty minutes, and that are killed
/// (and started again) at random instants, while time passes even between their operations.
#[test]
fn a_rotation_by_all_replicas_in_any_order_causes_no_outage() {
    for seed in 0..25 {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = World::new();
        run(world.healthy().step()).unwrap();
        world.pass(30 * MINUTE);
        run(world.healthy().rotate()).unwrap();
        let old = certificate(&world.files(Item::Authority));
        let replicas = replicas(&world);
        let mut rounds = 0;
        while certificate(&world.files(Item::Authority)) == old {
            rounds += 1;
            assert!(rounds < 400, "seed {seed}: the rotation does not end");
            let passing = world.clone();
            let mut futures = steps(&replicas);
            let seconds = random.u64(..120);
            futures.push(Box::pin(async move {
                common::Yield(false).await;
                passing.pass(seconds);
                Err(Error::NoAuthority)
            }));
            let kill = if random.bool() { 0.05 } else { 0.0 };
            interleave(&mut random, kill, futures);
            world.pass(random.u64(..5 * MINUTE));
        }
        run(world.healthy().step()).unwrap();
        world.trusts().unwrap();
        if let Err(why) = no_outage(&world.history()[2..]) {
            panic!("seed {seed}: {why}");
        }
    }
}

/// A controller that was suspended in the middle of a step, before it writes what it had decided long ago.
#[test]
fn a_late_writer_changes_nothing() {
    for turns in 0..40 {
        let world = World::new();
        run(world.healthy().step()).unwrap();
        // Old enough for the suspended one to want to renew both.
        world.pass(25 * common::DAY);
        let suspended = world.healthy();
        let mut step = Box::pin(suspended.step());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..turns {
            if step.as_mut().poll(&mut context).is_ready() {
                return assert!(turns > 12, "suspended at {turns} instants only");
            }
        }
        let others = world.healthy();
        run(others.step()).unwrap();
        let begin = world.history().len() - 2;
        run(others.rotate()).unwrap();
        while run(others.step()).unwrap().phase != Some(Phase::Steady) {
            world.pass(12 * MINUTE);
        }
        let complete = Item::ALL.map(|item| world.files(item));
        run(step).unwrap();
        assert_eq!(Item::ALL.map(|item| world.files(item)), complete, "suspended after {turns} turns");
        no_outage(&world.history()[begin..]).unwrap();
    }
    panic!("the step never ends");
}

/// The controllers' clocks at their worst, each step by another: the wait is never shorter than `propagation`.
#[test]
fn clocks_that_differ_do_not_shorten_the_wait() {
    for (writer, reader) in [(-600, 600), (600, -600), (-600, 0), (0, 600)] {
        let world = World::new();
        run(world.healthy().step()).unwrap();
        world.trusts().unwrap();
        run(world.replica(&Life::default(), writer).rotate()).unwrap();
        run(world.replica(&Life::default(), writer).step()).unwrap();
        let (shown, reader) = (world.now(), world.replica(&Life::default(), reader));
        while run(reader.step()).unwrap().phase == Some(Phase::Publish) {
            world.pass(MINUTE);
        }
        let waited = Duration::from_secs(world.now() - shown);
        assert!(waited >= Settings::default().propagation, "only {waited:?}");
        assert!(waited <= Settings::default().propagation + Duration::from_secs(45 * MINUTE), "{waited:?}");
    }
}

/// A wait begun by a clock that was a day ahead does not last a day.
#[test]
fn a_date_far_ahead_is_corrected() {
    let world = World::new();
    run(world.healthy().step()).unwrap();
    run(world.healthy().rotate()).unwrap();
    run(world.healthy().step()).unwrap();
    let mut authority = world.files(Item::Authority);
    authority.insert("since".to_owned(), (world.now() + common::DAY).to_string().into_bytes());
    world.store.poke(Item::Authority, Some(authority));
    run(world.healthy().step()).unwrap();
    assert_eq!(world.text(Item::Authority, "since"), world.now().to_string());
}

#[test]
fn certificates_are_trusted_despite_differing_clocks() {
    for ahead in [-600, 600] {
        let world = World::new();
        let replica = world.replica(&Life::default(), ahead);
        run(replica.step()).unwrap();
        let at = world.now();
        for there in [at - 600, at, at + 600] {
            mutual(&world.files(Role::Controller.item()), &world.files(Role::Node.item()), there).unwrap();
        }
        // Neither sees anything to do about what the other made.
        assert_eq!(run(world.replica(&Life::default(), -ahead).step()).unwrap().done, []);
    }
}
