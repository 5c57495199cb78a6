//! Volumes, as a request describes them and as a node reports them.

use std::collections::BTreeMap;

use quarry_proto::volume::v1;
use quarry_volume::{
    AccessTypes, Condition, ContentSource, CopyProgress, Discard, Encryption, Error, Filesystem, IoLimits, Layout,
    Parameters, Reason, Result, SizeRange, Volume, VolumeSpec, Wipe,
};

use crate::field::required;
use crate::text::truncated;

/// A requested volume.
#[must_use]
pub fn write_spec(spec: VolumeSpec) -> v1::VolumeSpec {
    let VolumeSpec { name, size: SizeRange { required, limit }, access, filesystem, class, source } = spec;
    // The node has nothing to do with its own loss.
    let Parameters {
        pool,
        layout,
        mkfs_options,
        wipe,
        discard,
        encryption,
        limits,
        requires_limits,
        release_on_node_loss: _,
    } = class;
    v1::VolumeSpec {
        name,
        required_bytes: required,
        limit_bytes: write_limit(limit),
        pool: pool.unwrap_or_default(),
        access: write_access(Some(access)).into(),
        filesystem: write_filesystem(filesystem),
        layout: layout.code(),
        mkfs_options,
        wipe: wipe.map_or_else(String::new, |wipe| wipe.to_string()),
        discard: discard.map_or_else(String::new, |discard| discard.to_string()),
        limits: write_limits(limits),
        requires_limits,
        encryption: write_encryption(encryption),
        source: write_source(source),
    }
}

/// A requested volume: parsed strictly, because exactly the requested volume must be created.
///
/// # Errors
/// `InvalidRequest` for a field that is missing, contradicts another field or is unknown to this version;
/// `SizeOutOfRange` if no size is permitted.
pub fn read_spec(spec: Option<v1::VolumeSpec>) -> Result<VolumeSpec> {
    let spec = spec.ok_or_else(|| Error::invalid("spec is missing: it must describe the volume to create"))?;
    let v1::VolumeSpec {
        name,
        required_bytes,
        limit_bytes,
        pool,
        access,
        filesystem,
        layout,
        mkfs_options,
        wipe,
        discard,
        limits,
        requires_limits,
        encryption,
        source,
    } = spec;
    required("spec.name", &name)?;
    let access = read_access(access).ok_or_else(|| {
        Error::invalid(format!("spec.access is {access}, which this version of the node plugin does not know"))
    })?;
    Ok(VolumeSpec {
        name,
        access,
        filesystem: requested_filesystem(&filesystem, access)?,
        size: requested_size(required_bytes, limit_bytes)?,
        class: Parameters {
            wipe: requested_wipe(&wipe)?,
            discard: requested_discard(&discard)?,
            pool: Some(pool).filter(|pool| !pool.is_empty()),
            layout: requested_layout(&layout)?,
            mkfs_options,
            limits: read_limits(limits),
            requires_limits,
            encryption: requested_encryption(&encryption)?,
            release_on_node_loss: false,
        },
        source: requested_source(&source)?,
    })
}

/// An unknown kind of source is rejected: without it, the volume would be created empty.
fn requested_source(id: &str) -> Result<Option<ContentSource>> {
    match id {
        "" => Ok(None),
        id => Ok(Some(id.parse::<ContentSource>().map_err(|error| {
            Error::invalid(format!("this version of the node plugin cannot parse spec.source {id:?}: {error}"))
        })?)),
    }
}

fn write_source(source: Option<ContentSource>) -> String {
    source.map_or_else(String::new, |source| source.to_string())
}

fn requested_filesystem(name: &str, access: AccessTypes) -> Result<Option<Filesystem>> {
    match (name, access) {
        ("", AccessTypes::Block) => Ok(None),
        ("", AccessTypes::Mount | AccessTypes::Both) => {
            Err(Error::invalid(format!("spec.filesystem is missing for a volume for use as {access}")))
        }
        (name, AccessTypes::Block) => {
            Err(Error::invalid(format!("spec.filesystem is {name:?}, but the volume is raw block only")))
        }
        (name, AccessTypes::Mount | AccessTypes::Both) => {
            Ok(Some(name.parse::<Filesystem>().map_err(|error| Error::invalid(error.to_string()))?))
        }
    }
}

