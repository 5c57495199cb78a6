//! `kubectl quarry`: what this program is under the name kubectl-quarry.
//!
//! On the computer of an operator it finds a pod of Quarry and runs `quarry` there. It starts kubectl for all that, so
//! it needs no credentials of its own: kubectl's contexts, plugins and proxies work as always. `forget` changes objects
//! with the operator's rights, and not with the controller's.

mod cluster;
mod forget;
mod page;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::cluster::{Access, Component};
use crate::terminal::Terminal;
use crate::{certificates, csi, logging, view};

/// The name under which kubectl finds the plugin.
pub(crate) const NAME: &str = "kubectl-quarry";
/// The name under which kubectl finds the program that completes the plugin's words.
pub(crate) const COMPLETE: &str = "kubectl_complete-quarry";

/// Ask the Quarry controller of a cluster: runs quarry in a pod of it.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    bin_name = "kubectl quarry",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Plugin {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    logging: logging::Args,
    #[command(subcommand)]
    command: Command,
}

// The options of the forwarded commands are parsed here too: a mistake is found without a cluster, and each command
// has its help and its completions.
#[derive(Debug, Subcommand)]
enum Command {
    /// Manage the certificates of the controller and the nodes that Quarry issues.
    Certificates(certificates::Tool),
    /// Make CSI calls by hand, in the controller's pod.
    Csi(csi::Args),
    /// List the disks of a node, which are free, and why the others are not; read-only.
    Disks {
        /// The node. The command runs in the pod of its node plugin.
        #[arg(long, value_name = "NAME")]
        node: String,
        #[command(flatten)]
        args: view::Disks,
    },
    /// Show what is wrong in the cluster and how to fix it; exits with failure if there are errors.
    Doctor(view::Common),
    /// Confirm that storage is gone for good, after a host came back under its name with other disks.
    Forget(forget::Args),
    /// List the nodes that the controller knows, and whether it can reach them.
    Nodes(view::Common),
    /// List the volumes and snapshots that nothing in Kubernetes names, or delete one of them.
    Orphans(view::Orphans),
    /// Open the page of the cluster in a browser, until you press Ctrl+C.
    Page(page::Args),
    /// List the pools of all nodes and their free storage.
    Pools(view::Pools),
    /// List the snapshots of all nodes.
    Snapshots(view::Snapshots),
    /// List the volumes of all nodes.
    Volumes(view::Volumes),
}

/// The same command line, for the words of the forwarded command as they are.
#[derive(Debug, Parser)]
struct Verbatim {
    #[command(flatten)]
    _access: Access,
    #[command(flatten)]
    _logging: logging::Args,
    #[command(subcommand)]
    command: Words,
}

#[derive(Debug, Subcommand)]
enum Words {
    #[command(external_subcommand)]
    All(Vec<OsString>),
}

/// The definition of the command line.
pub(crate) fn definition() -> clap::Command {
    Plugin::command()
}

/// Does what the arguments, which begin with the program's name, ask for.
///
/// # Errors
/// The arguments are wrong (this exits), kubectl cannot be run, or there is no pod.
pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let plugin = Plugin::parse_from(arguments);
    let Words::All(words) = Verbatim::parse_from(arguments).command;
    logging::start(&plugin.logging)?;
    let access = &plugin.access;
    match plugin.command {
        Command::Forget(args) => forget::run(access, &args, Terminal::of_stdout()),
        Command::Page(args) => page::open(access, &args),
        Command::Orphans(args) if args.deletes() => access.run_quarry_that_asks(&Component::Controller, words),
        Command::Certificates(_) | Command::Csi(_) => access.run_quarry(&Component::Controller, words),
        Command::Disks { node, .. } => {
            let words = without_node(words.into_iter());
            access.run_quarry(&Component::Node(node), for_terminal(words, Terminal::of_stdout()))
        }
        Command::Doctor(_)
        | Command::Nodes(_)
        | Command::Orphans(_)
        | Command::Pools(_)
        | Command::Snapshots(_)
        | Command::Volumes(_) => access.run_quarry(&Component::Controller, for_terminal(words, Terminal::of_stdout())),
    }
}

