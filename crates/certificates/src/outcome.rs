//! The result of a step.

use std::time::Duration;

use quarry_transport::tls::Pem;

use crate::leaf::Role;
use crate::state::Phase;

/// An action of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The first authority was created.
    AuthorityMade,
    /// A certificate was issued.
    Issued {
        /// The role.
        role: Role,
        /// Why it was due.
        why: String,
    },
    /// The rotation entered this phase.
    Entered(Phase),
    /// Both leaf items meet the requirements of this phase; the wait starts.
    Shown(Phase),
    /// A leaf item no longer meets the requirements of this phase; the wait will restart.
    NotShown(Phase),
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Done::AuthorityMade => f.write_str("created an authority"),
            Done::Issued { role, why } => write!(f, "issued the certificate of the {role}: {why}"),
            Done::Entered(Phase::Steady) => f.write_str("completed the rotation of the authority"),
            Done::Entered(phase) => write!(f, "the rotation of the authority entered phase {phase}"),
            Done::Shown(phase) => write!(f, "both certificates meet the requirements of rotation phase {phase}"),
            Done::NotShown(phase) => {
                write!(f, "a certificate no longer meets the requirements of rotation phase {phase}")
            }
        }
    }
}

/// The actions of a step, and when to step again.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The actions, in order; empty if nothing was due.
    pub done: Vec<Done>,
    /// The phase of the rotation; `None` if others kept changing the items, so that it is not known.
    pub phase: Option<Phase>,
    /// The stored certificate of the controller; `None` as for `phase`.
    pub controller: Option<Pem>,
    /// When to step again; at most ten minutes, with jitter.
    pub next: Duration,
}

/// The result of a request to rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// A new authority was created; steps do the rest.
    Begun,
    /// A rotation is already in progress, in this phase; nothing was changed.
    UnderWay(Phase),
}
