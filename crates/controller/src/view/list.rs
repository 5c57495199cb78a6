//! Nodes, pools, volumes and snapshots, in pages as of [`paging`](crate::paging).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use quarry_proto::view::v2;
use quarry_volume::{Error, Result, SnapshotId, VolumeId};
use quarry_wire::view::{ListedPool, ListedSnapshot, ListedVolume, write_pool, write_snapshot, write_volume};

use super::write;
use crate::cluster::Cluster;
use crate::member::{Link, Member};
use crate::orphans::{AGE, is_orphaned_snapshot};
use crate::paging::{PREFIX, Page};

/// The page size if the request does not set one.
const DEFAULT: usize = 500;
/// The largest page. [`Page`] ends it earlier if its entries have long texts.
const LONGEST: usize = 2000;
/// Yield to other tasks after this many nodes.
const TURN: usize = 64;

fn size(asked: u32) -> usize {
    match usize::try_from(asked) {
        Ok(0) => DEFAULT,
        Ok(size) => size.min(LONGEST),
        Err(_) => LONGEST,
    }
}

/// The last entry of the previous page.
fn after(token: &str) -> Result<Option<&str>> {
    match token.strip_prefix(PREFIX) {
        Some(last) => Ok(Some(last)),
        None if token.is_empty() => Ok(None),
        None => Err(foreign()),
    }
}

fn foreign() -> Error {
    Error::invalid("page_token was not issued by this service: start again without a token")
}

fn unknown_node(name: &str) -> Error {
    Error::not_found(format!("node {name:?} is not known: run `quarry nodes` to list the known nodes"))
}

/// The members that a request selects.
///
/// # Errors
/// `NotFound` for an unknown node.
fn members(cluster: &Cluster, node: &str) -> Result<Vec<Arc<Member>>> {
    match node {
        "" => Ok(cluster.members()),
        name => Ok(vec![cluster.member(name).ok_or_else(|| unknown_node(name))?]),
    }
}

fn reachable(member: &Member) -> bool {
    matches!(member.link(), Link::Up { .. })
}

pub(super) fn nodes(cluster: &Cluster, request: &v2::ListNodesRequest) -> Result<v2::ListNodesResponse> {
    let (after, size) = (after(&request.page_token)?, size(request.page_size));
    let mut page = Page::new(size);
    for member in cluster.members().iter().filter(|member| after.is_none_or(|after| member.name.as_str() > after)) {
        if !page.add(&member.name, write::node(member)) {
            break;
        }
    }
    let (nodes, next_page_token) = page.finish();
    Ok(v2::ListNodesResponse { nodes, next_page_token })
}

pub(super) fn pools(cluster: &Cluster, request: &v2::ListPoolsRequest) -> Result<v2::ListPoolsResponse> {
    let size = size(request.page_size);
    // A node's name contains no slash.
    let after = match after(&request.page_token)? {
        Some(last) => Some(last.split_once('/').ok_or_else(foreign)?),
        None => None,
    };
    let mut page = Page::new(size);
    'nodes: for member in members(cluster, &request.node)? {
        let reachable = reachable(&member);
        for pool in member.memory().pools() {
            if after.is_some_and(|after| (member.name.as_str(), pool.name.as_str()) <= after) {
                continue;
            }
            let id = format!("{}/{}", member.name, pool.name);
            let listed = ListedPool { node: member.name.clone(), pool: pool.clone(), reachable };
            if !page.add(&id, write_pool(listed)) {
                break 'nodes;
            }
        }
    }
    let (pools, next_page_token) = page.finish();
    Ok(v2::ListPoolsResponse { pools, next_page_token })
}

