//! `quarry csi …`: CSI calls by hand, against any driver's socket.
//!
//! The flags say what a container orchestrator would say; nothing is checked here that the driver has to check. An
//! error is one line, `CODE: message`, with gRPC's name of the code.

mod answer;
mod capability;
mod client;
mod render;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use capability::Use;
use client::Client;

/// Where --help shows what every call understands.
const EVERY_CALL: &str = "Every call";

/// Which driver to ask, and for what.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The driver's socket.
    #[arg(
        long,
        env = "CSI_ENDPOINT",
        default_value = "unix:///run/quarry/csi.sock",
        value_name = "unix:///PATH",
        help_heading = EVERY_CALL,
        global = true
    )]
    endpoint: String,
    /// How the answer is printed.
    #[arg(short, long, default_value = "text", help_heading = EVERY_CALL, global = true)]
    output: Output,
    /// How long to wait for each call, in seconds; kubelet waits for 120.
    #[arg(long, default_value = "120", value_parser = seconds, value_name = "SECONDS", help_heading = EVERY_CALL, global = true)]
    timeout: Duration,
    #[command(subcommand)]
    call: Call,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Call {
    /// The driver's name and version, and whether it is ready.
    Identity,
    /// What the driver, its controller and its node service can do.
    Capabilities,
    /// Make a volume. The same name again is the same volume.
    Create {
        /// The volume's name.
        name: String,
        /// The least size, as in 1Gi.
        #[arg(long, value_parser = size, value_name = "SIZE")]
        size: Option<i64>,
        /// The largest size.
        #[arg(long, value_parser = size, value_name = "SIZE")]
        limit: Option<i64>,
        /// A parameter, as in a StorageClass; may be given several times.
        #[arg(long = "param", value_parser = pair, value_name = "KEY=VALUE")]
        parameters: Vec<(String, String)>,
        /// Where the volume must be usable: all segments together are one place.
        #[arg(long = "segment", value_parser = pair, value_name = "KEY=VALUE")]
        segments: Vec<(String, String)>,
        #[command(flatten)]
        usage: Use,
    },
    /// Delete a volume. One that is gone already counts as deleted.
    Delete {
        /// The volume's ID.
        volume_id: String,
    },
    /// Ask whether a volume can be used in a way.
    Validate {
        /// The volume's ID.
        volume_id: String,
        #[command(flatten)]
        usage: Use,
    },
    /// All volumes.
    List {
        /// Ask for at most this many at a time; all are printed anyway.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..), value_name = "ENTRIES")]
        page: i32,
    },
    /// One volume.
    Get {
        /// The volume's ID.
        volume_id: String,
    },
    /// How much room there is for new volumes.
    Capacity {
        /// A parameter, as in a StorageClass; may be given several times.
        #[arg(long = "param", value_parser = pair, value_name = "KEY=VALUE")]
        parameters: Vec<(String, String)>,
        /// Where: all segments together are one place.
        #[arg(long = "segment", value_parser = pair, value_name = "KEY=VALUE")]
        segments: Vec<(String, String)>,
    },
    /// Make a volume usable on this node: mount it at the staging path.
    Stage {
        /// The volume's ID.
        volume_id: String,
        /// A directory that exists.
        #[arg(long, value_name = "PATH")]
        staging_path: String,
        /// Something that create answered as volume_context; may be given several times.
        #[arg(long, value_parser = pair, value_name = "KEY=VALUE")]
        context: Vec<(String, String)>,
        #[command(flatten)]
        usage: Use,
    },
    /// Undo stage.
    Unstage {
        /// The volume's ID.
        volume_id: String,
        /// The directory it was staged to.
        #[arg(long, value_name = "PATH")]
        staging_path: String,
    },
    /// Hand a staged volume to a workload.
    Publish {
        /// The volume's ID.
        volume_id: String,
        /// Where the workload finds it; the driver makes it, its parent exists.
        #[arg(long, value_name = "PATH")]
        target_path: String,
        /// The directory it was staged to.
        #[arg(long, value_name = "PATH", default_value = "")]
        staging_path: String,
        /// The workload may not write.
        #[arg(long)]
        readonly: bool,
        /// Something that create answered as volume_context; may be given several times.
        #[arg(long, value_parser = pair, value_name = "KEY=VALUE")]
        context: Vec<(String, String)>,
        #[command(flatten)]
        usage: Use,
    },
    /// Undo publish.
    Unpublish {
        /// The volume's ID.
        volume_id: String,
        /// Where the workload found it.
        #[arg(long, value_name = "PATH")]
        target_path: String,
    },
    /// How full a volume is.
    Stats {
        /// The volume's ID.
        volume_id: String,
        /// Where it is staged or published.
        #[arg(long, value_name = "PATH")]
        path: String,
        /// The directory it was staged to.
        #[arg(long, value_name = "PATH", default_value = "")]
        staging_path: String,
    },
    /// The node's ID, where it is and how many volumes it takes.
    NodeInfo,
}

/// What came of a call.
#[derive(Debug)]
enum Outcome {
    /// The driver answered with this.
    Told(Value),
    /// The driver did it and had nothing to say; this tells people what was done.
    Done(String),
}

/// Makes the call and gives what is to be printed.
///
/// # Errors
/// When the flags contradict each other, nobody answers, or the driver refuses: `CODE: message`.
pub(crate) async fn run(args: Args) -> anyhow::Result<String> {
    let mut client = Client::connect(&args.endpoint, args.timeout).await?;
    let outcome = client.call(args.call).await?;
    Ok(match (args.output, outcome) {
        (Output::Text, Outcome::Told(answer)) => render::text(&answer),
        (Output::Text, Outcome::Done(what)) => format!("{what}\n"),
        (Output::Json, Outcome::Told(answer)) => format!("{answer:#}\n"),
        (Output::Json, Outcome::Done(_)) => "{}\n".to_owned(),
    })
}

/// `KEY=VALUE`; the value may hold more of the sign, or be empty.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

fn size(text: &str) -> Result<i64, String> {
    let bytes = quarry_volume::parse_size(text)?;
    i64::try_from(bytes).map_err(|_| format!("{text:?} is more than CSI can say"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    // gRPC's own limit: eight digits.
    match Duration::try_from_secs_f64(number) {
        Ok(wait) if (0.001..=99_999_999.0).contains(&number) => Ok(wait),
        _ => Err(format!("{text:?} is not between 0.001 and 99999999 seconds")),
    }
}

fn map(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().collect()
}
