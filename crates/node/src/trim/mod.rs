//! Discards the unused space of mounted filesystems at intervals, as fstrim does: for volumes with `discard: periodic`.
//!
//! One filesystem per pool is trimmed at a time, in steps. A step needs only the mount, and no lock of the pool or of the
//! volume; unstaging the volume waits for the current step ([`Trims::hold`]). Nothing is stored: see [`schedule`].

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use quarry_filesystem::Trimmed;
use quarry_mount::Entry;
use quarry_pool::{Pool, PoolVolume, State};
use quarry_volume::{Discard, Error, Filesystem, Result, VolumeId};
use tokio_util::sync::CancellationToken;

use self::running::Run;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::{device, errors};

mod running;
mod schedule;

pub(crate) use self::running::{TrimStatus, Trims};

/// How many bytes of a filesystem one step covers. Between two steps, a trim can be stopped. btrfs discards in its first
/// step also what no block group has, whatever the range.
const STEP: u64 = 16 << 30;
/// How far a step of btrfs begins before the end of the one before. btrfs leaves out free space in the middle of which the
/// range begins. Free space is in one block group, and that is not larger.
const BLOCK_GROUP: u64 = 1 << 30;
/// How often the volumes are looked at, at most.
const LOOK: Duration = Duration::from_secs(60);
/// How far the first look goes back, so that the times during a restart are not missed.
const RESTART: Duration = Duration::from_secs(10 * 60);
/// How long a pool may take to list its volumes: a little longer than a report may take.
const LIST: Duration = Duration::from_secs(40);
/// How long a step waits until the pool is not being changed.
const CHANGE: Duration = Duration::from_secs(10);
/// How often it looks meanwhile.
const CHANGING: Duration = Duration::from_millis(100);
/// A step that takes longer is overdue: it is logged, and reported as a problem of the node and of the volume.
const SLOW: Duration = Duration::from_secs(5 * 60);

/// What an overdue step means.
const OVERDUE: &str = "until that ends, no other volume of its pool is trimmed: does its disk hang? See the kernel log";

impl Host {
    /// Sets how often the unused space of volumes with `discard: periodic` is discarded in the pool with that name.
    pub fn set_trim_interval(&self, pool: &str, interval: Duration) {
        self.trims().set_interval(pool, interval);
    }

    /// Discards the unused space of the mounted volumes with `discard: periodic`, each at its times, until `stopping` is
    /// cancelled. A step that is running then ends later.
    pub async fn trim_periodically(self, stopping: CancellationToken) {
        let each = self.pools().iter().map(|pool| {
            let mut trimmer = Trimmer::new(self.clone(), Arc::clone(pool), STEP, SystemTime::now());
            async move {
                let pause = trimmer.pause();
                loop {
                    tokio::time::sleep(pause).await;
                    trimmer.look(SystemTime::now()).await;
                    trimmer.work().await;
                }
            }
        });
        let _: Option<Vec<()>> = stopping.run_until_cancelled(join_all(each)).await;
    }

    /// The trims of which a step takes too long, one line each.
    pub(crate) fn overdue_trims(&self) -> Vec<String> {
        let overdue = self.trims().list().into_iter().filter(|trim| trim.age > SLOW);
        overdue
            .map(|trim| {
                format!(
                    "pool {}: discarding a part of the unused space of volume {} (discard: periodic) has taken {} s so far; {OVERDUE}",
                    trim.pool,
                    trim.volume,
                    trim.age.as_secs()
                )
            })
            .collect()
    }
}

/// The work on one pool of a host.
pub(crate) struct Trimmer {
    host: Host,
    pool: Arc<dyn Pool>,
    /// In bytes.
    step: u64,
    started: SystemTime,
    /// Until when the times of the volumes were looked at.
    looked: Option<SystemTime>,
    queue: VecDeque<Queued>,
    /// The volumes for which it was logged that their disk does not support discards.
    unsupported: BTreeSet<VolumeId>,
}

/// A volume whose time has come.
#[derive(Clone)]
struct Queued {
    id: VolumeId,
    pool: Arc<dyn Pool>,
    volume: PoolVolume,
    kind: Filesystem,
    /// The byte of its filesystem at which the next step begins.
    position: u64,
    /// The bytes that were discarded by earlier steps.
    discarded: u64,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing is left to do before the next time of the volume.
    Done,
    /// It continues later.
    Later,
}

/// What one step did.
enum Step {
    /// It discarded so many bytes; the next one begins at that byte.
    Discarded { bytes: u64, next: u64 },
    /// It is complete, or the volume is not mounted writable.
    End,
    /// The disk does not support discards.
    Unsupported,
}

