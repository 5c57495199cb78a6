//! `quarry disks`: lists every disk of the host that it runs on, and why each is free or not.
//!
//! It calls no server and changes nothing, so it works before there is a pool. Next to a node plugin it sees
//! the same as the plugin.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use quarry_disk::State;
use quarry_pool::{DiskList, DiskReport};

use super::{Format, List, Output, json, rows};
use crate::terminal::Terminal;

/// The options of `quarry disks`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    format: Format,
    /// The pools of this node (YAML, see docs/pools.md), to show which pool each disk belongs to.
    #[arg(long, env = "QUARRY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Reads the disks and prints them.
///
/// # Errors
/// The configuration is invalid, no disk can be read, or some cannot be read fully; the others have then been
/// printed.
pub(super) async fn run(args: Args, terminal: Terminal, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let configured = args.config.as_deref().map(quarry_pool::load).transpose()?;
    if !quarry_exec::missing_tools(&["blkid"]).is_empty() {
        bail!("the program blkid, which reads disk signatures, is missing from PATH; install the package util-linux");
    }
    let found = quarry_pool::list_disks(configured.as_deref()).await?;
    print(args.format, terminal, &found, out)
}

/// Prints the disks, then fails if some could not be read fully.
fn print(format: Format, terminal: Terminal, found: &DiskList, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut list = List::new(format, "disks", &rows::DISKS, terminal);
    list.print(out, &found.disks, rows::disk, json::disk)?;
    list.end(out)?;
    if format.output != Output::Json {
        for report in &found.disks {
            write!(out, "{}", repairs(report))?;
        }
    }
    let unknown: Vec<&str> = found
        .disks
        .iter()
        .filter(|report| matches!(report.state, State::Unknown { .. }))
        .map(|report| report.disk.name.as_str())
        .collect();
    let mut wrong = found.failed.clone();
    if !unknown.is_empty() {
        wrong.push(format!(
            "it is not known yet whether these are free: {}; run this as root, on their host or in the pod of its node \
             plugin (`kubectl quarry disks --node NAME`)",
            unknown.join(", ")
        ));
    }
    if wrong.is_empty() { Ok(ExitCode::SUCCESS) } else { bail!("{}", wrong.join("\n")) }
}

