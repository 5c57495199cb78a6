//! Where a new volume goes.
//!
//! A volume that is filled from a snapshot or from another volume goes to the node that has the source, or nowhere.
//! A request that permits one node is forwarded to that node. The node serializes its requests, so any
//! controller may forward one. A request that permits several nodes is handled by the elected controller
//! only, which first asks every candidate whether the name exists there: a retry must find the volume of an
//! earlier attempt, on whichever node it was created.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use quarry_proto::csi::v1 as csi;
use quarry_volume::{
    Agent, COPY, ContentSource, DISCARD, ENCRYPTION, Error, FencingToken, LIMITS, NameLookup, PoolState, Reason,
    Result, Volume, VolumeId, VolumeSpec, safe_name,
};
use tokio::time::Instant;

use crate::cluster::{Cluster, require_able};
use crate::environment::Fate;
use crate::member::Member;

/// How many candidates are queried for a name at the same time.
const ASKING: usize = 256;
/// A node that does not respond may already hold the requested volume, and return with it. Quarry waits this
/// long before it selects another node. After that, the volume on the dead node is an orphan, which is listed
/// when the node returns.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// How many candidates are tried although they seem to be full: the remembered free space may be stale.
const FULL_ASKED: usize = 8;
/// How many nodes an error names.
const NAMED: usize = 10;

/// The nodes that a request permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Candidates {
    /// Only this node.
    One(String),
    /// Any of these nodes, in order of preference.
    Some(Vec<String>),
    /// Any node, these first.
    Any(Vec<String>),
}

/// Parses the topology requirement of CreateVolume (CSI `TopologyRequirement`): preferred topologies in
/// order, then the rest of the requisite ones. `key` names nodes; a segment without it permits every node.
pub(crate) fn candidates(requirement: Option<&csi::TopologyRequirement>, key: &str) -> Candidates {
    let nodes = |topologies: &[csi::Topology]| -> Vec<Option<String>> {
        topologies.iter().map(|topology| topology.segments.get(key).cloned()).collect()
    };
    let (requisite, preferred) =
        requirement.map_or_else(Default::default, |given| (nodes(&given.requisite), nodes(&given.preferred)));
    // CSI: if both are given, preferred is a subset of requisite.
    let admitted = if requisite.is_empty() { &preferred } else { &requisite };
    let any = admitted.is_empty() || admitted.iter().any(Option::is_none);
    let mut ordered: Vec<String> = Vec::new();
    for node in preferred.iter().chain(&requisite).flatten() {
        if (any || admitted.contains(&Some(node.clone()))) && !ordered.contains(node) {
            ordered.push(node.clone());
        }
    }
    match (any, ordered.as_slice()) {
        (true, _) => Candidates::Any(ordered),
        (false, [only]) => Candidates::One(only.clone()),
        (false, _) => Candidates::Some(ordered),
    }
}

/// Creates a volume on one of the candidates, or finds the one that an earlier call created.
///
/// # Errors
/// `NoSpace`, listing the free space per node, if it fits on none; `Unavailable` if a node that may hold it
/// cannot be queried.
pub(crate) async fn place(
    cluster: &Cluster,
    spec: VolumeSpec,
    candidates: Candidates,
    wait: Duration,
) -> Result<Volume> {
    let until = Instant::now() + wait;
    let candidates = match &spec.source {
        Some(source) => with_source(&spec.name, source, &candidates)?,
        None => without_choice(cluster, candidates)?,
    };
    let result = match candidates {
        Candidates::One(node) => on_the_only(cluster, &node, spec, until).await,
        Candidates::Some(nodes) => choose(cluster, nodes, spec, until).await,
        Candidates::Any(first) => {
            let nodes = everywhere(cluster, first)?;
            choose(cluster, nodes, spec, until).await
        }
    };
    cluster.inner.placements.count(&result);
    result
}

impl Candidates {
    /// Whether the request permits this node.
    fn admit(&self, node: &str) -> bool {
        match self {
            Self::One(only) => only == node,
            Self::Some(nodes) => nodes.iter().any(|one| one == node),
            Self::Any(_) => true,
        }
    }
}

/// A volume that is filled from a snapshot or from another volume can only be on the node that has the source.
///
/// external-provisioner and the scheduler do not know that: with `WaitForFirstConsumer`, the scheduler selects a node
/// by the pod alone. `NoSpace` makes it select again, but it may select the same node.
fn with_source(name: &str, source: &ContentSource, candidates: &Candidates) -> Result<Candidates> {
    let node = source.node();
    if candidates.admit(node) {
        return Ok(Candidates::One(node.to_owned()));
    }
    let selected = match candidates {
        Candidates::One(selected) => format!("node {selected} was selected"),
        Candidates::Some(_) | Candidates::Any(_) => "the requested topology does not include it".to_owned(),
    };
    Err(Error::new(
        Reason::NoSpace,
        format!(
            "volume {name:?} is to be filled from {source}, which is on node {node}, but {selected}: run the pod on node \
             {node} (nodeSelector kubernetes.io/hostname, or nodeAffinity), or use a StorageClass with \
             volumeBindingMode Immediate and without allowedTopologies that exclude the node"
        ),
    ))
}

