//! Trims of the machine's mounted filesystems.

use std::io;
use std::ops::Range;

use quarry_filesystem::{Error, Trimmed};
use quarry_mount::Entry;

use super::State;

impl State {
    /// Opens the directory of a mount. Returns whether it is there.
    pub(super) fn begin_trim(&mut self, entry: &Entry) -> bool {
        let is_there = self.at(&entry.target).first() == Some(entry);
        if is_there && !self.busy.insert(entry.target.clone()) {
            self.violation("two trims at one time");
        }
        is_there
    }

    /// Discards that range, and closes the directory.
    pub(super) fn end_trim(&mut self, entry: &Entry, bytes: Range<u64>) -> Result<Trimmed, Error> {
        self.busy.remove(&entry.target);
        if self.no_discards {
            return Ok(Trimmed::Unsupported);
        }
        if self.fails.take_if(|fails| *fails == "trim").is_some() {
            let attempted = "discard the unused blocks of the filesystem at";
            return Err(Error::Io { attempted, path: entry.target.clone(), source: io::Error::other("as configured") });
        }
        self.trimmed.push(bytes);
        Ok(Trimmed::Bytes(1000))
    }
}
