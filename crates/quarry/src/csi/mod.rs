//! `quarry csi …`: CSI calls by hand, against any driver's socket.
//!
//! The flags express what a container orchestrator would send; nothing is checked here that the driver has to
//! check. An error is one line, `CODE: message`, with the gRPC name of the code.

mod answer;
pub(crate) mod capability;
mod client;
mod render;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use capability::Use;
use client::Client;

/// The heading under which --help lists the options of every call.
const EVERY_CALL: &str = "Every call";

/// The driver to call, and the call.
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
    /// The output format.
    #[arg(short, long, default_value = "text", help_heading = EVERY_CALL, global = true)]
    output: Output,
    /// The timeout of each call, in seconds; kubelet uses 120.
    #[arg(long, default_value = "120", value_parser = seconds, value_name = "SECONDS", help_heading = EVERY_CALL, global = true)]
    timeout: Duration,
    #[command(subcommand)]
    call: Call,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Call {
    /// Show the driver's name and version, and whether it is ready.
    Identity,
    /// Show the capabilities of the driver, its controller and its node service.
    Capabilities,
    /// Create a volume. The call is idempotent: the same name returns the same volume.
    Create {
        /// The volume's name.
        name: String,
        /// The minimum size, as in 1Gi.
        #[arg(long, value_parser = size, value_name = "SIZE")]
        size: Option<i64>,
        /// The maximum size.
        #[arg(long, value_parser = size, value_name = "SIZE")]
        limit: Option<i64>,
        /// A parameter, as in a StorageClass; may be given several times.
        #[arg(long = "param", value_parser = pair, value_name = "KEY=VALUE")]
        parameters: Vec<(String, String)>,
        /// Where the volume must be accessible; all segments together describe one topology.
        #[arg(long = "segment", value_parser = pair, value_name = "KEY=VALUE")]
        segments: Vec<(String, String)>,
        /// Fill it from the snapshot with this ID.
        #[arg(long, value_name = "SNAPSHOT_ID", conflicts_with = "from_volume")]
        from_snapshot: Option<String>,
        /// Fill it from the volume with this ID.
        #[arg(long, value_name = "VOLUME_ID")]
        from_volume: Option<String>,
        #[command(flatten)]
        usage: Use,
    },
    /// Delete a volume. A volume that does not exist counts as deleted.
    Delete {
        /// The volume's ID.
        volume_id: String,
    },
    /// Check whether a volume supports a use.
    Validate {
        /// The volume's ID.
        volume_id: String,
        #[command(flatten)]
        usage: Use,
    },
    /// List all volumes.
    List {
        /// The page size; all pages are printed.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..), value_name = "ENTRIES")]
        page: i32,
    },
    /// Show one volume.
    Get {
        /// The volume's ID.
        volume_id: String,
    },
    /// Show the free capacity for new volumes.
    Capacity {
        /// A parameter, as in a StorageClass; may be given several times.
        #[arg(long = "param", value_parser = pair, value_name = "KEY=VALUE")]
        parameters: Vec<(String, String)>,
        /// Where to look; all segments together describe one topology.
        #[arg(long = "segment", value_parser = pair, value_name = "KEY=VALUE")]
        segments: Vec<(String, String)>,
    },
    /// Stage a volume on this node: mount it at the staging path.
    Stage {
        /// The volume's ID.
        volume_id: String,
        /// An existing directory.
        #[arg(long, value_name = "PATH")]
        staging_path: String,
        /// An entry of the volume_context that create returned; may be given several times.
        #[arg(long, value_parser = pair, value_name = "KEY=VALUE")]
        context: Vec<(String, String)>,
        #[command(flatten)]
        usage: Use,
    },
    /// Unstage a volume.
    Unstage {
        /// The volume's ID.
        volume_id: String,
        /// The directory where it is staged.
        #[arg(long, value_name = "PATH")]
        staging_path: String,
    },
    /// Publish a staged volume to a workload.
    Publish {
        /// The volume's ID.
        volume_id: String,
        /// The path in the workload's filesystem; its parent must exist, the driver creates the rest.
        #[arg(long, value_name = "PATH")]
        target_path: String,
        /// The directory where it is staged.
        #[arg(long, value_name = "PATH", default_value = "")]
        staging_path: String,
        /// Publish it read-only.
        #[arg(long)]
        readonly: bool,
        /// An entry of the volume_context that create returned; may be given several times.
        #[arg(long, value_parser = pair, value_name = "KEY=VALUE")]
        context: Vec<(String, String)>,
        #[command(flatten)]
        usage: Use,
    },
    /// Unpublish a volume.
    Unpublish {
        /// The volume's ID.
        volume_id: String,
        /// The path where it is published.
        #[arg(long, value_name = "PATH")]
        target_path: String,
    },
    /// Show how full a volume is.
    Stats {
        /// The volume's ID.
        volume_id: String,
        /// The path where it is staged or published.
        #[arg(long, value_name = "PATH")]
        path: String,
        /// The directory where it is staged.
        #[arg(long, value_name = "PATH", default_value = "")]
        staging_path: String,
    },
    /// Take, delete and show snapshots.
    #[command(subcommand)]
    Snapshot(SnapshotCall),
    /// Show the node's ID, topology and maximum number of volumes.
    NodeInfo,
}

