//! The client against a small driver on a real socket: the requests, the output and the errors.

use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use quarry_proto::csi::v1::controller_server::{Controller, ControllerServer};
use quarry_proto::csi::v1::identity_server::{Identity, IdentityServer};
use quarry_proto::csi::v1::node_server::{Node, NodeServer};
use quarry_proto::csi::v1::{self as csi, Volume};
use quarry_transport::unix;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::*;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Records its requests, and returns each volume on a page of its own.
#[derive(Clone, Default)]
pub(crate) struct Driver {
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl Driver {
    fn record<T: std::fmt::Debug>(&self, request: Request<T>) -> T {
        let request = request.into_inner();
        self.asked.lock().unwrap().push(format!("{request:?}"));
        request
    }
}

fn volume(id: &str) -> Volume {
    Volume { volume_id: id.into(), capacity_bytes: 1 << 30, ..Default::default() }
}

fn snapshot(id: &str) -> csi::Snapshot {
    csi::Snapshot { snapshot_id: id.into(), source_volume_id: "v1".into(), size_bytes: 1 << 30, ..Default::default() }
}

/// A service of [`Driver`]: some calls, and UNIMPLEMENTED for the others.
macro_rules! serve {
    ($service:ident { $($calls:tt)* } others: $($call:ident($request:ident) -> $response:ident,)*) => {
        #[tonic::async_trait]
        impl $service for Driver {
            $($calls)*

            $(async fn $call(&self, _: Request<csi::$request>) -> Result<Response<csi::$response>, Status> {
                Err(Status::unimplemented("not in this test"))
            })*
        }
    };
}

serve! {
    Identity {
        async fn get_plugin_capabilities(
            &self,
            _: Request<csi::GetPluginCapabilitiesRequest>,
        ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
            use csi::plugin_capability::{Service, Type, service};
            let service = Service { r#type: service::Type::ControllerService.into() };
            let capabilities = vec![csi::PluginCapability { r#type: Some(Type::Service(service)) }];
            Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities }))
        }
    }
    others:
        get_plugin_info(GetPluginInfoRequest) -> GetPluginInfoResponse,
        probe(ProbeRequest) -> ProbeResponse,
}

serve! {
    Controller {
        async fn create_volume(
            &self,
            request: Request<csi::CreateVolumeRequest>,
        ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
            let request = self.record(request);
            match request.name.as_str() {
                "full" => Err(Status::resource_exhausted("pool fast: 3 extents are free")),
                "slow" => std::future::pending().await,
                name => Ok(Response::new(csi::CreateVolumeResponse { volume: Some(volume(name)) })),
            }
        }

        async fn list_volumes(
            &self,
            request: Request<csi::ListVolumesRequest>,
        ) -> Result<Response<csi::ListVolumesResponse>, Status> {
            let request = self.record(request);
            let (id, next_token) = match request.starting_token.as_str() {
                "" => ("first", "2".to_owned()),
                _ => ("second", String::new()),
            };
            let entries = vec![csi::list_volumes_response::Entry { volume: Some(volume(id)), status: None }];
            Ok(Response::new(csi::ListVolumesResponse { entries, next_token }))
        }

        async fn delete_volume(
            &self,
            request: Request<csi::DeleteVolumeRequest>,
        ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
            self.record(request);
            Ok(Response::new(csi::DeleteVolumeResponse {}))
        }

        async fn create_snapshot(
            &self,
            request: Request<csi::CreateSnapshotRequest>,
        ) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
            let request = self.record(request);
            Ok(Response::new(csi::CreateSnapshotResponse { snapshot: Some(snapshot(&request.name)) }))
        }

        async fn delete_snapshot(
            &self,
            request: Request<csi::DeleteSnapshotRequest>,
        ) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
            self.record(request);
            Ok(Response::new(csi::DeleteSnapshotResponse {}))
        }

        async fn list_snapshots(
            &self,
            request: Request<csi::ListSnapshotsRequest>,
        ) -> Result<Response<csi::ListSnapshotsResponse>, Status> {
            let request = self.record(request);
            let (id, next_token) = match request.starting_token.as_str() {
                "" => ("first", "2".to_owned()),
                _ => ("second", String::new()),
            };
            let entries = vec![csi::list_snapshots_response::Entry { snapshot: Some(snapshot(id)) }];
            Ok(Response::new(csi::ListSnapshotsResponse { entries, next_token }))
        }
    }
    others:
        controller_publish_volume(ControllerPublishVolumeRequest) -> ControllerPublishVolumeResponse,
        controller_unpublish_volume(ControllerUnpublishVolumeRequest) -> ControllerUnpublishVolumeResponse,
        validate_volume_capabilities(ValidateVolumeCapabilitiesRequest) -> ValidateVolumeCapabilitiesResponse,
        controller_list_volume_health(ControllerListVolumeHealthRequest) -> ControllerListVolumeHealthResponse,
        controller_get_volume_health(ControllerGetVolumeHealthRequest) -> ControllerGetVolumeHealthResponse,
        get_capacity(GetCapacityRequest) -> GetCapacityResponse,
        controller_get_capabilities(ControllerGetCapabilitiesRequest) -> ControllerGetCapabilitiesResponse,
        get_snapshot(GetSnapshotRequest) -> GetSnapshotResponse,
        controller_expand_volume(ControllerExpandVolumeRequest) -> ControllerExpandVolumeResponse,
        controller_get_volume(ControllerGetVolumeRequest) -> ControllerGetVolumeResponse,
        controller_modify_volume(ControllerModifyVolumeRequest) -> ControllerModifyVolumeResponse,
}

