//! The controller's end of a watch: turns messages into ordered updates.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use prost::Message as _;
use quarry_proto::agent::v1;
use quarry_proto::agent::v1::watch_response::Update as Message;
use quarry_volume::{Change, Error, Reason, Result, Unreachable, Update, UpdateStream};
use quarry_wire::agent::{read_change, read_greeting};
use tonic::Streaming;

use crate::connection::Connection;
use crate::failure;

/// The maximum size of a full state, in bytes on the wire: a quarter of a million volumes. A malfunctioning
/// node must not fill the controller's memory.
const MAX_FULL_STATE: usize = 64 << 20;

/// The updates of `node`, in order: greeting, full state, changes; another full state if the node starts
/// over. An error is the last item.
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
    /// The next update; `None` if the node ended the stream normally.
    async fn next(&mut self) -> Result<Option<Update>> {
        loop {
            let message =
                self.messages.message().await.map_err(|status| {
                    failure::in_stream(&status, &self.node, "Watch", false, self.connection.cause())
                })?;
            let Some(message) = message else { return Ok(None) };
            let bytes = message.encoded_len();
            // An update of a newer version: ignored.
            let Some(message) = message.update else { continue };
            if let Some(updates) = self.take(message, bytes)? {
                return Ok(Some(updates));
            }
        }
    }

    /// Handles one message; `None` while the full state is incomplete.
    fn take(&mut self, message: Message, bytes: usize) -> Result<Option<Update>> {
        match (message, &mut self.stage) {
            (Message::Greeting(greeting), Stage::Greeting) => {
                if *greeting.node != *self.node {
                    return Err(Error::unreachable(
                        Unreachable::OtherNode,
                        format!(
                            "node {}: node {:?} answered instead: another pod has the address now; retry",
                            self.node, greeting.node
                        ),
                    ));
                }
                self.stage = Stage::full_state();
                Ok(Some(Update::Greeting(read_greeting(greeting))))
            }
            (Message::FullState(part), Stage::FullState { so_far, bytes: sum }) => {
                *sum = sum.saturating_add(bytes);
                if *sum > MAX_FULL_STATE {
                    return Err(self.violated(&format!("its full state is larger than {MAX_FULL_STATE} bytes")));
                }
                let mut more = read_change(&self.node, part.part.unwrap_or_default());
                so_far.generation = so_far.generation.max(more.generation);
                so_far.pools.append(&mut more.pools);
                so_far.volumes.append(&mut more.volumes);
                so_far.gone.append(&mut more.gone);
                so_far.snapshots.append(&mut more.snapshots);
                so_far.gone_snapshots.append(&mut more.gone_snapshots);
                if !part.last {
                    return Ok(None);
                }
                let full_state = std::mem::take(so_far);
                self.stage = Stage::Changes;
                Ok(Some(Update::FullState(full_state)))
            }
            // This reader was too slow for the changes, and gets the full state again.
            (part @ Message::FullState(_), Stage::Changes) => {
                self.stage = Stage::full_state();
                self.take(part, bytes)
            }
            (Message::Change(change), Stage::Changes) => Ok(Some(Update::Change(read_change(&self.node, change)))),
            (Message::Greeting(_), _) => Err(self.violated("it sent a second greeting")),
            (Message::FullState(_), Stage::Greeting) => {
                Err(self.violated("it sent its full state before its greeting"))
            }
            (Message::Change(_), _) => Err(self.violated("it sent a change before its full state was complete")),
        }
    }

    fn violated(&self, what: &str) -> Error {
        let why = format!(
            "node {} violated the watch protocol: {what}; upgrade nodes and controller to the same version",
            self.node
        );
        Error { unreachable: Some(Unreachable::Protocol), ..Error::new(Reason::Host, why) }
    }
}
