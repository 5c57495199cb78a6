//! Kubernetes' own storage suite ("External.Storage") against Quarry.
//!
//! The specs that a run selects are named to Ginkgo one by one. Those that restore snapshots use another StorageClass,
//! so that Ginkgo runs twice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quarry_cache::Cache;
use serde_json::json;

use self::ginkgo::PROCESSES;
use self::results::Results;
use self::spec::{IMMEDIATE, Spec, State};
use crate::binaries::{self, Conformance};
use crate::cluster::Cluster;
use crate::images;
use crate::install::{self, CLASS};
use crate::objects::{attributes_class, class, with};
use crate::scenarios::snapshots::{Snapshotter, snapshot_class};

mod ginkgo;
mod report;
mod results;
mod spec;

pub use self::spec::Batch;

/// The ends of the texts of some specs, each of which tests something else, for `make e2e`.
const TELLING: &[&str] = &[
    "[Testpattern: Dynamic PV (default fs)] provisioning should provision storage with pvc data source",
    "[Testpattern: Dynamic PV (default fs)(allowExpansion)] volume-expand should resize volume when PVC is edited while \
     pod is using it",
    "[Testpattern: Dynamic PV (default fs)] subPath should be able to unmount after the subpath directory is deleted \
     [LinuxOnly]",
    "[Testpattern: Dynamic PV (block volmode)] volumeMode should not mount / map unused volumes in a pod [LinuxOnly]",
    "[Testpattern: Dynamic PV (delayed binding)] topology should provision a volume and schedule a pod with \
     AllowedTopologies",
    "[Testpattern: Dynamic PV (default fs)] read-write-once-pod should preempt lower priority pods using \
     ReadWriteOncePod volumes [Serial]",
];

/// The suite, and the specs that it has for the driver.
pub struct Suite {
    programs: Conformance,
    specs: Vec<Spec>,
}

/// Which specs are run, and for how long.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The part of the specs.
    pub batch: Batch,
    /// Only specs whose text contains one of these; all, if it is empty.
    pub only: Vec<String>,
    /// When the run ends. Specs that have not ended then count as not run.
    pub end: Option<Instant>,
}

impl Suite {
    /// Builds the suite where it is not in the cache, and lists its specs.
    ///
    /// # Errors
    /// When it cannot be built, or does not list its specs.
    pub async fn build(cache: &Cache, folder: &Path) -> Result<Self> {
        let programs = binaries::conformance(cache).await?;
        let specs = ginkgo::list(&programs, folder).await.context("cannot list the specs of the suite")?;
        Ok(Self { programs, specs })
    }

    /// The archives of the images that its pods ask for.
    ///
    /// # Errors
    /// As [`images::all`].
    pub async fn images(&self, cache: &Cache) -> Result<Vec<PathBuf>> {
        images::conformance(cache, &self.programs.agnhost).await
    }

    /// Prints the selected specs, and how many are left out.
    ///
    /// # Errors
    /// No spec is selected.
    pub fn print(&self, selection: &Selection) -> Result<()> {
        let selected = self.select(selection)?;
        for spec in &selected {
            println!("{:16}  {}", spec.class, spec.text);
        }
        let mut all = Results::default();
        all.begin(&self.specs);
        println!("{}\n{} specs selected", all.table(), selected.len());
        Ok(())
    }

    fn select(&self, selection: &Selection) -> Result<Vec<&Spec>> {
        let selected = spec::select(&self.specs, selection.batch, &selection.only);
        ensure!(!selected.is_empty(), "no spec is selected by {:?}; --list shows them", selection.only);
        Ok(selected)
    }

