//! What the tests share: a world with a clock and a store whose changes are dated, replicas in it, and trust.
#![allow(dead_code, unreachable_pub)]

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, UNIX_EPOCH};

use quarry_certificates::testing::{Event, MemoryStore};
use quarry_certificates::{Authority, Data, Item, Role, Settings, file};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

/// Some day in 2027.
pub const START: u64 = 1_800_000_000;
pub const MINUTE: u64 = 60;
pub const DAY: u64 = 24 * 60 * MINUTE;

/// A store and the true time.
#[derive(Clone, Default)]
pub struct World {
    pub store: MemoryStore,
    now: Arc<AtomicU64>,
    /// When each change of the store's history happened.
    dates: Arc<Mutex<Vec<u64>>>,
}

impl World {
    pub fn new() -> Self {
        let world = Self::default();
        world.now.store(START, Ordering::SeqCst);
        world
    }

    pub fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub fn pass(&self, seconds: u64) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Changes since the beginning with their dates.
    pub fn history(&self) -> Vec<(u64, Item, Option<Data>)> {
        self.date();
        let dates = self.dates.lock().unwrap();
        self.store.history().into_iter().zip(dates.iter()).map(|(change, at)| (*at, change.item, change.data)).collect()
    }

    /// Dates what has happened since the last time. Called after every operation, so nothing is dated late.
    fn date(&self) {
        self.dates.lock().unwrap().resize(self.store.history().len(), self.now());
    }

    /// A replica that follows every operation through `life`, whose clock is ahead of the truth by `ahead` seconds.
    pub fn replica(&self, life: &Life, ahead: i64) -> Authority {
        let (world, life) = (self.clone(), life.clone());
        let store = self.store.hooked(Arc::new(move |event| {
            let (world, life) = (world.clone(), life.clone());
            Box::pin(async move {
                Yield(false).await;
                world.date();
                life.passes(event)
            })
        }));
        let now = Arc::clone(&self.now);
        let clock = move || {
            let true_time = now.load(Ordering::SeqCst);
            UNIX_EPOCH + Duration::from_secs(true_time.checked_add_signed(ahead).unwrap())
        };
        Authority::new(Arc::new(store), Settings::default()).unwrap().with_clock(Arc::new(clock))
    }

    /// A replica that is never killed and whose clock is right.
    pub fn healthy(&self) -> Authority {
        self.replica(&Life::default(), 0)
    }

    /// Files of an item.
    pub fn files(&self, item: Item) -> Data {
        self.store.peek(item).unwrap_or_else(|| panic!("no {item}"))
    }

    /// One file of an item as text.
    pub fn text(&self, item: Item, name: &str) -> String {
        String::from_utf8(self.files(item)[name].clone()).unwrap()
    }

    /// Whether the controller and a node that have loaded what is stored trust each other.
    pub fn trusts(&self) -> Result<(), String> {
        mutual(&self.files(Item::Controller), &self.files(Item::Node), self.now())
    }
}

/// How long a replica lives, in events of its store.
#[derive(Clone)]
pub struct Life {
    events: Arc<AtomicUsize>,
    ends_at: usize,
    dead: Arc<AtomicBool>,
}

impl Default for Life {
    fn default() -> Self {
        Self::until(usize::MAX)
    }
}

impl Life {
    /// Ends at the event with this number, counted from 0: that operation and all later ones fail.
    pub fn until(ends_at: usize) -> Self {
        Self { events: Arc::default(), ends_at, dead: Arc::default() }
    }

    pub fn events(&self) -> usize {
        self.events.load(Ordering::SeqCst)
    }

    pub fn is_over(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn passes(&self, event: Event) -> Result<(), String> {
        if self.events.fetch_add(1, Ordering::SeqCst) >= self.ends_at {
            self.dead.store(true, Ordering::SeqCst);
            return Err(format!("killed at {event:?}"));
        }
        Ok(())
    }
}

/// Lets others go first, once.
pub struct Yield(pub bool);

impl Future for Yield {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Runs a future that waits for nothing but its turn.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    interleave(&mut fastrand::Rng::with_seed(0), 0.0, vec![Box::pin(future) as Pin<Box<dyn Future<Output = T> + '_>>])
        .remove(0)
        .unwrap()
}

/// Runs futures interleaved as the random numbers say; each turn drops its future with probability `kill`.
pub fn interleave<'a, T>(
    random: &mut fastrand::Rng,
    kill: f64,
    futures: Vec<Pin<Box<dyn Future<Output = T> + 'a>>>,
) -> Vec<Option<T>> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut open: Vec<_> = futures.into_iter().enumerate().collect();
    let mut context = Context::from_waker(Waker::noop());
    while !open.is_empty() {
        let turn = random.usize(..open.len());
        if kill > 0.0 && random.f64() < kill {
            drop(open.swap_remove(turn));
        } else if let Poll::Ready(result) = open[turn].1.as_mut().poll(&mut context) {
            results[open.swap_remove(turn).0] = Some(result);
        }
    }
    results
}

pub fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().unwrap()
}

/// The one certificate of an item.
pub fn certificate(data: &Data) -> CertificateDer<'static> {
    let mut all = certificates(&data[file::CERTIFICATE]);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// Whether a controller and a node with these items trust each other at an instant, as TLS libraries decide it.
pub fn mutual(controller: &Data, node: &Data, at: u64) -> Result<(), String> {
    trusted(Role::Node, node, controller, at)?;
    trusted(Role::Controller, controller, node, at)
}

/// Whether the peer trusts the certificate that a role presents.
pub fn trusted(role: Role, shown: &Data, other: &Data, at: u64) -> Result<(), String> {
    let bundle = certificates(&other[file::AUTHORITIES]);
    let anchors: Vec<_> = bundle.iter().map(|ca| webpki::anchor_from_trusted_cert(ca).unwrap()).collect();
    let shown = certificate(shown);
    let entity = webpki::EndEntityCert::try_from(&shown).map_err(|why| why.to_string())?;
    let (usage, name) = match role {
        Role::Controller => (webpki::KeyUsage::client_auth(), "controller.quarry"),
        Role::Node => (webpki::KeyUsage::server_auth(), "node.quarry"),
    };
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
    entity
        .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &[], at, usage, None, None)
        .map_err(|why| format!("the {role} is not trusted: {why}"))?;
    entity.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).map_err(|why| why.to_string())
}
