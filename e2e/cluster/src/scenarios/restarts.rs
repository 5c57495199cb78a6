//! Parts of the driver and kubelet restart: running pods notice nothing, and pods that start meanwhile come up.

use anyhow::{Result, ensure};

use super::{SYSTEM, node_of};
use crate::cluster::{Cluster, text};
use crate::install::{self, CLASS};
use crate::objects::{claim, pod, sleeper};
use crate::space::Space;

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "restarts").await?;
    space.apply(&[claim("old", CLASS, "64Mi"), pod("old", sleeper(&["old"]))]).await?;
    let old = space.ready("old").await?;
    let node = node_of(cluster, &old)?.name.clone();
    // It writes a line twice a second, and a line that fails ends it.
    space
        .exec(
            "old",
            "(while date +%s >>/data/old/log; do sleep 0.5; done; echo failed >/data/old/failed) >/dev/null 2>&1 &",
        )
        .await?;

    for (round, what) in ["node", "controller", "kubelet"].into_iter().enumerate() {
        let name = format!("new-{round}");
        match what {
            "kubelet" => cluster.worker(&node)?.stop_kubelet().await?,
            component => {
                let selector =
                    format!("--selector=app.kubernetes.io/name=quarry,app.kubernetes.io/component={component}");
                let namespace = format!("--namespace={SYSTEM}");
                cluster.kubectl().run(["delete", "pod", &namespace, &selector, "--wait=false"]).await?;
            }
        }
        space.apply(&[claim(&name, CLASS, "64Mi"), pod(&name, sleeper(&[&name]))]).await?;
        if what == "kubelet" {
            cluster.worker(&node)?.start_kubelet().await?;
        }
        space.ready(&name).await?;
        space.exec(&name, &format!("echo new >/data/{name}/file")).await?;
        install::wait_running(cluster).await?;
    }
    let now = space.ready("old").await?;
    ensure!(text(&now, "/metadata/uid") == text(&old, "/metadata/uid"), "the old pod is another one");
    let restarts = now.pointer("/status/containerStatuses/0/restartCount").cloned().unwrap_or_default();
    ensure!(restarts == 0, "the old pod was restarted {restarts} times");
    let failed = space.exec("old", "ls /data/old; tail -n 1 /data/old/log; date +%s").await?;
    ensure!(!failed.contains("failed"), "a write of the old pod failed");
    let times: Vec<i64> = failed.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(matches!(times[..], [last, now] if now - last <= 5), "the old pod stopped writing: {failed}");
    space.end().await?;
    Ok("node plugin, controller and kubelet; a pod that writes all the while, three new ones".to_owned())
}
