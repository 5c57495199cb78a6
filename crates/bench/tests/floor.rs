//! The bare commands beside a driver, with programs that only note what they are asked for. The programs are
//! found on the search path of this process, so this file has one test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use quarry_bench::{Kind, LvmFloor, Phase, Plan, Results, Step, Stop, What, ratios, run};
use quarry_proto::csi::v1::VolumeCapability;
use quarry_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, access_mode::Mode};
use support::{Double, Served};

/// One file for each logical volume: its UUID and its tag. As lvm does, `lvremove` removes only what its
/// conditions select, and calls it a success if that is nothing.
const LVM: &str = r#"#!/bin/sh
folder=$(dirname "$0")
echo "lvm $*" >> "$folder/log"
command=$1
shift
while [ $# -gt 0 ]; do
    case $1 in
    --name) name=$2; shift ;;
    --addtag) tag=$2; shift ;;
    --select) select=$2; shift ;;
    *) last=$1 ;;
    esac
    shift
done
case $command in
lvs)
    while [ -e "$folder/hangs" ]; do sleep 0.1; done
    for file in "$folder"/state/*; do
        read -r uuid tag < "$file"
        [ "$select" = "lv_tags=\"$tag\"" ] && echo "  $uuid $(basename "$file")"
    done
    exit 0
    ;;
lvcreate)
    case $name in
    *-0001) [ -e "$folder/taken" ] && echo 'precio-aaaa-bbbb-cccc-dddd-eeee-ffffff precious' > "$folder/state/$name" ;;
    esac
    [ -e "$folder/state/$name" ] && exit 5
    printf '%06d-aaaa-bbbb-cccc-dddd-eeee-ffffff %s\n' $$ "$tag" > "$folder/state/$name"
    ;;
lvremove)
    read -r uuid tag < "$folder/state/${last#*/}" || exit 5
    case $select in
    "lv_uuid=\"$uuid\" && lv_tags=\"$tag\" && "*) rm "$folder/state/${last#*/}" ;;
    esac
    ;;
esac
exit 0
"#;
const OTHER: &str = "#!/bin/sh\necho \"$(basename \"$0\") $*\" >> \"$(dirname \"$0\")/log\"\n";

/// Logical volumes that this run did not create: one has a name like its own, one has the tag of another run.
const FOREIGN: [(&str, &str); 2] = [("bench-other-floor-1-1-0000", "precious"), ("data", "quarry-bench-other")];

