//! Only the seed decides what happens: each run is one process, and its randomness comes from here.
//!
//! The standard library orders its hash maps, and tokio the branches of `select!`, by the kernel's random
//! numbers. In this process [`getrandom`] replaces the kernel's. With that, turmoil's time and one thread, a
//! seed repeats the same run.

use std::cell::RefCell;

thread_local! {
    static BYTES: RefCell<Option<fastrand::Rng>> = const { RefCell::new(None) };
}

/// From now on all randomness of this thread follows from `seed`.
pub(crate) fn seed(seed: u64) {
    BYTES.set(Some(fastrand::Rng::with_seed(seed ^ 0x5155_4152_5259)));
    fastrand::seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
}

/// What libc offers under this name, from the seed. Threads without one get zeros: none of them decides anything.
///
/// # Safety
/// As for libc's: `buffer` has space for `length` bytes.
#[allow(unsafe_code, reason = "takes the place of libc's function")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller passes a buffer of that length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    let seeded = BYTES.try_with(|from| match &mut *from.borrow_mut() {
        Some(from) => {
            bytes.fill_with(|| from.u8(..));
            true
        }
        None => false,
    });
    if seeded != Ok(true) {
        bytes.fill(0);
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
