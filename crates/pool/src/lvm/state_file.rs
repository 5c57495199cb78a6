//! Files for what the storage cannot keep, on the host's filesystem.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Replaces the file, so that it has the old or the new text after a power cut.
///
/// # Errors
/// The folder or the file cannot be written.
pub(super) fn replace(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let next = file.with_extension("next");
    let mut written = File::create(&next)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    fs::rename(&next, file)?;
    File::open(folder)?.sync_all()
}
