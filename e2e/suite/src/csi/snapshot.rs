//! The calls about snapshots, and volumes that are filled from one or from another volume.

use std::collections::BTreeMap;

use quarry_proto::csi::v1 as csi;
use tonic::Status;

use super::{Ask, Csi, Made, PATIENCE, timed};

/// What a volume is filled from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The snapshot with this identifier.
    Snapshot(String),
    /// The volume with this identifier.
    Volume(String),
}

impl Source {
    /// The same as CSI has it.
    pub fn content(&self) -> csi::VolumeContentSource {
        use csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
        let source = match self.clone() {
            Self::Snapshot(snapshot_id) => Type::Snapshot(SnapshotSource { snapshot_id }),
            Self::Volume(volume_id) => Type::Volume(VolumeSource { volume_id }),
        };
        csi::VolumeContentSource { r#type: Some(source) }
    }
}

impl Ask {
    /// The same, filled from a snapshot.
    pub fn filled_from_snapshot(self, id: &str) -> Self {
        Self { source: Some(Source::Snapshot(id.to_owned())), ..self }
    }

    /// The same, filled from another volume.
    pub fn filled_from_volume(self, made: &Made) -> Self {
        Self { source: Some(Source::Volume(made.id.clone())), ..self }
    }

    /// The same with another name.
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }
}

impl Csi {
    /// CreateSnapshot, without parameters.
    pub async fn snapshot(&self, name: &str, volume: &str) -> Result<csi::Snapshot, Status> {
        self.snapshot_with(name, volume, &[]).await
    }

    /// CreateSnapshot with parameters of a VolumeSnapshotClass.
    pub async fn snapshot_with(
        &self,
        name: &str,
        volume: &str,
        parameters: &[(&str, &str)],
    ) -> Result<csi::Snapshot, Status> {
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let request = csi::CreateSnapshotRequest {
            source_volume_id: volume.to_owned(),
            name: name.to_owned(),
            parameters: parameters.collect::<BTreeMap<_, _>>(),
            ..Default::default()
        };
        let answer = self.controller().create_snapshot(timed(request, PATIENCE)).await?.into_inner();
        answer.snapshot.ok_or_else(|| Status::internal("the answer has no snapshot"))
    }

    /// DeleteSnapshot.
    pub async fn delete_snapshot(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        self.controller().delete_snapshot(timed(request, PATIENCE)).await.map(drop)
    }

    /// All snapshots, in pages of one.
    pub async fn snapshots(&self) -> Result<Vec<csi::Snapshot>, Status> {
        self.snapshots_of("", "").await
    }

    /// The snapshots of this volume, or with this identifier; empty: all.
    pub async fn snapshots_of(&self, volume: &str, id: &str) -> Result<Vec<csi::Snapshot>, Status> {
        let (mut all, mut starting_token) = (Vec::new(), String::new());
        loop {
            let request = csi::ListSnapshotsRequest {
                max_entries: 1,
                starting_token,
                source_volume_id: volume.to_owned(),
                snapshot_id: id.to_owned(),
                ..Default::default()
            };
            let answer = self.controller().list_snapshots(timed(request, PATIENCE)).await?.into_inner();
            all.extend(answer.entries.into_iter().filter_map(|entry| entry.snapshot));
            starting_token = answer.next_token;
            if starting_token.is_empty() {
                return Ok(all);
            }
        }
    }
}
