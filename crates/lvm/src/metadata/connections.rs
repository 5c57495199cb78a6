//! How the logical volumes of a group are connected: which is a part, a snapshot or the origin of another one.

use std::collections::BTreeMap;

use super::fields::Fields;
use super::parts::{Kind, Lv};
use super::reason::NeedsReport;

/// What a part of a logical volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    RaidImage,
    RaidMetadata,
    PoolData,
    PoolMetadata,
}

/// The connections of the logical volumes, by their names.
pub(crate) struct Connections<'a> {
    lvs: BTreeMap<&'a str, &'a Lv>,
    /// What each part is for, and of which volume.
    parts: BTreeMap<&'a str, (Part, &'a Lv)>,
    /// The origin of the snapshot that each of these has the space for.
    cows: BTreeMap<&'a str, &'a str>,
    /// How many copy-on-write snapshots, thin snapshots, and thin volumes outside of a pool's data read from each.
    snapshots: BTreeMap<&'a str, usize>,
    thin_snapshots: BTreeMap<&'a str, usize>,
    externals: BTreeMap<&'a str, usize>,
}

impl<'a> Connections<'a> {
    /// Finds the connections.
    ///
    /// # Errors
    /// A volume that another one names is not there, or has several users where lvm makes one.
    pub(crate) fn new(lvs: &'a [Lv], fields: &Fields<'_>) -> Result<Self, NeedsReport> {
        let mut found = Self {
            lvs: lvs.iter().map(|lv| (lv.name.as_str(), lv)).collect(),
            parts: BTreeMap::new(),
            cows: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            thin_snapshots: BTreeMap::new(),
            externals: BTreeMap::new(),
        };
        for lv in lvs {
            let single = matches!(&*lv.segments, [_]);
            for segment in &lv.segments {
                if !single && !matches!(segment.kind, Kind::Stripes { .. }) {
                    return fields.wrong("several segments of a type that has one");
                }
                found.add(lv, &segment.kind, fields)?;
            }
        }
        let known = |name: &&str| found.lvs.contains_key(name);
        let named = found.parts.keys().chain(found.cows.keys()).chain(found.snapshots.keys());
        let named = named.chain(found.thin_snapshots.keys()).chain(found.externals.keys());
        if !named.copied().all(|name| known(&name)) || !found.pools_exist() {
            return fields.wrong("a logical volume that another one names is missing");
        }
        let purposeless = |lv: &&Lv| found.is_hidden(lv) && !found.has_purpose(lv);
        match lvs.iter().any(|lv| purposeless(&lv)) {
            true => fields.wrong("a hidden logical volume that nothing uses"),
            false => Ok(found),
        }
    }

    fn add(&mut self, lv: &'a Lv, kind: &'a Kind, fields: &Fields<'_>) -> Result<(), NeedsReport> {
        let count = |of: &mut BTreeMap<&'a str, usize>, name: &'a str| *of.entry(name).or_default() += 1;
        let mut parts = Vec::new();
        match kind {
            Kind::Stripes { .. } => {}
            Kind::Raid { images, metadata, .. } => {
                parts.extend(images.iter().map(|name| (name, Part::RaidImage)));
                parts.extend(metadata.iter().map(|name| (name, Part::RaidMetadata)));
            }
            Kind::ThinPool { data, metadata, .. } => {
                parts.extend([(data, Part::PoolData), (metadata, Part::PoolMetadata)]);
            }
            Kind::Snapshot { origin, cow } => {
                count(&mut self.snapshots, origin);
                if self.cows.insert(cow, origin).is_some() {
                    return fields.wrong("the space of a snapshot that is used twice");
                }
            }
            Kind::Thin { origin, external, .. } => {
                if let Some(origin) = origin {
                    count(&mut self.thin_snapshots, origin);
                }
                if let Some(external) = external {
                    count(&mut self.externals, external);
                }
            }
        }
        for (name, part) in parts {
            if self.parts.insert(name, (part, lv)).is_some() {
                return fields.wrong("a part of two logical volumes");
            }
        }
        Ok(())
    }

    /// Whether each thin volume's pool is a thin pool.
    fn pools_exist(&self) -> bool {
        self.lvs.values().flat_map(|lv| &lv.segments).all(|segment| match &segment.kind {
            Kind::Thin { pool, .. } => self.lvs.get(pool.as_str()).is_some_and(|pool| pool.is_thin_pool()),
            _ => true,
        })
    }

    fn has_purpose(&self, lv: &Lv) -> bool {
        self.part(lv).is_some() || self.is_cow(lv) || is_spare(lv) || lv.is_snapshot()
    }

    /// What the volume is for, if it is a part of another one.
    pub(crate) fn part(&self, lv: &Lv) -> Option<(Part, &'a Lv)> {
        self.parts.get(lv.name.as_str()).copied()
    }

