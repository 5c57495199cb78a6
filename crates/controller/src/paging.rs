//! Paging of ListVolumes and ListSnapshots.
//!
//! A token names the last entry of the previous page, so that entries that are created or deleted between two
//! pages neither repeat nor hide others.

use std::fmt::Display;
use std::str::FromStr;

use quarry_volume::{Error, Reason, Result};

const PREFIX: &str = "after:";
/// The most entries per page. An entry has about 500 bytes if every name in it has its maximum length, and a
/// gRPC client accepts 4 MiB by default.
pub(crate) const PAGE: usize = 5000;

/// The identifier after which the page begins; `None` for the first page.
///
/// # Errors
/// `BadPageToken` for a token that this driver did not issue.
pub(crate) fn after<T: FromStr>(token: &str) -> Result<Option<T>> {
    if token.is_empty() {
        return Ok(None);
    }
    let id = token.strip_prefix(PREFIX).and_then(|id| id.parse().ok()).ok_or_else(|| {
        Error::new(Reason::BadPageToken, "starting_token was not issued by this driver: start again without a token")
    })?;
    Ok(Some(id))
}

/// The size of a page: as requested, but at most [`PAGE`]. 0 selects [`PAGE`].
///
/// # Errors
/// `InvalidRequest` for a negative number.
pub(crate) fn most(max_entries: i32) -> Result<usize> {
    match usize::try_from(max_entries) {
        Ok(0) => Ok(PAGE),
        Ok(most) => Ok(most.min(PAGE)),
        Err(_) => Err(Error::invalid(format!("max_entries is {max_entries}; it must not be negative"))),
    }
}

/// The token of the page that follows the one ending with `last`.
pub(crate) fn token(last: &impl Display) -> String {
    format!("{PREFIX}{last}")
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use quarry_proto::csi::v1 as csi;
    use quarry_volume::{SnapshotId, StorageId, VolumeId};

    use super::*;
    use crate::service::content_source;

    #[test]
    fn the_largest_page_fits_the_default_message_limit_of_clients() {
        let long = |length: usize| "x".repeat(length);
        let segments = [(long(63 + 63), long(63))].into();
        let source = format!("s1:aaaaaaaaaa:{}:{}", long(63), long(48)).parse().unwrap();
        let volume = csi::Volume {
            volume_id: long(128),
            capacity_bytes: i64::MAX,
            accessible_topology: vec![csi::Topology { segments }],
            content_source: Some(content_source(&source)),
            ..Default::default()
        };
        let entry = csi::list_volumes_response::Entry { volume: Some(volume), status: None };
        let page = csi::ListVolumesResponse { entries: vec![entry; PAGE], next_token: long(128) };
        // The default limit of grpc-go and tonic.
        assert!(page.encoded_len() < 4 << 20, "{} bytes", page.encoded_len());
        let snapshot = csi::Snapshot {
            size_bytes: i64::MAX,
            snapshot_id: long(128),
            source_volume_id: long(128),
            creation_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
            ready_to_use: true,
            ..Default::default()
        };
        let entry = csi::list_snapshots_response::Entry { snapshot: Some(snapshot) };
        let page = csi::ListSnapshotsResponse { entries: vec![entry; PAGE], next_token: long(128) };
        assert!(page.encoded_len() < 4 << 20, "{} bytes", page.encoded_len());
    }

    #[test]
    fn a_token_leads_back_to_its_volume() {
        let id = VolumeId { storage: StorageId::of("vg"), node: "n".into(), volume: "v".into() };
        assert_eq!(after(&token(&id)).unwrap(), Some(id));
        assert_eq!(after::<VolumeId>("").unwrap(), None);
    }

    #[test]
    fn a_foreign_token_is_rejected() {
        for token in ["x", "after:", "after:../x", "before:v1:aaaaaaaaaa:n:v"] {
            assert_eq!(after::<VolumeId>(token).unwrap_err().reason, Reason::BadPageToken, "{token:?}");
        }
        // The token of another list.
        let snapshot = "after:s1:aaaaaaaaaa:n:s";
        assert!(after::<SnapshotId>(snapshot).unwrap().is_some());
        assert_eq!(after::<VolumeId>(snapshot).unwrap_err().reason, Reason::BadPageToken);
        assert_eq!(most(-1).unwrap_err().reason, Reason::InvalidRequest);
        assert_eq!([0, 1, 9, i32::MAX].map(|entries| most(entries).unwrap()), [PAGE, 1, 9, PAGE]);
    }
}