fn install(folder: &Path) {
    std::fs::create_dir(folder.join("state")).unwrap();
    for (name, tag) in FOREIGN {
        let line = format!("precio-aaaa-bbbb-cccc-dddd-eeee-{:0>6} {tag}\n", name.len());
        std::fs::write(folder.join("state").join(name), line).unwrap();
    }
    for program in ["lvm", "mount", "umount", "dd", "blockdev"] {
        let path = folder.join(program);
        std::fs::write(&path, if program == "lvm" { LVM } else { OTHER }).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn log(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("log")).unwrap();
    std::fs::remove_file(folder.join("log")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn plan(served: &Served) -> Plan {
    Plan {
        controller: served.endpoint(),
        node: served.endpoint(),
        volumes: 3,
        concurrency: vec![1, 3],
        rounds: 2,
        warm_up: false,
        background: 0,
        without: [Phase::Snapshot].into(),
        size: 1 << 30,
        expand_to: 2 << 30,
        capability: VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            access_type: Some(AccessType::Block(BlockVolume {})),
        },
        parameters: BTreeMap::new(),
        snapshot_parameters: BTreeMap::new(),
        secrets: BTreeMap::new(),
        segments: BTreeMap::new(),
        work_dir: served.work_dir(),
        timeout: Duration::from_secs(60),
        patience: Duration::from_secs(60),
        retry_interval: Duration::from_millis(1),
        settle: Duration::ZERO,
        floor: Some(LvmFloor { volume_group: "vg0".to_owned(), ..LvmFloor::default() }),
    }
}

fn count(results: &Results, kind: Kind, phase: Phase) -> usize {
    let series = results.series.iter().filter(|series| series.kind == kind && series.what == What::Phase(phase));
    series.map(|series| series.samples.len()).sum()
}

/// Only the logical volumes of others are there, and no directory.
fn assert_clean(folder: &Path, served: &Served, results: &Results) {
    let mut names: Vec<String> = std::fs::read_dir(folder.join("state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, FOREIGN.map(|(name, _)| name));
    assert_eq!(results.left_behind, [""; 0]);
    assert!(served.leftovers().is_empty());
}

#[test]
#[allow(unsafe_code)]
fn bare_commands_are_measured_beside_the_driver() {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path());
    let before = std::env::var("PATH").unwrap();
    // SAFETY: no other thread reads the environment yet: this is the only test, and it has not started a
    // runtime.
    unsafe { std::env::set_var("PATH", format!("{}:{before}", folder.path().display())) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        rounds_alternate_and_only_own_volumes_are_removed(folder.path()).await;
        what_is_not_ours_is_not_written_to(folder.path()).await;
        both_systems_warm_up(folder.path()).await;
        a_name_that_somebody_else_took_first_is_left_alone(folder.path()).await;
        a_logical_volume_that_was_replaced_is_left_alone(folder.path()).await;
        a_report_that_hangs_is_abandoned(folder.path()).await;
    });
}

async fn rounds_alternate_and_only_own_volumes_are_removed(folder: &Path) {
    let double = Double::default();
    let served = double.serve(true, true);
    let order = Mutex::new(Vec::new());
    let counted = Mutex::new(Vec::new());
    let progress = |Step { text: line, done, all }: Step| {
        counted.lock().unwrap().push((done, all));
        let mut order = order.lock().unwrap();
        let kind = if line.contains("driver") { Kind::Driver } else { Kind::Floor };
        if line.ends_with("create") {
            order.push(kind);
        }
    };
    let results = run(&plan(&served), &Stop::default(), &progress).await.unwrap();
    assert!(results.is_complete(), "{results:?}");
    // Both numbers at once in each round, so that the figures of both are from about the same time.
    let (odd, even) = ([Kind::Driver, Kind::Floor], [Kind::Floor, Kind::Driver]);
    assert_eq!(*order.lock().unwrap(), [odd, odd, even, even].concat());
    // Each step is counted, and the last one is the last of all.
    let counted = counted.lock().unwrap();
    assert_eq!(*counted, (0..counted.len()).map(|done| (done, counted.len())).collect::<Vec<_>>());

    let out: Vec<&str> = results.floor_left_out.iter().map(|out| out.phase.name()).collect();
    assert_eq!(out, ["attach", "stage", "detach"]);
    let distinct: std::collections::BTreeSet<Phase> = results.steps.iter().copied().collect();
    for phase in distinct {
        let expected = if out.contains(&phase.name()) { 0 } else { count(&results, Kind::Driver, phase) };
        assert_eq!(count(&results, Kind::Floor, phase), expected, "{phase}");
    }
    let create = |ratio: &&quarry_bench::Ratio| ratio.what == What::Phase(Phase::Create);
    let ratios = ratios(&results.series);
    let create: Vec<_> = ratios.iter().filter(create).collect();
    assert_eq!(create.iter().map(|ratio| ratio.concurrency).collect::<Vec<_>>(), [1, 3]);
    assert!(create.iter().all(|ratio| ratio.throughput_in_a_row.is_some()));

    let log = log(folder);
    let of = |start: &str| log.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!((of("lvm lvcreate"), of("lvm lvremove"), of("lvm lvextend")), (12, 12, 12));
    assert_eq!((of("mount --bind /dev/vg0/bench-"), of("umount "), of("blockdev ")), (24, 24, 12));
    for line in log.iter().filter(|line| line.starts_with("lvm lvremove")) {
        assert!(line.contains(&format!("lv_tags=\"quarry-bench-{}\"", results.run)), "{line}");
    }
    assert_clean(folder, &served, &results);
}

/// The copy of a snapshot is written to a device, and /dev/vg0 has none: `dd` is not started.
async fn what_is_not_ours_is_not_written_to(folder: &Path) {
    let double = Double::default();
    let served = double.serve(true, true);
    let plan = Plan { without: [].into(), concurrency: vec![1], rounds: 1, ..plan(&served) };
    let results = run(&plan, &Stop::default(), &|_| {}).await.unwrap();
    let restore = results
        .series
        .iter()
        .find(|series| (series.kind, series.what) == (Kind::Floor, What::Phase(Phase::Restore)))
        .unwrap();
    assert_eq!(restore.errors["REFUSED"].count, 3, "{restore:?}");
    let log = log(folder);
    assert!(!log.iter().any(|line| line.starts_with("dd")), "{log:?}");
    assert_eq!(log.iter().filter(|line| line.starts_with("lvm lvremove")).count(), 9);
    assert_clean(folder, &served, &results);
}

/// One volume of each system first, which counts nowhere.
async fn both_systems_warm_up(folder: &Path) {
    let double = Double::default();
    let served = double.serve(true, true);
    let plan = Plan { warm_up: true, concurrency: vec![3], rounds: 1, ..plan(&served) };
    let results = run(&plan, &Stop::default(), &|_| {}).await.unwrap();
    assert!(results.is_complete(), "{results:?}");
    assert_eq!((count(&results, Kind::Driver, Phase::Create), count(&results, Kind::Floor, Phase::Create)), (3, 3));
    assert_eq!(double.state().calls["create_volume"], 4);
    let log = log(folder);
    for command in ["lvcreate", "lvextend", "lvremove"] {
        assert_eq!(log.iter().filter(|line| line.starts_with(&format!("lvm {command}"))).count(), 4, "{command}");
    }
    assert_clean(folder, &served, &results);
}

/// The logical volumes whose names contain this, and their contents.
fn named(folder: &Path, part: &str) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(folder.join("state")).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| (path.clone(), std::fs::read_to_string(path).unwrap());
    entries.filter(|path| path.to_string_lossy().contains(part)).map(of).collect()
}

fn errors(results: &Results, phase: Phase) -> Vec<(&str, u64)> {
    let of = |series: &&quarry_bench::Series| (series.kind, series.what) == (Kind::Floor, What::Phase(phase));
    let errors = results.series.iter().find(of).unwrap().errors.iter();
    errors.map(|(code, errors)| (code.as_str(), errors.count)).collect()
}

/// `lvcreate` fails because of the name, and the clean-up removes only what has the tag of the run.
async fn a_name_that_somebody_else_took_first_is_left_alone(folder: &Path) {
    let double = Double::default();
    let served = double.serve(true, true);
    std::fs::write(folder.join("taken"), "").unwrap();
    let plan = Plan { concurrency: vec![1], rounds: 1, ..plan(&served) };
    let results = run(&plan, &Stop::default(), &|_| {}).await.unwrap();
    std::fs::remove_file(folder.join("taken")).unwrap();
    assert_eq!(errors(&results, Phase::Create), [("COMMAND", 1)]);
    let taken = named(folder, "-floor-1-1-0001");
    assert!(taken.len() == 1 && taken[0].1.contains("precious"), "{taken:?}");
    let log = log(folder);
    assert!(!log.iter().any(|line| line.contains("lvremove") && line.contains("-0001")), "{log:?}");
    std::fs::remove_file(&taken[0].0).unwrap();
    assert_clean(folder, &served, &results);
}

/// Even the name and the tag are the same: the UUID is not.
async fn a_logical_volume_that_was_replaced_is_left_alone(folder: &Path) {
    let double = Double::default();
    let served = double.serve(true, true);
    let replace = |step: Step| {
        if step.text.ends_with("floor: delete") {
            for (path, text) in named(folder, "-floor-1-1-0001") {
                std::fs::write(path, format!("precio-{}", text.split_once('-').unwrap().1)).unwrap();
            }
        }
    };
    let plan = Plan { concurrency: vec![1], rounds: 1, ..plan(&served) };
    let results = run(&plan, &Stop::default(), &replace).await.unwrap();
    let [(path, text)] = named(folder, &results.run).try_into().unwrap();
    assert!(path.to_string_lossy().ends_with("-0001") && text.starts_with("precio"), "{path:?}: {text}");
    assert_eq!(errors(&results, Phase::Delete), [("CHECK", 1)]);
    let left = results.left_behind.join("\n");
    assert!(left.contains("-0001: REFUSED") && left.contains("did not create it"), "{left}");
    std::fs::remove_file(path).unwrap();
    log(folder);
}

/// The second interruption also ends the wait for a report of lvm.
async fn a_report_that_hangs_is_abandoned(folder: &Path) {
    let double = Double::default();
    let served = double.serve(true, true);
    std::fs::write(folder.join("hangs"), "").unwrap();
    let stop = Stop::default();
    let (both, path) = (stop.clone(), folder.join("log"));
    tokio::spawn(async move {
        while !std::fs::read_to_string(&path).is_ok_and(|log| log.contains("lvm lvs")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        both.stop.cancel();
        both.abandon.cancel();
    });
    let plan = Plan { concurrency: vec![1], rounds: 1, ..plan(&served) };
    let results = tokio::time::timeout(Duration::from_secs(20), run(&plan, &stop, &|_| {})).await;
    std::fs::remove_file(folder.join("hangs")).unwrap();
    let results = results.expect("it waits for the report").unwrap();
    assert!(results.interrupted && results.series.iter().all(|series| series.errors.is_empty()), "{results:?}");
    assert!(results.left_behind.iter().any(|left| left.contains("-floor-1-1-0001: INTERRUPTED")), "{results:?}");
    for (path, _) in named(folder, &results.run) {
        std::fs::remove_file(path).unwrap();
    }
    log(folder);
}
