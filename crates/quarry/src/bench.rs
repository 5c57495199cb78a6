//! `quarry bench`: measures any CSI driver, and bare commands beside it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quarry_bench::{LvmFloor, Phase, Plan, Results, Step, Stop, plot, report};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::csi::capability::Use;
use crate::csi::{map, pair, seconds, size};

/// How often the bar is drawn again.
const TICK: Duration = Duration::from_millis(250);

/// The heading under which --help lists the options of the floor.
const FLOOR: &str = "Floor: bare commands, measured in alternating rounds";

/// The options of `quarry bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The socket that serves CSI Controller.
    #[arg(long, env = "CSI_ENDPOINT", default_value = "unix:///run/quarry/csi.sock", value_name = "unix:///PATH")]
    controller: String,
    /// The socket that serves CSI Node, if it is another one.
    #[arg(long, value_name = "unix:///PATH")]
    node: Option<String>,
    /// The number of volumes in each round.
    #[arg(long, default_value_t = 10)]
    volumes: usize,
    /// How many volumes are worked on at once; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "N[,N...]")]
    concurrency: Vec<usize>,
    /// The number of rounds for each concurrency. In every second one, the floor comes first: an even number
    /// gives both systems the same place.
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Leave out the round before the first one: one volume of each system, which is not measured.
    #[arg(long)]
    no_warm_up: bool,
    /// Create this number of volumes first, which are there during the whole run and are not measured.
    #[arg(long, default_value_t = 0, value_name = "VOLUMES")]
    background: usize,
    /// Leave out phases, and those that need them: stage, publish, stats, expand, snapshot, restore, restage.
    #[arg(long, value_delimiter = ',', value_name = "PHASE[,PHASE...]")]
    without: Vec<Phase>,
    /// The size of each volume.
    #[arg(long, value_parser = size, default_value = "1Gi", value_name = "SIZE")]
    size: i64,
    /// The size after the expansion; twice the size by default.
    #[arg(long, value_parser = size, value_name = "SIZE")]
    expand_to: Option<i64>,
    #[command(flatten)]
    usage: Use,
    /// A parameter, as in a StorageClass; may be given several times.
    #[arg(long = "param", value_parser = pair, value_name = "KEY=VALUE")]
    parameters: Vec<(String, String)>,
    /// A parameter, as in a VolumeSnapshotClass; may be given several times.
    #[arg(long = "snapshot-param", value_parser = pair, value_name = "KEY=VALUE")]
    snapshot_parameters: Vec<(String, String)>,
    /// A secret for all calls that accept secrets; may be given several times. Other users can read command
    /// lines.
    #[arg(long = "secret", value_parser = pair, value_name = "KEY=VALUE")]
    secrets: Vec<(String, String)>,
    /// A file with one secret in each line, KEY=VALUE.
    #[arg(long, value_name = "FILE")]
    secrets_file: Option<PathBuf>,
    /// Where the volumes must be accessible; all segments together describe one topology. By default, where
    /// the node is.
    #[arg(long = "segment", value_parser = pair, value_name = "KEY=VALUE")]
    segments: Vec<(String, String)>,
    /// The run stages and publishes in a new directory in this one. A driver in a container must see it under
    /// the same path.
    #[arg(long, default_value = "/var/lib/kubelet/plugins/quarry-bench", value_name = "DIRECTORY")]
    work_dir: PathBuf,
    /// The timeout of each call, in seconds; kubelet uses 120.
    #[arg(long, default_value = "120", value_parser = seconds, value_name = "SECONDS")]
    timeout: Duration,
    /// For how long a call is repeated while the driver answers with a retryable code.
    #[arg(long, default_value = "300", value_parser = seconds, value_name = "SECONDS")]
    patience: Duration,
    /// The pause before a call is repeated.
    #[arg(long, default_value = "0.1", value_parser = seconds, value_name = "SECONDS")]
    retry_interval: Duration,
    /// After the volumes of a round were unstaged, wait for this long, which is not timed: so that what the driver
    /// does after its answers does not slow down restage and delete.
    #[arg(long, default_value = "0", value_parser = pause, value_name = "SECONDS")]
    settle: Duration,

    /// Measure bare commands, too: those that an operator would type for the same volumes.
    #[arg(long, value_name = "KIND", requires = "volume_group", help_heading = FLOOR)]
    floor: Option<Floor>,
    /// The volume group of the floor. Only logical volumes that the run creates are changed.
    #[arg(long, value_name = "NAME", requires = "floor", help_heading = FLOOR)]
    volume_group: Option<String>,
    /// Create thin volumes in this pool of the volume group.
    #[arg(long, value_name = "NAME", requires = "floor", help_heading = FLOOR)]
    thin_pool: Option<String>,
    /// An option of lvcreate, such as --lvcreate-option=--type=raid1; may be given several times.
    #[arg(
        long = "lvcreate-option",
        value_name = "OPTION",
        requires = "floor",
        allow_hyphen_values = true,
        help_heading = FLOOR
    )]
    lvcreate_options: Vec<String>,

    /// The format of the standard output.
    #[arg(short, long, default_value = "text")]
    output: Output,
    /// Also write the JSON to this file, with the time of every single call.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the plots concurrency.svg and time.svg into this directory.
    #[arg(long, value_name = "DIRECTORY")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Floor {
    /// The commands of LVM, mkfs and mount.
    Lvm,
}

