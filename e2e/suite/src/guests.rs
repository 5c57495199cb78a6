//! The guests in which scenarios run.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use quarry_vm::System;

/// One guest, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guests(&'static [System]);

const BOTH: &str = "both";

impl Guests {
    /// The default choice: all guests in a soak; otherwise the environment variable; otherwise one by the
    /// seed.
    pub fn unless_given(soak: bool, seed: u64) -> Result<Self> {
        if soak {
            return Ok(Self(&System::ALL));
        }
        let by_seed = if seed.is_multiple_of(2) { System::Bookworm } else { System::Trixie };
        Ok(Self::one(System::by_environment()?.unwrap_or(by_seed)))
    }

    fn one(system: System) -> Self {
        match system {
            System::Bookworm => Self(&[System::Bookworm]),
            System::Trixie => Self(&[System::Trixie]),
        }
    }

    /// Those that a scenario runs in that needs the guest `only`, if any. A scenario that was `named` runs in any case.
    pub fn admitted(self, only: Option<System>, named: bool) -> Self {
        match only {
            None => self,
            Some(only) if named || self.0.contains(&only) => Self::one(only),
            Some(_) => Self(&[]),
        }
    }

    /// The guests.
    pub fn systems(self) -> &'static [System] {
        self.0
    }
}

impl fmt::Display for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [one] => write!(f, "{one}"),
            _ => f.write_str(BOTH),
        }
    }
}

impl FromStr for Guests {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == BOTH { Ok(Self(&System::ALL)) } else { text.parse().map(Self::one) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_read() {
        for text in ["bookworm", "trixie", "both"] {
            assert_eq!(text.parse::<Guests>().unwrap().to_string(), text);
        }
        assert!("sid".parse::<Guests>().is_err());
    }

    #[test]
    fn a_scenario_that_needs_a_guest_runs_in_it_alone() {
        let (both, bookworm): (Guests, Guests) = ("both".parse().unwrap(), "bookworm".parse().unwrap());
        let trixie = Some(System::Trixie);
        assert_eq!(both.admitted(None, false).systems(), System::ALL);
        assert_eq!(both.admitted(trixie, false).systems(), [System::Trixie]);
        assert_eq!(bookworm.admitted(trixie, false).systems(), []);
        assert_eq!(bookworm.admitted(trixie, true).systems(), [System::Trixie]);
    }

    #[test]
    fn a_soak_runs_in_all() {
        assert_eq!(Guests::unless_given(true, 1).unwrap().systems(), System::ALL);
    }
}
