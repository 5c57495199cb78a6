//! The results of the specs, one file for each commit: a spec that runs again replaces its result. So batches add up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::report::Report;
use super::spec::{Outcome, Spec, State};

/// The result of one spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    suite: String,
    #[serde(flatten)]
    outcome: Outcome,
}

/// The results of a commit, by the texts of the specs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Results(BTreeMap<String, Entry>);

/// The file with the results of a commit.
pub(super) fn file(folder: &Path, commit: &str) -> PathBuf {
    folder.join(format!("{commit}.json"))
}

impl Results {
    /// Reads the results of a commit from a file. If the file does not exist, they are empty.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(super) fn read(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the file. It appears under its name once it is complete.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("cannot write JSON")?;
        let next = path.with_extension("next");
        let folder = path.parent().unwrap_or(path);
        let written =
            fs::create_dir_all(folder).and_then(|()| fs::write(&next, text)).and_then(|()| fs::rename(&next, path));
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Adds the specs that have no result yet, and forgets what failed outside of specs in earlier runs.
    pub(super) fn begin(&mut self, specs: &[Spec]) {
        self.0.retain(|_, entry| entry.suite != OUTSIDE);
        for spec in specs {
            let unknown = || Entry { suite: spec.suite.clone(), outcome: spec.unknown() };
            self.0.entry(spec.text.clone()).or_insert_with(unknown);
        }
    }

    /// Stores what a report says of the specs that were selected. One that did not run to its end does not replace an
    /// earlier result. The suite has parts that are not specs (`BeforeSuite`): a failure of one counts as a spec.
    pub(super) fn add(&mut self, selected: &[&Spec], report: &Report) {
        for found in &report.spec_reports {
            let (text, outcome) = (found.text(), found.outcome(report.out_of_time()));
            let suite = match selected.iter().find(|spec| found.is_spec() && spec.text == text) {
                Some(spec) if outcome.state != State::NotRun => spec.suite.clone(),
                None if !found.is_spec() && outcome.state == State::Failed => OUTSIDE.to_owned(),
                _ => continue,
            };
            self.0.insert(text, Entry { suite, outcome });
        }
    }

    /// The results of these specs, and of what is not a spec.
    pub(super) fn of(&self, texts: &BTreeSet<&str>) -> Self {
        let some = self.0.iter().filter(|(text, entry)| texts.contains(text.as_str()) || entry.suite == OUTSIDE);
        Self(some.map(|(text, entry)| (text.clone(), entry.clone())).collect())
    }

    /// How many specs are in this state.
    pub(super) fn count(&self, state: State) -> usize {
        self.0.values().filter(|entry| entry.outcome.state == state).count()
    }

    /// The specs that were run, then why others were not, then the counts by suite.
    pub(super) fn table(&self) -> String {
        let mut lines = Vec::new();
        for (text, Entry { outcome, .. }) in &self.0 {
            if matches!(outcome.state, State::Passed | State::Failed) {
                lines.push(format!("{:6} {:5} s  {}", outcome.state, outcome.seconds, short(text)));
                let why = outcome.why.lines().take(SHOWN);
                lines.extend(why.map(|line| format!("                  {line}")));
            }
        }
        let mut reasons: BTreeMap<(State, &str), usize> = BTreeMap::new();
        for Entry { outcome, .. } in self.0.values() {
            if matches!(outcome.state, State::Skipped | State::LeftOut) {
                *reasons.entry((outcome.state, first_line(&outcome.why))).or_default() += 1;
            }
        }
        lines.push(String::new());
        lines.extend(reasons.iter().map(|((state, why), count)| format!("{count:4} {state}: {why}")));
        lines.push(String::new());
        lines.push(row("suite", State::ALL.map(|state| state.to_string())));
        let suites: BTreeSet<&str> = self.0.values().map(|entry| entry.suite.as_str()).collect();
        for suite in suites {
            let count = |state| {
                let has = |entry: &&Entry| entry.suite == suite && entry.outcome.state == state;
                self.0.values().filter(has).count().to_string()
            };
            lines.push(row(suite, State::ALL.map(count)));
        }
        lines.push(row("all", State::ALL.map(|state| self.count(state).to_string())));
        lines.join("\n")
    }
}

