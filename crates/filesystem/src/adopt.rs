//! Whether a filesystem that an interrupted creation left behind is whole.

use std::path::Path;

use quarry_volume::Filesystem;

use crate::{Error, kinds};

/// Checks a filesystem that carries the right UUID, on a volume whose creation was never recorded as finished, before
/// it is adopted: after a power cut, some of what mkfs wrote without a flush between may be missing. The device must not
/// be mounted. Reads only, and only where [`crate::probe`] does not show that the filesystem is whole.
///
/// # Errors
/// [`Error::Damaged`] when parts of it are missing; otherwise the tool's.
pub async fn check_before_adoption(kind: Filesystem, device: &Path) -> Result<(), Error> {
    (kinds::of(kind).check_before_adoption)(device).await
}
