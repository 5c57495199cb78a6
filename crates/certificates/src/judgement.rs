//! Checks a leaf's item against the current phase, and its age.

use std::time::SystemTime;

use crate::leaf::{Leaf, Role};
use crate::state::State;
use crate::store::{Data, Versioned};

/// What to do about a leaf's item.
pub(crate) enum Judgement {
    Good(Leaf),
    /// It matches the phase, but must be renewed.
    Due(String),
    /// It is missing, unreadable, or does not match the phase.
    Wrong(String),
}

pub(crate) fn judge(role: Role, stored: Option<&Versioned>, state: &State, now: SystemTime) -> Judgement {
    let Some(stored) = stored.filter(|stored| !is_empty(&stored.data)) else {
        return Judgement::Wrong("it was missing".to_owned());
    };
    let leaf = match Leaf::parse(&stored.data) {
        Ok(leaf) => leaf,
        Err(why) => return Judgement::Wrong(format!("the stored certificate cannot be used: {why}")),
    };
    let (issuer, trusted) = state.demand();
    if let Err(why) = leaf.check(role, issuer, &trusted) {
        return Judgement::Wrong(why);
    }
    if leaf.not_before > now {
        return Judgement::Wrong("it is not valid yet: the issuer's clock was ahead".to_owned());
    }
    if now >= leaf.not_after {
        return Judgement::Due("it had expired".to_owned());
    }
    if now >= leaf.renew_at() {
        return Judgement::Due("two thirds of its lifetime are over".to_owned());
    }
    Judgement::Good(leaf)
}

/// Whether an item was created in advance and is still empty.
pub(crate) fn is_empty(data: &Data) -> bool {
    data.values().all(Vec::is_empty)
}
