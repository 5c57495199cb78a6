//! The nodes in an operator's lists.

use quarry_proto::view::v2;

use super::unreachable::short;
use crate::member::{Link, Member};

/// A length, as an integer in a message.
pub(super) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// A node, from memory.
pub(super) fn node(member: &Member) -> v2::Node {
    let (reachable, since, why) = match member.link() {
        Link::Up { since, .. } => (true, since, String::new()),
        Link::Down { why, since, .. } => (false, since, short(&member.name, &why)),
    };
    let memory = member.memory();
    let greeting = memory.greeting();
    let known = greeting.cloned().unwrap_or_default();
    v2::Node {
        name: member.name.clone(),
        reachable,
        since_seconds: since.elapsed().as_secs(),
        why,
        reported: greeting.is_some(),
        version: known.version,
        boot_id: known.boot_id,
        pod_uid: known.pod_uid,
        instance: known.instance,
        pools: count(memory.pools().count()),
        volumes: count(memory.count()),
        bytes: memory.pools().fold(0, |sum, pool| sum.saturating_add(pool.size)),
        free_bytes: memory.pools().fold(0, |sum, pool| sum.saturating_add(pool.free())),
    }
}
