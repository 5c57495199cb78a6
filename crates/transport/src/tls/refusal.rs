//! Rejected connections: reasons, counts, and a log that a port scan cannot flood.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::{CertificateError, Error};
use tokio::time::Instant;

use super::first::NotTls;
use super::{CONTROLLER_NAME, HANDSHAKE_WAIT};

/// How long the same peer and reason are not logged again.
const QUIET: Duration = Duration::from_secs(3600);
/// How many pairs of peer and reason are remembered for that.
const REMEMBERED: usize = 1024;

/// Why a connection was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The first byte is not TLS.
    PlainText,
    /// The client presented no certificate.
    NoCertificate,
    /// The certificate is valid but not a controller's: it has another key usage or another name.
    WrongRole,
    /// The certificate has expired or is not valid yet.
    Expired,
    /// The certificate was issued by an untrusted authority.
    UnknownAuthority,
    /// The handshake did not finish in time.
    TimeOut,
    /// The handshake was displaced by newer connections.
    Displaced,
    /// This side has no certificate yet.
    NotReady,
    /// Anything else; see the detail.
    Other,
}

impl Reason {
    /// All reasons, in the order of [`Refusals::counts`].
    pub const ALL: [Reason; 9] = [
        Reason::PlainText,
        Reason::NoCertificate,
        Reason::WrongRole,
        Reason::Expired,
        Reason::UnknownAuthority,
        Reason::TimeOut,
        Reason::Displaced,
        Reason::NotReady,
        Reason::Other,
    ];

    /// The reason's name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::PlainText => "plain_text",
            Reason::NoCertificate => "no_certificate",
            Reason::WrongRole => "wrong_role",
            Reason::Expired => "expired",
            Reason::UnknownAuthority => "unknown_authority",
            Reason::TimeOut => "time_out",
            Reason::Displaced => "displaced",
            Reason::NotReady => "not_ready",
            Reason::Other => "other",
        }
    }
}

/// A rejected connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("connection rejected ({}): {detail}", reason.as_str())]
pub struct Refusal {
    /// The reason, as a value.
    pub reason: Reason,
    /// The reason, as text, with what to do.
    pub detail: String,
}

impl Refusal {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub(super) fn time_out() -> Self {
        Self::new(Reason::TimeOut, format!("the handshake did not finish within {} s", HANDSHAKE_WAIT.as_secs()))
    }

    /// The reason for a failed handshake.
    pub(super) fn of(error: &io::Error) -> Self {
        if let Some(not_tls) = find::<NotTls>(error) {
            return Self::new(Reason::PlainText, format!("{not_tls}; only mutual TLS is accepted here"));
        }
        let Some(error) = find::<Error>(error) else {
            return Self::new(Reason::Other, format!("the connection ended before the handshake did: {error}"));
        };
        match error {
            Error::NoCertificatesPresented => {
                Self::new(Reason::NoCertificate, "the client presented no certificate; only a controller's is accepted")
            }
            Error::InvalidCertificate(fault) => Self::of_certificate(fault),
            Error::AlertReceived(alert) => Self::new(
                Reason::Other,
                format!("the client rejected the node's certificate or the connection: {alert:?}"),
            ),
            other => Self::new(Reason::Other, format!("the handshake failed: {other}")),
        }
    }

    fn of_certificate(fault: &CertificateError) -> Self {
        use CertificateError as C;
        let (reason, hint) = match fault {
            C::Expired | C::ExpiredContext { .. } => (Reason::Expired, "renew it, or correct the clocks"),
            C::NotValidYet | C::NotValidYetContext { .. } => (Reason::Expired, "compare the clocks of the two hosts"),
            C::InvalidPurpose | C::InvalidPurposeContext { .. } => {
                (Reason::WrongRole, "a controller's certificate needs the extended key usage clientAuth")
            }
            C::NotValidForName | C::NotValidForNameContext { .. } => {
                (Reason::WrongRole, "a controller's certificate needs exactly this DNS name")
            }
            C::UnknownIssuer | C::BadSignature => (Reason::UnknownAuthority, "add its authority to the node's ca.crt"),
            _ => (Reason::Other, "it must be an ordinary X.509 certificate"),
        };
        let text = Error::from(fault.clone());
        Self::new(reason, format!("the client's certificate is not accepted as {CONTROLLER_NAME}: {text}; {hint}"))
    }
}

