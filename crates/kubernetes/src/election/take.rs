//! Takes the Lease, and starts a term with it.

use std::sync::Arc;

use quarry_volume::{Error, Result};
use tokio::time::Instant;

use super::{Inner, Term, View, busy, record, term};
use crate::ask::{LIMIT, Unanswered, ask};
use crate::guard::Task;

/// How an attempt to take the Lease ended.
pub(super) enum Attempt {
    /// This controller holds it.
    Taken(Term),
    /// Another controller was faster.
    Beaten,
    /// Another controller holds it, or the API did not answer.
    Refused(Error),
}

impl Inner {
    /// One attempt: reads the Lease, and takes it if it is free.
    pub(super) async fn take(&self, view: &mut View) -> Attempt {
        view.held = None;
        let found = match ask(LIMIT, self.api.get_opt(&self.settings.name)).await {
            Ok(found) => found,
            Err(error) => return Attempt::Refused(self.failed("read", &error)),
        };
        let own = self.settings.duration;
        let now = (self.clock)();
        let (lease, exists) = match found {
            None => {
                let transitions = record::first_transitions(now).max(view.highest.saturating_add(1));
                (record::made(&self.settings.name, &self.identity, transitions, own, now), false)
            }
            Some(lease) => {
                let unchanged = view.observe(&lease).elapsed();
                if let Some(holder) = record::holder(&lease)
                    && holder != self.identity
                    && unchanged < record::duration(&lease, own)
                {
                    return Attempt::Refused(busy(&self.place, holder));
                }
                let Some(transitions) = view.highest.checked_add(1) else {
                    return Attempt::Refused(Error::unavailable(format!(
                        "the Lease {} has reached the highest term number; delete the Lease",
                        self.place
                    )));
                };
                (record::taken(lease, &self.identity, transitions, own, now), true)
            }
        };
        let transitions = record::transitions(&lease);
        let sent = Instant::now();
        match self.write(&lease, exists).await {
            Ok(written) => {
                view.observe(&written);
                view.held = Some(written);
                Attempt::Taken(Term { transitions, until: self.deadline(sent) })
            }
            Err(error) if error.is(409) || error.is(404) => Attempt::Beaten,
            // This controller may hold the Lease now, or soon; the next attempt finds out.
            Err(error) => Attempt::Refused(self.failed("take", &error)),
        }
    }

    /// Starts the term that was taken.
    pub(super) fn begin(self: &Arc<Self>, term: Term) -> Result<u64> {
        let fence = record::fence(term.transitions);
        let mut state = self.state.lock();
        // The answer may have arrived too late, or the process may be shutting down.
        if state.closed || Instant::now() >= term.until {
            return Err(self.failed("take", &Unanswered::Late(self.settings.duration * 2 / 3)));
        }
        state.term = Some(term);
        state.keeper = Some(Task::spawn(term::keep(Arc::clone(self), term.transitions)));
        tracing::info!(lease = self.place, fence, "elected: this controller now selects the nodes of new volumes");
        Ok(fence)
    }
}
