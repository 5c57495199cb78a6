//! `quarry-binaries`: builds the programs of Kubernetes into the cache, and prints the name and path of each.

use anyhow::{Result, bail};
use clap::Parser;
use quarry_cache::Cache;
use quarry_cluster::binaries::{self, ETCDCTL, GROUPS, MINORS, PROMETHEUS};

/// Builds the programs of a Kubernetes from their Go modules, and prints each one's name and path.
#[derive(Parser)]
struct Arguments {
    /// The groups to build; all of Kubernetes when none is named.
    groups: Vec<String>,
    /// The processor, in Go's words.
    #[arg(long, default_value = binaries::ARCHITECTURE)]
    architecture: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let known = || GROUPS.iter().chain(MINORS.iter().map(|(_, group)| group)).chain([&ETCDCTL, &PROMETHEUS]);
    if let Some(unknown) = arguments.groups.iter().find(|name| !known().any(|group| group.name == **name)) {
        let names: Vec<_> = known().map(|group| group.name).collect();
        bail!("unknown group {unknown}: expected some of {}", names.join(", "));
    }
    let groups: Vec<_> = match arguments.groups.as_slice() {
        [] => GROUPS.to_vec(),
        named => known().filter(|group| named.iter().any(|name| name == group.name)).copied().collect(),
    };
    let built = binaries::build_groups(&Cache::open()?, &groups, &arguments.architecture).await?;
    for (name, path) in built {
        println!("{name} {}", path.display());
    }
    Ok(())
}
