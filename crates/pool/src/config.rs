//! The pools of a node, read from YAML.
//!
//! ```yaml
//! pools:
//!   - name: fast
//!     lvm:
//!       volumeGroup: vg-nvme
//!       reserve: 10Gi
//!   - name: whole
//!     disk:
//!       select: {transports: [nvme], size: {atLeast: 1Ti}}
//!       exclude: {byId: ["*-part-of-the-system"]}
//!       wipe: discard
//! ```
//!
//! A mistake in the file stops the start with the file, the line and the key: a pool that is silently left out, or a
//! reserve that is silently 0, is found out too late.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use quarry_disk::Selector;
use quarry_volume::{Wipe, parse_size};
use serde::Deserialize;
use serde_saphyr::Spanned;

mod disk;

/// The longest name of a pool, in bytes: it is also a value of a metric's label and of a StorageClass parameter.
const MAX_NAME: usize = 63;

/// One pool as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The name that a StorageClass gives as `pool`.
    pub name: String,
    /// What it gives out, and of what.
    pub kind: PoolKind,
}

/// What a pool is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// Logical volumes of a volume group.
    Lvm(LvmConfig),
    /// Whole disks.
    Disk(Box<DiskConfig>),
}

/// A pool of kind `lvm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LvmConfig {
    /// The volume group it carves from.
    pub volume_group: String,
    /// Bytes of the volume group that are never given out.
    pub reserve: u64,
    /// Whether a volume is deactivated when it has been unstaged.
    pub deactivate: bool,
    /// How many files of the volume group lvm's archive of metadata keeps.
    pub archives: u32,
}

/// A pool of kind `disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// Which disks it means.
    pub selector: Selector,
    /// What is done to the bytes of a volume that was deleted.
    pub wipe: Wipe,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; pass its path with --config", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The file says something that cannot be.
    #[error("{path}:{line}: {what}", path = path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// The line, from 1; 0 if the whole file is meant.
        line: u64,
        /// Key and reason.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pools: Spanned<Vec<Pool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    name: Spanned<String>,
    lvm: Option<Lvm>,
    disk: Option<Spanned<disk::Section>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Lvm {
    volume_group: Spanned<String>,
    reserve: Option<Spanned<String>>,
    deactivate: Option<bool>,
    archives: Option<Spanned<u32>>,
}

/// Reads the configuration file at `path`.
///
/// # Errors
/// The first mistake, with file, line and key.
pub fn load(path: &Path) -> Result<Vec<PoolConfig>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Reads a configuration; `path` is only named in errors.
///
/// # Errors
/// The first mistake, with file, line and key.
pub fn parse(path: &Path, text: &str) -> Result<Vec<PoolConfig>, ConfigError> {
    let wrong = |line: u64, what: String| ConfigError::Wrong { path: path.to_owned(), line, what };
    let options = serde_saphyr::options! { strict_booleans: true };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        // The message without the excerpt: the line number stands in front of it, the file is at hand.
        let message = error.without_snippet().to_string();
        let message = message.lines().next().unwrap_or_default().to_owned();
        wrong(line, message)
    })?;
    if file.pools.value.is_empty() {
        return Err(wrong(file.pools.referenced.line(), "pools: at least one pool is required".to_owned()));
    }
    let mut names: HashMap<String, u64> = HashMap::new();
    let mut groups: HashMap<String, String> = HashMap::new();
    let mut pools = Vec::new();
    for (index, pool) in file.pools.value.into_iter().enumerate() {
        let line = pool.name.referenced.line();
        let name = pool.name.value;
        let key = format!("pools[{index}]");
        check_name(&name).map_err(|why| wrong(line, format!("{key}.name: {why}")))?;
        if let Some(first) = names.insert(name.clone(), line) {
            return Err(wrong(line, format!("{key}.name: the pool in line {first} already has the name {name:?}")));
        }
        let kind = match (pool.lvm, pool.disk) {
            (Some(section), None) => {
                PoolKind::Lvm(lvm(section, &key, &name, &mut groups).map_err(|(line, what)| wrong(line, what))?)
            }
            (None, Some(section)) => {
                PoolKind::Disk(Box::new(disk::read(section, &key).map_err(|(line, what)| wrong(line, what))?))
            }
            (None, None) => return Err(wrong(line, format!("{key}: set either lvm or disk"))),
            (Some(_), Some(section)) => {
                let line = section.referenced.line();
                return Err(wrong(line, format!("{key}.disk: a pool has either lvm or disk, not both")));
            }
        };
        pools.push(PoolConfig { name, kind });
    }
    Ok(pools)
}

/// A mistake: its line, and what it is.
type Mistake = (u64, String);

