//! A disk that hangs during a write: it delays its own volume, and nothing else.

use super::*;

/// Starts an operation that hangs, and returns when it does.
async fn hanging<T: Send + 'static>(
    host: &Host,
    disk: u64,
    work: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    host.set_stuck(disk, true);
    let task = tokio::spawn(work);
    while !host.is_stuck(disk) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    task
}

#[test]
fn a_disk_that_hangs_in_a_write_delays_only_itself() {
    let host = Host::default();
    let [first, _, _] = [("vdb", 16), ("vdc", 24), ("vdd", 40)].map(|(name, mib)| host.disk(name, mib));
    run(async {
        let pool = Arc::new(start(&host, Wipe::None));
        let other = pool.create(&spec("other", 20)).await.unwrap();
        let making = {
            let pool = Arc::clone(&pool);
            async move { pool.create(&spec("a", 1)).await }
        };
        let making = hanging(&host, first, making).await;
        // Other volumes can be created, staged, changed and deleted.
        let state = pool.status().await;
        assert_eq!(state.space.available(), 37 * MIB, "the disk is not offered");
        let made = pool.create(&spec("b", 1)).await.unwrap();
        assert_eq!(made.size, 37 * MIB);
        pool.activate(&other).await.unwrap();
        pool.set_record(&other, &other.record().unwrap().ready()).await.unwrap();
        pool.remove(&pool.volume("other").await.unwrap().unwrap()).await.unwrap();
        let error = pool.create(&spec("c", 30)).await.unwrap_err();
        assert_eq!(error.reason, Reason::NoSpace);
        // Its own name is blocked.
        let again = tokio::time::timeout(Duration::from_millis(50), pool.create(&spec("a", 1))).await;
        assert!(again.is_err());
        host.set_stuck(first, false);
        assert_eq!(making.await.unwrap().unwrap().size, 13 * MIB);
    });
}

/// A dying disk returns an error only after the kernel has retried for a long time.
#[test]
fn a_disk_that_fails_slowly_delays_one_scan() {
    let host = Host::default();
    let slow = host.disk("vdb", 16);
    host.disk("vdc", 24);
    run(async {
        let pool = start(&host, Wipe::None);
        pool.create(&spec("a", 1)).await.unwrap();
        pool.volumes().await.unwrap();
        host.set_failing_slowly(slow, Some(Duration::from_millis(2100)));
        let timed = async || {
            pool.uevents().count_disk("vdb");
            pool.uevents().count(false);
            let began = Instant::now();
            let state = pool.status().await;
            (began.elapsed(), state.problems)
        };
        let (first, problems) = timed().await;
        assert!(problems.len() == 1 && problems[0].contains("vdb cannot be read"), "{problems:?}");
        let (second, same) = timed().await;
        assert!(second < first / 2 && same == problems, "{second:?} {same:?}");
        // It is read again in the background, and then its volume is back.
        host.set_failing_slowly(slow, None);
        assert_eq!(timed().await.1, problems, "not yet");
        pool.inner.reader.age();
        while !timed().await.1.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(pool.volume("a").await.unwrap().unwrap().health, Health::Whole);
    });
}

/// A call repairs a record and its caller goes away: nothing else writes to the disk until that write has
/// ended.
#[test]
fn a_lock_lasts_as_long_as_its_write() {
    let host = Host::default();
    let disk = host.disk("vdb", 16);
    run(async {
        let pool = Arc::new(start(&host, Wipe::None));
        let volume = pool.create(&spec("a", 1)).await.unwrap();
        pool.set_record(&volume, &volume.record().unwrap().ready()).await.unwrap();
        host.poke(disk, MIB + 70, b"#");
        pool.uevents().count_disk("vdb");
        pool.uevents().count(false);
        let asking = {
            let pool = Arc::clone(&pool);
            async move { pool.find_requested("a").await.map(drop) }
        };
        let asking = hanging(&host, disk, asking).await;
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        assert!(pool.changing(), "it is still writing");
        let now = pool.volume("a").await.unwrap().unwrap();
        let changed = tokio::time::timeout(Duration::from_millis(50), pool.remove(&now)).await;
        assert!(changed.is_err(), "another change has written to the disk");
        host.set_stuck(disk, false);
        for _ in 0..1000 {
            if !pool.changing() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let ClaimState::Claimed(claim) = found(&host, disk) else { panic!("not claimed") };
        assert_eq!(claim.degraded, [], "both copies are equal");
    });
}

/// A scan starts before a volume is deleted and ends after that, on a kernel without sequence numbers of
/// disks.
#[test]
fn a_deleted_volume_is_not_lost_without_sequence_numbers() {
    let host = Host::default();
    let [disk, slow] = ["vdb", "vdc"].map(|name| host.disk(name, 16));
    host.change(disk, |disk| disk.sequence = None);
    run(async {
        let pool = Arc::new(start(&host, Wipe::None));
        let volume = pool.create(&spec("a", 1)).await.unwrap();
        pool.volumes().await.unwrap();
        let looking = {
            let (pool, runtime) = (Arc::clone(&pool), tokio::runtime::Handle::current());
            let (sender, answer) = std::sync::mpsc::channel();
            // Just before the disk is released: it is read in its old state, and the scan waits for the other
            // disk.
            host.before_hold(move |host| {
                host.set_hanging(slow, true);
                for name in ["vdb", "vdc"] {
                    pool.uevents().count_disk(name);
                }
                pool.uevents().count(false);
                sender.send(runtime.spawn(async move { pool.status().await })).unwrap();
                std::thread::sleep(Duration::from_millis(200));
            });
            answer
        };
        pool.remove(&volume).await.unwrap();
        host.set_hanging(slow, false);
        looking.recv().unwrap().await.unwrap();
        assert!(pool.volume("a").await.unwrap().is_none());
    });
}
