//! The calls beside bare commands, by `quarry bench` in the guest.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::log::{Kind, intervals};
use crate::node::{LOG, Node, WHOLE};
use crate::{median, say};

/// One run of `quarry bench`.
pub struct Part {
    /// The heading in the results.
    pub title: String,
    /// Its options besides the common ones.
    options: String,
    /// How many other volumes are there.
    background: usize,
    /// The folder of its plots in `plots`, if they are kept.
    plots: Option<&'static str>,
}

/// Quarry deactivates a logical volume in the background after NodeUnstageVolume. This is long enough for that.
const SETTLE: &str = "--settle 4";

/// The phases that a part leaves out to be short.
const SHORT: &str = "--without expand,snapshot,restore";

fn part(title: &str, options: String) -> Part {
    Part { title: title.to_owned(), options, background: 0, plots: None }
}

/// A floor in this volume group: the layout for the driver, and the options of lvcreate for the same layout.
fn floor(pool: &str, layout: &str, lvcreate: &str) -> String {
    let layout = if layout.is_empty() { String::new() } else { format!("--param layout={layout}") };
    format!("--param pool={pool} {layout} --floor lvm --volume-group {pool} {lvcreate}")
}

/// All parts without other volumes, in their order. Each has an even number of rounds: both systems are first equally
/// often.
pub fn parts(quick: bool) -> Vec<Part> {
    let volumes = |volumes: usize, at_once: usize, rounds: usize| {
        let (volumes, rounds) = if quick { (2, 2) } else { (volumes, rounds) };
        let at_once = if at_once > 1 { format!("1,{}", at_once.min(volumes)) } else { "1".to_owned() };
        format!("--volumes {volumes} --concurrency {at_once} --rounds {rounds}")
    };
    let linear = floor("fast", "", "");
    let striped = floor("fast", "striped", "--lvcreate-option=--type=striped --lvcreate-option=--stripes=2");
    let raid1 = floor(
        "fast",
        "raid1",
        "--lvcreate-option=--type=raid1 --lvcreate-option=--mirrors=1 --lvcreate-option=--nosync",
    );
    let thin = floor("thin", "", "--thin-pool pool");
    let slow = floor("slow", "", "");
    vec![
        Part {
            plots: Some("linear-ext4"),
            ..part("Linear, ext4", format!("{linear} --fs ext4 --size 64Mi {}", volumes(15, 10, 2)))
        },
        part("Linear, xfs", format!("{linear} --fs xfs --size 320Mi {SHORT} {}", volumes(10, 1, 2))),
        part("Linear, raw block", format!("{linear} --block --size 64Mi {SHORT} {}", volumes(10, 1, 2))),
        part("Striped over two disks, ext4", format!("{striped} --fs ext4 --size 64Mi {SHORT} {}", volumes(6, 1, 2))),
        part("raid1 on two disks, ext4", format!("{raid1} --fs ext4 --size 64Mi {SHORT} {}", volumes(6, 1, 2))),
        part("Thin, ext4", format!("{thin} --fs ext4 --size 64Mi {}", volumes(6, 6, 2))),
        part(
            "Whole disks, ext4, without a floor",
            format!("--param pool=whole --fs ext4 --size 512Mi {SHORT} {}", volumes(WHOLE, WHOLE, 2)),
        ),
        part(
            "Linear, ext4, on a disk with 200 operations and 100 MiB per second",
            format!("{slow} --fs ext4 --size 64Mi {SHORT} {}", volumes(6, 6, 2)),
        ),
        part(
            "Linear: 100 creates at once",
            format!(
                "{linear} --fs ext4 --size 64Mi --without stage,publish,stats,expand,snapshot,restore,restage {}",
                volumes(100, 100, 2)
            ),
        ),
    ]
}

/// A part beside this number of volumes.
pub fn with_background(count: usize, quick: bool) -> Part {
    let volumes = if quick { "--volumes 2 --rounds 2" } else { "--volumes 15 --rounds 2" };
    let linear = floor("fast", "", "");
    let options = format!("{linear} --fs ext4 --size 64Mi {SHORT} {volumes}");
    Part { background: count, ..part(&format!("Linear, ext4, beside {count} volumes"), options) }
}

/// What `quarry bench` wrote.
#[derive(Debug, Deserialize)]
pub struct Figures {
    pub results: Vec<Row>,
    pub ratios: Vec<Ratio>,
    left_behind: Vec<String>,
}

/// One phase of one system.
#[derive(Debug, Deserialize)]
pub struct Row {
    pub system: String,
    pub concurrency: usize,
    pub phase: String,
    pub latency_ms: Option<Latency>,
}

#[derive(Debug, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50: f64,
    pub max: f64,
}

