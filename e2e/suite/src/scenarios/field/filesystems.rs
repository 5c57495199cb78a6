//! Publishing in odd states: signatures in file data, filesystems that are shut down or reject writes, raw
//! volumes for readers.

mod dead;
mod read_only;
mod signatures;

use std::time::Duration;

use crate::scenario::Scenario;

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "signatures-in-data",
            about: "a ready volume is staged, whatever its files look like to blkid",
            limit: Duration::from_secs(15 * 60),
            run: |context| Box::pin(signatures::run(context)),
        },
        Scenario {
            name: "dead-filesystems",
            about: "filesystems that are shut down, read-only or on a failing disk: none is staged or published",
            limit: Duration::from_secs(15 * 60),
            run: |context| Box::pin(dead::run(context)),
        },
        Scenario {
            name: "raw-read-only",
            about: "a raw block volume is published read-only next to a writer, with kills at each step",
            limit: Duration::from_secs(15 * 60),
            run: |context| Box::pin(read_only::run(context)),
        },
    ]
}
