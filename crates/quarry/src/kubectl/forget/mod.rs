//! `kubectl quarry forget`: confirms that storage is gone for good, on each PersistentVolume whose volume was on it.
//!
//! The controller acts on the confirmation only when such a volume is deleted, and only if its node has read all its pools
//! and has no such storage. So nothing here can delete data.

mod objects;
mod present;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use quarry_volume::{StorageId, plural, printable, some_of};
use serde::Deserialize;
use serde_json::{Value, json};

use self::objects::{Storage, Volume};
use super::cluster::{Access, Component};
use crate::confirm;
use crate::table::{Column, Table, wrapped};
use crate::terminal::Terminal;

/// The options of `kubectl quarry forget`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The storage that is gone for good: the second part of the handles of its volumes, v1:STORAGE:NODE:NAME.
    #[arg(long, value_parser = storage, value_name = "STORAGE")]
    storage: StorageId,
    /// The node whose host came back with other disks.
    #[arg(long, value_name = "NAME")]
    node: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Go on although it is not known whether the node has this storage, for example because it is down.
    #[arg(long)]
    unchecked: bool,
}

fn storage(text: &str) -> Result<StorageId, String> {
    text.parse().map_err(|_| {
        "an identifier of storage has ten characters, a to z and 2 to 7: it is the second part of a volume's handle, \
         v1:STORAGE:NODE:NAME"
            .to_owned()
    })
}

/// How many PersistentVolumes are annotated by one kubectl.
const BATCH: usize = 50;
/// Events on objects without a namespace are kept in this one, as `kubectl describe` expects.
const EVENTS: &str = "default";
/// Who reports the events.
const REPORTER: &str = super::NAME;

const COLUMNS: [Column; 6] = [
    Column::words("PV"),
    Column::words("CLAIM").left_out(2),
    Column::figures("SIZE").left_out(1),
    Column::words("PHASE").left_out(0),
    Column::words("RECLAIM").left_out(3),
    Column::words("CONFIRMED").left_out(4),
];

/// What `quarry csi identity -o json` prints.
#[derive(Deserialize)]
struct Identity {
    name: String,
}

/// Confirms it, if the person who runs this agrees.
///
/// # Errors
/// The storage exists, that is not known, or kubectl fails.
pub(super) fn run(access: &Access, args: &Args, terminal: Terminal) -> anyhow::Result<ExitCode> {
    let pod = access.pod(&Component::Controller)?;
    let identity: Identity =
        access.ask_quarry(&pod, &["csi", "identity"], "ask the controller for the driver's name")?;
    let storage = Storage { driver: &identity.name, node: &args.node, id: &args.storage };
    let nodes = access.ask_quarry(&pod, &["nodes"], "ask the controller for its nodes")?;
    let pools = access.ask_quarry(&pod, &["pools"], "ask the controller for the pools")?;
    let seen = present::seen(&storage, &nodes, &pools);
    if let Some(present) = seen.present {
        bail!("nothing was changed: {present}");
    }
    if let Some(unknown) = seen.unknown.as_ref().filter(|_| !args.unchecked) {
        bail!(
            "nothing was changed: {unknown}. With --unchecked you confirm nevertheless that the storage is gone: no volume \
             counts as deleted before the node itself has read all its pools"
        );
    }

    let volumes = objects::volumes(access, &storage)?;
    let mut stdout = std::io::stdout();
    if volumes.is_empty() {
        writeln!(
            stdout,
            "nothing to do: no PersistentVolume of {} has a handle that begins with v1:{}:{}:",
            printable(storage.driver),
            storage.id.as_str(),
            storage.node
        )?;
        say_snapshots(access, &storage, terminal)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&COLUMNS, terminal);
    stdout.write_all(table.page(volumes.iter().map(row)).as_bytes())?;
    stdout.write_all(table.end().as_bytes())?;
    say_snapshots(access, &storage, terminal)?;
    for sentence in [seen.unknown, seen.hint].into_iter().flatten() {
        say(&sentence, terminal)?;
    }
    let left: Vec<&Volume> = volumes.iter().filter(|volume| !volume.is_confirmed).collect();
    if left.is_empty() {
        say("It is confirmed for all of them already; nothing was changed.", terminal)?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&consequences(&storage, &volumes, left.len()), terminal)?;
    stdout.flush()?;
    if !confirm::confirmed(args.yes, "Are these disks and their data gone for good?")? {
        writeln!(stdout, "\nnothing was changed")?;
        return Ok(ExitCode::FAILURE);
    }
    require_permission(access, &left)?;
    confirm_all(access, &storage, &left)?;
    writeln!(stdout, "\nconfirmed on {}", plural(left.len(), "PersistentVolume"))?;
    Ok(ExitCode::SUCCESS)
}