/// If there can be only one node, a request either permits it or fails.
fn without_choice(cluster: &Cluster, candidates: Candidates) -> Result<Candidates> {
    let Some(only) = &cluster.inner.only else { return Ok(candidates) };
    match candidates.admit(only) {
        true => Ok(Candidates::One(only.clone())),
        false => Err(Error::new(
            Reason::NoSpace,
            format!("the requested topology does not include node {only}, the only node of this installation"),
        )),
    }
}

async fn on_the_only(cluster: &Cluster, node: &str, spec: VolumeSpec, until: Instant) -> Result<Volume> {
    match cluster.agent(node) {
        Ok(_) => create(cluster, node, spec, None, until).await,
        Err(error) => match (cluster.inner.nodes.fate(node).await, &spec.source) {
            (Fate::Gone, Some(source)) => Err(Error::not_found(format!(
                "volume {:?} cannot be filled from {source}: node {node}, which had it, is gone for good",
                spec.name
            ))),
            (Fate::Gone, None) => Err(Error::new(
                Reason::NoSpace,
                format!("volume {:?} cannot be created on node {node}: the node is gone for good", spec.name),
            )),
            _ => Err(error.context(format_args!("creating volume {:?}", spec.name))),
        },
    }
}

/// All nodes: `first`, then the others by free space, most first.
fn everywhere(cluster: &Cluster, first: Vec<String>) -> Result<Vec<String>> {
    if !cluster.synced() {
        return Err(Error::unavailable("the controller has not listed the nodes yet: retry"));
    }
    let mut rest: Vec<(u64, String)> = cluster
        .members()
        .iter()
        .filter(|member| !first.contains(&member.name))
        .map(|member| {
            let free = member.memory().pools().fold(0_u64, |sum, pool| sum.saturating_add(pool.space.available()));
            (free, member.name.clone())
        })
        .collect();
    rest.sort_by_key(|(free, name)| (std::cmp::Reverse(*free), name.clone()));
    let mut nodes: Vec<String> = first;
    nodes.extend(rest.into_iter().map(|(_, name)| name));
    if nodes.is_empty() {
        return Err(Error::new(Reason::NoSpace, "no node has a plugin pod: check the node plugin's DaemonSet"));
    }
    Ok(nodes)
}

async fn choose(cluster: &Cluster, nodes: Vec<String>, spec: VolumeSpec, until: Instant) -> Result<Volume> {
    let fence = cluster.inner.election.fence().await?;
    let answers = query_all(cluster, &nodes, &spec.name, fence, until).await?;
    // A volume from an earlier attempt is the requested one; its node checks whether it matches this request.
    let holders: Vec<&String> =
        nodes.iter().filter(|node| answers.get(*node).is_some_and(|found| found.volume.is_some())).collect();
    if let [_, _, ..] = holders.as_slice() {
        tracing::error!(volume = spec.name, ?holders, "several nodes hold this volume: all but one are orphans");
    }
    let token = |node: &String| answers.get(node).map(|found| FencingToken { fence, instance: found.instance.clone() });
    if let Some(node) = holders.first() {
        let name = spec.name.clone();
        return create(cluster, node, spec, token(node), until).await.map_err(|error| of_existing(&name, node, error));
    }
    // Nodes that seem to have enough space, then some that do not seem to.
    let roomy = |node: &&String| {
        let room = cluster.capacity(Some(node), &spec.class).unwrap_or_default();
        room.largest >= spec.size.required.max(1)
    };
    let (fitting, full): (Vec<&String>, Vec<&String>) =
        nodes.iter().filter(|node| answers.contains_key(*node)).partition(roomy);
    let mut refusals = Vec::new();
    for node in fitting.into_iter().chain(full.into_iter().take(FULL_ASKED)) {
        if cluster.inner.election.fence().await? != fence {
            return Err(Error::unavailable("another controller was elected meanwhile: retry"));
        }
        match create(cluster, node, spec.clone(), token(node), until).await {
            Err(error) if error.reason == Reason::NoSpace => refusals.push(error.message),
            other => return other,
        }
    }
    Err(no_room(cluster, &spec, &nodes, &refusals))
}

/// The error for a volume that an earlier attempt created on a node that cannot complete it now. No such error is final:
/// external-provisioner would select another node, or never delete the volume. But if the volume does not match the
/// request (`Exists`), it is not the requested one.
fn of_existing(name: &str, node: &str, error: Error) -> Error {
    match error.reason {
        Reason::Exists => error,
        reason if !reason.is_final() => error,
        _ => error.context(format_args!("volume {name:?} exists on node {node} from an earlier attempt")).not_final(),
    }
}