/// The maximum size in a request. A limit of 0 permits nothing, but 0 on the wire means no limit.
#[must_use]
pub fn write_limit(limit: Option<u64>) -> u64 {
    limit.map_or(0, |limit| limit.max(1))
}

/// The sizes that a request permits.
///
/// # Errors
/// `SizeOutOfRange` if no size is permitted.
pub fn requested_size(required: u64, limit: u64) -> Result<SizeRange> {
    let size = SizeRange { required, limit: Some(limit).filter(|limit| *limit > 0) };
    match size.limit {
        Some(limit) if limit < required => Err(Error::new(
            Reason::SizeOutOfRange,
            format!("the request requires at least {required} and at most {limit} bytes: no size satisfies both"),
        )),
        _ => Ok(size),
    }
}

fn requested_wipe(word: &str) -> Result<Option<Wipe>> {
    match word {
        "" => Ok(None),
        word => Ok(Some(word.parse::<Wipe>().map_err(|error| Error::invalid(format!("spec.wipe: {error}")))?)),
    }
}

fn requested_discard(word: &str) -> Result<Option<Discard>> {
    match word {
        "" => Ok(None),
        word => Ok(Some(word.parse::<Discard>().map_err(|error| Error::invalid(format!("spec.discard: {error}")))?)),
    }
}

fn write_encryption(encryption: Option<Encryption>) -> String {
    encryption.map_or_else(String::new, |encryption| encryption.to_string())
}

/// An unknown encryption is rejected: without it, the volume would not be encrypted.
fn requested_encryption(word: &str) -> Result<Option<Encryption>> {
    match word {
        "" => Ok(None),
        word => {
            let known = word.parse::<Encryption>();
            Ok(Some(known.map_err(|error| Error::invalid(format!("spec.encryption: {error}")))?))
        }
    }
}

fn write_limits(limits: IoLimits) -> Option<v1::IoLimits> {
    let [read_bytes, write_bytes, read_iops, write_iops] = limits.values().map(Option::unwrap_or_default);
    (!limits.is_none()).then_some(v1::IoLimits { read_bytes, write_bytes, read_iops, write_iops })
}

fn read_limits(limits: Option<v1::IoLimits>) -> IoLimits {
    let v1::IoLimits { read_bytes, write_bytes, read_iops, write_iops } = limits.unwrap_or_default();
    IoLimits::new([read_bytes, write_bytes, read_iops, write_iops].map(|limit| Some(limit).filter(|limit| *limit > 0)))
}

/// The layout of a volume to create: only those that a StorageClass of this version can request.
fn requested_layout(code: &str) -> Result<Layout> {
    let unknown = || {
        Error::invalid(format!(
            "spec.layout is {code:?}, which this version of the node plugin cannot create; upgrade nodes and \
             controller to the same version"
        ))
    };
    let layout = Layout::from_code(code).ok_or_else(unknown)?;
    // The limits of a layout's numbers are defined in one place, where a StorageClass is parsed.
    let numbers = match layout {
        Layout::Linear => vec![],
        Layout::Striped { stripes, stripe_size } => {
            vec![("stripes", stripes.to_string()), ("stripeSize", stripe_size.to_string())]
        }
        Layout::Raid1 { mirrors } => vec![("mirrors", mirrors.to_string())],
    };
    let mut parameters: BTreeMap<&str, &str> = numbers.iter().map(|(key, value)| (*key, value.as_str())).collect();
    parameters.insert("layout", layout.kind());
    match Layout::parse(&parameters) {
        Ok(parsed) if parsed == layout => Ok(layout),
        Ok(_) => Err(unknown()),
        Err(error) => Err(Error::invalid(format!("spec.layout is {code:?}: {error}"))),
    }
}

