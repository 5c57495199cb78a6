//! Paging of ListVolumes.
//!
//! A token names the volume after which the next page begins, so that volumes which come and go between two pages
//! neither repeat nor hide others.

use quarry_volume::{Error, Reason, Result, Volume, VolumeId};

/// One page.
#[derive(Debug)]
pub(crate) struct Page {
    /// The volumes on it.
    pub(crate) volumes: Vec<Volume>,
    /// The token of the next page; empty if this is the last.
    pub(crate) next_token: String,
}

const PREFIX: &str = "after:";

/// Cuts the page that begins at `token` and has at most `max_entries` volumes; 0: all.
///
/// # Errors
/// `BadPageToken` for a token that is not ours, `InvalidRequest` for a negative number.
pub(crate) fn page(mut volumes: Vec<Volume>, token: &str, max_entries: i32) -> Result<Page> {
    let most = usize::try_from(max_entries)
        .map_err(|_| Error::invalid(format!("max_entries is {max_entries}: it cannot be negative")))?;
    volumes.sort_by_cached_key(|volume| volume.id.to_string());
    if !token.is_empty() {
        let after: VolumeId = token.strip_prefix(PREFIX).and_then(|id| id.parse().ok()).ok_or_else(|| {
            Error::new(Reason::BadPageToken, "starting_token was not made by this driver: start again without one")
        })?;
        let after = after.to_string();
        volumes.retain(|volume| volume.id.to_string() > after);
    }
    let mut next_token = String::new();
    if most > 0 && volumes.len() > most {
        volumes.truncate(most);
        if let Some(last) = volumes.last() {
            next_token = format!("{PREFIX}{}", last.id);
        }
    }
    Ok(Page { volumes, next_token })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_volume::{AccessTypes, StorageId};

    fn volume(name: &str) -> Volume {
        Volume {
            id: VolumeId { storage: StorageId::of("vg"), node: "n".into(), volume: name.into() },
            name: name.into(),
            size: 1,
            pool: "p".into(),
            access: Some(AccessTypes::Block),
            filesystem: None,
        }
    }

    fn names(page: &Page) -> Vec<&str> {
        page.volumes.iter().map(|volume| volume.name.as_str()).collect()
    }

    #[test]
    fn pages_cover_all_volumes_once_even_when_one_goes_in_between() {
        let all = || ["c", "a", "d", "b"].map(volume).to_vec();
        let first = page(all(), "", 2).unwrap();
        assert_eq!(names(&first), ["a", "b"]);
        // The volume that the token names is deleted meanwhile.
        let rest: Vec<_> = all().into_iter().filter(|volume| volume.name != "b").collect();
        let second = page(rest, &first.next_token, 2).unwrap();
        assert_eq!(names(&second), ["c", "d"]);
        assert!(second.next_token.is_empty());
        assert_eq!(page(all(), "", 0).unwrap().volumes.len(), 4);
    }

    #[test]
    fn a_token_that_is_not_ours_is_refused() {
        for token in ["x", "after:", "after:../x", "before:v1:aaaaaaaaaa:n:v"] {
            assert_eq!(page(Vec::new(), token, 1).unwrap_err().reason, Reason::BadPageToken, "{token:?}");
        }
        assert_eq!(page(Vec::new(), "", -1).unwrap_err().reason, Reason::InvalidRequest);
    }
}
