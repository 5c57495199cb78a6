//! An answer as the fake server gives it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use hyper::body::{Body, Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The body of an answer: whole, or as it comes.
pub(crate) enum Answer {
    Whole(Option<Bytes>),
    Stream(mpsc::UnboundedReceiver<io::Result<Bytes>>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(receiver) => receiver.poll_recv(context).map(|next| next.map(|part| part.map(Frame::data))),
        }
    }
}

pub(crate) fn done(object: &Value) -> Response<Answer> {
    Response::new(Answer::Whole(Some(object.to_string().into())))
}

pub(crate) fn stream(receiver: mpsc::UnboundedReceiver<io::Result<Bytes>>) -> Response<Answer> {
    Response::new(Answer::Stream(receiver))
}

pub(crate) fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

pub(crate) fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        _ => "Other",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": reason})
}

pub(crate) fn refusal(code: u16, message: &str) -> Response<Answer> {
    let mut response = done(&status(code, message));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}
