//! The controller's end of a watch: from messages to news in their order.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use prost::Message as _;
use quarry_proto::agent::v1;
use quarry_proto::agent::v1::watch_response::News as Message;
use quarry_volume::{Change, Error, News, NewsStream, Reason, Result, Unreachable};
use tonic::Streaming;

use crate::connection::Connection;
use crate::wire::{read, status};

/// The largest picture that is put together, in bytes as they travel: a quarter of a million volumes. A node that has
/// gone mad must not fill the controller's memory.
const MAX_PICTURE: usize = 64 << 20;

/// The news of `node`, in order: greeting, picture, changes; another picture where the node begins anew. An error is
/// the last thing that comes.
pub(crate) fn news(node: Arc<str>, connection: Connection, messages: Streaming<v1::WatchResponse>) -> NewsStream {
    let follower = Follower { node, connection, messages, stage: Stage::Greeting };
    stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(Some(news)) => Some((Ok(news), Some(follower))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// What may come next.
enum Stage {
    Greeting,
    Picture { so_far: Change, bytes: usize },
    Changes,
}

impl Stage {
    fn picture() -> Self {
        Self::Picture { so_far: Change::default(), bytes: 0 }
    }
}

struct Follower {
    node: Arc<str>,
    connection: Connection,
    messages: Streaming<v1::WatchResponse>,
    stage: Stage,
}

impl Follower {
    /// The next piece of news; `None` when the node ended the stream in good order.
    async fn next(&mut self) -> Result<Option<News>> {
        loop {
            let message = self
                .messages
                .message()
                .await
                .map_err(|status| status::error(&status, &self.node, "Watch", false, self.connection.cause()))?;
            let Some(message) = message else { return Ok(None) };
            let bytes = message.encoded_len();
            // What a newer node may tell besides.
            let Some(message) = message.news else { continue };
            if let Some(news) = self.take(message, bytes)? {
                return Ok(Some(news));
            }
        }
    }

    /// Takes one message; `None` while the picture is not complete.
    fn take(&mut self, message: Message, bytes: usize) -> Result<Option<News>> {
        match (message, &mut self.stage) {
            (Message::Greeting(greeting), Stage::Greeting) => {
                if *greeting.node != *self.node {
                    return Err(Error::unreachable(
                        Unreachable::OtherNode,
                        format!(
                            "node {}: node {:?} answers in its place: the address was given to another pod; retry",
                            self.node, greeting.node
                        ),
                    ));
                }
                self.stage = Stage::picture();
                Ok(Some(News::Greeting(read::greeting(greeting))))
            }
            (Message::Picture(part), Stage::Picture { so_far, bytes: sum }) => {
                *sum = sum.saturating_add(bytes);
                if *sum > MAX_PICTURE {
                    return Err(self.violated(&format!("its picture has more than {MAX_PICTURE} bytes")));
                }
                let mut more = read::change(&self.node, part.part.unwrap_or_default());
                so_far.generation = so_far.generation.max(more.generation);
                so_far.pools.append(&mut more.pools);
                so_far.volumes.append(&mut more.volumes);
                so_far.gone.append(&mut more.gone);
                if !part.last {
                    return Ok(None);
                }
                let picture = std::mem::take(so_far);
                self.stage = Stage::Changes;
                Ok(Some(News::Picture(picture)))
            }
            // We were too slow for its changes, and are told everything anew.
            (part @ Message::Picture(_), Stage::Changes) => {
                self.stage = Stage::picture();
                self.take(part, bytes)
            }
            (Message::Change(change), Stage::Changes) => Ok(Some(News::Change(read::change(&self.node, change)))),
            (Message::Greeting(_), _) => Err(self.violated("it greeted twice")),
            (Message::Picture(_), Stage::Greeting) => Err(self.violated("its picture came before the greeting")),
            (Message::Change(_), _) => Err(self.violated("a change came before the picture was complete")),
        }
    }

    fn violated(&self, what: &str) -> Error {
        let why = format!(
            "node {} does not keep to the protocol of its stream: {what}; bring nodes and controller to the same version",
            self.node
        );
        Error { unreachable: Some(Unreachable::Protocol), ..Error::new(Reason::Host, why) }
    }
}
