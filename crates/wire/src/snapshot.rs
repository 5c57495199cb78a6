//! Snapshots, as a request describes them and as a node reports them.

use quarry_proto::volume::v1;
use quarry_volume::{
    CowSize, Error, Result, Snapshot, SnapshotCondition, SnapshotId, SnapshotMethod, SnapshotParameters, SnapshotSpec,
    VolumeId,
};

use crate::field::required;
use crate::text::truncated;
use crate::volume::{read_progress, write_progress};

/// A requested snapshot.
#[must_use]
pub fn write_spec(spec: SnapshotSpec) -> v1::SnapshotSpec {
    let SnapshotSpec { name, source, class } = spec;
    let SnapshotParameters { method, cow_size } = class;
    let cow_size = match cow_size {
        CowSize::Whole => String::new(),
        size @ (CowSize::Percent(_) | CowSize::Bytes(_)) => size.to_string(),
    };
    v1::SnapshotSpec { name, source: source.to_string(), cow_size, method: write_method(method) }
}

/// A requested snapshot: parsed strictly, because exactly the requested snapshot must be taken.
///
/// # Errors
/// `InvalidRequest` for a field that is missing, or that this version cannot parse.
pub fn read_spec(spec: Option<v1::SnapshotSpec>) -> Result<SnapshotSpec> {
    let spec = spec.ok_or_else(|| Error::invalid("spec is missing: it must describe the snapshot to take"))?;
    let v1::SnapshotSpec { name, source, cow_size, method } = spec;
    required("spec.name", &name)?;
    let source = required("spec.source", &source)?.parse::<VolumeId>().map_err(|error| {
        Error::invalid(format!("this version of the node plugin cannot parse spec.source {source:?}: {error}"))
    })?;
    let cow_size = match cow_size.as_str() {
        "" => CowSize::Whole,
        text => text.parse().map_err(|error: Error| error.context("spec.cow_size"))?,
    };
    let method = match method.as_str() {
        "" => SnapshotMethod::Cow,
        text => text.parse().map_err(|error: Error| error.context("spec.method"))?,
    };
    Ok(SnapshotSpec { name, source, class: SnapshotParameters { method, cow_size } })
}

fn write_method(method: SnapshotMethod) -> String {
    match method {
        SnapshotMethod::Cow => String::new(),
        SnapshotMethod::Copy => method.to_string(),
    }
}

/// A snapshot, as reported by its node.
#[must_use]
pub fn write(snapshot: Snapshot) -> v1::Snapshot {
    let Snapshot { id, name, source, size, pool, method, created, ready, allocated, problem, condition, copying } =
        snapshot;
    v1::Snapshot {
        id: id.to_string(),
        name,
        source: source.to_string(),
        bytes: size,
        pool,
        created,
        ready,
        allocated_bytes: allocated,
        problem: truncated(problem),
        condition: write_condition(condition).into(),
        method: write_method(method),
        copying: copying.map(write_progress),
    }
}

/// A snapshot, as reported by its node; `None` if its identifier or that of its source cannot be parsed, because
/// without them the snapshot cannot be used.
#[must_use]
pub fn read(snapshot: v1::Snapshot) -> Option<Snapshot> {
    let condition = read_condition(snapshot.condition, &snapshot.problem);
    let v1::Snapshot {
        id,
        name,
        source,
        bytes,
        pool,
        created,
        ready,
        allocated_bytes,
        problem,
        condition: _,
        method,
        copying,
    } = snapshot;
    Some(Snapshot {
        id: id.parse().ok()?,
        name,
        source: source.parse().ok()?,
        size: bytes,
        pool,
        // A newer node may have another method, which is only shown.
        method: method.parse().unwrap_or_default(),
        created,
        ready,
        allocated: allocated_bytes,
        problem,
        condition,
        copying: copying.map(read_progress),
    })
}

fn write_condition(condition: SnapshotCondition) -> v1::SnapshotCondition {
    match condition {
        SnapshotCondition::Healthy => v1::SnapshotCondition::Unspecified,
        SnapshotCondition::Unfinished => v1::SnapshotCondition::Unfinished,
        SnapshotCondition::DiskMissing => v1::SnapshotCondition::DiskMissing,
        SnapshotCondition::Invalid => v1::SnapshotCondition::Invalid,
        SnapshotCondition::RecordUnreadable => v1::SnapshotCondition::RecordUnreadable,
        SnapshotCondition::Other => v1::SnapshotCondition::Other,
    }
}

/// The kind of a snapshot's problem. A newer node may report a kind that this version does not know.
fn read_condition(number: i32, problem: &str) -> SnapshotCondition {
    match v1::SnapshotCondition::try_from(number) {
        Ok(v1::SnapshotCondition::Unspecified) if problem.is_empty() => SnapshotCondition::Healthy,
        Ok(v1::SnapshotCondition::Unspecified | v1::SnapshotCondition::Other) | Err(_) => SnapshotCondition::Other,
        Ok(v1::SnapshotCondition::Unfinished) => SnapshotCondition::Unfinished,
        Ok(v1::SnapshotCondition::DiskMissing) => SnapshotCondition::DiskMissing,
        Ok(v1::SnapshotCondition::Invalid) => SnapshotCondition::Invalid,
        Ok(v1::SnapshotCondition::RecordUnreadable) => SnapshotCondition::RecordUnreadable,
    }
}

/// The identifier of a snapshot in a request.
///
/// # Errors
/// `InvalidRequest` if this version cannot parse it. Never `NotFound`: a later version may have taken the snapshot.
pub fn read_id(text: &str) -> Result<SnapshotId> {
    required("id", text)?
        .parse()
        .map_err(|error| Error::invalid(format!("this version of the node plugin cannot parse id {text:?}: {error}")))
}