/// The pending answer of a candidate; `None` if the node is unreachable, and is not likely to return soon.
type Question<'a> = BoxFuture<'a, (&'a String, Result<Option<NameLookup>>)>;

fn ask<'a>(cluster: &'a Cluster, node: &'a String, name: &'a str, fence: u64, until: Instant) -> Question<'a> {
    Box::pin(async move {
        let answer = match cluster.agent(node) {
            Ok((_, agent, _)) => agent.find(name, fence, left(until)).await,
            Err(error) => Err(error),
        };
        let answer = match answer {
            Ok(found) => Ok(Some(found)),
            Err(error) if !matches!(error.reason, Reason::Unavailable | Reason::TimedOut) => Err(error.not_final()),
            Err(error) if may_return(cluster, node).await => Err(Error::unavailable(format!(
                "volume {name:?} may already exist on node {node}, which did not answer: {}",
                error.message
            ))),
            Err(error) => {
                tracing::warn!(volume = name, node, why = error.message, "skipped: the node is unreachable");
                Ok(None)
            }
        };
        (node, answer)
    })
}

/// Queries every candidate for the name and returns the answers. It is an error if a candidate cannot be
/// queried but may hold the volume. No such error is final: an earlier attempt may have created the volume.
async fn query_all(
    cluster: &Cluster,
    nodes: &[String],
    name: &str,
    fence: u64,
    until: Instant,
) -> Result<BTreeMap<String, NameLookup>> {
    let questions: Vec<Question<'_>> = nodes.iter().map(|node| ask(cluster, node, name, fence, until)).collect();
    let mut answers = BTreeMap::new();
    let mut questions = futures::stream::iter(questions).buffer_unordered(ASKING);
    while let Some((node, answer)) = questions.next().await {
        if let Some(found) = answer? {
            answers.insert(node.clone(), found);
        }
    }
    Ok(answers)
}

/// Whether an unreachable node is likely to return soon.
async fn may_return(cluster: &Cluster, node: &str) -> bool {
    match cluster.inner.nodes.fate(node).await {
        Fate::Ready => true,
        Fate::NotReady(since) => since < PATIENCE,
        Fate::Gone => false,
        // Kubernetes is asked again with the next attempt.
        Fate::Unknown => true,
        // Only how long this controller has been disconnected from the node is known.
        Fate::NoSource => cluster.member(node).and_then(|member| member.down_for()).is_none_or(|away| away < PATIENCE),
    }
}

/// The parameters of the volume's class that older nodes would ignore: as text, the capability of nodes that obey them,
/// and what those can do.
fn needs(spec: &VolumeSpec) -> Vec<(String, &'static str, &'static str)> {
    let discard = spec.discard().map(|discard| (format!("\"discard: {discard}\""), DISCARD, "obey \"discard\""));
    let limited = !spec.class.limits.is_none() || spec.class.requires_limits;
    let limits = limited.then(|| ("I/O limits".to_owned(), LIMITS, "limit the I/O of volumes"));
    let encryption = spec.class.encryption;
    let encryption =
        encryption.map(|encryption| (format!("\"encryption: {encryption}\""), ENCRYPTION, "encrypt volumes"));
    discard.into_iter().chain(limits).chain(encryption).collect()
}

async fn create(
    cluster: &Cluster,
    node: &str,
    spec: VolumeSpec,
    token: Option<FencingToken>,
    until: Instant,
) -> Result<Volume> {
    let (source, encryption) = (spec.source.clone(), spec.class.encryption);
    let (member, agent, greeting) = match &source {
        None => cluster.agent(node)?,
        // An older node would ignore the source, and create an empty volume.
        Some(source) => cluster
            .able_agent(node, COPY, "fill a volume from a snapshot or from another volume")
            .map_err(|error| error.context(format_args!("filling volume {:?} from {source}", spec.name)))?,
    };
    // The caller did not name the node: the scheduler or this controller selected it. So the error names it.
    let named = |error: Error| error.context(format_args!("node {node}"));
    for (parameter, capability, what) in needs(&spec) {
        let able = require_able(node, Some(&greeting), capability, what);
        let Err(error) = able else { continue };
        let error = error.context(format_args!("volume {:?} needs {parameter}", spec.name));
        // If several nodes are permitted, they were asked before.
        if token.is_none() && is_there(&member, &*agent, &spec, until).await.map_err(Error::not_final)? {
            return Err(of_existing(&spec.name, node, Error { reason: Reason::NoSpace, ..error }));
        }
        // Another node may be newer, so this is the answer of a node without room.
        return Err(Error { reason: Reason::NoSpace, ..error });
    }
    let (volume, change) = agent.create(spec, token, left(until)).await.map_err(named)?;
    member.reply(&greeting.instance, change);
    // After a success, external-provisioner would bind the claim to a volume with other contents, or to one that is not
    // encrypted.
    let differs = |how: String| {
        let id = &volume.id;
        Error::unavailable(format!("node {node} answered with volume {id}, which {how}: upgrade Quarry on the node"))
    };
    if let Some(source) = source.filter(|source| volume.source.as_ref() != Some(source)) {
        return Err(differs(format!("was not filled from {source}")));
    }
    if volume.encryption != encryption {
        let is = volume.encryption.map_or_else(|| "not encrypted".to_owned(), |is| format!("encrypted with {is}"));
        let asked = encryption.map_or_else(|| "no encryption".to_owned(), |asked| asked.to_string());
        return Err(differs(format!("is {is}, instead of {asked}")));
    }
    Ok(volume)
}

