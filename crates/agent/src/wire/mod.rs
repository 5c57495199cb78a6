//! Converts between the messages on the wire and the types of [`quarry_volume`].
//!
//! Nothing here panics, whatever a peer sends. [`read`] accepts what it understands from a newer peer:
//! unknown values become `None`, and a volume with an unknown identifier is omitted. A *request* is parsed
//! strictly: if it cannot be understood completely, it is rejected.

pub mod read;
pub mod status;
pub mod write;

#[cfg(test)]
mod tests;
