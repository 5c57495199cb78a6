//! The messages that only `quarry.agent.v1` has: changes, greetings, fencing tokens, identifiers in requests.

use quarry_proto::agent::v1;
use quarry_volume::{Change, Error, FencingToken, Greeting, MAX_ID, Result, Snapshot, SnapshotId, VolumeId};

use crate::field::required;
use crate::{pool, snapshot, volume};

/// A change.
#[must_use]
pub fn write_change(change: Change) -> v1::Change {
    let Change { generation, pools, volumes, gone, snapshots, gone_snapshots } = change;
    v1::Change {
        generation,
        pools: pools.into_iter().map(pool::write).collect(),
        volumes: volumes.into_iter().map(volume::write).collect(),
        gone: gone.iter().map(ToString::to_string).collect(),
        snapshots: snapshots.into_iter().map(snapshot::write).collect(),
        gone_snapshots: gone_snapshots.iter().map(ToString::to_string).collect(),
    }
}

/// A change. Identifiers that cannot be parsed, or that belong to another node, are omitted with a warning.
#[must_use]
pub fn read_change(node: &str, change: v1::Change) -> Change {
    let v1::Change { generation, pools, volumes, gone, snapshots, gone_snapshots } = change;
    let mut skipped = Skipped::default();
    let change = Change {
        generation,
        pools: pools.into_iter().map(pool::read).collect(),
        volumes: volumes
            .into_iter()
            .filter_map(|message| {
                // Copied only if it will be logged.
                let id = if skipped.first.is_none() { message.id.clone() } else { String::new() };
                skipped.unless(volume::read(message).filter(|volume| volume.id.node == node), id)
            })
            .collect(),
        gone: gone
            .into_iter()
            .filter_map(|id| skipped.unless(id.parse::<VolumeId>().ok().filter(|id| id.node == node), id))
            .collect(),
        snapshots: snapshots
            .into_iter()
            .filter_map(|message| {
                let id = if skipped.first.is_none() { message.id.clone() } else { String::new() };
                let own = |snapshot: &Snapshot| snapshot.id.node == node && snapshot.source.node == node;
                skipped.unless(snapshot::read(message).filter(own), id)
            })
            .collect(),
        gone_snapshots: gone_snapshots
            .into_iter()
            .filter_map(|id| skipped.unless(id.parse::<SnapshotId>().ok().filter(|id| id.node == node), id))
            .collect(),
    };
    if let Some(first) = skipped.first {
        tracing::warn!(
            node,
            count = skipped.count,
            id = %first.chars().take(MAX_ID).collect::<String>().escape_debug(),
            "ignored identifiers that this version cannot parse, or of volumes or snapshots on another node"
        );
    }
    change
}

/// The parts of a message that were omitted: logged once.
#[derive(Default)]
struct Skipped {
    count: u64,
    first: Option<String>,
}

impl Skipped {
    fn unless<T>(&mut self, read: Option<T>, id: String) -> Option<T> {
        if read.is_none() {
            self.count = self.count.saturating_add(1);
            self.first.get_or_insert(id);
        }
        read
    }
}

/// The identity of a node.
#[must_use]
pub fn write_greeting(greeting: Greeting) -> v1::Greeting {
    let Greeting { node, instance, pod_uid, boot_id, version, capabilities } = greeting;
    v1::Greeting { node, instance, pod_uid, boot_id, version, capabilities }
}

/// The identity of a node.
#[must_use]
pub fn read_greeting(greeting: v1::Greeting) -> Greeting {
    let v1::Greeting { node, instance, pod_uid, boot_id, version, capabilities } = greeting;
    Greeting { node, instance, pod_uid, boot_id, version, capabilities }
}

/// The fencing token of the controller that selected the node.
#[must_use]
pub fn write_token(token: FencingToken) -> v1::FencingToken {
    let FencingToken { fence, instance } = token;
    v1::FencingToken { fence, instance }
}

/// The fencing token of the controller that selected the node.
#[must_use]
pub fn read_token(token: v1::FencingToken) -> FencingToken {
    let v1::FencingToken { fence, instance } = token;
    FencingToken { fence, instance }
}

/// The identifier in a request.
///
/// # Errors
/// `InvalidRequest` if this version cannot parse it. Never `NotFound`: a later version may have created the
/// volume.
pub fn read_id(text: &str) -> Result<VolumeId> {
    required("id", text)?
        .parse()
        .map_err(|error| Error::invalid(format!("this version of the node plugin cannot parse id {text:?}: {error}")))
}
