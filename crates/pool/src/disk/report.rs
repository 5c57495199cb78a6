//! Disks as an operator sees them: what each holds, which pool it belongs to, and why it is free or not.

use quarry_disk::claim::{Claim, ClaimState, Degraded, Repair};
use quarry_disk::{Assignment, Conflict, Disk, State, Transport, Udev};

use super::scan::PoolDisk;
use super::view;
use crate::Wiping;

/// A disk, for an operator.
#[derive(Clone, Debug)]
pub struct DiskReport {
    /// The disk.
    pub disk: Disk,
    /// Which pool the disk belongs to; `None` without a configuration.
    pub owner: Option<Owner>,
    /// Whether it is free, and why not.
    pub state: State,
    /// The name of the volume whose claim is on it (complete, half-made or deleted), if its record can be
    /// read.
    pub volume: Option<String>,
    /// The progress of wiping, if its volume was deleted.
    pub wiping: Option<Wiping>,
    /// Further remarks on the disk.
    pub notes: Vec<String>,
    /// The commands that repair its claim.
    pub repairs: Vec<Repair>,
}

/// Which pool a disk belongs to, by the selectors of all disk pools of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It belongs to this pool.
    Pool(String),
    /// Several pools select it, so none uses it.
    Conflict(Conflict),
    /// A pool selects it, unless an exclusion matches it, or its names belong to another disk.
    Doubtful {
        /// Why that is not known.
        why: String,
    },
    /// No pool selects it.
    NoPool {
        /// Whether it is in the network: a pool has to select such a disk explicitly.
        in_network: bool,
    },
}

impl Owner {
    /// The ownership that an assignment gives a disk.
    pub(super) fn of(assignment: &Assignment, disk: &Disk) -> Self {
        let conflict = assignment.conflicts.iter().find(|one| one.disk == disk.name);
        match (assignment.pools.get(&disk.name), conflict) {
            (Some(pool), _) => Self::Pool(pool.clone()),
            (None, Some(conflict)) => Self::Conflict(conflict.clone()),
            (None, None) if assignment.doubtful.contains(&disk.name) => Self::Doubtful { why: why_doubtful(disk) },
            (None, None) => Self::NoPool { in_network: disk.transport == Transport::Network },
        }
    }

    /// The pool that uses the disk.
    #[must_use]
    pub fn pool(&self) -> Option<&str> {
        match self {
            Self::Pool(pool) => Some(pool),
            Self::Conflict(_) | Self::Doubtful { .. } | Self::NoPool { .. } => None,
        }
    }

    /// Why no pool uses it; `None` if one does.
    #[must_use]
    pub fn why_no_pool(&self) -> Option<String> {
        match self {
            Self::Pool(_) => None,
            Self::Conflict(conflict) => Some(conflict.to_string()),
            Self::Doubtful { why, .. } => Some(why.clone()),
            Self::NoPool { in_network: false } => Some("no pool's selector matches it".to_owned()),
            Self::NoPool { in_network: true } => Some(
                "no pool's selector matches it: a disk in the network must be selected by byId, by paths, or with \
                 transports: [network]"
                    .to_owned(),
            ),
        }
    }
}

/// Why it is not known whether a pool selects a disk.
fn why_doubtful(disk: &Disk) -> String {
    match &disk.udev {
        Udev::Stale { why } => format!(
            "{why}: its names may belong to another disk, so no pool selects it; run systemctl start systemd-udevd, \
             then udevadm trigger --action=add {}",
            disk.node.display()
        ),
        Udev::Awaited => format!(
            "udev has no entry for it yet, so it may be excluded, or be one of several paths to a multipath device; if this \
             does not pass, run udevadm trigger --action=add {}",
            disk.node.display()
        ),
        Udev::Missing | Udev::Current => "udev has no entry for it yet, so it may be excluded".to_owned(),
    }
}

