//! One version apart: messages as bytes, with their numbers, and what an older or a newer peer leaves out or adds.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use prost::bytes::{Buf as _, BufMut as _, Bytes};
use quarry_agent::RemoteAgent;
use quarry_proto::agent::v1;
use quarry_proto::agent::v1::agent_server::AgentServer;
use quarry_proto::volume::v1 as volume_v1;
use quarry_volume::{Agent as _, Change, FencingToken, Reason};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::NamedService;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Response, Status};

use crate::common::{Asked, Fake, NODE, WAIT, id, node, snapshot_id, snapshot_spec, spec, volume, wire};

/// Messages as they are, in bytes.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// One field: a number and its bytes.
fn text(number: u8, text: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(text.len()).unwrap()], text].concat()
}

/// One field with a number from 16 on.
fn long(number: u16, text: &[u8]) -> Vec<u8> {
    let [high, low] = (number << 3 | 2).to_be_bytes();
    let key = [low | 0x80, high << 1 | low >> 7];
    [&key[..], &[u8::try_from(text.len()).unwrap()], text].concat()
}

fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// Fields that no version has yet: 2000 with a text, 2001 with a number.
const NEWER: &[u8] = &[0x82, 0x7d, 3, b'n', b'e', b'w', 0x88, 0x7d, 5];

/// Calls a node with hand-made bytes; the answer's bytes.
async fn call(fake: Fake, path: &'static str, message: Vec<u8>) -> (crate::common::Node, Result<Bytes, Status>) {
    let (here, there) = wire();
    let node = node(fake, there);
    let mut here = Some(hyper_util::rt::TokioIo::new(here));
    let connect = tower::service_fn(move |_| {
        let io = here.take().ok_or_else(|| std::io::Error::other("one connection only"));
        async move { io }
    });
    let channel = Endpoint::from_static("http://n").connect_with_connector(connect).await.unwrap();
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = client.unary(Request::new(Bytes::from(message)), path, Raw).await;
    (node, answer.map(Response::into_inner))
}

#[tokio::test]
async fn a_newer_controllers_request_is_understood() {
    let volume = [
        text(1, b"x"),
        // 1 GiB and 2 GiB as varints.
        vec![2 << 3, 0x80, 0x80, 0x80, 0x80, 0x04],
        vec![3 << 3, 0x80, 0x80, 0x80, 0x80, 0x08],
        text(4, b"fast"),
        number(5, 1),
        text(6, b"ext4"),
        text(7, b"s2.65536"),
        text(8, b"-m 0"),
        text(9, b"discard"),
        text(10, b"periodic"),
        // 1 MiB and 500 as varints.
        text(11, &[2 << 3, 0x80, 0x80, 0x40, 4 << 3, 0xf4, 0x03]),
        number(12, 1),
        text(13, b"luks2"),
        long(30, id("a").to_string().as_bytes()),
        NEWER.to_vec(),
    ]
    .concat();
    let token = [number(1, 4), text(2, b"run-1"), NEWER.to_vec()].concat();
    let request = [text(1, b"n-1"), text(2, &volume), text(3, &token), NEWER.to_vec()].concat();
    let (node, answer) = call(Fake::new(), "/quarry.agent.v1.Agent/CreateVolume", request).await;
    answer.unwrap();
    let asked = Asked::Create(spec("x"), Some(FencingToken { fence: 4, instance: "run-1".into() }));
    assert_eq!(*node.fake.asked.lock().unwrap(), [asked]);
}

/// Golden: the numbers of the fields are what versions agree on.
#[tokio::test]
async fn the_answers_bytes_are_frozen() {
    let message = [text(1, NODE.as_bytes()), text(2, id("a").to_string().as_bytes())].concat();
    let (_node, answer) = call(Fake::new(), "/quarry.agent.v1.Agent/GetVolume", message).await;
    let volume = [
        text(1, id("a").to_string().as_bytes()),
        text(2, b"asked-a"),
        vec![3 << 3, 0x80, 0x80, 0x80, 0x80, 0x04],
        text(4, b"fast"),
        number(5, 3),
        text(6, b"xfs"),
        text(7, b"r1.1"),
        number(8, 1),
        text(9, b"a disk is missing"),
        number(10, 2),
        text(11, &[1 << 3, 0x80, 0x80, 0x40, 3 << 3, 3]),
        text(12, b"luks2"),
        text(13, b"no"),
        long(30, snapshot_id("t").to_string().as_bytes()),
        long(31, &[number(1, 3), number(2, 4)].concat()),
    ]
    .concat();
    assert_eq!(answer.unwrap(), text(1, &volume));
    let message = [text(1, NODE.as_bytes()), text(2, snapshot_id("s").to_string().as_bytes())].concat();
    let (_node, answer) = call(Fake::new(), "/quarry.agent.v1.Agent/GetSnapshot", message).await;
    let snapshot = [
        text(1, snapshot_id("s").to_string().as_bytes()),
        text(2, b"asked-s"),
        text(3, id("a").to_string().as_bytes()),
        vec![4 << 3, 0x80, 0x80, 0x80, 0x80, 0x04],
        text(5, b"fast"),
        number(6, 100),
        number(7, 1),
        vec![8 << 3, 0x80, 0x80, 0x80, 0x80, 0x04],
        text(9, b"it became full"),
        number(10, 3),
        text(11, b"copy"),
        text(12, &[number(1, 3), number(2, 4)].concat()),
    ]
    .concat();
    assert_eq!(answer.unwrap(), text(1, &snapshot));
}

