use std::os::unix::net::UnixListener;
use std::time::Instant;

use quarry_proto::pluginregistration::v1::registration_client::RegistrationClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::*;

const DRIVER: &str = "local.csi.quarry.dev";
const CSI: &str = "/var/lib/kubelet/plugins/local.csi.quarry.dev/csi.sock";

/// A registration in a folder, and the socket.
fn registration(folder: &Path) -> (Registration, PathBuf) {
    (Registration::new(DRIVER, CSI, folder), folder.join("local.csi.quarry.dev@reg.sock"))
}

/// A client as in kubelet: its authority is the percent-encoded path.
async fn kubelet(socket: &Path) -> RegistrationClient<Channel> {
    let authority = socket.to_str().unwrap().replace('/', "%2F");
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).unwrap();
    let began = Instant::now();
    loop {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(UnixStream::connect(path).await?)) }
        });
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => return RegistrationClient::new(channel),
            Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn notify(client: &mut RegistrationClient<Channel>, error: &str) {
    let status = api::RegistrationStatus { plugin_registered: error.is_empty(), error: error.to_owned() };
    client.notify_registration_status(status).await.unwrap();
}

#[tokio::test]
async fn kubelet_is_answered_and_its_result_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (registration, socket) = registration(folder.path());
    let stop = CancellationToken::new();
    let server = tokio::spawn(registration.clone().serve(stop.clone()));

    let mut client = kubelet(&socket).await;
    let info = client.get_info(api::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str(), info.endpoint.as_str()), ("CSIPlugin", DRIVER, CSI));
    assert_eq!(info.supported_versions, ["1.0.0"]);
    assert!(registration.problem().unwrap().contains("has not registered"));

    notify(&mut client, "no such version").await;
    assert!(registration.problem().unwrap().contains("no such version") && !registration.is_registered());
    notify(&mut client, "").await;
    assert!(registration.problem().is_none() && registration.is_registered());

    drop(client);
    stop.cancel();
    server.await.unwrap().unwrap();
    assert!(socket.exists(), "kubelet would remove the driver from the CSINode");
}

#[tokio::test]
async fn a_removed_socket_comes_back_and_a_dead_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (registration, socket) = registration(folder.path());
    drop(UnixListener::bind(&socket).unwrap());
    let server = tokio::spawn(registration.clone().serve(CancellationToken::new()));
    notify(&mut kubelet(&socket).await, "").await;
    assert!(registration.is_registered());

    // Sockets of other plugins change nothing.
    drop(UnixListener::bind(folder.path().join("other-reg.sock")).unwrap());
    std::fs::remove_file(folder.path().join("other-reg.sock")).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(registration.is_registered());

    std::fs::remove_file(&socket).unwrap();
    let mut client = kubelet(&socket).await;
    assert!(!registration.is_registered(), "kubelet has not answered on the new socket");
    notify(&mut client, "").await;
    assert!(registration.is_registered());
    server.abort();
}

#[tokio::test]
async fn a_registrars_socket_does_not_take_the_driver_away() {
    let folder = tempfile::tempdir().unwrap();
    let (registration, socket) = registration(folder.path());
    let registrar = folder.path().join("local.csi.quarry.dev-reg.sock");
    drop(UnixListener::bind(&registrar).unwrap());
    let server = tokio::spawn(registration.clone().serve(CancellationToken::new()));
    notify(&mut kubelet(&socket).await, "").await;
    assert!(!registrar.exists(), "a dead one is removed before the driver is registered");

    // A live one stays. When it ends, kubelet removes the driver.
    let live = UnixListener::bind(&registrar).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(registration.is_registered());
    drop(live);
    std::fs::remove_file(&registrar).unwrap();
    let began = Instant::now();
    while registration.is_registered() {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let registered_again = async {
        loop {
            // The first socket may answer until it is replaced.
            notify(&mut kubelet(&socket).await, "").await;
            if registration.is_registered() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), registered_again).await.unwrap();
    server.abort();
}

#[tokio::test]
async fn a_socket_that_cannot_come_back_is_a_problem_and_not_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (registration, socket) = registration(folder.path());
    let server = tokio::spawn(registration.clone().serve(CancellationToken::new()));
    drop(kubelet(&socket).await);
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "not a socket").unwrap();
    let began = Instant::now();
    while !registration.problem().is_some_and(|problem| problem.contains("is not a socket")) {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!server.is_finished());
    server.abort();
}

#[tokio::test]
async fn a_second_driver_of_the_same_name_and_a_missing_folder_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (registration, socket) = registration(folder.path());
    let _other = UnixListener::bind(&socket).unwrap();
    let error = registration.serve(CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.contains("another process answers") && error.contains("@reg.sock"), "{error}");

    let missing = Registration::new(DRIVER, CSI, &folder.path().join("absent"));
    let error = missing.serve(CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.contains("absent") && error.contains("registering with kubelet"), "{error}");
}
