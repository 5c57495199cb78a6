//! The certificates of controller and nodes: issued, renewed and rotated by the controller.
//!
//! Three items hold everything, each a Secret in Kubernetes or a directory without it ([`Item`]): the
//! authority with its key, the controller's certificate, and the certificate that all nodes share.
//! [`Authority::step`] checks them and does what is due; any number of controllers may run it at the same
//! time, and each may be killed at any instant. There is no leader: an item is created only if it is absent,
//! and changed only from the version that was read.
//!
//! # Rotation without an outage
//!
//! A process that loads an item may still have an old version: kubelet takes a minute or two to deliver a
//! changed Secret to a node. So one authority replaces another in phases ([`Phase`]), and each phase has
//! requirements for both leaf items:
//!
//! | phase | issuer of certificates | trusted authorities |
//! |---|---|---|
//! | `steady` | the authority | the authority |
//! | `publish` | the old one | old and new |
//! | `switch` | the new one | old and new |
//! | `steady` again | the new one | the new one |
//!
//! Adjacent phases in this table trust each other both ways; others do not. Therefore a phase ends only when
//! *both* items have met its requirements (this instant is written to the authority's item) and
//! [`Settings::propagation`] has passed since. If an item no longer meets them (deleted, or restored from a
//! backup), that wait restarts.
//!
//! A late writer cannot undo a phase: the leaf items are read *before* the authority's, and written based on
//! the version that was read. The writer of that version had read a phase at least as old as the one that is
//! read afterwards. Therefore [`Store::get`] must not be answered from a cache.
//!
//! # When something is broken
//!
//! A leaf item that is missing, unreadable or wrong is reissued. An unreadable authority is an error that the
//! operator must resolve; it is never overwritten, because it may be needed again. To revoke trust in an
//! authority immediately, empty its item: a new one is created and both leaf items follow, with an outage
//! until all have loaded them. A deleted item has the same effect if the controllers may create it; with the Helm
//! chart they may not, because the permission to create Secrets cannot be limited to names.
//!
//! If an operator (or cert-manager) provides the certificates, none of this runs.

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