    /// Whether it has the space for a copy-on-write snapshot, and stands for the snapshot.
    pub(crate) fn is_cow(&self, lv: &Lv) -> bool {
        self.cows.contains_key(lv.name.as_str())
    }

    /// Whether it has copy-on-write snapshots.
    pub(crate) fn is_thick_origin(&self, lv: &Lv) -> bool {
        self.snapshots.contains_key(lv.name.as_str())
    }

    /// Whether thin volumes read from it, although it is not in their pool.
    pub(crate) fn is_external_origin(&self, lv: &Lv) -> bool {
        self.externals.contains_key(lv.name.as_str())
    }

    /// Whether lvm hides it. A snapshot is as visible as its origin.
    pub(crate) fn is_hidden(&self, lv: &Lv) -> bool {
        let origin = self.cows.get(lv.name.as_str()).and_then(|origin| self.lvs.get(origin));
        lv.is_snapshot() || !origin.map_or(lv.visible, |origin| origin.visible)
    }

    /// The volume that it is a part of. lvm shows none while the part is visible.
    pub(crate) fn parent(&self, lv: &Lv) -> Option<&'a str> {
        self.part(lv).filter(|_| self.is_hidden(lv)).map(|(_, whole)| whole.name.as_str())
    }

    /// The volume that it is a snapshot of, or reads from.
    pub(crate) fn origin<'b>(&'b self, lv: &'b Lv) -> Option<&'b str> {
        let thin = || match lv.segments.first().map(|segment| &segment.kind) {
            Some(Kind::Thin { origin, external, .. }) => origin.as_deref().or(external.as_deref()),
            _ => None,
        };
        self.cows.get(lv.name.as_str()).copied().or_else(thin)
    }

    /// lvm's words for what it is for.
    pub(crate) fn role(&self, lv: &Lv) -> String {
        let name = lv.name.as_str();
        let count = |of: &BTreeMap<&str, usize>| of.get(name).copied().unwrap_or_default();
        let mut words = Vec::new();
        let origin = |words: &mut Vec<&str>, count: usize, [one, several]: [&'static str; 2]| {
            if count > 0 {
                add(words, ["origin", one]);
            }
            if count > 1 {
                words.push(several);
            }
        };
        match self.part(lv) {
            Some((Part::RaidImage, _)) => words.extend(["raid", "image"]),
            Some((Part::RaidMetadata, _)) => words.extend(["raid", "metadata"]),
            Some((Part::PoolData, _)) => words.extend(["thin", "pool", "data"]),
            Some((Part::PoolMetadata, _)) => words.extend(["thin", "pool", "metadata"]),
            None if is_spare(lv) => words.extend(["pool", "spare"]),
            None => {
                origin(&mut words, count(&self.thin_snapshots), ["thinorigin", "multithinorigin"]);
                if lv.is_thin() && self.origin(lv).is_some() && !self.is_cow(lv) {
                    add(&mut words, ["snapshot", "thinsnapshot"]);
                }
                origin(&mut words, count(&self.externals), ["extthinorigin", "multiextthinorigin"]);
            }
        }
        let private = self.part(lv).is_some() || is_spare(lv) || lv.is_thin_pool();
        origin(&mut words, count(&self.snapshots), ["thickorigin", "multithickorigin"]);
        if self.is_cow(lv) && !self.is_thick_origin(lv) {
            add(&mut words, ["snapshot", "thicksnapshot"]);
        }
        words.insert(0, if private { "private" } else { "public" });
        words.join(",")
    }
}

/// Adds words that are not there yet.
fn add<'a>(words: &mut Vec<&'a str>, more: [&'a str; 2]) {
    for word in more {
        if !words.contains(&word) {
            words.push(word);
        }
    }
}

/// Whether it is the spare metadata for the repair of thin pools. lvm recognizes it by its name.
fn is_spare(lv: &Lv) -> bool {
    !lv.visible && lv.name.contains("_pmspare")
}

impl Lv {
    /// Whether it only connects a volume with the space for a snapshot. Reports do not show it.
    pub(crate) fn is_snapshot(&self) -> bool {
        self.is(|kind| matches!(kind, Kind::Snapshot { .. }))
    }

    pub(crate) fn is_thin(&self) -> bool {
        self.is(|kind| matches!(kind, Kind::Thin { .. }))
    }

    pub(crate) fn is_thin_pool(&self) -> bool {
        self.is(|kind| matches!(kind, Kind::ThinPool { .. }))
    }

    fn is(&self, kind: impl Fn(&Kind) -> bool) -> bool {
        self.segments.first().is_some_and(|segment| kind(&segment.kind))
    }
}
