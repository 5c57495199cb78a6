//! Seeded choices: run a failed scenario again with the seed that it printed.
//!
//! The seed comes from the commit, so every run of a commit tests the same, and the next commit tests
//! something else.
#![allow(clippy::disallowed_types)] // quarry-exec is part of what is tested.

use std::process::Stdio;

use tokio::process::Command;

/// A small generator (SplitMix64): the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins at a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// `count` of the numbers from 0 to `end`, each once, in order.
    pub fn sample(&mut self, count: usize, end: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..end).collect();
        for index in (1..all.len()).rev() {
            let other = usize::try_from(self.below(index as u64 + 1)).expect("an index");
            all.swap(index, other);
        }
        all.truncate(count);
        all.sort_unstable();
        all
    }
}

/// The hash of the checked-out commit; "unknown" outside a repository.
pub async fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).stderr(Stdio::null());
    match git.output().await {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// The seed of this commit. Small, to be typed.
pub fn seed_of(commit: &str) -> u64 {
    commit.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_one_seed() {
        assert_eq!(seed_of("046840d17f3b2a"), 0x0468_40d1);
        assert_ne!(seed_of("046840d17f3b2a"), seed_of("146840d17f3b2a"));
        assert_eq!(seed_of("unknown"), 1);
    }
}