/// Measures, prints the results, and exits with failure if they are not complete.
///
/// # Errors
/// Nothing could be measured, or a file could not be written.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (output, json, plots) = (args.output, args.json.clone(), args.plot.clone());
    let plan = plan(args)?;
    // Find out now, not after the run.
    if let Some(directory) = &plots {
        std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    let json = json.map(JsonFile::open).transpose()?;
    let stop = Stop::default();
    let bar = bar();
    stop_on_signals(stop.clone(), bar.clone()).context("waiting for signals")?;
    let results = quarry_bench::run(&plan, &stop, &|step| show(&bar, step)).await;
    bar.finish_and_clear();
    let results = results?;

    let text = match output {
        Output::Text => report::text(&results),
        Output::Json => report::json(&results, false)?,
    };
    // The reader may have stopped reading: a closed pipe is not a failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    save(&results, json, plots.as_deref())?;
    Ok(if results.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The file of `--json`: opened before the run, and written after it.
struct JsonFile {
    path: PathBuf,
    file: File,
}

impl JsonFile {
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        // What is in the file stays until there is something to write.
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn write(mut self, text: &str) -> anyhow::Result<()> {
        let mut write = || {
            // A pipe has no length.
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
            self.file.write_all(text.as_bytes())
        };
        write().with_context(|| format!("writing {}", self.path.display()))
    }
}

/// Writes the files. One that cannot be written does not keep the others from being written.
fn save(results: &Results, json: Option<JsonFile>, plots: Option<&Path>) -> anyhow::Result<()> {
    let json = json.map(|file| file.write(&report::json(results, true)?));
    let plots = plots.map(|directory| draw(results, directory));
    let failed: Vec<String> =
        [json, plots].into_iter().flatten().filter_map(|saved| Some(format!("{:#}", saved.err()?))).collect();
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// The bar on standard error; hidden if that is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // This is valid; the default would only look different.
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len}  {elapsed}  {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// Shows what comes next: as a bar, or as a line if standard error is no terminal.
fn show(bar: &ProgressBar, step: Step) {
    if bar.is_hidden() {
        say(bar, &step.text);
        return;
    }
    bar.set_length(u64::try_from(step.all).unwrap_or(u64::MAX));
    bar.set_position(u64::try_from(step.done).unwrap_or(u64::MAX));
    bar.set_message(step.text);
    // A phase may take minutes: the time goes on.
    bar.enable_steady_tick(TICK);
}

/// Prints a line to standard error, above the bar.
fn say(bar: &ProgressBar, line: &str) {
    bar.suspend(|| drop(writeln!(std::io::stderr(), "{line}")));
}

fn draw(results: &Results, directory: &Path) -> anyhow::Result<()> {
    write(&directory.join("concurrency.svg"), &plot::against_concurrency(results)?)?;
    write(&directory.join("time.svg"), &plot::over_time(results)?)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The first SIGINT, SIGTERM or SIGHUP (a terminal that is gone) ends the measurement, the second one the clean-up.
fn stop_on_signals(stop: Stop, bar: ProgressBar) -> std::io::Result<()> {
    let mut signals =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    tokio::spawn(async move {
        any(&mut signals).await;
        say(&bar, "stopping: the volumes of this run are being removed; a second signal stops that, too");
        stop.stop.cancel();
        any(&mut signals).await;
        stop.abandon.cancel();
    });
    Ok(())
}

async fn any([one, two, three]: &mut [Signal; 3]) {
    tokio::select! {
        _ = one.recv() => {}
        _ = two.recv() => {}
        _ = three.recv() => {}
    }
}

fn plan(args: Args) -> anyhow::Result<Plan> {
    let mut secrets = map(args.secrets);
    if let Some(path) = &args.secrets_file {
        secrets.extend(read_secrets(path)?);
    }
    let floor = args.volume_group.map(|volume_group| LvmFloor {
        volume_group,
        thin_pool: args.thin_pool,
        lvcreate_options: args.lvcreate_options,
    });
    Ok(Plan {
        node: args.node.unwrap_or_else(|| args.controller.clone()),
        controller: args.controller,
        volumes: args.volumes,
        concurrency: args.concurrency,
        rounds: args.rounds,
        warm_up: !args.no_warm_up,
        background: args.background,
        without: args.without.into_iter().collect(),
        size: args.size,
        expand_to: args.expand_to.unwrap_or_else(|| args.size.saturating_mul(2)),
        capability: args.usage.one()?,
        parameters: map(args.parameters),
        snapshot_parameters: map(args.snapshot_parameters),
        secrets,
        segments: map(args.segments),
        work_dir: args.work_dir,
        timeout: args.timeout,
        patience: args.patience,
        retry_interval: args.retry_interval,
        settle: args.settle,
        floor,
    })
}

/// A number of seconds, or 0 for no wait at all.
fn pause(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}

/// Reads lines of `KEY=VALUE`. Errors name the line's number and never its text.
fn read_secrets(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            pair(line).map_err(|_| anyhow::anyhow!("{}, line {}: not KEY=VALUE", path.display(), index + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn read(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        plan(line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_options_describe_a_plan() {
        let plan = read(
            "--controller unix:///c.sock --node unix:///n.sock --volumes 100 --concurrency 1,10,100 --size 2Gi \
             --fs xfs --access single-node-multi-writer --param pool=fast --secret a=b --without stats,snapshot \
             --settle 2.5 --floor lvm --volume-group vg0 --lvcreate-option=--type=raid1 --lvcreate-option=--mirrors=1",
        )
        .unwrap();
        assert_eq!((plan.controller.as_str(), plan.node.as_str()), ("unix:///c.sock", "unix:///n.sock"));
        assert_eq!((plan.volumes, plan.concurrency.as_slice()), (100, [1, 10, 100].as_slice()));
        assert_eq!((plan.size, plan.expand_to), (2 << 30, 4 << 30));
        assert_eq!(plan.settle, Duration::from_millis(2500));
        assert_eq!(plan.without, [Phase::Stats, Phase::Snapshot].into());
        let floor = plan.floor.unwrap();
        assert_eq!((floor.volume_group.as_str(), floor.lvcreate_options.len()), ("vg0", 2));
    }

    #[test]
    fn one_socket_serves_both_by_default() {
        let plan = read("--controller unix:///run/x/csi.sock").unwrap();
        assert_eq!(plan.node, plan.controller);
        assert_eq!((plan.rounds, plan.warm_up, plan.floor.as_ref()), (4, true, None));
        assert!(!read("--no-warm-up").unwrap().warm_up);
        assert_eq!(plan.settle, Duration::ZERO);
        assert_eq!(read("--settle 0").unwrap().settle, Duration::ZERO);
    }

    #[test]
    fn options_that_say_too_little_or_too_much_are_rejected() {
        for (line, words) in [
            ("--floor lvm", "--volume-group"),
            ("--volume-group vg0", "--floor"),
            ("--without create", "stage, publish"),
            ("--fs ext4 --block", "either --fs or --block"),
            ("--size 1.5Gi", "not a size"),
            ("--settle=-1", "seconds"),
        ] {
            let error = read(line).map(drop).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    fn results() -> Results {
        Results {
            plan: read("").unwrap(),
            run: "abcdefghij".to_owned(),
            started: std::time::SystemTime::UNIX_EPOCH,
            driver: quarry_bench::Identity::default(),
            steps: Vec::new(),
            left_out: Vec::new(),
            floor_left_out: Vec::new(),
            series: Vec::new(),
            left_behind: Vec::new(),
            interrupted: false,
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_found_before_the_run() {
        let directory = tempfile::tempdir().unwrap();
        let line = format!(
            "bench --controller unix://{0}/none.sock --work-dir {0}/work --json {0}/none/bench.json",
            directory.path().display()
        );
        let line = Line::try_parse_from(line.split_whitespace()).unwrap();
        let error = format!("{:#}", run(line.args).await.map(drop).unwrap_err());
        assert!(error.contains("none/bench.json"), "{error}");
    }

    #[test]
    fn the_plots_are_drawn_although_the_json_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let full = JsonFile::open("/dev/full".into()).unwrap();
        let error = save(&results(), Some(full), Some(directory.path())).unwrap_err().to_string();
        assert!(error.contains("/dev/full"), "{error}");
        assert!(directory.path().join("time.svg").exists());
    }

    #[test]
    fn the_json_replaces_a_longer_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bench.json");
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        let file = JsonFile::open(path.clone()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 100_000, "nothing is lost if the run fails");
        save(&results(), Some(file), None).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), report::json(&results(), true).unwrap());
    }

    #[test]
    fn secrets_come_from_a_file_and_are_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secrets");
        std::fs::write(&path, "user=me\n\npassword=a=b\n").unwrap();
        let plan = read(&format!("--secrets-file {}", path.display())).unwrap();
        assert_eq!(plan.secrets.get("password").map(String::as_str), Some("a=b"));
        std::fs::write(&path, "user=me\nhunter2\n").unwrap();
        let error = read(&format!("--secrets-file {}", path.display())).map(drop).unwrap_err();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }
}
