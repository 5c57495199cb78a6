//! Checks manifests against the types of the Kubernetes API and the requirements of every installation.
//!
//!     quarry-deploy-check installation FILE    what the chart renders
//!     quarry-deploy-check example FILE         what a user applies
//!     quarry-deploy-check krew FILE            the manifest for krew of a release
//!     quarry-deploy-check krew-template FILE   the same before it is filled in
//!     quarry-deploy-check monitoring FOLDER    the alerts, the dashboard and the documentation of a repository
//!     quarry-deploy-check expressions          prints the dashboard's expressions as a rule file, for promtool
//!
//! Needs neither helm nor a cluster; `deploy/check.sh` runs it on many renderings of the chart.

mod custom;
mod installation;
mod krew;
mod monitoring;
mod network;
mod nodes;
mod objects;
mod permissions;
mod read;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (what, file) = match arguments {
        [what] if what == "expressions" => {
            return Ok(writeln!(std::io::stdout(), "{}", monitoring::expressions()?)?);
        }
        [what, file] => (what, file),
        _ => bail!(
            "usage: `installation FILE`, `example FILE`, `krew FILE`, `krew-template FILE`, `monitoring FOLDER` or \
             `expressions`"
        ),
    };
    if what == "monitoring" {
        return fail_if(file, &monitoring::wrong(Path::new(file))?);
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    if let "krew" | "krew-template" = what.as_str() {
        return fail_if(file, &krew::wrong(&text, what == "krew-template").with_context(|| file.clone())?);
    }
    let objects = read::objects(&text).with_context(|| file.clone())?;
    let wrong = match what.as_str() {
        "installation" => installation::wrong(&text, &objects),
        "example" => Vec::new(),
        other => bail!("unknown command {other}: expected installation, example, krew, krew-template or monitoring"),
    };
    fail_if(file, &wrong)
}

fn fail_if(file: &str, wrong: &[String]) -> anyhow::Result<()> {
    if wrong.is_empty() { Ok(()) } else { bail!("{file}:\n{}", wrong.join("\n")) }
}
