//! Leaves are renewed in time and repaired; an authority is replaced in time, and never overwritten.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::time::{Duration, SystemTime};

use common::{DAY, Life, MINUTE, World, certificate, run};
use quarry_certificates::testing::MemoryStore;
use quarry_certificates::{
    Authority, AuthorityStatus, Data, Done, Error, Item, LeafStatus, Phase, Role, Settings, file,
};

fn started() -> World {
    let world = World::new();
    run(world.healthy().step()).unwrap();
    world
}

fn issued(done: &[Done]) -> Vec<(Role, &str)> {
    done.iter()
        .map(|done| match done {
            Done::Issued { role, why } => (*role, why.as_str()),
            other => panic!("{other}"),
        })
        .collect()
}

#[test]
fn leaves_are_renewed_at_two_thirds_of_their_lifetime() {
    let world = started();
    let before = Item::ALL.map(|item| world.files(item));
    // Valid for 30 days and an hour from an hour ago: two thirds are over 20 days less 20 minutes from now.
    world.pass(20 * DAY - 20 * MINUTE - 1);
    let outcome = run(world.healthy().step()).unwrap();
    assert_eq!(outcome.done, []);
    assert!(outcome.next <= Duration::from_secs(3), "{:?}", outcome.next);
    assert_eq!(Item::ALL.map(|item| world.files(item)), before);
    world.pass(1);
    let why = "two thirds of its lifetime are over";
    let outcome = run(world.healthy().step()).unwrap();
    assert_eq!(issued(&outcome.done), [(Role::Controller, why), (Role::Node, why)]);
    // Peers that have loaded only one of the two trust each other.
    let [_, old_controller, old_node] = before;
    for controller in [&old_controller, &world.files(Item::Controller)] {
        for node in [&old_node, &world.files(Item::Node)] {
            common::mutual(controller, node, world.now()).unwrap();
        }
    }
    assert_ne!(old_controller[file::KEY], world.files(Item::Controller)[file::KEY]);
    assert_eq!(run(world.healthy().step()).unwrap().done, []);
}

#[test]
fn a_cluster_that_was_off_for_months_recovers() {
    let world = started();
    world.pass(200 * DAY);
    world.trusts().unwrap_err();
    let outcome = run(world.healthy().step()).unwrap();
    assert_eq!(issued(&outcome.done), [(Role::Controller, "it had expired"), (Role::Node, "it had expired")]);
    world.trusts().unwrap();
}

#[test]
fn an_authority_is_replaced_at_two_thirds_of_its_lifetime_and_even_after_expiry() {
    for days in [5 * 365 * 2 / 3 + 1, 5 * 365 + 7] {
        let world = started();
        let old = certificate(&world.files(Item::Authority));
        world.pass(days * DAY);
        let outcome = run(world.healthy().step()).unwrap();
        assert_eq!(outcome.done.first(), Some(&Done::Entered(Phase::Publish)));
        while run(world.healthy().step()).unwrap().phase != Some(Phase::Steady) {
            world.trusts().unwrap();
            world.pass(10 * MINUTE);
        }
        world.trusts().unwrap();
        assert_ne!(certificate(&world.files(Item::Authority)), old);
    }
    let world = started();
    world.pass(5 * 365 * 2 / 3 * DAY - DAY);
    assert_eq!(issued(&run(world.healthy().step()).unwrap().done).len(), 2);
    assert!(!world.files(Item::Authority).contains_key("phase"));
}

