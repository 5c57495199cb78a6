//! One volume at a time: which processes each call starts, and where its time goes.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::log::{Interval, Kind, intervals};
use crate::node::{LOG, Node};
use crate::timeline;

/// The filesystems whose volumes are followed.
const FILESYSTEMS: [(&str, &str); 2] = [("ext4", "64Mi"), ("xfs", "320Mi")];
const PATHS: &str = "/var/lib/kubelet/plugins/life";

/// One call of a volume's life.
pub struct Step {
    /// What it is, for people.
    pub name: &'static str,
    pub call: Interval,
    /// The commands that ended while it ran.
    pub commands: Vec<Interval>,
    /// How often Quarry read the volume group while it ran.
    pub readings: Vec<Interval>,
    /// The commands that ended after its answer: it went on in the background.
    pub afterwards: Vec<Interval>,
}

/// The life of one volume.
pub struct Life {
    pub filesystem: &'static str,
    /// How many other volumes were there.
    pub beside: usize,
    pub steps: Vec<Step>,
}

impl Life {
    /// What it is the life of, for headings.
    pub fn title(&self) -> String {
        let Self { filesystem, beside, .. } = self;
        match beside {
            0 => format!("A volume with {filesystem}"),
            _ => format!("A volume with {filesystem} beside {beside} others"),
        }
    }

    /// The file with its picture.
    pub fn plot(&self) -> String {
        let Self { filesystem, beside, .. } = self;
        match beside {
            0 => format!("life-{filesystem}.svg"),
            _ => format!("life-{filesystem}-beside-others.svg"),
        }
    }

    /// Draws it.
    pub fn draw(&self, into: &Path) -> Result<()> {
        let path = into.join("plots").join(self.plot());
        std::fs::write(&path, timeline::svg(&self.title(), &self.steps))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The calls after CreateVolume: their names here, Quarry's name of the method, and the command that makes each.
fn calls(filesystem: &str, id: &str) -> Vec<(&'static str, &'static str, String)> {
    let usage = format!("--fs {filesystem} --staging-path {PATHS}/stage");
    let target = format!("--target-path {PATHS}/pod/mount");
    let stage = format!("quarry csi stage {usage} {id}");
    let unstage = format!("quarry csi unstage --staging-path {PATHS}/stage {id}");
    vec![
        ("first stage", "NodeStageVolume", stage.clone()),
        ("publish", "NodePublishVolume", format!("quarry csi publish {usage} {target} {id}")),
        ("stats", "NodeGetVolumeStats", format!("quarry csi stats --path {PATHS}/pod/mount {id}")),
        ("list", "ListVolumes", "quarry csi list".to_owned()),
        ("capacity", "GetCapacity", "quarry csi capacity --param pool=fast".to_owned()),
        ("unpublish", "NodeUnpublishVolume", format!("quarry csi unpublish {target} {id}")),
        ("unstage", "NodeUnstageVolume", unstage.clone()),
        ("stage of an inactive volume", "NodeStageVolume", stage),
        ("unstage again", "NodeUnstageVolume", unstage),
        ("delete", "DeleteVolume", format!("quarry csi delete {id}")),
    ]
}

/// Follows one volume of each filesystem. Quarry's log must have the level `debug`.
pub async fn lives(node: &Node) -> Result<Vec<Life>> {
    let mut lives = Vec::new();
    for (filesystem, size) in FILESYSTEMS {
        lives.push(life(node, filesystem, size, 0).await?);
    }
    Ok(lives)
}

/// Follows one volume beside this number of others. Quarry's log must have the level `debug`.
pub async fn life_beside(node: &Node, others: usize) -> Result<Life> {
    let [(filesystem, size), ..] = FILESYSTEMS;
    life(node, filesystem, size, others).await
}

async fn life(node: &Node, filesystem: &'static str, size: &str, beside: usize) -> Result<Life> {
    // A program that runs for the first time is read from the disk: the second life counts.
    one(node, filesystem, size).await?;
    let steps = one(node, filesystem, size).await.with_context(|| format!("the life of a volume with {filesystem}"))?;
    Ok(Life { filesystem, beside, steps })
}

async fn one(node: &Node, filesystem: &str, size: &str) -> Result<Vec<Step>> {
    node.sh(format!("mkdir -p {PATHS}/stage {PATHS}/pod")).await?;
    node.settle().await?;
    let create =
        format!("quarry csi -o json create life-{filesystem} --size {size} --param pool=fast --fs {filesystem}");
    let (step, answer) = step(node, "create", "CreateVolume", &create).await?;
    let volume: Value = serde_json::from_str(&answer).with_context(|| format!("the volume is {answer:?}"))?;
    let id = volume["volume_id"].as_str().with_context(|| format!("the volume is {answer:?}"))?;
    let mut steps = vec![step];
    for (name, method, command) in calls(filesystem, id) {
        steps.push(self::step(node, name, method, &command).await?.0);
    }
    ensure!(steps.iter().any(|step| !step.commands.is_empty()), "the log shows no command: is its level `debug`?");
    Ok(steps)
}

/// Makes one call, and returns it with what the command printed.
async fn step(node: &Node, name: &'static str, method: &str, command: &str) -> Result<(Step, String)> {
    let answer = node.sh(format!(": >{LOG}; {command}")).await.with_context(|| name.to_owned())?;
    // What the call left to the background is over then, and the next step begins with nothing else on the node.
    node.settle().await?;
    let found = intervals(&node.sh(format!("cat {LOG}")).await?);
    let step = assign(name, method, found);
    Ok((step.with_context(|| format!("the log does not say how long {method} took"))?, answer))
}

/// Divides the commands of a log into those of a call, and those after its answer.
fn assign(name: &'static str, method: &str, found: Vec<Interval>) -> Option<Step> {
    let call = found.iter().find(|one| one.kind == Kind::Call && one.what == method)?.clone();
    // The two clocks are read one after the other.
    let since = |one: &&Interval| one.began >= call.began - 0.01;
    let of = |kind| found.iter().filter(since).filter(move |one| one.kind == kind).cloned();
    let (commands, afterwards) = of(Kind::Command).partition(|one| one.ended <= call.ended);
    let readings = of(Kind::Reading).filter(|one| one.ended <= call.ended).collect();
    Some(Step { name, call, commands, readings, afterwards })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_after_the_answer_is_not_part_of_the_call() {
        let interval = |what: &str, kind, began, ended| Interval { what: what.to_owned(), kind, began, ended };
        let found = vec![
            interval("lvm vgs", Kind::Command, 1.0, 1.2),
            interval("umount", Kind::Command, 2.1, 2.3),
            interval("fast", Kind::Reading, 2.3, 2.31),
            interval("NodeUnstageVolume", Kind::Call, 2.0, 2.4),
            interval("lvm lvchange", Kind::Command, 2.35, 2.9),
            interval("fast", Kind::Reading, 2.45, 2.46),
            interval("GetCapacity", Kind::Call, 2.5, 2.6),
        ];
        let step = assign("unstage", "NodeUnstageVolume", found).unwrap();
        let names = |commands: &[Interval]| commands.iter().map(|one| one.what.clone()).collect::<Vec<_>>();
        assert_eq!(names(&step.commands), ["umount"]);
        assert_eq!(names(&step.afterwards), ["lvm lvchange"]);
        assert_eq!(step.readings, [interval("fast", Kind::Reading, 2.3, 2.31)]);
        assert!(assign("stage", "NodeStageVolume", Vec::new()).is_none());
    }
}