fn row(volume: &Volume) -> Vec<String> {
    let Volume { name, claim, size, phase, reclaim_policy, is_confirmed, .. } = volume;
    let confirmed = if *is_confirmed { "yes" } else { "no" }.to_owned();
    vec![name.clone(), claim.clone(), size.clone(), phase.clone(), reclaim_policy.clone(), confirmed]
}

/// Prints a paragraph.
fn say(text: &str, terminal: Terminal) -> anyhow::Result<()> {
    let text = wrapped(text, Terminal { width: Some(terminal.width.unwrap_or(WIDTH).min(WIDTH)), ..terminal });
    Ok(write!(std::io::stdout(), "\n{text}")?)
}

/// The width of paragraphs, unless the terminal is narrower.
const WIDTH: u16 = 100;

/// Names the VolumeSnapshotContents on the storage, for which there is no confirmation.
fn say_snapshots(access: &Access, storage: &Storage, terminal: Terminal) -> anyhow::Result<()> {
    let text = match objects::snapshot_contents(access, storage) {
        Ok(names) if names.is_empty() => return Ok(()),
        Ok(names) => format!(
            "{} also on this storage: {}. This command does not change them. Before you delete one, set its \
             deletionPolicy to Retain; otherwise its deletion waits for the storage: `kubectl patch volumesnapshotcontent \
             NAME --type=merge --patch='{{\"spec\":{{\"deletionPolicy\":\"Retain\"}}}}'`",
            match names.len() {
                1 => "1 VolumeSnapshotContent is".to_owned(),
                several => format!("{several} VolumeSnapshotContents are"),
            },
            names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ")
        ),
        // They do not change what happens to the PersistentVolumes.
        Err(error) => format!("It is not known which VolumeSnapshotContents are on this storage: {error:#}."),
    };
    say(&text, terminal)
}

/// What follows from a confirmation.
fn consequences(storage: &Storage, volumes: &[Volume], left: usize) -> String {
    let (node, id) = (storage.node, storage.id.as_str());
    let mut text = format!(
        "{} the annotation {}={id}. When such a volume is deleted, the controller asks node {node} once more. If the node has \
         read all its pools, and none has storage {id}, DeleteVolume answers OK, and nothing is deleted from any disk. If a \
         pool has the storage after all, the volume is deleted from it as usual. If the disks come back later, their \
         volumes are orphans.",
        if left == 1 { "1 PersistentVolume gets".to_owned() } else { format!("{left} PersistentVolumes get") },
        storage.annotation(),
    );
    let count = |wanted: fn(&Volume) -> bool| volumes.iter().filter(|volume| wanted(volume)).count();
    let bound = count(|volume| volume.phase == "Bound");
    if bound > 0 {
        text.push_str(&format!(
            " This command deletes no claims: you delete those of the PersistentVolumes that are Bound ({bound})."
        ));
    }
    let retained = count(|volume| volume.reclaim_policy == "Retain");
    if retained > 0 {
        text.push_str(&format!(
            " Kubernetes does not delete PersistentVolumes with the reclaim policy Retain ({retained}): you delete them \
             after their claims."
        ));
    }
    text
}

