//! Converts the protocol's messages to Quarry's types.

use std::collections::BTreeMap;

use quarry_proto::agent::v1;
use quarry_volume::{
    AccessTypes, Change, Condition, Error, FencingToken, Filesystem, Greeting, Layout, Parameters, PoolState, Reason,
    Result, SizeRange, Space, Volume, VolumeId, VolumeSpec, Wipe, wire::required,
};

/// A requested volume: parsed strictly, because exactly the requested volume must be created.
///
/// # Errors
/// `InvalidRequest` for a field that is missing, contradicts another field or is unknown to this version;
/// `SizeOutOfRange` if no size is permitted.
pub fn spec(spec: Option<v1::VolumeSpec>) -> Result<VolumeSpec> {
    let spec = spec.ok_or_else(|| Error::invalid("spec is missing: it must describe the volume to create"))?;
    required("spec.name", &spec.name)?;
    let access = access(spec.access).ok_or_else(|| {
        Error::invalid(format!("spec.access is {}, which this version of the node plugin does not know", spec.access))
    })?;
    let filesystem = match (spec.filesystem.as_str(), access) {
        ("", AccessTypes::Block) => None,
        ("", AccessTypes::Mount | AccessTypes::Both) => {
            return Err(Error::invalid(format!("spec.filesystem is missing for a volume for use as {access}")));
        }
        (name, AccessTypes::Block) => {
            return Err(Error::invalid(format!("spec.filesystem is {name:?}, but the volume is raw block only")));
        }
        (name, AccessTypes::Mount | AccessTypes::Both) => {
            Some(name.parse::<Filesystem>().map_err(|error| Error::invalid(error.to_string()))?)
        }
    };
    let size = SizeRange { required: spec.required_bytes, limit: Some(spec.limit_bytes).filter(|limit| *limit > 0) };
    if let Some(limit) = size.limit
        && limit < size.required
    {
        return Err(Error::new(
            Reason::SizeOutOfRange,
            format!("spec requires at least {} and at most {limit} bytes: no size satisfies both", size.required),
        ));
    }
    let wipe = match spec.wipe.as_str() {
        "" => None,
        word => Some(word.parse::<Wipe>().map_err(|error| Error::invalid(format!("spec.wipe: {error}")))?),
    };
    Ok(VolumeSpec {
        size,
        access,
        filesystem,
        class: Parameters {
            pool: Some(spec.pool).filter(|pool| !pool.is_empty()),
            layout: layout(&spec.layout)?,
            mkfs_options: spec.mkfs_options,
            wipe,
        },
        name: spec.name,
    })
}

/// The layout of a volume to create: only those that a StorageClass of this version can request.
fn layout(code: &str) -> Result<Layout> {
    let unknown = || {
        Error::invalid(format!(
            "spec.layout is {code:?}, which this version of the node plugin cannot create; upgrade nodes and \
             controller to the same version"
        ))
    };
    let layout = Layout::from_code(code).ok_or_else(unknown)?;
    // The limits of a layout's numbers are defined in one place, where a StorageClass is parsed.
    let (kind, numbers) = match layout {
        Layout::Linear => ("linear", vec![]),
        Layout::Striped { stripes, stripe_size } => {
            ("striped", vec![("stripes", stripes.to_string()), ("stripeSize", stripe_size.to_string())])
        }
        Layout::Raid1 { mirrors } => ("raid1", vec![("mirrors", mirrors.to_string())]),
    };
    let mut parameters: BTreeMap<&str, &str> = numbers.iter().map(|(key, value)| (*key, value.as_str())).collect();
    parameters.insert("layout", kind);
    match Layout::parse(&parameters) {
        Ok(parsed) if parsed == layout => Ok(layout),
        Ok(_) => Err(unknown()),
        Err(error) => Err(Error::invalid(format!("spec.layout is {code:?}: {error}"))),
    }
}

/// The identifier in a request.
///
/// # Errors
/// `InvalidRequest` if this version cannot parse it. Never `NotFound`: a later version may have created the
/// volume.
pub fn id(text: &str) -> Result<VolumeId> {
    required("id", text)?
        .parse()
        .map_err(|error| Error::invalid(format!("this version of the node plugin cannot parse id {text:?}: {error}")))
}

