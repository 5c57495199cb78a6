//! Writes OCI images without a registry, without a container engine and without root: Quarry's own, and those of tests.
//!
//! [`Image`] is for any image: files or trees in, an archive that container runtimes import out, the same bytes every
//! time. [`quarry`] makes the one that is shipped: the program, and the tools it runs from Debian's packages.

mod architecture;
mod archive;
mod bom;
mod check;
mod command;
mod debian;
mod layer;
mod oci;
mod program;
pub mod quarry;

pub use architecture::Architecture;
pub use archive::Archive;
pub use check::check;
pub use layer::Layer;
pub use oci::{Image, Written};
