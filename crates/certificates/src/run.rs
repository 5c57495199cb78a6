//! Steps for as long as the controller runs.

use std::time::Duration;

use quarry_transport::tls::Pem;
use tokio::sync::watch;

use crate::Authority;

/// The first and the longest pause after a failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Steps repeatedly, and passes the controller's certificate on whenever it changes, so that new connections
/// use it without a restart. Failures are logged and retried; while the authority is unusable, the stored
/// certificate is passed on unchanged. Ends when `on_change` has no receivers; may be dropped at any time.
pub async fn run(authority: Authority, on_change: watch::Sender<Option<Pem>>) {
    let mut failures = 0;
    loop {
        let (pem, pause) = match authority.step().await {
            Ok(outcome) => {
                if failures > 0 {
                    tracing::info!(target: "quarry::certificates", "certificates can be managed again");
                }
                failures = 0;
                (outcome.controller, outcome.next)
            }
            Err(error) => {
                let pause = back_off(failures);
                failures = failures.saturating_add(1);
                tracing::warn!(
                    target: "quarry::certificates",
                    %error, again_in_seconds = pause.as_secs(), "cannot manage the certificates; retrying"
                );
                (authority.stored_controller().await.ok().flatten(), pause)
            }
        };
        if let Some(pem) = pem {
            on_change.send_if_modified(|present| {
                let changed = present.as_ref() != Some(&pem);
                *present = Some(pem);
                changed
            });
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = on_change.closed() => return,
        }
    }
}

/// Doubles with each failure, up to a minute; with jitter, so that controllers do not all retry at once.
fn back_off(failures: u32) -> Duration {
    let whole = FIRST_RETRY.saturating_mul(1_u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX)).min(LONGEST_RETRY);
    whole.mul_f64(0.5 + 0.5 * fastrand::f64())
}
