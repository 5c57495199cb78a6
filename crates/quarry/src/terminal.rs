//! What standard output can show: the width of tables, and colours.

use std::io;

use anstream::AutoStream;
use clap::ColorChoice;

/// The heading under which --help lists the options of tables.
const TABLES: &str = "Tables";

/// The limits of a terminal. The default is for a file or a pipe: no limit to the width, and no colours.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terminal {
    /// The width in columns; `None`: no limit.
    pub(crate) width: Option<u16>,
    /// Whether it shows colours.
    pub(crate) colors: bool,
}

impl Terminal {
    /// The terminal that standard output is, if it is one. Colours also depend on the environment: NO_COLOR,
    /// CLICOLOR_FORCE, TERM.
    pub(crate) fn of_stdout() -> Self {
        Self {
            width: terminal_size::terminal_size_of(io::stdout()).map(|(terminal_size::Width(width), _)| width),
            colors: AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never,
        }
    }
}

/// The options of a command that prints tables. The last one counts: `kubectl quarry` adds its terminal's before those
/// of its user.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The width of tables, in columns; 0: no limit. Default: the terminal's; no limit if the output is no terminal.
    #[arg(long, value_name = "COLUMNS", help_heading = TABLES, overrides_with = "width")]
    width: Option<u16>,
    /// When to use colours. auto: on a terminal, unless the environment has NO_COLOR.
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = TABLES, overrides_with = "color")]
    color: ColorChoice,
}

impl Args {
    /// The terminal with what these options override.
    pub(crate) fn adapt(self, terminal: Terminal) -> Terminal {
        Terminal {
            width: match self.width {
                Some(0) => None,
                Some(width) => Some(width),
                None => terminal.width,
            },
            colors: match self.color {
                ColorChoice::Always => true,
                ColorChoice::Auto => terminal.colors,
                ColorChoice::Never => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn adapted(line: &str, terminal: Terminal) -> (Option<u16>, bool) {
        let line = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap();
        let Terminal { width, colors } = line.args.adapt(terminal);
        (width, colors)
    }

    #[test]
    fn options_override_the_terminal() {
        let (pipe, terminal) = (Terminal::default(), Terminal { width: Some(132), colors: true });
        assert_eq!(adapted("", pipe), (None, false));
        assert_eq!(adapted("", terminal), (Some(132), true));
        assert_eq!(adapted("--width 80 --color always", pipe), (Some(80), true));
        assert_eq!(adapted("--width 0 --color never", terminal), (None, false));
        assert_eq!(adapted("--width=80 --color=always --width=100 --color=never", terminal), (Some(100), false));
    }
}
