//! Checks of the permissions in the Kubernetes API.

use serde_json::Value;

use crate::installation::{Failures, SNAPSHOTTER};
use crate::objects::{Objects, argument, container, has_argument, is, list, text};

pub(crate) fn check(source: &str, objects: &Objects, controller: &Value, wrong: &mut Failures) {
    let account = text(controller, "/spec/template/spec/serviceAccountName");
    let bindings: Vec<&Value> = objects.of("RoleBinding").chain(objects.of("ClusterRoleBinding")).collect();
    let subjects = || bindings.iter().flat_map(|binding| list(binding, "/subjects"));
    for group in objects.of("DaemonSet") {
        let own = text(group, "/spec/template/spec/serviceAccountName");
        wrong.must("nothing is bound to the node plugin's account", own != account && !own.is_empty());
        wrong.must(
            "nothing is bound to the node plugin's account",
            subjects().all(|subject| text(subject, "/name") != own),
        );
        let none = is(group, "/spec/template/spec/automountServiceAccountToken", false);
        wrong.must("the node plugin mounts no token", none);
    }
    let is_controller =
        |subject: &Value| text(subject, "/kind") == "ServiceAccount" && text(subject, "/name") == account;
    wrong.must("only the controller has permissions", subjects().all(is_controller) && subjects().next().is_some());
    for binding in &bindings {
        let role = objects.named(text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        wrong.must("bindings refer to existing roles", role.is_some());
    }
    for account in objects.of("ServiceAccount") {
        wrong.must("pods choose whether they mount a token", is(account, "/automountServiceAccountToken", false));
    }

    let rules: Vec<&Value> =
        objects.of("Role").chain(objects.of("ClusterRole")).flat_map(|role| list(role, "/rules")).collect();
    for rule in &rules {
        let every = ["/apiGroups", "/resources", "/verbs"].iter().flat_map(|part| list(rule, part));
        wrong.must("no rule has a wildcard", every.clone().all(|word| word.as_str() != Some("*")));
    }
    said_why(source, wrong);
    let quarry = container(controller, "quarry");
    let prefix = quarry.map(|quarry| argument(quarry, "secrets")).unwrap_or_default();
    secrets(&rules, prefix, wrong);
    let lease = quarry.map(|quarry| argument(quarry, "lease")).unwrap_or_default();
    let driver = quarry.map(|quarry| argument(quarry, "driver")).unwrap_or_default();
    // The sidecars name their own Leases like this.
    let driver = driver.replace('.', "-");
    let releases = quarry.is_some_and(|quarry| has_argument(quarry, "--release-on-node-loss"));
    let of_releases = releases.then(|| format!("{lease}-node-loss"));
    let mut names: Vec<String> = std::iter::once(lease.to_owned()).chain(of_releases).collect();
    names.extend([driver.clone(), format!("external-resizer-{driver}")]);
    if container(controller, SNAPSHOTTER).is_some() {
        names.push(format!("external-snapshotter-leader-{driver}"));
    }
    let kept = about(&rules, "leases")
        .any(|rule| is(rule, "/resourceNames", names.clone()) && is(rule, "/verbs", vec!["get", "update"]));
    wrong.must("the Leases of the controller and its sidecars may be read and updated", kept);
    resizer(objects, &rules, controller, wrong);
    snapshotter(&rules, controller, wrong);
    let deletes = about(&rules, "persistentvolumeclaims").any(|rule| is(rule, "/verbs", vec!["get", "delete"]));
    wrong.must(
        "the controller may delete claims if it releases those of lost nodes, and only then",
        releases == deletes,
    );
}

/// The snapshotter reads and updates snapshots, and the provisioner those to restore; only if there is a snapshotter.
fn snapshotter(rules: &[&Value], controller: &Value, wrong: &mut Failures) {
    let has = |resource: &str, verbs: &[&str]| about(rules, resource).any(|rule| is(rule, "/verbs", verbs.to_vec()));
    let all = has("volumesnapshotclasses", &["list", "watch"])
        && has("volumesnapshotcontents", &["get", "list", "watch", "patch"])
        && has("volumesnapshotcontents/status", &["update", "patch"])
        && has("volumesnapshots", &["get", "list", "watch", "update"]);
    let any = rules.iter().any(|rule| is(rule, "/apiGroups", vec!["snapshot.storage.k8s.io"]));
    match container(controller, SNAPSHOTTER) {
        Some(_) => wrong.must("the snapshotter may read and update snapshots", all),
        None => wrong.must("snapshots are read only if there is a snapshotter", !any),
    }
}

/// The resizer updates the status of claims. It reads the pods of the whole cluster only with the flag that needs them.
fn resizer(objects: &Objects, rules: &[&Value], controller: &Value, wrong: &mut Failures) {
    let status = about(rules, "persistentvolumeclaims/status").any(|rule| is(rule, "/verbs", vec!["patch"]));
    wrong.must("the resizer may update the status of claims", status);
    let everywhere: Vec<&Value> = objects.of("ClusterRole").flat_map(|role| list(role, "/rules")).collect();
    let may = about(&everywhere, "pods").any(|rule| is(rule, "/verbs", vec!["list", "watch"]));
    let does = container(controller, "resizer")
        .is_some_and(|resizer| argument(resizer, "handle-volume-inuse-error") == "true");
    wrong.must("the resizer reads all pods if it needs them, and only then", may == does);
}

/// The rules name Secrets, and nothing may list, watch or create them; with the operator's own certificates
/// nothing reads any.
fn secrets(rules: &[&Value], prefix: &str, wrong: &mut Failures) {
    let names: Vec<String> =
        ["authority", "controller", "node"].iter().map(|item| format!("{prefix}-{item}")).collect();
    let narrow = |rule: &Value| is(rule, "/resourceNames", names.clone()) && is(rule, "/verbs", vec!["get", "update"]);
    let count = about(rules, "secrets").count();
    let expected = usize::from(!prefix.is_empty());
    wrong.must(
        "only the controller's three Secrets may be read and updated",
        count == expected && about(rules, "secrets").all(narrow),
    );
}

fn about<'a>(rules: &'a [&'a Value], resource: &'a str) -> impl Iterator<Item = &'a Value> {
    let names = move |rule: &&&Value| list(rule, "/resources").iter().any(|named| named.as_str() == Some(resource));
    rules.iter().filter(names).copied()
}

/// Each rule has a comment above it.
fn said_why(source: &str, wrong: &mut Failures) {
    let mut before = "";
    for line in source.lines().map(str::trim) {
        if line.starts_with("- apiGroups:") {
            wrong.must(
                &format!("each rule has a comment that says why: `{line}` after `{before}`"),
                before.starts_with('#'),
            );
        }
        before = line;
    }
}
