//! Snapshots: taken, deleted and read on the node that holds their source; listed from memory.

use std::time::Duration;

use quarry_volume::{
    Error, Reason, Result, SNAPSHOT, SNAPSHOT_COPY, Snapshot, SnapshotId, SnapshotMethod, SnapshotSpec, VolumeId,
};

use crate::cluster::{Cluster, require_able};
use crate::environment::Fate;

/// Which snapshots a list contains: all that match every filter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Only {
    /// The one with this identifier.
    pub(crate) id: Option<SnapshotId>,
    /// Those of this volume.
    pub(crate) source: Option<VolumeId>,
}

impl Only {
    /// The node that holds all of them, if they are all on one.
    fn node(&self) -> Option<&str> {
        let of_source = self.source.as_ref().map(|source| source.node.as_str());
        self.id.as_ref().map(|id| id.node.as_str()).or(of_source)
    }

    /// A snapshot that does not have the contents of one instant yet is not listed (CSI, ListSnapshots). One that is still
    /// being copied is.
    fn admits(&self, snapshot: &Snapshot) -> bool {
        snapshot.created > 0
            && self.id.as_ref().is_none_or(|id| *id == snapshot.id)
            && self.source.as_ref().is_none_or(|source| *source == snapshot.source)
    }
}

/// What a node needs to be upgraded for.
const WHAT: &str = "take and delete snapshots";

impl Cluster {
    /// Takes a snapshot on the node that holds its source, or finds the one that an earlier call took.
    ///
    /// # Errors
    /// As for [`Agent::create_snapshot`](quarry_volume::Agent::create_snapshot). `Exists` also if another node has a
    /// snapshot with that name, as far as this controller knows; `Unavailable`, immediately, if the node cannot be
    /// reached, or is too old. `NotFound` if the node, or the storage of the volume, is gone for good: after a final error
    /// external-snapshotter lets the VolumeSnapshot be deleted.
    pub async fn create_snapshot(&self, spec: SnapshotSpec, wait: Duration) -> Result<Snapshot> {
        let (name, source) = (spec.name.clone(), spec.source.clone());
        let attempted = |error: Error| error.context(format_args!("taking snapshot {name:?} of volume {source}"));
        let (capability, what) = match spec.class.method {
            SnapshotMethod::Cow => (SNAPSHOT, WHAT),
            SnapshotMethod::Copy => (SNAPSHOT_COPY, "take snapshots with method copy"),
        };
        let (member, agent, greeting) = match self.able_agent(&source.node, capability, what) {
            Ok(able) => able,
            Err(_) if self.inner.nodes.fate(&source.node).await == Fate::Gone => {
                return Err(attempted(Error::not_found(format!("its node {} is gone for good", source.node))));
            }
            Err(error) => return Err(attempted(error)),
        };
        // The node checks its own snapshots.
        if let Some(other) = self.snapshot_elsewhere(&name, &source.node) {
            return Err(attempted(Error::new(
                Reason::Exists,
                format!("snapshot {} of volume {} has this name: choose another name", other.id, other.source),
            )));
        }
        let (snapshot, change) = match agent.create_snapshot(spec, wait).await {
            Ok(taken) => taken,
            Err(error) if error.storage_absent && self.inner.nodes.is_storage_gone(&source).await => {
                return Err(attempted(Error::not_found("an operator has confirmed that its storage is gone for good")));
            }
            Err(error) => return Err(error),
        };
        member.reply(&greeting.instance, change);
        Ok(snapshot)
    }

    /// A snapshot with that name on another node than `node`.
    fn snapshot_elsewhere(&self, name: &str, node: &str) -> Option<Snapshot> {
        self.members().iter().filter(|member| member.name != node).find_map(|member| {
            let memory = member.memory();
            memory.snapshots(None).find(|snapshot| snapshot.name == name).cloned()
        })
    }

    /// Deletes a snapshot on the node that holds it. On a node that is gone for good there is nothing left to
    /// delete.
    ///
    /// # Errors
    /// `Unavailable`, immediately, if the node cannot be reached but may come back.
    pub async fn delete_snapshot(&self, id: &SnapshotId, wait: Duration) -> Result<()> {
        match self.able_agent(&id.node, SNAPSHOT, WHAT) {
            Ok((member, agent, greeting)) => {
                let change = agent.delete_snapshot(id, wait).await?;
                member.reply(&greeting.instance, change);
                Ok(())
            }
            Err(error) => {
                if self.inner.nodes.fate(&id.node).await != Fate::Gone {
                    return Err(error.context(format_args!("deleting snapshot {id}")));
                }
                tracing::warn!(snapshot = %id, node = id.node, "abandoned: its node is gone for good");
                Ok(())
            }
        }
    }

    /// Reads a snapshot from the node that holds it.
    ///
    /// # Errors
    /// `NotFound` only if that node has read its pools and does not have the snapshot; `Unavailable` if it cannot be
    /// reached.
    pub async fn get_snapshot(&self, id: &SnapshotId, wait: Duration) -> Result<Snapshot> {
        let (_, agent, _) = self
            .able_agent(&id.node, SNAPSHOT, WHAT)
            .map_err(|error| error.context(format_args!("reading snapshot {id}")))?;
        agent.get_snapshot(id, wait).await
    }

    /// Up to `most` of these snapshots from memory, ordered by node and identifier, and whether there are more.
    ///
    /// # Errors
    /// `Unavailable` until the nodes are listed, and until the only node that could have the snapshots has reported
    /// them, unless it is gone for good. Also if that node is too old to report any.
    pub(crate) async fn snapshots(
        &self,
        only: &Only,
        after: Option<&SnapshotId>,
        most: usize,
    ) -> Result<(Vec<Snapshot>, bool)> {
        if !self.synced() {
            return Err(Error::unavailable("the controller has not listed the nodes yet: retry"));
        }
        if let Some(node) = only.node().filter(|node| self.member(node).is_none()) {
            return match self.inner.nodes.fate(node).await {
                Fate::Gone => Ok((Vec::new(), false)),
                _ => Err(Error::unavailable(format!(
                    "node {node} has no plugin pod, so that its snapshots are not known: check that the DaemonSet runs \
                     there, then retry"
                ))),
            };
        }
        let mut page = Vec::new();
        for member in self.members() {
            if only.node().is_some_and(|node| node != member.name) || after.is_some_and(|id| member.name < id.node) {
                continue;
            }
            let memory = member.memory();
            match (only.node(), memory.greeting()) {
                (None, _) => {}
                (Some(node), None) => {
                    return Err(Error::unavailable(format!("node {node} has not reported its snapshots yet: retry")));
                }
                // It may have taken some before it was downgraded.
                (Some(node), greeting) => require_able(node, greeting, SNAPSHOT, WHAT)?,
            }
            let listed = memory.snapshots(after.filter(|id| id.node == member.name));
            for snapshot in listed.filter(|snapshot| only.admits(snapshot)) {
                if page.len() == most {
                    return Ok((page, true));
                }
                page.push(snapshot.clone());
            }
        }
        Ok((page, false))
    }
}
