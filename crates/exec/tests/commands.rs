//! Runs real programs through this crate and checks its guarantees.

use std::path::Path;
use std::time::{Duration, Instant};

use quarry_exec::{Command, Error, Output, Secret, missing_tools, running, spent, started};

/// Whether the process exists and is not a zombie.
fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn exists(pid: &str) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Polls for up to ten seconds: the machine may be busy.
async fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < until, "did not happen in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn sh(script: &str) -> Command {
    Command::query("sh").arg("-c").arg(script)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn returns_the_exit_code_and_both_outputs() {
    let output = sh("echo out; echo err >&2; exit 3").run().await.expect("runs");
    assert_eq!((output.code, output.stdout.as_slice(), output.stderr.as_str()), (3, b"out\n".as_slice(), "err"));
    assert!(!output.success());
    let error = output.require_success().expect_err("failed");
    assert!(matches!(&error, Error::Failed { code: 3, stderr, .. } if stderr == "err"), "{error}");
    assert!(sh("true").run().await.expect("runs").require_success().is_ok());
}

#[tokio::test]
async fn arguments_are_not_interpreted_by_a_shell() {
    let hostile = "a b; $(touch /nonexistent/x) `id` \"' \n * -Z y";
    let output = Command::query("printf").arg("%s").arg(hostile).run().await.expect("runs");
    assert_eq!(output.stdout, hostile.as_bytes());
    assert!(!output.command.contains('\n'), "a command line is one line: {}", output.command);
}

#[tokio::test]
async fn hidden_arguments_are_passed_but_not_shown() {
    let command = Command::query("printf").arg("%s-%s-%s").hidden_args(["a", "b"]).arg("c d");
    let output = command.run().await.expect("runs");
    assert_eq!((output.stdout.as_slice(), output.command.as_str()), (b"a-b-c d".as_slice(), "printf %s-%s-%s \"c d\""));
}

#[tokio::test]
async fn the_environment_is_set_by_quarry() {
    // SAFETY: no other test of this process reads or writes this variable.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var("MKE2FS_CONFIG", "/etc/evil")
    };
    let output = sh("env; readlink /proc/self/fd/0; pwd").run().await.expect("runs");
    let text = String::from_utf8(output.stdout).expect("utf-8");
    assert!(text.lines().any(|line| line == "LC_ALL=C"), "{text}");
    assert!(text.lines().any(|line| line == "LVM_SUPPRESS_FD_WARNINGS=1"), "{text}");
    assert!(text.lines().any(|line| line == "/dev/null"), "{text}");
    assert!(text.lines().any(|line| line == "/"), "{text}");
    assert!(!text.contains("MKE2FS_CONFIG"), "{text}");
    assert!(!text.contains("CARGO"), "{text}");
}

#[tokio::test]
async fn a_secret_is_the_standard_input_and_nowhere_else() {
    let secret = "hunter2 with spaces\n";
    let script =
        "test $(readlink /proc/self/fd/0 | cut -c 1-5) = pipe: && cat && tr '\\0' ' ' </proc/$$/cmdline && env";
    let command = sh(script).input(Secret::new(secret.into())).environment("QUARRY_TEST", "set");
    assert!(!format!("{command:?}").contains("hunter2"), "{command:?}");
    let (output, listed) = tokio::join!(command.run(), async { format!("{:?}", running()) });
    let output = output.expect("runs");
    let text = String::from_utf8(output.stdout).expect("utf-8");
    let rest = text.strip_prefix(secret).unwrap_or_else(|| panic!("{text}"));
    assert!(rest.contains("QUARRY_TEST=set") && !rest.contains("hunter2"), "{text}");
    assert!(!output.command.contains("hunter2") && !listed.contains("hunter2"), "{}", output.command);
    let long = Secret::new(vec![b'x'; Secret::MAX + 1]);
    let error = sh("cat").input(long).run().await.unwrap_err().to_string();
    assert!(error.contains("4097 bytes") && !error.contains("xxxx"), "{error}");
}

#[tokio::test]
async fn runs_in_its_own_process_group() {
    let output = sh("cat /proc/$$/stat").run().await.expect("runs");
    let text = String::from_utf8(output.stdout).expect("utf-8");
    let fields: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(fields[0], fields[4], "process and group: {text}");
}

