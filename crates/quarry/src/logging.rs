//! The destination and format of the log: stderr, as text for people or JSON for collectors.

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// The options of every subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to log: a level (error, warn, info, debug, trace), or levels by module as in `info,quarry_lvm=debug`. The
    /// levels `debug` and `trace` alone leave out HTTP/2 and TLS; add `h2=debug` to see those.
    #[arg(
        long = "log",
        env = "QUARRY_LOG",
        default_value = "info",
        value_name = "FILTER",
        help_heading = "Logging",
        global = true
    )]
    filter: String,
    /// The format of a log line.
    #[arg(
        long = "log-format",
        env = "QUARRY_LOG_FORMAT",
        default_value = "text",
        help_heading = "Logging",
        global = true
    )]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Starts to write all log lines to stderr.
///
/// # Errors
/// The filter is invalid.
pub(crate) fn start(args: &Args) -> anyhow::Result<()> {
    let log = tracing_subscriber::fmt().with_env_filter(filter(&args.filter)?).with_writer(std::io::stderr);
    match args.format {
        Format::Text => log.with_ansi(AutoStream::choice(&std::io::stderr()) != ColorChoice::Never).init(),
        Format::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(true).init(),
    }
    Ok(())
}

/// What libraries log at the levels for details, each frame of a connection for example, hides what Quarry does.
const LIBRARIES: &str = "h2=info,hyper=info,hyper_util=info,rustls=info,tower=info";

fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    let is_detailed = ["debug", "trace"].iter().any(|level| text.eq_ignore_ascii_case(level));
    let words = if is_detailed { format!("{text},{LIBRARIES}") } else { text.to_owned() };
    EnvFilter::try_new(words).map_err(|error| {
        anyhow::anyhow!(
            "--log {text:?} is not a valid filter: write a level or module=level, separated by commas: {error}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_filter_is_quoted_in_the_error() {
        for good in ["info", "warn,quarry_lvm=debug", "off"] {
            filter(good).unwrap();
        }
        assert!(filter("debug").unwrap().to_string().contains("h2=info"));
        assert_eq!(filter("debug,h2=debug").unwrap().to_string(), "h2=debug,debug");
        let text = filter("quarry=loud").unwrap_err().to_string();
        assert!(text.contains("quarry=loud") && text.contains("debug"), "{text}");
    }
}
