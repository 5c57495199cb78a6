//! What a pool does again and again in the background.

use std::sync::Arc;
use std::time::Duration;

use super::LvmPool;

/// Runs `step` until the pool is dropped: first after `first`, and then after each pause that it returns. Between two steps
/// nothing here keeps the pool.
pub(super) fn repeat<S, F>(pool: &Arc<LvmPool>, first: Duration, step: S)
where
    S: Fn(Arc<LvmPool>) -> F + Send + 'static,
    F: Future<Output = Duration> + Send,
{
    let pool = Arc::downgrade(pool);
    tokio::spawn(async move {
        let mut pause = first;
        loop {
            tokio::time::sleep(pause).await;
            let Some(pool) = pool.upgrade() else { return };
            pause = step(pool).await;
        }
    });
}
