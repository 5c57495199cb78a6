//! What this host reports about itself to an operator: the state of its pools, and what keeps it from working.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use quarry_pool::Pool;
use quarry_volume::{PoolState, Space};

use crate::host::Host;

/// How long a status request waits for one pool: shorter than the timeout of the whole answer.
const POOL_WAIT: Duration = Duration::from_secs(3);

/// The pool's answer, or an error after [`POOL_WAIT`] that names the disk it waits for, if known.
async fn soon<T>(pool: &dyn Pool, answer: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(POOL_WAIT, answer).await.map_err(|_| match pool.unresponsive_disks().first() {
        Some(disk) => disk.to_string(),
        None => format!("it did not answer within {} s; see the log", POOL_WAIT.as_secs()),
    })
}

impl Host {
    /// Why no CSI call can be served: one line for each pool if every pool is unavailable, else nothing. If only
    /// one of several pools is unavailable, [`Self::problems`] and the metrics show it, and the others keep
    /// working.
    pub async fn unavailable(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let of = |pool: Arc<dyn Pool>| async move {
            let storage = soon(&*pool, pool.storage()).await;
            storage.map_err(|why| format!("pool {}: {why}", pool.name()))?.map_err(|error| error.message)
        };
        let mut storages: FuturesUnordered<_> = self.pools().iter().cloned().map(of).collect();
        while let Some(storage) = storages.next().await {
            match storage {
                Ok(_) => return Vec::new(),
                Err(why) => problems.push(why),
            }
        }
        problems
    }

    /// The problems that keep this host from working, one per line.
    pub async fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for state in self.states().await {
            let of_pool = format!("pool {}", state.name);
            let named = |problem: String| match problem.starts_with(&of_pool) {
                true => problem,
                false => format!("{of_pool}: {problem}"),
            };
            problems.extend(state.problems.into_iter().map(named));
        }
        for command in quarry_exec::running().into_iter().filter(|command| command.overdue) {
            // The problem of a pool that waits for this command already names it.
            if !problems.iter().any(|problem| problem.contains(&command.command)) {
                problems.push(format!("`{}` has been running for {} s", command.command, command.age.as_secs()));
            }
        }
        problems.extend(self.overdue_trims());
        problems
    }

    /// The state of each pool. A pool that does not answer soon offers no storage, and its problem says so.
    pub(crate) async fn states(&self) -> Vec<PoolState> {
        let of = |pool: Arc<dyn Pool>| async move {
            let state = soon(&*pool, pool.status()).await;
            state.unwrap_or_else(|why| PoolState {
                name: pool.name().to_owned(),
                space: Space { closed: Some(why.clone()), ..Space::default() },
                problems: vec![why],
                ..PoolState::default()
            })
        };
        join_all(self.pools().iter().cloned().map(of)).await
    }
}
