//! `quarry nodes`, `pools`, `volumes`, `snapshots`, `orphans` and `doctor`, which ask the controller; and `quarry disks`,
//! which reads the disks itself. Only `quarry orphans delete` changes anything.
//!
//! Tables are for people, and in a terminal they fit its width; `-o json` is for programs: one object, sizes in bytes,
//! stable field names. Lists come in pages and each page is printed as it arrives, so that no list is too long.

mod client;
mod disks;
pub(crate) mod extras;
mod json;
mod orphans;
mod rows;
mod serve;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::ValueEnum;
use quarry_proto::view::v2;
use serde_json::{Value, json};

pub(crate) use disks::Args as Disks;
pub(crate) use orphans::Orphans;
pub(crate) use serve::serve;

use client::Client;

use crate::table::{Column, Table};
use crate::terminal::{self, Terminal};

/// The controller's socket, and the output.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    #[command(flatten)]
    format: Format,
    /// The controller's view socket.
    #[arg(long, env = "QUARRY_VIEW", default_value = "/run/quarry/view.sock", value_name = "PATH")]
    socket: PathBuf,
}

/// The output of a command.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Format {
    /// The output format.
    #[arg(short, long, default_value = "table")]
    output: Output,
    #[command(flatten)]
    terminal: terminal::Args,
}

impl Format {
    /// The terminal as tables see it.
    fn adapt(self, terminal: Terminal) -> Terminal {
        let terminal = self.terminal.adapt(terminal);
        match self.output {
            Output::Wide => Terminal { width: None, ..terminal },
            Output::Table | Output::Json => terminal,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables for people. In a terminal they fit its width: columns that have no room are left out.
    Table,
    /// Tables with all columns, however wide they are.
    Wide,
    /// JSON for programs.
    Json,
}

/// The options of `quarry pools`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pools {
    #[command(flatten)]
    common: Common,
    /// Only pools of this node.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    node: String,
}

/// The options of `quarry volumes`.
#[derive(Debug, clap::Args)]
pub(crate) struct Volumes {
    #[command(flatten)]
    common: Common,
    /// Only volumes on this node.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    node: String,
    /// Only volumes in pools with this name.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pool: String,
    /// Only volumes without a PersistentVolume.
    #[arg(long)]
    orphans: bool,
    /// Only volumes with a problem.
    #[arg(long)]
    problems: bool,
}

/// The options of `quarry snapshots`.
#[derive(Debug, clap::Args)]
pub(crate) struct Snapshots {
    #[command(flatten)]
    common: Common,
    /// Only snapshots on this node.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    node: String,
    /// Only snapshots in pools with this name.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pool: String,
    /// Only snapshots of the volume with this identifier.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    source: String,
    /// Only snapshots without a VolumeSnapshotContent.
    #[arg(long)]
    orphans: bool,
    /// Only snapshots with a problem.
    #[arg(long)]
    problems: bool,
}

/// A question.
#[derive(Debug)]
pub(crate) enum Question {
    /// The disks of this host.
    Disks(Disks),
    /// All nodes.
    Nodes(Common),
    /// Pools.
    Pools(Pools),
    /// Volumes.
    Volumes(Volumes),
    /// Snapshots.
    Snapshots(Snapshots),
    /// Volumes and snapshots that nothing names.
    Orphans(Orphans),
    /// What is wrong.
    Doctor(Common),
}

/// Asks, and prints the answer to `out`, which is `terminal`. `quarry doctor` fails if it finds errors.
///
/// # Errors
/// The controller cannot be reached or rejects the request (`CODE: message`); for disks, some could not be
/// read fully.
pub(crate) async fn run(question: Question, terminal: Terminal, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let answered = match question {
        Question::Disks(args) => disks::run(args, terminal, out).await,
        Question::Nodes(common) => nodes(&common, terminal, out).await,
        Question::Pools(pools) => self::pools(pools, terminal, out).await,
        Question::Volumes(volumes) => self::volumes(volumes, terminal, out).await,
        Question::Snapshots(snapshots) => self::snapshots(snapshots, terminal, out).await,
        Question::Orphans(args) => orphans::run(args, terminal, out).await,
        Question::Doctor(common) => doctor(&common, terminal, out).await,
    };
    match answered {
        // The reader has stopped reading.
        Err(error) if closed(&error) => Ok(ExitCode::SUCCESS),
        other => other,
    }
}

/// Whether the reader has closed the pipe.
fn closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn nodes(common: &Common, terminal: Terminal, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&common.socket, "nodes").await?;
    let page = async |page_token| client.nodes(v2::ListNodesRequest { page_token, ..Default::default() }).await;
    let list = List::new(common.format, "nodes", &rows::NODES, terminal);
    list.print_all(out, page, rows::node, json::node).await
}

