//! Bad requests to the Node service.

use std::collections::BTreeMap;

use quarry_proto::csi::v1 as csi;
use tonic::Code;

use super::controller::{bad_capabilities, bad_mount_options, wrong_identifiers};
use super::{Base, Call, Case, shown, texts};
use crate::csi::{Ask, Made};

const INVALID: &[Code] = &[Code::InvalidArgument];
const NOT_HERE: &[Code] = &[Code::Unavailable];
const ABSENT: &[Code] = &[Code::NotFound];
const REFUSED: &[Code] = &[Code::FailedPrecondition];
/// Something else is there, or it is used in another way.
const WRONG_STATE: &[Code] = &[Code::FailedPrecondition, Code::AlreadyExists, Code::InvalidArgument];

pub fn cases(base: &Base) -> Vec<Case> {
    let mut cases = Vec::new();
    identifiers(base, &mut cases);
    paths(base, &mut cases);
    capabilities(base, &mut cases);
    contexts(base, &mut cases);
    cases
}

fn stage(made: &Made) -> csi::NodeStageVolumeRequest {
    csi::NodeStageVolumeRequest {
        volume_id: made.id.clone(),
        staging_target_path: made.staging(),
        volume_capability: Some(made.ask.capability()),
        volume_context: made.context.clone(),
        ..Default::default()
    }
}

fn publish(made: &Made) -> csi::NodePublishVolumeRequest {
    csi::NodePublishVolumeRequest {
        volume_id: made.id.clone(),
        staging_target_path: made.staging(),
        target_path: made.target(),
        volume_capability: Some(made.ask.capability()),
        ..Default::default()
    }
}

fn unstage(made: &Made) -> csi::NodeUnstageVolumeRequest {
    csi::NodeUnstageVolumeRequest { volume_id: made.id.clone(), staging_target_path: made.staging() }
}

fn unpublish(made: &Made) -> csi::NodeUnpublishVolumeRequest {
    csi::NodeUnpublishVolumeRequest { volume_id: made.id.clone(), target_path: made.target() }
}

fn stats(made: &Made) -> csi::NodeGetVolumeStatsRequest {
    csi::NodeGetVolumeStatsRequest {
        volume_id: made.id.clone(),
        volume_path: made.target(),
        staging_target_path: made.staging(),
    }
}

fn expand(made: &Made) -> csi::NodeExpandVolumeRequest {
    csi::NodeExpandVolumeRequest {
        volume_id: made.id.clone(),
        volume_path: made.target(),
        staging_target_path: made.staging(),
        ..Default::default()
    }
}

fn identifiers(base: &Base, cases: &mut Vec<Case>) {
    let made = &base.mount;
    let mut all = |id: &str, codes: &'static [Code], mounted: &'static [Code], ends: &'static [Code]| {
        let mut push = |method: &str, codes, call| {
            cases.push(Case::new(format!("{method}: identifier {}", shown(id)), codes, call));
        };
        let volume_id = || id.to_owned();
        push("stage", codes, Call::Stage(csi::NodeStageVolumeRequest { volume_id: volume_id(), ..stage(made) }));
        push(
            "publish",
            mounted,
            Call::Publish(csi::NodePublishVolumeRequest { volume_id: volume_id(), ..publish(made) }),
        );
        push("stats", mounted, Call::Stats(csi::NodeGetVolumeStatsRequest { volume_id: volume_id(), ..stats(made) }));
        // Unlike the statistics, growing needs its pool.
        push("expand", codes, Call::Expand(csi::NodeExpandVolumeRequest { volume_id: volume_id(), ..expand(made) }));
        // Unpublishing something that does not exist succeeds; each with its own unused path.
        let nowhere = || "/var/lib/kubelet/pods/none/mount".to_owned();
        let request = csi::NodeUnstageVolumeRequest { volume_id: volume_id(), staging_target_path: nowhere() };
        push("unstage", ends, Call::Unstage(request));
        let request = csi::NodeUnpublishVolumeRequest { volume_id: volume_id(), target_path: nowhere() };
        push("unpublish", ends, Call::Unpublish(request));
    };
    for text in texts() {
        let invalid = text.is_empty() || text.len() > 128 || text.chars().any(char::is_control);
        if invalid { all(&text, INVALID, INVALID, INVALID) } else { all(&text, ABSENT, ABSENT, &[Code::Ok]) }
    }
    let mut parts = made.id.split(':');
    let (version, storage, name) = (parts.next(), parts.next(), parts.nth(1));
    for (id, elsewhere) in wrong_identifiers(base) {
        let codes = if elsewhere { NOT_HERE } else { ABSENT };
        // Mounts are identified by storage and name, whatever node the identifier contains.
        let mut parts = id.split(':');
        let is_mounted = (parts.next(), parts.next(), parts.nth(1)) == (version, storage, name);
        let mounted = if is_mounted { &[Code::Ok] } else { codes };
        all(&id, codes, mounted, &[Code::Ok]);
    }
}

