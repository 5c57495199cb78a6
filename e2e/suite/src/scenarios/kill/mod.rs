//! Kills at any instant, followed by an orchestrator's reaction: the same call again.
//!
//! A [`Life`] takes one volume from creation to deletion. A [`Plan`] may define how quarry dies in each step;
//! then quarry is restarted, the step is repeated, and the promises are checked: exactly the requested
//! volume, or none; every written byte is there; there are no remnants.

pub mod alone;
pub mod broken;
pub mod copy;
pub mod disk;
pub mod expand;
pub mod group;
pub mod sweep;
pub mod thin;
pub mod thin_pool;
pub mod tree;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tonic::Status;

use crate::csi::{self, Ask, Csi, Made};
use crate::node::{FAULTS, GROUP, Node};

/// By when a volume that was unstaged is deactivated.
const DEACTIVATED: Duration = Duration::from_secs(10);
/// How often, after a first look, and at which interval a device must be suspended to count as left.
const LOOKS: usize = 5;
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// The operations on a volume, in the order of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Create,
    /// The first stage: creates the filesystem.
    Stage,
    Publish,
    /// To the size [`expanded`].
    Expand,
    /// After it.
    NodeExpand,
    /// Takes a snapshot of the volume.
    Snapshot,
    /// Takes one with `method: copy`, and waits until it is complete.
    FullCopy,
    /// Creates a second, larger volume from it.
    Restore,
    /// Deletes that volume.
    DeleteCopy,
    /// Creates a second volume from the volume itself.
    Clone,
    DeleteSnapshot,
    Unpublish,
    Unstage,
    /// A stage of a volume that holds data.
    StageAgain,
    Delete,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Stage => "stage",
            Self::Publish => "publish",
            Self::Expand => "expand",
            Self::NodeExpand => "expand on the node",
            Self::Snapshot => "snapshot",
            Self::FullCopy => "full copy",
            Self::Restore => "restore",
            Self::DeleteCopy => "delete the copy",
            Self::Clone => "clone",
            Self::DeleteSnapshot => "delete the snapshot",
            Self::Unpublish => "unpublish",
            Self::Unstage => "unstage",
            Self::StageAgain => "stage again",
            Self::Delete => "delete",
        })
    }
}

/// How quarry is killed in a step.
#[derive(Clone, Debug)]
pub enum Kill {
    /// At this fault point, counted from 1.
    Point(u64),
    /// With all that it started, this long (in seconds) after the log has a line of this name.
    Tree { marker: String, delay: f64 },
}

/// The result of a step with a kill.
pub enum KillResult {
    /// quarry was killed, and serves again. `points` lists the points that it had passed.
    Killed { points: Vec<String> },
    /// It answered before the kill, so nothing was killed. `points` lists all that it passed.
    Missed { points: Vec<String> },
}

/// Decides which kills happen, and receives their results.
pub trait Plan {
    /// The kill for this step. Called again for the repeated call, with `repeated`.
    fn kill(&mut self, step: Step, repeated: bool) -> Option<Kill>;
    /// Records the result.
    fn record(&mut self, step: Step, repeated: bool, result: &KillResult);
    /// Records the points of a step without a kill.
    fn passed(&mut self, _step: Step, _points: Vec<String>) {}
    /// Whether an interrupted creation or expansion is abandoned: its caller deletes what it finds, and starts again.
    fn give_up(&mut self) -> bool {
        false
    }
}

/// The size that a volume is expanded to, in bytes.
pub fn expanded(ask: &Ask) -> i64 {
    ask.required + 16 * csi::MIB
}

