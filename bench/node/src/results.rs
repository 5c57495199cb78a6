//! `bench/RESULTS.md`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use quarry_vm::Accelerator;

use crate::calls::{Foreign, Measured};
use crate::data_path::Access;
use crate::life::{Life, Step};
use crate::log::Interval;
use crate::memory::Memory;
use crate::node::Node;

/// Everything that was measured.
pub struct Results {
    quick: bool,
    /// Whether the run came to its end.
    pub complete: bool,
    machine: String,
    /// Whether the guest's processors are emulated.
    emulated: bool,
    pub lives: Vec<Life>,
    pub parts: Vec<Measured>,
    pub memory: Vec<Memory>,
    pub foreign: Vec<Foreign>,
    pub data_path: Vec<Access>,
    pub took: Duration,
}

impl Results {
    /// Nothing yet, but what machine this is.
    pub async fn new(node: &Node, quick: bool) -> Result<Self> {
        let host = host().unwrap_or_else(|| "unknown".to_owned());
        let guest = node
            .sh(
                "date -u +%F; quarry --version; uname -r; lvm version | sed -n 's/.*LVM version: *//p'; mkfs.ext4 -V 2>&1 | \
                 head -n 1; mkfs.xfs -V",
            )
            .await?;
        let [date, quarry, kernel, lvm, ext4, xfs] =
            guest.lines().collect::<Vec<_>>().try_into().unwrap_or(["unknown"; 6]);
        let machine = format!(
            "{date}, {quarry}. The host has {host}; the guest has 2 processors under {}, Linux {kernel}, lvm2 {lvm}, {ext4}, \
             {xfs}.",
            node.vm.accelerator()
        );
        Ok(Self {
            quick,
            complete: false,
            machine,
            emulated: node.vm.accelerator() == Accelerator::Tcg,
            lives: Vec::new(),
            parts: Vec::new(),
            memory: Vec::new(),
            foreign: Vec::new(),
            data_path: Vec::new(),
            took: Duration::ZERO,
        })
    }

    /// Writes what there is into the directory. Returns the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, into: &Path, began: Instant) -> Result<PathBuf> {
        self.took = began.elapsed();
        let path = into.join("RESULTS.md");
        std::fs::write(&path, self.markdown()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The whole file.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Results of `make bench`\n\n");
        if self.quick {
            text.push_str("**A quick run: the figures mean nothing.**\n\n");
        }
        if !self.complete {
            text.push_str("**Incomplete: the run is not over, or it failed.**\n\n");
        }
        let _ = write!(text, "{}\nThe run took {} minutes.\n\n", self.machine, self.took.as_secs() / 60);
        text.push_str(
            "Unless a table says otherwise, a ratio is Quarry's time divided by that of the bare commands that an\n\
             operator would type for the same volume, in the same guest, on the same disks, in the same run: below 1,\n\
             Quarry is faster. [docs/bench.md](../docs/bench.md) names the commands of each phase.",
        );
        if self.emulated {
            text.push_str(
                " Emulation makes the\nstart of a process expensive, so calls that start fewer processes than the \
                 commands look better here than\non hardware.",
            );
        }
        text.push_str(
            "\n\n`unstage` is not comparable: the commands include `lvchange --activate n`, while Quarry deactivates the\n\
             logical volume after its answer. After each `unstage` there is a wait that is not timed (`--settle`), so\n\
             that this does not affect the phases that follow.\n\n",
        );
        self.goals(&mut text);
        self.lives(&mut text);
        self.phases(&mut text);
        self.others(&mut text);
        self.memory(&mut text);
        self.data_path(&mut text);
        text
    }

    fn goals(&self, text: &mut String) {
        text.push_str("## Goals\n\n| what | goal | measured |\n|---|---:|---:|\n");
        let mut row = |what: &str, most: f64, measured: Option<f64>| {
            let measured = measured.map_or_else(|| "not measured".to_owned(), |found| mark(found, most));
            let _ = writeln!(text, "| {what} | ≤ {most:.2} | {measured} |");
        };
        let linear = |phase: &str| self.parts.first().and_then(|part| Some(part.ratio(phase, 1)?.p50));
        // An incomplete run may have no such part.
        let most = self.parts.iter().filter(|part| part.background > 0).max_by_key(|part| part.background);
        let beside = most.map_or_else(|| "other".to_owned(), |part| format!("{} other", part.background));
        row("create / `lvcreate`, one at a time", 1.05, linear("create"));
        let most = most.and_then(|part| Some(part.ratio("create", 1)?.p50));
        row(&format!("the same beside {beside} volumes"), 1.05, most);
        let burst = self.parts.iter().find(|part| part.title.contains("creates at once"));
        let at_once = burst.and_then(|part| part.figures.ratios.iter().rfind(|ratio| ratio.phase == "create"));
        row(
            "many creates at once / the same number of `lvcreate` in a row",
            1.0,
            at_once.and_then(|ratio| ratio.per_second_in_a_row).map(f64::recip),
        );
        row("create, first stage and publish / lvcreate, mkfs, mount, bind", 1.25, linear("create-to-publish"));
        row("stage and publish of a ready volume / activation, mount, bind", 1.10, linear("restage-to-republish"));
        row("delete / `lvremove`", 1.10, linear("delete"));
        for foreign in &self.foreign {
            let call = foreign.call;
            row(
                &format!("{call} after a change by others / {call} alone"),
                1.15,
                Some(foreign.after_own / foreign.alone),
            );
        }
        for (which, most) in [(self.memory.first(), 10.0), (self.memory.last(), 14.0)] {
            let Some(memory) = which else { continue };
            row(&format!("resident memory in MiB, beside {} volumes", memory.volumes), most, Some(memory.resident));
        }
        text.push('\n');
    }