#[tokio::test]
async fn missing_tools_are_named() {
    assert_eq!(missing_tools(&["sh", "quarry-no-such-tool", "cat"]), ["quarry-no-such-tool"]);
    let error = Command::query("quarry-no-such-tool").run().await.expect_err("missing");
    assert!(matches!(error, Error::ToolMissing { program: "quarry-no-such-tool", .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_executed_is_an_error() {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), "not a program").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(file.path(), mode).expect("chmod");
    let (_file, path) = file.keep().expect("keep"); // Closed, or it would be busy.
    drop(_file);
    let program: &'static str = Box::leak(path.to_str().expect("utf-8").to_owned().into_boxed_str());
    let error = Command::query(program).run().await.expect_err("no format");
    std::fs::remove_file(program).expect("remove");
    assert!(matches!(error, Error::Spawn { .. }), "{error}");
    assert!(running().iter().all(|entry| !entry.command.contains(program)));
}

#[tokio::test]
async fn a_query_past_its_deadline_is_killed_with_its_children() {
    let dir = tempfile::tempdir().expect("dir");
    let script = format!(
        "cd {}; (trap '' TERM; echo $BASHPID; exec sleep 500) & echo $! >child; echo $$ >leader; wait",
        dir.path().display()
    );
    let since = Instant::now();
    let error = sh(&script).deadline(Duration::from_millis(600)).run().await.expect_err("killed");
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    assert!(since.elapsed() < Duration::from_secs(20));
    let (leader, child) = (read(&dir.path().join("leader")), read(&dir.path().join("child")));
    assert!(!leader.is_empty() && !child.is_empty());
    assert!(!exists(&leader), "the leader is reaped");
    soon("the child is dead", || !alive(&child)).await;
}

#[tokio::test]
async fn a_query_that_ignores_sigterm_is_killed() {
    let error = sh("trap '' TERM; while :; do sleep 0.05; done").deadline(Duration::from_millis(300)).run().await;
    assert!(matches!(error, Err(Error::Deadline { .. })), "{error:?}");
}

#[tokio::test]
async fn a_mutation_past_its_deadline_is_waited_for() {
    let command = Command::mutation("sh").args(["-c", "sleep 1.5; echo done"]).on("vg-overdue");
    let run = tokio::spawn(command.deadline(Duration::from_millis(200)).run());
    let mine = || running().into_iter().find(|entry| entry.subject.as_deref() == Some("vg-overdue"));
    soon("it is overdue", || mine().is_some_and(|entry| entry.overdue && entry.mutation)).await;
    let output = run.await.expect("no panic").expect("runs");
    assert_eq!(output.stdout, b"done\n");
    assert!(output.duration >= Duration::from_millis(1500));
    assert!(mine().is_none());
}

#[tokio::test]
async fn an_abandoned_mutation_continues_and_is_reaped() {
    let dir = tempfile::tempdir().expect("dir");
    let script = format!("cd {}; echo $$ >pid; sleep 0.7; echo done >end", dir.path().display());
    let run = tokio::spawn(Command::mutation("sh").arg("-c").arg(script).on("vg-dropped").run());
    soon("it has started", || !read(&dir.path().join("pid")).is_empty()).await;
    run.abort();
    assert!(run.await.expect_err("aborted").is_cancelled());
    let listed = || running().iter().any(|entry| entry.subject.as_deref() == Some("vg-dropped"));
    assert!(listed(), "it stays listed");
    soon("it has left the list", || !listed()).await;
    assert_eq!(read(&dir.path().join("end")), "done");
    assert!(!exists(&read(&dir.path().join("pid"))), "no zombie");
}

#[tokio::test]
async fn a_mutation_outlives_the_async_runtime() {
    let dir = tempfile::tempdir().expect("dir");
    let (pid, end) = (dir.path().join("pid"), dir.path().join("end"));
    let script = format!("echo $$ >{}; sleep 0.7; echo done >{}", pid.display(), end.display());
    let begun = pid.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
        runtime.block_on(async {
            let run = Command::mutation("sh").arg("-c").arg(script).run();
            let _ = tokio::time::timeout(Duration::from_millis(100), run).await;
        });
    })
    .join()
    .expect("no panic");
    soon("it ends", || !read(&end).is_empty()).await;
    soon("it is reaped", || !exists(&read(&begun))).await;
}

