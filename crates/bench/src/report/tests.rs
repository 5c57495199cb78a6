//! Both reports of the same results, word for word.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use quarry_proto::csi::v1::VolumeCapability;
use quarry_proto::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};

use super::*;
use crate::{Errors, Identity, Kind, LvmFloor, Phase, Plan, Results, Sample, What};

const MS: Duration = Duration::from_millis(1);

/// Results with everything that a report can show.
pub(crate) fn results() -> Results {
    let one = |kind, concurrency, phase, times: &[u32], wall: u32| Series {
        samples: times.iter().map(|time| Sample { at: MS * 250, took: MS * *time }).collect(),
        wall: MS * wall,
        ..Series::new(kind, concurrency, What::Phase(phase))
    };
    let mut slow = one(Kind::Driver, 2, Phase::Create, &[120, 180], 200);
    slow.retries.insert("ABORTED".to_owned(), 3);
    slow.errors.insert("INTERNAL".to_owned(), Errors { count: 1, first: "a disk\nis gone".to_owned() });
    let out = |phase, reason: &str| LeftOut { phase, reason: reason.to_owned() };
    Results {
        plan: plan(),
        run: "abcdefghij".to_owned(),
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        driver: Identity { name: "local.csi.quarry.dev".to_owned(), version: "0.1.0".to_owned() },
        steps: vec![Phase::Create, Phase::Stage, Phase::Delete],
        left_out: vec![
            out(Phase::Snapshot, "the controller does not have CREATE_DELETE_SNAPSHOT"),
            out(Phase::Restore, "it needs snapshot"),
            out(Phase::DeleteSnapshot, "it needs snapshot"),
        ],
        floor_left_out: vec![out(Phase::Stage, "a new raw volume is active already")],
        series: vec![
            one(Kind::Driver, 1, Phase::Create, &[30, 30, 30], 100),
            one(Kind::Floor, 1, Phase::Create, &[20, 20, 20], 60),
            slow,
            one(Kind::Floor, 2, Phase::Create, &[100, 100], 100),
            one(Kind::Driver, 2, Phase::Stage, &[9], 10),
        ],
        left_behind: vec!["volume bench-x (id-x): UNAVAILABLE: gone".to_owned()],
        interrupted: true,
    }
}

fn plan() -> Plan {
    Plan {
        controller: "unix:///c.sock".to_owned(),
        node: "unix:///n.sock".to_owned(),
        volumes: 3,
        concurrency: vec![1, 2],
        rounds: 1,
        warm_up: true,
        background: 100,
        without: [].into(),
        size: 1 << 30,
        expand_to: 2 << 30,
        capability: VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume {
                fs_type: "xfs".to_owned(),
                mount_flags: vec!["noatime".to_owned()],
                ..Default::default()
            })),
        },
        parameters: [("pool".to_owned(), "fast".to_owned())].into(),
        snapshot_parameters: BTreeMap::new(),
        secrets: [("token".to_owned(), "hunter2".to_owned())].into(),
        segments: BTreeMap::new(),
        work_dir: "/work".into(),
        timeout: Duration::from_secs(120),
        patience: Duration::from_secs(300),
        retry_interval: MS * 100,
        settle: MS * 4000,
        floor: Some(LvmFloor { volume_group: "vg0".to_owned(), thin_pool: None, lvcreate_options: Vec::new() }),
    }
}

const TEXT: &str = "\
local.csi.quarry.dev 0.1.0: 3 volumes of 1Gi per round, 1 round for each concurrency, beside 100 other volumes; the floor: commands on the volume group vg0

AT ONCE  PHASE   SYSTEM  COUNT  P50 ms  P90 ms  P99 ms  MAX ms  PER SECOND  RETRIES  ERRORS
      1  create  driver      3    30.0    30.0    30.0    30.0        30.0        0       0
      1  create  floor       3    20.0    20.0    20.0    20.0        50.0        0       0
      2  create  driver      2     120     180     180     180        10.0        3       1
      2  create  floor       2     100     100     100     100        20.0        0       0
      2  stage   driver      1    9.00    9.00    9.00    9.00         100        0       0

Driver / floor:

AT ONCE  PHASE    P50  PER SECOND  PER SECOND / FLOOR IN A ROW
      1  create  1.50        0.60                         0.60
      2  create  1.20        0.50                         0.20

Left out:
  snapshot: the controller does not have CREATE_DELETE_SNAPSHOT
  restore, delete-snapshot: it needs snapshot

Left out of the floor:
  stage: a new raw volume is active already

Retries:
  2 at once, driver, create: ABORTED 3

Errors:
  2 at once, driver, create: INTERNAL 1; the first: a disk\\nis gone

Left behind:
  volume bench-x (id-x): UNAVAILABLE: gone

Interrupted: the figures are about what was done until then.
";

#[test]
fn the_text_shows_everything() {
    assert_eq!(text(&results()), TEXT);
}

#[test]
fn the_text_of_a_good_run_ends_with_the_figures() {
    let mut good = Results { left_behind: Vec::new(), interrupted: false, ..results() };
    (good.left_out, good.floor_left_out) = (Vec::new(), Vec::new());
    good.series.truncate(1);
    assert!(good.is_complete());
    assert!(text(&good).ends_with("    30.0        30.0        0       0\n"), "{}", text(&good));
}

/// The format is documented: fields may be added, and none may change.
#[test]
fn the_json_is_stable() {
    assert_eq!(json(&results(), true).unwrap(), include_str!("golden.json"));
}

#[test]
fn single_times_are_left_out_unless_asked_for() {
    let read: serde_json::Value = serde_json::from_str(&json(&results(), false).unwrap()).unwrap();
    for row in read["results"].as_array().unwrap() {
        assert!(row.get("samples").is_none() && row.get("latency_ms").is_some(), "{row}");
    }
}
