//! Elects the controller that selects nodes for requests that permit several: the holder of a Lease.
//!
//! # When it is held
//!
//! Lazily: the first request that needs a selection takes the Lease, and it is kept while such requests
//! arrive; half a minute after the last one it is released. Most clusters provision with `--strict-topology`,
//! where requests permit only one node: they never use the Lease. Each request arrives at the controller
//! beside the leading provisioner, so when another provisioner takes over, the Lease must follow it: a
//! controller that receives no requests must not keep it.
//!
//! # Why two controllers never select at once
//!
//! The holder counts its time from *before* it sent a renewal, and stops selecting after two thirds of the
//! Lease's duration. Others count from *after* they have seen the renewal, and wait for the whole duration.
//! Both use their own monotonic clock; the times in the object are only for people. Every write names the
//! version that it is based on.
//!
//! A process that was suspended can still act on an old selection. Therefore every term has a number
//! (`leaseTransitions`, which here increases with *every* term, also if the same controller takes the Lease
//! again). A request to a node carries it as the fencing token, and a node rejects a lower one than it has
//! seen. The fencing token also covers the one exception to the rule above, an operator who deletes the
//! Lease: the number of a new Lease starts above that of the old one.

mod record;
mod take;
mod term;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use quarry_controller::Election;
use quarry_volume::{Error, Result};
use tokio::time::Instant;

use crate::ask::{LIMIT, Unanswered, ask};
use crate::connect::Connection;
use crate::guard::{Clock, Task};
use take::Attempt;

/// Settings of the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// How long it counts as held after a renewal, in whole seconds. The holder itself relies on only two
    /// thirds of this.
    pub duration: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// After how long without a request it is released.
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

/// How long an answer of the API is reused when many requests wait for the same one.
const REUSE: Duration = Duration::from_secs(1);

/// Takes, keeps and releases the Lease.
#[derive(Debug)]
pub struct LeaseElection {
    inner: Arc<Inner>,
}

impl LeaseElection {
    /// Sends nothing until the first request that needs a selection. The identity in the Lease is the pod's
    /// name with a random suffix, so a restarted process is never mistaken for its predecessor.
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

    /// The fencing token of the current term, if this controller certainly holds it now. Sends nothing.
    #[must_use]
    pub fn holds(&self) -> Option<u64> {
        self.inner.state.lock().held()
    }

    /// The holder identity in the Lease while this controller holds it.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.inner.identity
    }

    /// Releases the Lease, if this controller holds it, and does not take it again. For shutdown: another
    /// controller then need not wait. Takes a few seconds at most.
    pub async fn close(&self) {
        {
            let mut state = self.inner.state.lock();
            state.closed = true;
            state.keeper = None;
        }
        let mut view = self.inner.view.lock().await;
        let term = self.inner.state.lock().term.take();
        if term.is_some() {
            self.inner.give_back(&mut view).await;
        }
    }
}

impl Drop for LeaseElection {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
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
    /// Held during each exchange with the API, so that exchanges are serialized.
    view: tokio::sync::Mutex<View>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("place", &self.place).field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The state that answers without querying the API. Never locked across an await.
struct State {
    term: Option<Term>,
    /// When a selection was last requested.
    used: Instant,
    closed: bool,
    /// The task that renews; one per term.
    keeper: Option<Task>,
}

impl State {
    fn held(&self) -> Option<u64> {
        self.term.as_ref().filter(|term| Instant::now() < term.until).map(|term| record::fence(term.transitions))
    }
}

/// One uninterrupted period as the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Term {
    transitions: i32,
    /// This controller relies on the Lease until here.
    until: Instant,
}

/// What was seen of the Lease.
#[derive(Default)]
struct View {
    /// The version that was last seen, and when it was first seen.
    seen: Option<(String, Instant)>,
    /// The highest term number ever seen.
    highest: i32,
    /// The object as last written or read, while this controller holds it.
    held: Option<Lease>,
    /// The last rejection.
    refused: Option<(Instant, Error)>,
}

impl View {
    /// Records the Lease as just read. Returns since when it has been unchanged.
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
        if let Some(fence) = this.record_use()? {
            return Ok(fence);
        }
        let mut view = this.view.lock().await;
        // While this request waited, another one may have taken the Lease, or been rejected.
        if let Some(fence) = this.record_use()? {
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

    /// Records that a selection was requested; returns the fencing token if this controller holds the term.
    fn record_use(&self) -> Result<Option<u64>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::unavailable("this controller is shutting down and no longer selects nodes; retry"));
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

    /// Until when this controller relies on a Lease whose write was sent at that instant.
    fn deadline(&self, sent: Instant) -> Instant {
        sent + self.settings.duration * 2 / 3
    }

    fn failed(&self, attempted: &str, error: &Unanswered) -> Error {
        Error::unavailable(format!(
            "cannot {attempted} the Lease {}, whose holder selects the nodes of new volumes: {error}",
            self.place
        ))
    }
}

fn busy(place: &str, holder: &str) -> Error {
    Error::unavailable(format!(
        "this request permits several nodes, so only the holder of the Lease {place} can select one; the holder is \
         {holder}; retry (a Lease that is no longer used there is free within a minute)"
    ))
}