#[tokio::test]
async fn requests_without_node_or_volume_are_rejected() {
    for (path, message, code) in [
        ("/quarry.agent.v1.Agent/CreateVolume", vec![], Code::Unavailable),
        ("/quarry.agent.v1.Agent/CreateVolume", text(1, b"n-1"), Code::InvalidArgument),
        ("/quarry.agent.v1.Agent/DeleteVolume", text(1, b"n-1"), Code::InvalidArgument),
        // A later form of identifier: not "it does not exist".
        ("/quarry.agent.v1.Agent/DeleteVolume", [text(1, b"n-1"), text(2, b"v2:x")].concat(), Code::InvalidArgument),
        ("/quarry.agent.v1.Agent/FindVolume", text(1, b"n-1"), Code::InvalidArgument),
        ("/quarry.agent.v1.Agent/ModifyVolume", vec![], Code::Unavailable),
        ("/quarry.agent.v1.Agent/ModifyVolume", text(1, b"n-1"), Code::InvalidArgument),
        ("/quarry.agent.v1.Agent/CreateSnapshot", vec![], Code::Unavailable),
        ("/quarry.agent.v1.Agent/CreateSnapshot", text(1, b"n-1"), Code::InvalidArgument),
        ("/quarry.agent.v1.Agent/DeleteSnapshot", text(1, b"n-1"), Code::InvalidArgument),
        ("/quarry.agent.v1.Agent/DeleteSnapshot", [text(1, b"n-1"), text(2, b"s2:x")].concat(), Code::InvalidArgument),
        ("/quarry.agent.v1.Agent/GetSnapshot", text(1, b"n-1"), Code::InvalidArgument),
        ("/quarry.agent.v1.Agent/GrowVolume", text(1, b"n-1"), Code::Unimplemented),
    ] {
        let (node, answer) = call(Fake::new(), path, message.clone()).await;
        assert_eq!(answer.unwrap_err().code(), code, "{path} {message:?}");
        assert_eq!(*node.fake.asked.lock().unwrap(), []);
    }
}

/// A node that leaves out whatever can be left out, and does not have the other calls.
struct Sparse;

#[tonic::async_trait]
impl v1::agent_server::Agent for Sparse {
    async fn create_volume(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::CreateVolumeResponse>, Status> {
        let id = Some(id("a").to_string()).filter(|_| request.get_ref().token.is_none());
        let volume = volume_v1::Volume { id: id.unwrap_or_default(), ..volume_v1::Volume::default() };
        Ok(Response::new(v1::CreateVolumeResponse { volume: Some(volume), change: None }))
    }

    async fn delete_volume(
        &self,
        _: Request<v1::DeleteVolumeRequest>,
    ) -> Result<Response<v1::DeleteVolumeResponse>, Status> {
        Ok(Response::new(v1::DeleteVolumeResponse::default()))
    }

    async fn get_volume(&self, _: Request<v1::GetVolumeRequest>) -> Result<Response<v1::GetVolumeResponse>, Status> {
        Ok(Response::new(v1::GetVolumeResponse::default()))
    }

    async fn find_volume(&self, _: Request<v1::FindVolumeRequest>) -> Result<Response<v1::FindVolumeResponse>, Status> {
        let volume = volume_v1::Volume { id: "v2:from a later version".into(), ..volume_v1::Volume::default() };
        Ok(Response::new(v1::FindVolumeResponse { instance: String::new(), volume: Some(volume) }))
    }

    async fn expand_volume(
        &self,
        _: Request<v1::ExpandVolumeRequest>,
    ) -> Result<Response<v1::ExpandVolumeResponse>, Status> {
        Ok(Response::new(v1::ExpandVolumeResponse::default()))
    }

    async fn modify_volume(
        &self,
        _: Request<v1::ModifyVolumeRequest>,
    ) -> Result<Response<v1::ModifyVolumeResponse>, Status> {
        Err(Status::unimplemented("an older node"))
    }

    async fn create_snapshot(
        &self,
        _: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<v1::CreateSnapshotResponse>, Status> {
        Ok(Response::new(v1::CreateSnapshotResponse::default()))
    }

    async fn delete_snapshot(
        &self,
        _: Request<v1::DeleteSnapshotRequest>,
    ) -> Result<Response<v1::DeleteSnapshotResponse>, Status> {
        Err(Status::unimplemented("an older node"))
    }

    async fn get_snapshot(
        &self,
        _: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        let snapshot = volume_v1::Snapshot { id: "s2:from a later version".into(), ..volume_v1::Snapshot::default() };
        Ok(Response::new(v1::GetSnapshotResponse { snapshot: Some(snapshot) }))
    }

    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("an older node"))
    }
}

