//! The part of the crate that exists only in test builds.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::OnceLock;

use parking_lot::Mutex;

static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
/// Number of points passed since `kill-at` appeared.
static PASSED: Mutex<u64> = Mutex::new(0);

fn directory() -> Option<&'static PathBuf> {
    DIRECTORY.get_or_init(|| std::env::var_os("QUARRY_FAULT_DIR").map(PathBuf::from)).as_ref()
}

pub(crate) fn point(name: &str) {
    let Some(directory) = directory() else { return };
    // One point at a time, so that the log has the order in which the points were passed.
    let mut passed = PASSED.lock();
    if let Ok(mut log) = OpenOptions::new().append(true).create(true).open(directory.join("log")) {
        let _ = log.write_all(format!("{name}\n").as_bytes());
    }
    let Some(at) =
        std::fs::read_to_string(directory.join("kill-at")).ok().and_then(|text| text.trim().parse::<u64>().ok())
    else {
        *passed = 0;
        return;
    };
    *passed += 1;
    if *passed == at {
        let _ = std::fs::write(directory.join("killed"), name);
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// The file for notes, if the test has made it.
pub(crate) fn notes() -> Option<PathBuf> {
    directory().map(|directory| directory.join("notes")).filter(|file| file.exists())
}

pub(crate) fn note(text: &str) {
    let Some(file) = notes() else { return };
    // It may be a device, such as the console.
    if let Ok(mut notes) = OpenOptions::new().append(true).open(file) {
        let _ = notes.write_all(format!("{text}\n").as_bytes());
    }
}

thread_local! {
    /// The safeguards that are disabled in this thread.
    static WITHOUT: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// Disables the safeguard `name` in this thread until the returned value is dropped.
#[must_use]
pub fn disable(name: &'static str) -> Disabled {
    WITHOUT.with_borrow_mut(|without| without.push(name));
    Disabled { name, _here: PhantomData }
}

/// Keeps a safeguard disabled until it is dropped.
#[derive(Debug)]
pub struct Disabled {
    name: &'static str,
    /// Makes the type `!Send`: it belongs to its thread.
    _here: PhantomData<*const ()>,
}

impl Drop for Disabled {
    fn drop(&mut self) {
        WITHOUT.with_borrow_mut(|without| {
            if let Some(index) = without.iter().position(|name| *name == self.name) {
                without.remove(index);
            }
        });
    }
}

pub(crate) fn disabled(name: &str) -> bool {
    WITHOUT.with_borrow(|without| without.contains(&name))
        || directory().is_some_and(|directory| directory.join(format!("disable-{name}")).exists())
}