/// The fencing token of the controller that selected the node.
#[must_use]
pub fn token(token: v1::FencingToken) -> FencingToken {
    FencingToken { fence: token.fence, instance: token.instance }
}

/// A volume, as reported by its node; `None` if its identifier cannot be parsed, because without it the
/// volume cannot be used.
#[must_use]
pub fn volume(volume: v1::Volume) -> Option<Volume> {
    let condition = condition(volume.condition(), &volume.problem);
    Some(Volume {
        id: volume.id.parse().ok()?,
        name: volume.name,
        size: volume.bytes,
        pool: volume.pool,
        access: access(volume.access),
        filesystem: volume.filesystem.parse().ok(),
        layout: Layout::from_code(&volume.layout),
        ready: volume.ready,
        condition,
        problem: volume.problem,
    })
}

/// The kind of a volume's problem. An older node plugin reports a problem without its kind.
fn condition(kind: v1::Condition, problem: &str) -> Condition {
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

/// A pool, as reported by its node.
#[must_use]
pub fn pool(pool: v1::PoolState) -> PoolState {
    PoolState {
        name: pool.name,
        kind: pool.kind,
        on: pool.on,
        storage: pool.storage.parse().ok(),
        size: pool.bytes,
        // A pool that reports no space has none.
        space: space(pool.space.unwrap_or_default()),
        metadata_size: pool.metadata_bytes,
        metadata_free: pool.metadata_free_bytes,
        volumes: pool.volumes,
        problems: pool.problems,
        hints: pool.hints,
    }
}

/// The free space of a pool.
#[must_use]
pub fn space(space: v1::Space) -> Space {
    Space {
        extent: space.extent_bytes,
        free: space.free_extents,
        reserve: space.reserved_extents,
        closed: Some(space.closed).filter(|reason| !reason.is_empty()),
        whole: space.whole,
    }
}

/// A change. Identifiers that cannot be parsed, or that belong to another node, are omitted with a warning.
#[must_use]
pub fn change(node: &str, change: v1::Change) -> Change {
    let mut skipped = Skipped::default();
    let change = Change {
        generation: change.generation,
        pools: change.pools.into_iter().map(pool).collect(),
        volumes: change
            .volumes
            .into_iter()
            .filter_map(|message| {
                // Copied only if it will be logged.
                let id = if skipped.first.is_none() { message.id.clone() } else { String::new() };
                skipped.unless(volume(message).filter(|volume| volume.id.node == node), id)
            })
            .collect(),
        gone: change
            .gone
            .into_iter()
            .filter_map(|id| skipped.unless(id.parse::<VolumeId>().ok().filter(|id| id.node == node), id))
            .collect(),
    };
    if let Some(first) = skipped.first {
        tracing::warn!(
            node,
            count = skipped.count,
            id = %first.chars().take(quarry_volume::MAX_ID).collect::<String>().escape_debug(),
            "ignored identifiers that this version cannot parse, or of volumes on another node"
        );
    }
    change
}

/// What was omitted from one message: logged once.
#[derive(Default)]
struct Skipped {
    count: u64,
    first: Option<String>,
}

impl Skipped {
    fn unless<T>(&mut self, read: Option<T>, id: String) -> Option<T> {
        if read.is_none() {
            self.count = self.count.saturating_add(1);
            self.first.get_or_insert(id);
        }
        read
    }
}

/// The identity of a node.
#[must_use]
pub fn greeting(greeting: v1::Greeting) -> Greeting {
    Greeting {
        node: greeting.node,
        instance: greeting.instance,
        pod_uid: greeting.pod_uid,
        boot_id: greeting.boot_id,
        version: greeting.version,
        capabilities: greeting.capabilities,
    }
}

fn access(number: i32) -> Option<AccessTypes> {
    match v1::AccessTypes::try_from(number) {
        Ok(v1::AccessTypes::Mount) => Some(AccessTypes::Mount),
        Ok(v1::AccessTypes::Block) => Some(AccessTypes::Block),
        Ok(v1::AccessTypes::Both) => Some(AccessTypes::Both),
        Ok(v1::AccessTypes::Unknown) | Err(_) => None,
    }
}
