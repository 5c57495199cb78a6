//! The pools of a node, read from YAML.
//!
//! ```yaml
//! pools:
//!   - name: fast
//!     lvm:
//!       volumeGroup: vg-nvme
//!       reserve: 10Gi
//!   - name: slow
//!     lvm:
//!       volumeGroup: vg-hdd
//!       create: {select: {rotational: true, size: {atLeast: 1Ti}}}
//!   - name: thin
//!     lvm:
//!       volumeGroup: vg-nvme
//!       thinPool: {name: thin, create: true, percent: 60, overprovision: 2}
//!   - name: whole
//!     disk:
//!       select: {transports: [nvme], size: {atLeast: 1Ti}}
//!       exclude: {byId: ["*-part-of-the-system"]}
//!       wipe: discard
//! ```
//!
//! An invalid file prevents the start; the error gives file, line and key. A pool that is silently left out,
//! or a reserve that is silently 0, would be noticed too late.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quarry_disk::Selector;
use quarry_volume::{Wipe, parse_size};
use serde::Deserialize;
use serde_saphyr::Spanned;

mod disk;
mod interval;
mod thin;

pub use self::thin::{CreateThinPool, ExtendThinPool, ThinPoolConfig, ThinPoolSize};

/// The maximum length of a pool's name in bytes: it is also a metric label's value and a StorageClass
/// parameter.
const MAX_NAME: usize = 63;

/// The configuration of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The name that a StorageClass refers to as `pool`.
    pub name: String,
    /// How many bytes per second all copies together may read from or write to the pool; `None`: no limit.
    pub copy_rate: Option<u64>,
    /// How often the unused space of its volumes with `discard: periodic` is discarded; `None`: the default.
    pub trim_interval: Option<Duration>,
    /// The kind of pool, with its settings.
    pub kind: PoolKind,
}

/// The kind of a pool.
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
    /// The volume group that volumes are created in.
    pub volume_group: String,
    /// Bytes of the volume group that are never used for volumes.
    pub reserve: u64,
    /// Whether a volume is deactivated after it was unstaged.
    pub deactivate: bool,
    /// How many files of the volume group lvm's metadata archive keeps.
    pub archives: u32,
    /// The disks that the volume group is made of, and extended with. `None`: both are left to the operator. Of the
    /// pools in one volume group, one has it.
    pub create: Option<Box<Selector>>,
    /// The thin pool that volumes are created in. `None`: they are ordinary logical volumes.
    pub thin_pool: Option<Box<ThinPoolConfig>>,
}

/// A pool of kind `disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// The disks that belong to the pool.
    pub selector: Selector,
    /// How the data of a deleted volume is wiped.
    pub wipe: Wipe,
}

/// Why a configuration was rejected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; pass its path with --config", path = path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The contents of the file are invalid.
    #[error("{path}:{line}: {what}", path = path.display())]
    Wrong {
        /// The path of the file.
        path: PathBuf,
        /// The line, counted from 1; 0 if the error concerns the whole file.
        line: u64,
        /// The key and the reason.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pools: Spanned<Vec<Pool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Pool {
    name: Spanned<String>,
    copy_rate: Option<Spanned<String>>,
    trim_interval: Option<Spanned<String>>,
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
    create: Option<Spanned<disk::Selection>>,
    thin_pool: Option<thin::Section>,
}

/// Reads the configuration file at `path`.
///
/// # Errors
/// The first error, with file, line and key.
pub fn load(path: &Path) -> Result<Vec<PoolConfig>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Parses a configuration; `path` is only used in errors.
///
/// # Errors
/// The first error, with file, line and key.
pub fn parse(path: &Path, text: &str) -> Result<Vec<PoolConfig>, ConfigError> {
    let wrong = |line: u64, what: String| ConfigError::Wrong { path: path.to_owned(), line, what };
    let options = serde_saphyr::options! { strict_booleans: true };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        // Without the excerpt: the message already has the line number, and the user has the file.
        let message = error.without_snippet().to_string();
        let message = message.lines().next().unwrap_or_default().to_owned();
        wrong(line, message)
    })?;
    if file.pools.value.is_empty() {
        return Err(wrong(file.pools.referenced.line(), "pools: at least one pool is required".to_owned()));
    }
    let mut names: HashMap<String, u64> = HashMap::new();
    let mut groups = Groups::default();
    let mut pools = Vec::new();
    for (index, pool) in file.pools.value.into_iter().enumerate() {
        let line = pool.name.referenced.line();
        let name = pool.name.value;
        let key = format!("pools[{index}]");
        check_name(&name).map_err(|why| wrong(line, format!("{key}.name: {why}")))?;
        if let Some(first) = names.insert(name.clone(), line) {
            return Err(wrong(line, format!("{key}.name: the pool in line {first} already has the name {name:?}")));
        }
        let copy_rate = pool.copy_rate.map(|text| copy_rate(text, &key)).transpose();
        let copy_rate = copy_rate.map_err(|(line, what)| wrong(line, what))?;
        let trim_interval = match pool.trim_interval {
            None => None,
            Some(text) => Some(
                interval::parse(&text.value)
                    .map_err(|why| wrong(text.referenced.line(), format!("{key}.trimInterval: {why}")))?,
            ),
        };
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
        pools.push(PoolConfig { name, copy_rate, trim_interval, kind });
    }
    for pool in &mut pools {
        if let PoolKind::Lvm(config) = &mut pool.kind
            && let Some((archives, _)) = groups.archives.get(&config.volume_group)
        {
            config.archives = *archives;
        }
    }
    Ok(pools)
}

