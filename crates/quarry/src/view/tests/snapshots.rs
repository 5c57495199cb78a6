//! Snapshots, and volumes that are filled from them.

use quarry_volume::{CopyProgress, Snapshot, SnapshotCondition, SnapshotMethod, Volume};
use quarry_wire::view::ListedSnapshot;
use serde_json::{Value, json};

use super::{Controller, GIB, listed, printed, volume};

/// A snapshot of volume pvc-a.
fn snapshot(name: &str) -> Snapshot {
    let id = format!("s1:aaaaaaaaaa:n1:{name}").parse().unwrap();
    Snapshot {
        size: 3 * GIB / 2,
        pool: "fast".into(),
        created: 1,
        ready: true,
        allocated: 2 * GIB,
        ..Snapshot::new(id, volume("pvc-a").id)
    }
}

#[tokio::test]
async fn snapshots_are_listed_with_their_source_and_state() {
    let full = Snapshot {
        ready: false,
        problem: "it became full".into(),
        condition: SnapshotCondition::Invalid,
        ..snapshot("full")
    };
    let half = Snapshot { ready: false, created: 0, ..snapshot("half") };
    let copying = Some(CopyProgress { copied: GIB, total: 3 * GIB });
    let copy = Snapshot { ready: false, method: SnapshotMethod::Copy, copying, ..snapshot("copy") };
    let snapshots = [snapshot("s"), full, half, copy]
        .map(|snapshot| {
            let orphan = (snapshot.name != "full").then_some(snapshot.name == "half");
            ListedSnapshot { snapshot, orphan, reachable: true }
        })
        .into();
    let controller = Controller { snapshots, page: 2, ..Default::default() };
    let table = printed(&controller, "snapshots --node n1 --pool fast --source v1:x --orphans --problems").await;
    let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        cells[0],
        ["NODE", "POOL", "ID", "NAME", "SOURCE", "METHOD", "SIZE", "USES", "AGE", "STATE", "ORPHAN", "PROBLEM"]
    );
    let id = "s1:aaaaaaaaaa:n1:s";
    assert_eq!(cells[1][..8], ["n1", "fast", id, "s", "v1:aaaaaaaaaa:n1:pvc-a", "cow", "1.5Gi", "2Gi"]);
    // Since 1970.
    assert!(cells[1][8].ends_with('d') && cells[1][8].len() > 5, "{table}");
    assert_eq!((cells[1][9], cells[2][9], cells[3][9]), ("ready", "invalid", "new"));
    assert_eq!((cells[1][10], cells[2][10], cells[3][10]), ("-", "?", "ORPHAN"));
    assert_eq!((cells[4][5], &cells[4][9..11]), ("copy", &["copying", "33%"][..]));
    assert!(table.contains("it became full") && cells[3][8] == "-", "{table}");
    let asked = controller.asked_snapshots.lock().unwrap().clone();
    assert_eq!(asked.iter().map(|request| request.page_token.as_str()).collect::<Vec<_>>(), ["", "2"]);
    for request in &asked {
        let filters = (request.node.as_str(), request.pool.as_str(), request.source.as_str(), request.problems_only);
        assert_eq!(filters, ("n1", "fast", "v1:x", true));
        assert!(request.orphans_only);
    }
    let json: Value = serde_json::from_str(&printed(&controller, "snapshots -o json").await).unwrap();
    assert_eq!(
        json["snapshots"][0],
        json!({
            "id": id, "name": "s", "node": "n1", "pool": "fast", "source": "v1:aaaaaaaaaa:n1:pvc-a",
            "bytes": 3 * GIB / 2, "allocated_bytes": 2 * GIB, "method": "cow", "created": 1, "state": "ready",
            "copied_bytes": null, "to_copy_bytes": null, "problem": "", "orphan": false,
            "reachable": true,
        })
    );
    assert_eq!((&json["snapshots"][2]["created"], &json["snapshots"][1]["state"]), (&Value::Null, &json!("invalid")));
    let copy = &json["snapshots"][3];
    assert_eq!(
        (&copy["method"], &copy["state"], &copy["copied_bytes"]),
        (&json!("copy"), &json!("copying"), &json!(GIB))
    );
}

#[tokio::test]
async fn the_progress_of_a_copy_is_the_state_of_the_volume() {
    let copy = Volume {
        ready: false,
        source: "s1:aaaaaaaaaa:n1:s".parse().ok(),
        copying: Some(CopyProgress { copied: GIB, total: 3 * GIB }),
        ..volume("pvc-b")
    };
    let controller = Controller { volumes: vec![listed(copy)], ..Default::default() };
    let table = printed(&controller, "volumes").await;
    assert!(table.contains("  copying 33%  -       s1:aaaaaaaaaa:n1:s  -\n"), "{table}");
    let json: Value = serde_json::from_str(&printed(&controller, "volumes -o json").await).unwrap();
    let volume = &json["volumes"][0];
    assert_eq!((&volume["source"], &volume["copied_bytes"]), (&json!("s1:aaaaaaaaaa:n1:s"), &json!(GIB)));
    assert_eq!(volume["to_copy_bytes"], json!(3 * GIB));
}