/// One call of a step; returns the volume if it created one, or gave it another size.
pub async fn call(csi: &Csi, step: Step, ask: &Ask, made: Option<&Made>) -> Result<Option<Made>, Status> {
    let made = || made.ok_or_else(|| Status::internal("the test has not created a volume yet"));
    match step {
        Step::Create => return csi.create(ask).await.map(Some),
        Step::Stage | Step::StageAgain => csi.stage(made()?).await?,
        Step::Publish => csi.publish(made()?).await?,
        Step::Expand => {
            let size = csi.expand(made()?, expanded(ask)).await?.size;
            return Ok(Some(Made { size, ..made()?.clone() }));
        }
        Step::NodeExpand => drop(csi.node_expand(made()?, &made()?.target()).await?),
        Step::Snapshot => drop(csi.snapshot(copy::SNAPSHOT, &made()?.id).await?),
        Step::FullCopy => copy::complete(csi, made()?).await?,
        Step::Restore => drop(csi.create(&copy::restored(made()?)).await?),
        Step::Clone => drop(csi.create(&copy::cloned(made()?)).await?),
        Step::DeleteCopy => csi.delete(&copy::copy_of(made()?)).await?,
        Step::DeleteSnapshot => csi.delete_snapshot(&copy::snapshot_of(made()?)).await?,
        Step::Unpublish => csi.unpublish(made()?).await?,
        Step::Unstage => csi.unstage(made()?).await?,
        Step::Delete => csi.delete(&made()?.id).await?,
    }
    Ok(None)
}

/// The fault points passed since the last [`forget_points`].
pub async fn points(node: &Node) -> Result<Vec<String>> {
    let log = node.vm.sh(format!("cat {FAULTS}/log 2>/dev/null || true")).await?;
    Ok(log.lines().map(str::to_owned).collect())
}

/// Forgets the fault points passed, and arms the given one.
pub async fn forget_points(node: &Node, kill_at: Option<u64>) -> Result<()> {
    // Through another name: quarry must never read half a number.
    let arm = kill_at.map(|at| format!("; echo {at} > /run/kill-at && mv /run/kill-at {FAULTS}/kill-at"));
    node.vm.sh(format!("rm -f {FAULTS}/killed; : > {FAULTS}/log{}", arm.unwrap_or_default())).await.map(drop)
}

/// Whether quarry was killed at the armed point. The number of points in the log does not show that: background
/// work of the step before may pass some before the point is armed.
pub async fn was_killed(node: &Node) -> Result<bool> {
    Ok(!node.vm.sh(format!("cat {FAULTS}/killed 2>/dev/null || true")).await?.is_empty())
}

/// Removes the armed point. Returns whether there was one: then quarry has not passed it.
pub async fn disarm(node: &Node) -> Result<bool> {
    let script = format!("ls {FAULTS}/kill-at 2>/dev/null || true; rm -f {FAULTS}/kill-at");
    Ok(!node.vm.sh(script).await?.is_empty())
}