serve! {
    Node {
        async fn node_publish_volume(
            &self,
            request: Request<csi::NodePublishVolumeRequest>,
        ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
            self.record(request);
            Ok(Response::new(csi::NodePublishVolumeResponse {}))
        }

        async fn node_get_volume_stats(
            &self,
            _: Request<csi::NodeGetVolumeStatsRequest>,
        ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
            use csi::volume_usage::Unit;
            let usage = |unit: Unit, total| csi::VolumeUsage { available: 1, total, used: total - 1, unit: unit.into() };
            let usage = vec![usage(Unit::Bytes, 1 << 20), usage(Unit::Inodes, 4096)];
            Ok(Response::new(csi::NodeGetVolumeStatsResponse { usage }))
        }
    }
    others:
        node_stage_volume(NodeStageVolumeRequest) -> NodeStageVolumeResponse,
        node_unstage_volume(NodeUnstageVolumeRequest) -> NodeUnstageVolumeResponse,
        node_unpublish_volume(NodeUnpublishVolumeRequest) -> NodeUnpublishVolumeResponse,
        node_get_volume_health(NodeGetVolumeHealthRequest) -> NodeGetVolumeHealthResponse,
        node_get_storage_health(NodeGetStorageHealthRequest) -> NodeGetStorageHealthResponse,
        node_expand_volume(NodeExpandVolumeRequest) -> NodeExpandVolumeResponse,
        node_get_capabilities(NodeGetCapabilitiesRequest) -> NodeGetCapabilitiesResponse,
        node_get_info(NodeGetInfoRequest) -> NodeGetInfoResponse,
}

fn read(path: &Path, line: &str) -> Args {
    let endpoint = format!("unix://{}", path.display());
    let words = ["csi", "--endpoint", &endpoint].into_iter().map(str::to_owned);
    Line::try_parse_from(words.chain(line.split_whitespace().map(str::to_owned))).unwrap().args
}

/// Starts a driver, makes one call, and returns the output (or the error) and the recorded requests.
async fn try_line(line: &str) -> (Result<String, String>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("csi.sock");
    let driver = Driver::default();
    let server = Server::builder()
        .add_service(IdentityServer::new(driver.clone()))
        .add_service(ControllerServer::new(driver.clone()))
        .add_service(NodeServer::new(driver.clone()));
    let server = tokio::spawn(server.serve_with_incoming(unix::listen(&path).unwrap()));
    let printed = run(read(&path, line)).await.map_err(|error| format!("{error:#}"));
    server.abort();
    let asked = driver.asked.lock().unwrap().clone();
    (printed, asked)
}

#[tokio::test]
async fn create_sends_the_flags_and_prints_the_volume() {
    let (printed, asked) = try_line(
        "create v1 --size 1Gi --limit 2Gi --param pool=fast --param a=b=c --fs xfs --mount-option noatime \
         --segment t/node=n1 --access single-node-multi-writer",
    )
    .await;
    assert!(printed.unwrap().starts_with("volume_id: v1\ncapacity_bytes: 1073741824 (1 GiB)\n"));
    let [request] = asked.as_slice() else { panic!("{asked:?}") };
    for part in [
        "required_bytes: 1073741824",
        "limit_bytes: 2147483648",
        r#"{"a": "b=c", "pool": "fast"}"#,
        r#"fs_type: "xfs""#,
        r#"["noatime"]"#,
        "SingleNodeMultiWriter",
        r#"requisite: [Topology { segments: {"t/node": "n1"} }]"#,
    ] {
        assert!(request.contains(part), "{part} is missing in {request}");
    }
}