/// Prints the words that can follow, as kubectl asks for them: `arguments` are this program's name and the words after
/// `kubectl quarry`, of which the last one is to be completed.
///
/// # Errors
/// The word is not valid Unicode.
pub(crate) fn complete(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let last = arguments.len().saturating_sub(1);
    let is_option = |word: Option<&OsString>| word.is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"));
    // Options are offered only to who has begun to type one.
    let wants_option = is_option(arguments.last());
    let candidates = clap_complete::engine::complete(&mut definition(), arguments, last, None)?;
    let mut answer = String::new();
    for candidate in candidates.iter().filter(|candidate| !candidate.is_hide_set()) {
        if !wants_option && is_option(Some(&candidate.get_value().to_owned())) {
            continue;
        }
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        let help = help.lines().next().unwrap_or_default();
        answer.push_str(&format!("{}\t{help}\n", candidate.get_value().to_string_lossy()));
    }
    // To kubectl's completion, 4 means: do not complete the names of files.
    answer.push_str(":4\n");
    let _ = std::io::stdout().write_all(answer.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// The words without the option that selects the pod.
fn without_node(mut words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--node") => drop(words.next()),
            Some(text) if text.starts_with("--node=") => {}
            _ => kept.push(word),
        }
    }
    kept
}

/// The words with this terminal's options, which the `quarry` in the pod cannot find out: its output is a pipe.
fn for_terminal(mut words: Vec<OsString>, terminal: Terminal) -> Vec<OsString> {
    // `orphans` has no options before its own command.
    let has_two_words =
        words.first().is_some_and(|word| word == "orphans") && words.get(1).is_some_and(|word| word == "list");
    let after_command = words.len().min(1 + usize::from(has_two_words));
    let width = terminal.width.map(|width| format!("--width={width}"));
    let color = terminal.colors.then(|| "--color=always".to_owned());
    words.splice(after_command..after_command, width.into_iter().chain(color).map(OsString::from));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_arguments_are_consistent() {
        definition().debug_assert();
        Verbatim::command().debug_assert();
    }

    #[test]
    fn a_forwarded_command_gets_its_words_and_the_terminal() {
        let line = "kubectl-quarry -n nodes --context=k volumes --pool fast -o wide --width 70";
        let Words::All(forwarded) = Verbatim::parse_from(words(line)).command;
        assert_eq!(forwarded, words("volumes --pool fast -o wide --width 70"));
        let terminal = Terminal { width: Some(132), colors: true };
        let all = for_terminal(forwarded.clone(), terminal);
        assert_eq!(all, words("volumes --width=132 --color=always --pool fast -o wide --width 70"));
        // The pod's quarry accepts that, and the user's own width counts.
        Plugin::try_parse_from(words("kubectl-quarry").into_iter().chain(all)).unwrap();
        assert_eq!(for_terminal(forwarded.clone(), Terminal::default()), forwarded);
    }

    #[test]
    fn orphans_accept_the_options_of_the_terminal_after_their_command() {
        let terminal = Terminal { width: Some(132), colors: true };
        for line in ["orphans", "orphans -o wide", "orphans list --pool fast", "orphans --pool list"] {
            let all = for_terminal(words(line), terminal);
            assert!(all.iter().any(|word| word == "--width=132"), "{all:?}");
            Plugin::try_parse_from(words("kubectl-quarry").into_iter().chain(all)).unwrap();
        }
    }

    #[test]
    fn what_runs_only_on_hosts_is_no_command_of_the_plugin() {
        for name in ["controller", "node", "standalone", "bench"] {
            Plugin::try_parse_from(["kubectl-quarry", name]).map(drop).unwrap_err();
        }
    }
}
