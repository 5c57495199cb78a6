//! The pages of lists.
//!
//! A token names the last entry of the previous page, so that entries that are created or deleted between two
//! pages neither repeat nor hide others.

use std::fmt::Display;
use std::str::FromStr;

use prost::Message;
use quarry_volume::{Error, Reason, Result};

/// What every token begins with.
pub(crate) const PREFIX: &str = "after:";
/// The most entries per page of a list of CSI. An entry of ListVolumes or ListSnapshots has about 500 bytes if every
/// name in it has its maximum length, and a gRPC client accepts 4 MiB by default. Entries with texts for people can be
/// larger: see [`Page`].
pub(crate) const PAGE: usize = 5000;
/// The most bytes of all entries of a [`Page`]. The message has a few bytes more for each entry.
const ENOUGH: usize = 3 << 20;

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

/// A page that is being filled. It ends at a number of entries, or before its message becomes too large for a client.
pub(crate) struct Page<M> {
    most: usize,
    entries: Vec<M>,
    bytes: usize,
    /// The identifier of the last entry.
    last: String,
    is_complete: bool,
}

impl<M: Message> Page<M> {
    /// An empty page for at most `most` entries.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, entries: Vec::new(), bytes: 0, last: String::new(), is_complete: false }
    }

    /// Adds an entry. Returns false if the page is complete without it: it is the first one of the next page.
    pub(crate) fn add(&mut self, id: &impl Display, entry: M) -> bool {
        let bytes = self.bytes.saturating_add(entry.encoded_len());
        // One that is too large by itself must not end the list.
        self.is_complete = self.entries.len() >= self.most || bytes > ENOUGH && !self.entries.is_empty();
        if !self.is_complete {
            self.last = id.to_string();
            self.entries.push(entry);
            self.bytes = bytes;
        }
        !self.is_complete
    }

    /// The entries, and the token of the next page, which is empty if no entry is left for it.
    pub(crate) fn finish(self) -> (Vec<M>, String) {
        let token = if self.is_complete { token(&self.last) } else { String::new() };
        (self.entries, token)
    }
}

#[cfg(test)]
mod tests {
    use quarry_proto::csi::v1 as csi;
    use quarry_proto::view::v2;
    use quarry_proto::volume::v1;
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

    /// The bytes of the message with as many of these entries as fit a page.
    fn full<M: Message + Clone>(entry: &M, message: impl Fn(Vec<M>, String) -> usize) -> usize {
        let mut page = Page::new(PAGE);
        while page.add(&"x".repeat(128), entry.clone()) {}
        let (entries, next) = page.finish();
        assert!(!entries.is_empty() && !next.is_empty());
        message(entries, next)
    }

    #[test]
    fn a_page_with_the_longest_texts_fits_too() {
        let text = || "x".repeat(2048);
        // The shortest entries are the most, and each of them has its own tag and length.
        for long in [String::new(), text()] {
            let status = csi::volume_health::VolumeHealthEntry { message: long.clone(), ..Default::default() };
            let health = csi::VolumeHealth { volume_id: "x".repeat(128), health_statuses: vec![status] };
            let volume = v1::Volume { problem: long.clone(), limits_problem: long.clone(), ..Default::default() };
            let snapshot = v1::Snapshot { problem: long.clone(), ..Default::default() };
            let pool =
                v1::Pool { problems: vec![long.clone(); 20], repair: vec![long.clone(); 20], ..Default::default() };
            let node = v2::Node { why: long, ..Default::default() };
            let sizes = [
                full(&health, |entries, next_token| {
                    csi::ControllerListVolumeHealthResponse { entries, next_token }.encoded_len()
                }),
                full(&v2::ListedVolume { volume: Some(volume), ..Default::default() }, |volumes, next_page_token| {
                    v2::ListVolumesResponse { volumes, next_page_token }.encoded_len()
                }),
                full(
                    &v2::ListedSnapshot { snapshot: Some(snapshot), ..Default::default() },
                    |snapshots, next_page_token| v2::ListSnapshotsResponse { snapshots, next_page_token }.encoded_len(),
                ),
                full(&v2::ListedPool { pool: Some(pool), ..Default::default() }, |pools, next_page_token| {
                    v2::ListPoolsResponse { pools, next_page_token }.encoded_len()
                }),
                full(&node, |nodes, next_page_token| v2::ListNodesResponse { nodes, next_page_token }.encoded_len()),
            ];
            assert!(sizes.iter().all(|size| *size < 4 << 20), "{sizes:?}");
        }
    }

    #[test]
    fn an_entry_that_is_too_large_is_a_page_of_its_own() {
        let mut page = Page::new(PAGE);
        let large = v2::Node { why: "x".repeat(ENOUGH), ..Default::default() };
        assert!(page.add(&"n1", large.clone()));
        assert!(!page.add(&"n2", v2::Node::default()));
        assert_eq!(page.finish(), (vec![large], "after:n1".to_owned()));
        // What fits exactly has no next page.
        let mut page = Page::new(1);
        assert!(page.add(&"n1", v2::Node::default()));
        assert_eq!(page.finish(), (vec![v2::Node::default()], String::new()));
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
