//! One node of the cluster: the connection to its agent, and what the controller remembers about it.
//!
//! There is one connection per node. A task opens it, follows the node's updates, and opens it again when it
//! is lost. A call uses the open connection, and fails immediately while disconnected.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::{Mutex, MutexGuard};
use quarry_agent::Dial;
use quarry_volume::{Agent, Change, Error, Greeting, Result, Unreachable, Update, UpdateStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::environment::Endpoint;
use crate::memory::Memory;

/// When connections are opened, retried and replaced.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The delay before the second attempt; doubled for each further attempt.
    pub first_retry: Duration,
    /// The longest delay between two attempts.
    pub last_retry: Duration,
    /// The timeout from dialing a node to its greeting, and again for its full state.
    pub full_state: Duration,
    /// The age at which a connection is replaced by a new one, which uses the current certificates.
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
    /// The node is connected.
    Up {
        agent: Arc<dyn Agent>,
        /// What the agent said about itself on this connection. [`Memory::greeting`] may already be from the next one.
        greeting: Arc<Greeting>,
        since: Instant,
    },
    /// The node is not connected, and why.
    Down { cause: Unreachable, why: String, since: Instant },
}

/// A node.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Locked before `memory` where both are needed.
    link: Mutex<Link>,
    memory: Mutex<Memory>,
}

/// How many nodes the controller waits for at the same time, from dialing to the greeting. A host that does not answer
/// holds only such a place: for the five seconds that TCP waits, or for [`Timing::full_state`] if it hangs after its
/// handshake. If a third of 5,000 nodes is silent after a restart, the others wait for 17 seconds at most. That is much
/// less than [`RESTARTING`](crate::memory::RESTARTING), after which their published free space is 0. Later, the silent
/// ones are tried every half minute at most, and do not fill these places. Each place costs a socket, and about a
/// millisecond for the handshake.
const WAITING: usize = 512;
/// How many nodes send their full state at the same time, which costs memory and time. They have just answered, so they
/// hardly keep others waiting.
const RECEIVING: usize = 64;

/// A connection that was just opened.
struct Opened {
    agent: Arc<dyn Agent>,
    updates: UpdateStream,
    greeting: Greeting,
    full_state: Change,
}

/// What the connections to all nodes have in common.
pub(crate) struct Connections {
    dial: Arc<dyn Dial>,
    timing: Timing,
    waiting: Semaphore,
    receiving: Semaphore,
    /// How many were opened since the start, also to nodes that are forgotten.
    pub(crate) made: AtomicU64,
    /// How many attempts failed, and connections were lost.
    pub(crate) failed: AtomicU64,
}

impl Connections {
    pub(crate) fn new(dial: Arc<dyn Dial>, timing: Timing) -> Self {
        Self {
            dial,
            timing,
            waiting: Semaphore::new(WAITING),
            receiving: Semaphore::new(RECEIVING),
            made: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }
}

impl Member {
    pub(crate) fn new(name: &str) -> Self {
        let (cause, why) = (Unreachable::Starting, "the controller has not connected yet".to_owned());
        Self {
            name: name.to_owned(),
            link: Mutex::new(Link::Down { cause, why, since: Instant::now() }),
            memory: Mutex::new(Memory::new()),
        }
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }

    pub(crate) fn link(&self) -> Link {
        self.lock_link().clone()
    }

    fn lock_link(&self) -> MutexGuard<'_, Link> {
        self.link.lock()
    }

    /// The agent, if it is connected, and what it said about itself on this connection: its run and its capabilities.
    ///
    /// # Errors
    /// `Unavailable`, with the cause and the duration.
    pub(crate) fn agent(&self) -> Result<(Arc<dyn Agent>, Arc<Greeting>)> {
        match &*self.lock_link() {
            Link::Up { agent, greeting, .. } => Ok((Arc::clone(agent), Arc::clone(greeting))),
            Link::Down { cause, why, since } => Err(Error::unreachable(
                *cause,
                format!(
                    "node {} has been unreachable for {} s: {why}; check that its plugin pod is running, then retry",
                    self.name,
                    since.elapsed().as_secs()
                ),
            )),
        }
    }

    /// How long the node has been unreachable; `None` if it is connected.
    pub(crate) fn down_for(&self) -> Option<Duration> {
        match &*self.lock_link() {
            Link::Up { .. } => None,
            Link::Down { since, .. } => Some(since.elapsed()),
        }
    }

    /// Applies the change in a reply of the agent's run `instance`.
    pub(crate) fn reply(&self, instance: &str, change: Change) {
        self.memory().reply(instance, change);
    }

    /// Marks the node as unreachable, with the cause. Cancel what follows it before: see [`Self::while_followed`].
    pub(crate) fn down(&self, cause: Unreachable, why: String) {
        self.set_down(&mut self.lock_link(), cause, why);
    }

    fn set_down(&self, link: &mut Link, cause: Unreachable, why: String) {
        let since = match &*link {
            Link::Up { .. } => {
                tracing::warn!(node = self.name, why, "lost the connection to the node");
                Instant::now()
            }
            Link::Down { since, .. } => *since,
        };
        *link = Link::Down { cause, why, since };
        self.memory().disconnect();
    }

    /// Applies what a connection reports, unless `stop` is cancelled. The cluster cancels on another thread, at any
    /// moment. After that it marks the node as unreachable, and perhaps follows it at another address. What the old
    /// connection reports must not undo that. So this checks under the lock that both of them need.
    fn while_followed(&self, stop: &CancellationToken, apply: impl FnOnce(&mut Link)) {
        let mut link = self.lock_link();
        if !stop.is_cancelled() {
            apply(&mut link);
        }
    }

