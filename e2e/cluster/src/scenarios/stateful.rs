//! A StatefulSet with a volume for each pod.

use anyhow::{Result, ensure};

use super::{lies_on, node_of};
use crate::cluster::{Cluster, text};
use crate::install::CLASS;
use crate::objects::{claim, stateful_set};
use crate::space::Space;

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let space = Space::new(cluster, "stateful").await?;
    space.apply(&[claim("waiting", CLASS, "64Mi"), stateful_set("db", 3, CLASS, "64Mi")]).await?;
    for number in 0..3 {
        let pod = space.ready(&format!("db-{number}")).await?;
        lies_on(&space, &format!("data-db-{number}"), node_of(cluster, &pod)?).await?;
        space.exec(&format!("db-{number}"), &format!("echo {number} >/data/data/file; sync")).await?;
    }
    let waiting = space.wait("pvc", "waiting", "there", |_| true).await?;
    ensure!(text(&waiting, "/status/phase") == "Pending", "a claim without a pod is bound: {waiting}");

    // The replacement of a deleted pod finds the data.
    let before = text(&space.ready("db-1").await?, "/metadata/uid").to_owned();
    space.run(&["delete", "pod", "db-1"]).await?;
    space.wait("pod", "db-1", "another one", |pod| text(pod, "/metadata/uid") != before).await?;
    has_its_file(&space, 1).await?;

    // More, fewer, none, and all again.
    space.run(&["scale", "statefulset", "db", "--replicas=5"]).await?;
    space.ready("db-3").await?;
    space.ready("db-4").await?;
    space.run(&["scale", "statefulset", "db", "--replicas=3"]).await?;
    space.wait_gone("pod", "db-4").await?;
    space.wait_gone("pod", "db-3").await?;
    space.run(&["delete", "statefulset", "db"]).await?;
    for number in 0..3 {
        space.wait_gone("pod", &format!("db-{number}")).await?;
    }
    space.apply(&[stateful_set("db", 3, CLASS, "64Mi")]).await?;
    for number in 0..3 {
        has_its_file(&space, number).await?;
    }
    space.end().await?;
    Ok("3 pods, then 5, 3, 0 and 3 again: each with its own bytes".to_owned())
}

async fn has_its_file(space: &Space<'_>, number: u32) -> Result<()> {
    let pod = format!("db-{number}");
    space.ready(&pod).await?;
    let found = space.exec(&pod, "cat /data/data/file").await?;
    ensure!(found.trim() == number.to_string(), "{pod} finds {found:?} in its file");
    Ok(())
}
