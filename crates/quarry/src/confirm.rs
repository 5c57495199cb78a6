//! Asks the person at the terminal before something that cannot be undone.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use anyhow::bail;

/// The answer that agrees.
const AGREED: &str = "yes";

/// Whether the person who started this program agrees. `yes`: they have agreed on the command line already, with `--yes`.
/// `question` is one sentence without its end.
///
/// # Errors
/// The person cannot be asked, because standard input is no terminal.
pub(crate) fn confirmed(yes: bool, question: &str) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        bail!("nothing was changed: standard input is no terminal, so you cannot be asked; confirm with --yes");
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question} Type {AGREED} to go on: ")?;
    stderr.flush()?;
    agrees(&mut io::stdin().lock())
}

/// Whether the next line agrees. The end of the input does not.
fn agrees(input: &mut impl BufRead) -> anyhow::Result<bool> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line.trim() == AGREED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_agrees() {
        for (line, expected) in [
            ("yes\n", true),
            (" yes \r\n", true),
            ("", false),
            ("\n", false),
            ("y\n", false),
            ("YES\n", false),
            ("yes please\n", false),
            ("no\nyes\n", false),
        ] {
            assert_eq!(agrees(&mut line.as_bytes()).unwrap(), expected, "{line:?}");
        }
    }

    #[test]
    fn the_option_answers_without_a_terminal() {
        assert!(confirmed(true, "Really?").unwrap());
    }
}