fn paths(base: &Base, cases: &mut Vec<Case>) {
    let made = &base.mount;
    let mut push = |method: &str, path: &str, codes, call| {
        cases.push(Case::new(format!("{method}: path {}", shown(path)), codes, call));
    };
    let absolute = ["/", "/..", "/var/lib/kubelet/../../../etc", "/a\0b", "/srv/link"].map(str::to_owned);
    let long_name = format!("/var/lib/kubelet/{}", "a".repeat(300));
    let long_path = format!("/{}", "a/".repeat(5_000));
    for path in texts().into_iter().chain(absolute).chain([long_name, long_path]) {
        let given = || path.clone();
        push(
            "stage",
            &path,
            INVALID,
            Call::Stage(csi::NodeStageVolumeRequest { staging_target_path: given(), ..stage(&base.fresh) }),
        );
        push(
            "unstage",
            &path,
            INVALID,
            Call::Unstage(csi::NodeUnstageVolumeRequest { staging_target_path: given(), ..unstage(made) }),
        );
        push(
            "publish",
            &path,
            INVALID,
            Call::Publish(csi::NodePublishVolumeRequest { target_path: given(), ..publish(made) }),
        );
        // CSI wants FAILED_PRECONDITION where the staging path is missing.
        push(
            "publish from",
            &path,
            WRONG_STATE,
            Call::Publish(csi::NodePublishVolumeRequest { staging_target_path: given(), ..publish(made) }),
        );
        push(
            "unpublish",
            &path,
            INVALID,
            Call::Unpublish(csi::NodeUnpublishVolumeRequest { target_path: given(), ..unpublish(made) }),
        );
        // A path at which no volume can be is one at which this volume is not.
        let codes: &'static [Code] = if path.is_empty() { INVALID } else { ABSENT };
        push(
            "stats",
            &path,
            codes,
            Call::Stats(csi::NodeGetVolumeStatsRequest { volume_path: given(), ..stats(made) }),
        );
        push(
            "expand",
            &path,
            codes,
            Call::Expand(csi::NodeExpandVolumeRequest { volume_path: given(), ..expand(made) }),
        );
    }
    // Paths where something else exists: it is left alone.
    for path in ["/srv/full", "/srv/other", "/etc/passwd", "/dev/null", "/srv/full/file"] {
        let given = || path.to_owned();
        push(
            "publish",
            path,
            WRONG_STATE,
            Call::Publish(csi::NodePublishVolumeRequest { target_path: given(), ..publish(&base.block) }),
        );
        push(
            "publish from",
            path,
            WRONG_STATE,
            Call::Publish(csi::NodePublishVolumeRequest { staging_target_path: given(), ..publish(made) }),
        );
        push(
            "unpublish",
            path,
            REFUSED,
            Call::Unpublish(csi::NodeUnpublishVolumeRequest { target_path: given(), ..unpublish(made) }),
        );
        push(
            "stats",
            path,
            ABSENT,
            Call::Stats(csi::NodeGetVolumeStatsRequest { volume_path: given(), ..stats(made) }),
        );
        push(
            "expand",
            path,
            ABSENT,
            Call::Expand(csi::NodeExpandVolumeRequest { volume_path: given(), ..expand(made) }),
        );
    }
    for path in ["/srv/other", "/etc/passwd", "/dev/null", "/nonexistent/deep/folder"] {
        let given = || path.to_owned();
        push(
            "stage",
            path,
            WRONG_STATE,
            Call::Stage(csi::NodeStageVolumeRequest { staging_target_path: given(), ..stage(made) }),
        );
    }
    push(
        "publish",
        "/nonexistent/deep/pod",
        WRONG_STATE,
        Call::Publish(csi::NodePublishVolumeRequest {
            target_path: "/nonexistent/deep/pod".to_owned(),
            ..publish(made)
        }),
    );
    push(
        "unstage",
        "/srv/other",
        REFUSED,
        Call::Unstage(csi::NodeUnstageVolumeRequest { staging_target_path: "/srv/other".to_owned(), ..unstage(made) }),
    );
    push("publish unstaged", "its own", REFUSED, Call::Publish(publish(&base.fresh)));
}

fn capabilities(base: &Base, cases: &mut Vec<Case>) {
    let mut both = |what: &str, codes, made: &Made, capability: Option<csi::VolumeCapability>| {
        let request = csi::NodeStageVolumeRequest { volume_capability: capability.clone(), ..stage(made) };
        cases.push(Case::new(format!("stage: {what}"), codes, Call::Stage(request)));
        // A volume that is not staged cannot be published, whatever else is wrong.
        let request = csi::NodePublishVolumeRequest { volume_capability: capability, ..publish(made) };
        cases.push(Case::new(format!("publish: {what}"), codes, Call::Publish(request)));
    };
    both("no capability", INVALID, &base.fresh, None);
    for (what, capability) in bad_capabilities() {
        both(&what, INVALID, &base.fresh, Some(capability));
    }
    both("block of a mount volume", REFUSED, &base.fresh, Some(base.block.ask.capability()));
    both("mount of a block volume", REFUSED, &base.block, Some(base.mount.ask.capability()));
    both("another filesystem", REFUSED, &base.fresh, Some(Ask::mount("x", "xfs").capability()));
    for (_, option) in bad_mount_options().into_iter().filter(|(filesystem, _)| *filesystem == "ext4") {
        let mut ask = Ask::mount("x", "ext4");
        ask.mount_flags = vec![option.to_owned()];
        let request = csi::NodeStageVolumeRequest { volume_capability: Some(ask.capability()), ..stage(&base.fresh) };
        cases.push(Case::new(format!("stage: mount option {}", shown(option)), INVALID, Call::Stage(request)));
    }
}

/// Options for mkfs that are not those which CreateVolume checked.
fn contexts(base: &Base, cases: &mut Vec<Case>) {
    for options in ["-m 3", "-F", "-E offset=4096", "/dev/vda", "-d /etc", "a\0b"] {
        let context = BTreeMap::from([("mkfsOptions".to_owned(), options.to_owned())]);
        let request = csi::NodeStageVolumeRequest { volume_context: context, ..stage(&base.fresh) };
        let what = format!("stage: changed mkfsOptions {}", shown(options));
        cases.push(Case::new(what, &[Code::FailedPrecondition, Code::InvalidArgument], Call::Stage(request)));
    }
}
