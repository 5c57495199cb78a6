//! Connects to the sockets and asks the driver what it is and can do.

use std::collections::BTreeSet;
use std::sync::Mutex;

use anyhow::Context as _;
use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_client::ControllerClient;
use quarry_proto::csi::v1::controller_service_capability::rpc::Type as ControllerRpc;
use quarry_proto::csi::v1::identity_client::IdentityClient;
use quarry_proto::csi::v1::node_client::NodeClient;
use quarry_proto::csi::v1::node_service_capability::rpc::Type as NodeRpc;
use quarry_proto::csi::v1::plugin_capability::{Type as PluginType, service, volume_expansion};
use quarry_transport::unix;
use tonic::transport::Channel;

use super::{Attempts, Driver, Identity, Manner, Refused, ask};
use crate::phase::Abilities;
use crate::system::Retries;
use crate::{Plan, Stop};

/// Large enough to list every volume in one answer.
const LARGEST_LIST: usize = 64 << 20;
/// More pages than any driver needs for a list without a limit for each page.
const MOST_PAGES: usize = 10_000;

impl Driver {
    /// Connects, and reads name, capabilities, node and existing volumes.
    ///
    /// # Errors
    /// No process answers on a socket, the two sockets belong to different drivers, or the driver cannot
    /// create volumes.
    pub(crate) async fn connect(plan: &Plan, stop: &Stop) -> anyhow::Result<Self> {
        let manner = Manner {
            timeout: plan.timeout,
            patience: plan.patience,
            retry_interval: plan.retry_interval,
            stop: stop.clone(),
        };
        let mut retries = Retries::new();
        let mut attempts = Attempts::measured(&manner, &mut retries);
        let at_controller = unix::connect(&unix::path_of(&plan.controller)?).await?;
        let at_node = match plan.node == plan.controller {
            true => at_controller.clone(),
            false => unix::connect(&unix::path_of(&plan.node)?).await?,
        };
        let driver = identity(&at_controller, &mut attempts).await?;
        let other = identity(&at_node, &mut attempts).await.context("at the node's socket")?;
        anyhow::ensure!(
            other.name == driver.name,
            "--controller and --node belong to different drivers: {} and {}",
            driver.name,
            other.name
        );
        let controller = ControllerClient::new(at_controller.clone());
        let node = NodeClient::new(at_node);

        let mut abilities = Abilities::default();
        let plugin = ask!(
            IdentityClient::new(at_controller),
            get_plugin_capabilities,
            csi::GetPluginCapabilitiesRequest {},
            attempts
        )
        .map_err(|refused| failed("GetPluginCapabilities", &refused))?;
        of_plugin(&plugin, &mut abilities);
        let of_controller =
            ask!(controller, controller_get_capabilities, csi::ControllerGetCapabilitiesRequest {}, attempts);
        let of_controller = served(of_controller).map_err(|refused| failed("ControllerGetCapabilities", &refused))?;
        let lists = self::of_controller(&of_controller.unwrap_or_default(), &mut abilities);
        let of_node = ask!(node, node_get_capabilities, csi::NodeGetCapabilitiesRequest {}, attempts);
        if let Some(of_node) = served(of_node).map_err(|refused| failed("NodeGetCapabilities", &refused))? {
            self::of_node(&of_node, &mut abilities);
        }
        anyhow::ensure!(
            abilities.create,
            "{} on {} does not create volumes (ControllerGetCapabilities has no CREATE_DELETE_VOLUME); \
             only volumes that this run creates are measured. Is --controller the controller's socket?",
            driver.name,
            plan.controller
        );

        let info = match abilities.node {
            true => ask!(node, node_get_info, csi::NodeGetInfoRequest {}, attempts)
                .map_err(|refused| failed("NodeGetInfo", &refused))?,
            false => csi::NodeGetInfoResponse::default(),
        };
        let asked = (!plan.segments.is_empty()).then(|| csi::Topology { segments: plan.segments.clone() });
        let topology = asked.or(info.accessible_topology.filter(|_| abilities.topology));
        let existing = match lists {
            true => list(&controller, &mut attempts).await.context("listing the volumes that exist")?,
            false => BTreeSet::new(),
        };
        let (plan, node_id, given) = (plan.clone(), info.node_id, Mutex::default());
        Ok(Self { identity: driver, abilities, controller, node, node_id, topology, plan, manner, existing, given })
    }
}

