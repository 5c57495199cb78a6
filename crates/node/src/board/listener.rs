//! One who follows the board.

use std::sync::Arc;

use futures::StreamExt as _;
use quarry_volume::{Change, News, NewsStream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::Board;

/// A follower: the greeting, the full picture, then every change after it.
struct Listener {
    board: Board,
    news: broadcast::Receiver<Arc<Change>>,
    next: Next,
}

/// What a listener is to hear next.
enum Next {
    Greeting,
    /// Everything, after each pool was read.
    First,
    /// Everything, as the board shows it.
    Picture,
    /// What is newer than this generation.
    After(u64),
}

impl Board {
    /// Begins to follow: everything that there is, then every change, without end. Who cannot keep up with the changes
    /// is shown everything anew.
    pub(crate) fn listen(&self) -> NewsStream {
        let listener = Listener { board: self.clone(), news: self.subscribe(), next: Next::Greeting };
        futures::stream::unfold(listener, |mut listener| async move { Some((Ok(listener.hear().await?), listener)) })
            .boxed()
    }
}

impl Listener {
    /// Waits for the next news. `None` cannot happen while the board lives.
    async fn hear(&mut self) -> Option<News> {
        loop {
            match self.next {
                Next::Greeting => {
                    self.next = Next::First;
                    return Some(News::Greeting(self.board.greeting().clone()));
                }
                Next::First => {
                    self.board.refresh_all().await;
                    self.next = Next::Picture;
                }
                Next::Picture => {
                    // What is sent from here on has a higher generation; what is in the queue and lower is in the picture.
                    let picture = self.board.picture();
                    self.next = Next::After(picture.generation);
                    return Some(News::Picture(picture));
                }
                Next::After(generation) => match self.news.recv().await {
                    Ok(change) if change.generation > generation => {
                        self.next = Next::After(change.generation);
                        return Some(News::Change(Arc::unwrap_or_clone(change)));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => {
                        tracing::debug!(missed, "a listener was too slow, and is told everything anew");
                        // What is still in the queue will be in the picture.
                        self.news = self.news.resubscribe();
                        self.next = Next::Picture;
                    }
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }
}
