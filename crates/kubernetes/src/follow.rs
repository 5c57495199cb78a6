//! Follows one kind of object in the Kubernetes API: list, watch, resume, and list again where resuming is impossible.
//!
//! kube's `watcher` implements the protocol. This loop adds the back-off, hands each object over *before* the
//! next one is decoded (so that only what a [`Mirror`] keeps stays in memory), and tracks whether the mirror
//! is still up to date. kube's `reflector` would keep whole objects; with 5,000 pods or 100,000
//! PersistentVolumes the few needed fields are a hundredth of them.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::ListParams;
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};

use crate::ask::{LIMIT, ask, explain};
use crate::guard::Task;

/// Seconds after which the API ends each watch; it is resumed from where it ended. A silently dead connection
/// is detected five seconds later, so this limits how long memory may be stale undetected.
const WATCH_SECONDS: u32 = 60;

/// Objects per page of a list: limits what is decoded at once (nodes can be 50 KiB each).
const PAGE: u32 = 250;

/// After a failure, a watch that has been idle for this long counts as resumed, if the API answers.
const SILENCE: Duration = Duration::from_secs(10);

/// The stored part of the objects of one kind.
pub(crate) trait Mirror<K>: Send + 'static {
    /// A complete list starts; the previous state stays valid until [`complete`](Self::complete).
    fn begin(&mut self);
    /// One object of the list.
    fn listed(&mut self, object: K);
    /// The list is complete: objects that were not in it are gone.
    fn complete(&mut self);
    /// An object was created or changed.
    fn applied(&mut self, object: K);
    /// An object was deleted.
    fn deleted(&mut self, object: K);
    /// Whether changes arrive, as far as is known. Called on each change of that, and repeatedly.
    fn current(&mut self, current: bool);
}

/// Which objects to follow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// A label selector; empty for all.
    pub(crate) labels: String,
}

impl Selection {
    fn config(&self) -> watcher::Config {
        let config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE);
        if self.labels.is_empty() { config } else { config.labels(&self.labels) }
    }
}

/// Follows until the returned task is dropped. `what` names the objects in logs ("nodes").
pub(crate) fn follow<K, M>(api: Api<K>, selection: &Selection, mirror: M, what: &'static str) -> Task
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    M: Mirror<K>,
{
    let config = selection.config();
    Task::spawn(run(api, config, mirror, what))
}

async fn run<K, M>(api: Api<K>, config: watcher::Config, mut mirror: M, what: &'static str)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    M: Mirror<K>,
{
    let mut backoff = watcher::DefaultBackoff::default();
    let mut failing = false;
    loop {
        // While the objects are listed, the mirror has the state of before, which may be hours old.
        let mut listing = true;
        let mut stream = pin!(watcher(api.clone(), config.clone()));
        loop {
            let next = if failing {
                match tokio::time::timeout(SILENCE, stream.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        // A resumed watch receives nothing until something changes, which may take hours.
                        if !listing && answers(&api, &config).await {
                            failing = false;
                            backoff.reset();
                            tracing::info!("the Kubernetes API answers again; following {what}");
                            mirror.current(true);
                        }
                        continue;
                    }
                }
            } else {
                stream.next().await
            };
            let error = match next {
                Some(Ok(event)) => {
                    listing = matches!(event, Event::Init | Event::InitApply(_));
                    apply(&mut mirror, event);
                    if !listing {
                        if failing {
                            tracing::info!("the Kubernetes API answers again; following {what}");
                        }
                        failing = false;
                        backoff.reset();
                        mirror.current(true);
                    }
                    continue;
                }
                Some(Err(error)) => error,
                None => break,
            };
            mirror.current(false);
            let pause = backoff.next().unwrap_or(Duration::from_secs(30));
            let text = describe(&error);
            if failing {
                tracing::debug!("cannot follow {what}: {text}");
            } else {
                tracing::warn!("cannot follow {what}: {text}; continuing with the last known state, retrying");
            }
            failing = true;
            tokio::time::sleep(pause).await;
            if is_gone(&error) {
                break;
            }
        }
    }
}

fn apply<K, M: Mirror<K>>(mirror: &mut M, event: Event<K>) {
    match event {
        Event::Init => mirror.begin(),
        Event::InitApply(object) => mirror.listed(object),
        Event::InitDone => mirror.complete(),
        Event::Apply(object) => mirror.applied(object),
        Event::Delete(object) => mirror.deleted(object),
    }
}

/// The cheapest request that needs the same rights.
async fn answers<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, config: &watcher::Config) -> bool {
    let mut parameters = ListParams::default().limit(1);
    parameters.label_selector.clone_from(&config.label_selector);
    ask(LIMIT, api.list(&parameters)).await.is_ok()
}

/// Whether the API reports with the answer's status that the version to resume from has expired. kube lists
/// again by itself only if this is reported within the watch.
fn is_gone(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

fn describe(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) => format!("list: {}", explain(error)),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            format!("watch: {}", explain(error))
        }
        watcher::Error::WatchError(status) => format!("watch: the Kubernetes API answered: {}", status.message),
        other => other.to_string(),
    }
}