/// Asks the agent of a node whether the volume exists in the pool of its class, or in any pool that the node has read if
/// the class names none. Unlike [`Agent::find`], this needs no fencing token, which only the elected controller has.
///
/// # Errors
/// `Unavailable` if such a pool cannot be read.
async fn is_there(member: &Member, agent: &dyn Agent, spec: &VolumeSpec, until: Instant) -> Result<bool> {
    let (name, asked) = (&spec.name, spec.class.pool.as_ref());
    let pools: Vec<PoolState> = member.memory().pools().cloned().collect();
    for pool in pools.into_iter().filter(|pool| asked.is_none_or(|asked| *asked == pool.name)) {
        let Some(storage) = pool.storage else {
            // A volume group that does not exist yet must not keep all other volumes waiting.
            if asked.is_none() {
                continue;
            }
            return Err(Error::unavailable(format!(
                "volume {name:?} may already exist in pool {} of node {}, which cannot be read: {}",
                pool.name,
                member.name,
                pool.problems.join("; ")
            )));
        };
        let id = VolumeId { storage, node: member.name.clone(), volume: safe_name(name) };
        match agent.get(&id, left(until)).await {
            Ok(_) => return Ok(true),
            Err(error) if error.reason == Reason::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// The error if no candidate has enough space: the request, and the free space per node.
fn no_room(cluster: &Cluster, spec: &VolumeSpec, nodes: &[String], refusals: &[String]) -> Error {
    let free = |node: &String| match cluster.capacity(Some(node), &spec.class) {
        Ok(room) => format!("{node}: {} bytes", room.largest),
        Err(_) => format!("{node}: unknown"),
    };
    let more = match nodes.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more nodes"),
    };
    let listed: Vec<String> = nodes.iter().take(NAMED).map(free).collect();
    let last = refusals.last().map_or_else(String::new, |last| format!("; the last error was: {last}"));
    Error::new(
        Reason::NoSpace,
        format!(
            "volume {:?} needs {} bytes ({}{}), and no permitted node has enough free space; \
             largest possible volume per node: {}{more}{last}",
            spec.name,
            spec.size.required,
            spec.class.layout,
            spec.class.pool.as_ref().map_or_else(String::new, |pool| format!(", pool {pool}")),
            listed.join(", "),
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "topology/node";

    fn segment(node: Option<&str>) -> csi::Topology {
        let segments = node.map(|node| (KEY.to_owned(), node.to_owned())).into_iter().collect();
        csi::Topology { segments }
    }

    fn read(requisite: &[Option<&str>], preferred: &[Option<&str>]) -> Candidates {
        let list = |nodes: &[Option<&str>]| nodes.iter().map(|node| segment(*node)).collect();
        candidates(Some(&csi::TopologyRequirement { requisite: list(requisite), preferred: list(preferred) }), KEY)
    }

    fn names(nodes: &[&str]) -> Vec<String> {
        nodes.iter().map(|node| (*node).to_owned()).collect()
    }

    #[test]
    fn strict_topology_leaves_no_choice() {
        assert_eq!(read(&[Some("a")], &[Some("a")]), Candidates::One("a".into()));
        assert_eq!(read(&[], &[Some("a")]), Candidates::One("a".into()));
    }

    #[test]
    fn preferred_nodes_come_first_and_requisite_limits_them() {
        let both = read(&[Some("a"), Some("b"), Some("c")], &[Some("c"), Some("x"), Some("a")]);
        assert_eq!(both, Candidates::Some(names(&["c", "a", "b"])));
    }

    #[test]
    fn no_requirement_and_foreign_segments_permit_every_node() {
        assert_eq!(candidates(None, KEY), Candidates::Any(vec![]));
        assert_eq!(read(&[], &[]), Candidates::Any(vec![]));
        assert_eq!(read(&[None], &[Some("b")]), Candidates::Any(names(&["b"])));
    }
}
