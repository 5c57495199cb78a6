//! The stored certificates, for `quarry doctor` and metrics.

use std::time::SystemTime;

use crate::authority::Authority;
use crate::judgement::{Judgement, is_empty, judge};
use crate::leaf::{Leaf, Role};
use crate::state::{Phase, State};
use crate::store::{Item, Versioned};
use crate::{Error, StoreError};

/// The stored certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The authority.
    pub authority: AuthorityStatus,
    /// The controller's certificate.
    pub controller: LeafStatus,
    /// The nodes' certificate.
    pub node: LeafStatus,
}

/// The authority, and the phase of its rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityStatus {
    /// It does not exist yet.
    Missing,
    /// It cannot be used; an operator must act.
    Unusable {
        /// The problem.
        why: String,
    },
    /// It can be used.
    Present {
        /// The phase of the rotation.
        phase: Phase,
        /// When both certificates were first observed to meet the phase's requirements; `None` until then, and in
        /// `steady`.
        since: Option<SystemTime>,
        /// When the authority expires; the old one during a rotation.
        expires: SystemTime,
        /// When the new authority expires, during a rotation.
        next_expires: Option<SystemTime>,
    },
}

/// A leaf's item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafStatus {
    /// It does not exist yet.
    Missing,
    /// It cannot be read.
    Unreadable {
        /// The problem.
        why: String,
    },
    /// It can be read.
    Present {
        /// When it expires.
        expires: SystemTime,
        /// Why it must be reissued, if it must. Always `None` while the authority is missing or unusable.
        due: Option<String>,
    },
}

impl Authority {
    /// The stored certificates. Changes nothing.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn status(&self) -> Result<Status, StoreError> {
        let controller = self.store.get(Item::Controller).await?;
        let node = self.store.get(Item::Node).await?;
        let stored = self.store.get(Item::Authority).await?.filter(|stored| !is_empty(&stored.data));
        let now = (self.clock)();
        let state = stored.map(|stored| State::parse(stored.data));
        let known = state.as_ref().and_then(|state| state.as_ref().ok());
        let leaf = |role, stored: Option<Versioned>| leaf(role, stored.as_ref(), known, now);
        Ok(Status {
            controller: leaf(Role::Controller, controller),
            node: leaf(Role::Node, node),
            authority: match &state {
                None => AuthorityStatus::Missing,
                Some(Err(Error::AuthorityUnusable { why })) => AuthorityStatus::Unusable { why: why.clone() },
                Some(Err(other)) => AuthorityStatus::Unusable { why: other.to_string() },
                Some(Ok(state)) => AuthorityStatus::Present {
                    phase: state.phase(),
                    since: state.rotation.as_ref().and_then(|rotation| rotation.since),
                    expires: state.current.not_after(),
                    next_expires: state.rotation.as_ref().map(|rotation| rotation.next.not_after()),
                },
            },
        })
    }
}

fn leaf(role: Role, stored: Option<&Versioned>, state: Option<&State>, now: SystemTime) -> LeafStatus {
    let Some(item) = stored.filter(|stored| !is_empty(&stored.data)) else { return LeafStatus::Missing };
    match Leaf::parse(&item.data) {
        Err(why) => LeafStatus::Unreadable { why },
        Ok(leaf) => LeafStatus::Present {
            expires: leaf.not_after,
            due: state.and_then(|state| match judge(role, stored, state, now) {
                Judgement::Good(_) => None,
                Judgement::Due(why) | Judgement::Wrong(why) => Some(why),
            }),
        },
    }
}