/// The driver's figure divided by that of the commands.
#[derive(Debug, Deserialize)]
pub struct Ratio {
    pub concurrency: usize,
    pub phase: String,
    pub p50: f64,
    pub per_second_in_a_row: Option<f64>,
}

/// A part with its figures.
pub struct Measured {
    pub title: String,
    /// How many other volumes were there.
    pub background: usize,
    pub figures: Figures,
    /// The plots, as paths from RESULTS.md.
    pub plots: Vec<String>,
}

impl Measured {
    /// The ratio of a phase with this many volumes at once.
    pub fn ratio(&self, phase: &str, at_once: usize) -> Option<&Ratio> {
        self.figures.ratios.iter().find(|ratio| ratio.phase == phase && ratio.concurrency == at_once)
    }
}

/// Runs a part.
pub async fn measure(node: &Node, part: &Part, into: &Path) -> Result<Measured> {
    say(&part.title);
    node.settle().await?;
    let script =
        format!("quarry bench {} {SETTLE} --json /run/bench.json --plot /run/plots >/run/bench.out 2>&1", part.options);
    let output = node.output(script).await?;
    if !output.exit.success() {
        let said = node.sh("tail -n 40 /run/bench.out").await.unwrap_or_default();
        bail!("{}: quarry bench {} {SETTLE} ended with {}:\n{said}", part.title, part.options, output.exit);
    }
    let json = node.sh("cat /run/bench.json").await?;
    let figures: Figures = serde_json::from_str(&json).context("the JSON of quarry bench")?;
    ensure!(figures.left_behind.is_empty(), "{}: left behind: {:?}", part.title, figures.left_behind);
    let mut plots = Vec::new();
    if let Some(folder) = part.plots {
        for plot in ["concurrency", "time"] {
            let file = format!("plots/{folder}-{plot}.svg");
            node.vm.pull(&format!("/run/plots/{plot}.svg"), &into.join(&file)).await?;
            plots.push(file);
        }
    }
    Ok(Measured { title: part.title.clone(), background: part.background, figures, plots })
}

/// Creates volumes until there are `count` of them; `there` are there.
pub async fn background(node: &Node, there: usize, count: usize) -> Result<()> {
    let script = format!(
        "seq {} {count} | xargs -P 8 -I N quarry csi create background-N --size 16Mi --param pool=fast >/dev/null",
        there + 1
    );
    node.sh(script).await.map(drop)
}

/// Medians of one of Quarry's calls in milliseconds.
pub struct Foreign {
    /// `create` or `delete`.
    pub call: &'static str,
    /// With nothing before it.
    pub alone: f64,
    /// Right after somebody else changed another volume group: udev may still be busy with that.
    pub after_another: f64,
    /// Right after somebody else changed the same volume group.
    pub after_own: f64,
}

/// Creates and deletes volumes after changes by others, and without, in turn, `rounds` times each.
pub async fn foreign(node: &Node, rounds: usize) -> Result<Vec<Foreign>> {
    let change = |group: &str| format!("lvcreate -qq -y -an -Zn -L 4M -n other {group}; lvremove -qq -y {group}/other");
    let changes = ["true".to_owned(), change("thin"), change("fast")];
    let methods = [("create", "CreateVolume"), ("delete", "DeleteVolume")];
    let mut found = [const { [const { Vec::new() }; 3] }; 2];
    for _ in 0..rounds {
        for (kind, change) in changes.iter().enumerate() {
            let script = format!(
                ": >{LOG}; {change}; \
                 id=$(quarry csi create between --size 64Mi --param pool=fast -o json | \
                 sed -n 's/.*\"volume_id\": *\"\\([^\"]*\\)\".*/\\1/p' | head -n 1); test -n \"$id\"; \
                 {change}; quarry csi delete \"$id\" >/dev/null; cat {LOG}"
            );
            node.settle().await?;
            let log = intervals(&node.sh(format!("set -e; {script}")).await?);
            for ((_, method), found) in methods.iter().zip(&mut found) {
                let call = log.iter().find(|one| one.kind == Kind::Call && one.what == *method);
                let call = call.with_context(|| format!("the log has no {method}"))?;
                found[kind].push((call.ended - call.began) * 1e3);
            }
        }
    }
    let medians = methods.iter().zip(found).map(|((call, _), found)| {
        let [alone, after_another, after_own] = found.map(median);
        Foreign { call, alone, after_another, after_own }
    });
    Ok(medians.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_systems_are_first_equally_often() {
        for quick in [false, true] {
            for part in parts(quick).into_iter().chain([with_background(100, quick)]) {
                let (_, rounds) = part.options.split_once("--rounds ").unwrap();
                let rounds: usize = rounds.split_whitespace().next().unwrap().parse().unwrap();
                assert!(rounds > 0 && rounds.is_multiple_of(2), "{}: {}", part.title, part.options);
            }
        }
    }
}
