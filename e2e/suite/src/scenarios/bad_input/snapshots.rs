//! Bad requests for snapshots, and for volumes that are filled from something.

use std::collections::BTreeMap;

use quarry_proto::csi::v1 as csi;
use tonic::Code;

use super::{Base, Call, Case, shown, texts};
use crate::csi::Ask;

const INVALID: &[Code] = &[Code::InvalidArgument];
const ABSENT: &[Code] = &[Code::NotFound];
const FINE: &[Code] = &[Code::Ok];
const ABORTED: &[Code] = &[Code::Aborted];

/// All of them.
pub fn cases(base: &Base) -> Vec<Case> {
    let mut cases = Vec::new();
    let request = |name: &str, volume: &str| csi::CreateSnapshotRequest {
        name: name.to_owned(),
        source_volume_id: volume.to_owned(),
        ..Default::default()
    };
    let volume = &base.mount.id;
    for name in ["", &"a".repeat(129), "a\nb"] {
        let what = format!("create snapshot: name {}", shown(name));
        cases.push(Case::new(what, INVALID, Call::Snapshot(request(name, volume))));
    }
    for (key, value) in [
        ("cowsize", "1Gi"),
        ("cowSize", ""),
        ("cowSize", "0%"),
        ("cowSize", "101%"),
        ("cowSize", "-1"),
        ("cowSize", "0"),
        ("method", ""),
        ("method", "Copy"),
        ("method", "full"),
    ] {
        let parameters = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let request = csi::CreateSnapshotRequest { parameters, ..request("snap-bad", volume) };
        cases.push(Case::new(format!("create snapshot: {key}: {value:?}"), INVALID, Call::Snapshot(request)));
    }
    for text in texts() {
        let invalid = text.is_empty() || text.len() > 128 || text.chars().any(char::is_control);
        let mut push = |method: &str, codes, call| {
            cases.push(Case::new(format!("{method}: identifier {}", shown(&text)), codes, call));
        };
        let unknown = if invalid { INVALID } else { ABSENT };
        push("create snapshot", unknown, Call::Snapshot(request("snap-bad", &text)));
        push(
            "create from a snapshot",
            unknown,
            Call::Create(Ask::block("pvc-bad").filled_from_snapshot(&text).request()),
        );
        // Quarry never took a snapshot with an invalid identifier.
        let delete = csi::DeleteSnapshotRequest { snapshot_id: text.clone(), ..Default::default() };
        push("delete snapshot", if invalid { INVALID } else { FINE }, Call::DeleteSnapshot(delete));
        if !text.is_empty() {
            let list = csi::ListSnapshotsRequest { max_entries: 1, starting_token: text.clone(), ..Default::default() };
            push("list snapshots from", ABORTED, Call::ListSnapshots(list));
        }
    }
    let list = csi::ListSnapshotsRequest { max_entries: -1, ..Default::default() };
    cases.push(Case::new("list snapshots: -1 entries", INVALID, Call::ListSnapshots(list)));
    cases
}
