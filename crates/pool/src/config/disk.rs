//! A pool's `disk` section: its disks, and how the data of a deleted volume is wiped. The disks of a volume group that
//! Quarry makes are selected in the same way.

use std::fmt::Display;
use std::str::FromStr;

use quarry_disk::{Criteria, Selector, Sizes};
use quarry_volume::{Wipe, parse_size};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_saphyr::Spanned;

use super::{DiskConfig, Mistake};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    select: Option<Spanned<Lists>>,
    exclude: Option<Spanned<Lists>>,
    wipe: Option<Spanned<String>>,
}

/// The section that selects the disks of a volume group.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    select: Option<Spanned<Lists>>,
    exclude: Option<Spanned<Lists>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Lists {
    by_id: Option<Vec<Spanned<String>>>,
    paths: Option<Vec<Spanned<String>>>,
    model: Option<Vec<Spanned<String>>>,
    size: Option<Range>,
    #[serde(deserialize_with = "rotational")]
    rotational: Option<bool>,
    transports: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Range {
    at_least: Option<Spanned<String>>,
    at_most: Option<Spanned<String>>,
}

/// Prefixes an error with its key.
fn named<'d, T: Deserialize<'d>, D: Deserializer<'d>>(key: &str, input: D) -> Result<Option<T>, D::Error> {
    T::deserialize(input).map(Some).map_err(|error| D::Error::custom(format!("{key}: {error}")))
}

fn rotational<'d, D: Deserializer<'d>>(input: D) -> Result<Option<bool>, D::Error> {
    named("rotational", input)
}

/// Reads the section of the pool that is called `key` in errors.
pub(super) fn read(section: Spanned<Section>, key: &str) -> Result<DiskConfig, Mistake> {
    let line = section.referenced.line();
    let Section { select, exclude, wipe } = section.value;
    let selector = selector(select, exclude, line, &format!("{key}.disk"))?;
    let wipe =
        wipe.map(|word| word.value.parse().map_err(|why| (word.referenced.line(), format!("{key}.disk.wipe: {why}"))));
    Ok(DiskConfig { selector, wipe: wipe.transpose()?.unwrap_or_else(Wipe::default) })
}

/// Reads the selection of the disks of a volume group, which is called `key` in errors.
pub(super) fn read_selection(section: Spanned<Selection>, key: &str) -> Result<Selector, Mistake> {
    let line = section.referenced.line();
    selector(section.value.select, section.value.exclude, line, key)
}

/// Reads the lists in the section `key`, which begins in that line.
fn selector(
    select: Option<Spanned<Lists>>,
    exclude: Option<Spanned<Lists>>,
    line: u64,
    key: &str,
) -> Result<Selector, Mistake> {
    let Some(select) = select else {
        return Err((line, format!("{key}.select is missing: it selects the pool's disks")));
    };
    let select_line = select.referenced.line();
    let include = criteria(select.value, &format!("{key}.select"))?;
    let (exclude, exclude_line) = match exclude {
        None => (Criteria::default(), line),
        Some(lists) => {
            let line = lists.referenced.line();
            (criteria(lists.value, &format!("{key}.exclude"))?, line)
        }
    };
    Selector::new(include.clone(), exclude).map_err(|why| {
        // The error is in `exclude` if `select` alone is valid.
        match Selector::new(include, Criteria::default()) {
            Ok(_) => (exclude_line, format!("{key}.exclude: {why}")),
            Err(_) => (select_line, format!("{key}.select: {why}")),
        }
    })
}

fn criteria(lists: Lists, key: &str) -> Result<Criteria, Mistake> {
    let size = match lists.size {
        None => None,
        Some(range) => Some(Sizes {
            at_least: bytes(range.at_least, &format!("{key}.size.atLeast"))?,
            at_most: bytes(range.at_most, &format!("{key}.size.atMost"))?,
        }),
    };
    Ok(Criteria {
        by_id: each(lists.by_id, &format!("{key}.byId"))?,
        paths: each(lists.paths, &format!("{key}.paths"))?,
        model: each(lists.model, &format!("{key}.model"))?,
        size,
        rotational: lists.rotational,
        transports: each(lists.transports, &format!("{key}.transports"))?,
    })
}