/// The commands that repair a disk's claim, each with a description.
fn repairs(report: &DiskReport) -> String {
    let mut text = String::new();
    if !report.repairs.is_empty() {
        text = format!("\nTo repair the claim on {}:\n", report.disk.name);
    }
    for repair in &report.repairs {
        text.push_str(&format!("\n{}\n\n", repair.about));
        for line in repair.commands.iter().flat_map(|command| command.lines()) {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use quarry_disk::claim::Repair;
    use quarry_disk::{Conflict, Disk, Transport, Udev};
    use quarry_mount::Device;
    use quarry_pool::{Owner, Wiping};
    use serde_json::{Value, json};

    use super::*;

    fn disk(name: &str, state: State) -> DiskReport {
        let disk = Disk {
            name: name.to_owned(),
            node: format!("/dev/{name}").into(),
            number: Device { major: 8, minor: 16 },
            sequence: Some(7),
            model: Some("SAMSUNG MZQL2".to_owned()),
            serial: Some("S64GNE0R".to_owned()),
            wwn: None,
            by_id: vec![format!("nvme-{name}")],
            by_path: Vec::new(),
            size: 3 << 29,
            logical_sector: 512,
            physical_sector: 4096,
            rotational: false,
            transport: Transport::Nvme,
            read_only: false,
            removable: false,
            zoned: false,
            multipath: false,
            udev: Udev::Current,
            holders: Vec::new(),
            partitions: Vec::new(),
            uses: Vec::new(),
            same_as: Vec::new(),
        };
        let owner = Some(Owner::Pool("whole".to_owned()));
        DiskReport { disk, owner, state, volume: None, wiping: None, notes: Vec::new(), repairs: Vec::new() }
    }

    fn claimed(volume: &str) -> State {
        State::Claimed { what: format!("volume {volume}") }
    }

    fn example() -> DiskList {
        let system = DiskReport {
            owner: Some(Owner::NoPool { in_network: false }),
            ..disk("nvme0n1", State::InUse { why: "is mounted on / (nvme0n1p2)".to_owned() })
        };
        let mut old = disk("sda", State::NotEmpty { why: "has an ext4 filesystem, label data".to_owned() });
        (old.disk.model, old.disk.serial, old.disk.transport, old.disk.rotational) = (None, None, Transport::Ata, true);
        let conflict =
            Conflict { disk: "sdb".to_owned(), by_id: None, pools: vec!["one".to_owned(), "two".to_owned()] };
        let wiping = Wiping { done: 370, total: 1000, failed: None };
        DiskList {
            disks: vec![
                system,
                disk("nvme1n1", State::Free),
                DiskReport { volume: Some("pvc-1".to_owned()), ..disk("nvme2n1", claimed("pvc-1")) },
                DiskReport {
                    volume: Some("pvc-2".to_owned()),
                    wiping: Some(wiping),
                    ..disk("nvme3n1", claimed("pvc-2"))
                },
                old,
                DiskReport { owner: Some(Owner::Conflict(conflict)), ..disk("sdb", State::Free) },
            ],
            failed: Vec::new(),
        }
    }

    fn format(output: Output) -> Format {
        Format { output, terminal: crate::terminal::Args::default() }
    }

    fn printed(output: Output, found: &DiskList) -> (String, Result<ExitCode, String>) {
        let mut out = Vec::new();
        let ended = print(format(output), Terminal::default(), found, &mut out).map_err(|error| error.to_string());
        (String::from_utf8(out).unwrap(), ended)
    }

    #[test]
    fn every_disk_is_a_row_with_its_reason() {
        let (text, ended) = printed(Output::Table, &example());
        assert_eq!(ended, Ok(ExitCode::SUCCESS));
        assert_eq!(
            text,
            "DISK      SIZE  TRANSPORT  ROTATES  MODEL          SERIAL    POOL   STATE      REASON
nvme0n1  1.5Gi  \
             nvme       no       SAMSUNG MZQL2  S64GNE0R  -      in-use     is mounted on / (nvme0n1p2)
nvme1n1  \
             1.5Gi  nvme       no       SAMSUNG MZQL2  S64GNE0R  whole  free       -
nvme2n1  1.5Gi  nvme       no       \
             SAMSUNG MZQL2  S64GNE0R  whole  claimed    volume pvc-1
nvme3n1  1.5Gi  nvme       no       SAMSUNG \
             MZQL2  S64GNE0R  whole  wiping     volume pvc-2 was deleted; being wiped, 37%
sda      1.5Gi  ata        \
             yes      -              -         whole  not-empty  has an ext4 filesystem, label data
sdb      1.5Gi  \
             nvme       no       SAMSUNG MZQL2  S64GNE0R  -      free       the disk sdb belongs to the pools one and \
             two: change their selectors so that only one of them matches it; until then, no pool uses it
"
        );
        assert_eq!(printed(Output::Table, &DiskList::default()).0, "none\n");
    }

    #[test]
    fn commands_that_repair_a_claim_can_be_pasted() {
        let repair = |about: &str, commands: &[&str]| Repair {
            about: about.to_owned(),
            commands: commands.iter().map(|command| (*command).to_owned()).collect(),
        };
        let damaged = State::Claimed { what: "a damaged claim: no".to_owned() };
        let repairs = vec![repair("First.", &["a <<'END'\nlabel: gpt\nEND", "b"]), repair("Then.", &["c"])];
        let found = DiskList { disks: vec![DiskReport { repairs, ..disk("sda", damaged) }], failed: Vec::new() };
        let (text, ended) = printed(Output::Table, &found);
        assert_eq!(ended, Ok(ExitCode::SUCCESS));
        let (_, after) = text.split_once("\n\n").unwrap();
        assert_eq!(after, "To repair the claim on sda:\n\nFirst.\n\na <<'END'\nlabel: gpt\nEND\nb\n\nThen.\n\nc\n");
        let answer: Value = serde_json::from_str(&printed(Output::Json, &found).0).unwrap();
        assert_eq!(answer["disks"][0]["mend"][1], json!({"about": "Then.", "commands": ["c"]}));
    }

    #[test]
    fn json_has_stable_names_and_bytes_as_numbers() {
        let (text, ended) = printed(Output::Json, &example());
        assert_eq!(ended, Ok(ExitCode::SUCCESS));
        let disks: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            disks["disks"][3],
            json!({
                "name": "nvme3n1", "path": "/dev/nvme3n1", "bytes": 3_u64 << 29, "transport": "nvme", "rotational": false,
                "removable": false, "read_only": false, "logical_sector_bytes": 512, "physical_sector_bytes": 4096,
                "model": "SAMSUNG MZQL2", "serial": "S64GNE0R", "wwn": null, "by_id": ["nvme-nvme3n1"], "by_path": [],
                "pool": "whole", "state": "wiping", "reason": "volume pvc-2 was deleted; being wiped, 37%",
                "volume": "pvc-2", "wiped_bytes": 370, "to_wipe_bytes": 1000, "mend": [],
            })
        );
        let free = &disks["disks"][1];
        assert_eq!(
            (&free["reason"], &free["volume"], &free["wiped_bytes"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        assert_eq!(disks["disks"][5]["pool"], Value::Null);
        assert_eq!(disks["disks"].as_array().unwrap().len(), 6);
    }

    #[test]
    fn unreadable_disks_fail_the_command_after_the_rest_is_printed() {
        let mut found = example();
        found.disks.push(disk("sdc", State::Unknown { why: "only root can read its contents".to_owned() }));
        found.failed.push("cannot use the disk sdd: …".to_owned());
        let (text, ended) = printed(Output::Table, &found);
        assert_eq!(text.lines().count(), 8, "{text}");
        let error = ended.unwrap_err();
        for part in ["sdc", "root", "--node NAME", "cannot use the disk sdd"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(serde_json::from_str::<Value>(&printed(Output::Json, &found).0).is_ok());
    }

    #[tokio::test]
    async fn an_invalid_configuration_is_named() {
        let args = Args { format: format(Output::Table), config: Some("/nonexistent/pools.yaml".into()) };
        let error = run(args, Terminal::default(), &mut Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/pools.yaml"), "{error}");
    }
}
