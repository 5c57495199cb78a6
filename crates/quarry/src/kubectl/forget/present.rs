//! Whether storage that is to be forgotten exists somewhere, as far as the controller knows.

use quarry_volume::{plural, printable};
use serde::Deserialize;

use super::objects::Storage;

/// What `quarry nodes -o json` prints.
#[derive(Deserialize)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    reachable: bool,
    #[serde(default)]
    why: String,
    /// The number of pools; null until it has reported.
    pools: Option<u64>,
}

/// What `quarry pools -o json` prints.
#[derive(Deserialize)]
pub(super) struct Pools {
    pools: Vec<Pool>,
}

#[derive(Deserialize)]
struct Pool {
    node: String,
    name: String,
    kind: String,
    /// Null if the pool cannot be read.
    storage: Option<String>,
    unique_storage: bool,
    problems: Vec<String>,
    /// Whether its node is; otherwise this is the last known state.
    reachable: bool,
}

/// What the controller knows about the storage.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Where it exists.
    pub(super) present: Option<String>,
    /// Why it is not known whether it exists.
    pub(super) unknown: Option<String>,
    /// What the operator should think of.
    pub(super) hint: Option<String>,
}

pub(super) fn seen(storage: &Storage, nodes: &Nodes, pools: &Pools) -> Seen {
    let (node, id) = (storage.node, storage.id.as_str());
    let with_storage = |pool: &&Pool| pool.storage.as_deref() == Some(id);
    let present = pools.pools.iter().filter(with_storage).find_map(|pool| match (pool.node == node, pool.reachable) {
        (true, true) => Some(format!(
            "node {node} has storage {id}: it is that of its pool {}. Its volumes are deleted as usual, with their claims",
            printable(&pool.name)
        )),
        // It is the last known state, from before the disks were replaced.
        (true, false) => None,
        (false, _) if pool.unique_storage => Some(format!(
            "storage {id} is not gone: it is that of pool {} on node {}, where these disks (or copies of them) are now. Put \
             them back into node {node}",
            printable(&pool.name),
            printable(&pool.node)
        )),
        (false, _) => None,
    });
    let of_node = || pools.pools.iter().filter(|pool| pool.node == node);
    let unknown = match nodes.nodes.iter().find(|known| known.name == node) {
        None => Some(format!(
            "the controller does not know node {node}, so it is not known whether the node has storage {id}. If its Node \
             object does not exist either, this command is not needed: DeleteVolume answers OK after five minutes"
        )),
        Some(Node { reachable: false, why, .. }) => Some(format!(
            "the controller cannot reach node {node}, so it is not known whether the node has storage {id}: {}",
            printable(why)
        )),
        Some(Node { pools: None, .. }) => {
            Some(format!("node {node} has not reported its pools yet, so it is not known whether it has storage {id}"))
        }
        Some(Node { reachable: true, pools: Some(_), .. }) => {
            let unread: Vec<String> = of_node()
                .filter(|pool| pool.storage.is_none())
                .map(|pool| format!("{} ({})", printable(&pool.name), printable(&pool.problems.join("; "))))
                .collect();
            (!unread.is_empty()).then(|| {
                format!(
                    "node {node} cannot read {}, which may have storage {id}: {}",
                    plural(unread.len(), "pool"),
                    unread.join(", ")
                )
            })
        }
    };
    // The storage of pools of whole disks is derived from their name.
    let by_name = pools.pools.iter().filter(with_storage).find(|pool| !pool.unique_storage);
    let hint = by_name.map(|pool| {
        let (kind, name) = (printable(&pool.kind), printable(&pool.name));
        format!(
            "{id} is the storage of every pool of kind {kind} with the name {name}, and node {node} has no such pool. If it \
             was renamed, or removed from the configuration, then its disks are still there: restore its name instead."
        )
    });
    Seen { present, unknown, hint }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, reachable: bool, pools: Value) -> Value {
        json!({"name": name, "reachable": reachable, "why": if reachable { "" } else { "Connection refused" }, "pools": pools})
    }

    fn pool(node: &str, storage: Value, is_unique: bool, reachable: bool) -> Value {
        json!({
            "node": node, "name": "fast", "kind": if is_unique { "lvm" } else { "disk" }, "storage": storage,
            "unique_storage": is_unique, "problems": ["a disk is missing"], "reachable": reachable,
        })
    }

    fn seen_in(nodes: &[Value], pools: &[Value]) -> Seen {
        let id = "aaaaaaaaaa".parse().unwrap();
        let storage = Storage { driver: "x", node: "n1", id: &id };
        let nodes = serde_json::from_value(json!({ "nodes": nodes })).unwrap();
        seen(&storage, &nodes, &serde_json::from_value(json!({ "pools": pools })).unwrap())
    }

    #[test]
    fn storage_that_exists_is_not_forgotten() {
        let nodes = [node("n1", true, json!(1)), node("n2", true, json!(1))];
        let (it, other) = (json!("aaaaaaaaaa"), json!("bbbbbbbbbb"));
        let here = seen_in(&nodes, &[pool("n1", other.clone(), true, true), pool("n1", it.clone(), true, true)]);
        assert!(here.present.unwrap().contains("node n1 has storage aaaaaaaaaa"));
        for reachable in [true, false] {
            let moved = seen_in(&nodes, &[pool("n2", it.clone(), true, reachable)]);
            assert!(moved.present.unwrap().contains("on node n2"));
        }
        assert_eq!(seen_in(&nodes, &[pool("n1", other, true, true)]), Seen::default());
        assert_eq!(
            seen_in(&[node("n1", true, json!(0))], &[]),
            Seen::default(),
            "a node without pools has read them all"
        );
    }

    #[test]
    fn a_node_that_cannot_be_asked_is_named() {
        let unknown = |nodes: &[Value], pools: &[Value]| seen_in(nodes, pools).unknown.unwrap();
        assert!(unknown(&[node("n2", true, json!(1))], &[]).contains("does not know node n1"));
        assert!(unknown(&[node("n1", false, json!(1))], &[]).contains("cannot reach node n1"));
        assert!(unknown(&[node("n1", true, Value::Null)], &[]).contains("has not reported"));
        let unread = unknown(&[node("n1", true, json!(1))], &[pool("n1", Value::Null, true, true)]);
        assert!(unread.contains("cannot read 1 pool") && unread.contains("fast (a disk is missing)"), "{unread}");
        // Its last report is from before its disks were replaced.
        let down = seen_in(&[node("n1", false, json!(1))], &[pool("n1", json!("aaaaaaaaaa"), true, false)]);
        assert!(down.present.is_none() && down.unknown.is_some(), "{down:?}");
    }

    #[test]
    fn pools_of_whole_disks_with_one_name_have_one_storage() {
        let nodes = [node("n1", true, json!(0)), node("n2", true, json!(1))];
        let seen = seen_in(&nodes, &[pool("n2", json!("aaaaaaaaaa"), false, true)]);
        assert_eq!((&seen.present, &seen.unknown), (&None, &None));
        assert!(seen.hint.unwrap().contains("kind disk with the name fast"));
    }
}