impl Trimmer {
    pub(crate) fn new(host: Host, pool: Arc<dyn Pool>, step: u64, started: SystemTime) -> Self {
        Self { host, pool, step, started, looked: None, queue: VecDeque::new(), unsupported: BTreeSet::new() }
    }

    /// How many volumes are known not to support discards.
    #[cfg(test)]
    pub(crate) fn unsupported(&self) -> usize {
        self.unsupported.len()
    }

    /// The time between two looks: a part of the interval.
    fn pause(&self) -> Duration {
        let interval = self.host.trims().interval(self.pool.name());
        (interval / 4).clamp(Duration::from_secs(1), LOOK)
    }

    /// Queues the volumes whose time has come. If the pool cannot be read now, they are looked at later.
    pub(crate) async fn look(&mut self, now: SystemTime) {
        let pool = Arc::clone(&self.pool);
        // Reading it now might wait.
        if pool.changing() || !pool.unresponsive_disks().is_empty() {
            return;
        }
        let volumes = match tokio::time::timeout(LIST, pool.volumes()).await {
            Ok(Ok(volumes)) => volumes,
            failed => {
                let why = failed.map(|answer| answer.err().map(|error| error.message)).unwrap_or_default();
                tracing::debug!(pool = pool.name(), why, "the volumes to trim are not known");
                return;
            }
        };
        let interval = self.host.trims().interval(pool.name());
        let back = self.started.checked_sub(RESTART.min(interval)).unwrap_or(self.started);
        let since = self.looked.replace(now).unwrap_or(back);
        let periodic: Vec<_> = volumes.into_iter().filter_map(|volume| self.periodic(volume)).collect();
        self.unsupported.retain(|id| periodic.iter().any(|queued| queued.id == *id));
        for queued in periodic.into_iter().filter(|queued| schedule::is_due(&queued.id, interval, since, now)) {
            if !self.queue.iter().any(|other| other.id == queued.id) {
                self.queue.push_back(queued);
            }
        }
    }

    /// The volume, if its unused space is discarded at intervals.
    fn periodic(&self, volume: PoolVolume) -> Option<Queued> {
        let record = volume.record().ok()?;
        let kind = record.filesystem?;
        if record.discards() != Discard::Periodic || record.state != State::Ready {
            return None;
        }
        let (storage, node, name) = (volume.storage.clone(), self.host.node().to_owned(), volume.name.clone());
        let id = VolumeId { storage, node, volume: name };
        Some(Queued { id, pool: Arc::clone(&self.pool), volume, kind, position: 0, discarded: 0 })
    }

