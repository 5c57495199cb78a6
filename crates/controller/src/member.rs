//! One node of the cluster: the connection to its agent, and what is remembered of it.
//!
//! There is one connection per node. A task makes it, follows the node's updates, and makes it again when it is lost; a call
//! uses it if it is there, and is told at once if it is not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use quarry_agent::Dial;
use quarry_volume::{Agent, Change, Error, Greeting, Result, Unreachable, Update, UpdateStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::memory::Memory;
use crate::surroundings::Endpoint;

/// How connections are made and kept.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The wait before the second attempt; doubled for each further one.
    pub first_retry: Duration,
    /// The longest wait between two attempts.
    pub last_retry: Duration,
    /// How long a node may take from a connection to its full state.
    pub full_state: Duration,
    /// The age at which a connection is replaced by a new one, with the certificates of the day.
    pub age: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_retry: Duration::from_millis(250),
            last_retry: Duration::from_secs(30),
            full_state: Duration::from_secs(30),
            age: Duration::from_secs(30 * 60),
        }
    }
}

/// Whether a node can be reached.
#[derive(Clone, Debug)]
pub(crate) enum Link {
    /// It answers.
    Up {
        agent: Arc<dyn Agent>,
        /// The run of the agent.
        instance: String,
        since: Instant,
    },
    /// It does not, and why.
    Down { cause: Unreachable, why: String, since: Instant },
}

/// A node.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    link: Mutex<Link>,
    memory: Mutex<Memory>,
    counts: Counts,
}

/// What has happened to a node's connection since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connected: std::sync::atomic::AtomicU64,
    pub(crate) failed: std::sync::atomic::AtomicU64,
}

