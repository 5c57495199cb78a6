//! A node of the cluster: a virtual machine with containerd and kubelet.
//!
//! Pods get addresses of 10.244.N.0/24 behind a bridge of the node, from the usual CNI plugins, and reach
//! those of other nodes by static routes. Services are not translated, except for two rules for the one that
//! pods need, `kubernetes`.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quarry_vm::{Config, Disk, HOST, Network, Preparation, Shape, System, Vm};
use serde_json::json;

use crate::containerd;
use crate::control_plane::{ControlPlane, SERVICE};
use crate::kubeconfig;

/// kubelet's port.
const KUBELET: u16 = 10250;
/// How long a program in the guest may take to come up.
const PATIENCE: Duration = Duration::from_secs(600);

/// A node.
pub struct Worker {
    /// Its machine.
    pub vm: Vm,
    /// Its name in Kubernetes.
    pub name: String,
    /// The number of disks besides the root disk.
    pub disks: usize,
    number: u8,
    /// How many nodes there are, for the routes among them.
    nodes: u8,
    port: u16,
}

impl Worker {
    /// Starts the machine, with these disks, puts everything in its place and starts containerd. kubelet does not run
    /// yet.
    pub(crate) async fn start(
        control: &ControlPlane,
        preparations: &[Preparation],
        network: &Network,
        number: u8,
        nodes: u8,
        disks: Vec<Disk>,
        system: System,
    ) -> Result<Self> {
        let name = format!("node-{number}");
        // Several guests share few processors: with two processors, a guest that waits for its second one
        // makes no progress.
        let mut config = Config::new(&name)
            .system(system)
            .network(network, number)
            .shape(Shape { memory: 2048, ..Shape::default() });
        let count = disks.len();
        config.disks = disks;
        config.preparations = preparations.to_vec();
        let vm = Vm::start(config).await?;
        let worker = Self { vm, name, disks: count, number, nodes, port: control.port };
        worker.install(control).await.with_context(|| format!("cannot prepare {}", worker.name))?;
        worker.boot().await?;
        control.egress.add(IpAddr::V4(Network::address(number)), worker.vm.guest());
        Ok(worker)
    }

    /// Puts certificates and configuration where they belong.
    async fn install(&self, control: &ControlPlane) -> Result<()> {
        let user = format!("system:node:{}", self.name);
        let client = control.authority.client(&self.name, &user, Some("system:nodes"))?;
        let address = Network::address(self.number).to_string();
        let serving =
            control.authority.server(&format!("{}-serving", self.name), &self.name, &[&self.name, &address])?;
        let kubeconfig = kubeconfig::text(&control.for_guests(), &control.authority, &user, &client)?;
        self.vm.write("/etc/kubernetes/kubeconfig", kubeconfig.as_bytes(), 0o600).await?;
        for (local, remote) in [
            (&control.authority.certificate(), "/etc/kubernetes/ca.crt"),
            (&serving.certificate, "/etc/kubernetes/kubelet.crt"),
            (&serving.key, "/etc/kubernetes/kubelet.key"),
        ] {
            self.vm.push(local, remote, 0o600).await?;
        }
        for (remote, text) in [
            ("/etc/kubernetes/kubelet.json", kubelet().to_string()),
            ("/etc/cni/net.d/10-bridge.conflist", cni(self.number).to_string()),
            // containerd gives each pod a copy.
            ("/etc/hosts", "127.0.0.1 localhost\n".to_owned()),
        ] {
            self.vm.write(remote, text.as_bytes(), 0o644).await?;
        }
        Ok(())
    }

    /// What a host does when it boots: routes, rules, containerd.
    pub(crate) async fn boot(&self) -> Result<()> {
        let mut script = String::from("set -e; echo 1 >/proc/sys/net/ipv4/ip_forward\n");
        for other in (1..=self.nodes).filter(|other| *other != self.number) {
            script += &format!("ip route replace 10.244.{other}.0/24 via {}\n", Network::address(other));
        }
        let (number, port) = (self.number, self.port);
        let api = format!("ip daddr {SERVICE} tcp dport 443 dnat to {HOST}:{port}");
        script += &format!("ip route replace {SERVICE} via {HOST}\nnft -f /etc/services.nft\n");
        let rules = format!(
            "table ip services\ndelete table ip services\ntable ip services {{
                chain in {{ type nat hook prerouting priority -100; {api}; }}
                chain own {{ type nat hook output priority -100; {api}; }}
                chain out {{ type nat hook postrouting priority 100; ip saddr 10.244.{number}.0/24 ip daddr {HOST} masquerade; }}
            }}\n"
        );
        self.vm.write("/etc/services.nft", rules.as_bytes(), 0o644).await?;
        self.vm.sh(script).await.with_context(|| format!("cannot set the routes of {}", self.name))?;
        containerd::start(&self.vm).await.with_context(|| format!("on {}", self.name))
    }

    /// Boots the machine after a power cut, with containerd and kubelet as any host starts them.
    ///
    /// # Errors
    /// When a part does not come up.
    pub async fn boot_again(&mut self) -> Result<()> {
        self.vm.boot_again().await?;
        self.boot().await?;
        self.start_kubelet().await
    }

    /// Starts kubelet. When it returns, kubelet runs; the node becomes ready later.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_kubelet(&self) -> Result<()> {
        let arguments = [
            "--config=/etc/kubernetes/kubelet.json".to_owned(),
            "--kubeconfig=/etc/kubernetes/kubeconfig".to_owned(),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", Network::address(self.number)),
            // The container statistics are unused here.
            "--housekeeping-interval=5m".to_owned(),
        ];
        containerd::daemon(&self.vm, "kubelet", &arguments).await?;
        let address = SocketAddr::from(([127, 0, 0, 1], 10248));
        until(&format!("kubelet on {}", self.name), async || Ok(self.vm.connect_tcp(address).await.is_ok())).await
    }

    /// Ends kubelet, as an upgrade does. Containers run on.
    ///
    /// # Errors
    /// There is no such disk.
    pub async fn stop_kubelet(&self) -> Result<()> {
        self.vm.sh("pkill -TERM -x kubelet; while pgrep -x kubelet >/dev/null; do sleep 0.1; done").await.map(drop)
    }

    /// The end of a daemon's log.
    pub async fn log(&self, daemon: &str) -> String {
        let script = format!("tail -n 40 /var/log/{daemon}.log");
        self.vm.sh(script).await.unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !holds().await? {
        if began.elapsed() > PATIENCE {
            bail!("{what} is not there after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(crate::space::LOOK).await;
    }
    Ok(())
}

/// kubelet's configuration.
fn kubelet() -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": "/etc/kubernetes/ca.crt" },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": "/etc/kubernetes/kubelet.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/kubelet.key",
        "port": KUBELET,
        "healthzPort": 10248,
        // Works with any first process; only one of the guests has systemd.
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": format!("unix://{}", containerd::SOCKET),
        "resolvConf": "",
        // There is no DNS server; without this every pod gets a warning.
        "clusterDNS": ["10.96.0.10"],
        // A Secret that is created after the pod that waits for it is mounted within this time.
        "syncFrequency": "15s",
        "failSwapOn": false,
        // Saves work on an emulated processor: control groups of pods are read every two seconds, and
        // container metrics serve only to choose pods to evict.
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        "evictionHard": {
            "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
            "imagefs.available": "0%", "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        // An emulated processor is slow.
        "runtimeRequestTimeout": "10m",
    })
}

/// The network of the pods of one node.
fn cni(number: u8) -> serde_json::Value {
    let subnet = format!("10.244.{number}.0/24");
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }] },
        }],
    })
}
