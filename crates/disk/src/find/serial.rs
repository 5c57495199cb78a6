//! The serial numbers of virtio disks. The kernel asks the disk for it at each read of the attribute, and the read does
//! not end while the disk hangs: so it is read in a thread of its own, and once for each disk.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use quarry_mount::Device;

/// How long a disk may take at first. What it answers later counts from the next time on.
const PATIENCE: Duration = Duration::from_secs(2);

/// What distinguishes a disk from another one with the same name.
type Identity = (Device, Option<u64>);

/// The serial number of a disk that must be asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Serial {
    /// The disk has answered. `None`: it has no serial number.
    Known(Option<String>),
    /// It has not answered yet.
    Unknown,
}

/// The disks that were asked. Of a hung disk, the thread that waits is the only one.
#[derive(Default)]
pub(super) struct Serials {
    /// By the path of the attribute.
    asked: Mutex<HashMap<PathBuf, Asked>>,
    answered: Condvar,
}

/// A disk that was asked.
struct Asked {
    disk: Identity,
    since: Instant,
    serial: Serial,
    /// Whether the disk must be asked again the next time.
    again: bool,
}

/// Those of this process.
pub(super) fn serials() -> &'static Serials {
    static SERIALS: LazyLock<Serials> = LazyLock::new(Serials::default);
    &SERIALS
}

impl Serials {
    /// The serial number of that disk, whose attribute is at `path`. `read` reads it. Returns two seconds after the disk
    /// was asked at the latest, so that a hung disk does not delay later calls at all.
    pub(super) fn of(
        &'static self,
        path: &Path,
        disk: Identity,
        read: impl FnOnce(&Path) -> io::Result<String> + Send + 'static,
    ) -> Serial {
        let mut asked = self.asked.lock();
        if asked.get(path).is_none_or(|asked| asked.disk != disk || asked.again) {
            let there = path.to_owned();
            let ask = move || {
                let serial = read(&there);
                self.answered(&there, disk, serial);
            };
            if thread::Builder::new().name("serial".to_owned()).spawn(ask).is_err() {
                return Serial::Unknown;
            }
            // The thread cannot answer before the lock is released.
            asked.insert(path.to_owned(), Asked { disk, since: Instant::now(), serial: Serial::Unknown, again: false });
        }
        loop {
            let Some(found) = asked.get(path).filter(|asked| asked.disk == disk) else { return Serial::Unknown };
            let end = found.since + PATIENCE;
            if found.serial != Serial::Unknown || Instant::now() >= end {
                return found.serial.clone();
            }
            self.answered.wait_until(&mut asked, end);
        }
    }

    /// Keeps the answer of a disk, unless another disk has the name by now.
    fn answered(&self, path: &Path, disk: Identity, serial: io::Result<String>) {
        if let Some(asked) = self.asked.lock().get_mut(path).filter(|asked| asked.disk == disk) {
            // Without a sequence number, another disk may get the same identity later.
            asked.again = serial.is_err() || disk.1.is_none();
            asked.serial = Serial::Known(serial.ok().filter(|text| !text.is_empty()));
        }
        self.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const NUMBER: Device = Device { major: 254, minor: 0 };

    fn fresh() -> &'static Serials {
        Box::leak(Box::default())
    }

    fn known(serial: &str) -> Serial {
        Serial::Known(Some(serial.to_owned()))
    }

    #[test]
    fn each_disk_is_asked_once() {
        let (serials, path) = (fresh(), Path::new("/sys/block/vda/serial"));
        assert_eq!(serials.of(path, (NUMBER, Some(7)), |_| Ok("a".to_owned())), known("a"));
        assert_eq!(serials.of(path, (NUMBER, Some(7)), |_| panic!("it is asked again")), known("a"));
        assert_eq!(serials.of(path, (NUMBER, Some(8)), |_| Ok(String::new())), Serial::Known(None), "another disk");
        assert_eq!(serials.of(path, (NUMBER, Some(8)), |_| panic!("it is asked again")), Serial::Known(None));
        // Without a sequence number, it may be another disk each time.
        assert_eq!(serials.of(path, (NUMBER, None), |_| Ok("b".to_owned())), known("b"));
        assert_eq!(serials.of(path, (NUMBER, None), |_| Ok("c".to_owned())), known("c"));
        // A failed read is repeated.
        let fails = |_: &Path| Err(io::Error::other("the read failed"));
        assert_eq!(serials.of(path, (NUMBER, Some(9)), fails), Serial::Known(None));
        assert_eq!(serials.of(path, (NUMBER, Some(9)), |_| Ok("d".to_owned())), known("d"));
    }

    #[test]
    fn calls_at_the_same_time_wait_for_one_answer() {
        let (serials, path, disk) = (fresh(), Path::new("/sys/block/vda/serial"), (NUMBER, Some(7)));
        let (sender, asked) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                let slow = move |_: &Path| {
                    sender.send(()).unwrap();
                    thread::sleep(Duration::from_millis(100));
                    Ok("a".to_owned())
                };
                assert_eq!(serials.of(path, disk, slow), known("a"));
            });
            asked.recv().unwrap();
            assert_eq!(serials.of(path, disk, |_| panic!("a second thread waits for it")), known("a"));
        });
    }

    #[test]
    fn a_hung_disk_is_waited_for_once_and_answers_later() {
        let (serials, path, disk) = (fresh(), Path::new("/sys/block/vda/serial"), (NUMBER, Some(7)));
        let (hang, end) = mpsc::channel::<()>();
        let hangs = move |_: &Path| {
            let _ = end.recv();
            Ok("late".to_owned())
        };
        assert_eq!(serials.of(path, disk, hangs), Serial::Unknown);
        let began = Instant::now();
        assert_eq!(serials.of(path, disk, |_| panic!("a second thread waits for it")), Serial::Unknown);
        assert!(began.elapsed() < PATIENCE / 2, "it is not waited for again");
        // Another disk is not delayed.
        let other = Path::new("/sys/block/vdb/serial");
        assert_eq!(serials.of(other, (NUMBER, Some(8)), |_| Ok("b".to_owned())), known("b"));
        hang.send(()).unwrap();
        while serials.of(path, disk, |_| panic!("a second thread waits for it")) == Serial::Unknown {
            assert!(began.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(serials.of(path, disk, |_| panic!("it is asked again")), known("late"));
    }
}
