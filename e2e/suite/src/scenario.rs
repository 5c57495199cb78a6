//! A scenario, and what it gets and returns.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::guests::Guests;
use crate::random::Random;
use crate::slice::Slice;

/// How often something was tried, by its name.
pub type Counts = BTreeMap<&'static str, u64>;

/// What all scenarios of a run share.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sweeps run whole.
    pub soak: bool,
    /// The part of the sweeps that is run in a soak; the whole otherwise.
    pub slice: Slice,
    /// The seed of every random choice.
    pub seed: u64,
    /// The guests that scenarios run in.
    pub guests: Guests,
}

/// What a scenario gets.
#[derive(Clone, Debug)]
pub struct Context {
    /// The scenario's name.
    pub name: &'static str,
    /// Its name, and its guest where it runs in several.
    pub label: String,
    /// See [`Settings`].
    pub settings: Settings,
    /// See [`Context::count`].
    pub counts: Arc<Mutex<Counts>>,
}

impl Context {
    /// A generator of this scenario's own, another one in each slice.
    pub fn random(&self) -> Random {
        let seed = self.settings.seed ^ (self.settings.slice.first() - 1) << 40;
        let mixed = self.name.bytes().fold(seed, |seed, byte| seed.rotate_left(7) ^ u64::from(byte));
        Random::new(mixed)
    }

    /// Counts what a sweep tried, under its name in the sums of a soak.
    pub fn count(&self, name: &'static str, number: usize) {
        let mut counts = self.counts.lock();
        *counts.entry(name).or_default() += number as u64;
    }

    /// Reports progress in a long scenario.
    pub fn say(&self, text: impl std::fmt::Display) {
        println!("      {}: {text}", self.label);
    }
}

/// What a scenario reports when it has passed: a line of figures, perhaps empty.
pub type Passed = anyhow::Result<String>;
/// A scenario under way.
pub type Run = Pin<Box<dyn Future<Output = Passed> + Send>>;

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub about: &'static str,
    /// For how long it may run.
    pub limit: Duration,
    /// Starts it.
    pub run: fn(Context) -> Run,
}
