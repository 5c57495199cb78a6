//! Checks of the node plugin's pods.

use serde_json::Value;

use crate::installation::Failures;
use crate::objects::{Objects, argument, container, is, list, port, text};

const SPEC: &str = "/spec/template/spec";

pub(crate) fn check(objects: &Objects, controller: &Value, wrong: &mut Failures) {
    let groups: Vec<&Value> = objects.of("DaemonSet").collect();
    wrong.must("there is a node plugin", !groups.is_empty());
    for group in &groups {
        of_group(objects, group, controller, wrong);
    }
    for (at, one) in groups.iter().enumerate() {
        for other in groups.iter().skip(at + 1) {
            let names = format!("{} and {}", text(one, "/metadata/name"), text(other, "/metadata/name"));
            wrong.must(&format!("no host matches two groups: {names}"), apart(one, other));
            let same = one.pointer("/spec/selector") == other.pointer("/spec/selector");
            wrong.must(&format!("each has its own pods: {names}"), !same);
        }
    }
}

fn of_group(objects: &Objects, group: &Value, controller: &Value, wrong: &mut Failures) {
    let name = text(group, "/metadata/name");
    let mut must = |what: &str, holds: bool| wrong.must(&format!("{name}: {what}"), holds);
    let Some(quarry) = container(group, "quarry") else {
        must("it has the container quarry", false);
        return;
    };
    // lvm waits for udevd by a semaphore of the host: with only one of the two it would wait forever.
    for shared in ["hostNetwork", "hostIPC", "hostPID"] {
        must(&format!("{shared} is off"), is(group, &format!("{SPEC}/{shared}"), false));
    }
    must(
        "maxSurge is 0: two plugins cannot serve one socket",
        is(group, "/spec/updateStrategy/rollingUpdate/maxSurge", 0),
    );

    let mounts = list(quarry, "/volumeMounts");
    let host = |path: &str| {
        mounts.iter().find(|mount| text(mount, "/mountPath") == path).map(|mount| source(group, text(mount, "/name")))
    };
    // The socket is what lvm looks for.
    let udev: Vec<&Value> = mounts.iter().filter(|mount| text(mount, "/mountPath").starts_with("/run/udev")).collect();
    must(
        "only the database of /run/udev is mounted from the host, read-only",
        matches!(udev.as_slice(), [data] if text(data, "/mountPath") == "/run/udev/data" && is(data, "/readOnly", true)),
    );
    must("udev's database is the host's", host("/run/udev/data") == Some("/run/udev/data"));
    for path in ["/dev", "/run/cryptsetup", "/run/lvm", "/run/lock/lvm"] {
        must(&format!("{path} is the host's"), host(path) == Some(path));
    }
    must("lvm's configuration and archives are the host's", host("/etc/lvm").is_some_and(|path| path.starts_with('/')));
    let both: Vec<&Value> = mounts.iter().filter(|mount| text(mount, "/mountPropagation") == "Bidirectional").collect();
    let same = |mount: &&Value| source(group, text(mount, "/name")) == text(mount, "/mountPath");
    must(
        "mounts in kubelet's folders propagate to the host, at the same paths",
        both.len() == 2 && both.iter().all(same),
    );

    // Folders of links to disks, and the `local` volumes that kubelet has published: later mounts must
    // propagate as well.
    let shown: Vec<&Value> =
        mounts.iter().filter(|mount| text(mount, "/mountPropagation") == "HostToContainer").collect();
    must(
        "disk folders are mounted at their own paths, read-only",
        shown.iter().all(|mount| same(mount) && is(mount, "/readOnly", true)),
    );
    let local = |mount: &&&Value| text(mount, "/mountPath").ends_with("/plugins/kubernetes.io~local-volume");
    must("raw `local` volumes that pods use are visible", shown.iter().filter(local).count() == 1);

    let driver = argument(quarry, "driver");
    must("controller and nodes are one driver", driver == argument(controller, "driver"));
    let socket = argument(quarry, "endpoint").strip_prefix("unix://").unwrap_or_default();
    let folder = host("/run/quarry").unwrap_or_default();
    let registered = argument(quarry, "kubelet-registration-path");
    let expected = socket.strip_prefix("/run/quarry/").map(|file| format!("{folder}/{file}"));
    must(
        "kubelet gets the path of the CSI socket on the host",
        expected.is_some_and(|path| path == registered) && registered.contains(&format!("/plugins/{driver}/")),
    );
    let root = registered.split("/plugins/").next().unwrap_or_default();
    must(
        "it registers in kubelet's plugins_registry",
        host(argument(quarry, "plugin-registration-path")) == Some(format!("{root}/plugins_registry").as_str()),
    );
    must(
        "all of kubelet's folders belong to one kubelet",
        both.iter().chain(shown.iter().filter(local)).all(|mount| text(mount, "/mountPath").starts_with(root)),
    );
    must(
        "the agent's port is the one that controllers call",
        port(argument(quarry, "listen")) == argument(controller, "agent-port").parse().ok(),
    );
    for (variable, path) in [("QUARRY_NODE", "spec.nodeName"), ("POD_UID", "metadata.uid")] {
        let is_set =
            |given: &Value| text(given, "/name") == variable && text(given, "/valueFrom/fieldRef/fieldPath") == path;
        must(&format!("it gets {path} as {variable}"), list(quarry, "/env").iter().any(is_set));
    }

    let secret = volume(group, "tls").and_then(|volume| volume.pointer("/secret"));
    must("the certificate may appear later", secret.is_some_and(|secret| is(secret, "/optional", true)));
    let prefix = argument(controller, "secrets");
    let named = secret.map(|secret| text(secret, "/secretName")).unwrap_or_default();
    must("the certificate is the node's", prefix.is_empty() || named == format!("{prefix}-node"));
    let whole = mounts.iter().any(|mount| text(mount, "/name") == "tls" && mount.get("subPath").is_none());
    must("the whole Secret is mounted, so that changes are seen", whole);

    let pools = volume(group, "pools").map(|volume| text(volume, "/configMap/name")).unwrap_or_default();
    let file = argument(quarry, "config").rsplit('/').next().unwrap_or_default();
    let configured = objects.named("ConfigMap", pools).map(|map| text(map, &format!("/data/{file}")));
    let kinds = ["volumeGroup: ", "select:"];
    must("its pools are configured", configured.is_some_and(|text| kinds.iter().any(|kind| text.contains(kind))));
    let shown = list(quarry, "/env").iter().find(|given| text(given, "/name") == "QUARRY_CONFIG");
    let same_pools = shown.map(|given| text(given, "/value")) == Some(argument(quarry, "config"));
    must("`quarry disks` uses the same pools", same_pools);
}

fn volume<'a>(group: &'a Value, name: &str) -> Option<&'a Value> {
    list(group, &format!("{SPEC}/volumes")).iter().find(|volume| text(volume, "/name") == name)
}

/// The host's path of a volume.
fn source<'a>(group: &'a Value, name: &str) -> &'a str {
    volume(group, name).map(|volume| text(volume, "/hostPath/path")).unwrap_or_default()
}

/// Whether a label has different values in both selectors.
fn apart(one: &Value, other: &Value) -> bool {
    let selector = |group: &Value| group.pointer(&format!("{SPEC}/nodeSelector")).and_then(Value::as_object).cloned();
    let (Some(one), Some(other)) = (selector(one), selector(other)) else { return false };
    one.iter().any(|(key, value)| other.get(key).is_some_and(|others| others != value))
}
