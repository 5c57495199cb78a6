//! A caller of one controller: CSI over its unix socket.

use std::collections::BTreeMap;

use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_client::ControllerClient;
use quarry_transport::unix;
use tonic::Status;
use tonic::transport::Channel;

use crate::controller::KEY;
use crate::{Setting, nodes};

/// One controller.
#[derive(Clone)]
pub(crate) struct Client(ControllerClient<Channel>);

impl Client {
    pub(crate) async fn connect(setting: &Setting, controller: &str) -> Self {
        Self(ControllerClient::new(unix::connect(&setting.socket(controller)).await.unwrap()))
    }

    /// CreateVolume that admits one node.
    pub(crate) async fn create(
        &mut self,
        name: &str,
        size: u64,
        pool: &str,
        node: usize,
    ) -> Result<csi::Volume, Status> {
        use csi::volume_capability::access_mode::Mode;
        use csi::volume_capability::{AccessMode, AccessType, MountVolume};

        let capability = csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter as i32 }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        };
        let topologies = vec![topology(node)];
        let request = csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(csi::CapacityRange { required_bytes: i64::try_from(size).unwrap(), limit_bytes: 0 }),
            volume_capabilities: vec![capability],
            parameters: parameters(pool),
            accessibility_requirements: Some(csi::TopologyRequirement {
                requisite: topologies.clone(),
                preferred: topologies,
            }),
            ..Default::default()
        };
        Ok(self.0.create_volume(request).await?.into_inner().volume.unwrap())
    }

    /// GetCapacity of one node.
    pub(crate) async fn capacity(&mut self, pool: &str, node: usize) -> i64 {
        let request = csi::GetCapacityRequest {
            accessible_topology: Some(topology(node)),
            parameters: parameters(pool),
            ..Default::default()
        };
        self.0.get_capacity(request).await.unwrap().into_inner().available_capacity
    }

    /// All volumes by identifier, with their sizes; none twice.
    pub(crate) async fn volumes(&mut self) -> BTreeMap<String, i64> {
        let mut all = BTreeMap::new();
        let mut starting_token = String::new();
        loop {
            let request = csi::ListVolumesRequest { max_entries: 1000, starting_token };
            let page = self.0.list_volumes(request).await.unwrap().into_inner();
            for volume in page.entries.into_iter().filter_map(|entry| entry.volume) {
                let before = all.insert(volume.volume_id.clone(), volume.capacity_bytes);
                assert_eq!(before, None, "{} is listed twice", volume.volume_id);
            }
            if page.next_token.is_empty() {
                return all;
            }
            starting_token = page.next_token;
        }
    }
}

fn topology(node: usize) -> csi::Topology {
    csi::Topology { segments: BTreeMap::from([(KEY.to_owned(), nodes::name(node))]) }
}

fn parameters(pool: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("pool".to_owned(), pool.to_owned())])
}
