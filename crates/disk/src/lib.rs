//! Whole disks as volumes: finds the disks of a host, decides which are free, and reads and writes the claim
//! on each disk that is used.

pub mod claim;
mod find;
mod free;

pub use find::{
    Assignment, Conflict, Criteria, Disk, Error as FindError, FoundDisks, Glob, GlobError, HostPaths, How, PathGlob,
    Paths, Roots, Selector, SelectorError, Sizes, Targets, Transport, Udev, UnknownTransport, Use, Verdict, assign,
    find, open, why_unsupported,
};
pub use free::{
    BootSector, Contents, ExclusiveOpen, ReadError, Remnants, State, classify, find_remnants, try_exclusive_open,
};
