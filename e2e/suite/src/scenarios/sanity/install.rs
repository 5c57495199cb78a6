//! Installs csi-sanity: the Go client builds a fixed version, which is kept in the cache next to the guests'
//! images.
#![allow(clippy::disallowed_types)] // quarry-exec is part of what is tested.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use quarry_cache::Cache;
use tokio::process::Command;
use tokio::sync::OnceCell;

/// The version whose specs [`super`] expects.
pub const VERSION: &str = "v5.6.0";
const PACKAGE: &str = "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity";
/// What csi-sanity asks for.
const GO: (u32, u32) = (1, 25);
/// From this version on, an older Go downloads the one that it needs.
const GO_FETCHES: (u32, u32) = (1, 21);
/// For a first build from nothing on a small machine.
const DEADLINE: Duration = Duration::from_secs(900);

static INSTALLED: OnceCell<PathBuf> = OnceCell::const_new();

/// The path of csi-sanity on the host.
pub async fn csi_sanity() -> Result<PathBuf> {
    INSTALLED.get_or_try_init(install).await.cloned()
}

async fn install() -> Result<PathBuf> {
    let cache = Cache::open()?;
    let folder = cache.root().join(format!("csi-sanity-{VERSION}"));
    let program = folder.join("csi-sanity");
    if program.is_file() {
        return Ok(program);
    }
    require_go().await?;
    println!("building csi-sanity {VERSION} …");
    // Private to this process until it is complete; a second process that does the same loses only time.
    let partial = cache.root().join(format!("csi-sanity-{VERSION}.{}.partial", std::process::id()));
    std::fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let mut command = go();
    command.args(["install", "-trimpath", "-ldflags=-s -w", &format!("{PACKAGE}@{VERSION}")]);
    command.env("GOBIN", &partial).env("CGO_ENABLED", "0");
    let built = run(command).await.with_context(|| format!("cannot build {PACKAGE}@{VERSION}"));
    if built.is_ok() && !program.is_file() {
        // The second of two processes finds the folder in use by the same program.
        if let Err(error) = std::fs::rename(&partial, &folder)
            && !program.is_file()
        {
            return Err(error).with_context(|| format!("cannot move csi-sanity to {}", folder.display()));
        }
    }
    let _ = std::fs::remove_dir_all(&partial);
    built?;
    Ok(program)
}

fn go() -> Command {
    let mut command = Command::new("go");
    // A Go that is too old downloads the one that the module names, through the same proxy.
    command.env("GOTOOLCHAIN", "auto").current_dir(std::env::temp_dir());
    command
}

async fn require_go() -> Result<()> {
    let mut command = go();
    command.args(["env", "GOVERSION"]);
    let need = format!(
        "csi-sanity {VERSION} is built with Go {}.{} or newer (or {}.{}, which fetches it): install it from \
         https://go.dev/dl/ or `apt-get install golang-go`, and have `go` on the PATH",
        GO.0, GO.1, GO_FETCHES.0, GO_FETCHES.1
    );
    let found = run(command).await.with_context(|| need.clone())?;
    if parse(found.trim()).is_none_or(|version| version < GO_FETCHES) {
        bail!("the Go that is found here is {:?}; {need}", found.trim());
    }
    Ok(())
}

/// `go1.26.8` as (1, 26).
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

async fn run(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(DEADLINE, output)
        .await
        .with_context(|| format!("go took longer than {} s", DEADLINE.as_secs()))?
        .context("cannot start go")?;
    if !output.status.success() {
        bail!("go ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_read() {
        assert_eq!(parse("go1.26.8"), Some((1, 26)));
        assert_eq!(parse("go1.25rc1"), Some((1, 25)));
        assert_eq!(parse("devel"), None);
        assert!(parse("go1.9").unwrap() < GO_FETCHES && parse("go1.24.4").unwrap() > GO_FETCHES);
    }
}