/// Waits until quarry was killed, or has done the rest of the step after its answer: a deletion's wiping, and the
/// deactivation of a volume that was unstaged. Returns whether it was killed.
async fn killed_by_the_end(node: &Node, step: Step, ask: &Ask) -> Result<bool> {
    let began = Instant::now();
    loop {
        let under_way = match step {
            Step::Delete => began.elapsed() < node.storage.cleanup_time() && !node.found().await?.is_empty(),
            Step::Unstage => began.elapsed() < DEACTIVATED && node.vm.sh(is_active(ask)).await.is_ok(),
            _ => false,
        };
        let killed = was_killed(node).await?;
        if !under_way || killed {
            return Ok(killed);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Ends well while a volume on LVM is active.
fn is_active(ask: &Ask) -> String {
    format!("test -e /dev/mapper/{GROUP}-{}", ask.name.replace('-', "--"))
}

/// One call with a kill. If it happened, quarry serves again afterwards.
pub async fn call_with_kill(
    node: &mut Node,
    step: Step,
    ask: &Ask,
    made: Option<&Made>,
    kill: &Kill,
) -> Result<KillResult> {
    match kill {
        Kill::Point(at) => {
            forget_points(node, Some(*at)).await?;
            let answer = call(&node.csi, step, ask, made).await;
            killed_by_the_end(node, step, ask).await?;
            disarm(node).await?;
            let points = points(node).await?;
            if was_killed(node).await? {
                node.wait_for_end().await?;
                node.serve().await?;
                return Ok(KillResult::Killed { points });
            }
            answer.with_context(|| format!("{step} failed although nothing was killed (points: {points:?})"))?;
            // A new process counts its points from the beginning.
            node.kill().await?;
            node.serve().await?;
            Ok(KillResult::Missed { points })
        }
        Kill::Tree { marker, delay } => {
            forget_points(node, None).await?;
            let (csi, guest) = (node.csi.clone(), node.vm.guest());
            let (asked, known) = (ask.clone(), made.cloned());
            node.vm.sh("rm -f /run/answered").await?;
            let under_way = tokio::spawn(async move {
                let answer = call(&csi, step, &asked, known.as_ref()).await;
                // Do not wait for a call that does not pass the marker.
                let marked = guest.sh("touch /run/answered").await;
                marked.map(|_| answer)
            });
            node.kill_tree_when(&format!(
                "for i in $(seq 1000); do grep -qxF '{marker}' {FAULTS}/log && break; \
                 [ ! -e /run/answered ] || break; sleep 0.01; done; [ -e /run/answered ] || sleep {delay:.3}"
            ))
            .await?;
            let answer = under_way.await??;
            let points = points(node).await?;
            node.serve().await?;
            Ok(if answer.is_ok() { KillResult::Missed { points } } else { KillResult::Killed { points } })
        }
    }
}

/// The course of a volume's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Only creation and deletion.
    Short,
    /// With bytes written and found again on the way.
    Whole,
    /// The same, and it becomes larger while it is published. Kills only while that happens.
    Expanded,
    /// The same, and snapshots and copies of it are created and deleted. Kills only while that happens.
    Copied,
    /// The same with a snapshot that is a full copy.
    FullyCopied,
}

/// A volume's life with a plan of kills.
pub struct Life<'a, P> {
    pub node: &'a mut Node,
    pub plan: &'a mut P,
    pub ask: Ask,
    pub made: Option<Made>,
}

impl<'a, P: Plan> Life<'a, P> {
    pub fn new(node: &'a mut Node, plan: &'a mut P, ask: Ask) -> Self {
        Self { node, plan, ask, made: None }
    }

    /// Its whole life.
    pub async fn take(&mut self, course: Course) -> Result<()> {
        match course {
            Course::Short => self.short().await,
            Course::Whole => self.whole().await,
            Course::Expanded => self.expanded().await,
            Course::Copied => self.copied().await,
            Course::FullyCopied => self.fully_copied().await,
        }
    }

    /// From creation to deletion, with bytes written and found again on the way.
    pub async fn whole(&mut self) -> Result<()> {
        self.step(Step::Create).await?;
        self.step(Step::Stage).await?;
        self.step(Step::Publish).await?;
        self.check_empty_volume().await?;
        self.write().await?;
        self.step(Step::Unpublish).await?;
        self.step(Step::Unstage).await?;
        self.step(Step::StageAgain).await?;
        self.step_without_kill(Step::Publish).await?;
        self.read().await?;
        self.step_without_kill(Step::Unpublish).await?;
        self.step_without_kill(Step::Unstage).await?;
        self.step(Step::Delete).await?;
        self.node.expect_empty().await
    }

    /// Only creation and deletion.
    async fn short(&mut self) -> Result<()> {
        self.step(Step::Create).await?;
        self.step(Step::Delete).await?;
        self.node.expect_empty().await
    }

    /// One step, with the kill that the plan has for it, repeated until it is done, and checked.
    pub async fn step(&mut self, step: Step) -> Result<()> {
        let mut fate = String::new();
        self.step_and_record(step, &mut fate).await.with_context(|| format!("{step} of {}{fate}", self.ask.name))
    }

    async fn step_and_record(&mut self, step: Step, fate: &mut String) -> Result<()> {
        let Some(kill) = self.plan.kill(step, false) else {
            forget_points(self.node, None).await?;
            self.step_without_kill(step).await?;
            let points = points(self.node).await?;
            self.plan.passed(step, points);
            return Ok(());
        };
        self.folders().await?;
        fate.push_str(&format!(", killed by {kill:?}"));
        let result = call_with_kill(self.node, step, &self.ask, self.made.as_ref(), &kill).await?;
        if let KillResult::Killed { points } = &result {
            fate.push_str(&format!(" (after {})", points.last().map_or("nothing", String::as_str)));
        }
        self.plan.record(step, false, &result);
        self.check_between(step).await?;
        if matches!(result, KillResult::Killed { .. }) {
            if let Some(kill) = self.plan.kill(step, true) {
                fate.push_str(&format!(", again by {kill:?}"));
                let result = call_with_kill(self.node, step, &self.ask, self.made.as_ref(), &kill).await?;
                self.plan.record(step, true, &result);
                self.check_between(step).await?;
            }
            if step == Step::Create && self.plan.give_up() {
                fate.push_str(", then abandoned");
                self.give_up().await?;
            }
            if step.makes_a_copy() && self.plan.give_up() {
                fate.push_str(", then abandoned");
                self.abandon_copy(step).await?;
            }
            if matches!(step, Step::Expand | Step::NodeExpand) && self.plan.give_up() {
                fate.push_str(", then abandoned");
                self.begin_again(step).await?;
            }
        }
        self.step_without_kill(step).await
    }

    /// One step without a kill, repeated as an orchestrator does, and checked.
    pub async fn step_without_kill(&mut self, step: Step) -> Result<()> {
        self.folders().await?;
        let (node, ask, made) = (&*self.node, &self.ask, self.made.as_ref());
        let answer = csi::retry(|| call(&node.csi, step, ask, made)).await?;
        if let Some(made) = answer {
            self.made = Some(made);
        }
        self.check(step).await
    }

    async fn folders(&self) -> Result<()> {
        match &self.made {
            Some(made) => self.node.kubelet_folders(made).await,
            None => Ok(()),
        }
    }

    pub fn made(&self) -> Result<&Made> {
        self.made.as_ref().context("no volume was created")
    }

    /// Deletes everything that is listed. Then nothing is left; remnants of unfinished creations are gone
    /// after the next creation.
    async fn give_up(&self) -> Result<()> {
        for volume in self.node.csi.list().await? {
            csi::retry(|| self.node.csi.delete(&volume.volume_id)).await?;
        }
        if self.node.storage.keeps_halves() {
            let next = Ask::block("pvc-next").size(csi::MIB);
            let next = csi::retry(|| self.node.csi.create(&next)).await?;
            self.node.expect_only(&next).await?;
            csi::retry(|| self.node.csi.delete(&next.id)).await?;
        }
        self.node.expect_empty().await
    }

    /// What holds between a kill and the repeated call.
    async fn check_between(&self, step: Step) -> Result<()> {
        let listed = csi::retry(|| self.node.csi.list()).await?;
        match (step, &self.made) {
            (Step::Create | Step::Delete, _) => ensure!(listed.len() <= 1, "one volume or none, not {listed:?}"),
            (step, Some(made)) if step.is_of_copy() => self.check_between_copies(made, &listed).await?,
            (_, made) => ensure!(
                listed.len() == 1 && listed.first().map(|volume| &volume.volume_id) == made.as_ref().map(|m| &m.id),
                "the volume {made:?} should be there, not {listed:?}"
            ),
        }
        if matches!(step, Step::Expand | Step::NodeExpand) {
            let sizes = [self.ask.required, expanded(&self.ask)];
            ensure!(listed.iter().all(|volume| sizes.contains(&volume.capacity_bytes)), "{sizes:?}, not {listed:?}");
            self.check_data().await?;
        }
        self.expect_nothing_suspended().await
    }

    /// A suspended device hangs every process that accesses it. An lvm that removes what the kill left suspends devices for
    /// a moment; a device that is left is suspended each time.
    async fn expect_nothing_suspended(&self) -> Result<()> {
        let look = "grep -l 1 /sys/block/dm-*/dm/suspended 2>/dev/null || true";
        let mut left = self.node.vm.sh(look).await?;
        for _ in 0..LOOKS {
            if left.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let now = self.node.vm.sh(look).await?;
            left =
                left.lines().filter(|device| now.lines().any(|found| found == *device)).collect::<Vec<_>>().join("\n");
        }
        ensure!(left.is_empty(), "left suspended: {left}");
        Ok(())
    }

    /// What holds when a step was answered OK.
    pub async fn check(&self, step: Step) -> Result<()> {
        let made = self.made()?;
        match step {
            Step::Create => {
                ensure!(made.size >= self.ask.required, "{} bytes, less than requested", made.size);
                let listed = self.node.csi.list().await?;
                ensure!(
                    listed.len() == 1 && listed.iter().all(|volume| volume.volume_id == made.id),
                    "exactly the volume {} was asked for, not {listed:?}",
                    made.id
                );
                // As the host reports it, and with nothing else there.
                self.node.expect_only(made).await?;
            }
            Step::Stage | Step::StageAgain if !self.ask.is_block() => {
                self.expect_mounted(&made.staging(), true).await?
            }
            Step::Stage | Step::StageAgain => {}
            Step::Publish => self.expect_mounted(&made.target(), true).await?,
            Step::Expand => {
                ensure!(made.size == expanded(&self.ask), "{} bytes instead of {}", made.size, expanded(&self.ask));
                // Nothing of the expansion is left.
                self.node.expect_only(made).await?;
                self.check_data().await?;
            }
            Step::NodeExpand => self.check_expanded().await?,
            Step::Snapshot | Step::FullCopy | Step::Restore | Step::DeleteCopy | Step::Clone | Step::DeleteSnapshot => {
                self.check_copies(step).await?
            }
            Step::Unpublish => {
                self.expect_mounted(&made.target(), false).await?;
                self.node.vm.sh(format!("test ! -e '{}'", made.target())).await.context("the target is still there")?;
            }
            Step::Unstage => {
                self.expect_mounted(&made.staging(), false).await?;
                let open = self.node.vm.sh("grep -h quarry-crypt /sys/block/dm-*/dm/name || true").await?;
                ensure!(open.is_empty(), "still open: {open}");
            }
            Step::Delete => self.node.expect_nothing_stored().await.context("after the deletion")?,
        }
        Ok(())
    }

    /// Fails unless something is mounted there, once, or nothing is.
    async fn expect_mounted(&self, path: &str, wanted: bool) -> Result<()> {
        // A shared folder shows each mount in all its peers: only mounts on top of one another are one too many.
        let script = format!(
            "awk -v path='{path}' '$5 == path {{ parent[$1] = $2 }} END {{ for (id in parent) {{ all++; \
             if (parent[id] in parent) stacked++ }} print (all > 0) \",\" stacked + 0 }}' /proc/self/mountinfo"
        );
        let found = self.node.vm.sh(script).await?;
        let expected = if wanted { "1,0" } else { "0,0" };
        ensure!(found == expected, "mounts at {path}, and stacked ones: {found}, where {expected} belong");
        Ok(())
    }

    /// A fresh volume exposes nothing of earlier ones in its place.
    pub async fn check_empty_volume(&self) -> Result<()> {
        let made = self.made()?;
        let target = made.target();
        let script = if self.ask.is_block() && self.ask.is_encrypted() {
            // What was there reads as noise.
            format!("test $(blockdev --getsize64 '{target}') = {}", made.size)
        } else if self.ask.is_block() {
            format!("test $(blockdev --getsize64 '{target}') = {0} && cmp -n {0} /dev/zero '{target}'", made.size)
        } else {
            format!("test -z \"$(ls -A '{target}' | grep -vx lost+found)\"")
        };
        self.node.vm.sh(script).await.map(drop).context("a fresh volume is not empty")
    }

    /// Writes bytes that [`Self::read`] finds again. A raw device is filled: the next volume is created
    /// there.
    pub async fn write(&self) -> Result<()> {
        let made = self.made()?;
        let target = made.target();
        let script = if self.ask.is_block() {
            format!(
                "yes {} | head -c {} | dd of='{target}' bs=1M iflag=fullblock oflag=direct status=none",
                made.ask.name, made.size
            )
        } else {
            format!("seq 20000 > '{target}/file' && sync -f '{target}/file'")
        };
        self.node.vm.sh(script).await.map(drop)
    }

    /// Fails unless every byte that was written is there.
    pub async fn read(&self) -> Result<()> {
        let made = self.made()?;
        let target = made.target();
        let script = if self.ask.is_block() {
            format!("yes {} | head -c {} | cmp - '{target}'", made.ask.name, made.size)
        } else {
            format!("seq 20000 | cmp - '{target}/file'")
        };
        if let Err(error) = self.node.vm.sh(script).await {
            bail!("the written data is not there: {error:#}");
        }
        Ok(())
    }
}
