//! The operating system of a guest.

use std::fmt;
use std::future::Future;
use std::str::FromStr;

use anyhow::{Result, bail};

/// Names the guests of a program that does not choose them itself.
const VARIABLE: &str = "QUARRY_VM_GUEST";

tokio::task_local! {
    static CURRENT: System;
}

/// The operating system of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Debian 12 with lvm 2.03.16 and udevd. A script is the first process.
    Bookworm,
    /// Debian 13 with lvm 2.03.31, as an ordinary host runs it: systemd is the first process, and multipathd and
    /// dmeventd are ready to be started.
    Trixie,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// What a new [`Config`](crate::Config) has: the choice of [`Self::scope`], else `QUARRY_VM_GUEST`, else Debian 12.
    ///
    /// # Errors
    /// When the variable names no system.
    pub fn current() -> Result<Self> {
        if let Ok(chosen) = CURRENT.try_with(|system| *system) {
            return Ok(chosen);
        }
        Ok(Self::by_environment()?.unwrap_or(Self::Bookworm))
    }

    /// The choice of `QUARRY_VM_GUEST`, if it is set.
    ///
    /// # Errors
    /// When it names no system.
    pub fn by_environment() -> Result<Option<Self>> {
        let name = std::env::var(VARIABLE).unwrap_or_default();
        if name.is_empty() { Ok(None) } else { name.parse().map(Some) }
    }

    /// Runs a future whose guests use this system by default. Tasks that it spawns do not inherit the choice.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Debian's name of the release.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// Packages that only this system has, besides those of all guests.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Bookworm => &["secilc"],
            Self::Trixie => &["multipath-tools", "systemd-sysv"],
        }
    }

    /// Takes udevd away, and its sockets with it.
    pub(crate) fn stop_udev(self) -> &'static str {
        match self {
            Self::Bookworm => "udevadm control --exit",
            Self::Trixie => {
                "systemctl stop systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service"
            }
        }
    }

    /// Brings udevd back.
    pub(crate) fn start_udev(self) -> &'static str {
        match self {
            Self::Bookworm => "/lib/systemd/systemd-udevd --daemon",
            Self::Trixie => "systemctl start systemd-udevd.service",
        }
    }

    /// The script that the first file system hands over to.
    pub(crate) fn init(self) -> &'static str {
        match self {
            Self::Bookworm => include_str!("../image/guest-init.sh"),
            Self::Trixie => include_str!("../image/guest-systemd.sh"),
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for System {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|system| system.name() == name) {
            Some(system) => Ok(system),
            None => bail!("a guest is bookworm or trixie, not {name:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scope_chooses_the_system() {
        for system in System::ALL {
            assert_eq!(system.scope(async { System::current().unwrap() }).await, system);
            assert_eq!(system.name().parse::<System>().unwrap(), system);
        }
        assert!("sid".parse::<System>().is_err());
    }
}
