//! Reads and writes the content of the Lease: pure functions on the object.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::guard::timestamp;

/// 1 January 2025 in seconds since 1970: see [`first_transitions`].
const EPOCH: u64 = 1_735_689_600;
/// The longest duration that is accepted from another holder.
const LONGEST: Duration = Duration::from_secs(300);

/// The holder; `None` if the Lease is free.
pub(crate) fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// The number of its term.
pub(crate) fn transitions(lease: &Lease) -> i32 {
    lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0).max(0)
}

/// The version of the object.
pub(crate) fn version(lease: &Lease) -> &str {
    lease.metadata.resource_version.as_deref().unwrap_or_default()
}

/// How long others must see the Lease unchanged before they may take it: the duration written by its holder,
/// but no less than this controller's own.
pub(crate) fn duration(lease: &Lease, own: Duration) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LONGEST).max(own)
}

/// The term number with which a new Lease starts.
///
/// If an operator deletes the Lease, its number must not restart: nodes reject a lower fencing token than
/// they have seen. So it starts with the number of seconds since 2025, which is above any count of terms,
/// because the terms of the previous Lease lasted longer than a second on average. It fits 31 bits until
/// 2093.
pub(crate) fn first_transitions(now: SystemTime) -> i32 {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i32::try_from(seconds.saturating_sub(EPOCH)).unwrap_or(i32::MAX - 1)
}

/// The fencing token of a term.
pub(crate) fn fence(transitions: i32) -> u64 {
    u64::try_from(transitions).unwrap_or(0) + 1
}

/// A new Lease, held by `identity`.
pub(crate) fn made(name: &str, identity: &str, transitions: i32, duration: Duration, now: SystemTime) -> Lease {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    taken(Lease { metadata, spec: None }, identity, transitions, duration, now)
}

/// The Lease, taken by `identity` for a new term.
pub(crate) fn taken(lease: Lease, identity: &str, transitions: i32, duration: Duration, now: SystemTime) -> Lease {
    let now = MicroTime(timestamp(now));
    let spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(whole_seconds(duration)),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..lease.spec.unwrap_or_default()
    };
    Lease { metadata: bare(lease.metadata), spec: Some(spec) }
}

/// The Lease, renewed by its holder.
pub(crate) fn renewed(lease: Lease, now: SystemTime) -> Lease {
    let spec = LeaseSpec { renew_time: Some(MicroTime(timestamp(now))), ..lease.spec.unwrap_or_default() };
    Lease { metadata: bare(lease.metadata), spec: Some(spec) }
}

/// The Lease, released by its holder: another controller may take it immediately.
pub(crate) fn released(lease: Lease, now: SystemTime) -> Lease {
    let lease = renewed(lease, now);
    let spec = LeaseSpec { holder_identity: None, lease_duration_seconds: Some(1), ..lease.spec.unwrap_or_default() };
    Lease { spec: Some(spec), ..lease }
}

/// Sending these fields back unchanged would only waste space.
fn bare(metadata: ObjectMeta) -> ObjectMeta {
    ObjectMeta { managed_fields: None, ..metadata }
}

fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Golden: the order of fencing tokens across a deletion of the Lease depends on it.
    #[test]
    fn a_new_lease_begins_with_the_clock() {
        assert_eq!(first_transitions(at(0)), 0);
        assert_eq!(first_transitions(at(EPOCH + 1_000)), 1_000);
        assert_eq!(first_transitions(at(9_000_000_000)), i32::MAX - 1);
        assert_eq!(fence(0), 1);
        assert_eq!(fence(i32::MAX), 1 << 31);
    }

    #[test]
    fn a_released_lease_has_no_holder_and_keeps_its_number() {
        let lease = made("l", "me", 7, Duration::from_secs(15), at(EPOCH));
        assert_eq!(holder(&lease), Some("me"));
        assert_eq!(duration(&lease, Duration::from_secs(3)), Duration::from_secs(15));
        let lease = released(lease, at(EPOCH + 5));
        assert_eq!(holder(&lease), None);
        assert_eq!(transitions(&lease), 7);
        assert_eq!(duration(&lease, Duration::from_secs(3)), Duration::from_secs(3));
    }

    #[test]
    fn an_excessive_duration_does_not_block_other_controllers() {
        let lease = made("l", "me", 7, Duration::from_secs(1 << 40), at(EPOCH));
        assert_eq!(duration(&lease, Duration::from_secs(15)), LONGEST);
    }
}
