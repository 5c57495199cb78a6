//! What came of a step.

use std::time::Duration;

use quarry_transport::tls::Pem;

use crate::leaf::Role;
use crate::state::Phase;

/// Something that a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The first authority was made.
    AuthorityMade,
    /// A certificate was issued.
    Issued {
        /// For whom.
        role: Role,
        /// Why it was due.
        why: String,
    },
    /// The rotation entered this phase.
    Entered(Phase),
    /// Both leaf items show what this phase demands; the wait begins.
    Shown(Phase),
    /// A leaf item does not show any more what this phase demands; the wait will begin again.
    NotShown(Phase),
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Done::AuthorityMade => f.write_str("made an authority"),
            Done::Issued { role, why } => write!(f, "issued the certificate of the {role}: {why}"),
            Done::Entered(Phase::Steady) => f.write_str("rotation of the authority complete"),
            Done::Entered(phase) => write!(f, "rotation of the authority entered phase {phase}"),
            Done::Shown(phase) => write!(f, "both certificates show what phase {phase} of the rotation demands"),
            Done::NotShown(phase) => write!(f, "a certificate went back behind phase {phase} of the rotation"),
        }
    }
}

/// What a step did, and when to come again.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was done, in order; empty if nothing was due.
    pub done: Vec<Done>,
    /// How far the rotation is now; `None` if others kept changing the items, so that it is not known.
    pub phase: Option<Phase>,
    /// The controller's own certificate as it is stored now; `None` as for `phase`.
    pub controller: Option<Pem>,
    /// When to step again; at most ten minutes, spread a little.
    pub next: Duration,
}

/// How a request to rotate was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// A new authority was made; steps do the rest.
    Begun,
    /// A rotation is under way already, in this phase; nothing was changed.
    UnderWay(Phase),
}
