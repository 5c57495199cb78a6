//! A container's first process adopts the children of processes that end. Here, the test's process has that
//! role.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quarry_exec::{Command, reap_adopted};

/// The children of this process, with their states.
fn children() -> Vec<String> {
    let this = format!(" {} ", std::process::id());
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest[2..].starts_with(&this))).collect()
}

#[test]
fn adopted_children_are_reaped_and_started_ones_keep_their_exit_status() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (over, reaped) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // Much more often than in production, so that it coincides with every moment of a command's run.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                reaped.fetch_add(reap_adopted(), Ordering::Relaxed);
            }
        });
        let ran = runtime.block_on(async {
            let commands = (0..200).map(|number: i32| async move {
                // Each leaves a child that ends a little later.
                let script = format!("sleep 0.0{} & exit {}", number % 10, number % 7);
                let output = Command::query("sh").args(["-c", &script]).run().await.map_err(|error| error.to_string());
                (number, output.map(|output| output.code))
            });
            futures_in_groups(commands).await
        });
        let began = Instant::now();
        while reaped.load(Ordering::Relaxed) < 200 && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(10));
        }
        over.store(true, Ordering::Relaxed);
        for (number, code) in ran {
            assert_eq!(code, Ok(number % 7), "command {number}");
        }
    });
    assert_eq!(reaped.load(Ordering::Relaxed), 200);
    assert_eq!(children(), Vec::<String>::new());
}

/// Runs the futures, 20 at a time.
async fn futures_in_groups<F>(futures: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let mut done = Vec::new();
    let mut futures = futures.peekable();
    while futures.peek().is_some() {
        let group: Vec<_> = futures.by_ref().take(20).map(tokio::spawn).collect();
        for task in group {
            done.push(task.await.unwrap());
        }
    }
    done
}
