//! What travels between controller and node, to and from the words of [`quarry_volume`].
//!
//! Nothing here panics, whatever a peer sends. [`read`] takes what a newer peer says as far as it is understood: what
//! is not known becomes `None`, and a volume whose identifier cannot be read is left out. A *request* is read strictly:
//! what would be done otherwise than it was meant is refused.

pub mod read;
pub mod status;
pub mod write;

#[cfg(test)]
mod tests;
