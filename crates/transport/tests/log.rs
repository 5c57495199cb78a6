//! What a call logs. A separate test binary, because tracing's state is global to the process.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use quarry_proto::csi::v1::identity_client::IdentityClient;
use quarry_proto::csi::v1::identity_server::{Identity, IdentityServer};
use quarry_proto::csi::v1::{GetPluginInfoRequest, GetPluginInfoResponse};
use quarry_transport::metrics::Metrics;
use quarry_transport::unix;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Fails if the metadata requests it.
struct Scripted;

#[tonic::async_trait]
impl Identity for Scripted {
    async fn get_plugin_info(
        &self,
        request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        tracing::Span::current().record("volume", "v1-a");
        match request.metadata().get("fail") {
            Some(_) => Err(Status::failed_precondition("a ünicode reason")),
            None => Ok(Response::new(GetPluginInfoResponse::default())),
        }
    }
}

/// The log, for a test to read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_failed_call_is_logged_with_its_volume_and_a_good_one_only_at_debug() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone())
        .finish();
    // The server's tasks run on this thread.
    let _guard = tracing::subscriber::set_default(subscriber);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("csi.sock");
    let server = Server::builder().layer(Metrics::new().layer()).add_service(IdentityServer::new(Scripted));
    tokio::spawn(server.serve_with_incoming(unix::listen(&path).unwrap()));
    let mut client = IdentityClient::new(unix::connect(&path).await.unwrap());
    client.get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
    let mut failing = Request::new(GetPluginInfoRequest {});
    failing.metadata_mut().insert("fail", "1".parse().unwrap());
    client.get_plugin_info(failing).await.unwrap_err();

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let [line] = text.lines().collect::<Vec<_>>()[..] else { panic!("one line was expected:\n{text}") };
    for part in [
        r#""message":"call failed""#,
        r#""code":"FAILED_PRECONDITION""#,
        r#""reason":"a ünicode reason""#,
        r#""method":"Identity/GetPluginInfo""#,
        r#""volume":"v1-a""#,
        r#""seconds":"#,
    ] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
}
