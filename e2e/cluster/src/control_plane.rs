//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler as plain processes of this machine, on
//! its loopback interface. This is the fastest way, and changes nothing on the host except one folder.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quarry_vm::{Daemon, HOST};
use serde_json::json;

use crate::binaries::Binaries;
use crate::egress::Egress;
use crate::kubeconfig;
use crate::kubectl::Kubectl;
use crate::pki::Authority;

/// The address of the Service `kubernetes`: the first of the range below.
pub(crate) const SERVICE: &str = "10.96.0.1";
const SERVICES: &str = "10.96.0.0/16";

/// How long the control plane may take to come up.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running control plane.
pub(crate) struct ControlPlane {
    // In the order in which they end.
    daemons: Vec<Daemon>,
    pub(crate) egress: Egress,
    pub(crate) authority: Authority,
    /// The port of the API server, on this machine's loopback interface and, for guests, on [`HOST`].
    pub(crate) port: u16,
    /// kubectl for the cluster's administrator.
    pub(crate) kubectl: Kubectl,
    folder: PathBuf,
}

impl ControlPlane {
    /// Starts a control plane with its files in `folder`, and waits until it serves.
    pub(crate) async fn start(binaries: &Binaries, folder: &Path) -> Result<Self> {
        let authority = Authority::create(&folder.join("pki"))?;
        let socket = folder.join("egress.sock");
        let egress = Egress::listen(&socket)?;
        let [client, peer, port] = free_ports()?;
        let log = |name: &str| folder.join(format!("{name}.log"));
        let mut daemons = vec![Daemon::start(&binaries.etcd, etcd(folder, client, peer), log("etcd"))?];

        let arguments = apiserver(&authority, folder, &socket, client, port)?;
        daemons.push(Daemon::start(&binaries.apiserver, arguments, log("kube-apiserver"))?);
        let server = format!("https://127.0.0.1:{port}");
        let admin = authority.client("admin", "admin", Some("system:masters"))?;
        let kubeconfig = folder.join("kubeconfig");
        write(&kubeconfig, &kubeconfig::text(&server, &authority, "admin", &admin)?)?;
        let kubectl = Kubectl::new(&binaries.kubectl, &kubeconfig);
        ready(&kubectl, &mut daemons).await?;

        for (program, name) in
            [(&binaries.controller_manager, "controller-manager"), (&binaries.scheduler, "scheduler")]
        {
            let user = format!("system:kube-{name}");
            let config = folder.join(format!("{name}.kubeconfig"));
            let pair = authority.client(name, &user, None)?;
            write(&config, &kubeconfig::text(&server, &authority, &user, &pair)?)?;
            let mut arguments = vec![
                format!("--kubeconfig={}", config.display()),
                format!("--authentication-kubeconfig={}", config.display()),
                format!("--authorization-kubeconfig={}", config.display()),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                "--secure-port=0".to_owned(),
            ];
            if name == "controller-manager" {
                let (key, _) = authority.tokens();
                arguments.extend([
                    format!("--root-ca-file={}", authority.certificate().display()),
                    format!("--service-account-private-key-file={}", key.display()),
                    "--use-service-account-credentials=true".to_owned(),
                ]);
            }
            daemons.push(Daemon::start(program, arguments, log(&format!("kube-{name}")))?);
        }
        daemons.reverse();
        Ok(Self { daemons, egress, authority, port, kubectl, folder: folder.to_owned() })
    }

    /// The address of the API server as guests reach it.
    pub(crate) fn for_guests(&self) -> String {
        format!("https://{HOST}:{}", self.port)
    }

    /// The path of the administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Fails if a part of it has exited.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::check)
    }
}

fn etcd(folder: &Path, client: u16, peer: u16) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // The control plane of a test never loses its power.
        "--unsafe-no-fsync=true".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn apiserver(authority: &Authority, folder: &Path, egress: &Path, etcd: u16, port: u16) -> Result<Vec<String>> {
    let host = HOST.to_string();
    let names = [
        "localhost",
        "127.0.0.1",
        &host,
        SERVICE,
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let serving = authority.server("apiserver", "kube-apiserver", &names)?;
    let kubelets = authority.client("apiserver-kubelet", "kube-apiserver", Some("system:masters"))?;
    let (signing, checking) = authority.tokens();
    let selector = folder.join("egress.json");
    let transport = json!({ "uds": { "udsName": egress } });
    let selection =
        json!({ "name": "cluster", "connection": { "proxyProtocol": "HTTPConnect", "transport": transport } });
    let selector_text = json!({
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [selection],
    });
    write(&selector, &selector_text.to_string())?;
    let authority = authority.certificate();
    let mut arguments = vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        // Where pods find it: the endpoint of the Service `kubernetes`.
        format!("--advertise-address={host}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
    ];
    for (option, file) in [
        ("tls-cert-file", &serving.certificate),
        ("tls-private-key-file", &serving.key),
        ("client-ca-file", &authority),
        ("service-account-signing-key-file", &signing),
        ("service-account-key-file", &checking),
        ("kubelet-client-certificate", &kubelets.certificate),
        ("kubelet-client-key", &kubelets.key),
        ("kubelet-certificate-authority", &authority),
        ("egress-selector-config-file", &selector),
    ] {
        arguments.push(format!("--{option}={}", file.display()));
    }
    Ok(arguments)
}

/// Waits until the API server says that it is ready.
async fn ready(kubectl: &Kubectl, daemons: &mut [Daemon]) -> Result<()> {
    let began = Instant::now();
    loop {
        daemons.iter_mut().try_for_each(Daemon::check)?;
        let Err(error) = kubectl.run(["get", "--raw", "/readyz"]).await else { return Ok(()) };
        if began.elapsed() > PATIENCE {
            bail!("the API server is not ready after {PATIENCE:?}: {error:#}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Ports that were free a moment ago. A program that finds one in use reports it and exits.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port on the loopback interface")?;
        *port = listener.local_addr().context("no free port on the loopback interface")?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
