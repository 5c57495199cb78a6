//! `quarry orphans`: lists the volumes and snapshots that nothing in Kubernetes names, and deletes one of them.

pub(super) mod delete;
mod show;

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::SystemTime;

use clap::Subcommand;
use quarry_proto::view::v2;
use quarry_volume::{SnapshotId, VolumeId};
use quarry_wire::view::ListedSnapshot;
use serde_json::Value;

use super::client::{Client, next_page};
use super::rows::{self, VolumeRow};
use super::{Common, Output, json};
use crate::table::{Table, wrapped};
use crate::terminal::Terminal;

/// The options of `quarry orphans`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Orphans {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the orphans; the same as without a command.
    List(List),
    /// Delete one orphan with its contents, after a confirmation.
    Delete(delete::Delete),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    common: Common,
    /// Only orphans on this node.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    node: String,
    /// Only orphans in pools with this name.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pool: String,
}

impl Orphans {
    /// Whether an orphan is to be deleted, which needs the person at the terminal.
    pub(crate) fn deletes(&self) -> bool {
        matches!(self.action, Some(Action::Delete(_)))
    }
}

/// The identifier of a volume or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Id {
    Volume(VolumeId),
    Snapshot(SnapshotId),
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let volume = text.parse().map(Self::Volume);
        volume.or_else(|_| text.parse().map(Self::Snapshot)).map_err(|_| {
            format!(
                "{text:?} is not an identifier of a volume (v1:…) or of a snapshot (s1:…): `quarry orphans` lists them"
            )
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(id) => write!(f, "volume {id}"),
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
        }
    }
}

pub(super) async fn run(args: Orphans, terminal: Terminal, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match args.action {
        None => list(args.list, terminal, out).await,
        Some(Action::List(args)) => list(args, terminal, out).await,
        Some(Action::Delete(args)) => delete::run(args, out).await,
    }
}

/// Snapshots are orphans only if the controller knows the VolumeSnapshotContents. That it does not is no failure: it then
/// shows the orphaned volumes.
const UNKNOWN_SNAPSHOTS: &str = "It is not known which snapshots are orphans: the controller was started without \
                                 --snapshot-contents, or has not listed the VolumeSnapshotContents yet.";

async fn list(args: List, terminal: Terminal, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&args.common.socket, "orphans").await?;
    let List { common, node, pool } = args;
    let volumes =
        v2::ListVolumesRequest { node: node.clone(), pool: pool.clone(), orphans_only: true, ..Default::default() };
    let volumes = all_volumes(&mut client, volumes, |_| true).await?;
    let mut is_known = true;
    // Of all snapshots, because the controller rejects a request for orphans if it does not know them.
    let snapshots = v2::ListSnapshotsRequest { node, pool, ..Default::default() };
    let snapshots = all_snapshots(&mut client, snapshots, |snapshot| {
        is_known &= snapshot.orphan.is_some();
        snapshot.orphan == Some(true)
    })
    .await?;
    match common.format.output {
        Output::Json => print_json(&volumes, is_known.then_some(snapshots.as_slice()), out)?,
        Output::Table | Output::Wide => {
            let terminal = common.format.adapt(terminal);
            let mut parts = Vec::new();
            if !volumes.is_empty() {
                let mut table = Table::new(&rows::volumes(true, false), terminal);
                parts.push(table.page(volumes.iter().map(|volume| rows::volume(volume, false))) + &table.end());
            }
            if !snapshots.is_empty() {
                let mut table = Table::new(&rows::snapshots(true), terminal);
                let now = SystemTime::now();
                parts.push(table.page(snapshots.iter().map(|listed| rows::snapshot(listed, now))) + &table.end());
            }
            if parts.is_empty() {
                parts.push("none\n".to_owned());
            }
            if !is_known {
                parts.push(wrapped(UNKNOWN_SNAPSHOTS, terminal));
            }
            out.write_all(parts.join("\n").as_bytes())?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// One object with the arrays `volumes` and `snapshots`, one entry a line. `snapshots` is null if it is not known which
/// ones are orphans.
fn print_json(volumes: &[VolumeRow], snapshots: Option<&[ListedSnapshot]>, out: &mut impl Write) -> anyhow::Result<()> {
    let lines = |objects: Vec<Value>| {
        let lines: Vec<String> = objects.iter().map(|object| format!("\n{object}")).collect();
        format!("[{}]", lines.join(","))
    };
    let volumes = lines(volumes.iter().map(json::volume).collect());
    let snapshots = match snapshots {
        Some(snapshots) => lines(snapshots.iter().map(json::snapshot).collect()),
        None => Value::Null.to_string(),
    };
    writeln!(out, "{{\"volumes\":{volumes},\n\"snapshots\":{snapshots}}}")?;
    Ok(())
}

/// The volumes of all pages that are wanted.
async fn all_volumes(
    client: &mut Client,
    request: v2::ListVolumesRequest,
    wanted: impl Fn(&VolumeRow) -> bool,
) -> anyhow::Result<Vec<VolumeRow>> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = v2::ListVolumesRequest { page_token: page_token.clone(), ..request.clone() };
        let (page, next) = client.volumes(page).await?;
        all.extend(page.into_iter().filter(&wanted));
        if !next_page(&mut page_token, next)? {
            return Ok(all);
        }
    }
}

/// The snapshots of all pages that are wanted.
async fn all_snapshots(
    client: &mut Client,
    request: v2::ListSnapshotsRequest,
    mut wanted: impl FnMut(&ListedSnapshot) -> bool,
) -> anyhow::Result<Vec<ListedSnapshot>> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = v2::ListSnapshotsRequest { page_token: page_token.clone(), ..request.clone() };
        let (page, next) = client.snapshots(page).await?;
        all.extend(page.into_iter().filter(&mut wanted));
        if !next_page(&mut page_token, next)? {
            return Ok(all);
        }
    }
}