/// What the table calls the parts of the suite that are not specs.
const OUTSIDE: &str = "outside of specs";
/// How many lines of a failure are shown.
const SHOWN: usize = 8;

/// One row of the table of suites.
fn row(name: &str, cells: [String; 5]) -> String {
    format!("{name:24}{}", cells.map(|cell| format!("{cell:>10}")).concat())
}

/// The text without the driver, which is always the same.
fn short(text: &str) -> &str {
    text.split_once("[Testpattern: ").map_or(text, |(_, rest)| rest)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end_matches("skipping").trim_end_matches([' ', '-'])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(suite: &str, name: &str) -> Spec {
        let text = format!("External Storage [Driver: d] [Testpattern: x] {suite} {name}");
        Spec { text, suite: suite.to_owned(), left_out: None, class: "quarry", alone: false }
    }

    /// A report that says this of one node of the suite.
    fn report(kind: &str, text: &str, state: &str, why: &str) -> Report {
        serde_json::from_value(json!({
            "SpecialSuiteFailureReasons": null,
            "SpecReports": [{
                "ContainerHierarchyTexts": null, "LeafNodeType": kind, "LeafNodeText": text,
                "State": state, "RunTime": 7_000_000_000_u64, "Failure": { "Message": why },
            }],
        }))
        .unwrap()
    }

    #[test]
    fn batches_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "0123");
        let specs = [spec("volumes", "a"), spec("volumes", "b"), spec("subPath", "c")];
        let all = [&specs[..], &[Spec { left_out: Some("no Windows"), ..spec("subPath", "d") }]].concat();
        for (spec, state, why) in [
            (&specs[0], "passed", ""),
            (&specs[1], "skipped", "Driver \"d\" does not support snapshots - skipping"),
            (&specs[2], "failed", "first\nsecond"),
            // A later run has no time for it.
            (&specs[0], "skipped", ""),
        ] {
            let mut results = Results::read(&path).unwrap();
            results.begin(&all);
            results.add(&[spec], &report("It", &spec.text, state, why));
            // Not selected.
            results.add(&[], &report("It", &specs[0].text, "failed", "of another run"));
            results.write(&path).unwrap();
        }
        let results = Results::read(&path).unwrap();
        assert_eq!(State::ALL.map(|state| results.count(state)), [1, 1, 1, 1, 0]);
        let table = results.table();
        for line in [
            "passed     7 s  x] volumes a",
            "   1 skipped: Driver \"d\" does not support snapshots",
            "   1 left out: no Windows",
            "volumes                          1         0         1         0         0",
            "all                              1         1         1         1         0",
        ] {
            assert!(table.lines().any(|found| found == line), "{line:?} is not in\n{table}");
        }
        assert!(table.contains("x] subPath c\n                  first\n                  second\n"), "{table}");
        let some = results.of(&BTreeSet::from([specs[2].text.as_str()]));
        assert_eq!(State::ALL.map(|state| some.count(state)), [0, 1, 0, 0, 0]);
    }

    #[test]
    fn a_failure_before_the_specs_counts() {
        let mut results = Results::default();
        results.add(&[], &report("SynchronizedBeforeSuite", "", "failed", "no nodes"));
        results.add(&[], &report("SynchronizedAfterSuite", "", "passed", ""));
        assert_eq!(State::ALL.map(|state| results.of(&BTreeSet::new()).count(state)), [0, 1, 0, 0, 0]);
        results.begin(&[]);
        assert_eq!(results.count(State::Failed), 0, "another run begins");
    }
}
