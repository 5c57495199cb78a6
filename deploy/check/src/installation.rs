//! Checks that every installation must pass, whatever the values.

use serde_json::Value;

use crate::objects::{Objects, argument, container, has_argument, is, list, port, text};
use crate::{monitoring, network, nodes, permissions};

/// The failed checks, one per line.
#[derive(Default)]
pub(crate) struct Failures(Vec<String>);

impl Failures {
    /// Records a failure unless `holds`; `what` states the requirement.
    pub(crate) fn must(&mut self, what: &str, holds: bool) {
        if !holds {
            self.0.push(format!("failed: {what}"));
        }
    }

    /// The failures of tests.
    #[cfg(test)]
    pub(crate) fn lines(&self) -> &[String] {
        &self.0
    }
}

/// All failed checks of an installation; `source` is the text that `objects` were read from.
pub(crate) fn wrong(source: &str, objects: &Objects) -> Vec<String> {
    let mut wrong = Failures::default();
    let deployments: Vec<&Value> = objects.of("Deployment").collect();
    let [controller] = deployments.as_slice() else {
        return vec!["there must be exactly one Deployment, the controller".to_owned()];
    };
    let Some(quarry) = container(controller, "quarry") else {
        return vec!["the controller must have a container quarry".to_owned()];
    };
    driver(objects, argument(quarry, "driver"), &mut wrong);
    of_controller(controller, quarry, &mut wrong);
    disruption(objects, controller, &mut wrong);
    secrets(objects, quarry, &mut wrong);
    for object in objects.of("Deployment").chain(objects.of("DaemonSet")) {
        pods(object, &mut wrong);
    }
    nodes::check(objects, quarry, &mut wrong);
    permissions::check(source, objects, controller, &mut wrong);
    network::check(objects, controller, &mut wrong);
    monitoring::check(objects, &mut wrong);
    wrong.0
}

fn driver(objects: &Objects, name: &str, wrong: &mut Failures) {
    let Some(driver) = objects.named("CSIDriver", name) else {
        wrong.must("the CSIDriver has the name in the controller's arguments", false);
        return;
    };
    wrong.must("volumes are not attached", is(driver, "/spec/attachRequired", false));
    wrong.must("kubelet changes the group of files to the pod's", is(driver, "/spec/fsGroupPolicy", "File"));
    wrong.must("the scheduler considers capacities", is(driver, "/spec/storageCapacity", true));
    wrong.must("volumes are persistent", is(driver, "/spec/volumeLifecycleModes", vec!["Persistent"]));
    wrong.must(
        "the CSIDriver survives an uninstall",
        is(driver, "/metadata/annotations/helm.sh~1resource-policy", "keep"),
    );
    for class in objects.of("StorageClass") {
        wrong.must("classes are of this driver", text(class, "/provisioner") == name);
    }
}

