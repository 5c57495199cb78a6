//! Answers as JSON: the protocol's field names, enums by name, sizes as numbers.

use quarry_proto::csi::v1::{self as csi, controller_service_capability, node_service_capability, plugin_capability};
use serde_json::{Value, json};

pub(crate) fn identity(info: &csi::GetPluginInfoResponse, probe: &csi::ProbeResponse) -> Value {
    json!({
        "name": info.name,
        "vendor_version": info.vendor_version,
        "manifest": info.manifest,
        // Absent counts as ready.
        "ready": probe.ready.unwrap_or(true),
    })
}

pub(crate) fn plugin_capabilities(answer: &csi::GetPluginCapabilitiesResponse) -> Value {
    let name = |capability: &csi::PluginCapability| match &capability.r#type {
        Some(plugin_capability::Type::Service(service)) => service.r#type().as_str_name().to_owned(),
        Some(plugin_capability::Type::VolumeExpansion(growth)) => {
            format!("VOLUME_EXPANSION_{}", growth.r#type().as_str_name())
        }
        None => "UNKNOWN".to_owned(),
    };
    answer.capabilities.iter().map(name).collect()
}

pub(crate) fn controller_capabilities(answer: &csi::ControllerGetCapabilitiesResponse) -> Value {
    let name = |capability: &csi::ControllerServiceCapability| match &capability.r#type {
        Some(controller_service_capability::Type::Rpc(rpc)) => rpc.r#type().as_str_name(),
        None => "UNKNOWN",
    };
    answer.capabilities.iter().map(name).collect()
}

pub(crate) fn node_capabilities(answer: &csi::NodeGetCapabilitiesResponse) -> Value {
    let name = |capability: &csi::NodeServiceCapability| match &capability.r#type {
        Some(node_service_capability::Type::Rpc(rpc)) => rpc.r#type().as_str_name(),
        None => "UNKNOWN",
    };
    answer.capabilities.iter().map(name).collect()
}

pub(crate) fn volume(volume: Option<&csi::Volume>) -> Value {
    let Some(volume) = volume else { return Value::Null };
    json!({
        "volume_id": volume.volume_id,
        "capacity_bytes": volume.capacity_bytes,
        "volume_context": volume.volume_context,
        "content_source": content_source(volume.content_source.as_ref()),
        "accessible_topology": volume.accessible_topology.iter().map(|place| json!(place.segments)).collect::<Value>(),
    })
}

pub(crate) fn snapshot(snapshot: Option<&csi::Snapshot>) -> Value {
    let Some(snapshot) = snapshot else { return Value::Null };
    json!({
        "snapshot_id": snapshot.snapshot_id,
        "source_volume_id": snapshot.source_volume_id,
        "size_bytes": snapshot.size_bytes,
        // Seconds since 1970-01-01 UTC.
        "creation_time": snapshot.creation_time.as_ref().map(|time| time.seconds),
        "ready_to_use": snapshot.ready_to_use,
    })
}

pub(crate) fn confirmed(answer: &csi::ValidateVolumeCapabilitiesResponse) -> Value {
    let capabilities = answer.confirmed.iter().flat_map(|confirmed| &confirmed.volume_capabilities);
    json!({
        "confirmed": answer.confirmed.is_some(),
        "volume_capabilities": capabilities.map(capability).collect::<Value>(),
        "message": answer.message,
    })
}

pub(crate) fn capacity(answer: &csi::GetCapacityResponse) -> Value {
    json!({
        "available_capacity": answer.available_capacity,
        "maximum_volume_size": answer.maximum_volume_size,
        "minimum_volume_size": answer.minimum_volume_size,
    })
}

pub(crate) fn stats(answer: &csi::NodeGetVolumeStatsResponse) -> Value {
    let figures = |usage: &csi::VolumeUsage| {
        let figures = json!({ "available": usage.available, "total": usage.total, "used": usage.used });
        (usage.unit().as_str_name().to_lowercase(), figures)
    };
    answer.usage.iter().map(figures).collect()
}

pub(crate) fn node_info(answer: &csi::NodeGetInfoResponse) -> Value {
    json!({
        "node_id": answer.node_id,
        "max_volumes_per_node": answer.max_volumes_per_node,
        "accessible_topology": answer.accessible_topology.as_ref().map(|place| &place.segments),
    })
}

fn content_source(source: Option<&csi::VolumeContentSource>) -> Value {
    use csi::volume_content_source::Type;
    match source.and_then(|source| source.r#type.as_ref()) {
        Some(Type::Snapshot(snapshot)) => json!({ "snapshot_id": snapshot.snapshot_id }),
        Some(Type::Volume(volume)) => json!({ "volume_id": volume.volume_id }),
        None => Value::Null,
    }
}

fn capability(capability: &csi::VolumeCapability) -> Value {
    use csi::volume_capability::AccessType;
    let mode = capability.access_mode.unwrap_or_default().mode().as_str_name();
    match &capability.access_type {
        Some(AccessType::Mount(mount)) => {
            json!({ "type": "mount", "fs_type": mount.fs_type, "mount_flags": mount.mount_flags, "access_mode": mode })
        }
        Some(AccessType::Block(_)) => json!({ "type": "block", "access_mode": mode }),
        None => json!({ "type": null, "access_mode": mode }),
    }
}