/// Reads a pool's `lvm`; `groups` are the volume groups that have a pool already.
fn lvm(section: Lvm, key: &str, pool: &str, groups: &mut HashMap<String, String>) -> Result<LvmConfig, Mistake> {
    let line = section.volume_group.referenced.line();
    let volume_group = section.volume_group.value;
    check_volume_group(&volume_group).map_err(|why| (line, format!("{key}.lvm.volumeGroup: {why}")))?;
    if let Some(other) = groups.insert(volume_group.clone(), pool.to_owned()) {
        return Err((
            line,
            format!(
                "{key}.lvm.volumeGroup: {volume_group:?} already belongs to pool {other:?}; capacity is counted per \
                 volume group, so each pool needs its own"
            ),
        ));
    }
    let reserve = match section.reserve {
        None => 0,
        Some(text) => {
            parse_size(&text.value).map_err(|why| (text.referenced.line(), format!("{key}.lvm.reserve: {why}")))?
        }
    };
    let archives = match section.archives {
        None => quarry_lvm::ARCHIVES,
        // Without any, a mistake of the operator's own could not be undone.
        Some(number) if number.value == 0 => {
            let line = number.referenced.line();
            return Err((line, format!("{key}.lvm.archives: must be at least 1 (files of lvm's metadata archive)")));
        }
        Some(number) => number.value,
    };
    Ok(LvmConfig { volume_group, reserve, deactivate: section.deactivate.unwrap_or(true), archives })
}

fn check_name(name: &str) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.len() <= MAX_NAME && name.chars().all(inner) && edge(name.chars().next()) && edge(name.chars().next_back())
    {
        Ok(())
    } else {
        Err(format!(
            "{name:?} is not a valid pool name: use up to {MAX_NAME} letters, digits, '-', '_' and '.', and start and \
             end with a letter or digit"
        ))
    }
}

fn check_volume_group(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if name.is_empty() || name.starts_with('-') || name == "." || name == ".." || !name.chars().all(plain) {
        return Err(format!("{name:?} is not a valid name of a volume group"));
    }
    if !quarry_lvm::vg_name_fits(name) {
        return Err(format!(
            "{name:?} is too long: together with a volume's name, it must fit into a device-mapper name of 127 bytes, \
             in which every hyphen counts twice; rename the volume group (vgrename)"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("pools.yaml"), text).unwrap_err().to_string()
    }

    #[test]
    fn pools_are_read() {
        let pools = parse(
            Path::new("pools.yaml"),
            "pools:\n  - name: fast\n    lvm:\n      volumeGroup: vg-nvme\n      reserve: 10Gi\n  - name: slow\n    \
             lvm: {volumeGroup: vg1, reserve: 4096, deactivate: false, archives: 500}\n  - name: third\n    lvm: \
             {volumeGroup: vg2}\n",
        )
        .unwrap();
        let pool = |name: &str, group: &str, reserve, deactivate, archives| PoolConfig {
            name: name.into(),
            kind: PoolKind::Lvm(LvmConfig { volume_group: group.into(), reserve, deactivate, archives }),
        };
        assert_eq!(
            pools,
            [
                pool("fast", "vg-nvme", 10 << 30, true, 100),
                pool("slow", "vg1", 4096, false, 500),
                pool("third", "vg2", 0, true, 100)
            ]
        );
    }

    #[test]
    fn a_mistake_is_named_with_file_line_and_key() {
        for (text, expected) in [
            ("pools:\n  - name: a\n    lvm:\n      volumegroup: vg\n", ["pools.yaml:4", "volumegroup"]),
            (
                "pools:\n  - name: a\n    lvm:\n      volumeGroup: vg\n  - name: a\n    lvm:\n      volumeGroup: w\n",
                ["pools.yaml:5", "pools[1].name"],
            ),
            (
                "pools:\n  - name: a\n    lvm:\n      volumeGroup: vg\n  - name: b\n    lvm:\n      volumeGroup: vg\n",
                ["pools.yaml:7", "pools[1].lvm.volumeGroup"],
            ),
            (
                "pools:\n  - name: a\n    lvm:\n      volumeGroup: vg\n      reserve: 10 Gi\n",
                ["pools.yaml:5", "pools[0].lvm.reserve"],
            ),
            (
                "pools:\n  - name: a\n    lvm:\n      volumeGroup: vg\n      reserve: -1\n",
                ["pools.yaml:5", "pools[0].lvm.reserve"],
            ),
            (
                "pools:\n  - name: a\n    lvm:\n      volumeGroup: vg\n      archives: 0\n",
                ["pools.yaml:5", "pools[0].lvm.archives"],
            ),
            ("pools:\n  - name: a/b\n    lvm:\n      volumeGroup: vg\n", ["pools.yaml:2", "pools[0].name"]),
            (
                "pools:\n  - name: a\n    lvm:\n      volumeGroup: '-Z y'\n",
                ["pools.yaml:4", "pools[0].lvm.volumeGroup"],
            ),
            ("pools:\n  - name: a\n", ["pools.yaml:2", "lvm"]),
            ("pools: []\n", ["pools.yaml:1", "pools"]),
            ("pool: []\n", ["pools.yaml:1", "pool"]),
            ("pools:\n  - name: a\n    disk: {}\n", ["pools.yaml:3", "disk"]),
            ("", ["pools.yaml:", "pools"]),
            ("pools: [\n", ["pools.yaml:", ""]),
        ] {
            let error = error(text);
            for part in expected {
                assert!(error.contains(part), "{text:?}: {error:?} does not name {part:?}");
            }
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Path::new("/nonexistent/pools.yaml")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/pools.yaml"), "{error}");
    }
}
