//! Checks whether a filesystem is complete whose creation was interrupted.

use std::path::Path;

use quarry_volume::Filesystem;

use crate::{Error, kinds};

/// Checks a filesystem with the right UUID before it is adopted, on a volume whose record does not say that
/// its creation finished. After a power cut, some of what mkfs wrote without a flush in between may be
/// missing. The device must not be mounted. The check only reads, and does nothing if [`crate::probe`]
/// already shows that the filesystem is complete.
///
/// # Errors
/// [`Error::Damaged`] if parts of it are missing; otherwise errors of the tool.
pub async fn check_before_adoption(kind: Filesystem, device: &Path) -> Result<(), Error> {
    (kinds::of(kind).check_before_adoption)(device).await
}
