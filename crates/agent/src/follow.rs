//! The controller's end of a watch: from messages to updates in their order.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use prost::Message as _;
use quarry_proto::agent::v1;
use quarry_proto::agent::v1::watch_response::Update as Message;
use quarry_volume::{Change, Error, Reason, Result, Unreachable, Update, UpdateStream};
use tonic::Streaming;

use crate::connection::Connection;
use crate::wire::{read, status};

/// The largest full state that is put together, in bytes as they travel: a quarter of a million volumes. A node that has
/// gone mad must not fill the controller's memory.
const MAX_FULL_STATE: usize = 64 << 20;

/// The updates of `node`, in order: greeting, full state, changes; another full state where the node begins anew. An error is
/// the last thing that comes.
pub(crate) fn updates(node: Arc<str>, connection: Connection, messages: Streaming<v1::WatchResponse>) -> UpdateStream {
    let follower = Follower { node, connection, messages, stage: Stage::Greeting };
    stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(Some(updates)) => Some((Ok(updates), Some(follower))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// What may come next.
enum Stage {
    Greeting,
    FullState { so_far: Change, bytes: usize },
    Changes,
}

impl Stage {
    fn full_state() -> Self {
        Self::FullState { so_far: Change::default(), bytes: 0 }
    }
}

struct Follower {
    node: Arc<str>,
    connection: Connection,
    messages: Streaming<v1::WatchResponse>,
    stage: Stage,
}

impl Follower {
    /// The next update; `None` when the node ended the stream in good order.
    async fn next(&mut self) -> Result<Option<Update>> {
        loop {
            let message = self
                .messages
                .message()
                .await
                .map_err(|status| status::error(&status, &self.node, "Watch", false, self.connection.cause()))?;
            let Some(message) = message else { return Ok(None) };
            let bytes = message.encoded_len();
            // What a newer node may tell besides.
            let Some(message) = message.update else { continue };
            if let Some(updates) = self.take(message, bytes)? {
                return Ok(Some(updates));
            }
        }
    }

    /// Takes one message; `None` while the full state is not complete.
    fn take(&mut self, message: Message, bytes: usize) -> Result<Option<Update>> {
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
                self.stage = Stage::full_state();
                Ok(Some(Update::Greeting(read::greeting(greeting))))
            }
            (Message::FullState(part), Stage::FullState { so_far, bytes: sum }) => {
                *sum = sum.saturating_add(bytes);
                if *sum > MAX_FULL_STATE {
                    return Err(self.violated(&format!("its full state has more than {MAX_FULL_STATE} bytes")));
                }
                let mut more = read::change(&self.node, part.part.unwrap_or_default());
                so_far.generation = so_far.generation.max(more.generation);
                so_far.pools.append(&mut more.pools);
                so_far.volumes.append(&mut more.volumes);
                so_far.gone.append(&mut more.gone);
                if !part.last {
                    return Ok(None);
                }
                let full_state = std::mem::take(so_far);
                self.stage = Stage::Changes;
                Ok(Some(Update::FullState(full_state)))
            }
            // We were too slow for its changes, and are told everything anew.
            (part @ Message::FullState(_), Stage::Changes) => {
                self.stage = Stage::full_state();
                self.take(part, bytes)
            }
            (Message::Change(change), Stage::Changes) => Ok(Some(Update::Change(read::change(&self.node, change)))),
            (Message::Greeting(_), _) => Err(self.violated("it greeted twice")),
            (Message::FullState(_), Stage::Greeting) => Err(self.violated("its full state came before the greeting")),
            (Message::Change(_), _) => Err(self.violated("a change came before the full state was complete")),
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
