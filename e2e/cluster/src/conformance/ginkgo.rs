//! The command lines of the suite: a dry run, which lists the specs, and a run of some of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use quarry_vm::Daemon;

use super::report::Report;
use super::spec::Spec;
use crate::binaries::Conformance;
use crate::cluster::Cluster;
use crate::install::CLASS;

/// The definition of the driver for the suite. `CLASS` in it stands for the StorageClass.
const DEFINITION: &str = include_str!("../../conformance/driver.yaml");
/// How long a dry run may take.
const LISTING: Duration = Duration::from_secs(600);
/// How many specs run at a time. They wait most of their time, and two processors carry two nodes.
pub(super) const PROCESSES: u8 = 2;

/// Lists the specs of the suite for the driver. It needs no cluster.
pub(super) async fn list(programs: &Conformance, folder: &Path) -> Result<Vec<Spec>> {
    let path = folder.join("specs.json");
    let arguments = [
        "-ginkgo.dry-run".to_owned(),
        "-ginkgo.focus=External.Storage".to_owned(),
        format!("-ginkgo.json-report={}", path.display()),
        "-provider=local".to_owned(),
        format!("-storage.testdriver={}", definition(folder, CLASS)?.display()),
    ];
    quarry_vm::run(&programs.tests, arguments, LISTING).await?;
    let report = Report::read(&path)?;
    let specs = report.spec_reports.iter().filter(|spec| spec.is_spec()).map(Spec::of);
    Ok(specs.filter(|spec| spec.text.starts_with("External Storage")).collect())
}

/// Writes the definition of the driver, with a class.
fn definition(folder: &Path, class: &str) -> Result<PathBuf> {
    let path = folder.join(format!("driver-{class}.yaml"));
    let text = DEFINITION.replace("FromExistingClassName: CLASS", &format!("FromExistingClassName: {class}"));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// One run of Ginkgo.
pub(super) struct Run<'a> {
    pub(super) cluster: &'a Cluster,
    /// The StorageClass that the specs copy.
    pub(super) class: &'a str,
    /// How many of them run at a time.
    pub(super) processes: u8,
    /// A folder for files that are not kept.
    pub(super) folder: &'a Path,
    /// The file for its output.
    pub(super) log: &'a Path,
    /// When it ends.
    pub(super) end: Option<Instant>,
}

impl Run<'_> {
    /// Runs these specs; returns no report if there are none, or no time is left.
    ///
    /// # Errors
    /// Ginkgo does not start, or writes no report. A spec that fails is not an error.
    pub(super) async fn specs(&self, programs: &Conformance, specs: &[&Spec]) -> Result<Option<Report>> {
        // Ginkgo's default timeout is an hour, and a full run takes longer.
        let left = self.end.map_or(Duration::from_secs(24 * 3600), |end| end.saturating_duration_since(Instant::now()));
        if specs.is_empty() || left.is_zero() {
            return Ok(None);
        }
        println!("      {} specs with the class {}; {}", specs.len(), self.class, self.log.display());
        let name = format!("report-{}-{}.json", self.class, self.processes);
        let focus: Vec<_> = specs.iter().map(|spec| format!("{}$", literally(&spec.text))).collect();
        let kubectl = self.cluster.kubectl().program();
        let arguments = [
            "run".to_owned(),
            "-v".to_owned(),
            "--no-color".to_owned(),
            format!("--procs={}", self.processes),
            format!("--timeout={}s", left.as_secs()),
            format!("--focus={}", focus.join("|")),
            format!("--output-dir={}", self.folder.display()),
            format!("--json-report={name}"),
            programs.tests.display().to_string(),
            "--".to_owned(),
            "-provider=local".to_owned(),
            format!("-kubeconfig={}", self.cluster.kubeconfig().display()),
            format!("-kubectl-path={}", kubectl.display()),
            format!("-e2e-output-dir={}", self.folder.display()),
            format!("-storage.testdriver={}", definition(self.folder, self.class)?.display()),
        ];
        if let Some(folder) = self.log.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        // It fails when a spec fails; the report says more.
        Daemon::start(&programs.ginkgo, arguments, self.log)?.wait().await?;
        let report = Report::read(&self.folder.join(name));
        report.map(Some).with_context(|| format!("see {}", self.log.display()))
    }
}

/// A regular expression of Go that matches nothing but this text.
fn literally(text: &str) -> String {
    let escaped = text.chars().flat_map(|c| {
        let backslash = (c.is_ascii_punctuation()).then_some('\\');
        backslash.into_iter().chain([c])
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punctuation_has_no_meaning() {
        assert_eq!(literally("[x: a (b)] c's."), r"\[x\: a \(b\)\] c\'s\.");
    }

    #[test]
    fn the_definition_names_the_class() {
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(definition(folder.path(), "other").unwrap()).unwrap();
        assert!(text.contains("FromExistingClassName: other\n"), "{text}");
    }
}
