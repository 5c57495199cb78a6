//! Volume health, as reported by the nodes: which volumes have a problem, and which kind of problem.

use quarry_proto::csi::v1 as csi;
use quarry_volume::{Condition, Result, Volume};

use crate::cluster::Cluster;
use crate::paging::{self, Page};

/// The health of one volume.
pub(crate) fn of(volume: &Volume) -> csi::VolumeHealth {
    quarry_wire::csi::health(volume.condition, volume.id.to_string(), &volume.problem)
}

/// A page of the volumes that have a problem; healthy volumes are omitted.
///
/// # Errors
/// Like [`Cluster::volumes`]; `BadPageToken` or `InvalidRequest` for invalid arguments.
pub(crate) fn list(
    cluster: &Cluster,
    max_entries: i32,
    token: &str,
) -> Result<csi::ControllerListVolumeHealthResponse> {
    let (after, most) = (paging::after(token)?, paging::most(max_entries)?);
    let mut page = Page::new(most);
    cluster.each_volume(after.as_ref(), |volume| {
        volume.condition == Condition::Healthy || page.add(&volume.id, of(volume))
    })?;
    let (entries, next_token) = page.finish();
    Ok(csi::ControllerListVolumeHealthResponse { entries, next_token })
}
