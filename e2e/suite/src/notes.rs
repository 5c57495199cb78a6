//! What the quarry in the guests notes for tests: it compares some of the volume groups that it reads without lvm with
//! lvm's report, and says when it needs lvm to read one.
//!
//! The notes are written to the guest's console, which outlasts power cuts of the guest.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

/// The results of the comparisons in one scenario.
#[derive(Debug, Default)]
pub struct Comparisons {
    /// How many results were the same.
    pub same: u64,
    /// How often it could not be compared: the volume group changed each time, or lvm's report failed.
    pub changing: u64,
    /// Each difference.
    pub different: Vec<String>,
    /// How often lvm was needed to read a volume group, by the reason.
    pub with_lvm: BTreeMap<String, u64>,
}

impl Comparisons {
    /// Adds those of another scenario.
    pub fn add(&mut self, other: Self) {
        self.same += other.same;
        self.changing += other.changing;
        self.different.extend(other.different);
        for (reason, count) in other.with_lvm {
            *self.with_lvm.entry(reason).or_default() += count;
        }
    }
}

impl fmt::Display for Comparisons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { same, changing, different, with_lvm } = self;
        write!(f, "{same} the same, {} different, {changing} not comparable", different.len())?;
        let reasons: Vec<String> = with_lvm.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let total: u64 = with_lvm.values().sum();
        write!(f, "; read with lvm: {total} ({})", reasons.join(", "))
    }
}

tokio::task_local! {
    static SCENARIO: Arc<Mutex<Comparisons>>;
}

/// Runs a scenario. The comparisons on its nodes are added to `results` when the nodes are dropped.
pub async fn scope<T>(results: Arc<Mutex<Comparisons>>, scenario: impl Future<Output = T>) -> T {
    SCENARIO.scope(results, scenario).await
}

/// The notes of a node. They are read when it is dropped.
pub struct Notes {
    console: PathBuf,
    results: Option<Arc<Mutex<Comparisons>>>,
}

impl Notes {
    /// The notes on that console.
    pub fn on(console: PathBuf) -> Self {
        Self { console, results: SCENARIO.try_with(Arc::clone).ok() }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let (Ok(bytes), Some(results)) = (std::fs::read(&self.console), &self.results) else { return };
        let text = String::from_utf8_lossy(&bytes);
        let mut results = results.lock();
        for note in text.lines().filter_map(|line| Some(line.split_once("quarry-lvm: ")?.1.trim())) {
            match (note, note.strip_prefix("with lvm: ")) {
                (_, Some(reason)) => *results.with_lvm.entry(reason.to_owned()).or_default() += 1,
                ("same", _) => results.same += 1,
                ("changing", _) => results.changing += 1,
                (difference, _) => results.different.push(difference.to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn differences_are_found_between_other_messages() {
        let console = tempfile::NamedTempFile::new().unwrap();
        let text = b"[   12.3] boot\r\nquarry-lvm: same\r\n[ 13.1] quarry-lvm: same\r\nquarry-lvm: changing\r\n\
                    quarry-lvm: with lvm: first\r\nquarry-lvm: with lvm: locked\r\nquarry-lvm: with lvm: first\r\n\
                    quarry-lvm: quarry differs from lvm's report: 7: `a`, read `b`\r\n\xff\n";
        std::fs::write(console.path(), text).unwrap();
        let results = Arc::new(Mutex::new(Comparisons::default()));
        let of_scenario = async { drop(Notes::on(console.path().to_owned())) };
        scope(Arc::clone(&results), of_scenario).await;
        let found = std::mem::take(&mut *results.lock());
        assert_eq!((found.same, found.changing), (2, 1));
        assert_eq!(found.different, ["quarry differs from lvm's report: 7: `a`, read `b`"]);
        let mut both = Comparisons::default();
        both.add(found);
        both.add(Comparisons { with_lvm: [("first".to_owned(), 1)].into(), ..Comparisons::default() });
        let shown = "2 the same, 1 different, 1 not comparable; read with lvm: 4 (first 3, locked 1)";
        assert_eq!(both.to_string(), shown);
    }
}
