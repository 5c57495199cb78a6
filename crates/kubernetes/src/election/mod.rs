//! One controller at a time decides where a volume goes if the request leaves a choice: the holder of a Lease.
//!
//! # When it is held
//!
//! Lazily: the Lease is taken by the first request that needs a decision, and kept while such requests come; half a
//! minute after the last it is given back. Most clusters provision with `--strict-topology`, where nothing is left to
//! decide: they never see the Lease. And each request arrives at the controller beside the provisioner that leads, so
//! when another provisioner takes over, the Lease must follow it: a controller that nobody asks must not keep it.
//!
//! # Why two never decide at once
//!
//! The holder counts its time from *before* it sent a renewal, and stops deciding after two thirds of the Lease's
//! duration. Others count from *after* they have seen the renewal, and wait for all of it. Both measure by their own
//! monotonic clock; the times in the object are for people. Every write names the version it is based on.
//!
//! A process that was suspended can still act on an old decision. Therefore every term has a number (`leaseTransitions`,
//! which here rises with *every* term, also if the same controller takes the Lease again), a request to a node carries
//! it as a fence, and a node refuses a lower one than it has seen. The fence also covers the one thing that breaks the
//! rule above, an operator who deletes the Lease: the number of a new one begins above that of the old.

mod record;
mod take;
mod term;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;
use quarry_controller::Election;
use quarry_volume::{Error, Result};
use tokio::time::Instant;

use crate::ask::{LIMIT, Unanswered, ask};
use crate::connect::Connection;
use crate::guard::{Clock, Task, lock};
use take::Attempt;

/// How the Lease is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// For how long it is believed to be held after a renewal, in whole seconds. The holder itself counts on two thirds.
    pub duration: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// After how long without a request it is given back.
    pub idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "quarry-chooser".to_owned(),
            duration: Duration::from_secs(15),
            renew: Duration::from_secs(5),
            idle: Duration::from_secs(30),
        }
    }
}

/// An answer of the API is used again for this long, when many requests wait for the same one.
const REUSE: Duration = Duration::from_secs(1);

/// Takes, keeps and gives back the Lease.
#[derive(Debug)]
pub struct LeaseElection {
    inner: Arc<Inner>,
}

