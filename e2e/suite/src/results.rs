//! The results of the slices of a soak: one file per slice, and their sums.
//!
//! If a slice runs again, it replaces its file. The files are in `target/soak`, or in `QUARRY_SOAK_DIR`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::scenario::{Counts, Settings};

/// The folder with the files of a soak.
fn folder() -> PathBuf {
    let target = || {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from)
    };
    std::env::var_os("QUARRY_SOAK_DIR").map_or_else(|| target().join("soak"), PathBuf::from)
}

/// The file of one slice, rewritten after each scenario, so that an interrupted slice shows its results.
pub struct Results {
    path: PathBuf,
    head: Value,
    scenarios: Vec<Value>,
}

impl Results {
    /// Begins the file of a slice.
    pub fn begin(settings: Settings, commit: &str) -> Result<Self> {
        let (number, of) = (settings.slice.number, settings.slice.of);
        let guests = settings.guests.to_string();
        let path = folder().join(format!("{number:02}-of-{of:02}-{guests}.json"));
        let seed = settings.seed;
        let head =
            json!({ "slice": number, "of": of, "guests": guests, "commit": commit, "seed": seed, "whole": false });
        let results = Self { path, head, scenarios: Vec::new() };
        results.write()?;
        Ok(results)
    }

    /// Adds what a scenario did.
    pub fn add(&mut self, name: &str, passed: bool, took: Duration, counts: &Counts) -> Result<()> {
        self.scenarios
            .push(json!({ "name": name, "passed": passed, "seconds": took.as_secs(), "counts": json!(counts) }));
        self.write()
    }

    /// Notes that all of the slice was run.
    pub fn end(mut self, took: Duration) -> Result<PathBuf> {
        self.head["whole"] = json!(true);
        self.head["seconds"] = json!(took.as_secs());
        self.write()?;
        Ok(self.path)
    }

    fn write(&self) -> Result<()> {
        let mut value = self.head.clone();
        value["scenarios"] = json!(self.scenarios);
        let text = serde_json::to_string_pretty(&value).context("cannot write JSON")?;
        let folder = self.path.parent().context("a file in a folder")?;
        let next = self.path.with_extension("next");
        let written = fs::create_dir_all(folder)
            .and_then(|()| fs::write(&next, text))
            .and_then(|()| fs::rename(&next, &self.path));
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// What a set of slices adds up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    counts: BTreeMap<String, u64>,
    passed: u64,
    /// The scenarios that failed, with their slice.
    failed: Vec<String>,
    /// The slices that were run to their end, and how long the longest took, in seconds.
    whole: BTreeSet<u64>,
    longest: u64,
    /// The slices that were cut off.
    cut_off: BTreeSet<u64>,
    commits: BTreeSet<String>,
}

impl Sums {
    fn add(&mut self, slice: &Value) -> Option<()> {
        let number = slice["slice"].as_u64()?;
        let to = if slice["whole"].as_bool()? { &mut self.whole } else { &mut self.cut_off };
        to.insert(number);
        self.longest = self.longest.max(slice["seconds"].as_u64().unwrap_or_default());
        self.commits.insert(slice["commit"].as_str()?.to_owned());
        for scenario in slice["scenarios"].as_array()? {
            if scenario["passed"].as_bool()? {
                self.passed += 1;
            } else {
                self.failed.push(format!("{} (slice {number})", scenario["name"].as_str()?));
            }
            for (name, count) in scenario["counts"].as_object()? {
                *self.counts.entry(name.clone()).or_default() += count.as_u64()?;
            }
        }
        Some(())
    }

    fn print(&self, of: u64, guests: &str) {
        let list = |slices: &mut dyn Iterator<Item = u64>| {
            let words: Vec<String> = slices.map(|slice| slice.to_string()).collect();
            if words.is_empty() { "none".to_owned() } else { words.join(" ") }
        };
        println!(
            "soak in {of} slices, guest {guests}, commit {}",
            self.commits.iter().cloned().collect::<Vec<_>>().join(" and ")
        );
        println!("  run to the end: {}", list(&mut self.whole.iter().copied()));
        println!("  cut off: {}", list(&mut self.cut_off.iter().copied()));
        let missing = |slice: &u64| !self.whole.contains(slice) && !self.cut_off.contains(slice);
        println!("  not run: {}", list(&mut (1..=of).filter(missing)));
        println!("  the longest took {} minutes", self.longest.div_ceil(60));
        for (name, count) in &self.counts {
            println!("  {count:>8} {name}");
        }
        println!("  {:>8} scenarios passed", self.passed);
        println!("  {:>8} failed{}", self.failed.len(), if self.failed.is_empty() { "" } else { ":" });
        for failed in &self.failed {
            println!("           {failed}");
        }
    }
}

/// Prints the sums of the slices that were run, for each number of slices and choice of guests. Returns how many
/// scenarios failed in them.
pub fn sums() -> Result<usize> {
    let folder = folder();
    let mut sets: BTreeMap<(u64, String), Sums> = BTreeMap::new();
    let entries = fs::read_dir(&folder).with_context(|| format!("no slice was run: {}", folder.display()))?;
    for entry in entries {
        let path = entry.context("cannot read the folder")?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let slice: Value = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        let guests = slice["guests"].as_str().unwrap_or_default().to_owned();
        let sums = sets.entry((slice["of"].as_u64().unwrap_or_default(), guests)).or_default();
        sums.add(&slice).with_context(|| format!("{} lacks a field", path.display()))?;
    }
    ensure!(!sets.is_empty(), "no slice was run: {} is empty", folder.display());
    for ((of, guests), sums) in &sets {
        sums.print(*of, guests);
    }
    Ok(sets.values().map(|sums| sums.failed.len()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_add_up() {
        let slice = |number: u64, passed: bool, points: u64| {
            json!({ "slice": number, "of": 2, "commit": "c", "seed": 1, "whole": true, "seconds": 60 * number,
                "scenarios": [{ "name": "sweep", "passed": passed, "seconds": 1, "counts": { "kill points": points } }] })
        };
        let mut sums = Sums::default();
        sums.add(&slice(1, true, 20)).unwrap();
        sums.add(&slice(2, false, 3)).unwrap();
        assert_eq!(sums.counts, BTreeMap::from([("kill points".to_owned(), 23)]));
        assert_eq!((sums.passed, sums.failed), (1, vec!["sweep (slice 2)".to_owned()]));
        assert_eq!((sums.whole, sums.longest), (BTreeSet::from([1, 2]), 120));
        assert!(Sums::default().add(&json!({ "slice": 1 })).is_none(), "a file that lacks fields is refused");
    }
}