/// Checks for the pods of both the controller and the nodes.
fn pods(object: &Value, wrong: &mut Failures) {
    let name = text(object, "/metadata/name");
    let spec = "/spec/template/spec";
    let mut must = |what: &str, holds: bool| wrong.must(&format!("{name}: {what}"), holds);
    let containers = list(object, &format!("{spec}/containers"));
    let expected: &[&str] = match text(object, "/kind") {
        "Deployment" if container(object, SNAPSHOTTER).is_some() => &["quarry", "provisioner", "resizer", SNAPSHOTTER],
        "Deployment" => &["quarry", "provisioner", "resizer"],
        _ => &["quarry"],
    };
    must("its containers", containers.iter().map(|container| text(container, "/name")).eq(expected.iter().copied()));
    let mut ports: Vec<Option<u64>> = containers
        .iter()
        .flat_map(|container| list(container, "/ports"))
        .map(|port| port.pointer("/containerPort").and_then(Value::as_u64))
        .collect();
    let count = ports.len();
    ports.sort_unstable();
    ports.dedup();
    must("its containers listen on different ports", ports.len() == count);
    must("a grace period of a minute", is(object, &format!("{spec}/terminationGracePeriodSeconds"), 60));
    must("a system priority class", text(object, &format!("{spec}/priorityClassName")).starts_with("system-"));
    let labels = object.pointer("/spec/template/metadata/labels");
    let selector = object.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let selected = |(key, value): (&String, &Value)| labels.and_then(|labels| labels.get(key)) == Some(value);
    must("its selector matches its pods", selector.is_some_and(|selector| selector.iter().all(selected)));
    let mut mounted = containers.iter().flat_map(|c| list(c, "/volumeMounts"));
    let volumes: Vec<&str> = list(object, &format!("{spec}/volumes")).iter().map(|v| text(v, "/name")).collect();
    must("all mounted volumes exist", mounted.all(|mount| volumes.contains(&text(mount, "/name"))));
    for container in containers {
        let mut must = |what: &str, holds: bool| must(&format!("{}: {what}", text(container, "/name")), holds);
        must("a read-only root file system", is(container, "/securityContext/readOnlyRootFilesystem", true));
        must("it requests memory", container.pointer("/resources/requests/memory").is_some());
        must("it has a liveness probe", container.pointer("/livenessProbe/httpGet").is_some());
        let privileged = is(container, "/securityContext/privileged", true);
        let closed = is(container, "/securityContext/capabilities/drop", vec!["ALL"])
            && is(container, "/securityContext/allowPrivilegeEscalation", false);
        let may = text(object, "/kind") == "DaemonSet" && text(container, "/name") == "quarry";
        must(
            "only quarry on the nodes is privileged, and the others have no capability",
            if may { privileged } else { closed && !privileged },
        );
    }
}

fn of_controller(controller: &Value, quarry: &Value, wrong: &mut Failures) {
    let spec = "/spec/template/spec";
    wrong.must(
        "the controller does not run as root",
        is(controller, &format!("{spec}/securityContext/runAsNonRoot"), true),
    );
    wrong.must(
        "the controller has the runtime's seccomp profile",
        is(controller, &format!("{spec}/securityContext/seccompProfile/type"), "RuntimeDefault"),
    );
    sidecars(controller, quarry, wrong);
    page(controller, quarry, wrong);
    let variable = |container: &Value, name: &str, path: &str| {
        let fits = |variable: &&Value| {
            text(variable, "/name") == name && text(variable, "/valueFrom/fieldRef/fieldPath") == path
        };
        list(container, "/env").iter().any(|variable| fits(&variable))
    };
    let provisioner = container(controller, "provisioner").unwrap_or(&Value::Null);
    for (container, name, path) in [
        (provisioner, "POD_NAME", "metadata.name"),
        (provisioner, "NAMESPACE", "metadata.namespace"),
        (quarry, "POD_NAME", "metadata.name"),
        (quarry, "POD_NAMESPACE", "metadata.namespace"),
    ] {
        wrong.must(&format!("the controller's pod gets {path} as {name}"), variable(container, name, path));
    }
}

/// The sidecar that not every installation has.
pub(crate) const SNAPSHOTTER: &str = "snapshotter";

/// The sidecars of the controller.
fn sidecars(controller: &Value, quarry: &Value, wrong: &mut Failures) {
    let provisioner: &[&str] = &[
        "--strict-topology",
        "--timeout=60s",
        "--retry-interval-max=20s",
        "--extra-create-metadata",
        "--enable-capacity",
        "--leader-election",
        "--capacity-ownerref-level=2",
    ];
    let resizer: &[&str] = &["--timeout=60s", "--retry-interval-max=1m", "--leader-election"];
    let snapshotter: &[&str] = &["--timeout=60s", "--retry-interval-max=20s", "--leader-election"];
    let socket = argument(quarry, "endpoint").strip_prefix("unix://");
    let optional = container(controller, SNAPSHOTTER).map(|_| (SNAPSHOTTER, snapshotter));
    for (name, flags) in [("provisioner", provisioner), ("resizer", resizer)].into_iter().chain(optional) {
        let Some(sidecar) = container(controller, name) else {
            wrong.must(&format!("there is a {name}"), false);
            continue;
        };
        for flag in flags {
            wrong.must(&format!("the {name} has {flag}"), has_argument(sidecar, flag));
        }
        wrong.must("all containers use one socket", socket == Some(argument(sidecar, "csi-address")));
        let listens = port(argument(sidecar, "http-endpoint"));
        let probed = list(sidecar, "/ports").first();
        wrong.must(
            &format!("the probe of the {name} asks the port that it listens on"),
            listens.is_some()
                && probed.is_some_and(|port| port.pointer("/containerPort").and_then(Value::as_u64) == listens)
                && probed.is_some_and(|port| text(port, "/name") == text(sidecar, "/livenessProbe/httpGet/port")),
        );
    }
}

