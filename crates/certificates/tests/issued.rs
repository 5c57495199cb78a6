//! What the certificates are like that are issued.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{DAY, START, World, certificate, certificates, run, trusted};
use quarry_certificates::{Done, Item, Phase, Role, file};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const HOUR: i64 = 3600;

fn world() -> World {
    let world = World::new();
    let outcome = run(world.healthy().step()).unwrap();
    let why = "it was missing".to_owned();
    assert_eq!(
        outcome.done,
        [
            Done::AuthorityMade,
            Done::Issued { role: Role::Controller, why: why.clone() },
            Done::Issued { role: Role::Node, why },
        ]
    );
    assert_eq!(outcome.phase, Some(Phase::Steady));
    world
}

#[test]
fn the_authority_signs_certificates_and_nothing_else() {
    let world = world();
    let der = certificate(&world.files(Item::Authority));
    let (_, ca) = X509Certificate::from_der(&der).unwrap();
    let constraints = ca.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = ca.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1 << 5, "keyCertSign alone");
    assert_eq!(ca.validity().not_before.timestamp(), START as i64 - HOUR);
    assert_eq!(ca.validity().not_after.timestamp(), (START + 5 * 365 * DAY) as i64);
    assert_eq!(ca.subject(), ca.issuer());
    let name = ca.subject().to_string();
    let digits = name.strip_prefix("O=Quarry, CN=Quarry authority ").unwrap();
    assert!(digits.len() == 16 && digits.chars().all(|c| c.is_ascii_hexdigit()), "{name}");
    assert!(ca.raw_serial().len() >= 16);
}

#[test]
fn a_leaf_serves_its_role_and_nothing_else() {
    let world = world();
    let authority = certificate(&world.files(Item::Authority));
    let (_, ca) = X509Certificate::from_der(&authority).unwrap();
    for (role, name) in [(Role::Controller, "controller.quarry"), (Role::Node, "node.quarry")] {
        let data = world.files(role.item());
        assert_eq!(data.keys().collect::<Vec<_>>(), ["ca.crt", "tls.crt", "tls.key"]);
        assert_eq!(certificates(&data[file::AUTHORITIES]), std::slice::from_ref(&authority));
        let der = certificate(&data);
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        assert!(!leaf.is_ca());
        assert_eq!(leaf.issuer(), ca.subject());
        assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert_eq!((usage.client_auth, usage.server_auth), (role == Role::Controller, role == Role::Node));
        assert!(!usage.any && !usage.code_signing && usage.other.is_empty());
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(*names, [GeneralName::DNSName(name)]);
        assert_eq!(leaf.validity().not_before.timestamp(), START as i64 - HOUR);
        assert_eq!(leaf.validity().not_after.timestamp(), (START + 30 * DAY) as i64);
        // ECDSA on P-256, signed with SHA-256.
        assert_eq!(leaf.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.2");
        let curve = leaf.public_key().algorithm.parameters.as_ref().unwrap().as_oid().unwrap();
        assert_eq!(curve.to_id_string(), "1.2.840.10045.3.1.7");
        let key = String::from_utf8(data[file::KEY].clone()).unwrap();
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}

#[test]
fn both_trust_each_other_from_the_first_instant_to_the_last() {
    let world = world();
    let (controller, node) = (world.files(Item::Controller), world.files(Item::Node));
    for at in [START - 3599, START - 600, START, START + 30 * DAY - 1] {
        common::mutual(&controller, &node, at).unwrap();
    }
    common::mutual(&controller, &node, START - 3601).unwrap_err();
    common::mutual(&controller, &node, START + 30 * DAY + 1).unwrap_err();
    // Neither passes for the other.
    trusted(Role::Node, &controller, &node, START).unwrap_err();
    trusted(Role::Controller, &node, &controller, START).unwrap_err();
}

#[test]
fn no_two_authorities_leaves_or_keys_are_alike() {
    let (one, two) = (world(), world());
    for item in Item::ALL {
        assert_ne!(one.files(item)[file::KEY], two.files(item)[file::KEY]);
        let (one, two) = (certificate(&one.files(item)), certificate(&two.files(item)));
        let (_, one) = X509Certificate::from_der(&one).unwrap();
        let (_, two) = X509Certificate::from_der(&two).unwrap();
        assert_ne!(one.raw_serial(), two.raw_serial());
        assert_ne!(one.issuer(), two.issuer(), "{item}");
    }
    assert_ne!(one.files(Item::Controller)[file::KEY], one.files(Item::Node)[file::KEY]);
    common::mutual(&one.files(Item::Controller), &two.files(Item::Node), START).unwrap_err();
}

#[test]
fn keys_do_not_appear_in_logs() {
    let world = world();
    let outcome = run(world.healthy().step()).unwrap();
    let stored = run(quarry_certificates::Store::get(&world.store, Item::Authority)).unwrap();
    let key = world.text(Item::Authority, file::KEY);
    let line = key.lines().nth(1).unwrap();
    assert!(!format!("{outcome:?} {stored:?}").contains(line));
    assert!(!format!("{outcome:?}").contains(world.text(Item::Controller, file::KEY).lines().nth(1).unwrap()));
}
