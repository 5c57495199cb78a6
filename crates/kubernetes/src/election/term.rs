//! Keeps the Lease for one term: renews it, releases it when it is no longer needed, and detects its loss.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::{Instant, sleep_until};

use super::{Inner, State, View, record};
use crate::ask::{LIMIT, ask};

/// The delay between two attempts to renew after a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// How a renewal ended.
enum Renewal {
    /// This controller holds the Lease from this instant on.
    Kept(Instant),
    /// Unknown; worth another attempt.
    Unknown(String),
    /// Another controller holds it, or none does.
    Lost(String),
}

/// Renews the term until it is lost or no longer used.
pub(super) async fn keep(inner: Arc<Inner>, transitions: i32) {
    let mut next = Instant::now() + inner.settings.renew;
    loop {
        sleep_until(next).await;
        let mut view = inner.view.lock().await;
        match inner.due(transitions) {
            Due::Renew => {}
            Due::GiveBack => {
                tracing::info!(lease = inner.place, "no request needed the Lease recently; releasing it");
                inner.give_back(&mut view).await;
                return;
            }
            Due::Nothing => return,
        }
        let (outcome, pause) = (inner.renew(&mut view, transitions).await, inner.settings.renew);
        next = match outcome {
            Renewal::Kept(sent) => {
                inner.extend(transitions, inner.deadline(sent));
                sent + pause
            }
            Renewal::Unknown(why) => {
                tracing::warn!(lease = inner.place, "cannot renew the Lease: {why}; retrying");
                Instant::now() + AGAIN
            }
            Renewal::Lost(why) => {
                tracing::warn!(lease = inner.place, "lost the Lease: {why}");
                inner.end(transitions);
                return;
            }
        };
    }
}

/// What to do when a renewal is due.
enum Due {
    Renew,
    GiveBack,
    Nothing,
}

impl Inner {
    /// Decides, and ends the term in the same critical section if the Lease must be released: no request may
    /// get its fencing token afterwards.
    fn due(&self, transitions: i32) -> Due {
        let mut state = self.state.lock();
        if state.closed || !is_current(&state, transitions) {
            return Due::Nothing;
        }
        if state.held().is_none() {
            // No request got a fencing token after the deadline. The next request starts a new term.
            tracing::warn!(lease = self.place, "the Lease was not renewed in time");
            state.term = None;
            return Due::Nothing;
        }
        if state.used.elapsed() >= self.settings.idle {
            state.term = None;
            return Due::GiveBack;
        }
        Due::Renew
    }

    async fn renew(&self, view: &mut View, transitions: i32) -> Renewal {
        let Some(mut lease) = view.held.clone() else {
            return Renewal::Lost("it was not read".to_owned());
        };
        // An earlier renewal with a lost answer changed the version: read it and try once more.
        for _ in 0..3 {
            let sent = Instant::now();
            let error = match self.write(&record::renewed(lease, (self.clock)()), true).await {
                Ok(written) => {
                    view.observe(&written);
                    view.held = Some(written);
                    return Renewal::Kept(sent);
                }
                Err(error) => error,
            };
            if error.is(404) {
                return Renewal::Lost("it was deleted".to_owned());
            }
            if !error.is(409) {
                return Renewal::Unknown(error.to_string());
            }
            lease = match ask(LIMIT, self.api.get_opt(&self.settings.name)).await {
                Ok(Some(found)) => {
                    view.observe(&found);
                    if !self.is_own_term(&found, transitions) {
                        return Renewal::Lost(format!(
                            "it is held by {}",
                            record::holder(&found).unwrap_or("no controller")
                        ));
                    }
                    view.held = Some(found.clone());
                    found
                }
                Ok(None) => return Renewal::Lost("it was deleted".to_owned()),
                Err(error) => return Renewal::Unknown(error.to_string()),
            };
        }
        Renewal::Unknown("others keep changing it".to_owned())
    }

    fn is_own_term(&self, lease: &Lease, transitions: i32) -> bool {
        record::holder(lease) == Some(self.identity.as_str()) && record::transitions(lease) == transitions
    }

    /// Extends the term to this instant, unless it has ended.
    fn extend(&self, transitions: i32, until: Instant) {
        let mut state = self.state.lock();
        if let Some(term) = &mut state.term
            && term.transitions == transitions
        {
            term.until = term.until.max(until);
        }
    }

    fn end(&self, transitions: i32) {
        let mut state = self.state.lock();
        if is_current(&state, transitions) {
            state.term = None;
        }
    }

    /// Writes that the Lease has no holder. The term must have ended before. If the write fails, others wait
    /// for the Lease's duration, nothing worse.
    pub(super) async fn give_back(&self, view: &mut View) {
        let Some(lease) = view.held.take() else { return };
        match self.write(&record::released(lease, (self.clock)()), true).await {
            Ok(written) => {
                view.observe(&written);
                tracing::info!(lease = self.place, "released the Lease");
            }
            Err(error) => tracing::info!(lease = self.place, "cannot release the Lease: {error}"),
        }
    }
}

fn is_current(state: &State, transitions: i32) -> bool {
    state.term.as_ref().is_some_and(|term| term.transitions == transitions)
}