impl DiskReport {
    /// Reports what was found on a disk. The progress of wiping is taken from the disk itself.
    pub(super) fn of(seen: PoolDisk, owner: Option<Owner>) -> Self {
        let mut report = Self::unread(seen.raw.disk, owner, seen.state);
        let found = seen.raw.found.as_ref();
        report.repairs = found.map(|found| found.repairs(&report.disk.node)).unwrap_or_default();
        match &seen.raw.found {
            Ok(ClaimState::Claimed(claim)) => {
                report.volume = view::name(claim);
                report.notes = problems(claim);
                report.notes.extend(unused_space(&report.disk, claim));
            }
            Ok(ClaimState::HalfClaimed(claim)) => {
                report.volume = view::name(claim);
                report.notes = vec![format!(
                    "it has a half-made claim of {}; the next volume creation finishes or clears it",
                    view::title(claim)
                )];
            }
            Ok(ClaimState::Releasing(claim)) => {
                report.volume = view::name(claim);
                report.wiping = Some(wiping(claim));
            }
            Ok(ClaimState::OtherSectorSize { claim, .. }) => report.volume = view::name(claim),
            Ok(ClaimState::Foreign { what, over: Some(claim) }) => {
                report.volume = view::name(claim);
                report.notes = vec![format!("holds {what}, of {}", view::title(claim))];
            }
            Ok(ClaimState::Damaged(damaged)) => {
                report.volume = damaged.claim().and_then(view::name);
                report.notes.extend(report.repairs.is_empty().then(|| "see docs/disk-format.md".to_owned()));
            }
            Ok(ClaimState::Newer { .. } | ClaimState::Nothing | ClaimState::Foreign { over: None, .. }) | Err(_) => {}
        }
        report
    }

    /// A disk of which only the kernel's tables are known.
    pub(super) fn unread(disk: Disk, owner: Option<Owner>, state: State) -> Self {
        Self { disk, owner, state, volume: None, wiping: None, notes: Vec::new(), repairs: Vec::new() }
    }

    /// The name of the disk's state, or `wiping`.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        if self.wiping.is_some() { "wiping" } else { self.state.name() }
    }

    /// All reasons for that state; `None` for a free disk without remarks.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let why = match &self.wiping {
            Some(wiping) => {
                let volume =
                    self.volume.as_ref().map_or_else(|| "a volume".to_owned(), |name| format!("volume {name}"));
                Some(format!("{volume} was deleted; {wiping}"))
            }
            None => self.state.reason().map(str::to_owned),
        };
        // That no pool selects a disk is only worth reporting for a disk that should belong to a pool.
        let is_claimed = matches!(self.state, State::Claimed { .. }) || self.wiping.is_some();
        let owner = self.owner.as_ref().filter(|owner| is_claimed || !matches!(owner, Owner::NoPool { .. }));
        let reasons: Vec<String> =
            why.into_iter().chain(self.notes.iter().cloned()).chain(owner.and_then(Owner::why_no_pool)).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// The deviations of a claim that need an operator. An interrupted change is completed before the volume is used.
pub(super) fn problems(claim: &Claim) -> Vec<String> {
    let shown = |what: &&Degraded| !matches!(what, Degraded::Record | Degraded::Extending);
    claim.degraded.iter().filter(shown).map(ToString::to_string).collect()
}

/// The note for a disk that became larger than its volume.
pub(super) fn unused_space(disk: &Disk, claim: &Claim) -> Option<String> {
    (claim.capacity > claim.length).then(|| {
        format!(
            "the disk {} became larger than its volume: it has room for {} bytes, and the volume has {}; request more \
             than that for its claim to use the rest (docs/growing.md)",
            disk.name, claim.capacity, claim.length
        )
    })
}

/// The progress of wiping that the disk's record states.
fn wiping(claim: &Claim) -> Wiping {
    let done = view::record(claim).map_or(0, |record| record.zeroed_bytes());
    Wiping { done: done.min(claim.length), total: claim.length, failed: None }
}
