//! Tests on hosts made of files.

mod disks;
mod select;
mod uses;
