//! Observes the end of every call of a tonic server, and counts, times and logs it.
//!
//! A gRPC code arrives in the answer's headers (an error before any message), in its trailers (after the
//! messages), or never, because the caller disconnected and tonic dropped the handler. All three are handled
//! here, exactly once per call.
//!
//! Within a call's span, `tracing::Span::current().record("volume", id)` adds the volume to all its log lines.

use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ::http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Span, field};

use crate::deadline;
use crate::metrics::Metrics;

/// The layer; created by [`Metrics::layer`].
#[derive(Debug, Clone)]
pub struct CallLayer {
    metrics: Metrics,
}

impl CallLayer {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService { inner, metrics: self.metrics.clone() }
    }
}

/// A service whose calls are observed.
#[derive(Debug, Clone)]
pub struct CallService<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, Req, Res> Service<Request<Req>> for CallService<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Error: Display,
{
    type Response = Response<CallBody<Res>>;
    type Error = S::Error;
    type Future = CallFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let call = Call::begin(request.uri().path(), request.headers(), self.metrics.clone());
        let future = call.span.in_scope(|| self.inner.call(request));
        CallFuture { future, call: Some(call) }
    }
}

pin_project! {
    /// A call in progress.
    pub struct CallFuture<F> {
        #[pin]
        future: F,
        // Passed on to the answer's body.
        call: Option<Call>,
    }
}

impl<F, Res, E> Future for CallFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
    E: Display,
{
    type Output = Result<Response<CallBody<Res>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let span = this.call.as_ref().map_or_else(Span::none, |call| call.span.clone());
        let result = ready!(span.in_scope(|| this.future.poll(context)));
        let mut call = this.call.take();
        Poll::Ready(match result {
            Ok(response) => {
                // Trailers-only: the headers contain the status, and no body follows.
                if let Some(status) = Status::from_header_map(response.headers())
                    && let Some(call) = call.take()
                {
                    call.end(status.code(), status.message());
                }
                Ok(response.map(|body| CallBody { body, call }))
            }
            Err(error) => {
                if let Some(call) = call {
                    call.end(Code::Unknown, &error.to_string());
                }
                Err(error)
            }
        })
    }
}

pin_project! {
    /// An answer being sent; its trailers contain the status of the call.
    pub struct CallBody<B> {
        #[pin]
        body: B,
        call: Option<Call>,
    }
}

impl<B: Default> Default for CallBody<B> {
    fn default() -> Self {
        Self { body: B::default(), call: None }
    }
}

impl<B> Body for CallBody<B>
where
    B: Body,
    B::Error: Display,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let span = this.call.as_ref().map_or_else(Span::none, |call| call.span.clone());
        let frame = ready!(span.in_scope(|| this.body.poll_frame(context)));
        let ended = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().map(|trailers| {
                let status =
                    Status::from_header_map(trailers).unwrap_or_else(|| Status::unknown("no status in the trailers"));
                (status.code(), status.message().to_owned())
            }),
            Some(Err(error)) => Some((Code::Unknown, error.to_string())),
            None => Some((Code::Unknown, "the answer ended without a status".to_owned())),
        };
        if let Some((code, message)) = ended
            && let Some(call) = this.call.take()
        {
            call.end(code, &message);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One call from start to end; the end is recorded exactly once.
#[derive(Debug)]
struct Call {
    method: String,
    span: Span,
    started: Instant,
    /// The caller's timeout, counted from `started`.
    timeout: Option<Duration>,
    metrics: Metrics,
    ended: bool,
}

impl Call {
    fn begin(path: &str, headers: &HeaderMap, metrics: Metrics) -> Self {
        let method = short_name(path);
        let span = tracing::info_span!("call", method = %method, volume = field::Empty);
        let timeout = deadline::of_headers(headers);
        Self { method, span, started: Instant::now(), timeout, metrics, ended: false }
    }

    fn end(mut self, code: Code, message: &str) {
        self.report_end(code, message);
    }

    fn report_end(&mut self, code: Code, message: &str) {
        self.ended = true;
        let took = self.started.elapsed();
        self.metrics.call_ended(&self.method, code, took);
        let (seconds, code) = (took.as_secs_f64(), code_name(code));
        self.span.in_scope(|| match code {
            "OK" => tracing::debug!(code, seconds, "call ended"),
            _ => tracing::info!(code, seconds, reason = message, "call failed"),
        });
    }
}

impl Drop for Call {
    /// The handler or its answer was dropped: the caller no longer waits.
    fn drop(&mut self) {
        if !self.ended {
            match self.timeout {
                // The caller's clock started earlier: the caller may have given up slightly before its time
                // is over here.
                Some(timeout) if self.started.elapsed() >= deadline::wait_for(timeout) => {
                    self.report_end(Code::DeadlineExceeded, "the caller's deadline passed before the answer");
                }
                _ => self.report_end(Code::Cancelled, "the caller disconnected before the answer"),
            }
        }
    }
}

/// `/csi.v1.Node/NodeStageVolume` is `Node/NodeStageVolume`.
fn short_name(path: &str) -> String {
    let path = path.trim_start_matches('/');
    match path.split_once('/') {
        Some((service, method)) => format!("{}/{method}", service.rsplit('.').next().unwrap_or(service)),
        None => path.to_owned(),
    }
}

/// The code's name in gRPC, for example `FAILED_PRECONDITION`.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
