//! Options for mkfs and mount(8) in a StorageClass, checked against an allow-list per filesystem.
//!
//! Text only: the controller rejects a bad option before it calls a node, and the node, which runs the
//! commands, checks again.

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

/// Checks the options for mounting and creating a volume with this filesystem. `mount_flags` are CSI's, from
/// one capability; `mkfs_options` are words as on the command line of `mkfs`.
///
/// # Errors
/// `InvalidRequest` for the first option that is not on the allow-list; the message lists the permitted ones.
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
    fn a_rejected_option_is_an_invalid_request_that_names_it() {
        check_options(Filesystem::Ext4, &["noatime".to_owned()], "-m 0").unwrap();
        for (flags, options) in [(vec!["loop".to_owned()], ""), (vec![], "-F")] {
            let error = check_options(Filesystem::Ext4, &flags, options).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidRequest);
            assert!(error.message.contains("allowed:"), "{error}");
        }
    }
}