#[test]
fn a_wrong_leaf_is_reissued_and_the_other_one_kept() {
    let set = |name: &'static str, to: &'static str| {
        move |_: &World, data: &mut Data| {
            data.insert(name.to_owned(), to.into());
        }
    };
    let take = |from: Item, files: &'static [&'static str]| {
        move |world: &World, data: &mut Data| {
            for name in files {
                data.insert((*name).to_owned(), world.files(from)[*name].clone());
            }
        }
    };
    let both = &[file::CERTIFICATE, file::KEY];
    type Damage = Box<dyn Fn(&World, &mut Data)>;
    let damages: Vec<(Damage, &str)> = vec![
        (Box::new(|_, data| data.clear()), "it was missing"),
        (Box::new(|_, data| drop(data.remove(file::KEY))), "tls.key is missing"),
        (Box::new(set(file::CERTIFICATE, "")), "tls.crt contains no certificate"),
        (
            Box::new(set(file::CERTIFICATE, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
            "is damaged",
        ),
        (Box::new(set(file::KEY, "no key")), "tls.key"),
        (Box::new(|_, data| drop(data.insert(file::KEY.to_owned(), vec![0xff, 0xfe]))), "tls.key is not text"),
        (Box::new(set(file::AUTHORITIES, "-----BEGIN CERTIFICATE-----\nAA")), "ca.crt"),
        (Box::new(take(Item::Controller, &[file::KEY])), "tls.key is not the key of tls.crt"),
        (Box::new(take(Item::Controller, both)), "not issued by the current authority"),
        (Box::new(take(Item::Authority, both)), "not issued by the current authority"),
        (
            Box::new(|_, data| {
                let other = started();
                data.extend(other.files(Item::Node));
            }),
            "ca.crt does not contain the current authorities",
        ),
        (
            Box::new(|_, data| {
                let other = started();
                data.insert(file::CERTIFICATE.to_owned(), other.files(Item::Node)[file::CERTIFICATE].clone());
                data.insert(file::KEY.to_owned(), other.files(Item::Node)[file::KEY].clone());
            }),
            "not issued by the current authority",
        ),
    ];
    for (damage, expected) in damages {
        let world = started();
        let controller = world.files(Item::Controller);
        let mut data = world.files(Item::Node);
        data.insert("note".to_owned(), b"of an operator".to_vec());
        damage(&world, &mut data);
        let kept = data.get("note").cloned();
        world.store.poke(Item::Node, Some(data));
        let outcome = run(world.healthy().step()).unwrap();
        let done = issued(&outcome.done);
        assert!(matches!(done.as_slice(), [(Role::Node, why)] if why.contains(expected)), "{expected}: {done:?}");
        world.trusts().unwrap();
        assert_eq!(world.files(Item::Controller), controller);
        assert_eq!(world.files(Item::Node).get("note").cloned(), kept);
    }
}

#[test]
fn a_deleted_leaf_is_reissued() {
    let world = started();
    for role in Role::ALL {
        world.store.poke(role.item(), None);
        assert_eq!(issued(&run(world.healthy().step()).unwrap().done), [(role, "it was missing")]);
        world.trusts().unwrap();
    }
}

#[test]
fn a_leaf_from_a_clock_that_was_far_ahead_is_reissued() {
    let world = World::new();
    run(world.replica(&Life::default(), 0).step()).unwrap();
    world.store.poke(Item::Node, None);
    run(world.replica(&Life::default(), 7200).step()).unwrap();
    let outcome = run(world.healthy().step()).unwrap();
    let done = issued(&outcome.done);
    assert!(matches!(done.as_slice(), [(Role::Node, why)] if why.contains("not valid yet")), "{done:?}");
    world.trusts().unwrap();
}

#[test]
fn a_deleted_authority_is_distrusted_at_once() {
    let world = started();
    let old = world.files(Item::Node);
    world.store.poke(Item::Authority, None);
    let outcome = run(world.healthy().step()).unwrap();
    assert_eq!(outcome.done.first(), Some(&Done::AuthorityMade));
    world.trusts().unwrap();
    common::mutual(&world.files(Item::Controller), &old, world.now()).unwrap_err();
}

#[test]
fn an_unusable_authority_is_rejected_and_not_changed() {
    type Damage = fn(&mut Data);
    let damages: [(Damage, &str); 9] = [
        (|data| drop(data.remove("tls.key")), "tls.key is missing"),
        (|data| drop(data.insert("tls.key".to_owned(), b"garbage".to_vec())), "tls.key"),
        (|data| drop(data.insert("tls.crt".to_owned(), b"garbage".to_vec())), "tls.crt contains no certificate"),
        (|data| data.extend(started().files(Item::Node)), "not an authority's certificate"),
        (
            |data| drop(data.insert("tls.key".to_owned(), started().files(Item::Authority)["tls.key"].clone())),
            "not the key",
        ),
        (|data| drop(data.insert("phase".to_owned(), b"quantum".to_vec())), "perhaps written by a newer Quarry"),
        (|data| drop(data.insert("phase".to_owned(), b"switch".to_vec())), "next.crt is missing"),
        (|data| drop(data.insert("next.key".to_owned(), b"?".to_vec())), "but no phase"),
        (|data| drop(data.insert("phase".to_owned(), vec![0xff])), "phase is not text"),
    ];
    for (damage, expected) in damages {
        let world = started();
        let mut data = world.files(Item::Authority);
        damage(&mut data);
        world.store.poke(Item::Authority, Some(data.clone()));
        // Even what would be due waits for the operator.
        world.pass(25 * DAY);
        let leaves = Role::ALL.map(|role| world.files(role.item()));
        for error in [run(world.healthy().step()).unwrap_err(), run(world.healthy().rotate()).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains(expected) && text.contains("restore it from a backup"), "{expected}: {text}");
            // The controllers may not create the Secrets of the chart, so a deleted one would stay missing.
            assert!(text.contains("empty it") && !text.contains("delete it"), "{text}");
        }
        assert_eq!(world.files(Item::Authority), data);
        assert_eq!(Role::ALL.map(|role| world.files(role.item())), leaves);
        let status = run(world.healthy().status()).unwrap();
        assert!(matches!(status.authority, AuthorityStatus::Unusable { .. }), "{status:?}");
    }
}

