//! `quarry completions` and `quarry man`: what is generated from the definition of the command line.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// The options of `quarry completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell that reads them.
    shell: Shell,
}

/// The options of `quarry man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Manual {
    /// The directory for the pages of all commands; it is created. Default: the first page, on standard output.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// The script that completes `command` in a shell.
pub(crate) fn completions(command: &Command, args: &Completions) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut visible(command), command.get_name(), &mut script);
    script
}

/// Writes the pages of all `commands` and their subcommands, and returns what is to be printed: without a directory,
/// the page of the first command.
///
/// # Errors
/// A page cannot be written.
pub(crate) fn manual(commands: &[Command], args: &Manual) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    match (&args.directory, commands.first()) {
        (Some(directory), _) => write(commands, directory)
            .with_context(|| format!("cannot write the manual pages into {}", directory.display()))?,
        // As in the pages of a directory, `help` is left out.
        (None, Some(first)) => Man::new(visible(first).disable_help_subcommand(true)).render(&mut page)?,
        (None, None) => {}
    }
    Ok(page)
}

fn write(commands: &[Command], directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    commands.iter().try_for_each(|command| clap_mangen::generate_to(visible(command), directory))
}

/// A command without its hidden subcommands, which clap_complete would complete.
fn visible(command: &Command) -> Command {
    let text = |text: Option<&clap::builder::StyledStr>| text.cloned();
    let mut shown = Command::new(command.get_name().to_owned())
        .args(command.get_arguments())
        .groups(command.get_groups())
        .subcommands(command.get_subcommands().filter(|inner| !inner.is_hide_set()).map(visible))
        .subcommand_required(command.is_subcommand_required_set());
    if let Some(about) = text(command.get_about()) {
        shown = shown.about(about);
    }
    if let Some(about) = text(command.get_long_about()) {
        shown = shown.long_about(about);
    }
    if let Some(name) = command.get_bin_name() {
        shown = shown.bin_name(name.to_owned());
    }
    match command.get_version() {
        Some(version) => shown.version(version.to_owned()).propagate_version(true),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    fn quarry() -> Command {
        crate::definition()
    }

    fn script(command: &Command, shell: Shell) -> String {
        String::from_utf8(completions(command, &Completions { shell })).unwrap()
    }

    fn names(command: &Command) -> Vec<String> {
        let visible = command.get_subcommands().filter(|inner| !inner.is_hide_set());
        visible.map(|inner| inner.get_name().to_owned()).collect()
    }

    #[test]
    fn each_shell_completes_each_visible_command_and_its_options() {
        for shell in Shell::value_variants() {
            let script = script(&quarry(), *shell);
            for name in names(&quarry()) {
                assert!(script.contains(&name), "{shell}: {name}");
            }
            for option in ["problems", "certificates", "snapshot", "staging-path"] {
                assert!(script.contains(option), "{shell}: {option}");
            }
        }
        assert!(names(&quarry()).len() > 10);
    }

    #[test]
    fn what_is_hidden_stays_hidden() {
        let secret = Command::new("sesame").about("opens the door");
        let command = Command::new("cave").version("1").subcommand(Command::new("door").subcommand(secret));
        for shell in Shell::value_variants() {
            assert!(script(&command, *shell).contains("sesame"), "{shell}");
        }
        let hidden = command.mut_subcommand("door", |door| door.mut_subcommand("sesame", |secret| secret.hide(true)));
        for shell in Shell::value_variants() {
            assert!(!script(&hidden, *shell).contains("sesame"), "{shell}");
        }
        let directory = tempfile::tempdir().unwrap();
        manual(&[hidden], &Manual { directory: Some(directory.path().to_owned()) }).unwrap();
        let pages: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|page| page.unwrap().file_name()).collect();
        assert_eq!(pages.len(), 2, "{pages:?}");
    }

    #[test]
    fn each_visible_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("share/man1");
        let printed = manual(&[quarry()], &Manual { directory: Some(below.clone()) }).unwrap();
        assert!(printed.is_empty());
        let read = |name: &str| std::fs::read_to_string(below.join(format!("{name}.1"))).unwrap();
        for name in names(&quarry()) {
            let page = read(&format!("quarry-{name}"));
            assert!(page.contains(".SH OPTIONS") && page.contains(".SH DESCRIPTION"), "{name}: {page}");
            assert!(read("quarry").contains(&format!("quarry\\-{}(1)", name.replace('-', "\\-"))), "{name}");
        }
        assert!(read("quarry-csi-snapshot-create").contains("VOLUME_ID"));
        let printed = manual(&[quarry()], &Manual { directory: None }).unwrap();
        assert_eq!(String::from_utf8(printed).unwrap(), read("quarry"));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let directory = Some("/proc/none".into());
        let error = manual(&[quarry()], &Manual { directory }).unwrap_err();
        assert!(format!("{error:#}").contains("/proc/none"), "{error:#}");
    }
}
