//! A listener of the state publisher.

use std::sync::Arc;

use futures::StreamExt as _;
use quarry_volume::{Change, Update, UpdateStream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::StatePublisher;

/// A listener: receives the greeting, the full state, then every later change.
struct Listener {
    publisher: StatePublisher,
    updates: broadcast::Receiver<Arc<Change>>,
    next: Next,
}

/// The next update for a listener.
enum Next {
    Greeting,
    /// The full state, after each pool was read.
    First,
    /// The full state as it is published now.
    FullState,
    /// Changes with a higher generation than this.
    After(u64),
}

impl StatePublisher {
    /// Starts an endless stream: the full state, then every change. A listener that falls behind gets the
    /// full state again.
    pub(crate) fn listen(&self) -> UpdateStream {
        let listener = Listener { publisher: self.clone(), updates: self.subscribe(), next: Next::Greeting };
        futures::stream::unfold(
            listener,
            |mut listener| async move { Some((Ok(listener.next_update().await?), listener)) },
        )
        .boxed()
    }
}

impl Listener {
    /// Waits for the next update. Never returns `None` while the publisher exists.
    async fn next_update(&mut self) -> Option<Update> {
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
                    // Changes that are sent from now on have a higher generation; queued changes with a lower
                    // one are already in the full state.
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
                        tracing::debug!(missed, "a listener fell behind and gets the full state again");
                        // The queued changes will be in the full state.
                        self.updates = self.updates.resubscribe();
                        self.next = Next::FullState;
                    }
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }
}
