//! Writes OCI images without a registry, a container engine or root: Quarry's own, and those of tests.
//!
//! [`Image`] is for any image: files or trees in, an archive out that container runtimes import, the same
//! bytes every time. [`quarry`] builds the released image: the program, and the tools that it runs from
//! Debian's packages.

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