fn each<T: FromStr<Err: Display>>(texts: Option<Vec<Spanned<String>>>, key: &str) -> Result<Option<Vec<T>>, Mistake> {
    let Some(texts) = texts else { return Ok(None) };
    let one = |(index, text): (usize, Spanned<String>)| {
        text.value.parse().map_err(|why| (text.referenced.line(), format!("{key}[{index}]: {why}")))
    };
    texts.into_iter().enumerate().map(one).collect::<Result<_, _>>().map(Some)
}

fn bytes(text: Option<Spanned<String>>, key: &str) -> Result<Option<u64>, Mistake> {
    let Some(text) = text else { return Ok(None) };
    parse_size(&text.value).map(Some).map_err(|why| (text.referenced.line(), format!("{key}: {why}")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{PoolKind, parse};
    use super::*;

    fn read(text: &str) -> DiskConfig {
        let pools = parse(Path::new("pools.yaml"), text).unwrap();
        match &pools[0].kind {
            PoolKind::Disk(config) => (**config).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_criterion_is_parsed() {
        let config = read(
            "pools:\n  - name: whole\n    disk:\n      select:\n        byId: [nvme-*]\n        paths: \
             ['/mnt/disks/*']\n        model: ['Sam*', x]\n        size: {atLeast: 1Ti, atMost: 4000000000000}\n        \
             rotational: false\n        transports: [nvme, sata]\n      exclude: {byId: ['*-9']}\n      wipe: \
             discard\n",
        );
        let include = Criteria {
            by_id: Some(vec!["nvme-*".parse().unwrap()]),
            paths: Some(vec!["/mnt/disks/*".parse().unwrap()]),
            model: Some(vec!["Sam*".parse().unwrap(), "x".parse().unwrap()]),
            size: Some(Sizes { at_least: Some(1 << 40), at_most: Some(4_000_000_000_000) }),
            rotational: Some(false),
            transports: Some(vec!["nvme".parse().unwrap(), "ata".parse().unwrap()]),
        };
        let exclude = Criteria { by_id: Some(vec!["*-9".parse().unwrap()]), ..Criteria::default() };
        assert_eq!(config, DiskConfig { selector: Selector::new(include, exclude).unwrap(), wipe: Wipe::Discard });
        let plain = read("pools:\n  - name: whole\n    disk: {select: {rotational: true}}\n");
        assert_eq!(plain.wipe, Wipe::Zero, "the default");
        assert_eq!(read("pools: [{name: a, disk: {select: {rotational: true}, wipe: none}}]").wipe, Wipe::None);
    }

    #[test]
    fn a_mistake_is_named_with_line_and_key() {
        let head = "pools:\n  - name: a\n    disk:\n";
        for (text, line, parts) in [
            ("      wipe: zero\n", 4, ["pools[0].disk.select", "missing"]),
            ("      select: {}\n", 4, ["pools[0].disk.select", "every disk of the host"]),
            ("      select: {byid: [x]}\n", 4, ["byid", "byId"]),
            ("      select:\n        byId: []\n", 5, ["pools[0].disk.select", "byId is an empty list"]),
            (
                "      select:\n        byId:\n          - a\n          - '[b'\n",
                7,
                ["pools[0].disk.select.byId[1]", "no matching ]"],
            ),
            ("      select: {paths: [mnt]}\n", 4, ["pools[0].disk.select.paths[0]", "absolute"]),
            ("      select:\n        size:\n          atMost: 1 Ti\n", 6, ["disk.select.size.atMost", "not a size"]),
            ("      select: {size: {atLeast: 2, atMost: 1}}\n", 4, ["pools[0].disk.select", "size"]),
            ("      select: {transports: [floppy]}\n", 4, ["transports[0]", "floppy"]),
            ("      select: {rotational: yes}\n", 4, ["rotational", ""]),
            ("      select: {rotational: true}\n      exclude: {model: []}\n", 5, ["pools[0].disk.exclude", "model"]),
            ("      select: {rotational: true}\n      wipe: shred\n", 5, ["wipe: ", "shred"]),
            ("      select: {rotational: true}\n      reserve: 1Gi\n", 5, ["reserve", ""]),
            ("      select: {rotational: true}\n    lvm: {volumeGroup: vg}\n", 4, ["pools[0].disk", "not both"]),
        ] {
            let error = parse(Path::new("pools.yaml"), &format!("{head}{text}")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("pools.yaml:{line}: ")), "{text:?}: {error}");
            for part in parts {
                assert!(error.contains(part), "{text:?}: {error:?} does not name {part:?}");
            }
        }
    }
}
