//! Paging of ListVolumes.
//!
//! A token names the volume after which the next page begins, so that volumes which come and go between two pages
//! neither repeat nor hide others.

use quarry_volume::{Error, Reason, Result, VolumeId};

const PREFIX: &str = "after:";

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

/// How many volumes a page may have; 0 asks for all.
///
/// # Errors
/// `InvalidRequest` for a negative number.
pub(crate) fn most(max_entries: i32) -> Result<usize> {
    match usize::try_from(max_entries) {
        Ok(0) => Ok(usize::MAX),
        Ok(most) => Ok(most),
        Err(_) => Err(Error::invalid(format!("max_entries is {max_entries}: it cannot be negative"))),
    }
}

/// The token of the page after the one that ends with `last`.
pub(crate) fn token(last: &VolumeId) -> String {
    format!("{PREFIX}{last}")
}

#[cfg(test)]
mod tests {
    use quarry_volume::StorageId;

    use super::*;

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
        assert_eq!(most(0).unwrap(), usize::MAX);
    }
}
