//! Some specs of Kubernetes' own storage suite; `make conformance` runs all of them.

use anyhow::{Context, Result};
use futures::future::try_join_all;
use quarry_cache::Cache;

use crate::cluster::Cluster;
use crate::conformance::Suite;
use crate::containerd;

pub(super) async fn run(cluster: &mut Cluster) -> Result<String> {
    let cache = Cache::open()?;
    let kubeconfig = cluster.kubeconfig();
    let folder = kubeconfig.parent().context("a file in a folder")?;
    let suite = Suite::build(&cache, folder).await?;
    let images = suite.images(&cache).await?;
    let imports = cluster.workers.iter().map(async |worker| {
        for image in &images {
            containerd::import(&worker.vm, image).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(imports).await?;
    suite.telling(cluster, folder).await
}