#[test]
fn unknown_files_of_the_authority_are_kept() {
    let world = started();
    let mut data = world.files(Item::Authority);
    data.insert("later".to_owned(), b"format".to_vec());
    world.store.poke(Item::Authority, Some(data));
    run(world.healthy().rotate()).unwrap();
    while run(world.healthy().step()).unwrap().phase != Some(Phase::Steady) {
        world.pass(30 * MINUTE);
    }
    assert_eq!(world.text(Item::Authority, "later"), "format");
}

#[test]
fn status_reports_the_stored_items_and_changes_nothing() {
    let world = World::new();
    let status = run(world.healthy().status()).unwrap();
    assert_eq!(status.authority, AuthorityStatus::Missing);
    assert_eq!((status.controller, status.node), (LeafStatus::Missing, LeafStatus::Missing));
    assert!(matches!(run(world.healthy().rotate()), Err(Error::NoAuthority)));
    assert!(world.history().is_empty());

    let world = started();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let begun = world.now();
    let present = LeafStatus::Present { expires: at(begun + 30 * DAY), due: None };
    let status = run(world.healthy().status()).unwrap();
    assert_eq!((&status.controller, &status.node), (&present, &present));
    let expires = at(begun + 5 * 365 * DAY);
    let authority = AuthorityStatus::Present { phase: Phase::Steady, since: None, expires, next_expires: None };
    assert_eq!(status.authority, authority);

    world.pass(MINUTE);
    run(world.healthy().rotate()).unwrap();
    let due = Some("ca.crt does not contain the current authorities".to_owned());
    let status = run(world.healthy().status()).unwrap();
    assert_eq!(status.node, LeafStatus::Present { expires: at(begun + 30 * DAY), due });
    run(world.healthy().step()).unwrap();
    let status = run(world.healthy().status()).unwrap();
    let authority = AuthorityStatus::Present {
        phase: Phase::Publish,
        since: Some(at(world.now())),
        expires,
        next_expires: Some(at(world.now() + 5 * 365 * DAY)),
    };
    assert_eq!(status.authority, authority);
    world.store.poke(Item::Node, Some(Data::from([(file::KEY.to_owned(), b"x".to_vec())])));
    let status = run(world.healthy().status()).unwrap();
    assert!(matches!(status.node, LeafStatus::Unreadable { .. }), "{status:?}");
}

#[test]
fn contradictory_settings_are_rejected() {
    let fine = Settings::default();
    let day = Duration::from_secs(DAY);
    for wrong in [
        Settings { leaf_life: Duration::ZERO, backdate: Duration::ZERO, ..fine },
        Settings { leaf_life: day / 24, ..fine },
        Settings { authority_life: 60 * day, ..fine },
        Settings { authority_life: Duration::MAX, ..fine },
    ] {
        let made = Authority::new(std::sync::Arc::new(MemoryStore::default()), wrong);
        assert!(matches!(made, Err(Error::Settings(_))), "{wrong:?}");
    }
}

/// The next check is within ten minutes, and not always immediate.
#[test]
fn the_next_check_is_soon_and_spread() {
    let world = started();
    let pauses: Vec<Duration> = (0..50).map(|_| run(world.healthy().step()).unwrap().next).collect();
    assert!(
        pauses.iter().all(|next| *next >= Duration::from_secs(200) && *next <= Duration::from_secs(300)),
        "{pauses:?}"
    );
    assert!(pauses.iter().any(|next| *next != pauses[0]));
}