/// The page has no login: it must not be reachable from other pods.
fn page(controller: &Value, quarry: &Value, wrong: &mut Failures) {
    let address = argument(quarry, "page");
    if address.is_empty() {
        return;
    }
    wrong.must("the page is served on a loopback address", address.starts_with("127.0.0.1:"));
    let listens = port(address);
    let taken = list(controller, "/spec/template/spec/containers")
        .iter()
        .flat_map(|container| list(container, "/ports"))
        .any(|port| port.pointer("/containerPort").and_then(Value::as_u64) == listens);
    wrong.must("no container listens on the port of the page", listens.is_some() && !taken);
}

fn disruption(objects: &Objects, controller: &Value, wrong: &mut Failures) {
    let budget = objects.named("PodDisruptionBudget", text(controller, "/metadata/name"));
    let fits = |budget: &Value| {
        budget.pointer("/spec/selector") == controller.pointer("/spec/selector")
            && is(budget, "/spec/maxUnavailable", 1)
    };
    wrong.must("controllers are evicted one at a time", budget.is_some_and(fits));
}

/// The Secrets of the chart are those in the controller's arguments; they are empty, so that an upgrade
/// overwrites nothing.
fn secrets(objects: &Objects, quarry: &Value, wrong: &mut Failures) {
    let prefix = argument(quarry, "secrets");
    let mut names: Vec<&str> = objects.of("Secret").map(|secret| text(secret, "/metadata/name")).collect();
    names.sort_unstable();
    let expected: Vec<String> = match prefix {
        "" => Vec::new(),
        _ => ["authority", "controller", "node"].iter().map(|item| format!("{prefix}-{item}")).collect(),
    };
    wrong.must("the Secrets are those that the controller fills", names == expected);
    let empty = objects.of("Secret").all(|secret| secret.get("data").is_none() && secret.get("stringData").is_none());
    wrong.must("the Secrets are empty", empty);
    wrong.must(
        "certificates are issued, or the operator provides them",
        prefix.is_empty() != argument(quarry, "tls").is_empty(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFESTS: &str = include_str!("../../quarry.yaml");

    fn found(text: &str) -> Vec<String> {
        wrong(text, &crate::read::objects(text).unwrap())
    }

    #[test]
    fn the_shipped_manifests_are_valid() {
        assert_eq!(found(MANIFESTS), [""; 0]);
    }

    /// Each case changes the shipped manifests and names the failure that must follow.
    #[test]
    fn each_change_is_detected() {
        for (from, to, said) in [
            ("attachRequired: false", "attachRequired: true", "not attached"),
            ("helm.sh/resource-policy: keep", "a: b", "survives"),
            ("name: \"local.csi.quarry.dev\"\n", "name: other.csi.quarry.dev\n", "CSIDriver has the name"),
            ("--strict-topology", "--no-topology", "--strict-topology"),
            ("--timeout=60s", "--timeout=10s", "--timeout=60s"),
            ("runAsNonRoot: true", "runAsNonRoot: false", "run as root"),
            ("name: NAMESPACE", "name: NAMESPACES", "NAMESPACE"),
            ("maxUnavailable: 1\n", "maxUnavailable: 2\n", "one at a time"),
            ("type: Opaque", "type: Opaque\nstringData: {a: b}", "are empty"),
            ("--secrets=quarry", "--secrets=other", "controller fills"),
            ("terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 30", "a minute"),
            ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "read-only root"),
            ("capabilities: {drop: [ALL]}}", "capabilities: {drop: [KILL]}}", "no capability"),
            ("--csi-address=/run/quarry/csi.sock", "--csi-address=/run/csi.sock", "one socket"),
            ("- name: resizer\n", "- name: grower\n", "its containers"),
            ("- name: resizer\n", "- name: grower\n", "there is a resizer"),
            ("--http-endpoint=:9812", "--http-endpoint=:9813", "the port that it listens on"),
            ("containerPort: 9812}", "containerPort: 9811}", "different ports"),
            ("--page=127.0.0.1:9814", "--page=0.0.0.0:9814", "on a loopback address"),
            ("--page=127.0.0.1:9814", "--page=127.0.0.1:9811", "the port of the page"),
            // The node plugin.
            ("privileged: true", "privileged: false", "privileged"),
            ("hostIPC: false", "hostIPC: true", "hostIPC"),
            ("maxSurge: 0", "maxSurge: 1", "maxSurge"),
            ("mountPropagation: Bidirectional", "mountPropagation: HostToContainer", "kubelet's folders"),
            ("mountPath: /dev}", "mountPath: /devices}", "/dev"),
            ("path: /etc/lvm,", "path: /etc/lvm2,", ""),
            ("mountPath: /run/udev/data,", "mountPath: /run/udev,", "only the database"),
            ("path: /run/udev/data,", "path: /run/udev,", "udev's database is the host's"),
            ("mountPropagation: HostToContainer, readOnly", "readOnly", "raw `local` volumes"),
            ("HostToContainer, readOnly: true", "HostToContainer", "read-only"),
            ("QUARRY_CONFIG", "QUARRY_CONFIGS", "same pools"),
            ("optional: true", "optional: false", "may appear later"),
            ("--listen=0.0.0.0:9810", "--listen=0.0.0.0:9811", "agent's port"),
            (
                "--kubelet-registration-path=/var/lib/kubelet/plugins/local",
                "--kubelet-registration-path=/var/lib/kubelet/plugins/other",
                "CSI socket on the host",
            ),
            ("path: /var/lib/kubelet/plugins_registry,", "path: /var/lib/kubelet/plugins,", "plugins_registry"),
            ("QUARRY_NODE", "QUARRY_NODES", "QUARRY_NODE"),
            // Permissions.
            (
                "automountServiceAccountToken: false\n      priority",
                "automountServiceAccountToken: true\n      priority",
                "token",
            ),
            (
                "{kind: ServiceAccount, name: quarry-controller,",
                "{kind: ServiceAccount, name: quarry-node,",
                "nothing is bound",
            ),
            ("verbs: [create, patch]", "verbs: ['*']", "wildcard"),
            ("  # RBAC cannot limit create to names.\n", "", "says why"),
            ("verbs: [get, update]", "verbs: [get, list, update]", "Secrets"),
            (
                "resourceNames: [quarry-chooser, \"local-csi-quarry-dev\", external-resizer-local-csi-quarry-dev]",
                "resourceNames: [quarry-chooser, \"local-csi-quarry-dev\"]",
                "Leases",
            ),
            ("resources: [persistentvolumeclaims/status]", "resources: [persistentvolumes/status]", "status of claims"),
            ("--handle-volume-inuse-error=true", "--handle-volume-inuse-error=false", "reads all pods"),
            // The network.
            ("policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]", "no connections"),
            ("{protocol: TCP, port: agent}", "{protocol: TCP, port: http}", "reach the agents"),
            ("        - {protocol: TCP, port: http-resize}\n", "", "the controller's metrics"),
        ] {
            assert!(MANIFESTS.contains(from), "{from:?} is no longer in the shipped manifests");
            let wrong = found(&MANIFESTS.replacen(from, to, 1));
            let all = found(&MANIFESTS.replace(from, to));
            if said.is_empty() {
                assert_eq!(all, [""; 0], "{from:?} may be {to:?}");
                continue;
            }
            let says = |wrong: &[String]| wrong.iter().any(|line| line.contains(said));
            assert!(says(&wrong) || says(&all), "{from:?} to {to:?}: {all:?} does not say {said:?}");
        }
    }
}