pub(super) async fn volumes(cluster: &Cluster, request: &v2::ListVolumesRequest) -> Result<v2::ListVolumesResponse> {
    let size = size(request.page_size);
    let after: Option<VolumeId> = match after(&request.page_token)? {
        Some(last) => Some(last.parse().map_err(|_| foreign())?),
        None => None,
    };
    let wanted = cluster.inner.claims.handles();
    if request.orphans_only && wanted.is_none() {
        return Err(Error::precondition(
            "the controller does not know the PersistentVolumes, so it cannot detect orphans: either it runs without \
             Kubernetes, or it has not listed the PersistentVolumes yet (see `quarry doctor`)",
        ));
    }
    let members = members_with_pool(cluster, &request.node, &request.pool)?;
    let mut page = Page::new(size);
    'nodes: for (position, member) in members.iter().enumerate() {
        if after.as_ref().is_some_and(|after| member.name < after.node) {
            continue;
        }
        if position % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        let reachable = reachable(member);
        let start = after.as_ref().filter(|after| after.node == member.name);
        let memory = member.memory();
        for (volume, age) in memory.aged(start) {
            if !request.pool.is_empty() && volume.pool != request.pool
                || request.problems_only && volume.problem.is_empty()
            {
                continue;
            }
            let orphan = wanted.as_ref().map(|wanted| age >= AGE && is_orphan(wanted, &volume.id));
            if request.orphans_only && orphan != Some(true) {
                continue;
            }
            let listed = ListedVolume { volume: volume.clone(), orphan, reachable };
            if !page.add(&volume.id, write_volume(listed)) {
                break 'nodes;
            }
        }
    }
    let (volumes, next_page_token) = page.finish();
    Ok(v2::ListVolumesResponse { volumes, next_page_token })
}

pub(super) async fn snapshots(
    cluster: &Cluster,
    request: &v2::ListSnapshotsRequest,
) -> Result<v2::ListSnapshotsResponse> {
    let size = size(request.page_size);
    let after: Option<SnapshotId> = match after(&request.page_token)? {
        Some(last) => Some(last.parse().map_err(|_| foreign())?),
        None => None,
    };
    let source: Option<VolumeId> = match request.source.as_str() {
        "" => None,
        id => Some(id.parse().map_err(|error| Error::invalid(format!("source {id:?}: {error}")))?),
    };
    let (wanted, now) = (cluster.inner.claims.snapshot_handles(), SystemTime::now());
    if request.orphans_only && wanted.is_none() {
        return Err(Error::precondition(
            "the controller does not know the VolumeSnapshotContents, so it cannot detect orphans: it was started without \
             --snapshot-contents, or it has not listed them yet",
        ));
    }
    let mut page = Page::new(size);
    'nodes: for (position, member) in members_with_pool(cluster, &request.node, &request.pool)?.iter().enumerate() {
        if after.as_ref().is_some_and(|after| member.name < after.node) {
            continue;
        }
        if position % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        let reachable = reachable(member);
        let start = after.as_ref().filter(|after| after.node == member.name);
        let memory = member.memory();
        for snapshot in memory.snapshots(start) {
            if !request.pool.is_empty() && snapshot.pool != request.pool
                || request.problems_only && snapshot.problem.is_empty()
                || source.as_ref().is_some_and(|source| *source != snapshot.source)
            {
                continue;
            }
            let orphan = wanted.as_ref().map(|wanted| is_orphaned_snapshot(wanted, snapshot, now));
            if request.orphans_only && orphan != Some(true) {
                continue;
            }
            let listed = ListedSnapshot { snapshot: snapshot.clone(), orphan, reachable };
            if !page.add(&snapshot.id, write_snapshot(listed)) {
                break 'nodes;
            }
        }
    }
    let (snapshots, next_page_token) = page.finish();
    Ok(v2::ListSnapshotsResponse { snapshots, next_page_token })
}

/// The members that a request selects, one of which must have the pool if it names one.
///
/// # Errors
/// `NotFound` for an unknown node or pool.
fn members_with_pool(cluster: &Cluster, node: &str, pool: &str) -> Result<Vec<Arc<Member>>> {
    let members = members(cluster, node)?;
    let has_pool = |member: &Arc<Member>| member.memory().pools().any(|one| one.name == pool);
    if !pool.is_empty() && !members.iter().any(has_pool) {
        return Err(Error::not_found(format!(
            "none of the selected nodes has reported a pool {pool:?}: run `quarry pools` to list the known pools"
        )));
    }
    Ok(members)
}

/// Whether no PersistentVolume references the volume. For a volume younger than [`AGE`] that may still
/// happen.
pub(super) fn is_orphan(wanted: &HashSet<String>, id: &VolumeId) -> bool {
    !wanted.contains(&id.to_string())
}