#[tokio::test]
async fn json_output_is_one_document() {
    let (printed, _) = try_line("-o json create v1").await;
    let printed: Value = serde_json::from_str(&printed.unwrap()).unwrap();
    assert_eq!(printed["volume_id"], "v1");
    assert_eq!(printed["capacity_bytes"], 1 << 30);
    let (printed, asked) = try_line("publish v1 --target-path /t --readonly --block -o json").await;
    assert_eq!(printed.unwrap(), "{}\n");
    assert!(asked[0].contains("readonly: true") && asked[0].contains("Block"), "{asked:?}");
}

#[tokio::test]
async fn list_follows_the_pages() {
    let (printed, asked) = try_line("list --page 1").await;
    let printed = printed.unwrap();
    assert!(
        printed.starts_with("VOLUME ID") && printed.contains("\nfirst ") && printed.contains("\nsecond "),
        "{printed}"
    );
    assert_eq!(asked.len(), 2);
}

#[tokio::test]
async fn snapshots_are_taken_listed_and_deleted() {
    let (printed, asked) = try_line("snapshot create s1 --source v1 --param cowSize=20%").await;
    assert!(printed.unwrap().starts_with("snapshot_id: s1\nsource_volume_id: v1\nsize_bytes: 1073741824 (1 GiB)\n"));
    for part in [r#"source_volume_id: "v1""#, r#"name: "s1""#, r#"{"cowSize": "20%"}"#] {
        assert!(asked[0].contains(part), "{part} is missing in {}", asked[0]);
    }
    let (printed, asked) = try_line("snapshot list --source v1 --id s1 --page 1").await;
    let printed = printed.unwrap();
    assert!(printed.contains("\nfirst ") && printed.contains("\nsecond "), "{printed}");
    assert_eq!(asked.len(), 2);
    for part in [r#"source_volume_id: "v1""#, r#"snapshot_id: "s1""#, "max_entries: 1"] {
        assert!(asked[1].contains(part), "{part} is missing in {}", asked[1]);
    }
    assert_eq!(try_line("snapshot delete s1").await.0.unwrap(), "deleted s1\n");
    assert!(try_line("snapshot get s1").await.0.unwrap_err().starts_with("UNIMPLEMENTED: "));

    for (flag, kind) in [("--from-snapshot", "Snapshot(SnapshotSource"), ("--from-volume", "Volume(VolumeSource")] {
        let (_, asked) = try_line(&format!("create v2 {flag} x1")).await;
        assert!(asked[0].contains(kind) && asked[0].contains(r#""x1""#), "{asked:?}");
    }
}

#[tokio::test]
async fn stats_and_capabilities_are_readable() {
    let (printed, _) = try_line("stats v1 --path /t").await;
    let expected = "bytes:\n  available: 1\n  total: 1048576 (1 MiB)\n  used: 1048575 (1023.99 KiB)\n\
                    inodes:\n  available: 1\n  total: 4096\n  used: 4095\n";
    assert_eq!(printed.unwrap(), expected);
    // The driver answers UNIMPLEMENTED for two of the three.
    let (printed, _) = try_line("capabilities").await;
    assert_eq!(printed.unwrap(), "plugin: CONTROLLER_SERVICE\ncontroller: -\nnode: -\n");
}

#[tokio::test]
async fn an_error_is_one_line_with_its_code() {
    let (refused, _) = try_line("create full").await;
    assert_eq!(refused.unwrap_err(), "RESOURCE_EXHAUSTED: pool fast: 3 extents are free");
    let (unknown, _) = try_line("get v1").await;
    assert!(unknown.unwrap_err().starts_with("UNIMPLEMENTED: "));
    let (late, _) = try_line("--timeout 0.2 create slow").await;
    assert!(late.unwrap_err().starts_with("DEADLINE_EXCEEDED: no answer within 0.2 s"));
    let refused = run(read(Path::new("/nonexistent/csi.sock"), "identity")).await.unwrap_err().to_string();
    assert!(refused.starts_with("UNAVAILABLE: cannot connect to /nonexistent/csi.sock: "), "{refused}");
}

#[tokio::test]
async fn a_volume_is_published_for_one_use() {
    let (refused, asked) = try_line("publish v1 --target-path /t --fs ext4 --block").await;
    assert!(refused.unwrap_err().contains("either --fs or --block"));
    assert!(asked.is_empty());
}

#[test]
fn values_are_checked() {
    assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
    assert_eq!(pair("a="), Ok(("a".into(), String::new())));
    assert!(pair("a").is_err() && pair("=b").is_err());
    assert_eq!(size("1Gi"), Ok(1 << 30));
    assert_eq!(size("9223372036854775807"), Ok(i64::MAX));
    assert!(size("9223372036854775808").is_err() && size("1.5Gi").is_err() && size("-1").is_err());
    assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    for bad in ["0", "-1", "inf", "nan", "1e9", "soon"] {
        assert!(seconds(bad).is_err(), "{bad}");
    }
}
