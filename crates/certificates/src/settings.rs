//! Lifetimes and waits.

use std::time::Duration;

use crate::Error;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The longest pause before the items are checked again.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(10 * MINUTE);

/// Lifetimes of certificates and waits of a rotation. All controllers should have the same settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Lifetime of the controller's and the nodes' certificates. Renewed after two thirds of it.
    pub leaf_life: Duration,
    /// Lifetime of an authority. Replaced after two thirds of it.
    pub authority_life: Duration,
    /// How long before their issue certificates start to be valid: clocks differ.
    pub backdate: Duration,
    /// How long a changed item may take at most until every process has loaded it. Every controller checks at
    /// least three times as often.
    pub propagation: Duration,
    /// How far the clocks of two controllers may differ; the phases of a rotation wait this much longer than
    /// `propagation`.
    pub clocks_apart: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            leaf_life: Duration::from_secs(30 * DAY),
            authority_life: Duration::from_secs(5 * 365 * DAY),
            backdate: Duration::from_secs(HOUR),
            propagation: Duration::from_secs(15 * MINUTE),
            clocks_apart: Duration::from_secs(20 * MINUTE),
        }
    }
}

impl Settings {
    /// Rejects settings with which certificates would be renewed endlessly, or outlive their authority.
    pub(crate) fn check(self) -> Result<Self, Error> {
        if self.leaf_life < Duration::from_secs(1) {
            return Err(Error::Settings("a certificate must be valid for at least a second"));
        }
        if self.backdate.saturating_mul(2) > self.leaf_life {
            return Err(Error::Settings("a certificate must be valid for at least twice as long as it is backdated"));
        }
        if self.leaf_life.saturating_mul(3) > self.authority_life {
            return Err(Error::Settings(
                "an authority must be valid for at least three times as long as a certificate",
            ));
        }
        if self.authority_life > Duration::from_secs(100 * 365 * DAY) {
            return Err(Error::Settings("an authority must be valid for at most a hundred years"));
        }
        Ok(self)
    }

    /// How long a phase waits after both items have met its requirements.
    pub(crate) fn wait(self) -> Duration {
        self.propagation.saturating_add(self.clocks_apart)
    }

    /// How long to sleep if the next action is due in `due`. With jitter, so that controllers do not all step
    /// at once.
    pub(crate) fn pause(self, due: Option<Duration>) -> Duration {
        let often = LONGEST_PAUSE.min(self.propagation / 3);
        let spread = often.mul_f64(0.75 + 0.25 * fastrand::f64());
        let due = due.unwrap_or(Duration::MAX).saturating_add(Duration::from_millis(fastrand::u64(0..2000)));
        spread.min(due).max(Duration::from_millis(100)).min(LONGEST_PAUSE)
    }
}
