//! `quarry-binaries`: builds the programs of Kubernetes into the cache, and prints the name and path of each.

use anyhow::{Result, bail};
use clap::Parser;
use quarry_cache::Cache;
use quarry_cluster::binaries::{self, GROUPS};

/// Builds the programs of a Kubernetes from their Go modules, and prints each one's name and path.
#[derive(Parser)]
struct Arguments {
    /// The groups to build; all when none is named.
    groups: Vec<String>,
    /// The processor, in Go's words.
    #[arg(long, default_value = binaries::ARCHITECTURE)]
    architecture: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let known = |name: &String| GROUPS.iter().any(|group| group.name == name);
    if let Some(unknown) = arguments.groups.iter().find(|name| !known(name)) {
        let names: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
        bail!("unknown group {unknown}: expected some of {}", names.join(", "));
    }
    let asked = |name: &str| arguments.groups.is_empty() || arguments.groups.iter().any(|group| group == name);
    let groups: Vec<_> = GROUPS.iter().filter(|group| asked(group.name)).copied().collect();
    let built = binaries::build_groups(&Cache::open()?, &groups, &arguments.architecture).await?;
    for (name, path) in built {
        println!("{name} {}", path.display());
    }
    Ok(())
}