async fn pools(args: Pools, terminal: Terminal, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&args.common.socket, "pools").await?;
    let request = v2::ListPoolsRequest { node: args.node, ..Default::default() };
    let page = async |page_token| client.pools(v2::ListPoolsRequest { page_token, ..request.clone() }).await;
    let list = List::new(args.common.format, "pools", &rows::POOLS, terminal);
    list.print_all(out, page, rows::pool, json::pool).await
}

async fn volumes(args: Volumes, terminal: Terminal, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&args.common.socket, "volumes").await?;
    let request = v2::ListVolumesRequest {
        node: args.node,
        pool: args.pool,
        orphans_only: args.orphans,
        problems_only: args.problems,
        ..Default::default()
    };
    let page = async |page_token| client.volumes(v2::ListVolumesRequest { page_token, ..request.clone() }).await;
    let wide = args.common.format.output == Output::Wide;
    let list = List::new(args.common.format, "volumes", &rows::volumes(args.orphans, wide), terminal);
    list.print_all(out, page, |volume| rows::volume(volume, wide), json::volume).await
}

async fn snapshots(args: Snapshots, terminal: Terminal, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&args.common.socket, "snapshots").await?;
    let request = v2::ListSnapshotsRequest {
        node: args.node,
        pool: args.pool,
        source: args.source,
        orphans_only: args.orphans,
        problems_only: args.problems,
        ..Default::default()
    };
    let page = async |page_token| client.snapshots(v2::ListSnapshotsRequest { page_token, ..request.clone() }).await;
    let row = |snapshot: &_| rows::snapshot(snapshot, SystemTime::now());
    let list = List::new(args.common.format, "snapshots", &rows::snapshots(args.orphans), terminal);
    list.print_all(out, page, row, json::snapshot).await
}

async fn doctor(common: &Common, terminal: Terminal, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&common.socket, "doctor").await?;
    let answer = client.diagnose().await?;
    match common.format.output {
        Output::Table | Output::Wide => {
            out.write_all(rows::diagnosis(&answer, common.format.adapt(terminal)).as_bytes())?;
        }
        Output::Json => writeln!(out, "{:#}", json::diagnosis(&answer))?,
    }
    out.flush()?;
    let bad = answer.findings.iter().any(|finding| finding.level() == v2::Level::Error);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A list that is printed page by page.
enum List {
    Table(Table),
    Json { name: &'static str, items: u64 },
}

impl List {
    fn new(format: Format, name: &'static str, columns: &[Column], terminal: Terminal) -> Self {
        match format.output {
            Output::Table | Output::Wide => Self::Table(Table::new(columns, format.adapt(terminal))),
            Output::Json => Self::Json { name, items: 0 },
        }
    }

    /// Prints all pages. `page`: asks for the page with that token, and returns it with the token of the next one.
    async fn print_all<T>(
        mut self,
        out: &mut impl Write,
        mut page: impl AsyncFnMut(String) -> anyhow::Result<(Vec<T>, String)>,
        row: impl Fn(&T) -> Vec<String>,
        object: impl Fn(&T) -> Value,
    ) -> anyhow::Result<ExitCode> {
        let mut token = String::new();
        loop {
            let (items, next) = page(token.clone()).await?;
            self.print(out, &items, &row, &object)?;
            if !client::next_page(&mut token, next)? {
                return self.end(out);
            }
        }
    }

    fn print<T>(
        &mut self,
        out: &mut impl Write,
        page: &[T],
        row: impl Fn(&T) -> Vec<String>,
        object: impl Fn(&T) -> Value,
    ) -> io::Result<()> {
        match self {
            Self::Table(table) => out.write_all(table.page(page.iter().map(row)).as_bytes())?,
            Self::Json { name, items } => {
                for item in page {
                    match *items {
                        0 => write!(out, "{{{}:[\n{}", json!(name), object(item))?,
                        _ => write!(out, ",\n{}", object(item))?,
                    }
                    *items += 1;
                }
            }
        }
        out.flush()
    }

    fn end(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match self {
            Self::Table(table) if table.is_empty() => writeln!(out, "none")?,
            Self::Table(table) => out.write_all(table.end().as_bytes())?,
            Self::Json { name, items: 0 } => writeln!(out, "{{{}:[]}}", json!(name))?,
            Self::Json { .. } => writeln!(out, "\n]}}")?,
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}
