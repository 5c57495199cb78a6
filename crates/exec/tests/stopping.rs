//! A process that is about to exit starts no mutation. A test of its own: this holds for the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use quarry_exec::{Command, Error, refuse_mutations, running};

#[tokio::test]
async fn after_the_last_look_no_mutation_is_started() {
    let long = tokio::spawn(Command::mutation("sleep").arg("0.5").run());
    while running().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let left = refuse_mutations();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].command, "sleep 0.5");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let error = Command::mutation("touch").arg(&file).run().await.unwrap_err();
    assert!(matches!(&error, Error::Stopping { command } if command.starts_with("touch ")), "{error}");
    assert!(!file.exists());
    // What changes nothing is still run, and what was running ends.
    assert!(Command::query("true").run().await.unwrap().success());
    assert!(long.await.unwrap().unwrap().success());
    assert_eq!(refuse_mutations(), []);
}
