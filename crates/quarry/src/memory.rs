//! How much freed memory the allocator of the C library keeps.

use nix::libc;

/// From this much free memory at the end of its heap on, in bytes, the allocator returns it to the kernel.
#[cfg(target_env = "gnu")]
const TRIM: libc::c_int = 128 << 10;

/// Makes the allocator keep little of what is freed. A volume group with a thousand volumes needs some MiB for a moment
/// whenever it is read, each time on another thread. By default, glibc keeps a heap for each of several threads, and ever
/// more free memory in each. Here, all threads share one.
///
/// Call it before this process starts a second thread.
#[allow(unsafe_code)]
pub(crate) fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers. This process has one thread, as the caller promises.
    unsafe {
        // A value that is rejected leaves the default, which works as well.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM);
    }
}
