//! The node's end of a watch: turns updates into messages of limited size.

use std::vec::IntoIter;

use prost::Message as _;
use quarry_proto::agent::v1;
use quarry_proto::agent::v1::watch_response::Update as Message;
use quarry_volume::{Change, Error, PoolState, Result, Snapshot, Update, Volume};
use quarry_wire::agent::{write_change, write_greeting};
use quarry_wire::{pool, snapshot, volume};

/// The most volumes, and the most snapshots, in one message.
const MOST: usize = 500;
/// The size at which a message is complete, in bytes: one more volume, snapshot or pool still fits far below the 4 MiB
/// limit of gRPC clients.
const ENOUGH: usize = 1 << 20;
/// The maximum size of a change in one message, in bytes.
const MAX_CHANGE: usize = 3 << 20;

/// The messages for one update. They are created one by one, as the reader takes them.
pub(crate) fn messages(node: &str, updates: Update) -> Messages {
    match updates {
        Update::Greeting(greeting) => Messages::One(Some(Ok(Message::Greeting(write_greeting(greeting))))),
        Update::FullState(full_state) => Messages::FullState(Parts {
            generation: full_state.generation,
            pools: full_state.pools.into_iter(),
            volumes: full_state.volumes.into_iter(),
            snapshots: full_state.snapshots.into_iter(),
            done: false,
        }),
        Update::Change(change) => Messages::One(Some(one_change(node, change))),
    }
}

/// A change is one message: half of it would be taken for all of it. If it is too large, the reader must
/// request the full state again.
fn one_change(node: &str, change: Change) -> Result<Message> {
    let change = write_change(change);
    if change.encoded_len() > MAX_CHANGE {
        let why = format!("node {node}: the change is too large for one message; watch again to get the full state");
        return Err(Error::unavailable(why));
    }
    Ok(Message::Change(change))
}

/// See [`messages`].
pub(crate) enum Messages {
    /// Small enough for one message.
    One(Option<Result<Message>>),
    /// Split into parts.
    FullState(Parts),
}

impl Iterator for Messages {
    type Item = Result<v1::WatchResponse>;

    fn next(&mut self) -> Option<Self::Item> {
        let message = match self {
            Self::One(message) => message.take()?,
            Self::FullState(parts) => Ok(Message::FullState(parts.next()?)),
        };
        Some(message.map(|updates| v1::WatchResponse { update: Some(updates) }))
    }
}

/// A full state that is being split into parts.
pub(crate) struct Parts {
    generation: u64,
    pools: IntoIter<PoolState>,
    volumes: IntoIter<Volume>,
    snapshots: IntoIter<Snapshot>,
    done: bool,
}

impl Iterator for Parts {
    type Item = v1::FullStatePart;

    fn next(&mut self) -> Option<v1::FullStatePart> {
        if self.done {
            return None;
        }
        let mut part = v1::Change { generation: self.generation, ..v1::Change::default() };
        let mut bytes = 0_usize;
        while bytes < ENOUGH {
            let Some(pool) = self.pools.next() else { break };
            let pool = pool::write(pool);
            bytes = bytes.saturating_add(pool.encoded_len());
            part.pools.push(pool);
        }
        while bytes < ENOUGH && part.volumes.len() < MOST {
            let Some(volume) = self.volumes.next() else { break };
            let volume = volume::write(volume);
            bytes = bytes.saturating_add(volume.encoded_len());
            part.volumes.push(volume);
        }
        while bytes < ENOUGH && part.snapshots.len() < MOST {
            let Some(snapshot) = self.snapshots.next() else { break };
            let snapshot = snapshot::write(snapshot);
            bytes = bytes.saturating_add(snapshot.encoded_len());
            part.snapshots.push(snapshot);
        }
        self.done = self.pools.len() == 0 && self.volumes.len() == 0 && self.snapshots.len() == 0;
        Some(v1::FullStatePart { part: Some(part), last: self.done })
    }
}
