//! The calls about snapshots.

use quarry_proto::csi::v1 as csi;
use serde_json::Value;

use super::{Client, ask};
use crate::csi::{Outcome, SnapshotCall, answer, map};

impl Client {
    pub(super) async fn snapshot(&mut self, call: SnapshotCall) -> anyhow::Result<Outcome> {
        let timeout = self.timeout;
        Ok(match call {
            SnapshotCall::Create { name, source, parameters } => {
                let request = csi::CreateSnapshotRequest {
                    name,
                    source_volume_id: source,
                    parameters: map(parameters),
                    ..Default::default()
                };
                let taken = ask(timeout, request, |r| self.controller.create_snapshot(r)).await?;
                Outcome::Answer(answer::snapshot(taken.snapshot.as_ref()))
            }
            SnapshotCall::Delete { snapshot_id } => {
                let done = format!("deleted {snapshot_id}");
                let request = csi::DeleteSnapshotRequest { snapshot_id, ..Default::default() };
                ask(timeout, request, |r| self.controller.delete_snapshot(r)).await?;
                Outcome::Done(done)
            }
            SnapshotCall::List { source, id, page } => Outcome::Answer(self.list_snapshots(source, id, page).await?),
            SnapshotCall::Get { snapshot_id } => {
                let request = csi::GetSnapshotRequest { snapshot_id, ..Default::default() };
                let reply = ask(timeout, request, |r| self.controller.get_snapshot(r)).await?;
                Outcome::Answer(answer::snapshot(reply.snapshot.as_ref()))
            }
        })
    }

    /// Lists all pages.
    async fn list_snapshots(&mut self, source: String, id: String, page: i32) -> anyhow::Result<Value> {
        let mut rows = Vec::new();
        let mut starting_token = String::new();
        loop {
            let request = csi::ListSnapshotsRequest {
                max_entries: page,
                starting_token: starting_token.clone(),
                source_volume_id: source.clone(),
                snapshot_id: id.clone(),
                ..Default::default()
            };
            let reply = ask(self.timeout, request, |r| self.controller.list_snapshots(r)).await?;
            rows.extend(reply.entries.iter().map(|entry| answer::snapshot(entry.snapshot.as_ref())));
            // A driver that returns the same token again would cause an endless loop.
            if reply.next_token.is_empty() || reply.next_token == starting_token {
                return Ok(Value::Array(rows));
            }
            starting_token = reply.next_token;
        }
    }
}

/// What a new volume is filled with.
pub(super) fn source(snapshot: Option<String>, volume: Option<String>) -> Option<csi::VolumeContentSource> {
    use csi::volume_content_source::{SnapshotSource, Type, VolumeSource};

    let snapshot = snapshot.map(|snapshot_id| Type::Snapshot(SnapshotSource { snapshot_id }));
    let volume = volume.map(|volume_id| Type::Volume(VolumeSource { volume_id }));
    snapshot.or(volume).map(|source| csi::VolumeContentSource { r#type: Some(source) })
}
