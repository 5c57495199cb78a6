//! The requests for snapshots, and their answers.

use std::str::FromStr;

use quarry_proto::csi::v1 as csi;
use quarry_volume::{Result, Snapshot, SnapshotId, SnapshotParameters, SnapshotSpec, VolumeId};
use quarry_wire::field::{existing_volume, not_of_later_version, required, signed};

use super::request::map;
use crate::cluster::Cluster;
use crate::paging;
use crate::snapshots::Only;

/// Parses CreateSnapshot.
pub(super) fn spec(request: &csi::CreateSnapshotRequest) -> Result<SnapshotSpec> {
    required("name", &request.name)?;
    required("source_volume_id", &request.source_volume_id)?;
    map("parameters", &request.parameters)?;
    let class = SnapshotParameters::parse(&request.parameters)?;
    Ok(SnapshotSpec { name: request.name.clone(), source: existing_volume(&request.source_volume_id)?, class })
}

/// A page of the snapshots that the nodes reported. A filter that names nothing of Quarry's matches nothing.
pub(super) async fn list(cluster: &Cluster, request: &csi::ListSnapshotsRequest) -> Result<csi::ListSnapshotsResponse> {
    let (after, most) = (paging::after(&request.starting_token)?, paging::most(request.max_entries)?);
    let id = filter::<SnapshotId>("snapshot_id", 's', &request.snapshot_id)?;
    let source = filter::<VolumeId>("source_volume_id", 'v', &request.source_volume_id)?;
    let (Ok(id), Ok(source)) = (id, source) else { return Ok(csi::ListSnapshotsResponse::default()) };
    let only = Only { id, source };
    let (snapshots, more) = cluster.snapshots(&only, after.as_ref(), most).await?;
    let next_token = match snapshots.last() {
        Some(last) if more => paging::token(&last.id),
        _ => String::new(),
    };
    let entry = |snapshot: &Snapshot| csi::list_snapshots_response::Entry { snapshot: Some(describe(snapshot)) };
    Ok(csi::ListSnapshotsResponse { entries: snapshots.iter().map(entry).collect(), next_token })
}

/// The identifier to filter by, if there is one; the inner error is about an identifier in another format.
fn filter<T: FromStr>(field: &str, kind: char, value: &str) -> Result<Result<Option<T>, T::Err>> {
    if value.is_empty() {
        return Ok(Ok(None));
    }
    required(field, value)?;
    not_of_later_version(kind, value)?;
    Ok(value.parse().map(Some))
}

/// A snapshot, as CSI describes it.
pub(super) fn describe(snapshot: &Snapshot) -> csi::Snapshot {
    csi::Snapshot {
        size_bytes: signed(snapshot.size),
        snapshot_id: snapshot.id.to_string(),
        source_volume_id: snapshot.source.to_string(),
        creation_time: Some(prost_types::Timestamp { seconds: signed(snapshot.created), nanos: 0 }),
        ready_to_use: snapshot.ready,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use quarry_volume::Reason;

    use super::*;

    #[test]
    fn a_filter_by_an_identifier_of_a_later_version_finds_nothing_out() {
        assert!(filter::<SnapshotId>("snapshot_id", 's', "").unwrap().unwrap().is_none());
        assert!(filter::<SnapshotId>("snapshot_id", 's', "snapshot-of-another-driver").unwrap().is_err());
        let later = filter::<SnapshotId>("snapshot_id", 's', "s2:a:b:c");
        assert_eq!(later.unwrap_err().reason, Reason::Unavailable);
    }
}
