//! Blocking work, each piece on a thread of its own.

use std::io;
use std::path::Path;

use tokio::sync::oneshot;

use crate::Error;

/// Runs work that a disk may hold up for ever, and returns what it says.
///
/// The runtime has a limited number of threads for blocking work, and everything shares them. A thread that waits for a
/// disk cannot be called back, so enough of them would stop what has nothing to do with that disk. Here each piece of work
/// has its own thread, which nobody else waits for; the caller bounds how many there are.
///
/// # Errors
/// No thread can be started, or the work panicked.
pub async fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tell, answer) = oneshot::channel();
    // Nobody may be waiting any more when the work ends.
    std::thread::Builder::new().name("storage".to_owned()).spawn(move || drop(tell.send(work())))?;
    answer.await.map_err(|_| io::Error::other("its thread ended unexpectedly"))
}

/// The same for work on one device.
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
