//! The phases of a round, their order, and which of them a driver can do.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// One kind of call on one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// CreateVolume.
    Create,
    /// ControllerPublishVolume: the volume is attached to the node.
    Attach,
    /// NodeStageVolume of a new volume: the driver makes the filesystem.
    Stage,
    /// NodePublishVolume.
    Publish,
    /// NodeGetVolumeStats of the published volume.
    Stats,
    /// ControllerExpandVolume, and NodeExpandVolume if the driver asks for it.
    Expand,
    /// CreateSnapshot, until the snapshot is ready to use.
    Snapshot,
    /// CreateVolume from the snapshot.
    Restore,
    /// DeleteVolume of the volume that was restored.
    DeleteRestored,
    /// DeleteSnapshot.
    DeleteSnapshot,
    /// NodeUnpublishVolume.
    Unpublish,
    /// NodeUnstageVolume.
    Unstage,
    /// NodeStageVolume of a volume that has a filesystem.
    Restage,
    /// NodePublishVolume of a volume that was published before.
    Republish,
    /// ControllerUnpublishVolume.
    Detach,
    /// DeleteVolume.
    Delete,
}

use Phase::{
    Attach, Create, Delete, DeleteRestored, DeleteSnapshot, Detach, Expand, Publish, Republish, Restage, Restore,
    Snapshot, Stage, Stats, Unpublish, Unstage,
};

/// Every phase of a round, in order. Unpublish and unstage come twice: after the first publish, and after the
/// second.
const SEQUENCE: [Phase; 18] = [
    Create,
    Attach,
    Stage,
    Publish,
    Stats,
    Expand,
    Snapshot,
    Restore,
    DeleteRestored,
    DeleteSnapshot,
    Unpublish,
    Unstage,
    Restage,
    Republish,
    Unpublish,
    Unstage,
    Detach,
    Delete,
];

/// The phases that `--without` accepts. The others come with them, or are always there.
pub const OPTIONAL: [Phase; 7] = [Stage, Publish, Stats, Expand, Snapshot, Restore, Restage];

impl Phase {
    /// The name in reports and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Create => "create",
            Attach => "attach",
            Stage => "stage",
            Publish => "publish",
            Stats => "stats",
            Expand => "expand",
            Snapshot => "snapshot",
            Restore => "restore",
            DeleteRestored => "delete-restored",
            DeleteSnapshot => "delete-snapshot",
            Unpublish => "unpublish",
            Unstage => "unstage",
            Restage => "restage",
            Republish => "republish",
            Detach => "detach",
            Delete => "delete",
        }
    }

    /// The phases without which this one cannot be.
    fn needs(self) -> &'static [Phase] {
        match self {
            Create => &[],
            Stats | Unpublish => &[Publish],
            Unstage => &[Stage],
            Restore | DeleteSnapshot => &[Snapshot],
            DeleteRestored => &[Restore],
            Restage => &[Stage, Publish],
            Republish => &[Publish],
            Detach => &[Attach],
            Attach | Stage | Publish | Expand | Snapshot | Delete => &[Create],
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        OPTIONAL.into_iter().find(|phase| phase.name() == text).ok_or_else(|| {
            let names: Vec<&str> = OPTIONAL.iter().map(|phase| phase.name()).collect();
            format!("{text:?} is not a phase that can be left out; these can: {}", names.join(", "))
        })
    }
}

/// What a driver says about itself, as far as it decides about phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "CSI's capabilities are independent of each other")]
pub struct Abilities {
    /// Controller: CREATE_DELETE_VOLUME.
    pub create: bool,
    /// Controller: PUBLISH_UNPUBLISH_VOLUME.
    pub attach: bool,
    /// Controller: EXPAND_VOLUME.
    pub expand: bool,
    /// Plugin: only VOLUME_EXPANSION_OFFLINE.
    pub expand_offline_only: bool,
    /// Controller: CREATE_DELETE_SNAPSHOT.
    pub snapshot: bool,
    /// The socket serves CSI Node.
    pub node: bool,
    /// Node: STAGE_UNSTAGE_VOLUME.
    pub stage: bool,
    /// Node: GET_VOLUME_STATS.
    pub stats: bool,
    /// Node: EXPAND_VOLUME.
    pub node_expand: bool,
    /// Plugin: VOLUME_ACCESSIBILITY_CONSTRAINTS.
    pub topology: bool,
}

impl Abilities {
    /// Why the driver cannot do a phase.
    fn lacks(&self, phase: Phase) -> Option<&'static str> {
        let of_node = matches!(phase, Attach | Stage | Publish | Stats);
        match phase {
            _ if of_node && !self.node => Some("no socket serves CSI Node"),
            Attach if !self.attach => Some("the controller does not have PUBLISH_UNPUBLISH_VOLUME"),
            Stage if !self.stage => Some("the node does not have STAGE_UNSTAGE_VOLUME"),
            Stats if !self.stats => Some("the node does not have GET_VOLUME_STATS"),
            Expand if !self.expand => Some("the controller does not have EXPAND_VOLUME"),
            Expand if self.expand_offline_only && self.node => {
                Some("the driver only expands volumes that are not published (VOLUME_EXPANSION OFFLINE)")
            }
            Snapshot if !self.snapshot => Some("the controller does not have CREATE_DELETE_SNAPSHOT"),
            _ => None,
        }
    }
}