/// A volume, as reported by its node.
#[must_use]
pub fn write(volume: Volume) -> v1::Volume {
    let Volume {
        id,
        name,
        size,
        pool,
        access,
        filesystem,
        layout,
        ready,
        problem,
        condition,
        source,
        copying,
        limits,
        limits_problem,
        encryption,
    } = volume;
    v1::Volume {
        id: id.to_string(),
        name,
        bytes: size,
        pool,
        access: write_access(access).into(),
        filesystem: write_filesystem(filesystem),
        layout: layout.as_ref().map_or_else(String::new, Layout::code),
        ready,
        problem: truncated(problem),
        condition: write_condition(condition).into(),
        source: write_source(source),
        copying: copying.map(write_progress),
        limits: write_limits(limits),
        limits_problem: truncated(limits_problem),
        encryption: write_encryption(encryption),
    }
}

/// A volume, as reported by its node; `None` if its identifier cannot be parsed, because without it the
/// volume cannot be used.
#[must_use]
pub fn read(volume: v1::Volume) -> Option<Volume> {
    let kind = volume.condition();
    let v1::Volume {
        id,
        name,
        bytes,
        pool,
        access,
        filesystem,
        layout,
        ready,
        problem,
        condition: _,
        source,
        copying,
        limits,
        limits_problem,
        encryption,
    } = volume;
    Some(Volume {
        id: id.parse().ok()?,
        name,
        size: bytes,
        pool,
        access: read_access(access),
        filesystem: filesystem.parse().ok(),
        layout: Layout::from_code(&layout),
        ready,
        condition: read_condition(kind, &problem),
        problem,
        source: source.parse().ok(),
        copying: copying.map(read_progress),
        limits: read_limits(limits),
        limits_problem,
        encryption: encryption.parse().ok(),
    })
}

pub(crate) fn write_progress(progress: CopyProgress) -> v1::CopyProgress {
    let CopyProgress { copied, total } = progress;
    v1::CopyProgress { copied_bytes: copied, total_bytes: total }
}

pub(crate) fn read_progress(progress: v1::CopyProgress) -> CopyProgress {
    let v1::CopyProgress { copied_bytes, total_bytes } = progress;
    CopyProgress { copied: copied_bytes, total: total_bytes }
}

fn write_condition(condition: Condition) -> v1::Condition {
    match condition {
        Condition::Healthy => v1::Condition::Unspecified,
        Condition::Degraded => v1::Condition::Degraded,
        Condition::DiskMissing => v1::Condition::DiskMissing,
        Condition::Unfinished => v1::Condition::Unfinished,
        Condition::RecordUnreadable => v1::Condition::RecordUnreadable,
        Condition::FilesystemFailed => v1::Condition::FilesystemFailed,
        Condition::StorageUnreadable => v1::Condition::StorageUnreadable,
        Condition::Other => v1::Condition::Other,
    }
}

/// The kind of a volume's problem. An older node plugin reports a problem without its kind.
fn read_condition(kind: v1::Condition, problem: &str) -> Condition {
    match kind {
        v1::Condition::Unspecified if problem.is_empty() => Condition::Healthy,
        v1::Condition::Unspecified | v1::Condition::Other => Condition::Other,
        v1::Condition::Degraded => Condition::Degraded,
        v1::Condition::DiskMissing => Condition::DiskMissing,
        v1::Condition::Unfinished => Condition::Unfinished,
        v1::Condition::RecordUnreadable => Condition::RecordUnreadable,
        v1::Condition::FilesystemFailed => Condition::FilesystemFailed,
        v1::Condition::StorageUnreadable => Condition::StorageUnreadable,
    }
}

fn write_access(access: Option<AccessTypes>) -> v1::AccessTypes {
    match access {
        None => v1::AccessTypes::Unknown,
        Some(AccessTypes::Mount) => v1::AccessTypes::Mount,
        Some(AccessTypes::Block) => v1::AccessTypes::Block,
        Some(AccessTypes::Both) => v1::AccessTypes::Both,
    }
}

pub(crate) fn read_access(number: i32) -> Option<AccessTypes> {
    match v1::AccessTypes::try_from(number) {
        Ok(v1::AccessTypes::Mount) => Some(AccessTypes::Mount),
        Ok(v1::AccessTypes::Block) => Some(AccessTypes::Block),
        Ok(v1::AccessTypes::Both) => Some(AccessTypes::Both),
        Ok(v1::AccessTypes::Unknown) | Err(_) => None,
    }
}

fn write_filesystem(filesystem: Option<Filesystem>) -> String {
    filesystem.map_or("", Filesystem::as_str).to_owned()
}
