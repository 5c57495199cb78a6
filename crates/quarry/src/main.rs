//! The quarry binary: arguments and wiring only.

mod bench;
mod certificates;
mod child;
mod confirm;
mod controller;
mod csi;
mod encryption;
mod generated;
mod host;
mod kubectl;
mod kubernetes;
mod logging;
mod node;
mod observe;
mod page;
mod standalone;
mod table;
mod terminal;
mod view;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::terminal::Terminal;

/// Local storage for Kubernetes: creates volumes on each host's own disks.
#[derive(Debug, Parser)]
#[command(
    name = "quarry",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    logging: logging::Args,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure a CSI driver: the time of each call, with many volumes at once, beside bare commands.
    Bench(Box<bench::Args>),
    /// Manage the certificates of the controller and the nodes that Quarry issues.
    Certificates(certificates::Tool),
    /// Print the script that completes this program's command line in a shell.
    Completions(generated::Completions),
    /// Serve CSI Controller for a cluster: forwards requests to the nodes.
    Controller(controller::Args),
    /// Make CSI calls by hand, to try or debug a driver.
    Csi(csi::Args),
    /// List the disks of this host, which are free, and why the others are not; read-only; needs root but no server.
    Disks(view::Disks),
    /// Show what is wrong in the cluster and how to fix it; exits with failure if there are errors.
    Doctor(view::Common),
    /// Change the passphrases of encrypted volumes.
    Encryption(encryption::Tool),
    /// Print this program's manual page, or write the pages of all commands into a directory.
    Man(generated::Manual),
    /// Serve CSI Node on this host, and give the controller access to its storage.
    Node(node::Args),
    /// List the nodes that the controller knows, and whether it can reach them.
    Nodes(view::Common),
    /// List the volumes and snapshots that nothing in Kubernetes names, or delete one of them.
    Orphans(view::Orphans),
    /// List the pools of all nodes and their free storage.
    Pools(view::Pools),
    /// List the snapshots of all nodes.
    Snapshots(view::Snapshots),
    /// Serve CSI on this host alone: controller and node in one process, without Kubernetes.
    Standalone(standalone::Args),
    /// List the volumes of all nodes.
    Volumes(view::Volumes),
}

/// The definition of the command line.
fn definition() -> clap::Command {
    Cli::command()
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    let ended = match name {
        Some(kubectl::NAME) => kubectl::run(&arguments),
        Some(kubectl::COMPLETE) => kubectl::complete(arguments),
        _ => run(Cli::parse_from(arguments)),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    logging::start(&cli.logging)?;
    match cli.command {
        Command::Bench(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return runtime.block_on(bench::run(*args));
        }
        Command::Csi(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let answer = runtime.block_on(csi::run(args))?;
            // The reader may have stopped reading: a closed pipe is not a failure.
            let _ = std::io::stdout().write_all(answer.as_bytes());
        }
        Command::Certificates(tool) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let answer = runtime.block_on(certificates::run(tool))?;
            let _ = std::io::stdout().write_all(answer.as_bytes());
        }
        Command::Completions(args) => {
            let _ = std::io::stdout().write_all(&generated::completions(&definition(), &args));
        }
        Command::Controller(args) => serve(controller::run(args))?,
        Command::Encryption(tool) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(encryption::run(tool))?;
        }
        Command::Disks(args) => return child::run(|| ask(view::Question::Disks(args))),
        Command::Doctor(args) => return ask(view::Question::Doctor(args)),
        Command::Man(args) => {
            let page = generated::manual(&[definition(), kubectl::definition()], &args)?;
            let _ = std::io::stdout().write_all(&page);
        }
        Command::Node(args) => serve(node::run(args))?,
        Command::Nodes(args) => return ask(view::Question::Nodes(args)),
        Command::Orphans(args) => return ask(view::Question::Orphans(args)),
        Command::Pools(args) => return ask(view::Question::Pools(args)),
        Command::Snapshots(args) => return ask(view::Question::Snapshots(args)),
        Command::Standalone(args) => serve(standalone::run(args))?,
        Command::Volumes(args) => return ask(view::Question::Volumes(args)),
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(question: view::Question) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answered = runtime.block_on(view::run(question, Terminal::of_stdout(), &mut std::io::stdout().lock()));
    // Do not wait for a disk that does not answer.
    runtime.shutdown_background();
    answered
}

/// How many mounts, unmounts and similar calls may wait for disks at once: one for each volume, so the limit
/// is higher than the number of volumes on a node. Threads start on demand. With a lower limit, the volumes
/// of one hung disk could take all of them.
const BLOCKING: usize = 4096;

fn serve(role: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // Two threads serve: other programs and the kernel do the work, on threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()?;
    let first = std::process::id() == 1;
    if first {
        std::thread::Builder::new().name("reap".to_owned()).spawn(reap)?;
    }
    runtime.block_on(role)?;
    if first {
        runtime.block_on(wait_for_mutations());
    }
    // A mutating lvm may still run: it finishes by itself, and nothing waits for the thread that watches it.
    runtime.shutdown_background();
    Ok(())
}

/// How often the first process of a container reaps adopted children.
const REAP: Duration = Duration::from_secs(5);

/// The first process of a container adopts orphaned processes and has to reap them.
fn reap() {
    loop {
        std::thread::sleep(REAP);
        let reaped = quarry_exec::reap_adopted();
        if reaped > 0 {
            tracing::debug!(reaped, "reaped orphaned processes");
        }
    }
}

/// How long a container's first process waits for mutating commands before it exits. Together with the time
/// that running calls get, this is shorter than the 60 s of the chart's pods.
const STAY: Duration = Duration::from_secs(35);

/// Waits until no mutating command runs. A container ends with its first process: the kernel would kill such
/// a command in the middle of its work, which Quarry never does.
async fn wait_for_mutations() {
    let began = Instant::now();
    loop {
        let changes = quarry_exec::running().into_iter().filter(|command| command.mutation);
        let commands: Vec<String> = changes.map(|command| command.command).collect();
        if commands.is_empty() {
            return;
        }
        if began.elapsed() > STAY {
            tracing::warn!(
                ?commands,
                "exiting while these commands run: the end of the container kills them; the next start recovers"
            );
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn the_page_is_only_for_loopback_addresses() {
        let parse = |address: &str| Cli::try_parse_from(["quarry", "controller", "--page", address]).map(drop);
        parse("127.0.0.1:9814").unwrap();
        let error = parse("0.0.0.0:9814").unwrap_err().to_string();
        assert!(error.contains("--page") && error.contains("is not a loopback address"), "{error}");
    }

    #[test]
    fn the_secrets_of_a_release_are_known_in_its_container() {
        for command in ["certificates", "controller"] {
            let definition = definition();
            let command = definition.find_subcommand(command).unwrap();
            let option = command.get_arguments().find(|option| option.get_long() == Some("secrets")).unwrap();
            assert_eq!(option.get_env(), Some("QUARRY_SECRETS".as_ref()));
        }
    }

    #[test]
    fn values_that_would_poll_certificates_without_a_pause_are_rejected() {
        let parse = |option: &str, value: &str| Cli::try_parse_from(["quarry", "controller", option, value]);
        for (option, refused, taken) in
            [("--certificate-settle", ["0", "2"], "3"), ("--certificate-life", ["0", "599"], "600")]
        {
            for value in refused {
                let error = parse(option, value).map(drop).unwrap_err().to_string();
                assert!(error.contains(option) && error.contains("is not in"), "{error}");
            }
            parse(option, taken).map(drop).unwrap();
        }
    }
}
