//! The output of `quarry nodes`, `pools`, `volumes` and `doctor`: tables, JSON, and whether it is correct.

use anyhow::{Context as _, Result, ensure};
use quarry_vm::Guest;
use serde_json::Value;

use crate::controller::Controller;
use crate::csi::Made;
use crate::node::BINARY;

/// How a question was answered.
struct Answer {
    text: String,
    success: bool,
}

async fn ask(guest: &Guest, controller: &Controller, question: &str) -> Result<Answer> {
    let output =
        guest.exec(["sh".into(), "-c".into(), format!("{BINARY} {question} --socket {}", controller.view())].to_vec());
    let output = output.await?;
    ensure!(output.error_text().is_empty(), "quarry {question} complains: {}", output.error_text());
    Ok(Answer { text: output.text(), success: output.exit.success() })
}

/// The answer as JSON; a list by its name.
async fn json(guest: &Guest, controller: &Controller, question: &str) -> Result<Value> {
    let answer = ask(guest, controller, &format!("{question} -o json")).await?;
    serde_json::from_str(&answer.text).with_context(|| format!("quarry {question} -o json says {}", answer.text))
}

/// The rows of a table, split at blanks, with its heading checked.
async fn table(guest: &Guest, controller: &Controller, question: &str, first: &str) -> Result<Vec<Vec<String>>> {
    let answer = ask(guest, controller, question).await?;
    ensure!(answer.success && answer.text.starts_with(first), "quarry {question} says {}", answer.text);
    let row = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    Ok(answer.text.lines().skip(1).map(row).collect())
}

/// Fails unless all commands report the true state: the nodes n1, n2… of which `down` is down, and the
/// volumes.
pub async fn shows(
    guest: &Guest,
    controller: &Controller,
    nodes: usize,
    down: Option<&str>,
    made: &[&Made],
) -> Result<()> {
    let names: Vec<String> = (1..=nodes).map(|number| format!("n{number}")).collect();
    let is_up = |name: &str| down != Some(name);

    let rows = table(guest, controller, "nodes", "NODE").await?;
    let shown: Vec<(&str, &str)> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let expected: Vec<(&str, &str)> =
        names.iter().map(|name| (name.as_str(), if is_up(name) { "up" } else { "down" })).collect();
    ensure!(shown == expected, "nodes: {rows:?}");
    let list = json(guest, controller, "nodes").await?;
    for (index, name) in names.iter().enumerate() {
        let node = &list["nodes"][index];
        let up = node["reachable"].as_bool();
        ensure!(node["name"] == name.as_str() && up == Some(is_up(name)), "nodes -o json: {node}");
        ensure!(node["why"].as_str().is_some_and(|why| why.is_empty() == is_up(name)), "nodes -o json: {node}");
        ensure!(node["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "nodes -o json: {node}");
        let count = made.iter().filter(|made| made.node == *name).count();
        ensure!(node["volumes"].as_u64() == Some(count as u64), "nodes -o json: {node}, and there are {count} volumes");
    }

    let rows = table(guest, controller, "pools", "NODE").await?;
    ensure!(rows.len() == nodes && rows.iter().all(|row| row[1] == "main"), "pools: {rows:?}");
    let list = json(guest, controller, "pools").await?;
    for (index, name) in names.iter().enumerate() {
        let pool = &list["pools"][index];
        ensure!(pool["node"] == name.as_str() && pool["on"] == "vg0", "pools -o json: {pool}");
        ensure!(pool["reachable"].as_bool() == Some(is_up(name)), "pools -o json: {pool}");
        let (free, _) = controller.csi.capacity_of(Some(name), &Default::default()).await?;
        // For a node that is down, the last known state is shown.
        ensure!(!is_up(name) || pool["free_bytes"].as_i64() == Some(free), "pools -o json: {pool}, and free is {free}");
    }

    let rows = table(guest, controller, "volumes", "NODE").await?;
    ensure!(rows.len() == made.len(), "volumes: {rows:?}");
    let list = json(guest, controller, "volumes").await?;
    for made in made {
        ensure!(rows.iter().any(|row| row[0] == made.node && row[2] == made.id), "{} is not among {rows:?}", made.id);
        let of = |volume: &&Value| volume["id"] == made.id.as_str();
        let volume = list["volumes"].as_array().into_iter().flatten().find(of).context("not in the JSON list")?;
        let same = volume["node"] == made.node.as_str()
            && volume["name"] == made.ask.name.as_str()
            && volume["bytes"].as_i64() == Some(made.size)
            && volume["reachable"].as_bool() == Some(is_up(&made.node));
        ensure!(same, "volumes -o json: {volume}, and it is {made:?}");
    }
    if let Some(down) = down {
        let rows = table(guest, controller, &format!("volumes --node {down}"), "NODE").await?;
        ensure!(rows.iter().all(|row| row[0] == down), "volumes of {down}: {rows:?}");
    }
    doctor(guest, controller, nodes, down).await
}

async fn doctor(guest: &Guest, controller: &Controller, nodes: usize, down: Option<&str>) -> Result<()> {
    let diagnosis = json(guest, controller, "doctor").await?;
    let up = nodes - usize::from(down.is_some());
    ensure!(diagnosis["nodes"].as_u64() == Some(nodes as u64), "doctor: {diagnosis}");
    ensure!(diagnosis["reachable_nodes"].as_u64() == Some(up as u64), "doctor: {diagnosis}");
    let errors: Vec<&Value> =
        diagnosis["findings"].as_array().into_iter().flatten().filter(|finding| finding["level"] == "error").collect();
    let text = ask(guest, controller, "doctor").await?;
    match down {
        None => ensure!(errors.is_empty() && text.success, "doctor finds errors in a healthy cluster: {}", text.text),
        Some(down) => {
            let subject = format!("node {down}");
            let named = |error: &&Value| error["check"] == "node-unreachable" && error["subject"] == subject.as_str();
            ensure!(matches!(errors.as_slice(), [only] if named(only)), "doctor with {down} away: {diagnosis}");
            ensure!(!text.success && text.text.contains(&subject), "doctor with {down} away: {}", text.text);
        }
    }
    Ok(())
}
