//! CSI requests as values, so that a table can hold them.

use quarry_proto::csi::v1 as csi;
use tonic::{Request, Status};

use crate::csi::Csi;

/// A request of any method.
#[derive(Clone, Debug)]
pub enum Call {
    Create(csi::CreateVolumeRequest),
    Delete(csi::DeleteVolumeRequest),
    Validate(csi::ValidateVolumeCapabilitiesRequest),
    List(csi::ListVolumesRequest),
    Capacity(csi::GetCapacityRequest),
    Get(csi::ControllerGetVolumeRequest),
    ControllerPublish(csi::ControllerPublishVolumeRequest),
    ControllerExpand(csi::ControllerExpandVolumeRequest),
    Snapshot(csi::CreateSnapshotRequest),
    DeleteSnapshot(csi::DeleteSnapshotRequest),
    ListSnapshots(csi::ListSnapshotsRequest),
    Stage(csi::NodeStageVolumeRequest),
    Unstage(csi::NodeUnstageVolumeRequest),
    Publish(csi::NodePublishVolumeRequest),
    Unpublish(csi::NodeUnpublishVolumeRequest),
    Stats(csi::NodeGetVolumeStatsRequest),
    Expand(csi::NodeExpandVolumeRequest),
}

impl Call {
    /// Sends it, and drops the answer.
    pub async fn send(self, client: &Csi) -> Result<(), Status> {
        let (mut controller, mut node) = (client.controller(), client.node());
        match self {
            Self::Create(request) => controller.create_volume(timed(request)).await.map(drop),
            Self::Delete(request) => controller.delete_volume(timed(request)).await.map(drop),
            Self::Validate(request) => {
                let answer = controller.validate_volume_capabilities(timed(request)).await?.into_inner();
                // "Not confirmed" is not an error in CSI; for the table it is a rejection.
                if answer.confirmed.is_some() { Ok(()) } else { Err(Status::invalid_argument(answer.message)) }
            }
            Self::List(request) => controller.list_volumes(timed(request)).await.map(drop),
            Self::Capacity(request) => controller.get_capacity(timed(request)).await.map(drop),
            Self::Get(request) => controller.controller_get_volume(timed(request)).await.map(drop),
            Self::ControllerPublish(request) => controller.controller_publish_volume(timed(request)).await.map(drop),
            Self::ControllerExpand(request) => controller.controller_expand_volume(timed(request)).await.map(drop),
            Self::Snapshot(request) => controller.create_snapshot(timed(request)).await.map(drop),
            Self::DeleteSnapshot(request) => controller.delete_snapshot(timed(request)).await.map(drop),
            Self::ListSnapshots(request) => controller.list_snapshots(timed(request)).await.map(drop),
            Self::Stage(request) => node.node_stage_volume(timed(request)).await.map(drop),
            Self::Unstage(request) => node.node_unstage_volume(timed(request)).await.map(drop),
            Self::Publish(request) => node.node_publish_volume(timed(request)).await.map(drop),
            Self::Unpublish(request) => node.node_unpublish_volume(timed(request)).await.map(drop),
            Self::Stats(request) => node.node_get_volume_stats(timed(request)).await.map(drop),
            Self::Expand(request) => node.node_expand_volume(timed(request)).await.map(drop),
        }
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(std::time::Duration::from_secs(120));
    request
}
