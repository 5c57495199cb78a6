//! The certificates with which controller and nodes know each other: issued, renewed and rotated by the controller.
//!
//! Three items hold everything, each a Secret in Kubernetes or a directory without it ([`Item`]): the authority with
//! its key, the controller's certificate, and the one that all nodes share. [`Authority::step`] looks at them and does
//! what is due; any number of controllers may run it at the same time, and each may be killed at any instant. There is
//! no leader: an item is made only if it is absent, and changed only from the version that was read.
//!
//! # Rotation without an outage
//!
//! Whoever loads an item may still hold what it held a while ago: kubelet brings a changed Secret to a node after a
//! minute or two. So one authority follows another in phases ([`Phase`]), and each phase demands something of both
//! leaf items:
//!
//! | phase | certificates come from | authorities believed |
//! |---|---|---|
//! | `steady` | the authority | the authority |
//! | `publish` | the old one | old and new |
//! | `switch` | the new one | old and new |
//! | `steady` again | the new one | the new one |
//!
//! Neighbours in this table trust each other both ways; others do not. Therefore a phase ends only when *both* items
//! showed what it demands (this instant is written into the authority's item) and [`Settings::settle`] has passed since.
//! An item that no longer shows it (deleted, or restored from a backup) starts that wait again.
//!
//! A late writer cannot undo a phase: the leaf items are read *before* the authority's, and written from the version
//! read. Whoever wrote that version had read a phase at least as old as the one that is read afterwards. This is why
//! [`Store::get`] must not be answered from a cache.
//!
//! # When something is broken
//!
//! A leaf item that is missing, unreadable or wrong is issued anew. An authority that cannot be read is an error for
//! the operator to settle, never overwritten: it may be needed again. Deleting the authority's item is the way to
//! distrust it at once: a new one is made and both leaf items follow, with an outage until all have loaded them.
//!
//! Where an operator (or cert-manager) provides the certificates, none of this runs.

mod authority;
mod directory;
mod error;
mod issue;
mod judgement;
mod leaf;
mod outcome;
mod run;
mod settings;
mod state;
mod status;
mod store;
#[doc(hidden)]
pub mod testing;

pub use authority::{Authority, Clock};
pub use directory::DirectoryStore;
pub use error::Error;
pub use leaf::Role;
pub use outcome::{Done, Outcome, Requested};
pub use run::run;
pub use settings::Settings;
pub use state::Phase;
pub use status::{AuthorityStatus, LeafStatus, Status};
pub use store::{Create, Data, Item, Store, StoreError, Update, Versioned, file};
