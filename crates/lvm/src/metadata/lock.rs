//! lvm's lock of a volume group.
//!
//! A command of lvm may commit several times before a change is complete. The states in between are valid metadata, but no
//! other program may act on them. lvm's commands exclude each other by `flock` on a file, `V_GROUP`. A report waits for it.
//! Here it is only tested, between two reads of the disks with the same result: then no command was in the middle of a
//! change at that moment, and what was read is the state of that moment.
//!
//! The test takes the lock for a moment, for reading, as each report does. A command with `wait_for_locks=0` can fail then.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::Scope;

/// Where lvm's locks are unless lvm.conf sets another folder.
const LOCKS: &str = "/run/lock/lvm";

/// Whether a command of lvm has locked the volume group to change it. Does not wait.
///
/// # Errors
/// The file of the lock cannot be opened or tested.
pub(crate) fn is_locked(group: &str, scope: &Scope) -> io::Result<bool> {
    let folder = scope.locks.as_deref().unwrap_or_else(|| Path::new(LOCKS));
    let file = match File::open(folder.join(format!("V_{group}"))) {
        Ok(file) => file,
        // lvm makes the file when it locks, and removes it afterwards. It makes the folder, too, and leaves it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder.is_dir() => return Ok(false),
        Err(error) => return Err(error),
    };
    // The lock is released at once, when the file is closed.
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_holds_the_lock_and_a_report_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let scope = Scope { locks: Some(folder.path().to_owned()), ..Scope::default() };
        assert!(!is_locked("vg0", &scope).unwrap(), "there is no file");
        let file = File::create(folder.path().join("V_vg0")).unwrap();
        assert!(!is_locked("vg0", &scope).unwrap());
        file.lock_shared().unwrap();
        assert!(!is_locked("vg0", &scope).unwrap());
        file.unlock().unwrap();
        file.lock().unwrap();
        assert!(is_locked("vg0", &scope).unwrap());
        assert!(!is_locked("vg1", &scope).unwrap(), "the lock of another volume group");
        drop(file);
        assert!(!is_locked("vg0", &scope).unwrap());
        let file = Scope { locks: Some(folder.path().join("V_vg0")), ..Scope::default() };
        assert!(is_locked("vg0", &file).is_err(), "not a folder");
        let nowhere = Scope { locks: Some(folder.path().join("missing")), ..Scope::default() };
        assert!(is_locked("vg0", &nowhere).is_err(), "lvm's folder is another one");
    }
}
