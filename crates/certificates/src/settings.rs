//! How long things last.

use std::time::Duration;

use crate::Error;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// However long nothing is due, the items are looked at again after this.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(10 * MINUTE);

/// How long certificates last and how long the phases of a rotation wait. All controllers should have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Life of the controller's and the nodes' certificates, from their issue. Renewed after two thirds of it.
    pub leaf_life: Duration,
    /// Life of an authority. Another follows it after two thirds.
    pub authority_life: Duration,
    /// How long before their issue certificates begin to be valid: clocks differ.
    pub backdate: Duration,
    /// How long the slowest may take to load a changed item. Every controller looks at least three times as often.
    pub settle: Duration,
    /// How far the clocks of two controllers may lie apart; the phases of a rotation wait this much longer than `settle`.
    pub clocks_apart: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            leaf_life: Duration::from_secs(30 * DAY),
            authority_life: Duration::from_secs(5 * 365 * DAY),
            backdate: Duration::from_secs(HOUR),
            settle: Duration::from_secs(15 * MINUTE),
            clocks_apart: Duration::from_secs(20 * MINUTE),
        }
    }
}

impl Settings {
    /// Refuses settings under which certificates would be renewed without end, or outlive their authority.
    pub(crate) fn check(self) -> Result<Self, Error> {
        if self.leaf_life < Duration::from_secs(1) {
            return Err(Error::Settings("a certificate must last at least a second"));
        }
        if self.backdate.saturating_mul(2) > self.leaf_life {
            return Err(Error::Settings("a certificate must last at least twice as long as it is backdated"));
        }
        if self.leaf_life.saturating_mul(3) > self.authority_life {
            return Err(Error::Settings("an authority must last at least three times as long as a certificate"));
        }
        if self.authority_life > Duration::from_secs(100 * 365 * DAY) {
            return Err(Error::Settings("an authority may last a hundred years at most"));
        }
        Ok(self)
    }

    /// How long a phase waits after both items were seen to show what it demands.
    pub(crate) fn wait(self) -> Duration {
        self.settle.saturating_add(self.clocks_apart)
    }

    /// How long to sleep when the next thing is due in `due`. Spread, so that controllers do not come all at once.
    pub(crate) fn pause(self, due: Option<Duration>) -> Duration {
        let often = LONGEST_PAUSE.min(self.settle / 3);
        let spread = often.mul_f64(0.75 + 0.25 * fastrand::f64());
        let due = due.unwrap_or(Duration::MAX).saturating_add(Duration::from_millis(fastrand::u64(0..2000)));
        spread.min(due).max(Duration::from_millis(100)).min(LONGEST_PAUSE)
    }
}
