//! A pod that writes twice a second while parts of the driver restart, and checks for disturbances.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::cluster::text;
use crate::space::Space;

/// How old the last line of a pod that writes may be, in seconds: emulated nodes are slow.
const LATE: i64 = 10;

/// Starts a pod that writes lines to a volume of its own. A failed write ends it and leaves a mark.
pub(super) async fn write(space: &Space<'_>, pod: &str, volume: &str) -> Result<()> {
    let at = format!("/data/{volume}");
    let script = format!("(while date +%s >>{at}/log; do sleep 0.5; done; touch {at}/failed) >/dev/null 2>&1 &");
    space.exec(pod, &script).await.map(drop)
}

/// Fails unless a pod is the same as before, and was never restarted. Returns it.
pub(super) async fn same(space: &Space<'_>, before: &Value) -> Result<Value> {
    let name = text(before, "/metadata/name");
    let now = space.ready(name).await?;
    ensure!(text(before, "/metadata/uid") == text(&now, "/metadata/uid"), "{name} is another pod");
    let restarts = now.pointer("/status/containerStatuses/0/restartCount").cloned().unwrap_or_default();
    ensure!(restarts == 0, "{name} was restarted {restarts} times");
    Ok(now)
}

/// Fails unless a pod that runs [`write`] is the same as before and has never stopped.
pub(super) async fn undisturbed(space: &Space<'_>, before: &Value, volume: &str) -> Result<()> {
    let pod = same(space, before).await?;
    let name = text(&pod, "/metadata/name");
    let said = space.exec(name, &format!("ls /data/{volume}; tail -n 1 /data/{volume}/log; date +%s")).await?;
    ensure!(!said.contains("failed"), "a write of {name} failed");
    let times: Vec<i64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(matches!(times[..], [last, now] if now - last <= LATE), "{name} stopped writing: {said}");
    Ok(())
}
