//! Mounts, binds and unmounts filesystems and devices, reads mountinfo, and makes read-only mappings of
//! devices.
//!
//! The kernel's own table, `/proc/self/mountinfo`, is the only source of truth, never the return code of an
//! earlier call: kubelet repeats Stage and Publish after its restart, unpublishes volumes that were never
//! published, and Quarry may have been killed between any two system calls. So every operation reads the
//! current state, does what is missing, and checks the state again before it returns success. All operations
//! are idempotent.
//!
//! The functions block (a mount replays a journal); async callers run them on a thread for blocking work.
//! Paths are bytes: spaces, newlines and bytes that are not UTF-8 work.

mod context;
mod error;
mod holders;
mod mapper;
mod mountinfo;
mod once;
mod open;
mod options;
mod publish;
mod syscalls;
mod target;
mod unmount;

pub use context::{context_in, is_same_context};
pub use error::{Attempt, Error};
pub use mapper::{
    Mapping, READ_ONLY_UUID, is_read_only_mapping_of, map_read_only, read_only_mappings, remove_mapping,
    remove_unfinished_mapping, unmap_read_only,
};
pub use mountinfo::{
    Device, Entry, NotADevice, all_at, at, mounts_of_device, open_mounted, parse, publications_of_block, table,
};
pub use once::mount_once;
pub use open::holders;
pub use publish::{bind, bind_device, check_context, mount_filesystem};
pub use target::check_target;
pub use unmount::{remove_target, unmount, unmount_seen};