#[tokio::test]
async fn fields_that_an_older_node_omits_stay_unset() {
    let (here, there) = wire();
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(there));
    tokio::spawn(Server::builder().add_service(AgentServer::new(Sparse)).serve_with_incoming(incoming));
    let agent = RemoteAgent::over(here, NODE).await.unwrap();

    let (made, change) = agent.create(spec("a"), None, WAIT).await.unwrap();
    assert_eq!((made.id, made.access, made.filesystem, made.layout), (volume("a").id, None, None, None));
    assert_eq!(change, Change::default());
    assert_eq!(agent.delete(&id("a"), WAIT).await.unwrap(), Change::default());

    // Without a parsable volume there is no success, no "not found", and no final error: the call may have succeeded.
    let token = Some(FencingToken { fence: 1, instance: String::new() });
    assert_eq!(agent.create(spec("a"), token, WAIT).await.unwrap_err().reason, Reason::Unavailable);
    assert_eq!(agent.get(&id("a"), WAIT).await.unwrap_err().reason, Reason::Unavailable);
    assert_eq!(agent.find("a", 1, WAIT).await.unwrap_err().reason, Reason::Unavailable);
    assert_eq!(agent.create_snapshot(snapshot_spec("s"), WAIT).await.unwrap_err().reason, Reason::Unavailable);
    assert_eq!(agent.get_snapshot(&snapshot_id("s"), WAIT).await.unwrap_err().reason, Reason::Unavailable);
    // Calls that it does not have.
    assert_eq!(agent.delete_snapshot(&snapshot_id("s"), WAIT).await.unwrap_err().reason, Reason::Unsupported);
    assert_eq!(agent.watch().await.map(drop).unwrap_err().reason, Reason::Unsupported);
}

/// A node that answers every call with these bytes.
#[derive(Clone)]
struct Answers(Result<Bytes, Status>);

impl NamedService for Answers {
    const NAME: &'static str = "quarry.agent.v1.Agent";
}

impl tower::Service<http::Request<Body>> for Answers {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self(answer) = self.clone();
        let answer = tower::service_fn(move |_: Request<Bytes>| std::future::ready(answer.clone().map(Response::new)));
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).unary(answer, request).await) })
    }
}

async fn that_answers(answer: Result<Bytes, Status>) -> RemoteAgent {
    let (here, there) = wire();
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(there));
    tokio::spawn(Server::builder().add_service(Answers(answer)).serve_with_incoming(incoming));
    RemoteAgent::over(here, NODE).await.unwrap()
}

/// tonic's codes for these are INTERNAL and OUT_OF_RANGE. From a node, both would mean that it has no volume.
#[tokio::test]
async fn an_answer_that_cannot_be_read_is_not_final() {
    for (bytes, why) in [
        (vec![0xff; 3], "failed to decode"),
        // A message that ends too early.
        (vec![1 << 3 | 2, 100], "failed to decode"),
        (vec![0; (4 << 20) + 1], "decoded message length too large"),
    ] {
        let agent = that_answers(Ok(bytes.into())).await;
        let errors = [
            ("CreateVolume", agent.create(spec("a"), None, WAIT).await.unwrap_err()),
            ("DeleteVolume", agent.delete(&id("a"), WAIT).await.unwrap_err()),
            ("CreateSnapshot", agent.create_snapshot(snapshot_spec("s"), WAIT).await.unwrap_err()),
        ];
        for (call, error) in errors {
            assert_eq!(error.reason, Reason::Unavailable, "{error}");
            let start = format!("node n-1: the answer to {call} cannot be read: ");
            assert!(error.message.starts_with(&start) && error.message.contains(why), "{error}");
        }
    }
    // The node's own words are, also those of an older node.
    for (status, reason) in [
        (Status::internal("failed to decode the disk"), Reason::Host),
        (Status::out_of_range("too large"), Reason::SizeOutOfRange),
        (Status::not_found("no source"), Reason::NotFound),
    ] {
        let error = that_answers(Err(status.clone())).await.create(spec("a"), None, WAIT).await.unwrap_err();
        assert_eq!((error.reason, error.message.as_str()), (reason, status.message()));
    }
}
