//! Selectors: which disks a pool uses.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use quarry_mount::Device;

use super::{Disk, Glob, PathGlob, Paths, Transport, Udev};

/// Conditions on a disk. A criterion that is `None` is not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// One of these patterns matches one of the disk's names in `/dev/disk/by-id`.
    pub by_id: Option<Vec<Glob>>,
    /// One of these paths points to the disk.
    pub paths: Option<Vec<PathGlob>>,
    /// One of these patterns matches its model.
    pub model: Option<Vec<Glob>>,
    /// Its size is in this range.
    pub size: Option<Sizes>,
    /// Whether it is rotational.
    pub rotational: Option<bool>,
    /// Its transport is one of these.
    pub transports: Option<Vec<Transport>>,
}

/// A range of sizes in bytes; both bounds are inclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The lower bound; `None`: no lower bound.
    pub at_least: Option<u64>,
    /// The upper bound; `None`: no upper bound.
    pub at_most: Option<u64>,
}

/// Selects the disks that match *every* include criterion and *no* exclude criterion. Disks in the network match only if
/// the include criteria name this transport, or names or paths of disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    include: Criteria,
    exclude: Criteria,
}

/// Why a selector was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// There is no criterion.
    #[error(
        "there is no criterion, so it would match every disk of the host; set at least one: byId, paths, model, size, \
         rotational or transports"
    )]
    Everything,
    /// A list is empty.
    #[error("{criterion} is an empty list, which no disk can match; add an entry or remove {criterion}")]
    Empty {
        /// The criterion.
        criterion: &'static str,
    },
    /// A range of sizes has no bounds, or the lower one is greater.
    #[error("size needs atLeast or atMost, and atLeast must not be greater than atMost")]
    Size,
}

/// The devices that a selector's path patterns match at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    include: HashSet<Device>,
    exclude: HashSet<Device>,
}

/// Whether a selector matches a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It matches.
    Selected,
    /// An include criterion does not match, or the fact that it needs is unknown.
    NotSelected,
    /// An exclude criterion matches.
    Excluded,
    /// It may be selected, but udev has no valid entry (yet). So it is unknown whether the disk is excluded, whether its
    /// names are its own, and whether it is one of several paths to a multipath device. Such a disk is not used until
    /// udev has an entry. On a host without udev, only names, paths and models cause this.
    Doubtful,
}

impl Selector {
    /// Makes a selector of these criteria.
    ///
    /// # Errors
    /// There is no include criterion, or a criterion cannot match any disk.
    pub fn new(include: Criteria, exclude: Criteria) -> Result<Self, SelectorError> {
        include.check()?;
        exclude.check()?;
        if include == Criteria::default() {
            return Err(SelectorError::Everything);
        }
        Ok(Self { include, exclude })
    }

    /// Resolves the path patterns.
    pub fn targets(&self, paths: &impl Paths) -> Targets {
        let devices = |criteria: &Criteria| {
            let globs = criteria.paths.iter().flatten();
            globs.flat_map(|glob| glob.devices(paths)).collect()
        };
        Targets { include: devices(&self.include), exclude: devices(&self.exclude) }
    }

    /// Whether the selector matches the disk; `targets` are the devices that its paths point to.
    #[must_use]
    pub fn verdict(&self, disk: &Disk, targets: &Targets) -> Verdict {
        // Another driver may just have attached it for a volume of its own: it is empty until that driver formats it.
        if disk.transport == Transport::Network && !self.include.names_the_network() {
            return Verdict::NotSelected;
        }
        // With a stale entry, neither the names nor the links that point to the disk can be trusted.
        if matches!(disk.udev, Udev::Stale { .. }) {
            let is_selected = self.include.without_names().answers(disk, &targets.include).all(|matches| matches);
            return if is_selected { Verdict::Doubtful } else { Verdict::NotSelected };
        }
        if !self.include.answers(disk, &targets.include).all(|matches| matches) {
            return Verdict::NotSelected;
        }
        if self.exclude.answers(disk, &targets.exclude).any(|matches| matches) {
            return Verdict::Excluded;
        }
        // Only udev knows whether it is one of several paths to a multipath device.
        if disk.udev == Udev::Awaited || self.exclude.needs_udev() && disk.udev != Udev::Current {
            return Verdict::Doubtful;
        }
        Verdict::Selected
    }

    /// Whether the selector may match the disk once all facts about it are known. A disk that hangs or fails when it is
    /// attached keeps udev from naming it, and the kernel from reading its size.
    ///
    /// Disks in the network count, although a selector has to name them to match them: an earlier version did not demand
    /// that, so one that cannot be read may have a volume.
    #[must_use]
    pub fn may_match(&self, disk: &Disk, targets: &Targets) -> bool {
        let include = self.include.known(disk, disk.udev == Udev::Current);
        // A link that is there excludes a disk without udev's entry, too.
        let exclude = self.exclude.known(disk, !matches!(disk.udev, Udev::Stale { .. }));
        include.answers(disk, &targets.include).all(|matches| matches)
            && !exclude.answers(disk, &targets.exclude).any(|matches| matches)
    }
}

impl Criteria {
    fn check(&self) -> Result<(), SelectorError> {
        let lists = [
            ("byId", self.by_id.as_ref().map(Vec::len)),
            ("paths", self.paths.as_ref().map(Vec::len)),
            ("model", self.model.as_ref().map(Vec::len)),
            ("transports", self.transports.as_ref().map(Vec::len)),
        ];
        if let Some((criterion, _)) = lists.into_iter().find(|(_, length)| *length == Some(0)) {
            return Err(SelectorError::Empty { criterion });
        }
        match self.size {
            Some(Sizes { at_least: None, at_most: None }) => Err(SelectorError::Size),
            Some(Sizes { at_least: Some(least), at_most: Some(most) }) if least > most => Err(SelectorError::Size),
            _ => Ok(()),
        }
    }

