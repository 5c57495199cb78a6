//! The sweeps can fail: with a safeguard of quarry disabled, they find a violation.

use anyhow::{Context as _, Result, bail, ensure};

use super::alone::{Undisturbed, When, orphan, release, slow_node};
use super::{Kill, KillResult, Life, Plan, Step};
use crate::csi::{self, Ask};
use crate::node::{FAULTS, Node};
use crate::scenario::{Context, Passed};

/// One kill, in the first stage.
struct Once(Option<u64>);

impl Plan for Once {
    fn kill(&mut self, step: Step, repeated: bool) -> Option<Kill> {
        (step == Step::Stage && !repeated).then(|| self.0.take().map(Kill::Point)).flatten()
    }

    fn record(&mut self, _step: Step, _repeated: bool, _result: &KillResult) {}
}

/// The first stage's points when nothing befalls it.
struct Points(Vec<String>);

impl Plan for Points {
    fn kill(&mut self, _step: Step, _repeated: bool) -> Option<Kill> {
        None
    }

    fn record(&mut self, _step: Step, _repeated: bool, _result: &KillResult) {}

    fn passed(&mut self, step: Step, points: Vec<String>) {
        if step == Step::Stage {
            self.0 = points;
        }
    }
}

pub async fn run(context: Context) -> Passed {
    let mut node = slow_node("kill-broken").await?;
    adopt(&mut node).await.context("without the adoption of an interrupted stage")?;
    exclusive(&mut node).await.context("without the exclusive hold on the device")?;
    context.say("both broken variants were caught");
    Ok("2 broken variants, 2 caught".to_owned())
}

/// An interrupted stage leaves a filesystem that is not adopted.
pub async fn adopt(node: &mut Node) -> Result<()> {
    let mut points = Points(Vec::new());
    let ask = Ask::mount("pvc-adopt", "ext4");
    Life::new(node, &mut points, ask.clone()).whole().await?;
    let made = points.0.iter().position(|point| point == "exec:mkfs.ext4:after").context("mkfs was not run")?;
    let after_mkfs = made as u64 + 1;

    // As it is, quarry passes.
    Life::new(node, &mut Once(Some(after_mkfs)), ask.clone()).whole().await.context("with the safeguard in place")?;

    disable(node, "adopt", true).await?;
    let mut plan = Once(Some(after_mkfs));
    let mut life = Life::new(node, &mut plan, ask);
    life.step(Step::Create).await?;
    let found = life.step(Step::Stage).await;
    expect_violation(found, "which Quarry did not make")?;
    clean(node, "adopt").await
}

/// The retry writes while the mkfs of its predecessor still runs.
async fn exclusive(node: &mut Node) -> Result<()> {
    let ask = Ask::mount("pvc-exclusive", "ext4");
    let mut plan = Undisturbed;
    // As it is, quarry passes.
    let mut life = Life::new(node, &mut plan, ask.clone());
    life.step_without_kill(Step::Create).await?;
    orphan(&mut life, Step::Stage, "mkfs.ext4", When::Before).await.context("with the safeguard in place")?;
    life.step_without_kill(Step::Unstage).await?;
    life.step_without_kill(Step::Delete).await?;

    disable(node, "exclusive", true).await?;
    let mut life = Life::new(node, &mut plan, ask);
    life.step_without_kill(Step::Create).await?;
    let found = orphan(&mut life, Step::Stage, "mkfs.ext4", When::Before).await;
    expect_violation(found.map(drop), "two writers")?;
    // The orphan ends before its volume is removed.
    release(life.node).await?;
    csi::retry(|| life.node.csi.unstage(life.made.as_ref().expect("made"))).await?;
    clean(node, "exclusive").await
}

/// Fails unless this failed, for this reason.
pub fn expect_violation(found: Result<()>, words: &str) -> Result<()> {
    match found {
        Ok(()) => bail!("no violation was found: the sweep is blind"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains(words), "not the expected failure ({words}): {text}");
            Ok(())
        }
    }
}

/// Takes a safeguard out of quarry, or puts it back.
pub async fn disable(node: &Node, safeguard: &str, off: bool) -> Result<()> {
    let file = format!("{FAULTS}/disable-{safeguard}");
    node.vm.sh(if off { format!("touch {file}") } else { format!("rm -f {file}") }).await.map(drop)
}

/// Puts the safeguard back, and takes away what the broken variant left.
async fn clean(node: &Node, safeguard: &str) -> Result<()> {
    disable(node, safeguard, false).await?;
    for volume in csi::retry(|| node.csi.list()).await? {
        csi::retry(|| node.csi.delete(&volume.volume_id)).await?;
    }
    node.expect_empty().await
}