/// Finds a cause of a given type within an I/O error.
pub(super) fn find<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> =
        error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref() {
            return Some(found);
        }
        cause = current.source();
    }
    None
}

/// Counts rejected connections by reason, and logs each peer and reason once an hour. Clones share the
/// counts.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counts: [AtomicU64; Reason::ALL.len()],
    /// When each pair was last logged. `None` stands for all pairs beyond the limit.
    logged: Mutex<HashMap<Option<(String, Reason)>, Instant>>,
}

impl Refusals {
    /// No rejected connections yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of rejected connections by reason, including zeros.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        Reason::ALL
            .iter()
            .zip(&self.0.counts)
            .map(|(reason, count)| (reason.as_str(), count.load(Ordering::Relaxed)))
            .collect()
    }

    /// Counts a rejected connection, and logs it unless the same peer and reason were logged within the last
    /// hour.
    pub fn note(&self, peer: &str, refusal: &Refusal) {
        let position = Reason::ALL.iter().position(|reason| *reason == refusal.reason);
        if let Some(count) = position.and_then(|position| self.0.counts.get(position)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        match self.due(peer, refusal.reason) {
            Due::Pair => tracing::warn!(
                peer,
                reason = refusal.reason.as_str(),
                detail = refusal.detail,
                "rejected a connection; the same peer and reason are not logged again for an hour"
            ),
            Due::Overflow => tracing::warn!(
                peer,
                reason = refusal.reason.as_str(),
                detail = refusal.detail,
                "rejected a connection; too many peers are rejected, so others are not logged for an hour"
            ),
            Due::No => {}
        }
    }

    fn due(&self, peer: &str, reason: Reason) -> Due {
        let now = Instant::now();
        let mut logged = self.0.logged.lock();
        let recent = |at: &Instant| now.saturating_duration_since(*at) < QUIET;
        let pair = Some((peer.to_owned(), reason));
        if logged.get(&pair).is_some_and(recent) {
            return Due::No;
        }
        // The last entry is reserved for the overflow.
        if logged.len() >= REMEMBERED - 1 && !logged.contains_key(&pair) {
            logged.retain(|_, at| recent(at));
        }
        if logged.keys().filter(|key| key.is_some()).count() < REMEMBERED - 1 || logged.contains_key(&pair) {
            logged.insert(pair, now);
            return Due::Pair;
        }
        if logged.get(&None).is_some_and(recent) {
            return Due::No;
        }
        logged.insert(None, now);
        Due::Overflow
    }
}

/// Whether a rejected connection must be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Its peer and reason are new.
    Pair,
    /// Also new, but the limit is reached.
    Overflow,
    /// It was logged recently.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_and_reason_are_logged_once_an_hour() {
        let refusals = Refusals::new();
        assert_eq!(refusals.due("10.0.0.1", Reason::Expired), Due::Pair);
        assert_eq!(refusals.due("10.0.0.1", Reason::Expired), Due::No);
        assert_eq!(refusals.due("10.0.0.1", Reason::TimeOut), Due::Pair);
        assert_eq!(refusals.due("10.0.0.2", Reason::Expired), Due::Pair);
        tokio::time::advance(QUIET - Duration::from_secs(1)).await;
        assert_eq!(refusals.due("10.0.0.1", Reason::Expired), Due::No);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(refusals.due("10.0.0.1", Reason::Expired), Due::Pair);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_limited_and_reclaimed() {
        let refusals = Refusals::new();
        let held = |refusals: &Refusals| refusals.0.logged.lock().len();
        let mut pairs = 0;
        let mut overflows = 0;
        for index in 0..5000 {
            match refusals.due(&format!("peer-{index}"), Reason::PlainText) {
                Due::Pair => pairs += 1,
                Due::Overflow => overflows += 1,
                Due::No => {}
            }
        }
        assert_eq!((pairs, overflows, held(&refusals)), (REMEMBERED - 1, 1, REMEMBERED));
        tokio::time::advance(QUIET).await;
        assert_eq!(refusals.due("peer-4999", Reason::PlainText), Due::Pair);
        assert_eq!(held(&refusals), 1, "old entries are reclaimed");
    }
}
