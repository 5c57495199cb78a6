//! Runs blocking work on its own thread.

use std::io;
use std::path::Path;

use tokio::sync::oneshot;

use crate::Error;

/// Runs work that may hang forever on a disk, and returns its result.
///
/// The runtime has a limited number of threads for blocking work, shared by everything. A thread that waits
/// for a disk cannot be stopped, so enough of them would block work that does not use that disk. Here, each
/// piece of work has its own thread; the caller limits their number.
///
/// # Errors
/// No thread can be started, or the work panicked.
pub async fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, answer) = oneshot::channel();
    // The send fails if the caller has stopped waiting.
    std::thread::Builder::new().name("storage".to_owned()).spawn(move || drop(sender.send(work())))?;
    answer.await.map_err(|_| io::Error::other("its thread ended unexpectedly"))
}

/// Like [`on_own_thread`], for work on one device.
pub(crate) async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let owned = path.to_owned();
    match on_own_thread(move || work(&owned)).await {
        Ok(result) => result,
        Err(error) => Err(Error::io("work on", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error() {
        assert_eq!(on_own_thread(|| 7).await.unwrap(), 7);
        assert!(on_own_thread(|| -> u8 { panic!("bug") }).await.is_err());
    }
}
