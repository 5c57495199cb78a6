//! Options for mkfs and mount(8) that a StorageClass may give, through an allow-list per filesystem.
//!
//! Pure words: the controller refuses a bad option before any node is asked, and the node, which alone runs anything,
//! checks once more.

mod make;
mod mount;
mod tables;
mod value;

pub use make::MakeOptions;
pub use mount::MountOptions;
pub use value::OptionError;

use crate::{Error, Filesystem, Result};

impl From<OptionError> for Error {
    fn from(error: OptionError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// Checks the options that a volume of this filesystem is to be mounted and made with. `mount_flags` are CSI's, one
/// capability's; `mkfs_options` are words as they would be typed after `mkfs`.
///
/// # Errors
/// `InvalidRequest` for the first option that the allow-list does not name; the message lists what it does.
pub fn check_options(kind: Filesystem, mount_flags: &[String], mkfs_options: &str) -> Result<()> {
    MountOptions::parse(kind, mount_flags)?;
    MakeOptions::parse(kind, mkfs_options)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;

    #[test]
    fn what_is_refused_is_the_requests_fault_and_named() {
        check_options(Filesystem::Ext4, &["noatime".to_owned()], "-m 0").unwrap();
        for (flags, options) in [(vec!["loop".to_owned()], ""), (vec![], "-F")] {
            let error = check_options(Filesystem::Ext4, &flags, options).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidRequest);
            assert!(error.message.contains("allowed:"), "{error}");
        }
    }
}
