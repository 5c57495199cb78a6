//! Mounts: mountinfo, mount, bind, unmount; and the read-only mapping of a device that is published read-only.
//!
//! Every question is answered by the kernel's own table, `/proc/self/mountinfo`, never by the return code of an earlier
//! call: kubelet repeats Stage and Publish after its restart, unpublishes what was never published, and a kill may have
//! fallen between any two system calls. So every operation here starts by looking at what is there, does what is
//! missing, and looks again before it says that it is done. All of them may be repeated.
//!
//! The functions block (a mount replays a journal); asynchronous callers run them on a thread for blocking work.
//! Paths are bytes: spaces, newlines and bytes that are not UTF-8 work.

mod error;
mod holders;
mod mapper;
mod mountinfo;
mod open;
mod options;
mod publish;
mod syscalls;
mod target;
mod unmount;

pub use error::Error;
pub use mapper::{Mapping, READ_ONLY_UUID, map_read_only, read_only_mappings, unmap_read_only};
pub use mountinfo::{Device, Entry, NotADevice, all_at, at, mounts_of_device, parse, publications_of_block, table};
pub use open::holders;
pub use publish::{bind, bind_device, mount_filesystem};
pub use target::check_target;
pub use unmount::{remove_target, unmount};
