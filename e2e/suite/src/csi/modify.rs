//! The call that changes the attributes of a volume.

use quarry_proto::csi::v1 as csi;
use tonic::Status;

use super::{Csi, Made, PATIENCE, timed};

impl Csi {
    /// ControllerModifyVolume with these mutable parameters.
    pub async fn modify(&self, made: &Made, parameters: &[(&str, &str)]) -> Result<(), Status> {
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let request = csi::ControllerModifyVolumeRequest {
            volume_id: made.id.clone(),
            mutable_parameters: parameters.collect(),
            ..Default::default()
        };
        self.controller().controller_modify_volume(timed(request, PATIENCE)).await.map(drop)
    }
}
