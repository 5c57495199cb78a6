//! Which programs are built, from which modules and with which flags.

/// Programs of one upstream module, built and cached together: shared packages are compiled once.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The folder of its Go module.
    pub name: &'static str,
    /// The upstream module, whose version is the group's version.
    pub(super) module: &'static str,
    /// Go's build tags.
    pub(super) tags: &'static [&'static str],
    /// Go variables that contain the programs' version: `VERSION` stands for it, `MAJOR` and `MINOR` for its
    /// parts.
    pub(super) variables: &'static [&'static str],
    /// Go's name of each program, and a clearer name if that is not enough.
    pub(super) programs: &'static [(&'static str, &'static str)],
    /// Packages whose tests are built into a program, which Go names after the package: `e2e.test`.
    pub(super) tests: &'static [&'static str],
}

/// The variables that contain the version of Kubernetes in its programs.
const KUBERNETES_VERSION: &[&str] = &[
    "k8s.io/component-base/version.gitVersion=VERSION",
    "k8s.io/component-base/version.gitMajor=MAJOR",
    "k8s.io/component-base/version.gitMinor=MINOR",
];

/// Kubernetes itself, from the module in this folder.
const fn kubernetes(name: &'static str) -> Group {
    Group {
        name,
        module: "k8s.io/kubernetes",
        tags: &[],
        variables: KUBERNETES_VERSION,
        programs: &[
            ("kube-apiserver", "kube-apiserver"),
            ("kube-controller-manager", "kube-controller-manager"),
            ("kube-scheduler", "kube-scheduler"),
            ("kubectl", "kubectl"),
            ("kubelet", "kubelet"),
        ],
        tests: &[],
    }
}

/// Other minor versions of Kubernetes: the oldest that Quarry supports, and the newest that the module proxy has.
pub const MINORS: &[(&str, Group)] = &[("1.33", kubernetes("kubernetes1.33")), ("1.37", kubernetes("kubernetes1.37"))];

/// The programs to build, the slowest group first.
pub const GROUPS: &[Group] = &[
    kubernetes("kubernetes"),
    Group {
        name: "etcd",
        module: "go.etcd.io/etcd/server/v3",
        tags: &[],
        variables: &[],
        programs: &[("server", "etcd")],
        tests: &[],
    },
    Group {
        name: "containerd",
        module: "github.com/containerd/containerd/v2",
        // Snapshots are in overlayfs; the container runtime is not traced.
        tags: &["no_devmapper", "no_tracing", "no_zfs"],
        variables: &["github.com/containerd/containerd/v2/version.Version=VERSION"],
        programs: &[
            ("containerd", "containerd"),
            ("containerd-shim-runc-v2", "containerd-shim-runc-v2"),
            ("ctr", "ctr"),
        ],
        tests: &[],
    },
    Group {
        name: "cni",
        module: "github.com/containernetworking/plugins",
        tags: &[],
        variables: &["github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=VERSION"],
        programs: &[
            ("bridge", "bridge"),
            ("host-local", "host-local"),
            ("loopback", "loopback"),
            ("portmap", "portmap"),
        ],
        tests: &[],
    },
    Group {
        name: "provisioner",
        module: "github.com/kubernetes-csi/external-provisioner/v6",
        tags: &[],
        variables: &["main.version=VERSION"],
        programs: &[("csi-provisioner", "csi-provisioner")],
        tests: &[],
    },
    Group {
        name: "resizer",
        module: "github.com/kubernetes-csi/external-resizer/v2",
        tags: &[],
        variables: &["main.version=VERSION"],
        programs: &[("csi-resizer", "csi-resizer")],
        tests: &[],
    },
    Group {
        name: "helm",
        module: "helm.sh/helm/v4",
        tags: &[],
        variables: &["helm.sh/helm/v4/internal/version.version=VERSION"],
        programs: &[("helm", "helm")],
        tests: &[],
    },
];

/// Quarry's own replacement for node-driver-registrar; its source says why. Built only for older charts of Quarry.
pub const REGISTRAR: Group = Group {
    name: "registrar",
    module: "k8s.io/kubelet",
    tags: &[],
    variables: &[],
    programs: &[("registrar", "registrar")],
    tests: &[],
};

/// external-snapshotter: what a cluster with snapshots has besides. Built only for the scenario that needs it.
pub const SNAPSHOTTER: Group = Group {
    name: "snapshotter",
    module: "github.com/kubernetes-csi/external-snapshotter/v8",
    tags: &[],
    variables: &["main.version=VERSION"],
    programs: &[("csi-snapshotter", "csi-snapshotter"), ("snapshot-controller", "snapshot-controller")],
    tests: &[],
};

/// etcdctl. Built only for the scenario of an etcd that loses a node.
pub const ETCDCTL: Group = Group {
    name: "etcdctl",
    module: "go.etcd.io/etcd/etcdctl/v3",
    tags: &[],
    variables: &[],
    programs: &[("etcdctl", "etcdctl")],
    tests: &[],
};

/// promtool, which checks the chart's alerts (`deploy/check.sh`), and Prometheus itself, for the scenario in which an
/// alert fires. Built only for these: they take nine minutes of processor time, although the tag leaves out every
/// kind of service discovery except Kubernetes'.
pub const PROMETHEUS: Group = Group {
    name: "prometheus",
    module: "github.com/prometheus/prometheus",
    tags: &["remove_all_sd", "enable_kubernetes_sd"],
    variables: &["github.com/prometheus/common/version.Version=VERSION"],
    programs: &[("promtool", "promtool"), ("prometheus", "prometheus")],
    tests: &[],
};

/// Kubernetes' own tests, for `quarry-cluster conformance`: the program that contains them, the one that runs them in
/// parallel, and what their pods run. The flags are those of the programs of Kubernetes, so that Go's cache is shared.
pub const CONFORMANCE: Group = Group {
    name: "conformance",
    module: "k8s.io/kubernetes",
    tags: &[],
    variables: KUBERNETES_VERSION,
    programs: &[("e2e.test", "e2e.test"), ("ginkgo", "ginkgo"), ("agnhost", "agnhost")],
    tests: &["k8s.io/kubernetes/test/e2e"],
};
