//! Converts between Quarry's types and the messages of its protocols: one pair of functions per message, for
//! all crates that send or receive it.
//!
//! Nothing here panics, whatever a peer sends. A *report* from a newer peer is read as far as this version
//! understands it: unknown values become `None`, and a volume with an unknown identifier is omitted. A
//! *request* is read strictly: if it cannot be understood completely, it is rejected.
//!
//! **No field of Quarry's own messages can be forgotten.** Both directions name all fields of what they take
//! apart and of what they build, without `..`, so that a new field of a type or of a message does not compile
//! until it is converted.
//! The tests send arbitrary values there and back.

pub mod agent;
pub mod csi;
pub mod field;
pub mod pool;
pub mod snapshot;
pub mod status;
#[cfg(test)]
mod tests;
mod text;
pub mod view;
pub mod volume;

pub use text::MAX_TEXT;
