//! Ginkgo's report (`--json-report`): one entry for each spec, also for those that were not selected.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};

use super::spec::{Outcome, State};

/// What Ginkgo notes when `--timeout` has elapsed.
const OUT_OF_TIME: &str = "Suite Timeout Elapsed";

/// The report of a suite. Fields that are not needed here are left out.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Report {
    #[serde(default, deserialize_with = "or_null")]
    special_suite_failure_reasons: Vec<String>,
    #[serde(default, deserialize_with = "or_null")]
    pub(super) spec_reports: Vec<SpecReport>,
}

/// The report of a spec, or of a node of the suite such as `BeforeSuite`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SpecReport {
    #[serde(default, deserialize_with = "or_null")]
    container_hierarchy_texts: Vec<String>,
    #[serde(default, deserialize_with = "or_null")]
    container_hierarchy_labels: Vec<Option<Vec<String>>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    #[serde(default, deserialize_with = "or_null")]
    leaf_node_labels: Vec<String>,
    #[serde(default)]
    state: String,
    /// In nanoseconds.
    #[serde(default)]
    run_time: u64,
    failure: Option<Failure>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// Go writes an empty list as `null`.
fn or_null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Report {
    /// Reads a file with the report of one suite.
    ///
    /// # Errors
    /// It is not there, or is not such a report.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read Ginkgo's report {}", path.display()))?;
        let suites: Vec<Self> =
            serde_json::from_slice(&text).with_context(|| format!("{} is not a report of Ginkgo", path.display()))?;
        suites.into_iter().next().with_context(|| format!("{} contains no suite", path.display()))
    }

    /// Whether the suite ended because its time had elapsed.
    pub(super) fn out_of_time(&self) -> bool {
        self.special_suite_failure_reasons.iter().any(|reason| reason == OUT_OF_TIME)
    }
}

impl SpecReport {
    /// Whether this is a spec, and not a node of the suite.
    pub(super) fn is_spec(&self) -> bool {
        self.leaf_node_type == "It"
    }

    /// The text that Ginkgo selects specs by; the type of a node of the suite.
    pub(super) fn text(&self) -> String {
        let texts = self.container_hierarchy_texts.iter().chain([&self.leaf_node_text]);
        let texts: Vec<_> = texts.map(String::as_str).filter(|text| !text.is_empty()).collect();
        if texts.is_empty() { self.leaf_node_type.clone() } else { texts.join(" ") }
    }

    /// The text of the container that names pattern and suite, such as `[Testpattern: …] volumes`.
    pub(super) fn container(&self) -> &str {
        self.container_hierarchy_texts.get(1).map_or("", String::as_str)
    }

    /// All its labels.
    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        let inherited = self.container_hierarchy_labels.iter().flatten().flatten();
        inherited.chain(&self.leaf_node_labels).map(String::as_str)
    }

    /// What became of it. Specs that were skipped before they began, or cut off by the end of the suite's time, were
    /// not run.
    pub(super) fn outcome(&self, out_of_time: bool) -> Outcome {
        let why = self.failure.as_ref().map(|failure| failure.message.trim().to_owned()).unwrap_or_default();
        let state = match self.state.as_str() {
            "passed" => State::Passed,
            "skipped" if why.is_empty() => State::NotRun,
            "skipped" | "pending" => State::Skipped,
            "timedout" | "interrupted" if out_of_time => State::NotRun,
            _ => State::Failed,
        };
        Outcome { state, seconds: self.run_time / 1_000_000_000, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report as Ginkgo 2.28 writes it, shortened.
    const REPORT: &str = r#"[{
        "SuitePath": "e2e.test", "SuiteDescription": "Kubernetes e2e suite", "SuiteSucceeded": false,
        "SpecialSuiteFailureReasons": ["Suite Timeout Elapsed"],
        "SpecReports": [
            { "ContainerHierarchyTexts": null, "ContainerHierarchyLabels": null, "LeafNodeType": "SynchronizedBeforeSuite",
              "LeafNodeLabels": null, "LeafNodeText": "", "State": "failed", "RunTime": 1, "Failure": { "Message": "no nodes" } },
            { "ContainerHierarchyTexts": ["External Storage [Driver: d]", "[Testpattern: Dynamic PV (xfs)] [Slow] volumes"],
              "ContainerHierarchyLabels": [["sig-storage"], ["Slow"]], "LeafNodeType": "It", "LeafNodeLabels": ["LinuxOnly"],
              "LeafNodeText": "should store data", "State": "passed", "RunTime": 61500000000, "NumAttempts": 1 },
            { "ContainerHierarchyTexts": ["External Storage [Driver: d]", "x volumes"], "ContainerHierarchyLabels": [null, []],
              "LeafNodeType": "It", "LeafNodeText": "a", "State": "skipped", "RunTime": 0,
              "Failure": { "Message": "Driver d doesn't support ntfs -- skipping", "Location": {} } },
            { "LeafNodeType": "It", "LeafNodeText": "b", "State": "skipped", "RunTime": 0 },
            { "LeafNodeType": "It", "LeafNodeText": "c", "State": "interrupted", "RunTime": 5, "Failure": { "Message": "x" } },
            { "LeafNodeType": "It", "LeafNodeText": "d", "State": "panicked", "RunTime": 5, "Failure": { "Message": "y" } }
        ]
    }]"#;

    fn report() -> Report {
        let mut suites: Vec<Report> = serde_json::from_str(REPORT).unwrap();
        suites.remove(0)
    }

    #[test]
    fn specs_have_a_text_and_labels() {
        let report = report();
        assert!(!report.spec_reports[0].is_spec());
        assert_eq!(report.spec_reports[0].text(), "SynchronizedBeforeSuite");
        let spec = &report.spec_reports[1];
        assert!(spec.is_spec());
        let text = "External Storage [Driver: d] [Testpattern: Dynamic PV (xfs)] [Slow] volumes should store data";
        assert_eq!(spec.text(), text);
        assert_eq!(spec.labels().collect::<Vec<_>>(), ["sig-storage", "Slow", "LinuxOnly"]);
    }

    #[test]
    fn every_state_is_understood() {
        let report = report();
        assert!(report.out_of_time());
        let states: Vec<_> = report.spec_reports.iter().map(|spec| spec.outcome(true).state).collect();
        let expected = [State::Failed, State::Passed, State::Skipped, State::NotRun, State::NotRun, State::Failed];
        assert_eq!(states, expected);
        assert_eq!(report.spec_reports[4].outcome(false).state, State::Failed, "interrupted by someone");
        assert_eq!(report.spec_reports[1].outcome(true).seconds, 61);
        assert_eq!(report.spec_reports[2].outcome(true).why, "Driver d doesn't support ntfs -- skipping");
    }
}
