//! One volume at a time: which processes each call starts, and where its time goes.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::log::{Interval, intervals};
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
    /// The commands that ended after its answer: it went on in the background.
    pub afterwards: Vec<Interval>,
}

/// The lives of some volumes.
pub struct Lives {
    /// Each filesystem's name, and the calls.
    pub lives: Vec<(&'static str, Vec<Step>)>,
}

impl Lives {
    /// Draws them.
    pub fn draw(&self, into: &Path) -> Result<()> {
        for (filesystem, steps) in &self.lives {
            let path = into.join("plots").join(timeline(filesystem));
            std::fs::write(&path, timeline::svg(filesystem, steps))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// The file with the picture of a life.
pub fn timeline(filesystem: &str) -> String {
    format!("life-{filesystem}.svg")
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
pub async fn lives(node: &Node) -> Result<Lives> {
    let mut lives = Vec::new();
    for (filesystem, size) in FILESYSTEMS {
        // A program that runs for the first time is read from the disk: the second life counts.
        one(node, filesystem, size).await?;
        let steps =
            one(node, filesystem, size).await.with_context(|| format!("the life of a volume with {filesystem}"))?;
        lives.push((filesystem, steps));
    }
    Ok(Lives { lives })
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
    let call = found.iter().find(|one| one.call && one.what == method)?.clone();
    // The two clocks are read one after the other.
    let since = |one: &Interval| !one.call && one.began >= call.began - 0.01;
    let (commands, afterwards) = found.into_iter().filter(since).partition(|one| one.ended <= call.ended);
    Some(Step { name, call, commands, afterwards })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_after_the_answer_is_not_part_of_the_call() {
        let interval = |what: &str, call, began, ended| Interval { what: what.to_owned(), call, began, ended };
        let found = vec![
            interval("lvm vgs", false, 1.0, 1.2),
            interval("umount", false, 2.1, 2.3),
            interval("NodeUnstageVolume", true, 2.0, 2.4),
            interval("lvm lvchange", false, 2.35, 2.9),
            interval("GetCapacity", true, 2.5, 2.6),
        ];
        let step = assign("unstage", "NodeUnstageVolume", found).unwrap();
        let names = |commands: &[Interval]| commands.iter().map(|one| one.what.clone()).collect::<Vec<_>>();
        assert_eq!(names(&step.commands), ["umount"]);
        assert_eq!(names(&step.afterwards), ["lvm lvchange"]);
        assert!(assign("stage", "NodeStageVolume", Vec::new()).is_none());
    }
}
