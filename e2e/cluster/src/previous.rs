//! The version that an upgrade starts from: a commit of this repository, built as it was, with its own chart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use quarry_cache::Cache;
use quarry_image::{Architecture, quarry};
use quarry_vm::{Build, build_static_in};

/// The commit, unless `QUARRY_UPGRADE_FROM` names another one: the last one before Quarry ran in a real Kubernetes.
/// Later ones follow with each release.
const COMMIT: &str = "b2d23b50b3abf4aabeebe2dc654481100797b079";
/// The tag of its image.
pub(crate) const TAG: &str = "quarry.dev/quarry:previous";

/// The repository's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// How long git may take.
const GIT: Duration = Duration::from_secs(120);

/// The older Quarry.
#[derive(Clone, Debug)]
pub(crate) struct Previous {
    /// The archive of its image.
    pub(crate) image: PathBuf,
    /// Its chart.
    pub(crate) chart: PathBuf,
}

/// Builds it, or finds it in the cache.
///
/// # Errors
/// When the commit is not there (a clone without history), or does not build.
pub(crate) async fn previous(cache: &Cache) -> Result<Previous> {
    let commit = std::env::var("QUARRY_UPGRADE_FROM").unwrap_or_else(|_| COMMIT.to_owned());
    let folder = cache
        .entry("previous", &quarry_cache::key([&*commit, TAG].map(str::as_bytes)), async |folder: &Path| {
            eprintln!("quarry-cluster: building the Quarry of commit {commit:.12} (once)");
            let source = source(&commit).await?;
            let build = Build { package: "quarry", bins: &["quarry"], features: &[], profile: "e2e" };
            let binary = build_static_in(&source, &build).await?.remove("quarry").context("cargo built no quarry")?;
            let build = quarry::Build {
                architecture: Architecture::of_this_host(),
                tag: TAG.to_owned(),
                output: folder.to_owned(),
                binary: Some(binary),
                created: None,
            };
            tokio::task::block_in_place(|| quarry::build(cache, &build)).context("cannot build its image")?;
            let (from, to) = (source.join("deploy/chart").display().to_string(), folder.display().to_string());
            quarry_vm::run(Path::new("cp"), ["-r", &from, &to], GIT).await.context("cannot keep its chart").map(drop)
        })
        .await?;
    Ok(Previous { image: folder.join("quarry.tar"), chart: folder.join("chart") })
}

/// The files of the commit.
async fn source(commit: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from);
    let folder = std::path::absolute(target.join("previous").join(commit)).context("where is the target folder?")?;
    crate::cluster::fresh_folder(&folder)?;
    let archive = folder.join("source.tar");
    let arguments = ["-C", ROOT, "archive", "--output", &archive.display().to_string(), commit];
    quarry_vm::run(Path::new("git"), arguments, GIT)
        .await
        .with_context(|| format!("cannot read commit {commit}; a shallow clone lacks it: git fetch --unshallow"))?;
    let (archive, into) = (archive.display().to_string(), folder.display().to_string());
    quarry_vm::run(Path::new("tar"), ["-xf", &archive, "-C", &into], GIT).await.context("cannot unpack it")?;
    Ok(folder)
}
