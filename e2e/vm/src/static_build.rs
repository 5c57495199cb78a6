//! Builds programs that run in the guest, whatever C library the host has.
//!
//! The host's glibc may be newer than the guest's, so programs for a guest are linked statically. That works
//! with the ordinary glibc target; no other toolchain is needed.
#![allow(clippy::disallowed_types)] // quarry-exec is part of what is built here.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quarry_cache::{Cache, key};
use serde_json::Value;
use tokio::process::Command;

use crate::host;

/// The guest's architecture, in Rust's words.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How long one build may take from nothing on a small machine.
const DEADLINE: Duration = Duration::from_secs(1800);

/// What to build for the guest.
#[derive(Clone, Debug)]
pub struct Build<'a> {
    /// The package in this workspace.
    pub package: &'a str,
    /// Its binaries.
    pub bins: &'a [&'a str],
    /// Features to switch on.
    pub features: &'a [&'a str],
    /// The cargo profile: `e2e` is optimized enough for an emulated processor and quick to build.
    pub profile: &'a str,
}

/// Builds statically linked programs and gives each one's path by its name. A build with nothing to do takes a moment.
///
/// # Errors
/// cargo fails (the error quotes the end of its output) or builds something other than requested.
pub async fn build_static(build: &Build<'_>) -> Result<BTreeMap<String, PathBuf>> {
    built(cargo("build"), build).await
}

/// As [`build_static`], from the files of another commit of this workspace.
///
/// It has a target folder of its own: cargo takes the crates of two workspaces for the same ones if their paths
/// within the workspace are the same, and would use what it built of this one.
///
/// # Errors
/// As [`build_static`].
pub async fn build_static_in(sources: &Path, build: &Build<'_>) -> Result<BTreeMap<String, PathBuf>> {
    built(cargo_in("build", sources, &sources.join("target")), build).await
}

async fn built(mut command: Command, build: &Build<'_>) -> Result<BTreeMap<String, PathBuf>> {
    command
        .args(["--profile", build.profile, "--package", build.package])
        .args(build.bins.iter().flat_map(|bin| ["--bin", bin]));
    if !build.features.is_empty() {
        command.arg("--features").arg(build.features.join(","));
    }
    let built = programs(command).await.with_context(|| format!("cannot build {} for the guest", build.package))?;
    for bin in build.bins {
        if !built.contains_key(*bin) {
            bail!("cargo built {} without its program {bin}", build.package);
        }
    }
    Ok(built)
}

/// Builds a package's integration tests of this name as a statically linked program, and gives its path.
///
/// # Errors
/// As [`build_static`].
pub async fn build_static_tests(package: &str, name: &str) -> Result<PathBuf> {
    let mut command = cargo("test");
    command.args(["--no-run", "--profile", "e2e", "--package", package, "--test", name]);
    let mut built =
        programs(command).await.with_context(|| format!("cannot build the tests of {package} for the guest"))?;
    built.remove(name).with_context(|| format!("cargo built {package} without its tests {name}"))
}

/// The folder of this workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Cargo, to build something of this workspace that runs in the guest.
fn cargo(what: &str) -> Command {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    cargo_in(what, &workspace(), &target)
}

/// Cargo, to build something there that runs in the guest.
fn cargo_in(what: &str, sources: &Path, target: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args([what, "--message-format=json-render-diagnostics", "--target", TARGET])
        .current_dir(sources)
        // A separate folder: different flags would make cargo rebuild everything each time.
        .env("CARGO_TARGET_DIR", target.join("static"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    for (name, _) in std::env::vars_os().filter(|(name, _)| describes_program(name)) {
        command.env_remove(name);
    }
    command
}

/// Whether `cargo run` sets this variable, to describe the program that it runs. The build script of ring runs again
/// whenever one of these changes, and then half of all crates are built again.
fn describes_program(variable: &OsStr) -> bool {
    let bytes = variable.as_encoded_bytes();
    bytes.starts_with(b"CARGO_PKG_") || bytes.starts_with(b"CARGO_MANIFEST_")
}

/// Lets cargo build, and gives the path of each program that it built by its name.
async fn programs(command: Command) -> Result<BTreeMap<String, PathBuf>> {
    let messages = host::run_command(command, DEADLINE).await?;
    Ok(messages.lines().filter_map(executable).collect())
}

/// Name and path of the program that a line of cargo's messages announces.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), path.into()))
}

/// The agent, built when its source has changed.
pub(crate) async fn agent(cache: &Cache) -> Result<PathBuf> {
    let sources: [&[u8]; 2] = [include_bytes!("bin/quarry-vm-agent.rs"), include_bytes!("protocol.rs")];
    let entry = cache
        .entry("agent", &key(sources), async |folder: &Path| {
            eprintln!("quarry-vm: building the guest's agent (once)");
            let bin = "quarry-vm-agent";
            let build = Build { package: "quarry-vm", bins: &[bin], features: &[], profile: "e2e" };
            let built = build_static(&build).await?;
            let path = built.get(bin).context("cargo built no agent")?;
            fs::copy(path, folder.join("agent")).context("cannot copy the agent into the cache")?;
            Ok(())
        })
        .await?;
    Ok(entry.join("agent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_run_says_about_its_program_is_not_passed_on() {
        for (variable, expected) in
            [("CARGO_PKG_NAME", true), ("CARGO_MANIFEST_DIR", true), ("CARGO_HOME", false), ("CARGO_TARGET_DIR", false)]
        {
            assert_eq!(describes_program(OsStr::new(variable)), expected, "{variable}");
        }
        // This test was started by cargo.
        let command = cargo("build");
        let removed: Vec<_> = command.as_std().get_envs().filter(|(_, value)| value.is_none()).collect();
        assert!(removed.contains(&(OsStr::new("CARGO_PKG_NAME"), None)), "{removed:?}");
    }

    #[test]
    fn a_program_is_found_in_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"quarry"},"executable":"/t/quarry"}"#;
        assert_eq!(executable(line), Some(("quarry".into(), "/t/quarry".into())));
        assert_eq!(executable(r#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":null}"#), None);
        assert_eq!(executable("Compiling quarry"), None);
    }
}