impl LeaseElection {
    /// Nothing is sent until the first request for a decision. The identity in the Lease is the pod's name and a random
    /// part, so a restarted process is never taken for the one before.
    #[must_use]
    pub fn new(connection: &Connection, settings: Settings, clock: Clock) -> Self {
        let identity = format!("{}_{:016x}", connection.pod, fastrand::u64(..));
        Self {
            inner: Arc::new(Inner {
                api: Api::namespaced(connection.client.clone(), &connection.namespace),
                place: format!("{}/{}", connection.namespace, settings.name),
                settings,
                identity,
                clock,
                state: Mutex::new(State { term: None, used: Instant::now(), closed: false, keeper: None }),
                view: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// The fence of the present term, if it is surely ours at this instant. Asks nobody.
    #[must_use]
    pub fn holds(&self) -> Option<u64> {
        lock(&self.inner.state).held()
    }

    /// What stands in the Lease while it is ours.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.inner.identity
    }

    /// Gives the Lease back, if it is ours, and takes it no more. To be called at shutdown: another controller need not
    /// wait then. Takes a few seconds at most.
    pub async fn close(&self) {
        {
            let mut state = lock(&self.inner.state);
            state.closed = true;
            state.keeper = None;
        }
        let mut view = self.inner.view.lock().await;
        let term = lock(&self.inner.state).term.take();
        if term.is_some() {
            self.inner.give_back(&mut view).await;
        }
    }
}

impl Drop for LeaseElection {
    fn drop(&mut self) {
        let mut state = lock(&self.inner.state);
        state.closed = true;
        state.term = None;
        state.keeper = None;
    }
}

#[async_trait::async_trait]
impl Election for LeaseElection {
    async fn fence(&self) -> Result<u64> {
        Inner::fence(&self.inner).await
    }
}

struct Inner {
    api: Api<Lease>,
    settings: Settings,
    /// Namespace and name, for messages.
    place: String,
    identity: String,
    clock: Clock,
    state: Mutex<State>,
    /// Held during each exchange with the API, so that they come one after the other.
    view: tokio::sync::Mutex<View>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("place", &self.place).field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// What decides an answer without asking the API. Never locked across an await.
struct State {
    term: Option<Term>,
    /// When a decision was last asked for.
    used: Instant,
    closed: bool,
    /// Renews; one per term.
    keeper: Option<Task>,
}

impl State {
    fn held(&self) -> Option<u64> {
        self.term.as_ref().filter(|term| Instant::now() < term.until).map(|term| record::fence(term.transitions))
    }
}

/// One uninterrupted time as the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Term {
    transitions: i32,
    /// We count on it until here.
    until: Instant,
}

/// What was seen of the Lease.
#[derive(Default)]
struct View {
    /// The version last seen, and when it was first seen.
    seen: Option<(String, Instant)>,
    /// The highest number of a term that was ever seen.
    highest: i32,
    /// The object as it was last written or read, while it is ours.
    ours: Option<Lease>,
    /// The last refusal.
    refused: Option<(Instant, Error)>,
}

impl View {
    /// Takes note of the Lease as it was read just now. Returns since when it has been unchanged.
    fn observe(&mut self, lease: &Lease) -> Instant {
        self.highest = self.highest.max(record::transitions(lease));
        let version = record::version(lease);
        match &self.seen {
            Some((known, since)) if known == version => *since,
            _ => {
                let now = Instant::now();
                self.seen = Some((version.to_owned(), now));
                now
            }
        }
    }
}

impl Inner {
    async fn fence(this: &Arc<Self>) -> Result<u64> {
        if let Some(fence) = this.note_use()? {
            return Ok(fence);
        }
        let mut view = this.view.lock().await;
        // While we waited, another request may have done it, or been refused.
        if let Some(fence) = this.note_use()? {
            return Ok(fence);
        }
        if let Some((when, error)) = &view.refused
            && when.elapsed() < REUSE
        {
            return Err(error.clone());
        }
        let mut attempt = this.take(&mut view).await;
        if matches!(attempt, Attempt::Beaten) {
            attempt = this.take(&mut view).await;
        }
        let error = match attempt {
            Attempt::Taken(term) => return this.begin(term),
            Attempt::Refused(error) => error,
            Attempt::Beaten => busy(&this.place, "another controller, which changed it just now"),
        };
        view.refused = Some((Instant::now(), error.clone()));
        Err(error)
    }

    /// Takes note that a decision is asked for; the fence if the term is ours.
    fn note_use(&self) -> Result<Option<u64>> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::unavailable(
                "this controller is shutting down and decides no more on which node a volume goes; retry",
            ));
        }
        state.used = Instant::now();
        Ok(state.held())
    }

    async fn write(&self, lease: &Lease, exists: bool) -> Result<Lease, Unanswered> {
        let parameters = PostParams::default();
        if exists {
            ask(LIMIT, self.api.replace(&self.settings.name, &parameters, lease)).await
        } else {
            ask(LIMIT, self.api.create(&parameters, lease)).await
        }
    }

    /// Until when we count on a Lease whose write was sent at that instant.
    fn deadline(&self, sent: Instant) -> Instant {
        sent + self.settings.duration * 2 / 3
    }

    fn failed(&self, attempted: &str, error: &Unanswered) -> Error {
        Error::unavailable(format!(
            "cannot {attempted} the Lease {}, whose holder decides on which node a volume goes: {error}",
            self.place
        ))
    }
}

fn busy(place: &str, holder: &str) -> Error {
    Error::unavailable(format!(
        "this request leaves a choice of node, and such requests are decided by the holder of the Lease {place}, which is \
         {holder} now; retry (the Lease changes hands within a minute of no longer being used there)"
    ))
}
