//! Keeps the Lease for the length of one term: renews it, gives it back when nobody needs it, notices its loss.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::{Instant, sleep_until};

use super::{Inner, State, View, record};
use crate::ask::{LIMIT, ask};
use crate::guard::lock;

/// Between two attempts to renew after a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// How a renewal ended.
enum Renewal {
    /// The Lease is ours from this instant on.
    Kept(Instant),
    /// It is not known; worth another attempt.
    Unknown(String),
    /// Somebody else has it, or nobody.
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
                tracing::info!(lease = inner.place, "no decision was asked for of late; giving the Lease back");
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
                tracing::warn!(lease = inner.place, "cannot renew the Lease: {why}; trying again");
                Instant::now() + AGAIN
            }
            Renewal::Lost(why) => {
                tracing::warn!(lease = inner.place, "the Lease is lost: {why}");
                inner.end(transitions);
                return;
            }
        };
    }
}

/// What is to be done at a renewal's time.
enum Due {
    Renew,
    GiveBack,
    Nothing,
}

impl Inner {
    /// Decides, and ends the term in the same breath where it is to be given back: no request may get its fence after.
    fn due(&self, transitions: i32) -> Due {
        let mut state = lock(&self.state);
        if state.closed || !is_current(&state, transitions) {
            return Due::Nothing;
        }
        if state.held().is_none() {
            // Nobody got a fence since the deadline passed. Whoever asks next begins a new term.
            tracing::warn!(lease = self.place, "the Lease could not be renewed in time");
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
        let Some(mut lease) = view.ours.clone() else {
            return Renewal::Lost("it was not read".to_owned());
        };
        // An earlier renewal whose answer was lost changed the version: read it and try once more.
        for _ in 0..3 {
            let sent = Instant::now();
            let error = match self.write(&record::renewed(lease, (self.clock)()), true).await {
                Ok(written) => {
                    view.observe(&written);
                    view.ours = Some(written);
                    return Renewal::Kept(sent);
                }
                Err(error) => error,
            };
            if error.is(404) {
                return Renewal::Lost("somebody deleted it".to_owned());
            }
            if !error.is(409) {
                return Renewal::Unknown(error.to_string());
            }
            lease = match ask(LIMIT, self.api.get_opt(&self.settings.name)).await {
                Ok(Some(found)) => {
                    view.observe(&found);
                    if !self.is_ours(&found, transitions) {
                        return Renewal::Lost(format!("it is held by {}", record::holder(&found).unwrap_or("nobody")));
                    }
                    view.ours = Some(found.clone());
                    found
                }
                Ok(None) => return Renewal::Lost("somebody deleted it".to_owned()),
                Err(error) => return Renewal::Unknown(error.to_string()),
            };
        }
        Renewal::Unknown("it is changed by others all the time".to_owned())
    }

    fn is_ours(&self, lease: &Lease, transitions: i32) -> bool {
        record::holder(lease) == Some(self.identity.as_str()) && record::transitions(lease) == transitions
    }

    /// Counts on the Lease until then, if the term still goes on.
    fn extend(&self, transitions: i32, until: Instant) {
        let mut state = lock(&self.state);
        if let Some(term) = &mut state.term
            && term.transitions == transitions
        {
            term.until = term.until.max(until);
        }
    }

    fn end(&self, transitions: i32) {
        let mut state = lock(&self.state);
        if is_current(&state, transitions) {
            state.term = None;
        }
    }

    /// Writes that nobody holds it. The term must have ended for us before. If it fails, others wait for the Lease's
    /// duration, that is all.
    pub(super) async fn give_back(&self, view: &mut View) {
        let Some(lease) = view.ours.take() else { return };
        match self.write(&record::released(lease, (self.clock)()), true).await {
            Ok(written) => {
                view.observe(&written);
                tracing::info!(lease = self.place, "the Lease is given back");
            }
            Err(error) => tracing::info!(lease = self.place, "the Lease was not given back: {error}"),
        }
    }
}

fn is_current(state: &State, transitions: i32) -> bool {
    state.term.as_ref().is_some_and(|term| term.transitions == transitions)
}
