//! The command lines, and what they are allowed to touch.

use std::path::PathBuf;

use super::*;

const UUID: &str = "sMaZod-ajly-15yZ-ulc7-5R84-gYMD-tZV585";

fn floor(usage: Use) -> Floor {
    Floor {
        lvm: LvmFloor { volume_group: "vg0".to_owned(), ..LvmFloor::default() },
        tag: "quarry-bench-r".to_owned(),
        size: 1 << 30,
        expand_to: 2 << 30,
        usage,
        mount_options: Vec::new(),
        stages: true,
        publishes: true,
        stop: Stop::default(),
    }
}

fn thin(usage: Use) -> Floor {
    let lvm = LvmFloor { volume_group: "vg0".to_owned(), thin_pool: Some("pool".to_owned()), ..LvmFloor::default() };
    Floor { lvm, ..floor(usage) }
}

/// A volume that exists, with its snapshot and its copy.
fn volume() -> Volume {
    let mut volume = Volume::new(Place { name: "v".to_owned(), directory: PathBuf::from("/w/v") });
    for part in [Part::Volume, Part::Snapshot, Part::Restored] {
        let lv = volume.part(part);
        (lv.asked, lv.uuid) = (true, Some(UUID.parse().unwrap()));
    }
    volume
}

fn commands(floor: &Floor, phase: Phase) -> Vec<String> {
    floor.lines(phase, &volume()).iter().map(Line::text).collect()
}

#[test]
fn a_filesystem_is_made_mounted_and_removed() {
    let floor = floor(Use::Xfs);
    for (phase, expected) in [
        (Phase::Create, vec!["lvm lvcreate --yes --name v --addtag quarry-bench-r --size 1073741824b vg0"]),
        (Phase::Stage, vec!["mkfs.xfs /dev/vg0/v", "mount /dev/vg0/v /w/v/stage"]),
        (Phase::Publish, vec!["mount --bind /w/v/stage /w/v/target"]),
        (Phase::Stats, vec!["df /w/v/target"]),
        (Phase::Expand, vec!["lvm lvextend --size 2147483648b vg0/v", "xfs_growfs /w/v/stage"]),
        (Phase::Unpublish, vec!["umount /w/v/target"]),
        (Phase::Unstage, vec!["umount /w/v/stage", "lvm lvchange --activate n vg0/v"]),
        (Phase::Restage, vec!["lvm lvchange --activate y vg0/v", "mount /dev/vg0/v /w/v/stage"]),
        (Phase::Republish, vec!["mount --bind /w/v/stage /w/v/target"]),
    ] {
        assert_eq!(commands(&floor, phase), expected, "{phase}");
    }
}

#[test]
fn a_raw_volume_has_no_filesystem() {
    let floor = floor(Use::Raw);
    assert!(!floor.has(Phase::Stage));
    for (phase, expected) in [
        (Phase::Publish, vec!["mount --bind /dev/vg0/v /w/v/target"]),
        (Phase::Expand, vec!["lvm lvextend --size 2147483648b vg0/v"]),
        (Phase::Unstage, vec!["lvm lvchange --activate n vg0/v"]),
        (Phase::Restage, vec!["lvm lvchange --activate y vg0/v"]),
    ] {
        assert_eq!(commands(&floor, phase), expected, "{phase}");
    }
}

#[test]
fn without_staging_the_publish_mounts_the_device() {
    let floor = Floor { stages: false, mount_options: vec!["noatime".into(), "discard".into()], ..floor(Use::Ext4) };
    for (phase, expected) in [
        (Phase::Publish, vec!["mkfs.ext4 /dev/vg0/v", "mount --options noatime,discard /dev/vg0/v /w/v/target"]),
        (Phase::Expand, vec!["lvm lvextend --size 2147483648b vg0/v", "resize2fs /dev/vg0/v"]),
        (Phase::Unpublish, vec!["umount /w/v/target", "lvm lvchange --activate n vg0/v"]),
    ] {
        assert_eq!(commands(&floor, phase), expected, "{phase}");
    }
    let unused = Floor { stages: false, publishes: false, ..floor };
    assert_eq!(commands(&unused, Phase::Expand), ["lvm lvextend --size 2147483648b vg0/v"], "nothing is mounted");
}

#[test]
fn a_snapshot_is_taken_and_copied() {
    let thick = floor(Use::Ext4);
    assert_eq!(
        commands(&thick, Phase::Snapshot),
        ["lvm lvcreate --yes --snapshot --extents 100%ORIGIN --name v-snapshot --addtag quarry-bench-r vg0/v"]
    );
    let mut grown = volume();
    grown.expanded = true;
    let lines: Vec<String> = thick.lines(Phase::Restore, &grown).iter().map(Line::text).collect();
    assert_eq!(
        lines,
        [
            "lvm lvcreate --yes --name v-restored --addtag quarry-bench-r --size 2147483648b vg0",
            "dd bs=1M iflag=direct oflag=direct conv=nocreat,fsync if=/dev/vg0/v-snapshot of=/dev/vg0/v-restored",
        ]
    );
    assert_eq!(
        commands(&thin(Use::Ext4), Phase::Create),
        ["lvm lvcreate --yes --name v --addtag quarry-bench-r --virtualsize 1073741824b --thinpool pool vg0"]
    );
    assert_eq!(
        commands(&thin(Use::Ext4), Phase::Restore),
        ["lvm lvcreate --yes --snapshot --setactivationskip n --name v-restored --addtag quarry-bench-r \
          vg0/v-snapshot"]
    );
    assert!(!floor(Use::Btrfs).has(Phase::Snapshot) && floor(Use::Btrfs).has(Phase::Expand));
}

