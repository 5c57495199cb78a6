//! The metrics of a host other than those of its calls.

use std::sync::Arc;

use parking_lot::Mutex;
use quarry_pool::{Pool, UnresponsiveDisk, Wiping};
use quarry_transport::http;
use quarry_transport::metrics::{Metrics, Sample};
use quarry_volume::{Layout, PoolState, ThinUse};

use crate::TaskStatus;
use crate::copies::{Copy, CopyTarget};
use crate::errors;
use crate::host::Host;
use crate::limits::{Measured, PodWaits, VolumeIo};
use crate::trim::TrimStatus;

impl Host {
    /// Registers the metrics of this host. The returned function refreshes the pools' figures.
    pub fn register(&self, metrics: &Metrics) -> http::Refresh {
        let pools = register_pools(metrics);
        self.register_disks(metrics);
        self.register_copies(metrics);
        self.register_trims(metrics);
        self.register_limits(metrics);
        let measured = self.register_measured(metrics);
        register_commands(metrics);
        register_snapshots(metrics);
        let tasks = self.tasks().clone();
        metrics.gauge("task_age_seconds", "The age of each running operation on a volume", move || {
            let sample = |task: TaskStatus| {
                Sample::new(task.age.as_secs_f64()).label("operation", task.what).label("volume", task.volume)
            };
            tasks.list().into_iter().map(sample).collect()
        });
        let host = self.clone();
        Arc::new(move || {
            let (host, pools, measured) = (host.clone(), Arc::clone(&pools), Arc::clone(&measured));
            Box::pin(async move {
                let now = host.states().await;
                *pools.lock() = now;
                if host.limits().is_measuring() {
                    let limits = host.limits().clone();
                    let io = errors::blocking(move || Ok(limits.measure())).await;
                    *measured.lock() = io.ok().flatten().unwrap_or_default();
                }
            })
        })
    }

    /// The volumes that are being filled with the contents of snapshots or other volumes, and the snapshots that are full
    /// copies and not complete.
    fn register_copies(&self, metrics: &Metrics) {
        let copies = self.copies().clone();
        metrics.gauge("copy_remaining_bytes", "Bytes to copy before a new volume has its contents", move || {
            let sample = |(target, copy): (CopyTarget, Copy)| match target {
                CopyTarget::Volume(name) => {
                    Some(Sample::count(copy.left()).label("pool", copy.pool).label("volume", name))
                }
                CopyTarget::Snapshot(_) => None,
            };
            copies.list().into_iter().filter_map(sample).collect()
        });
        let copies = self.copies().clone();
        metrics.gauge("snapshot_copy_remaining_bytes", "Bytes to copy before a full copy is ready", move || {
            let sample = |(target, copy): (CopyTarget, Copy)| match target {
                CopyTarget::Snapshot(name) => {
                    Some(Sample::count(copy.left()).label("pool", copy.pool).label("snapshot", name))
                }
                CopyTarget::Volume(_) => None,
            };
            copies.list().into_iter().filter_map(sample).collect()
        });
        let copies = self.copies().clone();
        metrics.gauge("copies", "Volumes and snapshots that are being filled now", move || {
            vec![Sample::count(u64::try_from(copies.list().len()).unwrap_or(u64::MAX))]
        });
        let copies = self.copies().clone();
        metrics.counter("copied_bytes", "Bytes copied from snapshots and volumes", move || {
            vec![Sample::count(copies.copied())]
        });
    }

    /// The filesystems whose unused space is discarded at intervals.
    fn register_trims(&self, metrics: &Metrics) {
        let trims = self.trims().clone();
        metrics.counter("trimmed_bytes", "Unused bytes discarded at intervals (discard: periodic)", move || {
            vec![Sample::count(trims.discarded())]
        });
        let trims = self.trims().clone();
        metrics.counter("trim_failures", "Filesystems whose unused space could not be discarded", move || {
            vec![Sample::count(trims.failures())]
        });
        let trims = self.trims().clone();
        metrics.gauge("trim_step_age_seconds", "The age of the current step of each running trim", move || {
            let sample = |trim: TrimStatus| {
                Sample::new(trim.age.as_secs_f64()).label("pool", trim.pool).label("volume", trim.volume)
            };
            trims.list().into_iter().map(sample).collect()
        });
    }

