//! The requests for volumes: what can be checked without the storage.

use std::collections::BTreeMap;

use quarry_proto::csi::v1 as csi;
use quarry_volume::{
    Capability, ContentSource, Error, MKFS_OPTIONS, MutableParameters, ON_NODE_LOSS, Parameters, RELEASE, Result,
    SizeRange, Usage, Volume, VolumeSpec, check_options,
};
use quarry_wire::csi::capabilities;
use quarry_wire::field::{existing_snapshot, existing_volume, required};

/// The maximum size of a string map, in bytes (CSI, "Size Limits").
const MAX_MAP: usize = 4096;

/// Checks the mount options of all capabilities, and the mkfs options of the class.
pub(super) fn check_all_options(capabilities: &[Capability], usage: Usage, class: &Parameters) -> Result<()> {
    let Some(filesystem) = usage.filesystem else {
        return if class.mkfs_options.is_empty() {
            Ok(())
        } else {
            Err(Error::invalid("mkfsOptions cannot be used for a raw block volume: it has no filesystem"))
        };
    };
    for capability in capabilities {
        check_options(filesystem, &capability.mount_flags, class)?;
    }
    Ok(())
}

/// Checks the length of a map.
pub(super) fn map(field: &str, map: &BTreeMap<String, String>) -> Result<()> {
    let length: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if length > MAX_MAP {
        return Err(Error::invalid(format!("{field} has {length} bytes in total; CSI allows {MAX_MAP}")));
    }
    Ok(())
}

/// Parses CreateVolume.
pub(super) fn spec(request: &csi::CreateVolumeRequest) -> Result<(VolumeSpec, Vec<Capability>, Usage)> {
    required("name", &request.name)?;
    map("parameters", &request.parameters)?;
    map("mutable_parameters", &request.mutable_parameters)?;
    let capabilities = capabilities(&request.volume_capabilities)?;
    let usage = Usage::of(&capabilities)?;
    let size = match &request.capacity_range {
        Some(range) => SizeRange::from_csi(range.required_bytes, range.limit_bytes)?,
        None => SizeRange::default(),
    };
    let changes = MutableParameters::parse(&request.mutable_parameters)?;
    changes.check(usage.filesystem)?;
    let class = Parameters::parse(&request.parameters)?.with(&changes);
    let source = request.volume_content_source.as_ref().map(source).transpose()?;
    let spec = VolumeSpec {
        name: request.name.clone(),
        size,
        access: usage.access,
        filesystem: usage.filesystem,
        class,
        source,
    };
    Ok((spec, capabilities, usage))
}

/// The context of a new volume: what its node needs to know, and what the controller needs if that node is lost.
pub(super) fn context(class: &Parameters) -> BTreeMap<String, String> {
    let options = (!class.mkfs_options.is_empty()).then(|| (MKFS_OPTIONS.to_owned(), class.mkfs_options.clone()));
    let on_node_loss = class.release_on_node_loss.then(|| (ON_NODE_LOSS.to_owned(), RELEASE.to_owned()));
    options.into_iter().chain(on_node_loss).collect()
}

/// What a new volume is filled with.
fn source(source: &csi::VolumeContentSource) -> Result<ContentSource> {
    use csi::volume_content_source::Type;

    match &source.r#type {
        Some(Type::Snapshot(from)) => Ok(ContentSource::Snapshot(existing_snapshot(&from.snapshot_id)?)),
        Some(Type::Volume(from)) => Ok(ContentSource::Volume(existing_volume(&from.volume_id)?)),
        None => Err(Error::invalid("volume_content_source names neither a snapshot nor a volume")),
    }
}

/// What a volume was filled with.
pub(crate) fn content_source(source: &ContentSource) -> csi::VolumeContentSource {
    use csi::volume_content_source::{SnapshotSource, Type, VolumeSource};

    let source = match source {
        ContentSource::Snapshot(id) => Type::Snapshot(SnapshotSource { snapshot_id: id.to_string() }),
        ContentSource::Volume(id) => Type::Volume(VolumeSource { volume_id: id.to_string() }),
    };
    csi::VolumeContentSource { r#type: Some(source) }
}

/// Parses the parameters of ValidateVolumeCapabilities. Without any, the volume's context has the mkfs options.
pub(super) fn class(parameters: &BTreeMap<String, String>, context: &BTreeMap<String, String>) -> Result<Parameters> {
    let mut class = Parameters::parse(parameters)?;
    if class.mkfs_options.is_empty() {
        class.mkfs_options = context.get(MKFS_OPTIONS).cloned().unwrap_or_default();
    }
    Ok(class)
}

/// Checks that the volume supports all the capabilities. `class` has the parameters that the request names, which must
/// not contradict what the controller knows about the volume.
pub(super) fn confirm(volume: &Volume, capabilities: &[Capability], class: &Parameters) -> Result<()> {
    if let Some(pool) = class.pool.as_ref().filter(|pool| **pool != volume.pool) {
        return Err(Error::invalid(format!("the volume is in pool {}, not in {pool}", volume.pool)));
    }
    let made = volume.access.ok_or_else(|| Error::precondition("the volume's record was written by a newer Quarry"))?;
    for capability in capabilities {
        if !made.includes(capability.access) {
            return Err(Error::invalid(format!(
                "the volume was created for use as {made}, not as {}",
                capability.access
            )));
        }
        if let (Some(asked), Some(carried)) = (capability.filesystem, volume.filesystem)
            && asked != carried
        {
            return Err(Error::invalid(format!("the volume has the filesystem {carried}, not {asked}")));
        }
        if let Some(filesystem) = volume.filesystem {
            check_options(filesystem, &capability.mount_flags, class)?;
        }
    }
    Ok(())
}