#[test]
fn lvremove_names_the_uuid_and_the_tag() {
    assert_eq!(
        commands(&floor(Use::Ext4), Phase::Delete),
        [format!(
            "lvm lvremove --yes --select lv_uuid=\"{UUID}\" && lv_tags=\"quarry-bench-r\" && \
             lv_role!={{\"thickorigin\" || \"extthinorigin\"}} && \
             lv_layout!={{\"cache\" || \"writecache\" || \"pool\" || \"vdo\"}} vg0/v"
        )]
    );
    let mut unknown = volume();
    unknown.lv.uuid = None;
    let lines = floor(Use::Ext4).lines(Phase::Delete, &unknown);
    assert!(lines[0].text().contains("lv_uuid=\"\""), "matches no logical volume: {}", lines[0].text());
}

/// Every command that writes to a device says so, so that the device is checked before.
#[test]
fn every_write_to_a_device_is_checked() {
    for usage in [Use::Ext4, Use::Xfs, Use::Btrfs, Use::Raw] {
        for stages in [true, false] {
            let floor = Floor { stages, ..floor(usage) };
            let phases = [Phase::Stage, Phase::Publish, Phase::Expand, Phase::Restore, Phase::Restage];
            for line in phases.iter().flat_map(|phase| floor.lines(*phase, &volume())) {
                let writes = ["mkfs", "dd ", "resize2fs"].iter().any(|program| line.text().starts_with(program));
                assert_eq!(line.writes.is_some(), writes, "{}", line.text());
            }
        }
    }
}

#[test]
fn only_the_logical_volume_of_this_run_is_written_to() {
    let (own, other) = (UUID.parse().ok(), "if734j-yInx-YMiY-05s2-Ijaj-QPem-RPYgek".parse().ok());
    assert!(own.is_some() && other.is_some());
    for (created, found, words) in [
        (own, other, "but this run created"),
        (own, None, "not an active logical volume"),
        (None, None, "not an active logical volume"),
        (None, other, "does not know that it created"),
    ] {
        let error = guard::compare("/dev/vg0/v", created, found).unwrap_err();
        assert!(error.contains(words) && error.contains("nothing was written"), "{error}");
    }
    guard::compare("/dev/vg0/v", own, own).unwrap();
}

#[tokio::test]
async fn a_device_that_this_run_did_not_create_is_not_written_to() {
    // mkfs would write to it as to a device: it exists, and is no logical volume.
    let directory = tempfile::tempdir().unwrap();
    let (path, precious) = (directory.path().join("v"), vec![7; 8 << 20]);
    std::fs::write(&path, &precious).unwrap();
    let lvm = LvmFloor { volume_group: format!("..{}", directory.path().display()), ..LvmFloor::default() };
    let floor = Floor { lvm, ..floor(Use::Ext4) };
    assert_eq!(std::fs::read(floor.device(&volume().lv)).unwrap(), precious);
    for uuid in [None, Some(UUID.parse().unwrap())] {
        let mut volume = volume();
        volume.lv.uuid = uuid;
        let failure = floor.perform(Phase::Stage, &mut volume, &mut Retries::new()).await.unwrap_err();
        assert_eq!(failure.code, "REFUSED", "{failure:?}");
        assert!(failure.message.contains("nothing was written"), "{failure:?}");
    }
    assert!(std::fs::read(&path).unwrap() == precious, "it was written to");
}

#[test]
fn the_report_of_tagged_volumes_is_read() {
    let report = format!("  {UUID} bench-r-floor-1-1-0000\n  if734j-yInx-YMiY-05s2-Ijaj-QPem-RPYgek other\n");
    let read = guard::parse(&report).unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!(read["bench-r-floor-1-1-0000"], UUID.parse().unwrap());
    assert!(guard::parse("").unwrap().is_empty());
    assert!(guard::parse("  WARNING: something\n").is_err());
}

#[tokio::test]
async fn a_name_that_lvm_would_take_for_something_else_is_rejected() {
    for name in ["", "-y", "vg0/lv", "/dev/sda", ".."] {
        let error = guard::check_group(name, None).await.unwrap_err().to_string();
        assert!(error.contains("not the name of a volume group"), "{name}: {error}");
    }
}

#[test]
fn the_use_decides_about_the_commands() {
    use quarry_proto::csi::v1::volume_capability::{BlockVolume, MountVolume};
    let of = |access_type| usage(&VolumeCapability { access_type: Some(access_type), ..Default::default() });
    let mount = |fs_type: &str| AccessType::Mount(MountVolume { fs_type: fs_type.into(), ..Default::default() });
    assert_eq!(of(mount("")).unwrap().0, Use::Ext4);
    assert_eq!(of(mount("btrfs")).unwrap().0, Use::Btrfs);
    assert_eq!(of(AccessType::Block(BlockVolume {})).unwrap().0, Use::Raw);
    assert!(of(mount("f2fs")).unwrap_err().to_string().contains("ext4, xfs, btrfs"));
}