fn failed(call: &str, refused: &Refused) -> anyhow::Error {
    anyhow::anyhow!("{call} failed: {refused}")
}

/// `None` when the socket does not serve this service.
fn served<T>(answer: Result<T, Refused>) -> Result<Option<T>, Refused> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(refused) if refused.is_unimplemented() => Ok(None),
        Err(refused) => Err(refused),
    }
}

async fn identity(channel: &Channel, attempts: &mut Attempts<'_>) -> anyhow::Result<Identity> {
    let info = ask!(IdentityClient::new(channel.clone()), get_plugin_info, csi::GetPluginInfoRequest {}, attempts)
        .map_err(|refused| failed("GetPluginInfo", &refused))?;
    Ok(Identity { name: info.name, version: info.vendor_version })
}

/// The IDs of all volumes.
///
/// # Errors
/// The call's, or a list without an end: with a part of it, volumes of others would look like this run's.
async fn list(controller: &ControllerClient<Channel>, attempts: &mut Attempts<'_>) -> anyhow::Result<BTreeSet<String>> {
    let controller = controller.clone().max_decoding_message_size(LARGEST_LIST);
    let (mut all, mut seen, mut starting_token) = (BTreeSet::new(), BTreeSet::new(), String::new());
    for _ in 0..MOST_PAGES {
        anyhow::ensure!(!attempts.is_stopped(), "interrupted");
        let request = csi::ListVolumesRequest { max_entries: 0, starting_token: starting_token.clone() };
        let page =
            ask!(controller, list_volumes, request, attempts).map_err(|refused| failed("ListVolumes", &refused))?;
        all.extend(page.entries.into_iter().filter_map(|entry| entry.volume).map(|volume| volume.volume_id));
        if page.next_token.is_empty() {
            return Ok(all);
        }
        anyhow::ensure!(
            seen.insert(page.next_token.clone()),
            "ListVolumes names the same page again: next_token is {:?}",
            page.next_token
        );
        starting_token = page.next_token;
    }
    anyhow::bail!("ListVolumes has more than {MOST_PAGES} pages")
}

fn of_plugin(answer: &csi::GetPluginCapabilitiesResponse, abilities: &mut Abilities) {
    let types = || answer.capabilities.iter().filter_map(|capability| capability.r#type.as_ref());
    let expands = |wanted: volume_expansion::Type| {
        types().any(|kind| matches!(kind, PluginType::VolumeExpansion(growth) if growth.r#type() == wanted))
    };
    abilities.topology = types().any(|kind| {
        matches!(kind, PluginType::Service(service)
            if service.r#type() == service::Type::VolumeAccessibilityConstraints)
    });
    abilities.expand_offline_only =
        expands(volume_expansion::Type::Offline) && !expands(volume_expansion::Type::Online);
}

/// Returns whether the driver lists volumes.
fn of_controller(answer: &csi::ControllerGetCapabilitiesResponse, abilities: &mut Abilities) -> bool {
    use csi::controller_service_capability::Type;
    let has = |wanted: ControllerRpc| {
        let kinds = answer.capabilities.iter().filter_map(|capability| capability.r#type.as_ref());
        kinds.into_iter().any(|Type::Rpc(rpc)| rpc.r#type() == wanted)
    };
    abilities.create = has(ControllerRpc::CreateDeleteVolume);
    abilities.attach = has(ControllerRpc::PublishUnpublishVolume);
    abilities.expand = has(ControllerRpc::ExpandVolume);
    abilities.snapshot = has(ControllerRpc::CreateDeleteSnapshot);
    has(ControllerRpc::ListVolumes)
}

fn of_node(answer: &csi::NodeGetCapabilitiesResponse, abilities: &mut Abilities) {
    use csi::node_service_capability::Type;
    let has = |wanted: NodeRpc| {
        let kinds = answer.capabilities.iter().filter_map(|capability| capability.r#type.as_ref());
        kinds.into_iter().any(|Type::Rpc(rpc)| rpc.r#type() == wanted)
    };
    abilities.node = true;
    abilities.stage = has(NodeRpc::StageUnstageVolume);
    abilities.stats = has(NodeRpc::GetVolumeStats);
    abilities.node_expand = has(NodeRpc::ExpandVolume);
}
