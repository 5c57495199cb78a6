//! Paging of ListVolumes.
//!
//! A token names the volume after which the next page begins, so that volumes which come and go between two pages
//! neither repeat nor hide others.

use quarry_volume::{Error, Reason, Result, VolumeId};

const PREFIX: &str = "after:";
/// The most volumes of one page. An entry has about 350 bytes where every name in it is as long as it may be, and a client
/// of gRPC takes 4 MiB at most unless it was told otherwise.
pub(crate) const PAGE: usize = 5000;

/// The volume after which a page begins; `None`: it is the first page.
///
/// # Errors
/// `BadPageToken` for a token that is not ours.
pub(crate) fn after(token: &str) -> Result<Option<VolumeId>> {
    if token.is_empty() {
        return Ok(None);
    }
    let id = token.strip_prefix(PREFIX).and_then(|id| id.parse().ok()).ok_or_else(|| {
        Error::new(Reason::BadPageToken, "starting_token was not made by this driver: start again without one")
    })?;
    Ok(Some(id))
}

/// How many volumes a page may have: as many as are asked for, and no more than [`PAGE`]. 0 leaves it to us.
///
/// # Errors
/// `InvalidRequest` for a negative number.
pub(crate) fn most(max_entries: i32) -> Result<usize> {
    match usize::try_from(max_entries) {
        Ok(0) => Ok(PAGE),
        Ok(most) => Ok(most.min(PAGE)),
        Err(_) => Err(Error::invalid(format!("max_entries is {max_entries}: it cannot be negative"))),
    }
}

/// The token of the page after the one that ends with `last`.
pub(crate) fn token(last: &VolumeId) -> String {
    format!("{PREFIX}{last}")
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use quarry_proto::csi::v1 as csi;
    use quarry_volume::StorageId;

    use super::*;

    #[test]
    fn the_largest_page_is_a_message_that_every_client_takes() {
        let long = |length: usize| "x".repeat(length);
        let segments = [(long(63 + 63), long(63))].into();
        let volume = csi::Volume {
            volume_id: long(128),
            capacity_bytes: i64::MAX,
            accessible_topology: vec![csi::Topology { segments }],
            ..Default::default()
        };
        let entry = csi::list_volumes_response::Entry { volume: Some(volume), status: None };
        let page = csi::ListVolumesResponse { entries: vec![entry; PAGE], next_token: long(128) };
        // What grpc-go and tonic take unless told otherwise.
        assert!(page.encoded_len() < 4 << 20, "{} bytes", page.encoded_len());
    }

    #[test]
    fn a_token_leads_back_to_its_volume() {
        let id = VolumeId { storage: StorageId::of("vg"), node: "n".into(), volume: "v".into() };
        assert_eq!(after(&token(&id)).unwrap(), Some(id));
        assert_eq!(after("").unwrap(), None);
    }

    #[test]
    fn a_token_that_is_not_ours_is_refused() {
        for token in ["x", "after:", "after:../x", "before:v1:aaaaaaaaaa:n:v"] {
            assert_eq!(after(token).unwrap_err().reason, Reason::BadPageToken, "{token:?}");
        }
        assert_eq!(most(-1).unwrap_err().reason, Reason::InvalidRequest);
        assert_eq!([0, 1, 9, i32::MAX].map(|entries| most(entries).unwrap()), [PAGE, 1, 9, PAGE]);
    }
}