    fn lives(&self, text: &mut String) {
        if self.lives.is_empty() {
            return;
        }
        text.push_str(
            "## One volume: processes and time\n\nWhat a call leaves to the background is named as *after the answer*, and \
             is in none of the times. The last\ntwo columns of times can overlap: a reading of the volume group may run beside \
             a command.\n\n",
        );
        for life in &self.lives {
            let _ = write!(
                text,
                "{}, one call after the other, with no other call at the same time.\n\n\
                 | call | ms | in commands | in readings of the volume group | processes |\n|---|---:|---:|---:|---|\n",
                life.title()
            );
            for step in &life.steps {
                // Without a command, a sum would be -0.
                let sum = |all: &[Interval]| all.iter().fold(0.0, |sum, one| sum + one.ended - one.began) * 1e3;
                let readings = match step.readings.len() {
                    0 => "–".to_owned(),
                    count => format!("{:.1} ({count})", sum(&step.readings)),
                };
                let names = names(step);
                let took = (step.call.ended - step.call.began) * 1e3;
                let _ =
                    writeln!(text, "| {} | {took:.1} | {:.1} | {readings} | {names} |", step.name, sum(&step.commands));
            }
            let _ = writeln!(text, "\n![The time of each call](plots/{})\n", life.plot());
        }
    }

    fn phases(&self, text: &mut String) {
        text.push_str("## Calls beside bare commands\n\nMedians in milliseconds.\n\n");
        for part in &self.parts {
            let _ = write!(
                text,
                "### {}\n\n| phase | at once | calls | Quarry | slowest | commands | ratio |\n|---|---:|---:|---:|---:|---:|---:|\n",
                part.title
            );
            for row in part.figures.results.iter().filter(|row| row.system == "driver") {
                let Some(own) = &row.latency_ms else { continue };
                let same = |other: &&crate::calls::Row| {
                    other.system == "floor" && other.phase == row.phase && other.concurrency == row.concurrency
                };
                let floor = part.figures.results.iter().find(same).and_then(|floor| floor.latency_ms.as_ref());
                let floor = floor.map_or_else(|| "–".to_owned(), |floor| format!("{:.1}", floor.p50));
                let ratio = part.ratio(&row.phase, row.concurrency);
                let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{:.2}", ratio.p50));
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {:.1} | {:.1} | {floor} | {ratio} |",
                    row.phase, row.concurrency, own.count, own.p50, own.max
                );
            }
            text.push('\n');
            for plot in &part.plots {
                let _ = writeln!(text, "![{}]({plot})\n", part.title);
            }
        }
    }

    fn others(&self, text: &mut String) {
        if self.foreign.is_empty() {
            return;
        }
        text.push_str(
            "## Changes by others\n\nMedians of Quarry's calls in milliseconds: alone, right after an `lvcreate` and an \
             `lvremove` of\nsomebody else in another volume group, and right after the same in Quarry's. After both, \
             udev may still\nbe busy with what was changed.\n\n\
             | call | alone | after another group | after this group | / alone | / after another group |\n\
             |---|---:|---:|---:|---:|---:|\n",
        );
        for Foreign { call, alone, after_another, after_own } in &self.foreign {
            let _ = writeln!(
                text,
                "| {call} | {alone:.1} | {after_another:.1} | {after_own:.1} | {:.2} | {:.2} |",
                after_own / alone,
                after_own / after_another
            );
        }
        text.push('\n');
    }

    fn memory(&self, text: &mut String) {
        text.push_str(
            "## Memory\n\nResident memory of `quarry standalone` (controller and node in one process), just started and\n\
             idle. The rest of what is resident are pages of the program's file, which all processes of a host share.\n\n\
             | volumes | MiB | of that its own | its own after ten creates and deletes |\n|---:|---:|---:|---:|\n",
        );
        for Memory { volumes, resident, own, own_after_changes } in &self.memory {
            let _ = writeln!(text, "| {volumes} | {resident:.1} | {own:.1} | {own_after_changes:.1} |");
        }
        text.push('\n');
    }

    fn data_path(&self, text: &mut String) {
        text.push_str("## Reads and writes\n\n");
        if self.data_path.is_empty() {
            text.push_str("Not measured: fio was not installed.\n");
            return;
        }
        text.push_str(
            "fio with direct I/O, medians, more is faster: on another disk of the same kind, on a logical volume made by\n\
             hand, and on a raw block volume that Quarry published. A published volume is the device-mapper device\n\
             itself, so it should be as fast as a logical volume. The disks are files of the host: differences of a few percent are noise.\n\n\
             | | disk | logical volume | volume | volume / logical volume |\n|---|---:|---:|---:|---:|\n",
        );
        for access in &self.data_path {
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.0} | {:.0} | {:.2} |",
                access.name,
                access.disk,
                access.logical,
                access.volume,
                access.volume / access.logical
            );
        }
    }
}

