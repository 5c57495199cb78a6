//! The directories in which volumes are staged and published.
//!
//! Nothing is ever removed with its contents: a directory on which a volume is still mounted stays.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::system::Place;

/// The directory of one run.
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Creates the directory of a run in the working directory, which is created, too.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn create(work_dir: &Path, run: &str) -> anyhow::Result<Self> {
        let create = || -> std::io::Result<PathBuf> {
            std::fs::create_dir_all(work_dir)?;
            // Drivers compare the path with the kernel's table of mounts, which has no symbolic links.
            let path = work_dir.canonicalize()?.join(run);
            std::fs::DirBuilder::new().mode(0o700).create(&path)?;
            Ok(path)
        };
        let path = create().with_context(|| {
            format!("creating a directory in {}; choose another with --work-dir", work_dir.display())
        })?;
        Ok(Self { path })
    }

    /// Creates the directories of one volume.
    pub(crate) fn place(&self, name: String) -> Result<Place, String> {
        let place = Place { directory: self.path.join(&name), name };
        for path in [&place.directory, &place.staging()] {
            std::fs::create_dir(path).map_err(|error| format!("creating {}: {error}", path.display()))?;
        }
        Ok(place)
    }

    /// Removes the directories of one volume, and returns what could not be removed.
    pub(crate) fn remove_place(&self, place: &Place) -> Vec<String> {
        let targets = [place.target(), place.staging()];
        let removed =
            targets.into_iter().map(|path| quarry_mount::remove_target(&path).map_err(|error| error.to_string()));
        let mut left: Vec<String> = removed.filter_map(Result::err).collect();
        if left.is_empty()
            && let Err(error) = std::fs::remove_dir(&place.directory)
        {
            left.push(format!("the directory {}: {error}", place.directory.display()));
        }
        left
    }

    /// Removes the directory of the run.
    pub(crate) fn remove(self) -> Option<String> {
        let error = std::fs::remove_dir(&self.path).err()?;
        Some(format!("the directory {}: {error}", self.path.display()))
    }
}