#[derive(Debug, Subcommand)]
enum SnapshotCall {
    /// Take a snapshot. The call is idempotent: the same name returns the same snapshot.
    Create {
        /// The snapshot's name.
        name: String,
        /// The ID of the volume to take it from.
        #[arg(long, value_name = "VOLUME_ID")]
        source: String,
        /// A parameter, as in a VolumeSnapshotClass; may be given several times.
        #[arg(long = "param", value_parser = pair, value_name = "KEY=VALUE")]
        parameters: Vec<(String, String)>,
    },
    /// Delete a snapshot. A snapshot that does not exist counts as deleted.
    Delete {
        /// The snapshot's ID.
        snapshot_id: String,
    },
    /// List snapshots.
    List {
        /// Only those of the volume with this ID.
        #[arg(long, default_value = "", hide_default_value = true, value_name = "VOLUME_ID")]
        source: String,
        /// Only the one with this ID.
        #[arg(long, default_value = "", hide_default_value = true, value_name = "SNAPSHOT_ID")]
        id: String,
        /// The page size; all pages are printed.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..), value_name = "ENTRIES")]
        page: i32,
    },
    /// Show one snapshot.
    Get {
        /// The snapshot's ID.
        snapshot_id: String,
    },
}

/// The result of a call.
#[derive(Debug)]
enum Outcome {
    /// The driver returned this answer.
    Answer(Value),
    /// The call returned nothing; this text says what was done.
    Done(String),
}

/// Makes the call and returns the text to print.
///
/// # Errors
/// The flags contradict each other, nothing listens on the socket, or the driver rejects the call: `CODE:
/// message`.
pub(crate) async fn run(args: Args) -> anyhow::Result<String> {
    let mut client = Client::connect(&args.endpoint, args.timeout).await?;
    let outcome = client.call(args.call).await?;
    Ok(match (args.output, outcome) {
        (Output::Text, Outcome::Answer(answer)) => render::text(&answer),
        (Output::Text, Outcome::Done(what)) => format!("{what}\n"),
        (Output::Json, Outcome::Answer(answer)) => format!("{answer:#}\n"),
        (Output::Json, Outcome::Done(_)) => "{}\n".to_owned(),
    })
}

/// Deletes a volume, as `quarry csi delete` does.
///
/// # Errors
/// As for [`run`].
pub(crate) async fn delete_volume(endpoint: &str, timeout: Duration, volume_id: String) -> anyhow::Result<()> {
    Client::connect(endpoint, timeout).await?.call(Call::Delete { volume_id }).await.map(drop)
}

/// Deletes a snapshot, as `quarry csi snapshot delete` does.
///
/// # Errors
/// As for [`run`].
pub(crate) async fn delete_snapshot(endpoint: &str, timeout: Duration, snapshot_id: String) -> anyhow::Result<()> {
    let call = Call::Snapshot(SnapshotCall::Delete { snapshot_id });
    Client::connect(endpoint, timeout).await?.call(call).await.map(drop)
}

/// `KEY=VALUE`; the value may be empty or contain more `=`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

pub(crate) fn size(text: &str) -> Result<i64, String> {
    let bytes = quarry_volume::parse_size(text)?;
    i64::try_from(bytes).map_err(|_| format!("{text:?} is larger than CSI allows"))
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    // gRPC's own limit: eight digits.
    match Duration::try_from_secs_f64(number) {
        Ok(wait) if (0.001..=99_999_999.0).contains(&number) => Ok(wait),
        _ => Err(format!("{text:?} is not between 0.001 and 99999999 seconds")),
    }
}

pub(crate) fn map(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().collect()
}
