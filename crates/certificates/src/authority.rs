//! Checks what is stored, and does what is due.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quarry_transport::tls::Pem;

use crate::issue;
use crate::judgement::{Judgement, is_empty, judge};
use crate::leaf::{self, Role};
use crate::outcome::{Done, Outcome, Requested};
use crate::state::{Phase, State};
use crate::store::{Create, Data, Item, Store, StoreError, Update, Versioned};
use crate::{Error, Settings};

/// The current time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How often a step starts over because it did something or others were faster. Everything that can be due at
/// once takes fewer than ten rounds.
const ROUNDS: usize = 24;

/// Issues, renews and rotates certificates; see the crate's documentation.
#[derive(Clone)]
pub struct Authority {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
}

/// What a round may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    /// The first authority, and certificates. Not the next phase of a rotation.
    Issue,
}

/// Whether a step needs another round.
enum Round {
    Again,
    Over(Box<Outcome>),
}

impl Authority {
    /// An authority for the items in `store`.
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn new(store: Arc<dyn Store>, settings: Settings) -> Result<Self, Error> {
        Ok(Self { store, clock: Arc::new(SystemTime::now), settings: settings.check()? })
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Does what is due: usually nothing. Any number of replicas may step at once, and a step may be dropped
    /// or killed at any instant: the next step of any replica continues.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::AuthorityUnusable`], [`Error::Issue`]. What was done before stays done.
    pub async fn step(&self) -> Result<Outcome, Error> {
        let mut done = Vec::new();
        for _ in 0..ROUNDS {
            if let Round::Over(outcome) = self.round(Scope::All, &mut done).await? {
                return Ok(*outcome);
            }
        }
        // Other replicas are at work; each conflict was progress of theirs.
        Ok(Outcome { done, phase: None, controller: None, next: Duration::from_millis(fastrand::u64(500..3000)) })
    }

    /// Creates the first authority, and issues the certificates that are missing or due. Leaves a rotation of the
    /// authority to [`Self::step`]: how long its phases last is for the controllers' settings to say, and these may be
    /// others. If a phase has to be waited for again because a certificate was lost, this records that.
    ///
    /// # Errors
    /// As for [`Self::step`], and [`Error::Contended`].
    pub async fn issue(&self) -> Result<Vec<Done>, Error> {
        let mut done = Vec::new();
        for _ in 0..ROUNDS {
            if let Round::Over(outcome) = self.round(Scope::Issue, &mut done).await? {
                return Ok(outcome.done);
            }
        }
        Err(Error::Contended { attempted: "issue the certificates" })
    }

    /// Starts a rotation, whatever the age of the authority; steps continue it. During a rotation this
    /// changes nothing.
    ///
    /// # Errors
    /// As for [`Self::step`], and [`Error::NoAuthority`], [`Error::Contended`].
    pub async fn rotate(&self) -> Result<Requested, Error> {
        for _ in 0..ROUNDS {
            let stored = self.store.get(Item::Authority).await?.filter(|stored| !is_empty(&stored.data));
            let Some(stored) = stored else { return Err(Error::NoAuthority) };
            let state = State::parse(stored.data)?;
            if state.rotation.is_some() {
                return Ok(Requested::UnderWay(state.phase()));
            }
            let next = issue::authority(&self.settings, (self.clock)())?;
            if self.update(Item::Authority, state.rotating_to(next).data(), &stored.version).await? {
                note(&mut Vec::new(), Done::Entered(Phase::Publish));
                return Ok(Requested::Begun);
            }
        }
        Err(Error::Contended { attempted: "start the rotation of the authority" })
    }

    /// The stored certificate of the controller, whatever its state; `None` if it does not exist or is
    /// incomplete.
    pub(crate) async fn stored_controller(&self) -> Result<Option<Pem>, StoreError> {
        Ok(self.store.get(Item::Controller).await?.and_then(|stored| leaf::pem(&stored.data).ok()))
    }

    /// Checks everything; does one thing, if one is due.
    async fn round(&self, scope: Scope, done: &mut Vec<Done>) -> Result<Round, Error> {
        // The authority is read last: see the crate's documentation.
        let controller = self.store.get(Item::Controller).await?;
        let node = self.store.get(Item::Node).await?;
        let stored = self.store.get(Item::Authority).await?;
        let now = (self.clock)();

        let Some(Versioned { data, version }) = stored.clone().filter(|stored| !is_empty(&stored.data)) else {
            let other = stored.as_ref().map(|stored| stored.data.clone()).unwrap_or_default();
            let first = State::new(issue::authority(&self.settings, now)?, other);
            if self.put(Item::Authority, first.data(), stored.as_ref()).await? {
                note(done, Done::AuthorityMade);
            }
            return Ok(Round::Again);
        };
        let state = State::parse(data)?;

        if scope == Scope::All && state.rotation.is_none() && now >= state.current.rotate_at() {
            let next = issue::authority(&self.settings, now)?;
            return self.transit(state.rotating_to(next), &version, Done::Entered(Phase::Publish), done).await;
        }

        let judged = [
            (Role::Controller, &controller, judge(Role::Controller, controller.as_ref(), &state, now)),
            (Role::Node, &node, judge(Role::Node, node.as_ref(), &state, now)),
        ];
        let since = state.rotation.as_ref().and_then(|rotation| rotation.since);
        let wrong = judged.iter().any(|(_, _, judgement)| matches!(judgement, Judgement::Wrong(_)));
        if wrong && since.is_some() {
            return self.transit(state.with_since(None), &version, Done::NotShown(state.phase()), done).await;
        }
        let mut issued = false;
        for (role, stored, judgement) in &judged {
            if let Judgement::Wrong(why) | Judgement::Due(why) = judgement {
                self.issue_leaf(*role, stored.as_ref(), &state, now, why, done).await?;
                issued = true;
            }
        }
        if issued {
            return Ok(Round::Again);
        }

        let mut due: Option<Duration> = None;
        if scope == Scope::All && state.rotation.is_some() {
            let shown = |at| (state.with_since(Some(at)), Done::Shown(state.phase()));
            let (next, what) = match since {
                None => shown(now),
                // Written by a clock that was far ahead: the real time is unknown.
                Some(since) if since > after(now, self.settings.clocks_apart) => shown(now),
                Some(since) => {
                    let end = after(since, self.settings.wait());
                    if now < end {
                        due = end.duration_since(now).ok();
                        return Ok(self.over(done, &state, judged.map(|(_, _, judgement)| judgement), due, now));
                    }
                    let next = state.following();
                    let phase = next.phase();
                    (next, Done::Entered(phase))
                }
            };
            return self.transit(next, &version, what, done).await;
        }
        if let Ok(until) = state.current.rotate_at().duration_since(now) {
            due = Some(until);
        }
        Ok(self.over(done, &state, judged.map(|(_, _, judgement)| judgement), due, now))
    }

    /// Nothing is due any more.
    fn over(
        &self,
        done: &mut Vec<Done>,
        state: &State,
        judged: [Judgement; 2],
        due: Option<Duration>,
        now: SystemTime,
    ) -> Round {
        let renewals = judged.iter().filter_map(|judgement| match judgement {
            Judgement::Good(leaf) => leaf.renew_at().duration_since(now).ok(),
            Judgement::Due(_) | Judgement::Wrong(_) => None,
        });
        let due = renewals.chain(due).min();
        let [controller, _] = judged;
        let controller = match controller {
            Judgement::Good(leaf) => Some(leaf.pem),
            Judgement::Due(_) | Judgement::Wrong(_) => None,
        };
        Round::Over(Box::new(Outcome {
            done: std::mem::take(done),
            phase: Some(state.phase()),
            controller,
            next: self.settings.pause(due),
        }))
    }

    /// Issues one leaf. The next round checks whether it was stored.
    async fn issue_leaf(
        &self,
        role: Role,
        stored: Option<&Versioned>,
        state: &State,
        now: SystemTime,
        why: &str,
        done: &mut Vec<Done>,
    ) -> Result<(), Error> {
        let (issuer, trusted) = state.demand();
        let mut data = stored.map(|stored| stored.data.clone()).unwrap_or_default();
        data.extend(issue::leaf(&self.settings, now, role, issuer, &trusted)?);
        if self.put(role.item(), data, stored).await? {
            note(done, Done::Issued { role, why: why.to_owned() });
        }
        Ok(())
    }

    /// Changes the authority's item to another state, if it is unchanged since it was read.
    async fn transit(&self, to: State, version: &str, what: Done, done: &mut Vec<Done>) -> Result<Round, Error> {
        if self.update(Item::Authority, to.data(), version).await? {
            note(done, what);
        }
        Ok(Round::Again)
    }

    /// Writes an item based on the version that was read: creates or replaces it. False if another replica
    /// was faster.
    async fn put(&self, item: Item, data: Data, stored: Option<&Versioned>) -> Result<bool, StoreError> {
        match stored {
            Some(stored) => self.update(item, data, &stored.version).await,
            None => {
                quarry_fault::point(|| format!("certificates:create {item}:before"));
                let created = self.store.create(item, data).await? == Create::Created;
                quarry_fault::point(|| format!("certificates:create {item}:after"));
                Ok(created)
            }
        }
    }

    async fn update(&self, item: Item, data: Data, version: &str) -> Result<bool, StoreError> {
        quarry_fault::point(|| format!("certificates:update {item}:before"));
        let updated = self.store.update(item, data, version).await? == Update::Updated;
        quarry_fault::point(|| format!("certificates:update {item}:after"));
        Ok(updated)
    }
}

fn after(instant: SystemTime, by: Duration) -> SystemTime {
    instant.checked_add(by).unwrap_or(instant)
}

fn note(done: &mut Vec<Done>, what: Done) {
    tracing::info!(target: "quarry::certificates", "{what}");
    done.push(what);
}
