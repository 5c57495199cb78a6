//! The calls that make a volume larger.

use quarry_proto::csi::v1 as csi;
use tonic::Status;

use super::{Csi, Made, PATIENCE, timed};

/// The answer of ControllerExpandVolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expanded {
    /// The size of the volume, in bytes.
    pub size: i64,
    /// Whether NodeExpandVolume has to follow.
    pub on_node: bool,
}

impl Csi {
    /// ControllerExpandVolume to at least this size.
    pub async fn expand(&self, made: &Made, required: i64) -> Result<Expanded, Status> {
        self.expand_to(made, required, 0).await
    }

    /// The same with a maximum size; 0: none.
    pub async fn expand_to(&self, made: &Made, required: i64, limit: i64) -> Result<Expanded, Status> {
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: made.id.clone(),
            capacity_range: Some(csi::CapacityRange { required_bytes: required, limit_bytes: limit }),
            volume_capability: Some(made.ask.capability()),
            ..Default::default()
        };
        let answer = self.controller().controller_expand_volume(timed(request, PATIENCE)).await?.into_inner();
        Ok(Expanded { size: answer.capacity_bytes, on_node: answer.node_expansion_required })
    }

    /// NodeExpandVolume with this volume path: the staging path before the volume is published, and a published path
    /// afterwards, as kubelet does. Returns the size in the answer.
    pub async fn node_expand(&self, made: &Made, path: &str) -> Result<i64, Status> {
        let request = csi::NodeExpandVolumeRequest {
            volume_id: made.id.clone(),
            volume_path: path.to_owned(),
            staging_target_path: made.staging(),
            capacity_range: Some(csi::CapacityRange { required_bytes: made.size, limit_bytes: 0 }),
            volume_capability: Some(made.ask.capability()),
            ..Default::default()
        };
        Ok(self.node().node_expand_volume(timed(request, PATIENCE)).await?.into_inner().capacity_bytes)
    }
}
