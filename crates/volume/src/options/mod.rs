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

use crate::{Error, Filesystem, Parameters, Result};

impl From<OptionError> for Error {
    fn from(error: OptionError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// Checks the options for mounting and creating a volume of that class with this filesystem. `mount_flags` are CSI's,
/// from one capability.
///
/// # Errors
/// `InvalidRequest` for the first option that is not on the allow-list, or that contradicts the class; the message
/// lists the permitted ones.
pub fn check_options(kind: Filesystem, mount_flags: &[String], class: &Parameters) -> Result<()> {
    MountOptions::parse(kind, mount_flags)?.with_discard(kind, class.discard)?;
    MakeOptions::parse(kind, &class.mkfs_options)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Discard, Reason};

    #[test]
    fn a_rejected_option_is_an_invalid_request_that_names_it() {
        let class = |mkfs_options: &str| Parameters {
            mkfs_options: mkfs_options.to_owned(),
            discard: Some(Discard::Online),
            ..Parameters::default()
        };
        check_options(Filesystem::Ext4, &["noatime".to_owned()], &class("-m 0")).unwrap();
        for (flag, options) in [("loop", ""), ("noatime", "-F"), ("nodiscard", "")] {
            let error = check_options(Filesystem::Ext4, &[flag.to_owned()], &class(options)).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidRequest);
            assert!(error.message.contains("allowed:"), "{error}");
        }
    }
}