    /// For each criterion that is set, whether the disk matches it.
    fn answers(&self, disk: &Disk, targets: &HashSet<Device>) -> impl Iterator<Item = bool> {
        let any = |globs: &[Glob], name: &str| globs.iter().any(|glob| by_id_matches(glob, name));
        let model = |globs: &[Glob], model: &str| globs.iter().any(|glob| glob.matches(model));
        [
            self.by_id.as_ref().map(|globs| disk.by_id.iter().any(|name| any(globs, name))),
            self.paths.as_ref().map(|_| targets.contains(&disk.number)),
            self.model.as_ref().map(|globs| disk.model.as_ref().is_some_and(|name| model(globs, name))),
            self.size.map(|sizes| sizes.contains(disk.size)),
            self.rotational.map(|rotational| rotational == disk.rotational),
            self.transports.as_ref().map(|transports| transports.contains(&disk.transport)),
        ]
        .into_iter()
        .flatten()
    }

    /// The criteria whose facts are known for the disk. `names`: whether its names, its links and its model are.
    fn known(&self, disk: &Disk, names: bool) -> Self {
        let mut known = if names { self.clone() } else { self.without_names() };
        // The kernel also takes a disk for rotational whose size it could not read. A drive without a medium, such as
        // an empty card reader, really has no size.
        if disk.size == 0 && !disk.removable {
            (known.size, known.rotational) = (None, None);
        }
        known
    }

    /// The criteria that do not depend on udev.
    fn without_names(&self) -> Self {
        Self { by_id: None, paths: None, model: None, ..self.clone() }
    }

    /// Whether it can be meant for disks in the network: it contains this transport, or names of disks or their paths.
    fn names_the_network(&self) -> bool {
        let transports = self.transports.iter().flatten();
        self.by_id.is_some() || self.paths.is_some() || transports.into_iter().any(|one| *one == Transport::Network)
    }

    /// Whether the result may change when udev handles a disk: it makes the links, and knows the whole model.
    fn needs_udev(&self) -> bool {
        self.by_id.is_some() || self.paths.is_some() || self.model.is_some()
    }
}

/// A pattern for `by-id` may be written with the folder or without.
fn by_id_matches(glob: &Glob, name: &str) -> bool {
    if glob.as_str().starts_with('/') { glob.matches(&format!("/dev/disk/by-id/{name}")) } else { glob.matches(name) }
}

impl Sizes {
    fn contains(self, size: u64) -> bool {
        self.at_least.is_none_or(|least| size >= least) && self.at_most.is_none_or(|most| size <= most)
    }
}

/// A disk that several pools select. None of them uses it: otherwise the first one to claim it would decide
/// for both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk {disk}{} belongs to the pools {}: change their selectors so that only one of them matches it; until then, \
     no pool uses it",
    by_id.as_ref().map(|name| format!(" ({name})")).unwrap_or_default(),
    pools.join(" and ")
)]
pub struct Conflict {
    /// The disk's kernel name.
    pub disk: String,
    /// The first of its names in `by-id`.
    pub by_id: Option<String>,
    /// The pools, in the order of the configuration.
    pub pools: Vec<String>,
}

/// Which pool each disk belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The kernel name of each disk that belongs to a pool, and the pool's name.
    pub pools: BTreeMap<String, String>,
    /// Disks that several pools select. At the start, that is an error in the configuration; later, when such
    /// a disk is plugged in, the pools continue without it.
    pub conflicts: Vec<Conflict>,
    /// The disks for which a pool's selector returns [`Verdict::Doubtful`]. They belong to no pool yet.
    pub doubtful: BTreeSet<String>,
    /// The pools whose selectors may match each disk: [`Selector::may_match`].
    pub possible: BTreeMap<String, Vec<String>>,
}

/// Assigns each disk to the pool that selects it.
#[must_use]
pub fn assign(pools: &[(String, Selector)], disks: &[Disk], paths: &impl Paths) -> Assignment {
    let targets: Vec<_> = pools.iter().map(|(name, selector)| (name, selector, selector.targets(paths))).collect();
    let mut assignment = Assignment::default();
    for disk in disks {
        let (mut selected, mut possible, mut is_doubtful) = (Vec::new(), Vec::new(), false);
        for (name, selector, targets) in &targets {
            match selector.verdict(disk, targets) {
                Verdict::Selected => selected.push((*name).clone()),
                Verdict::Doubtful => is_doubtful = true,
                Verdict::NotSelected | Verdict::Excluded => {}
            }
            if selector.may_match(disk, targets) {
                possible.push((*name).clone());
            }
        }
        assignment.possible.insert(disk.name.clone(), possible);
        match selected.as_slice() {
            // Once udev has an entry, two pools may turn out to select it, so no pool uses it before.
            _ if is_doubtful => {
                assignment.doubtful.insert(disk.name.clone());
            }
            [] => {}
            [pool] => {
                assignment.pools.insert(disk.name.clone(), pool.clone());
            }
            _ => {
                let by_id = disk.by_id.first().cloned();
                assignment.conflicts.push(Conflict { disk: disk.name.clone(), by_id, pools: selected });
            }
        }
    }
    assignment
}
