//! Volume health, as reported by the nodes: which volumes have a problem, and which kind of problem.

use quarry_proto::csi::v1 as csi;
use quarry_volume::{Condition, Result, Volume};

use crate::cluster::Cluster;
use crate::paging;

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
    let (volumes, _) = cluster.volumes(after.as_ref(), usize::MAX)?;
    let mut unhealthy = volumes.iter().filter(|volume| volume.condition != Condition::Healthy);
    let page: Vec<&Volume> = unhealthy.by_ref().take(most).collect();
    let next_token = match page.last() {
        Some(last) if unhealthy.next().is_some() => paging::token(&last.id),
        _ => String::new(),
    };
    Ok(csi::ControllerListVolumeHealthResponse { entries: page.into_iter().map(of).collect(), next_token })
}
