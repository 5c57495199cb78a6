//! The specs of the suite: which are run, and what became of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::report::SpecReport;
use crate::install::CLASS;

/// The class of [`crate::install::CLASS`], with immediate binding.
pub(super) const IMMEDIATE: &str = "quarry-immediate";

/// The label of specs that restore a snapshot.
const SNAPSHOTS: &str = "Feature:VolumeSnapshotDataSource";

/// A part of the text of specs that modify claims before a pod uses them: only a claim that is bound can be modified.
const MODIFIED_UNUSED: &str = "multiple pods should modify volumes";

/// Labels of specs that are not run, and why. The first that a spec has counts.
const LEFT_OUT: &[(&str, &str)] = &[
    ("Feature:Windows", "it needs nodes with Windows"),
    ("Feature:SELinux", "it needs nodes with SELinux"),
    ("Disruptive", "it stops kubelet over SSH, and the nodes have no SSH server"),
];

/// A part of the text of specs that are not run, and why.
const POPULATORS: (&str, &str) =
    ("with any volume data source", "it needs the images of a populator and of a validator, which are not built here");

/// A spec, as a dry run lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    /// The whole text, by which Ginkgo selects it.
    pub(super) text: String,
    /// The suite that it belongs to, such as `provisioning`.
    pub(super) suite: String,
    /// Why it is not run, if it is not.
    pub(super) left_out: Option<&'static str>,
    /// The StorageClass that it uses a copy of.
    pub(super) class: &'static str,
    /// Whether it runs while no other spec does.
    pub(super) alone: bool,
}

/// What became of a spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) state: State,
    /// How long it took, in seconds.
    pub(super) seconds: u64,
    /// Why it was skipped or left out, or how it failed.
    pub(super) why: String,
}

/// The states of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Passed,
    Failed,
    /// The suite skipped it: it does not apply, or needs a capability that the driver does not have.
    Skipped,
    /// It is never run here.
    LeftOut,
    /// It was not run yet, or not to its end.
    NotRun,
}

impl State {
    /// All of them, in the order of the tables.
    pub(super) const ALL: [Self; 5] = [Self::Passed, Self::Failed, Self::Skipped, Self::LeftOut, Self::NotRun];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::LeftOut => "left out",
            Self::NotRun => "not run",
        })
    }
}

impl Spec {
    pub(super) fn of(report: &SpecReport) -> Self {
        let text = report.text();
        let has = |wanted: &str| report.labels().any(|label| label == wanted);
        let by_label = LEFT_OUT.iter().find(|(label, _)| has(label)).map(|(_, why)| *why);
        let left_out = by_label.or_else(|| text.contains(POPULATORS.0).then_some(POPULATORS.1));
        let class = if has(SNAPSHOTS) || text.contains(MODIFIED_UNUSED) { IMMEDIATE } else { CLASS };
        // It creates several volumes at once from one, and waits five minutes for the last of them. On an emulated node,
        // that is not enough for two such specs at a time.
        let alone = text.contains(" in parallel");
        Self { suite: without_brackets(report.container()), left_out, class, alone, text }
    }

    /// The outcome before it was run.
    pub(super) fn unknown(&self) -> Outcome {
        let state = if self.left_out.is_some() { State::LeftOut } else { State::NotRun };
        Outcome { state, seconds: 0, why: self.left_out.unwrap_or_default().to_owned() }
    }
}

/// The text without what is in brackets: of a container, the name of the suite.
fn without_brackets(text: &str) -> String {
    let mut depth = 0_usize;
    let outside = text.chars().filter(|c| match c {
        '[' => {
            depth += 1;
            false
        }
        ']' => {
            depth = depth.saturating_sub(1);
            false
        }
        _ => depth == 0,
    });
    outside.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One of several parts of the specs, such as 1/6: the first of six.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    number: usize,
    of: usize,
}

