//! Deletes an orphan, after two checks that it is one: the controller's, and a list that is read from the Kubernetes API.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use quarry_kubernetes::{Connection, Options, holders_of_snapshot, holders_of_volume};
use quarry_proto::view::v2;
use quarry_transport::call::code_name;
use quarry_volume::some_of;
use tonic::Code;

use super::show::{self, Orphan};
use super::{Client, Id, all_snapshots, all_volumes};
use crate::{confirm, csi};

/// The options of `quarry orphans delete`.
#[derive(Debug, clap::Args)]
pub(in crate::view) struct Delete {
    /// The identifier of the volume or the snapshot, as `quarry orphans` lists it.
    #[arg(value_name = "ID")]
    id: Id,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// The controller's view socket.
    #[arg(long, env = "QUARRY_VIEW", default_value = "/run/quarry/view.sock", value_name = "PATH")]
    socket: PathBuf,
    /// The controller's CSI socket.
    #[arg(long, env = "CSI_ENDPOINT", default_value = "unix:///run/quarry/csi.sock", value_name = "unix:///PATH")]
    endpoint: String,
    /// How long to wait until it is deleted, in seconds.
    #[arg(long, default_value = "120", value_parser = csi::seconds, value_name = "SECONDS")]
    timeout: Duration,
    /// A kubeconfig file; default: the pod's service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Knows the objects in Kubernetes that name a volume or a snapshot.
pub(in crate::view) trait Holders {
    /// The names of the PersistentVolumes or VolumeSnapshotContents that name it now.
    async fn holders(&self, id: &Id) -> anyhow::Result<Vec<String>>;
}

impl Holders for Connection {
    async fn holders(&self, id: &Id) -> anyhow::Result<Vec<String>> {
        let holders = match id {
            Id::Volume(id) => holders_of_volume(self, id).await,
            Id::Snapshot(id) => holders_of_snapshot(self, id).await,
        };
        holders.map_err(|error| anyhow::anyhow!("{}: {error}", code_name(Code::Unavailable)))
    }
}

pub(super) async fn run(args: Delete, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    // The controller answers first: without Kubernetes it knows no orphans, and there is no API to connect to.
    find(&mut Client::connect(&args.socket, "orphans delete").await?, &args.id).await?;
    let variables = Options::from_variables(|name| std::env::var(name).ok());
    // The name of the pod is only for events.
    let pod = variables.pod.or_else(|| Some("quarry".to_owned()));
    let holders = quarry_kubernetes::connect(Options { kubeconfig: args.kubeconfig.clone(), pod, ..variables }).await?;
    delete(&args, &holders, out).await
}

/// Shows the orphan, asks, and deletes it.
///
/// # Errors
/// It is not an orphan, that is not known, or the controller rejects the deletion.
pub(in crate::view) async fn delete(
    args: &Delete,
    holders: &impl Holders,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let orphan = check(args, holders).await?;
    out.write_all(show::text(&orphan).as_bytes())?;
    out.flush()?;
    if !confirm::confirmed(args.yes, "Delete it?")? {
        writeln!(out, "nothing was deleted")?;
        return Ok(ExitCode::FAILURE);
    }
    // The answer may have taken long.
    check(args, holders).await?;
    match &args.id {
        Id::Volume(id) => csi::delete_volume(&args.endpoint, args.timeout, id.to_string()).await?,
        Id::Snapshot(id) => csi::delete_snapshot(&args.endpoint, args.timeout, id.to_string()).await?,
    }
    writeln!(out, "deleted {}", args.id)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The orphan, as its node last reported it.
///
/// # Errors
/// It is not an orphan at this moment, or this is not known: the error says why, and names the object that names it.
async fn check(args: &Delete, holders: &impl Holders) -> anyhow::Result<Orphan> {
    let id = &args.id;
    let mut client = Client::connect(&args.socket, "orphans delete").await?;
    let orphan = find(&mut client, id).await?;
    let names = holders.holders(id).await?;
    if !names.is_empty() {
        bail!(
            "{}: {id} is not an orphan: {} {} {} it. Delete the claim or the VolumeSnapshot instead, if it is not needed",
            code_name(Code::FailedPrecondition),
            kind(id),
            some_of(&names),
            if names.len() == 1 { "names" } else { "name" }
        );
    }
    if !orphan.is_orphan() {
        bail!(
            "{}: {id} is not an orphan yet: no {} names it now, but one did a moment ago, or it was created or filled by a \
             copy in the last five minutes. Try again in five minutes",
            code_name(Code::FailedPrecondition),
            kind(id)
        );
    }
    if !orphan.is_reachable() {
        bail!(
            "{}: {id} cannot be deleted now: its node is down, and what is known is only what it last reported. See \
             `quarry nodes`",
            code_name(Code::Unavailable)
        );
    }
    Ok(orphan)
}

/// The objects that name a volume or a snapshot.
fn kind(id: &Id) -> &'static str {
    match id {
        Id::Volume(_) => "PersistentVolume",
        Id::Snapshot(_) => "VolumeSnapshotContent",
    }
}

/// The volume or the snapshot, whether it is an orphan or not.
///
/// # Errors
/// The controller does not know it, or does not know whether it is an orphan.
async fn find(client: &mut Client, id: &Id) -> anyhow::Result<Orphan> {
    let found = match id {
        Id::Volume(id) => {
            let request = v2::ListVolumesRequest { node: id.node.clone(), ..Default::default() };
            let handle = id.to_string();
            let volume = all_volumes(client, request, |volume| volume.id == handle).await?.pop();
            match volume {
                Some(volume) => {
                    let request = v2::ListSnapshotsRequest { source: handle, ..Default::default() };
                    let snapshots = all_snapshots(client, request, |_| true).await?;
                    Some(Orphan::Volume(Box::new(volume), snapshots))
                }
                None => None,
            }
        }
        Id::Snapshot(id) => {
            let request = v2::ListSnapshotsRequest { node: id.node.clone(), ..Default::default() };
            let snapshot = all_snapshots(client, request, |listed| listed.snapshot.id == *id).await?.pop();
            snapshot.map(|snapshot| Orphan::Snapshot(Box::new(snapshot)))
        }
    };
    let Some(found) = found else {
        bail!(
            "{}: the controller knows no {id}: either it was deleted already, or the identifier is wrong. `quarry orphans` \
             lists the orphans",
            code_name(Code::NotFound)
        );
    };
    if found.orphan().is_none() {
        bail!(
            "{}: it is not known whether {id} is an orphan: the controller does not know the {}s (see `quarry doctor`)",
            code_name(Code::FailedPrecondition),
            kind(id)
        );
    }
    Ok(found)
}