/// The selectors of all pools that select disks, with the names of the pools.
pub(crate) fn selectors(configured: &[PoolConfig]) -> Arc<[(String, Selector)]> {
    let selectors = configured.iter().filter_map(|pool| match &pool.kind {
        PoolKind::Disk(config) => Some((pool.name.clone(), config.selector.clone())),
        PoolKind::Lvm(config) => Some((pool.name.clone(), Selector::clone(config.create.as_ref()?))),
    });
    selectors.collect()
}

/// An error in the configuration: its line, and a description.
type Mistake = (u64, String);

/// What the pools of kind `lvm` say about their volume groups.
#[derive(Default)]
struct Groups {
    /// The storage, a volume group or a thin pool in it, with the name of its pool.
    pools: HashMap<(String, Option<String>), String>,
    /// How many files the archive of a volume group keeps, with the name of the pool that says so.
    archives: HashMap<String, (u32, String)>,
    /// The name of the pool that makes a volume group.
    create: HashMap<String, String>,
}

/// Reads the limit of the speed of copies: bytes per second.
fn copy_rate(text: Spanned<String>, key: &str) -> Result<u64, Mistake> {
    let line = text.referenced.line();
    match parse_size(&text.value) {
        Ok(0) => {
            Err((line, format!("{key}.copyRate: must be more than 0 (bytes per second); leave it out for no limit")))
        }
        Ok(rate) => Ok(rate),
        Err(why) => Err((line, format!("{key}.copyRate: {why} (bytes per second)"))),
    }
}