    /// Trims the queued volumes, one after the other. Those that cannot be trimmed now stay queued.
    pub(crate) async fn work(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(mut queued) = self.queue.pop_front() else { return };
            if self.trim(&mut queued).await == Outcome::Later {
                self.queue.push_back(queued);
            }
        }
    }

    async fn trim(&mut self, queued: &mut Queued) -> Outcome {
        let trims = self.host.trims().clone();
        if self.host.tasks().is_running(&queued.id.volume) {
            return Outcome::Later;
        }
        let Some(run) = trims.begin(self.pool.name(), &queued.id.volume) else { return Outcome::Later };
        // Only now: a change of its record that comes later stops this trim.
        match run.cancel.run_until_cancelled(self.current(&queued.id)).await {
            Some(Ok(Some(current))) => (queued.volume, queued.kind) = (current.volume, current.kind),
            Some(Ok(None)) => return Outcome::Done,
            Some(Err(())) | None => return Outcome::Later,
        }
        let run = Arc::new(run);
        loop {
            let is_quiet = run.cancel.run_until_cancelled(is_quiet(&*queued.pool)).await;
            if is_quiet != Some(true) || run.cancel.is_cancelled() {
                return Outcome::Later;
            }
            match self.step(queued, Arc::clone(&run)).await {
                Ok(Step::Discarded { bytes, next }) => {
                    trims.add_discarded(bytes);
                    queued.discarded = queued.discarded.saturating_add(bytes);
                    queued.position = next;
                }
                Ok(Step::End) => {
                    if queued.position > 0 {
                        tracing::info!(volume = %queued.id, bytes = queued.discarded, "unused space was discarded");
                    }
                    return Outcome::Done;
                }
                Ok(Step::Unsupported) => {
                    if self.unsupported.insert(queued.id.clone()) {
                        tracing::info!(
                            volume = %queued.id, device = device_of(&**self.host.kernel(), queued),
                            "its class has \"discard: periodic\", but its device does not support discards (because \
                             its disk does not, because the volume has copy-on-write snapshots, or because it is \
                             encrypted and was staged before its class had \"discard\"): nothing is discarded"
                        );
                    }
                    return Outcome::Done;
                }
                Err(error) => {
                    trims.add_failure();
                    tracing::warn!(
                        volume = %queued.id, device = device_of(&**self.host.kernel(), queued), %error,
                        "the unused space of a volume could not be discarded (discard: periodic); it is tried again in \
                         the next interval: check the disk and the filesystem (kernel log, quarry doctor)"
                    );
                    return Outcome::Done;
                }
            }
        }
    }

    /// The volume as it is now. `None`: its unused space is not discarded at intervals any more. An error: its pool cannot
    /// be read now.
    async fn current(&self, id: &VolumeId) -> Result<Option<Queued>, ()> {
        if !self.pool.unresponsive_disks().is_empty() {
            return Err(());
        }
        let volume = tokio::time::timeout(LIST, self.pool.volume(&id.volume)).await.map_err(drop)?.map_err(drop)?;
        Ok(volume.and_then(|volume| self.periodic(volume)).filter(|current| current.id == *id))
    }

    /// Discards the unused space in the next part of the filesystem. `run` is held until that has ended.
    async fn step(&self, queued: &Queued, run: Arc<Run>) -> Result<Step> {
        let (kernel, work, step) = (Arc::clone(self.host.kernel()), queued.clone(), self.step);
        run.begin_step();
        let ended = errors::blocking(move || {
            let _run = run;
            work.step(&*kernel, step)
        });
        tokio::pin!(ended);
        match tokio::time::timeout(SLOW, &mut ended).await {
            Ok(result) => result,
            Err(_) => {
                let why = format!(
                    "discarding a part of its unused space (discard: periodic) takes longer than {} s; {OVERDUE}",
                    SLOW.as_secs()
                );
                self.host.publisher().set_trim_problem(&queued.id, Some(why));
                let result = ended.await;
                self.host.publisher().set_trim_problem(&queued.id, None);
                result
            }
        }
    }
}

impl Queued {
    /// Blocks until the step has ended.
    fn step(&self, kernel: &dyn Kernel, step: u64) -> Result<Step> {
        let Some(device) = device::active(kernel, &self.pool, &self.volume)? else { return Ok(Step::End) };
        let Some(number) = kernel.number(&device.top) else { return Ok(Step::End) };
        // The first one is the staged mount: all others are binds of it.
        let mounted = kernel.mounts_of_device(number)?.into_iter().find(|entry| entry.root.as_os_str() == "/");
        let Some(entry) = mounted.filter(|entry| !is_read_only(entry)) else { return Ok(Step::End) };
        let size = kernel.device_size(&device.top)?;
        let end = match self.position {
            position if position < size => position.saturating_add(step),
            // Addresses of btrfs can be larger than its device.
            u64::MAX => return Ok(Step::End),
            _ if self.kind == Filesystem::Btrfs => u64::MAX,
            _ => return Ok(Step::End),
        };
        let begin = match self.kind {
            Filesystem::Btrfs => self.position.saturating_sub(BLOCK_GROUP),
            Filesystem::Ext4 | Filesystem::Xfs => self.position,
        };
        Ok(match kernel.trim(&entry, begin..end)? {
            Some(Trimmed::Bytes(bytes)) => Step::Discarded { bytes, next: end },
            Some(Trimmed::Unsupported) => Step::Unsupported,
            Some(Trimmed::PastEnd) | None => Step::End,
        })
    }
}

/// Waits until no change of the pool is running, which would have to wait for the discards. Returns whether that is so.
async fn is_quiet(pool: &dyn Pool) -> bool {
    let quiet = async {
        while pool.changing() {
            tokio::time::sleep(CHANGING).await;
        }
    };
    tokio::time::timeout(CHANGE, quiet).await.is_ok()
}

/// Whether the filesystem, or this mount of it, is read-only: nothing was deleted there.
fn is_read_only(entry: &Entry) -> bool {
    entry.read_only() || entry.super_options.iter().any(|option| option == "ro")
}

/// The device of a volume, for messages.
fn device_of(kernel: &dyn Kernel, queued: &Queued) -> String {
    let device: Result<Option<PathBuf>, Error> =
        device::active(kernel, &queued.pool, &queued.volume).map(|device| device.map(|device| device.top));
    device.ok().flatten().map_or_else(|| "unknown".to_owned(), |device| device.display().to_string())
}
