//! Whole disks as volumes: which there are, which are free and why not, and the claim that lies on each that is taken.

pub mod claim;
mod find;
mod free;

pub use find::{
    Assignment, Conflict, Criteria, Disk, Error as FindError, FoundDisks, Glob, GlobError, HostPaths, How, PathGlob,
    Paths, Roots, Selector, SelectorError, Sizes, Targets, Transport, Udev, UnknownTransport, Use, Verdict, assign,
    find, open, why_no_disk,
};
pub use free::{Alone, BootSector, Contents, ReadError, Remains, State, alone, judge, remains};
