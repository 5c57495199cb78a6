//! Tasks, and what their callers learn.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_second_operation_on_a_volume_is_rejected_until_the_first_has_ended() {
    let tasks = Tasks::default();
    let (go, gate) = tokio::sync::oneshot::channel::<()>();
    let first = {
        let tasks = tasks.clone();
        tokio::spawn(async move { tasks.run("v", "create", LONG, |_| async { Ok(gate.await.is_ok()) }).await })
    };
    while tasks.list().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = tasks.run("v", "delete", LONG, |_| async { Ok(()) }).await.unwrap_err();
    assert_eq!(second.reason, Reason::UnderWay);
    assert!(tasks.run("other", "delete", LONG, |_| async { Ok(()) }).await.is_ok());
    go.send(()).unwrap();
    assert!(first.await.unwrap().unwrap());
    assert!(tasks.run("v", "delete", LONG, |_| async { Ok(()) }).await.is_ok());
}

#[tokio::test]
async fn work_continues_when_its_caller_gives_up() {
    let tasks = Tasks::default();
    let done = Arc::new(AtomicUsize::new(0));
    let (go, gate) = tokio::sync::oneshot::channel::<()>();
    let work = {
        let done = done.clone();
        tasks.run("v", "create", LONG, |_| async move {
            let _ = gate.await;
            done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    };
    // The caller's future is dropped, as tonic does.
    assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
    assert_eq!(tasks.list().len(), 1);
    go.send(()).unwrap();
    assert_eq!(tasks.drain(LONG).await, 0);
    assert_eq!(done.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_timed_out_wait_reports_the_progress() {
    let tasks = Tasks::default();
    let wait = Duration::from_millis(20);
    let silent = tasks.run("a", "create", wait, |_| std::future::pending::<Result<()>>()).await.unwrap_err();
    assert_eq!(silent.reason, Reason::TimedOut);
    let reporting = tasks
        .run("b", "create", wait, |handle| async move {
            handle.progress("zeroed 3 of 10 GiB".to_owned());
            std::future::pending::<Result<()>>().await
        })
        .await
        .unwrap_err();
    assert_eq!(reporting.reason, Reason::UnderWay);
    assert!(reporting.message.contains("3 of 10 GiB"));
}

/// Lets a task fail after its caller has given up.
async fn fail(tasks: &Tasks, what: &'static str, reason: Reason) {
    let (go, gate) = tokio::sync::oneshot::channel::<()>();
    let work = tasks.run_long("v", what, "", Duration::from_millis(10), |_| async move {
        let _ = gate.await;
        Err::<(), _>(Error::new(reason, "the disk is broken"))
    });
    assert_eq!(work.await.unwrap_err().reason, Reason::TimedOut);
    go.send(()).unwrap();
    assert_eq!(tasks.drain(LONG).await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_next_caller_gets_an_error_that_no_caller_has_seen() {
    let tasks = Tasks::default();
    let run = async |what| tasks.run_long("v", what, "", LONG, |_| async { Ok(7) }).await;
    fail(&tasks, "create", Reason::Host).await;
    assert!(tasks.run_long("w", "create", "", LONG, |_| async { Ok(()) }).await.is_ok(), "another volume");
    let error = run("create").await.unwrap_err();
    assert!(error.reason == Reason::Host && error.message.ends_with(": the disk is broken"), "{error}");
    assert_eq!(run("create").await.unwrap(), 7, "only once");

    fail(&tasks, "create", Reason::Host).await;
    assert_eq!(run("delete").await.unwrap(), 7, "another kind");
    assert_eq!(run("create").await.unwrap(), 7, "another state");

    fail(&tasks, "create", Reason::Host).await;
    let smaller = tasks.run_long("v", "create", "1 GiB", LONG, |_| async { Ok(8) }).await;
    assert_eq!(smaller.unwrap(), 8, "another request");
    assert_eq!(run("create").await.unwrap(), 7, "it was forgotten");

    fail(&tasks, "create", Reason::UnderWay).await;
    assert_eq!(run("create").await.unwrap(), 7, "it only asks for a retry");

    fail(&tasks, "create", Reason::Host).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(run("create").await.unwrap(), 7, "too old");

    // A caller that waits gets the error itself.
    let failing = tasks.run_long("v", "create", "", LONG, |_| async { Err::<(), _>(Error::host("broken")) });
    assert_eq!(failing.await.unwrap_err().message, "broken");
    assert_eq!(run("create").await.unwrap(), 7);
}

/// The caller is dropped when the task has ended, before it has looked at the result.
#[tokio::test]
async fn an_error_that_its_caller_did_not_take_is_kept() {
    let tasks = Tasks::default();
    let mut call = Box::pin(tasks.run_long("v", "create", "", LONG, |_| async { Err::<(), _>(Error::host("broken")) }));
    assert!(futures::poll!(call.as_mut()).is_pending());
    while !tasks.list().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(call);
    let next = async || tasks.run_long("v", "create", "", LONG, |_| async { Ok(()) }).await;
    let error = next().await.unwrap_err();
    assert!(error.reason == Reason::Host && error.message.ends_with(": broken"), "{error}");
    next().await.unwrap();
}

#[tokio::test]
async fn work_in_the_background_leaves_an_error_to_the_next_caller() {
    let tasks = Tasks::default();
    fail(&tasks, "create", Reason::Host).await;
    tasks.run_in_background("v", "clean-up", LONG, |_| async { Ok(()) }).await.unwrap();
    let error = tasks.run_long("v", "create", "", LONG, |_| async { Ok(()) }).await.unwrap_err();
    assert!(error.message.ends_with(": the disk is broken"), "{error}");
}

#[tokio::test]
async fn a_panic_frees_the_volume() {
    let tasks = Tasks::default();
    let error = tasks.run::<(), _>("v", "create", LONG, |_| async { panic!("bug") }).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unavailable);
    assert!(tasks.list().is_empty());
}

#[tokio::test]
async fn run_after_waits_only_for_the_named_kinds() {
    let tasks = Tasks::default();
    let short = Duration::from_millis(20);
    let (go, gate) = tokio::sync::oneshot::channel::<()>();
    let unstage = tasks.run("v", "unstage", short, |_| async { Ok(gate.await.is_ok()) });
    assert_eq!(unstage.await.unwrap_err().reason, Reason::TimedOut);
    let delete = |before: &'static [&'static str], wait: Duration| {
        let tasks = tasks.clone();
        tokio::spawn(async move { tasks.run_after("v", "delete", before, wait, |_| async { Ok(7) }).await })
    };
    let other = delete(&["publish"], LONG).await.unwrap().unwrap_err();
    assert_eq!(other.reason, Reason::UnderWay, "another kind is not waited for");
    let early = delete(&["unstage"], short).await.unwrap().unwrap_err();
    assert_eq!(early.reason, Reason::UnderWay, "the caller's wait is the limit");
    let waiting = delete(&["unstage"], LONG);
    tokio::time::sleep(short).await;
    assert!(!waiting.is_finished());
    go.send(()).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn stop_cancels_only_the_named_kind() {
    let tasks = Tasks::default();
    let wait = Duration::from_millis(10);
    let _ = tasks
        .run("v", "create", wait, |handle| async move {
            handle.cancel.cancelled().await;
            Err::<(), _>(Error::new(Reason::UnderWay, "stopped"))
        })
        .await;
    tasks.stop("v", "stage", wait).await;
    assert_eq!(tasks.list().len(), 1);
    tasks.stop("v", "create", LONG).await;
    assert!(tasks.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_work_in_the_background_and_that_waits_for_nothing() {
    let tasks = Tasks::default();
    let second = Duration::from_secs(1);
    let background = {
        let tasks = tasks.clone();
        tokio::spawn(async move {
            let work = |_| async move {
                tokio::time::sleep(5 * second).await;
                Ok(())
            };
            tasks.run_in_background("v (snapshot)", "clean-up", LONG, work).await
        })
    };
    while tasks.list().is_empty() {
        tokio::task::yield_now().await;
    }
    let more = tasks.run_in_background("v (snapshot)", "clean-up", LONG, |_| async { Ok(()) }).await.unwrap_err();
    assert_eq!(more.reason, Reason::UnderWay);
    assert_eq!(more.to_string(), "clean-up of v (snapshot) has been in progress for 0.0ns; retry when it is done");
    // Not longer than the call allows.
    let began = Instant::now();
    let short = tasks.run("v (snapshot)", "create snapshot", 2 * second, |_| async { Ok(()) }).await.unwrap_err();
    assert_eq!((short.reason, began.elapsed().as_secs()), (Reason::UnderWay, 2));
    // What is left of its time is for its own work.
    let work = |_| async { std::future::pending::<Result<()>>().await };
    let late = tasks.run_long("v (snapshot)", "create snapshot", "", 4 * second, work).await.unwrap_err();
    assert_eq!((late.reason, began.elapsed().as_secs()), (Reason::TimedOut, 6));
    assert!(background.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_task_that_begins_while_the_process_ends_is_asked_to_stop() {
    let tasks = Tasks::default();
    assert_eq!(tasks.drain(LONG).await, 0);
    let work = |handle: Handle| async move { Ok(handle.cancel.is_cancelled()) };
    assert!(tasks.run_long("v", "create", "", LONG, work).await.unwrap());
}
