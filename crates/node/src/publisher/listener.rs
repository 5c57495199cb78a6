//! One who follows the publisher.

use std::sync::Arc;

use futures::StreamExt as _;
use quarry_volume::{Change, Update, UpdateStream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::StatePublisher;

/// A follower: the greeting, the full state, then every change after it.
struct Listener {
    publisher: StatePublisher,
    updates: broadcast::Receiver<Arc<Change>>,
    next: Next,
}

/// What a listener is to hear next.
enum Next {
    Greeting,
    /// Everything, after each pool was read.
    First,
    /// Everything, as the publisher shows it.
    FullState,
    /// What is newer than this generation.
    After(u64),
}

impl StatePublisher {
    /// Begins to follow: everything that there is, then every change, without end. Who cannot keep up with the changes
    /// is shown everything anew.
    pub(crate) fn listen(&self) -> UpdateStream {
        let listener = Listener { publisher: self.clone(), updates: self.subscribe(), next: Next::Greeting };
        futures::stream::unfold(listener, |mut listener| async move { Some((Ok(listener.hear().await?), listener)) })
            .boxed()
    }
}

impl Listener {
    /// Waits for the next updates. `None` cannot happen while the publisher lives.
    async fn hear(&mut self) -> Option<Update> {
        loop {
            match self.next {
                Next::Greeting => {
                    self.next = Next::First;
                    return Some(Update::Greeting(self.publisher.greeting().clone()));
                }
                Next::First => {
                    self.publisher.refresh_all().await;
                    self.next = Next::FullState;
                }
                Next::FullState => {
                    // What is sent from here on has a higher generation; what is in the queue and lower is in the full state.
                    let full_state = self.publisher.full_state();
                    self.next = Next::After(full_state.generation);
                    return Some(Update::FullState(full_state));
                }
                Next::After(generation) => match self.updates.recv().await {
                    Ok(change) if change.generation > generation => {
                        self.next = Next::After(change.generation);
                        return Some(Update::Change(Arc::unwrap_or_clone(change)));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => {
                        tracing::debug!(missed, "a listener was too slow, and is told everything anew");
                        // What is still in the queue will be in the full state.
                        self.updates = self.updates.resubscribe();
                        self.next = Next::FullState;
                    }
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }
}
