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
mod memory;
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
            // It may quote a node, a disk or a process.
            let _ = writeln!(std::io::stderr(), "{}", quarry_volume::printable_lines(&format!("{error:#}")));
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
        Command::Node(args) => {
            memory::keep_little();
            serve(node::run(args))?;
        }
        Command::Nodes(args) => return ask(view::Question::Nodes(args)),
        Command::Orphans(args) => return ask(view::Question::Orphans(args)),
        Command::Pools(args) => return ask(view::Question::Pools(args)),
        Command::Snapshots(args) => return ask(view::Question::Snapshots(args)),
        Command::Standalone(args) => {
            memory::keep_little();
            serve(standalone::run(args))?;
        }
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
    let ended = runtime.block_on(role);
    end(runtime, first);
    ended
}

/// Ends a role, whether it failed or not. `first`: whether this is the first process of a container.
fn end(runtime: tokio::runtime::Runtime, first: bool) {
    if first {
        runtime.block_on(wait_for_mutations());
    }
    // A mutating lvm may still run: it finishes by itself, and nothing waits for the thread that watches it. Nor for one
    // that waits for a disk.
    runtime.shutdown_background();
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

/// Waits until no mutating command runs, and none can be started any more. A container ends with its first process: the
/// kernel would kill such a command in the middle of its work, which Quarry never does.
async fn wait_for_mutations() {
    let began = Instant::now();
    loop {
        let is_over = began.elapsed() > STAY;
        if is_over || !quarry_exec::running().iter().any(|command| command.mutation) {
            // One may have been started since that look. It is the last one.
            let left = quarry_exec::refuse_mutations();
            if left.is_empty() {
                return;
            }
            if is_over {
                let commands: Vec<String> = left.into_iter().map(|command| command.command).collect();
                tracing::warn!(
                    ?commands,
                    "exiting while these commands run: the end of the container kills them; the next start recovers"
                );
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::mpsc;

    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        definition().debug_assert();
    }

    /// The thread waits for a disk, for example.
    #[test]
    fn a_role_that_fails_ends_although_a_thread_is_stuck() {
        let (release, stuck) = mpsc::channel::<()>();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let ended = serve(async move {
                tokio::task::spawn_blocking(move || stuck.recv());
                anyhow::bail!("as configured")
            });
            sender.send(ended)
        });
        let ended = receiver.recv_timeout(Duration::from_secs(1)).expect("it ends within a second");
        assert_eq!(ended.unwrap_err().to_string(), "as configured");
        drop(release);
    }

    #[test]
    fn the_first_process_of_a_container_waits_for_mutations_and_starts_no_more() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = runtime.spawn(quarry_exec::Command::mutation("sleep").arg("0.7").run());
        while !quarry_exec::running().iter().any(|command| command.mutation) {
            std::thread::sleep(Duration::from_millis(5));
        }
        end(runtime, true);
        assert_eq!(quarry_exec::running().iter().filter(|command| command.mutation).count(), 0);
        drop(running);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let refused = runtime.block_on(quarry_exec::Command::mutation("true").run()).unwrap_err();
        assert!(matches!(refused, quarry_exec::Error::Stopping { .. }), "{refused}");
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

    /// The source files below a folder.
    fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let below = |path: std::path::PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
        entries.flat_map(below).filter(|path| path.extension() == Some("rs".as_ref())).collect()
    }

    /// The commands between backticks in the text of a source file, with `x` for what is filled in.
    fn commands(source: &str) -> Vec<String> {
        let is_text = |line: &&str| !line.trim_start().starts_with("//");
        let text: String = source.lines().filter(is_text).map(|line| line.trim_start().to_owned() + "\n").collect();
        // A text goes on in the next line after a backslash.
        let text = text.replace("\\\n", "");
        let quoted = text.split('`').filter(|quoted| quoted.starts_with("quarry ") && !quoted.contains('\n'));
        let filled = |command: &str| {
            let mut parts = command.split('{');
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |done, part| done + "x" + part.split_once('}').map_or("", |(_, rest)| rest))
        };
        quoted.map(filled).collect()
    }

    #[test]
    fn commands_in_a_text_are_found() {
        // With backticks, the test below would find these, too.
        let source = "// 'quarry no'\n\"see 'quarry a --b {} \\\n   --c {name}' and 'ls'\"".replace('\'', "`");
        assert_eq!(commands(&source), ["quarry a --b x --c x"]);
    }

    #[test]
    fn commands_in_messages_can_be_run() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
        for path in sources(crates) {
            for command in commands(&std::fs::read_to_string(&path).unwrap()) {
                // A server is only named: its options are in a unit or a manifest.
                let serves = ["controller", "node", "standalone"].contains(&command.split(' ').nth(1).unwrap());
                match Cli::try_parse_from(command.split(' ')).map(drop) {
                    Err(error) if serves && error.kind() == ErrorKind::MissingRequiredArgument => {}
                    Err(error) => wrong.push(format!("{}: {command}: {error}", path.display())),
                    Ok(()) => {}
                }
                seen.insert(command);
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        for command in ["quarry volumes --node x --pool x", "quarry certificates rotate", "quarry disks"] {
            assert!(seen.contains(command), "{seen:?}");
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