/// Reads a pool's `lvm` section; `groups` is what the pools before it say.
fn lvm(section: Lvm, key: &str, pool: &str, groups: &mut Groups) -> Result<LvmConfig, Mistake> {
    let line = section.volume_group.referenced.line();
    let volume_group = section.volume_group.value;
    check_volume_group(&volume_group).map_err(|why| (line, format!("{key}.lvm.volumeGroup: {why}")))?;
    let thin_pool = match section.thin_pool {
        None => None,
        Some(section) => Some(Box::new(thin::read(section, &format!("{key}.lvm.thinPool"))?)),
    };
    let storage = (volume_group.clone(), thin_pool.as_ref().map(|pool| pool.name.clone()));
    if let Some(other) = groups.pools.insert(storage, pool.to_owned()) {
        let what = match &thin_pool {
            None => format!("volumeGroup: {volume_group:?} already belongs to pool {other:?}"),
            Some(thin) => format!("thinPool.name: {:?} already belongs to pool {other:?}", thin.name),
        };
        return Err((
            line,
            format!(
                "{key}.lvm.{what}; a volume group can have one ordinary pool, and pools with thin pools of different \
                 names"
            ),
        ));
    }
    let reserve = match section.reserve {
        None => 0,
        Some(text) => {
            parse_size(&text.value).map_err(|why| (text.referenced.line(), format!("{key}.lvm.reserve: {why}")))?
        }
    };
    match section.archives {
        None => {}
        // Without any archive, an operator could not undo a mistake.
        Some(number) if number.value == 0 => {
            let line = number.referenced.line();
            return Err((line, format!("{key}.lvm.archives: must be at least 1 (files of lvm's metadata archive)")));
        }
        Some(number) => {
            let (archives, other) =
                groups.archives.entry(volume_group.clone()).or_insert_with(|| (number.value, pool.to_owned()));
            if *archives != number.value {
                return Err((
                    number.referenced.line(),
                    format!(
                        "{key}.lvm.archives: pool {pool:?} sets {}, but pool {other:?} sets {archives}, and both are in \
                         volume group {volume_group:?}, which has one archive: set it in one of them, or to the same \
                         number",
                        number.value
                    ),
                ));
            }
        }
    }
    let create = match section.create {
        None => None,
        Some(selection) => {
            let line = selection.referenced.line();
            if let Some(other) = groups.create.insert(volume_group.clone(), pool.to_owned()) {
                return Err((
                    line,
                    format!(
                        "{key}.lvm.create: pool {other:?} makes volume group {volume_group:?} already: keep it in one of \
                         them"
                    ),
                ));
            }
            Some(Box::new(disk::read_selection(selection, &format!("{key}.lvm.create"))?))
        }
    };
    let deactivate = section.deactivate.unwrap_or(true);
    // Another pool of the volume group may set it.
    let archives = quarry_lvm::ARCHIVES;
    Ok(LvmConfig { volume_group, reserve, deactivate, archives, create, thin_pool })
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
    fn pools_are_parsed() {
        let pools = parse(
            Path::new("pools.yaml"),
            "pools:\n  - name: fast\n    lvm:\n      volumeGroup: vg-nvme\n      reserve: 10Gi\n  - name: slow\n    \
             copyRate: 200Mi\n    trimInterval: 12h\n    lvm: {volumeGroup: vg1, reserve: 4096, deactivate: false, archives: 500}\n  - name: third\n    lvm: \
             {volumeGroup: vg2}\n",
        )
        .unwrap();
        let pool = |name: &str, group: &str, reserve, deactivate, archives| PoolConfig {
            name: name.into(),
            copy_rate: (name == "slow").then_some(200 << 20),
            trim_interval: (name == "slow").then_some(Duration::from_secs(12 * 3600)),
            kind: PoolKind::Lvm(LvmConfig {
                volume_group: group.into(),
                reserve,
                deactivate,
                archives,
                create: None,
                thin_pool: None,
            }),
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
            (
                "pools:\n  - name: a\n    copyRate: 0\n    lvm: {volumeGroup: v}\n",
                ["pools.yaml:3", "pools[0].copyRate"],
            ),
            (
                "pools:\n  - name: a\n    trimInterval: weekly\n    lvm: {volumeGroup: v}\n",
                ["pools.yaml:3", "pools[0].trimInterval"],
            ),
            (
                "pools:\n  - name: a\n    copyRate: fast\n    lvm: {volumeGroup: v}\n",
                ["pools.yaml:3", "pools[0].copyRate"],
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
    fn a_volume_group_can_be_made_of_selected_disks() {
        let pools = parse(
            Path::new("pools.yaml"),
            "pools:\n  - name: a\n    lvm: {volumeGroup: vg, create: {select: {rotational: false}, exclude: {byId: \
             ['x-*']}}}\n  - name: b\n    lvm: {volumeGroup: vg, thinPool: {name: thin}}\n  - name: c\n    disk: \
             {select: {rotational: true}}\n",
        )
        .unwrap();
        let made: Vec<bool> =
            pools.iter().map(|pool| matches!(&pool.kind, PoolKind::Lvm(LvmConfig { create: Some(_), .. }))).collect();
        assert_eq!(made, [true, false, false]);
        let names: Vec<String> = selectors(&pools).iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, ["a", "c"], "disks of both kinds of pools can conflict");
        let head = "pools:\n  - name: a\n    lvm:\n      volumeGroup: vg\n      create: ";
        for (text, line, part) in [
            ("{}\n", 5, "pools[0].lvm.create.select is missing"),
            ("{select: {}}\n", 5, "pools[0].lvm.create.select: there is no criterion"),
            ("{select: {rotational: true}, exclude: {model: []}}\n", 5, "pools[0].lvm.create.exclude"),
            ("{select: {rotational: true}, wipe: none}\n", 5, "wipe"),
            (
                "{select: {rotational: true}}\n  - name: b\n    lvm:\n      volumeGroup: vg\n      thinPool: {name: t}\n      \
                 create: {select: {rotational: true}}\n",
                10,
                "pools[1].lvm.create: pool \"a\" makes volume group \"vg\" already",
            ),
        ] {
            let error = error(&format!("{head}{text}"));
            assert!(error.starts_with(&format!("pools.yaml:{line}: ")) && error.contains(part), "{text:?}: {error}");
        }
    }

    fn thin(section: &str) -> Result<ThinPoolConfig, ConfigError> {
        let text = format!("pools:\n  - name: a\n    lvm:\n      volumeGroup: vg\n      thinPool: {section}\n");
        parse(Path::new("pools.yaml"), &text).map(|mut pools| match pools.remove(0).kind {
            PoolKind::Lvm(config) => *config.thin_pool.unwrap(),
            PoolKind::Disk(_) => panic!("a pool of kind lvm"),
        })
    }

    #[test]
    fn a_thin_pool_is_used_as_it_is_or_created() {
        let found = thin("{name: thin, overprovision: 1.5, errorWhenFull: true, extend: {at: 80, by: 20}}").unwrap();
        let existing = ThinPoolConfig {
            name: "thin".to_owned(),
            create: None,
            overprovision: 150,
            error_when_full: Some(true),
            extend: Some(ExtendThinPool { at: 80, by: 20 }),
        };
        assert_eq!(found, existing);
        let created = |section: &str| thin(section).unwrap().create.unwrap();
        let plain = CreateThinPool {
            size: ThinPoolSize::Percent(60),
            layout: quarry_volume::Layout::Linear,
            chunk_size: None,
            metadata_size: None,
        };
        assert_eq!(created("{name: t, create: true, percent: 60}"), plain);
        assert_eq!(
            created(
                "{name: t, create: true, size: 10Gi, layout: striped, stripes: 3, chunkSize: 512Ki, metadataSize: 1Gi}"
            ),
            CreateThinPool {
                size: ThinPoolSize::Bytes(10 << 30),
                layout: quarry_volume::Layout::Striped { stripes: 3, stripe_size: 65536 },
                chunk_size: Some(512 << 10),
                metadata_size: Some(1 << 30),
            }
        );
        assert_eq!(thin("{name: t, create: false}").unwrap().create, None);
    }

    #[test]
    fn a_mistake_in_a_thin_pool_is_named() {
        for (section, words) in [
            ("{}", "name"),
            ("{name: a_tdata}", "thinPool.name"),
            ("{name: '-x'}", "thinPool.name"),
            ("{name: t, size: 1Gi}", "thinPool.size: only a pool that Quarry creates"),
            ("{name: t, create: true}", "either size or percent"),
            ("{name: t, create: true, size: 1Gi, percent: 5}", "either size or percent"),
            ("{name: t, create: true, percent: 101}", "thinPool.percent"),
            ("{name: t, create: true, size: 0}", "thinPool.size"),
            ("{name: t, create: true, size: 1Gi, chunkSize: 96Ki}", "thinPool.chunkSize"),
            ("{name: t, create: true, size: 1Gi, metadataSize: 16Gi}", "thinPool.metadataSize"),
            ("{name: t, create: true, size: 1Gi, layout: raid5}", "layout"),
            ("{name: t, overprovision: 0.9}", "thinPool.overprovision"),
            ("{name: t, extend: {at: 100, by: 20}}", "thinPool.extend.at"),
            ("{name: t, extend: {at: 80}}", "by"),
            ("{name: t, autoextend: 1}", "autoextend"),
        ] {
            let error = thin(section).unwrap_err().to_string();
            assert!(error.starts_with("pools.yaml:") && error.contains(words), "{section}: {error}");
        }
    }

    #[test]
    fn a_volume_group_has_one_ordinary_pool_and_thin_pools_beside_it() {
        let pools = |sections: &[&str]| {
            let pool = |(index, section): (usize, &&str)| format!("  - name: p{index}\n    lvm: {section}\n");
            let text: String = sections.iter().enumerate().map(pool).collect();
            parse(Path::new("pools.yaml"), &format!("pools:\n{text}"))
        };
        let (plain, one, two) =
            ("{volumeGroup: vg}", "{volumeGroup: vg, thinPool: {name: a}}", "{volumeGroup: vg, thinPool: {name: b}}");
        assert_eq!(pools(&[plain, one, two]).unwrap().len(), 3);
        for twice in [[plain, plain], [one, one]] {
            let error = pools(&twice).unwrap_err().to_string();
            assert!(error.contains("already belongs to pool \"p0\""), "{error}");
        }
    }

    #[test]
    fn the_pools_of_a_volume_group_keep_one_number_of_archives() {
        let archives = |sections: [&str; 3]| {
            let pool = |(index, section)| format!("  - name: p{index}\n    lvm: {{volumeGroup: {section}}}\n");
            let text: String = sections.into_iter().enumerate().map(pool).collect();
            let pools = parse(Path::new("pools.yaml"), &format!("pools:\n{text}"))?;
            let of = |pool: &PoolConfig| match &pool.kind {
                PoolKind::Lvm(config) => config.archives,
                PoolKind::Disk(_) => panic!("a pool of kind lvm"),
            };
            Ok::<_, ConfigError>(pools.iter().map(of).collect::<Vec<_>>())
        };
        let (plain, thin, other) = ("vg, archives: 50", "vg, thinPool: {name: a}", "vg2, archives: 7");
        assert_eq!(archives([plain, thin, other]).unwrap(), [50, 50, 7]);
        assert_eq!(archives([thin, plain, other]).unwrap(), [50, 50, 7], "in any order");
        assert_eq!(archives([thin, "vg", "vg3"]).unwrap(), [100; 3]);
        assert!(archives([plain, "vg, archives: 50, thinPool: {name: a}", other]).is_ok());
        let error = archives([plain, "vg, archives: 60, thinPool: {name: a}", other]).unwrap_err().to_string();
        for part in ["pools.yaml:5: pools[1].lvm.archives", "\"p1\" sets 60", "\"p0\" sets 50", "\"vg\""] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Path::new("/nonexistent/pools.yaml")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/pools.yaml"), "{error}");
    }
}