    fn set_up(&self, link: &mut Link, agent: Arc<dyn Agent>, greeting: Arc<Greeting>) {
        if let Link::Down { since, .. } = &*link {
            tracing::info!(node = self.name, after_seconds = since.elapsed().as_secs(), "connected to the node");
        }
        *link = Link::Up { agent, greeting, since: Instant::now() };
    }

    /// Keeps the connection open until `stop`.
    pub(crate) async fn follow(
        self: Arc<Self>,
        connections: Arc<Connections>,
        endpoint: Endpoint,
        stop: CancellationToken,
    ) {
        let timing = &connections.timing;
        let mut wait = timing.first_retry;
        loop {
            let session = self.session(&connections, &endpoint, &stop, &mut wait);
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ended = session => ended,
            };
            let Err(error) = ended else { continue };
            connections.failed.fetch_add(1, Relaxed);
            tracing::debug!(node = self.name, endpoint = endpoint.address, %error, "connecting failed");
            let cause = error.unreachable.unwrap_or(Unreachable::Other);
            self.while_followed(&stop, |link| self.set_down(link, cause, error.message));
            // Jitter: nodes that were lost together must not all reconnect at the same instant.
            let jittered = wait.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(jittered) => {}
            }
            wait = (wait * 2).min(timing.last_retry);
        }
    }

    /// One connection from start to end: `Ok` when it has reached its maximum age and must be replaced. Once it is
    /// open, `wait` for the next attempt is short again.
    async fn session(
        &self,
        connections: &Connections,
        endpoint: &Endpoint,
        stop: &CancellationToken,
        wait: &mut Duration,
    ) -> Result<()> {
        let Opened { agent, mut updates, greeting, full_state } = self.open(connections, endpoint).await?;
        self.while_followed(stop, |link| {
            self.memory().full_state(greeting.clone(), full_state);
            self.set_up(link, agent, Arc::new(greeting));
        });
        connections.made.fetch_add(1, Relaxed);
        *wait = connections.timing.first_retry;

        let old = tokio::time::sleep(connections.timing.age.mul_f64(0.9 + fastrand::f64() / 5.0));
        tokio::pin!(old);
        loop {
            tokio::select! {
                () = &mut old => return Ok(()),
                one = next(&mut updates) => match one? {
                    Update::Change(change) => self.while_followed(stop, |_| self.memory().update(change)),
                    // The node sends its full state again, for example because too many changes were pending.
                    Update::FullState(full_state) => self.while_followed(stop, |_| {
                        let mut memory = self.memory();
                        if let Some(greeting) = memory.greeting().cloned() {
                            memory.full_state(greeting, full_state);
                        }
                    }),
                    other @ Update::Greeting(_) => return Err(protocol(&other)),
                },
            }
        }
    }

    /// Opens a connection. It waits for its turn twice: to reach the node, and to receive its full state.
    async fn open(&self, connections: &Connections, endpoint: &Endpoint) -> Result<Opened> {
        let limit = connections.timing.full_state;
        let late = |_| {
            let why = format!("{} did not respond within {limit:?}", endpoint.address);
            Error::unreachable(Unreachable::NoAnswer, why)
        };
        let waiting = connections.waiting.acquire().await;
        let answered = async {
            let agent = connections.dial.dial(&self.name, &endpoint.address).await?;
            let mut updates = agent.watch().await?;
            let greeting = self.greeting(&mut updates, endpoint).await?;
            Ok::<_, Error>((agent, updates, greeting))
        };
        let (agent, mut updates, greeting) = timeout(limit, answered).await.map_err(late)??;
        let _receiving = connections.receiving.acquire().await;
        drop(waiting);
        match timeout(limit, next(&mut updates)).await.map_err(late)?? {
            Update::FullState(full_state) => Ok(Opened { agent, updates, greeting, full_state }),
            other => Err(protocol(&other)),
        }
    }

    /// Reads the greeting and checks that the right node answered: addresses are reused.
    async fn greeting(&self, updates: &mut UpdateStream, endpoint: &Endpoint) -> Result<Greeting> {
        let greeting = match next(updates).await? {
            Update::Greeting(greeting) => greeting,
            other => return Err(protocol(&other)),
        };
        if greeting.node != self.name {
            return Err(Error::unreachable(
                Unreachable::OtherNode,
                format!("{} is now the address of node {}, not of node {}", endpoint.address, greeting.node, self.name),
            ));
        }
        let known = |uid: &str| !uid.is_empty();
        if known(&endpoint.pod_uid) && known(&greeting.pod_uid) && endpoint.pod_uid != greeting.pod_uid {
            return Err(Error::unreachable(
                Unreachable::OtherNode,
                format!("pod {} answered at {}; expected pod {}", greeting.pod_uid, endpoint.address, endpoint.pod_uid),
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
            "the node closed its stream of updates: it is stopping or restarting",
        )),
    }
}

fn protocol(unexpected: &Update) -> Error {
    let what = match unexpected {
        Update::Greeting(_) => "sent its greeting twice",
        Update::FullState(_) => "sent its full state before its greeting",
        Update::Change(_) => "sent a change before its full state",
    };
    let why = format!("the node {what}: bring nodes and controller to the same version of Quarry");
    Error::unreachable(Unreachable::Protocol, why)
}
