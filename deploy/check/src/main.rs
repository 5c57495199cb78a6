//! Checks manifests against the types of the Kubernetes API and the requirements of every installation.
//!
//!     quarry-deploy-check installation FILE    what the chart renders
//!     quarry-deploy-check example FILE         what a user applies
//!
//! Needs neither helm nor a cluster; `deploy/check.sh` runs it on many renderings of the chart.

mod installation;
mod network;
mod nodes;
mod objects;
mod permissions;
mod read;

use std::io::Write as _;
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
    let [what, file] = arguments else { bail!("usage: `installation FILE` or `example FILE`") };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let objects = read::objects(&text).with_context(|| file.clone())?;
    let wrong = match what.as_str() {
        "installation" => installation::wrong(&text, &objects),
        "example" => Vec::new(),
        other => bail!("unknown command {other}: expected installation or example"),
    };
    if wrong.is_empty() { Ok(()) } else { bail!("{file}:\n{}", wrong.join("\n")) }
}