impl Member {
    pub(crate) fn new(name: &str) -> Self {
        let (cause, why) = (Unreachable::Starting, "no connection has been made yet".to_owned());
        Self {
            name: name.to_owned(),
            link: Mutex::new(Link::Down { cause, why, since: Instant::now() }),
            memory: Mutex::new(Memory::new()),
            counts: Counts::default(),
        }
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link(&self) -> Link {
        self.lock_link().clone()
    }

    fn lock_link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The agent, if it can be reached now, and its run.
    ///
    /// # Errors
    /// `Unavailable`, saying why and for how long.
    pub(crate) fn agent(&self) -> Result<(Arc<dyn Agent>, String)> {
        match &*self.lock_link() {
            Link::Up { agent, instance, .. } => Ok((Arc::clone(agent), instance.clone())),
            Link::Down { cause, why, since } => Err(Error::unreachable(
                *cause,
                format!(
                    "node {} cannot be reached, for {} s now: {why}; is its plugin pod running? The call may be repeated",
                    self.name,
                    since.elapsed().as_secs()
                ),
            )),
        }
    }

    /// For how long it cannot be reached; `None` if it can.
    pub(crate) fn away(&self) -> Option<Duration> {
        match &*self.lock_link() {
            Link::Up { .. } => None,
            Link::Down { since, .. } => Some(since.elapsed()),
        }
    }

    /// A reply of the agent's run `instance` told of a change.
    pub(crate) fn reply(&self, instance: &str, change: Change) {
        self.memory().reply(instance, change);
    }

    /// The node is not to be reached, for this reason.
    pub(crate) fn down(&self, cause: Unreachable, why: String) {
        let mut link = self.lock_link();
        let since = match &*link {
            Link::Up { .. } => {
                tracing::warn!(node = self.name, why, "the connection to the node is lost");
                Instant::now()
            }
            Link::Down { since, .. } => *since,
        };
        *link = Link::Down { cause, why, since };
        drop(link);
        self.memory().silence();
    }

    fn up(&self, agent: Arc<dyn Agent>, instance: String) {
        let mut link = self.lock_link();
        if let Link::Down { since, .. } = &*link {
            tracing::info!(node = self.name, after_seconds = since.elapsed().as_secs(), "the node is connected");
        }
        *link = Link::Up { agent, instance, since: Instant::now() };
    }

    /// Keeps the connection until `stop`. `dialing` bounds how many are made at once.
    pub(crate) async fn follow(
        self: Arc<Self>,
        dial: Arc<dyn Dial>,
        endpoint: Endpoint,
        timing: Timing,
        dialing: Arc<Semaphore>,
        stop: CancellationToken,
    ) {
        use std::sync::atomic::Ordering::Relaxed;

        let mut wait = timing.first_retry;
        loop {
            let connected = self.counts.connected.load(Relaxed);
            let session = self.session(&*dial, &endpoint, &timing, &dialing);
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ended = session => ended,
            };
            let Err(error) = ended else { continue };
            self.counts.failed.fetch_add(1, Relaxed);
            tracing::debug!(node = self.name, endpoint = endpoint.address, %error, "no connection");
            self.down(error.unreachable.unwrap_or(Unreachable::Other), error.message);
            if self.counts.connected.load(Relaxed) > connected {
                wait = timing.first_retry;
            }
            // Any part of the wait: nodes that were lost together do not come back at the same instant.
            let jittered = wait.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(jittered) => {}
            }
            wait = (wait * 2).min(timing.last_retry);
        }
    }

    /// One connection from its making to its end: `Ok` when it is old and to be replaced.
    async fn session(&self, dial: &dyn Dial, endpoint: &Endpoint, timing: &Timing, dialing: &Semaphore) -> Result<()> {
        use std::sync::atomic::Ordering::Relaxed;

        let slot = dialing.acquire().await;
        let opening = async {
            let agent = dial.dial(&self.name, &endpoint.address).await?;
            let mut updates = agent.watch().await?;
            let greeting = self.greeting(&mut updates, endpoint).await?;
            let full_state = match next(&mut updates).await? {
                Update::FullState(full_state) => full_state,
                other => return Err(protocol(&other)),
            };
            Ok((agent, updates, greeting, full_state))
        };
        let opened = tokio::time::timeout(timing.full_state, opening).await;
        drop(slot);
        let (agent, mut updates, greeting, full_state) = opened.unwrap_or_else(|_| {
            let why = format!("{} did not answer within {:?}", endpoint.address, timing.full_state);
            Err(Error::unreachable(Unreachable::NoAnswer, why))
        })?;
        let instance = greeting.instance.clone();
        self.memory().full_state(greeting, full_state);
        self.up(agent, instance);
        self.counts.connected.fetch_add(1, Relaxed);

        let old = tokio::time::sleep(timing.age.mul_f64(0.9 + fastrand::f64() / 5.0));
        tokio::pin!(old);
        loop {
            tokio::select! {
                () = &mut old => return Ok(()),
                one = next(&mut updates) => match one? {
                    Update::Change(change) => self.memory().updates(change),
                    // The node has told so much that it begins anew.
                    Update::FullState(full_state) => {
                        let mut memory = self.memory();
                        if let Some(greeting) = memory.greeting().cloned() {
                            memory.full_state(greeting, full_state);
                        }
                    }
                    other @ Update::Greeting(_) => return Err(protocol(&other)),
                },
            }
        }
    }

    /// Who answers, checked: addresses are given to others.
    async fn greeting(&self, updates: &mut UpdateStream, endpoint: &Endpoint) -> Result<Greeting> {
        let greeting = match next(updates).await? {
            Update::Greeting(greeting) => greeting,
            other => return Err(protocol(&other)),
        };
        if greeting.node != self.name {
            return Err(Error::unreachable(
                Unreachable::OtherNode,
                format!("{} is now the address of node {}, not of {}", endpoint.address, greeting.node, self.name),
            ));
        }
        let told = |uid: &str| !uid.is_empty();
        if told(&endpoint.pod_uid) && told(&greeting.pod_uid) && endpoint.pod_uid != greeting.pod_uid {
            return Err(Error::unreachable(
                Unreachable::OtherNode,
                format!(
                    "pod {} answers at {}, where pod {} was expected",
                    greeting.pod_uid, endpoint.address, endpoint.pod_uid
                ),
            ));
        }
        Ok(greeting)
    }
}

async fn next(updates: &mut UpdateStream) -> Result<Update> {
    match updates.next().await {
        Some(one) => one,
        None => Err(Error::unreachable(
            Unreachable::Ended,
            "the node has ended its stream of updates: it is being stopped or restarted",
        )),
    }
}

fn protocol(unexpected: &Update) -> Error {
    let what = match unexpected {
        Update::Greeting(_) => "greeted twice",
        Update::FullState(_) => "sent its full state before its greeting",
        Update::Change(_) => "sent a change before its full state",
    };
    let why = format!("the node {what}: are versions of Quarry more than one minor version apart at work?");
    Error::unreachable(Unreachable::Protocol, why)
}