    /// The I/O limits of volumes in use.
    fn register_limits(&self, metrics: &Metrics) {
        let host = self.clone();
        metrics.gauge("io_limits_not_in_force", "Volumes in use whose I/O limits are not in force", move || {
            let mut missing = host.limits().not_in_force();
            let of = |pool: &Arc<dyn Pool>| {
                let count = missing.remove(pool.name()).map_or(0, |(count, _)| count);
                Sample::count(count).label("pool", pool.name())
            };
            host.pools().iter().map(of).collect()
        });
    }

    /// The I/O of volumes in use, as it was at the last refresh, if it is measured.
    fn register_measured(&self, metrics: &Metrics) -> Arc<Mutex<Measured>> {
        let measured: Arc<Mutex<Measured>> = Arc::default();
        if !self.limits().is_measuring() {
            return measured;
        }
        let per_volume = |name: &'static str, help: &'static str, figure: fn(&VolumeIo) -> u64| {
            let measured = Arc::clone(&measured);
            metrics.counter(name, help, move || {
                let sample = |volume: &VolumeIo| {
                    let count = Sample::count(figure(volume));
                    let count = count.label("pool", volume.pool.as_str()).label("volume", volume.volume.as_str());
                    count.label("pod_uid", volume.pod_uid.as_str())
                };
                measured.lock().volumes.iter().map(sample).collect()
            });
        };
        per_volume("volume_read_bytes", "Bytes that a pod read from a volume", |volume| volume.io.read_bytes);
        per_volume("volume_written_bytes", "Bytes that a pod wrote to a volume", |volume| volume.io.written_bytes);
        per_volume("volume_reads", "Read operations of a pod on a volume", |volume| volume.io.reads);
        per_volume("volume_writes", "Write operations of a pod on a volume", |volume| volume.io.writes);
        let pods = Arc::clone(&measured);
        metrics.counter(
            "pod_io_wait_seconds",
            "How long at least one process of a pod (some), or all of them (full), waited for I/O of any device",
            move || {
                let samples = |pod: &PodWaits| {
                    [("some", pod.some), ("full", pod.full)].map(|(kind, waited)| {
                        let waited = Sample::new(waited.as_secs_f64());
                        waited.label("pod_uid", pod.pod_uid.as_str()).label("processes", kind)
                    })
                };
                pods.lock().pods.iter().flat_map(samples).collect()
            },
        );
        let left_out = Arc::clone(&measured);
        metrics.gauge("volumes_not_measured", "Volumes in use whose I/O is not measured", move || {
            vec![Sample::count(left_out.lock().left_out)]
        });
        measured
    }

    /// What the disks of the pools are busy with. These figures are collected from memory.
    fn register_disks(&self, metrics: &Metrics) {
        let host = self.clone();
        metrics.gauge("pool_wipe_remaining_bytes", "Bytes to wipe before a disk is free", move || {
            let of = |pool: &Arc<dyn Pool>| {
                let sample = |(disk, wiping): (String, Wiping)| {
                    let left = Sample::count(wiping.total.saturating_sub(wiping.done));
                    left.label("pool", pool.name()).label("disk", disk)
                };
                pool.wiping().into_iter().map(sample).collect::<Vec<_>>()
            };
            host.pools().iter().flat_map(of).collect()
        });
        let host = self.clone();
        metrics.gauge("disk_silent_seconds", "How long a disk has been unresponsive to a read or a flush", move || {
            let of = |pool: &Arc<dyn Pool>| {
                let sample = |disk: UnresponsiveDisk| {
                    let seconds = Sample::new(disk.age.as_secs_f64());
                    seconds.label("pool", pool.name()).label("disk", disk.disk).label("request", disk.request)
                };
                pool.unresponsive_disks().into_iter().map(sample).collect::<Vec<_>>()
            };
            host.pools().iter().flat_map(of).collect()
        });
    }
}