#[tokio::test]
async fn a_daemon_left_running_does_not_delay_the_result() {
    let since = Instant::now();
    let output = Command::mutation("sh").args(["-c", "sleep 30 & echo $!"]).run().await.expect("runs");
    assert!(since.elapsed() < Duration::from_secs(15));
    let daemon = String::from_utf8(output.stdout).expect("utf-8").trim().to_owned();
    assert!(alive(&daemon), "it was not killed");
    assert!(Command::mutation("kill").arg(daemon).run().await.expect("runs").success());
}

#[tokio::test]
async fn a_signal_is_a_distinct_error() {
    let error = Command::mutation("sh").args(["-c", "echo why >&2; kill -9 $$"]).run().await.expect_err("dies");
    assert!(matches!(&error, Error::Signalled { signal: 9, stderr, .. } if stderr == "why"), "{error}");
}

#[tokio::test]
async fn output_is_bounded() {
    let endless = sh("while :; do head -c 4000000 /dev/zero; done").run().await.expect_err("cut");
    assert!(matches!(endless, Error::OutputTooLarge { .. }), "{endless}");
    let quick = sh("head -c 67108865 /dev/zero").run().await.expect_err("cut");
    assert!(matches!(quick, Error::OutputTooLarge { .. }), "{quick}");
    let chatty = sh("head -c 300000 /dev/zero | tr '\\0' x >&2; echo end >&2").run().await.expect("runs");
    assert!(chatty.stderr.ends_with("xend") && chatty.stderr.len() <= 64 << 10, "{}", chatty.stderr.len());
    let report = sh("head -c 5000000 /dev/zero").run().await.expect("runs");
    assert_eq!(report.stdout.len(), 5_000_000);
}

#[tokio::test]
async fn fifty_commands_run_concurrently() {
    let since = Instant::now();
    let runs: Vec<_> = (0..50)
        .map(|number| tokio::spawn(Command::mutation("sh").arg("-c").arg(format!("sleep 1; echo {number}")).run()))
        .collect();
    for (number, run) in runs.into_iter().enumerate() {
        let output = run.await.expect("no panic").expect("runs");
        assert_eq!(output.stdout, format!("{number}\n").as_bytes());
    }
    assert!(since.elapsed() < Duration::from_secs(20), "sequentially it would take 50 s");
}

#[tokio::test]
async fn starts_are_counted_by_label() {
    let count = |label: &str| started().get(label).copied().unwrap_or_default();
    let before = count("uname");
    for _ in 0..3 {
        Command::query("uname").arg("-s").run().await.expect("runs");
    }
    assert_eq!(count("uname") - before, 3);
    assert_eq!(count("quarry-no-such-tool"), 0);
    let output = Command::query("uname").subcommand("-m").arg("-s").run().await.expect("runs");
    assert_eq!(output.command, "uname -m -s");
    assert_eq!((count("uname -m"), count("uname") - before), (1, 3));
}

#[tokio::test]
async fn run_times_of_ended_commands_are_summed_by_label() {
    let seconds = || spent().get("sleep").map_or(0.0, Duration::as_secs_f64);
    let before = seconds();
    for _ in 0..2 {
        Command::query("sleep").arg("0.1").run().await.expect("runs");
    }
    soon("the run time is added", || seconds() - before >= 0.2).await;
}

#[tokio::test]
async fn a_held_file_is_open_only_in_its_own_command() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap().join("held");
    let file = std::fs::File::create(&path).unwrap();
    let list = || Command::query("ls").args(["-l", "/proc/self/fd"]);
    let held = list().holding(file.try_clone().unwrap().into()).run().await.unwrap();
    let other = list().run().await.unwrap();
    let shows = |output: &Output| String::from_utf8_lossy(&output.stdout).contains(path.to_str().unwrap());
    assert!(shows(&held) && !shows(&other));
}

#[tokio::test]
async fn two_secrets_reach_a_command() {
    let secrets = ["first", "second\n"].map(|text| Secret::new(text.as_bytes().to_vec()));
    let [first, second] = secrets;
    let command = Command::query("sh").args(["-c", "cat; cat \"$1\"", "sh"]).input(first);
    let output = command.secret_argument(&second).unwrap().run().await.unwrap();
    assert_eq!(output.stdout, b"firstsecond\n");
    assert!(!output.command.contains("second"), "{}", output.command);
}