/// A phase that is not measured, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The phase.
    pub phase: Phase,
    /// A sentence without a full stop.
    pub reason: String,
}

/// The phases of every round, in order, and those that are left out: because the driver does not have them,
/// because of `without`, or because they need one that is left out.
#[must_use]
pub fn steps(abilities: &Abilities, without: &BTreeSet<Phase>) -> (Vec<Phase>, Vec<LeftOut>) {
    let mut left: Vec<LeftOut> = Vec::new();
    let mut steps = Vec::new();
    for phase in SEQUENCE {
        if left.iter().any(|out| out.phase == phase) {
            continue;
        }
        match reason(phase, abilities, without, &left) {
            Some(reason) => left.push(LeftOut { phase, reason }),
            None => steps.push(phase),
        }
    }
    (only_needed(steps), left)
}

fn reason(phase: Phase, abilities: &Abilities, without: &BTreeSet<Phase>, left: &[LeftOut]) -> Option<String> {
    if let Some(lacks) = abilities.lacks(phase) {
        return Some(lacks.to_owned());
    }
    if without.contains(&phase) {
        return Some("--without".to_owned());
    }
    // A driver without staging publishes directly. One with it cannot publish what is not staged.
    let stage: &[Phase] = if phase == Publish && abilities.stage { &[Stage] } else { &[] };
    // Restaging is the reason to publish again.
    let again: &[Phase] = if phase == Republish && abilities.stage { &[Restage] } else { &[] };
    let needed = phase.needs().iter().chain(stage).chain(again);
    let missing = needed.into_iter().find(|needed| left.iter().any(|out| out.phase == **needed))?;
    Some(format!("it needs {missing}"))
}

/// Drops the second unpublish and unstage of rounds that publish once.
fn only_needed(steps: Vec<Phase>) -> Vec<Phase> {
    if steps.contains(&Republish) {
        return steps;
    }
    let mut seen = BTreeSet::new();
    steps.into_iter().filter(|phase| seen.insert(*phase)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Abilities = Abilities {
        create: true,
        attach: true,
        expand: true,
        expand_offline_only: false,
        snapshot: true,
        node: true,
        stage: true,
        stats: true,
        node_expand: true,
        topology: true,
    };

    fn names(steps: &[Phase]) -> String {
        steps.iter().map(|phase| phase.name()).collect::<Vec<_>>().join(" ")
    }

    fn resolve(abilities: &Abilities, without: &[Phase]) -> (String, Vec<String>) {
        let (steps, left) = steps(abilities, &without.iter().copied().collect());
        (names(&steps), left.iter().map(|out| format!("{}: {}", out.phase, out.reason)).collect())
    }

    #[test]
    fn a_driver_with_everything_does_everything() {
        assert_eq!(
            resolve(&ALL, &[]),
            (
                "create attach stage publish stats expand snapshot restore delete-restored delete-snapshot unpublish \
                 unstage restage republish unpublish unstage detach delete"
                    .to_owned(),
                Vec::new()
            )
        );
    }

    #[test]
    fn what_a_driver_does_not_have_is_left_out_with_what_needs_it() {
        let few = Abilities { snapshot: false, attach: false, stats: false, expand: false, ..ALL };
        let (steps, left) = resolve(&few, &[]);
        assert_eq!(steps, "create stage publish unpublish unstage restage republish unpublish unstage delete");
        assert_eq!(
            left,
            [
                "attach: the controller does not have PUBLISH_UNPUBLISH_VOLUME",
                "stats: the node does not have GET_VOLUME_STATS",
                "expand: the controller does not have EXPAND_VOLUME",
                "snapshot: the controller does not have CREATE_DELETE_SNAPSHOT",
                "restore: it needs snapshot",
                "delete-restored: it needs restore",
                "delete-snapshot: it needs snapshot",
                "detach: it needs attach",
            ]
        );
    }

    #[test]
    fn a_driver_without_staging_publishes_directly_and_again() {
        let (steps, left) = resolve(&Abilities { stage: false, ..ALL }, &[Stats, Expand, Snapshot]);
        assert_eq!(steps, "create attach publish unpublish republish unpublish detach delete");
        assert!(left.contains(&"restage: it needs stage".to_owned()), "{left:?}");
    }

    #[test]
    fn without_a_node_only_the_controller_is_measured() {
        let (steps, _) = resolve(&Abilities { node: false, stage: false, stats: false, ..ALL }, &[]);
        assert_eq!(steps, "create expand snapshot restore delete-restored delete-snapshot delete");
    }

    #[test]
    fn phases_can_be_left_out_by_name() {
        let (steps, left) = resolve(&ALL, &[Stage, Snapshot]);
        assert_eq!(steps, "create attach expand detach delete");
        assert!(left.contains(&"publish: it needs stage".to_owned()), "{left:?}");
        assert_eq!(
            resolve(&ALL, &[Restage, Expand, Stats, Snapshot]).0,
            "create attach stage publish unpublish unstage detach delete"
        );
        assert_eq!("restore".parse(), Ok(Restore));
        assert!("create".parse::<Phase>().unwrap_err().contains("stage, publish, stats"));
    }

    #[test]
    fn expansion_of_unpublished_volumes_only_is_left_out() {
        let (_, left) = resolve(&Abilities { expand_offline_only: true, ..ALL }, &[]);
        assert_eq!(left, ["expand: the driver only expands volumes that are not published (VOLUME_EXPANSION OFFLINE)"]);
    }
}