/// The commands of a call, and those that it left to the background.
fn names(step: &Step) -> String {
    let join =
        |commands: &[Interval]| commands.iter().map(|command| command.what.as_str()).collect::<Vec<_>>().join(", ");
    let within = if step.commands.is_empty() { "none".to_owned() } else { join(&step.commands) };
    match step.afterwards.as_slice() {
        [] => within,
        afterwards => format!("{within}; after the answer: {}", join(afterwards)),
    }
}

/// A figure, in bold when it is over its goal.
fn mark(found: f64, most: f64) -> String {
    if found <= most { format!("{found:.2}") } else { format!("**{found:.2}**") }
}

/// The host's processors and its kernel.
fn host() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let models: Vec<&str> = info
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model)
        .collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(format!("{} × {}, Linux {}", models.len(), models.first()?, kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Kind;

    #[test]
    fn a_missed_goal_is_bold() {
        assert_eq!(mark(1.0, 1.05), "1.00");
        assert_eq!(mark(1.2, 1.05), "**1.20**");
    }

    #[test]
    fn the_results_have_every_part() {
        let figures = r#"{"results": [
            {"system": "driver", "concurrency": 1, "phase": "create", "latency_ms": {"count": 3, "p50": 20.0, "max": 30.0}},
            {"system": "floor", "concurrency": 1, "phase": "create", "latency_ms": {"count": 3, "p50": 10.0, "max": 11.0}},
            {"system": "driver", "concurrency": 1, "phase": "stage", "latency_ms": null}],
            "ratios": [{"concurrency": 1, "phase": "create", "p50": 2.0, "per_second_in_a_row": 0.5}], "left_behind": []}"#;
        let part = |title: &str, background: usize, create: &str| Measured {
            title: title.to_owned(),
            background,
            figures: serde_json::from_str(&figures.replace("2.0,", create)).unwrap(),
            plots: vec!["plots/a.svg".to_owned()],
        };
        // The parts need not be in the order of their numbers, and a run may end before any part with other volumes.
        let beside = [part("Beside 100", 100, "3.0,"), part("Beside 1000", 1000, "4.0,"), part("Later", 0, "5.0,")];
        let interval = |what: &str, kind, began, ended| Interval { what: what.to_owned(), kind, began, ended };
        let step = Step {
            name: "unstage",
            call: interval("NodeUnstageVolume", Kind::Call, 1.0, 1.5),
            commands: vec![interval("umount", Kind::Command, 1.1, 1.3)],
            readings: vec![interval("fast", Kind::Reading, 1.3, 1.35), interval("fast", Kind::Reading, 1.35, 1.4)],
            afterwards: vec![interval("lvm lvchange", Kind::Command, 1.4, 1.9)],
        };
        let mut results = Results {
            quick: true,
            complete: true,
            machine: "A machine.".to_owned(),
            emulated: true,
            lives: vec![Life { filesystem: "ext4", beside: 1000, steps: vec![step] }],
            parts: vec![part("Linear", 0, "2.0,")],
            memory: vec![Memory { volumes: 0, resident: 19.5, own: 6.2, own_after_changes: 7.1 }],
            foreign: vec![Foreign { call: "create", alone: 10.0, after_another: 10.5, after_own: 11.0 }],
            data_path: vec![Access { name: "reads", disk: 9.0, logical: 10.0, volume: 9.9 }],
            took: Duration::from_secs(125),
        };
        let text = results.markdown();
        for expected in [
            "mean nothing",
            "\n`unstage` is not comparable",
            "took 2 minutes",
            "| create / `lvcreate`, one at a time | ≤ 1.05 | **2.00** |",
            "| the same beside other volumes | ≤ 1.05 | not measured |",
            "| create after a change by others / create alone | ≤ 1.15 | 1.10 |",
            "| delete / `lvremove` | ≤ 1.10 | not measured |",
            "| create | 1 | 3 | 20.0 | 30.0 | 10.0 | 2.00 |",
            "![Linear](plots/a.svg)",
            "| create | 10.0 | 10.5 | 11.0 | 1.10 | 1.05 |",
            "| 0 | 19.5 | 6.2 | 7.1 |",
            "\nA volume with ext4 beside 1000 others, one call",
            "| unstage | 500.0 | 200.0 | 100.0 (2) | umount; after the answer: lvm lvchange |",
            "| resident memory in MiB, beside 0 volumes | ≤ 10.00 | **19.50** |",
            "| reads | 9 | 10 | 10 | 0.99 |",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert!(!text.contains("| stage |"), "a phase without calls has no row:\n{text}");
        results.parts.extend(beside);
        let text = results.markdown();
        assert!(text.contains("| the same beside 1000 other volumes | ≤ 1.05 | **4.00** |"), "{text}");
    }
}
