//! The quarry binary: arguments and wiring only.

mod apart;
mod certificates;
mod controller;
mod csi;
mod host;
mod kubernetes;
mod logging;
mod node;
mod observe;
mod standalone;
mod view;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

/// Local storage for Kubernetes: carves each host's own disks into volumes.
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
    /// Look after the certificates of controller and nodes that Quarry issues itself.
    Certificates(certificates::Tool),
    /// Serve CSI Controller for a cluster: knows the nodes, and passes on to each what is its own.
    Controller(controller::Args),
    /// Make CSI calls by hand, to try or to debug a driver.
    Csi(csi::Args),
    /// List the disks of this host, which are free and why not; only looks, needs root and no server.
    Disks(view::Disks),
    /// Show what is wrong in the cluster, and what to do about it; fails where something does not work.
    Doctor(view::Common),
    /// Serve CSI Node on this host, and its storage to the controller.
    Node(node::Args),
    /// List the nodes that the controller knows, and whether they can be reached.
    Nodes(view::Common),
    /// List the pools of all nodes, and what they can still give.
    Pools(view::Pools),
    /// Serve CSI on this host alone: controller and node in one process, without Kubernetes.
    Standalone(standalone::Args),
    /// List the volumes of all nodes.
    Volumes(view::Volumes),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
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
        Command::Csi(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let answer = runtime.block_on(csi::run(args))?;
            // Whoever reads may have read enough: a closed pipe is no failure.
            let _ = std::io::stdout().write_all(answer.as_bytes());
        }
        Command::Certificates(tool) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let answer = runtime.block_on(certificates::run(tool))?;
            let _ = std::io::stdout().write_all(answer.as_bytes());
        }
        Command::Controller(args) => serve(controller::run(args))?,
        Command::Disks(args) => return apart::run(|| ask(view::Question::Disks(args))),
        Command::Doctor(args) => return ask(view::Question::Doctor(args)),
        Command::Node(args) => serve(node::run(args))?,
        Command::Nodes(args) => return ask(view::Question::Nodes(args)),
        Command::Pools(args) => return ask(view::Question::Pools(args)),
        Command::Standalone(args) => serve(standalone::run(args))?,
        Command::Volumes(args) => return ask(view::Question::Volumes(args)),
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(question: view::Question) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answered = runtime.block_on(view::run(question, &mut std::io::stdout().lock()));
    // A disk that does not answer is not waited for.
    runtime.shutdown_background();
    answered
}

/// How many mounts, unmounts and the like may wait for disks at once: one for each volume, so more than a node has volumes.
/// Threads are made when they are needed. With fewer, the volumes of one disk that hangs could take all of them.
const BLOCKING: usize = 4096;

fn serve(role: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // Two threads serve: the work is done by other programs and the kernel, on threads of their own.
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
        runtime.block_on(changes_end());
    }
    // A mutating lvm may still run: it is left to end by itself, and nobody waits for the thread that watches it.
    runtime.shutdown_background();
    Ok(())
}

/// How often the first process of a container looks for children that it was given.
const REAP: Duration = Duration::from_secs(5);

/// The first process of a container becomes the parent of those whose own parents end, and has to wait for them.
fn reap() {
    loop {
        std::thread::sleep(REAP);
        let reaped = quarry_exec::reap_adopted();
        if reaped > 0 {
            tracing::debug!(reaped, "processes that others left behind have ended");
        }
    }
}

/// How long a container's first process stays for the sake of commands that change something. With what work under way
/// was given before, that is less than the 60 s that the chart's pods have.
const STAY: Duration = Duration::from_secs(35);

/// Waits until no command runs that changes something. A container ends with its first process: the kernel would kill such
/// a command in the midst of its work, which nobody else ever does.
async fn changes_end() {
    let began = Instant::now();
    loop {
        let changes = quarry_exec::running().into_iter().filter(|command| command.mutation);
        let commands: Vec<String> = changes.map(|command| command.command).collect();
        if commands.is_empty() {
            return;
        }
        if began.elapsed() > STAY {
            tracing::warn!(?commands, "leaving while these run: a container's end kills them; the next start copes");
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn certificates_that_would_be_asked_for_all_the_time_are_refused() {
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
