//! Judges a leaf's item by what the phase demands, and by its age.

use std::time::SystemTime;

use crate::leaf::{Leaf, Role};
use crate::state::State;
use crate::store::{Data, Versioned};

/// What is to be done about a leaf's item.
pub(crate) enum Judgement {
    Good(Leaf),
    /// It shows what the phase demands, but grows old.
    Due(String),
    /// It is missing, unreadable, or shows something else.
    Wrong(String),
}

pub(crate) fn judge(role: Role, stored: Option<&Versioned>, state: &State, now: SystemTime) -> Judgement {
    let Some(stored) = stored.filter(|stored| !is_empty(&stored.data)) else {
        return Judgement::Wrong("there was none".to_owned());
    };
    let leaf = match Leaf::parse(&stored.data) {
        Ok(leaf) => leaf,
        Err(why) => return Judgement::Wrong(format!("the stored one cannot be used: {why}")),
    };
    let (issuer, believed) = state.demand();
    if let Err(why) = leaf.shows(role, issuer, &believed) {
        return Judgement::Wrong(why);
    }
    if leaf.not_before > now {
        return Judgement::Wrong("it is not valid yet: it was issued by a clock that was ahead".to_owned());
    }
    if now >= leaf.not_after {
        return Judgement::Due("it had expired".to_owned());
    }
    if now >= leaf.renew_at() {
        return Judgement::Due("two thirds of its life are over".to_owned());
    }
    Judgement::Good(leaf)
}

/// Whether an item was made in advance, with nothing in it yet.
pub(crate) fn is_empty(data: &Data) -> bool {
    data.values().all(Vec::is_empty)
}