    /// Installs Quarry in a cluster that has the images, with all that the specs need, runs the selected specs, and
    /// stores and prints their results.
    ///
    /// # Errors
    /// When a spec failed, or none ran.
    pub async fn run(&self, cache: &Cache, cluster: &Cluster, folder: &Path, selection: &Selection) -> Result<()> {
        let selected = self.select(selection)?;
        install::volume_groups(cluster).await?;
        let _snapshotter = Snapshotter::start(cluster).await?;
        let immediate = with(class(IMMEDIATE, "main"), json!({ "volumeBindingMode": "Immediate" }));
        let attributes = attributes_class(CLASS, &json!({ "readIops": "1000" }));
        for object in [snapshot_class(), immediate, attributes] {
            let file = folder.join("object.json");
            std::fs::write(&file, object.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
            cluster.kubectl().apply(&file).await?;
        }
        let (stored, commit) = (stored(cache), commit().await);
        let file = results::file(&stored, &commit);
        let mut results = Results::read(&file)?;
        results.begin(&self.specs);
        results.write(&file)?;
        for (class, alone) in [(CLASS, false), (CLASS, true), (IMMEDIATE, false), (IMMEDIATE, true)] {
            let processes = if alone { 1 } else { PROCESSES };
            let fits = |spec: &&Spec| spec.class == class && spec.alone == alone;
            let specs: Vec<_> = selected.iter().copied().filter(fits).collect();
            let log = stored.join(format!("{commit}-{}-{class}-{processes}.log", selection.batch));
            let run = ginkgo::Run { cluster, class, processes, folder, log: &log, end: selection.end };
            if let Some(report) = run.specs(&self.programs, &specs).await? {
                results.add(&specs, &report);
                results.write(&file)?;
            }
        }
        let texts: BTreeSet<_> = selected.iter().map(|spec| spec.text.as_str()).collect();
        let results = results.of(&texts);
        println!("{}", results.table());
        let [passed, failed] = [State::Passed, State::Failed].map(|state| results.count(state));
        ensure!(failed == 0, "{failed} specs failed; see {}", stored.display());
        ensure!(passed > 0, "no spec ran; see {}", stored.display());
        Ok(())
    }

    /// Runs [`TELLING`] on a cluster that has the images and runs Quarry, with the control plane's files in `folder`.
    ///
    /// # Errors
    /// When one of them does not pass.
    pub(crate) async fn telling(&self, cluster: &Cluster, folder: &Path) -> Result<String> {
        let find = |end: &&str| {
            let found = self.specs.iter().find(|spec| spec.text.ends_with(end));
            found.with_context(|| format!("the suite has no spec {end:?}"))
        };
        let specs = TELLING.iter().map(find).collect::<Result<Vec<_>>>()?;
        let log = folder.join("suite.log");
        let run = ginkgo::Run { cluster, class: CLASS, processes: PROCESSES, folder, log: &log, end: None };
        let mut results = Results::default();
        if let Some(report) = run.specs(&self.programs, &specs).await? {
            results.add(&specs, &report);
        }
        let passed = results.count(State::Passed);
        ensure!(passed == specs.len(), "{passed} of {} specs passed:\n{}", specs.len(), results.table());
        Ok(format!("{passed} specs passed"))
    }
}

/// Prints what the batches of this commit that were run add up to. Returns how many specs failed in them.
///
/// # Errors
/// When no batch of the commit was run, or a file is damaged.
pub async fn sums(cache: &Cache) -> Result<usize> {
    let commit = commit().await;
    let path = results::file(&stored(cache), &commit);
    if !path.exists() {
        bail!("no batch of commit {commit} was run: {} does not exist", path.display());
    }
    let results = Results::read(&path)?;
    println!("commit {commit}\n{}", results.table());
    Ok(results.count(State::Failed))
}

/// The folder with the results of all commits.
fn stored(cache: &Cache) -> PathBuf {
    cache.root().join("conformance")
}

/// The hash of the checked-out commit, with `-dirty` if files were changed since; "unknown" outside a repository.
async fn commit() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let arguments = ["-C", folder, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"];
    let described = quarry_vm::run(Path::new("git"), arguments, Duration::from_secs(60)).await;
    described.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
