//! Hosts made of files, and what is found on them.

mod disks;
mod select;
mod uses;