impl Batch {
    /// All specs.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    /// Whether the item of this index (from 0) belongs to the batch. Each index belongs to exactly one of them.
    pub(super) fn has(self, index: usize) -> bool {
        index % self.of == self.number - 1
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-of-{}", self.number, self.of)
    }
}

impl FromStr for Batch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err(format!("{text:?} is not a batch; write 1/6 for the first of six")),
        }
    }
}

/// The specs of a batch whose text contains one of `only` (all, if it is empty). Specs that are left out belong to no
/// batch.
///
/// The division depends on nothing but the texts. Specs of one pattern and suite take about as long as each other, and
/// follow each other in this order; so each batch gets its share of each kind.
pub(super) fn select<'a>(specs: &'a [Spec], batch: Batch, only: &[String]) -> Vec<&'a Spec> {
    let mut selected: Vec<_> = specs.iter().filter(|spec| spec.left_out.is_none()).collect();
    selected.sort_by(|a, b| (&a.suite, &a.text).cmp(&(&b.suite, &b.text)));
    let batch = selected.into_iter().enumerate().filter(|(index, _)| batch.has(*index)).map(|(_, spec)| spec);
    batch.filter(|spec| only.is_empty() || only.iter().any(|part| spec.text.contains(part.as_str()))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn spec(container: &str, text: &str, labels: &[&str]) -> Spec {
        let report = json!({
            "ContainerHierarchyTexts": ["External Storage [Driver: d]", container],
            "LeafNodeType": "It", "LeafNodeText": text, "LeafNodeLabels": labels,
        });
        Spec::of(&serde_json::from_value(report).unwrap())
    }

    #[test]
    fn labels_decide_whether_and_with_which_class_a_spec_runs() {
        let plain = spec("[Testpattern: Dynamic PV (xfs)] [Slow] multiVolume [Slow]", "should work", &["Slow"]);
        assert_eq!((plain.suite.as_str(), plain.left_out, plain.class), ("multiVolume", None, CLASS));
        let restored = spec("[Testpattern: x] provisioning", "should restore", &[SNAPSHOTS]);
        assert_eq!((restored.left_out, restored.class), (None, IMMEDIATE));
        assert_eq!(spec("[Testpattern: x] volume-modify-stress", MODIFIED_UNUSED, &[]).class, IMMEDIATE);
        assert!(!restored.alone && spec("[Testpattern: x] provisioning", "should clone in parallel [Slow]", &[]).alone);
        for (text, labels) in [("a", &["Feature:Windows"][..]), ("b", &["Slow", "Disruptive"]), (POPULATORS.0, &[])] {
            let left_out = spec("[Testpattern: x] disruptive [Disruptive]", text, labels);
            assert!(left_out.left_out.is_some(), "{text}");
            assert_eq!(left_out.unknown().state, State::LeftOut);
        }
    }

    #[test]
    fn batches_share_everything_out_once() {
        let mut specs: Vec<_> = (0..50).map(|n| spec("[x] volumes", &format!("spec {n:02}"), &[])).collect();
        specs.push(spec("[x] volumes", "never", &["Disruptive"]));
        let batches: Vec<Batch> = (1..=6).map(|number| format!("{number}/6").parse().unwrap()).collect();
        let texts = |specs: &[Spec]| -> Vec<String> {
            batches.iter().flat_map(|batch| select(specs, *batch, &[])).map(|spec| spec.text.clone()).collect()
        };
        let all = texts(&specs);
        assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (50, 50));
        assert_eq!(select(&specs, Batch::WHOLE, &[]).len(), 50);
        assert_eq!(select(&specs, Batch::WHOLE, &["spec 1".to_owned(), "spec 20".to_owned()]).len(), 11);
        specs.reverse();
        assert_eq!(texts(&specs), all, "the order of the dry run does not matter");
    }

    #[test]
    fn an_invalid_batch_is_rejected() {
        for text in ["", "3", "0/6", "7/6", "1/0", "a/b", "1/2/3"] {
            assert!(text.parse::<Batch>().is_err(), "{text}");
        }
    }
}
