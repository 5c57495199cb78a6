//! Looks at what a disk may hold up for ever, one under way for each volume.
//!
//! A statfs(2) of a filesystem whose disk hangs does not return, and nothing can call its thread back. kubelet asks for
//! every volume's figures once a minute. So a volume that does not answer has one thread that waits for it, however often
//! it is asked about, and every other caller gets an error that says for how long it has not answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quarry_filesystem::on_own_thread;
use quarry_volume::{Error, Reason, Result};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long a look may take before its caller gets an error: a disk that sleeps has to spin up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The looks under way on one node.
#[derive(Clone, Default)]
pub(crate) struct Looks {
    under_way: Arc<Mutex<HashMap<String, Look>>>,
}

struct Look {
    since: Instant,
    /// Closed when the look has ended.
    ended: watch::Receiver<()>,
}

/// Removes a look's entry when its thread ends, however that comes.
struct Registered {
    looks: Looks,
    volume: String,
    _ended: watch::Sender<()>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.looks.lock().remove(&self.volume);
    }
}

impl Looks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Look>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `look` on a thread of its own once no other look at the volume is under way, and waits for it.
    ///
    /// # Errors
    /// `Unavailable` if this look, or the one before it, has not answered for [`PATIENCE`]. Otherwise what `look` says.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        volume: &str,
        look: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.within(PATIENCE, volume, look).await
    }

    async fn within<T: Send + 'static>(
        &self,
        patience: Duration,
        volume: &str,
        look: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let registered = loop {
            let (since, mut ended) = match self.begin(volume) {
                Ok(registered) => break registered,
                Err(earlier) => earlier,
            };
            // The sender never sends; `changed` returns when it is dropped with the look.
            if timeout_at(since + patience, ended.changed()).await.is_err() {
                return Err(no_answer(since.elapsed()));
            }
        };
        let began = Instant::now();
        let work = on_own_thread(move || {
            let _registered = registered;
            look()
        });
        match timeout_at(began + patience, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(Error::host(format!("a thread to look at the volume: {error}"))),
            Err(_) => Err(no_answer(began.elapsed())),
        }
    }

    /// Enters a look at the volume; or says since when another one is under way.
    fn begin(&self, volume: &str) -> Result<Registered, (Instant, watch::Receiver<()>)> {
        let mut looks = self.lock();
        if let Some(earlier) = looks.get(volume) {
            return Err((earlier.since, earlier.ended.clone()));
        }
        let (sender, ended) = watch::channel(());
        looks.insert(volume.to_owned(), Look { since: Instant::now(), ended });
        Ok(Registered { looks: self.clone(), volume: volume.to_owned(), _ended: sender })
    }
}

fn no_answer(time: Duration) -> Error {
    Error::new(
        Reason::Unavailable,
        format!(
            "it has not answered for {} s: does its disk hang? See the kernel log; the call is answered again once the \
             disk is",
            time.as_secs()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const SHORT: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn a_volume_that_does_not_answer_has_one_thread_however_often_it_is_asked_about() {
        let looks = Looks::default();
        let (go, gate) = mpsc::channel::<()>();
        let stuck = looks.within(SHORT, "v", move || Ok(gate.recv().is_ok())).await.unwrap_err();
        assert_eq!(stuck.reason, Reason::Unavailable);
        for _ in 0..100 {
            let error = looks.within(SHORT, "v", || -> Result<()> { panic!("a second look") }).await.unwrap_err();
            assert_eq!(error.reason, Reason::Unavailable);
            assert!(error.message.contains("has not answered for"), "{error}");
        }
        assert_eq!(looks.lock().len(), 1);
        assert_eq!(looks.within(SHORT, "other", || Ok(7)).await.unwrap(), 7);
        go.send(()).unwrap();
        // It is answered again as soon as the first look is through.
        assert_eq!(looks.run("v", || Ok(8)).await.unwrap(), 8);
        assert!(looks.lock().is_empty());
    }

    #[tokio::test]
    async fn those_who_come_together_are_all_answered() {
        let looks = Looks::default();
        let look = |number: u64| {
            let looks = looks.clone();
            tokio::spawn(async move {
                let work = move || {
                    std::thread::sleep(Duration::from_millis(1));
                    Ok(number)
                };
                looks.run("v", work).await
            })
        };
        let all: Vec<_> = (0..50).map(look).collect();
        for (number, answer) in all.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap().unwrap(), number as u64);
        }
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_leaves_the_look_registered() {
        let looks = Looks::default();
        let (go, gate) = mpsc::channel::<()>();
        let look = looks.run("v", move || Ok(gate.recv().is_ok()));
        assert!(tokio::time::timeout(SHORT, look).await.is_err());
        assert_eq!(looks.lock().len(), 1);
        drop(go);
        assert!(looks.run("v", || Ok(())).await.is_ok());
    }
}
