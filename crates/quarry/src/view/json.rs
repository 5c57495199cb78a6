//! Answers as JSON. Programs read this: field names and types are stable, and unknown values are null.

use quarry_pool::DiskReport;
use quarry_proto::view::v2;
use quarry_volume::{Filesystem, IoLimits, Layout, Rate, StorageId};
use quarry_wire::view::{ListedPool, ListedSnapshot};
use serde_json::{Value, json};

use super::rows::{self, VolumeRow};

pub(super) fn node(node: &v2::Node) -> Value {
    // Nothing is known of a node that never reported.
    let if_known = |value: Value| if node.reported { value } else { Value::Null };
    json!({
        "name": node.name,
        "reachable": node.reachable,
        "since_seconds": node.since_seconds,
        "why": node.why,
        "version": if_known(json!(node.version)),
        "boot_id": if_known(json!(node.boot_id)),
        "pod_uid": if_known(json!(node.pod_uid)),
        "instance": if_known(json!(node.instance)),
        "pools": if_known(json!(node.pools)),
        "volumes": if_known(json!(node.volumes)),
        "bytes": if_known(json!(node.bytes)),
        "free_bytes": if_known(json!(node.free_bytes)),
    })
}

pub(super) fn pool(listed: &ListedPool) -> Value {
    let ListedPool { node, pool, reachable } = listed;
    json!({
        "node": node,
        "name": pool.name,
        "kind": pool.kind,
        "on": pool.on,
        "storage": pool.storage.as_ref().map(StorageId::as_str),
        "unique_storage": pool.capabilities.unique_storage,
        "bytes": pool.size,
        "free_bytes": pool.free(),
        "largest_bytes": pool.space.largest(&Layout::Linear).bytes,
        "metadata_bytes": pool.usable_metadata(),
        "metadata_free_bytes": pool.metadata_free.min(pool.usable_metadata()),
        "thin": pool.thin.map(|thin| json!({
            "data_percent": thin.data_percent,
            "metadata_percent": thin.metadata_percent,
            "virtual_bytes": thin.virtual_size,
        })),
        "volumes": pool.volumes,
        "problems": pool.all_problems(),
        "reachable": reachable,
    })
}

pub(super) fn volume(volume: &VolumeRow) -> Value {
    json!({
        "id": volume.id,
        "name": volume.name,
        "node": volume.node,
        "pool": volume.pool,
        "bytes": volume.size,
        "access": volume.access.map(rows::access),
        "filesystem": volume.filesystem.map(Filesystem::as_str),
        "layout": volume.layout.as_ref().map(Layout::kind),
        "disks": volume.layout.as_ref().map_or(0, Layout::width),
        "ready": volume.ready,
        "problem": volume.problem,
        "orphan": volume.orphan,
        "reachable": volume.reachable,
        "source": volume.source.as_ref().map(ToString::to_string),
        "copied_bytes": volume.copying.map(|progress| progress.copied),
        "to_copy_bytes": volume.copying.map(|progress| progress.total),
        "limits": limits(volume.limits),
        "limits_problem": volume.limits_problem,
        "encryption": volume.encryption.map(|encryption| encryption.as_str()),
    })
}

/// The I/O limits per second, by the name of their parameter: only those that there are.
fn limits(limits: IoLimits) -> Value {
    let given = Rate::ALL.into_iter().filter_map(|rate| Some((rate.parameter().to_owned(), json!(limits.get(rate)?))));
    Value::Object(given.collect())
}

pub(super) fn snapshot(listed: &ListedSnapshot) -> Value {
    let ListedSnapshot { snapshot, orphan, reachable } = listed;
    json!({
        "id": snapshot.id.to_string(),
        "name": snapshot.name,
        "node": snapshot.id.node,
        "pool": snapshot.pool,
        "source": snapshot.source.to_string(),
        "bytes": snapshot.size,
        "allocated_bytes": snapshot.allocated,
        "method": snapshot.method.as_str(),
        "created": (snapshot.created > 0).then_some(snapshot.created),
        "state": snapshot.state_name(),
        "copied_bytes": snapshot.copying.map(|progress| progress.copied),
        "to_copy_bytes": snapshot.copying.map(|progress| progress.total),
        "problem": snapshot.problem,
        "orphan": orphan,
        "reachable": reachable,
    })
}

pub(super) fn disk(report: &DiskReport) -> Value {
    let disk = &report.disk;
    let wiping = report.wiping.as_ref();
    json!({
        "name": disk.name,
        "path": disk.node.to_string_lossy(),
        "bytes": disk.size,
        "transport": disk.transport.as_str(),
        "rotational": disk.rotational,
        "removable": disk.removable,
        "read_only": disk.read_only,
        "logical_sector_bytes": disk.logical_sector,
        "physical_sector_bytes": disk.physical_sector,
        "model": disk.model,
        "serial": disk.serial,
        "wwn": disk.wwn,
        "by_id": disk.by_id,
        "by_path": disk.by_path,
        "pool": report.owner.as_ref().and_then(|owner| owner.pool()),
        "state": report.state_name(),
        "reason": report.reason(),
        "volume": report.volume,
        "wiped_bytes": wiping.map(|wiping| wiping.done),
        "to_wipe_bytes": wiping.map(|wiping| wiping.total),
        "mend": report.repairs.iter().map(|repair| json!({ "about": repair.about, "commands": repair.commands })).collect::<Vec<_>>(),
    })
}

pub(super) fn diagnosis(answer: &v2::DiagnoseResponse) -> Value {
    let totals = answer.totals.unwrap_or_default();
    let finding = |finding: &v2::Finding| {
        json!({
            "level": rows::level(finding.level()),
            "check": finding.check,
            "subject": finding.subject,
            "problem": finding.problem,
            "advice": finding.advice,
        })
    };
    json!({
        "version": answer.version,
        "nodes": totals.nodes,
        "reachable_nodes": totals.reachable_nodes,
        "pools": totals.pools,
        "volumes": totals.volumes,
        "orphans": totals.orphans_known.then_some(totals.orphans),
        "snapshots": totals.snapshots,
        "findings": answer.findings.iter().map(finding).collect::<Value>(),
    })
}
