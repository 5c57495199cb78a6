//! Runs programs of this host (apt, dpkg, cargo) and of a built image.
#![allow(clippy::disallowed_types)] // quarry-exec is for what Quarry runs in production; this builds and checks its image.

use std::io::Read;
use std::process::{ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// A command with an empty standard input. All words come from this crate; no shell reads them.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    // The same words and the same sort order in every locale.
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Runs a command to completion and returns its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {name}; is it installed?"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} failed ({}):\n{}", words(command), output.status, end(&said));
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of {name} is not UTF-8"))
}

/// Like [`run`], but passes the output to `read` as it arrives. The program's standard error is shown.
pub(crate) fn stream(command: &mut Command, read: impl FnOnce(ChildStdout) -> Result<()>) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {name}"))?;
    let printed = child.stdout.take().with_context(|| format!("{name} has no standard output"))?;
    let outcome = read(printed);
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    if !status.success() {
        bail!("{} failed ({status})", words(command));
    }
    outcome
}

/// Reads to the end, so that the program at the other end of the pipe can finish.
pub(crate) fn drain(mut rest: impl Read) -> Result<()> {
    std::io::copy(&mut rest, &mut std::io::sink()).context("cannot read to the end")?;
    Ok(())
}

/// The command as typed in a shell.
fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The last lines.
fn end(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_quotes_command_and_message() {
        let error = run(&mut command("cat", &["/no/such/file"])).unwrap_err().to_string();
        assert!(error.contains("cat /no/such/file") && error.contains("No such file"), "{error}");
        assert!(run(&mut command("no-such-program", &[])).unwrap_err().to_string().contains("no-such-program"));
    }
}