/// The figures of the pools, as they were at the last refresh: reading them can take seconds.
fn register_pools(metrics: &Metrics) -> Arc<Mutex<Vec<PoolState>>> {
    let pools: Arc<Mutex<Vec<PoolState>>> = Arc::default();
    let per_pool = |name: &'static str, help: &'static str, figure: fn(&PoolState) -> u64| {
        let pools = Arc::clone(&pools);
        metrics.gauge(name, help, move || {
            let pools = pools.lock();
            pools.iter().map(|pool| Sample::count(figure(pool)).label("pool", pool.name.as_str())).collect()
        });
    };
    per_pool("pool_size_bytes", "All storage of the pool", |pool| pool.size);
    per_pool("pool_free_bytes", "Free storage of the pool, without its reserve", |pool| pool.space.available());
    per_pool("pool_largest_free_bytes", "The largest linear volume that fits in the pool", |pool| {
        pool.space.largest(&Layout::Linear).bytes
    });
    per_pool("pool_metadata_size_bytes", "The pool's metadata area", |pool| pool.metadata_size);
    per_pool("pool_metadata_free_bytes", "Free space in the pool's metadata area", |pool| pool.metadata_free);
    per_pool("pool_volumes", "Volumes in the pool", |pool| pool.volumes);
    let of_thin = |name: &'static str, help: &'static str, figure: fn(ThinUse) -> f64| {
        let pools = Arc::clone(&pools);
        metrics.gauge(name, help, move || {
            let pools = pools.lock();
            let thin = pools.iter().filter_map(|pool| Some((pool.name.as_str(), pool.thin?)));
            thin.map(|(name, thin)| Sample::new(figure(thin)).label("pool", name)).collect()
        });
    };
    of_thin("thin_pool_data_used_ratio", "The used part of the data of a thin pool, 0 to 1", |thin| {
        f64::from(thin.data_percent) / 100.0
    });
    of_thin("thin_pool_metadata_used_ratio", "The used part of the metadata of a thin pool, 0 to 1", |thin| {
        f64::from(thin.metadata_percent) / 100.0
    });
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    of_thin("thin_pool_virtual_bytes", "The size of all volumes and snapshots in a thin pool together", |thin| {
        thin.virtual_size as f64
    });
    per_pool("pool_healthy", "Whether the pool accepts new volumes", |pool| u64::from(pool.problems.is_empty()));
    pools
}

/// The programs that this process runs.
fn register_commands(metrics: &Metrics) {
    metrics.counter("commands", "Programs started, by program", || {
        let started = quarry_exec::started().into_iter();
        started.map(|(program, count)| Sample::count(count).label("program", program)).collect()
    });
    metrics.counter(
        "volume_group_reads",
        "Volume groups read; `reason` says why lvm was run for it, if it was",
        || {
            let reads = quarry_pool::volume_group_reads().into_iter();
            reads.map(|(reason, count)| Sample::count(count).label("reason", reason)).collect()
        },
    );
    metrics.counter("command_seconds", "Total run time of finished programs, by program", || {
        let spent = quarry_exec::spent().into_iter();
        spent.map(|(program, time)| Sample::new(time.as_secs_f64()).label("program", program)).collect()
    });
    metrics.gauge("commands_overdue", "Programs that run for much longer than expected", || {
        let overdue = quarry_exec::running().iter().filter(|command| command.overdue).count();
        vec![Sample::count(u64::try_from(overdue).unwrap_or(u64::MAX))]
    });
}

/// The snapshots that were taken of logical volumes.
fn register_snapshots(metrics: &Metrics) {
    metrics.counter(
        "snapshots_taken",
        "Snapshots of active volumes that lvm took, also to make a clone or a full copy",
        || {
            let taken = quarry_pool::frozen().into_iter();
            taken.map(|(group, frozen)| Sample::count(frozen.snapshots).label("volume_group", group)).collect()
        },
    );
    metrics.counter(
        "snapshot_frozen_seconds",
        "How long writes to the sources of snapshots had to wait while they were taken",
        || {
            let taken = quarry_pool::frozen().into_iter();
            taken.map(|(group, frozen)| Sample::new(frozen.time.as_secs_f64()).label("volume_group", group)).collect()
        },
    );
}
