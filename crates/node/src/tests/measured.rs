//! Metrics of the I/O of volumes in use, from the cgroups of their pods, which are plain files here.

use std::path::Path;
use std::time::Duration;

use quarry_mount::Device;
use quarry_transport::metrics::Metrics;
use quarry_volume::{Agent as _, VolumeId};
use tokio_util::sync::CancellationToken;

use super::limited::{LIMITED, UID, becomes, cgroup, host, limits_in, run, world};
use super::machine::{Plan, Process};
use super::world::{Call, Use, World};
use crate::Host;
use crate::limits::Limited;

/// A start of the plugin that measures so many volumes, with its metrics.
fn measuring(world: &World, max: usize) -> (Host, impl AsyncFn() -> String) {
    let host = host(world);
    host.measure_volumes(max);
    let metrics = Metrics::new();
    let refresh = host.register(&metrics);
    let scrape = async move || {
        refresh().await;
        metrics.encode().unwrap()
    };
    (host, scrape)
}

/// Fills the files of a pod's cgroup as the kernel does after some I/O on the volume.
fn used(world: &World, limits: &Path) {
    let other = Device { major: 7, minor: 7 };
    let stat = format!(
        "{other} rbytes=9 wbytes=9 rios=9 wios=9\n{} rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
        world.disk().number
    );
    std::fs::write(limits.with_file_name("io.stat"), stat).unwrap();
    let pressure =
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n";
    std::fs::write(limits.with_file_name("io.pressure"), pressure).unwrap();
}

#[test]
fn a_volume_in_use_has_metrics_of_its_pods_io() {
    for usage in [Use::MOUNT, Use::BLOCK, Use::READ_ONLY_BLOCK, LIMITED] {
        let (world, cgroups) = world(usage, &[Call::Create, Call::Stage]);
        let file = cgroup(&cgroups);
        used(&world, &file);
        run(async {
            let (host, scrape) = measuring(&world, 10);
            let text = scrape().await;
            assert!(!text.contains("quarry_volume_read_bytes_total{"), "{text}");
            world.send(&host, Call::Publish).await.unwrap();
            let text = scrape().await;
            let labels = format!("{{pool=\"p\",volume=\"v\",pod_uid=\"{UID}\"}}");
            for line in [
                format!("quarry_volume_read_bytes_total{labels} 4096.0"),
                format!("quarry_volume_written_bytes_total{labels} 8192.0"),
                format!("quarry_volume_reads_total{labels} 1.0"),
                format!("quarry_volume_writes_total{labels} 2.0"),
                format!("quarry_pod_io_wait_seconds_total{{pod_uid=\"{UID}\",processes=\"some\"}} 2.5"),
                format!("quarry_pod_io_wait_seconds_total{{pod_uid=\"{UID}\",processes=\"full\"}} 0.5"),
                "quarry_volumes_not_measured 0.0".to_owned(),
            ] {
                assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
            }
            world.send(&host, Call::Unpublish).await.unwrap();
            assert_eq!(host.limits().pods(), [""; 0]);
            assert!(!scrape().await.contains("pod_uid="));
        });
    }
}

/// A cgroup has an `io.stat` only if it has the io controller, which kubelet does not turn on.
#[test]
fn the_cgroups_of_pods_get_the_io_controller_and_no_limits() {
    let (world, cgroups) = world(Use::MOUNT, &[Call::Create, Call::Stage]);
    let passed_on = cgroups.path().join("cgroup.subtree_control");
    for folder in ["", "kubepods", "kubepods/burstable"] {
        std::fs::write(cgroups.path().join(folder).join("cgroup.subtree_control"), "cpu memory\n").unwrap();
    }
    let limits = cgroup(&cgroups);
    std::fs::remove_file(&limits).unwrap();
    run(async {
        let (host, scrape) = measuring(&world, 10);
        world.send(&host, Call::Publish).await.unwrap();
        // No publish waits for that.
        becomes(&passed_on, "+io").await;
        assert!(!limits.exists());
        // These files do not get what a kernel would make of that.
        let text = scrape().await;
        assert!(text.contains("quarry_volumes_not_measured 1") && !text.contains("pod_uid="), "{text}");
        // A volume without limits has none that could be missing.
        assert_eq!(host.limits().not_in_force().len(), 0);
    });
}

#[test]
fn a_restarted_plugin_measures_the_volumes_in_use() {
    let (world, cgroups) = world(Use::MOUNT, &[Call::Create, Call::Stage]);
    used(&world, &cgroup(&cgroups));
    world.succeeds(Call::Publish);
    run(async {
        let (host, scrape) = measuring(&world, 10);
        let stopping = CancellationToken::new();
        let kept = tokio::spawn(host.clone().keep_limits(stopping.clone()));
        while !scrape().await.contains("quarry_volume_writes_total{") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stopping.cancel();
        kept.await.unwrap();
    });
}

/// The series of a volume do not come and go with those of others.
#[test]
fn the_number_of_series_is_bounded_and_the_first_volumes_keep_theirs() {
    let (world, cgroups) = world(Use::MOUNT, &[Call::Create, Call::Stage]);
    used(&world, &cgroup(&cgroups));
    run(async {
        let (host, scrape) = measuring(&world, 2);
        world.send(&host, Call::Publish).await.unwrap();
        for name in ["b", "a"] {
            let id = VolumeId { volume: name.to_owned(), ..world.id.clone() };
            let volume = Limited { id: &id, pool: "p", device: "1:1".parse().unwrap() };
            host.limits().register(UID, volume, Default::default());
            host.limits().register(UID, volume, Default::default());
        }
        let text = scrape().await;
        let volumes: Vec<_> = text.lines().filter(|line| line.starts_with("quarry_volume_writes_total{")).collect();
        let of = |volume: &str, writes: &str| {
            format!("quarry_volume_writes_total{{pool=\"p\",volume=\"{volume}\",pod_uid=\"{UID}\"}} {writes}")
        };
        // The second one was not used yet.
        assert_eq!(volumes, [of("v", "2.0"), of("b", "0.0")]);
        assert!(text.contains("quarry_volumes_not_measured 1"), "{text}");
    });
}

/// While its limits are removed, and afterwards.
#[test]
fn a_volume_that_loses_its_limits_is_still_measured() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    let file = cgroup(&cgroups);
    used(&world, &file);
    run(async {
        let (host, scrape) = measuring(&world, 10);
        world.send(&host, Call::Publish).await.unwrap();
        host.modify(&world.id, limits_in("none"), Duration::from_secs(10)).await.unwrap();
        becomes(&file, &format!("{} rbps=max wbps=max riops=max wiops=max", world.disk().number)).await;
        assert!(scrape().await.contains("quarry_volume_writes_total{"));
    });
}

#[test]
fn without_the_option_there_are_no_such_metrics() {
    let (world, cgroups) = world(LIMITED, &[Call::Create, Call::Stage]);
    used(&world, &cgroup(&cgroups));
    run(async {
        let (host, scrape) = measuring(&world, 0);
        world.send(&host, Call::Publish).await.unwrap();
        let text = scrape().await;
        assert!(!text.contains("quarry_volume_read") && !text.contains("quarry_volumes_not_measured"), "{text}");
    });
    // A path that is not a pod's has no cgroup.
    let world = World::after(Use::MOUNT, &[Call::Create, Call::Stage]);
    run(async {
        let host = world.host(&Process::new(&world.machine, Plan::Lives));
        host.measure_volumes(10);
        world.send(&host, Call::Publish).await.unwrap();
        assert_eq!(host.limits().pods(), [""; 0]);
    });
}
