//! A process that may open no more files. This is the only test of this program: the limit is the whole process's.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use quarry_transport::{open_files, unix};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

#[tokio::test]
async fn a_unix_listener_waits_while_no_file_may_be_opened_and_goes_on_after_that() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("csi.sock");
    let mut listener = unix::listen(&path).unwrap();
    let _client = UnixStream::connect(&path).await.unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Below every descriptor that is open: accept fails with EMFILE, and leaves the connection where it is.
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    let waited = timeout(Duration::from_millis(300), listener.next()).await;
    let raised = open_files::raise_limit().unwrap();
    assert_eq!(raised, open_files::Limit { before: 3, now: hard });
    assert!(waited.is_err(), "it neither fails nor tries again at once: {waited:?}");
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    listener.next().await.unwrap().unwrap();
}
