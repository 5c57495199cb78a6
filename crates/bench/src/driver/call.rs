//! One call to the driver, repeated while the driver asks for that.

use std::time::{Duration, Instant};

use quarry_transport::call::code_name;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::Stop;
use crate::system::{Failure, INTERRUPTED, Retries};

/// Under this name, a call is counted that succeeded and has to be repeated: the snapshot is not ready yet.
pub(crate) const NOT_READY: &str = "NOT_READY";

/// How calls are made.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    pub(crate) timeout: Duration,
    pub(crate) patience: Duration,
    pub(crate) retry_interval: Duration,
    pub(crate) stop: Stop,
}

/// The attempts of one phase of one volume.
pub(crate) struct Attempts<'a> {
    manner: &'a Manner,
    retries: &'a mut Retries,
    until: Instant,
    /// When cancelled, nothing is repeated any more.
    stop: &'a CancellationToken,
}

/// A call that failed.
#[derive(Debug)]
pub(crate) struct Refused {
    code: Code,
    message: String,
    interrupted: bool,
    /// An attempt before this answer may have had an effect.
    ambiguous: bool,
}

impl Refused {
    fn new(code: Code, message: String) -> Self {
        Self { code, message, interrupted: false, ambiguous: false }
    }

    /// Whether one of the attempts may have had an effect: the last code alone says nothing about those before.
    /// After these codes, CSI says or implies that nothing was made.
    pub(crate) fn may_have_worked(&self) -> bool {
        let is_final = matches!(
            self.code,
            Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::ResourceExhausted
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
        );
        self.ambiguous || !is_final
    }

    pub(crate) fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", code_name(self.code), self.message)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let code = if refused.interrupted { INTERRUPTED } else { code_name(refused.code) };
        Self { code: code.to_owned(), message: refused.message }
    }
}

/// Whether the orchestrator would send the same call again, because the operation may still be in progress.
fn is_retryable(code: Code) -> bool {
    matches!(code, Code::Aborted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

impl<'a> Attempts<'a> {
    /// Of a phase that is measured: ends soon after the run is stopped.
    pub(crate) fn measured(manner: &'a Manner, retries: &'a mut Retries) -> Self {
        Self { manner, retries, until: Instant::now() + manner.patience, stop: &manner.stop.stop }
    }

    /// Of the clean-up: continues until it is abandoned.
    pub(crate) fn cleaning(manner: &'a Manner, retries: &'a mut Retries) -> Self {
        Self { manner, retries, until: Instant::now() + manner.patience, stop: &manner.stop.abandon }
    }

    /// Makes a call, and repeats it after a retryable code until the patience is over.
    pub(crate) async fn call<Req, Res, F>(
        &mut self,
        message: Req,
        call: impl Fn(Request<Req>) -> F,
    ) -> Result<Res, Refused>
    where
        Req: Clone,
        F: Future<Output = Result<Response<Res>, Status>>,
    {
        let mut ambiguous = false;
        loop {
            let refused = match self.once(message.clone(), &call).await {
                Ok(answer) => return Ok(answer),
                Err(refused) => Refused { ambiguous, ..refused },
            };
            ambiguous = refused.may_have_worked();
            if refused.interrupted || !is_retryable(refused.code) {
                return Err(refused);
            }
            if !self.pause(code_name(refused.code)).await {
                return Err(Refused { interrupted: self.stop.is_cancelled(), ..refused });
            }
        }
    }

    async fn once<Req, Res, F>(&self, message: Req, call: &impl Fn(Request<Req>) -> F) -> Result<Res, Refused>
    where
        F: Future<Output = Result<Response<Res>, Status>>,
    {
        let timeout = self.manner.timeout;
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        let started = Instant::now();
        let answer = tokio::select! {
            // After the interruption, no call is sent.
            biased;
            () = self.manner.stop.abandon.cancelled() => {
                let message = "interrupted before the driver answered".to_owned();
                return Err(Refused { interrupted: true, ..Refused::new(Code::Cancelled, message) });
            }
            answer = call(request) => answer,
        };
        match answer {
            Ok(response) => Ok(response.into_inner()),
            // tonic reports a call that times out as cancelled.
            Err(status) if status.code() == Code::Cancelled && started.elapsed() >= timeout => {
                let message = format!("no answer within {} s", timeout.as_secs_f64());
                Err(Refused::new(Code::DeadlineExceeded, message))
            }
            Err(status) => Err(Refused::new(status.code(), status.message().to_owned())),
        }
    }

    /// Counts a repetition and waits for its time. `false` if the call must not be repeated: the patience is
    /// over, or the run is stopped.
    pub(crate) async fn pause(&mut self, why: &str) -> bool {
        let interval = self.manner.retry_interval;
        if Instant::now() + interval > self.until || self.stop.is_cancelled() {
            return false;
        }
        *self.retries.entry(why.to_owned()).or_default() += 1;
        tokio::select! {
            () = tokio::time::sleep(interval) => true,
            () = self.stop.cancelled() => false,
        }
    }

    /// Whether no new call should be made.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The failure of a wait that ended without success.
    pub(crate) fn gave_up(&self, message: &str) -> Failure {
        let code = if self.stop.is_cancelled() { INTERRUPTED } else { NOT_READY };
        Failure { code: code.to_owned(), message: message.to_owned() }
    }
}
