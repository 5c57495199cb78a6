//! One authority replaces another, with controllers killed at every instant: controller and nodes trust each
//! other throughout, however late each of them loads what is stored.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::HashMap;

use common::{DAY, Life, MINUTE, World, certificate, mutual, run};
use quarry_certificates::{Data, Done, Item, Phase, Requested, Settings};

/// A change of the store: when, of which item, and what it holds then.
type Change = (u64, Item, Option<Data>);

/// A world in which a rotation was just requested, and the number of changes before that.
fn rotating() -> (World, usize) {
    let world = World::new();
    run(world.healthy().step()).unwrap();
    world.pass(60 * MINUTE);
    let before = world.history().len();
    assert_eq!(run(world.healthy().rotate()).unwrap(), Requested::Begun);
    (world, before)
}

/// Steps, 12 minutes apart, until the rotation is over or the replica is.
fn drive(world: &World, life: &Life) {
    let replica = world.replica(life, 0);
    for _ in 0..30 {
        match run(replica.step()) {
            Ok(outcome) if outcome.phase == Some(Phase::Steady) => return,
            Ok(_) => world.pass(12 * MINUTE),
            Err(_) if life.is_over() => return,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the rotation does not end");
}

/// Checks a history from its change number `begin` on: at every instant, a controller and a node that hold any mixture
/// of what was stored in the present and the previous stretch of the rotation trust each other; and so do any that are
/// up to `propagation` behind. A stretch lasts from one change of the authority's item to the next.
fn no_outage(history: &[Change], begin: usize) -> Result<(), String> {
    let propagation = Settings::default().propagation.as_secs();
    let mut verdicts = HashMap::new();
    for now in begin..history.len() {
        let at = history[now].0;
        let stretches: Vec<usize> =
            (begin..=now).rev().filter(|change| history[*change].1 == Item::Authority).take(2).collect();
        // The first stretch begins with what was there before.
        let from = if stretches.len() < 2 { begin - 1 } else { stretches[1] };
        let held = |item: Item| {
            (0..=now).filter(move |change| history[*change].1 == item).filter(move |change| {
                let replaced = (change + 1..=now).find(|later| history[*later].1 == item);
                replaced.is_none_or(|replaced| replaced > from || history[replaced].0 + propagation > at)
            })
        };
        for controller in held(Item::Controller) {
            for node in held(Item::Node) {
                let data = |change: usize| history[change].2.as_ref().unwrap();
                verdicts
                    .entry((controller, node))
                    .or_insert_with(|| mutual(data(controller), data(node), at))
                    .clone()
                    .map_err(|why| format!("after change {now}, holding {controller} and {node}: {why}"))?;
            }
        }
    }
    Ok(())
}

/// The end of every rotation: a new authority, leaves from it, and the old one no longer trusted.
fn complete(world: &World, old: &Data) {
    let authority = world.files(Item::Authority);
    assert_ne!(certificate(&authority), certificate(old));
    assert_eq!(authority.keys().collect::<Vec<_>>(), ["tls.crt", "tls.key"]);
    for item in [Item::Controller, Item::Node] {
        assert_eq!(world.files(item)["ca.crt"], authority["tls.crt"]);
    }
    world.trusts().unwrap();
    let more = run(world.healthy().step()).unwrap();
    assert_eq!(more.done, []);
}

#[test]
fn phases_follow_each_other_and_wait() {
    let (world, begin) = rotating();
    let old = world.files(Item::Authority);
    let replica = world.healthy();
    let wait = Settings::default().propagation.as_secs() + Settings::default().clocks_apart.as_secs();
    let mut seen = Vec::new();
    let start = world.now();
    while seen.last().is_none_or(|(_, what)| *what != Done::Entered(Phase::Steady)) {
        let outcome = run(replica.step()).unwrap();
        seen.extend(
            outcome
                .done
                .into_iter()
                .filter(|done| !matches!(done, Done::Issued { .. }))
                .map(|done| (world.now() - start, done)),
        );
        assert!(outcome.next <= Settings::default().propagation / 3);
        world.pass(MINUTE);
    }
    assert_eq!(
        seen,
        [
            (0, Done::Shown(Phase::Publish)),
            (wait, Done::Entered(Phase::Switch)),
            (wait, Done::Shown(Phase::Switch)),
            (2 * wait, Done::Entered(Phase::Steady)),
        ]
    );
    complete(&world, &Data::from_iter([("tls.crt".to_owned(), old["tls.crt"].clone())]));
    no_outage(&world.history(), begin).unwrap();
}

/// `quarry certificates issue` does not know how long the controllers' phases take: their options may differ.
#[test]
fn issuing_what_is_missing_neither_starts_nor_continues_a_rotation() {
    let (world, begin) = rotating();
    let issue = || run(world.healthy().issue()).unwrap();
    let published = world.files(Item::Authority);
    let issued = |done: Vec<Done>| done.iter().map(|done| matches!(done, Done::Issued { .. })).collect::<Vec<_>>();
    // Certificates that trust the new authority, too, are due; when both have them, a controller starts the wait.
    assert_eq!(issued(issue()), [true, true]);
    assert_eq!(world.files(Item::Authority), published);
    let outcome = run(world.healthy().step()).unwrap();
    assert_eq!(outcome.done, [Done::Shown(Phase::Publish)]);
    // The wait is over by the default settings, but perhaps not by those of the controllers.
    let waiting = world.files(Item::Authority);
    world.pass(DAY);
    assert_eq!(issue(), []);
    assert_eq!(world.files(Item::Authority), waiting);
    // A certificate is lost: the wait restarts, when a controller sees both again.
    world.store.poke(Item::Node, None);
    let done = issue();
    assert_eq!(done[0], Done::NotShown(Phase::Publish));
    assert_eq!(issued(done), [false, true]);
    assert_eq!(world.files(Item::Authority), published);
    drive(&world, &Life::default());
    no_outage(&world.history()[..begin + 4], begin).unwrap();

    // An authority that is due is left to the controllers, too.
    world.pass(1500 * DAY);
    let authority = world.files(Item::Authority);
    assert_eq!(issued(issue()), [true, true]);
    assert_eq!(world.files(Item::Authority), authority);
}

#[test]
fn killed_at_every_instant_the_next_one_goes_on_without_an_outage() {
    let (world, begin) = rotating();
    let whole = Life::default();
    drive(&world, &whole);
    no_outage(&world.history(), begin).unwrap();
    assert!(whole.events() > 60, "too few instants to kill at: {}", whole.events());

    let mut random = fastrand::Rng::with_seed(7);
    for instant in 0..whole.events() {
        let (world, begin) = rotating();
        let old = world.files(Item::Authority);
        let first = Life::until(instant);
        drive(&world, &first);
        assert!(first.is_over(), "never killed at {instant}");
        // A second one dies as well, somewhere; sometimes long after.
        let second = Life::until(random.usize(..whole.events()));
        world.pass(if random.bool() { 0 } else { random.u64(..90) * MINUTE });
        drive(&world, &second);
        drive(&world, &Life::default());
        complete(&world, &Data::from_iter([("tls.crt".to_owned(), old["tls.crt"].clone())]));
        if let Err(why) = no_outage(&world.history(), begin) {
            panic!("killed at {instant}: {why}");
        }
    }
}

/// The check above detects an outage: a history without its middle.
#[test]
fn a_rotation_that_skips_a_phase_is_an_outage() {
    let (world, begin) = rotating();
    drive(&world, &Life::default());
    let history = world.history();
    no_outage(&history, begin).unwrap();
    let is = |change: &Change, phase: &[u8]| {
        change.1 == Item::Authority && change.2.as_ref().unwrap().get("phase").is_some_and(|found| found == phase)
    };
    let switch = history.iter().position(|change| is(change, b"switch")).unwrap();
    let steady = history.iter().rposition(|change| change.1 == Item::Authority).unwrap();
    // Straight from the old authority to certificates of the new one.
    let hasty: Vec<Change> = history[..begin].iter().chain(&history[switch..]).cloned().collect();
    no_outage(&hasty, begin).unwrap_err();
    // Straight from certificates of the old authority to not trusting it.
    let hasty: Vec<Change> = history[..switch].iter().chain(&history[steady..]).cloned().collect();
    no_outage(&hasty, begin).unwrap_err();
    // All phases, but no time between them: an outage for late readers.
    let hasty: Vec<Change> = history.iter().map(|change| (common::START, change.1, change.2.clone())).collect();
    no_outage(&hasty, begin).unwrap_err();
}

#[test]
fn an_item_that_goes_back_behind_a_phase_starts_its_wait_again() {
    for phase in [Phase::Publish, Phase::Switch] {
        let (world, _) = rotating();
        let replica = world.healthy();
        let earlier = world.files(Item::Node);
        while run(replica.step()).unwrap().phase != Some(phase) {
            world.pass(12 * MINUTE);
        }
        world.pass(34 * MINUTE);
        assert_eq!(run(replica.step()).unwrap().done, []);
        // A backup is restored, just before the wait is over.
        world.store.poke(Item::Node, Some(earlier));
        world.pass(2 * MINUTE);
        let done = run(replica.step()).unwrap().done;
        assert!(
            matches!(done.as_slice(), [Done::NotShown(p), Done::Issued { .. }, Done::Shown(q)] if *p == phase && *q == phase),
            "{done:?}"
        );
        world.pass(34 * MINUTE);
        assert_eq!(run(replica.step()).unwrap().done, []);
        world.pass(MINUTE);
        assert!(matches!(run(replica.step()).unwrap().done.first(), Some(Done::Entered(_))));
    }
}

#[test]
fn an_item_that_cannot_be_written_holds_the_phase_back() {
    let (world, begin) = rotating();
    let replica = {
        let store = world.store.hooked(std::sync::Arc::new(|event| {
            Box::pin(async move {
                if event.item == Item::Node && event.operation == "update" {
                    Err("forbidden".to_owned())
                } else {
                    Ok(())
                }
            })
        }));
        let now = world.clone();
        quarry_certificates::Authority::new(std::sync::Arc::new(store), Settings::default())
            .unwrap()
            .with_clock(std::sync::Arc::new(move || std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.now())))
    };
    for _ in 0..10 {
        let error = run(replica.step()).unwrap_err().to_string();
        assert_eq!(error, "cannot update the certificates of node: forbidden");
        world.pass(60 * MINUTE);
    }
    assert_eq!(world.text(Item::Authority, "phase"), "publish");
    assert!(!world.files(Item::Authority).contains_key("since"));
    drive(&world, &Life::default());
    no_outage(&world.history(), begin).unwrap();
}

#[test]
fn a_rotation_requested_twice_is_one() {
    let (world, _) = rotating();
    let under_way = world.files(Item::Authority);
    assert_eq!(run(world.healthy().rotate()).unwrap(), Requested::UnderWay(Phase::Publish));
    assert_eq!(world.files(Item::Authority), under_way);
}