/// Checks that this person may annotate PersistentVolumes, before an event says that it was done.
///
/// # Errors
/// They may not, or kubectl fails.
fn require_permission(access: &Access, volumes: &[&Volume]) -> anyhow::Result<()> {
    let Some(first) = volumes.first() else { return Ok(()) };
    // Some people may change only PersistentVolumes with certain names.
    let volume = format!("persistentvolumes/{}", first.name);
    for verb in ["get", "patch"] {
        let (code, _) = access.kubectl().args(["auth", "can-i", verb, &volume]).quiet().output()?;
        if code != 0 {
            bail!(
                "nothing was changed: you may not {verb} {volume}, or the cluster does not say so: see `kubectl auth can-i \
                 {verb} {volume}`"
            );
        }
    }
    Ok(())
}

/// Writes an event for each PersistentVolume, and then its annotation. So if this is interrupted, each one that has the
/// annotation also has the event, and the others are confirmed by the next run.
///
/// # Errors
/// kubectl fails: some may be confirmed, others not.
fn confirm_all(access: &Access, storage: &Storage, volumes: &[&Volume]) -> anyhow::Result<()> {
    let person = person(access);
    let mut confirmed = 0;
    for batch in volumes.chunks(BATCH) {
        let done = |confirmed: usize| format!("{confirmed} of {} confirmed; run the command again", volumes.len());
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let events: Vec<Value> = batch.iter().map(|volume| event(storage, volume, person.as_deref(), &now)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": events}).to_string();
        let create = access.kubectl().args(["create", "--filename=-", "--output=name"]).input(list);
        access.answer(create, &format!("write the events ({})", done(confirmed)))?;

        // The value is only valid for a PersistentVolume whose handle has this storage, so it does no harm to another one
        // that has got this name meanwhile.
        let annotate = access.kubectl().args(["annotate", "persistentvolume", "--overwrite"]);
        let annotate = annotate.args(batch.iter().map(|volume| volume.name.as_str()));
        let annotate = annotate.arg(format!("{}={}", storage.annotation(), storage.id.as_str()));
        let names = some_of(batch.iter().map(|volume| volume.name.as_str()));
        access.answer(annotate, &format!("annotate the PersistentVolumes {names} ({})", done(confirmed)))?;
        confirmed += batch.len();
    }
    Ok(())
}

/// The name of the person who runs this, as the cluster knows it; `None` if the cluster or kubectl is too old to say.
fn person(access: &Access) -> Option<String> {
    let kubectl = access.kubectl().args(["auth", "whoami", "--output=jsonpath={.status.userInfo.username}"]).quiet();
    let name = access.answer(kubectl, "ask for the name of the user").ok()?;
    (!name.is_empty()).then_some(name)
}

/// The event that says who has confirmed what.
fn event(storage: &Storage, volume: &Volume, person: Option<&str>, now: &str) -> Value {
    let (node, id) = (storage.node, storage.id.as_str());
    let mut note = format!(
        "{} confirmed with `kubectl quarry forget` that storage {id} of node {node} is gone for good. When volume {} is \
         deleted, and the node has read all its pools and has no such storage, nothing is deleted from any disk",
        person.unwrap_or("an operator"),
        volume.handle
    );
    // The API rejects longer notes and names.
    note.truncate(note.floor_char_boundary(1024));
    let mut about = volume.name.clone();
    about.truncate(about.floor_char_boundary(200));
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": format!("{about}."), "namespace": EVENTS},
        "eventTime": now,
        "type": "Warning",
        "reason": "StorageForgotten",
        "action": "Forget",
        "note": note,
        "regarding": {"apiVersion": "v1", "kind": "PersistentVolume", "name": volume.name, "uid": volume.uid},
        "reportingController": REPORTER,
        "reportingInstance": REPORTER,
    })
}
