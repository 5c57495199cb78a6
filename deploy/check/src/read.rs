//! Reads manifests strictly: every key must be known to the Kubernetes API.

use anyhow::{Context as _, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::custom::{PodMonitor, PrometheusRule, VolumeSnapshot, VolumeSnapshotClass};
use crate::objects::{Objects, text};

/// All objects of a file with one or more YAML documents.
///
/// # Errors
/// A document is not YAML, its kind is not expected here, or a key or value is unknown to its kind.
pub(crate) fn objects(text_of_file: &str) -> anyhow::Result<Objects> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text_of_file).context("invalid YAML")?;
    let documents: Vec<Value> = documents.into_iter().filter(|document| !document.is_null()).collect();
    for document in &documents {
        let (kind, name) = (text(document, "/kind"), text(document, "/metadata/name"));
        check(document).with_context(|| format!("{kind} {name}"))?;
    }
    if documents.is_empty() {
        bail!("the file contains no document");
    }
    Ok(Objects(documents))
}

fn check(document: &Value) -> anyhow::Result<()> {
    match (text(document, "/apiVersion"), text(document, "/kind")) {
        ("v1", "ConfigMap") => typed::<ConfigMap>(document),
        ("v1", "Namespace") => typed::<Namespace>(document),
        ("v1", "PersistentVolume") => typed::<PersistentVolume>(document),
        ("v1", "PersistentVolumeClaim") => typed::<PersistentVolumeClaim>(document),
        ("v1", "Pod") => typed::<Pod>(document),
        ("v1", "Secret") => typed::<Secret>(document),
        ("v1", "Service") => typed::<Service>(document),
        ("v1", "ServiceAccount") => typed::<ServiceAccount>(document),
        ("apps/v1", "DaemonSet") => typed::<DaemonSet>(document),
        ("apps/v1", "Deployment") => typed::<Deployment>(document),
        ("apps/v1", "StatefulSet") => typed::<StatefulSet>(document),
        ("networking.k8s.io/v1", "NetworkPolicy") => typed::<NetworkPolicy>(document),
        ("policy/v1", "PodDisruptionBudget") => typed::<PodDisruptionBudget>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => typed::<ClusterRole>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => typed::<ClusterRoleBinding>(document),
        ("rbac.authorization.k8s.io/v1", "Role") => typed::<Role>(document),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => typed::<RoleBinding>(document),
        ("storage.k8s.io/v1", "CSIDriver") => typed::<CSIDriver>(document),
        ("storage.k8s.io/v1", "StorageClass") => typed::<StorageClass>(document),
        ("snapshot.storage.k8s.io/v1", "VolumeSnapshotClass") => typed::<VolumeSnapshotClass>(document),
        ("snapshot.storage.k8s.io/v1", "VolumeSnapshot") => typed::<VolumeSnapshot>(document),
        ("monitoring.coreos.com/v1", "PodMonitor") => typed::<PodMonitor>(document),
        ("monitoring.coreos.com/v1", "PrometheusRule") => typed::<PrometheusRule>(document),
        (version, kind) => bail!("{version} {kind} is not expected here"),
    }
}

/// Reads the document as a type of the API and writes it again: the API does not know what is lost on the
/// way.
fn typed<T: DeserializeOwned + Serialize>(document: &Value) -> anyhow::Result<()> {
    let object: T = serde_json::from_value(document.clone())?;
    lost(document, &serde_json::to_value(object)?, "")
}

fn lost(given: &Value, kept: &Value, path: &str) -> anyhow::Result<()> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (key, value) in given {
                let path = format!("{path}.{key}");
                match kept.get(key) {
                    Some(kept) => lost(value, kept, &path)?,
                    None => bail!("{path} is not known to the API"),
                }
            }
            Ok(())
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => given
            .iter()
            .zip(kept)
            .enumerate()
            .try_for_each(|(at, (given, kept))| lost(given, kept, &format!("{path}[{at}]"))),
        _ if given == kept => Ok(()),
        _ => bail!("{path} is {given}, and the API reads {kept}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", objects(text).err().expect("rejected"))
    }

    #[test]
    fn a_key_that_the_api_does_not_know_is_named() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: c, comand: [x]}]\n";
        assert_eq!(error(text), "Pod a: .spec.containers[0].comand is not known to the API");
        objects(&text.replace("comand", "command")).unwrap();
    }

    #[test]
    fn values_of_the_wrong_type_and_unexpected_kinds_are_rejected() {
        assert!(error("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {hostIPC: 1}\n").contains("Pod a"));
        assert!(error("apiVersion: v1\nkind: Node\nmetadata: {name: a}\n").contains("not expected"));
        assert!(error("# nothing\n").contains("no document"));
    }

    #[test]
    fn a_class_of_snapshots_is_known() {
        let text = "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotClass\nmetadata: {name: a}\n\
                    driver: d\ndeletionPolicy: Delete\nparameters: {cowSize: 20%}\n";
        objects(text).unwrap();
        assert!(error(&text.replace("parameters", "parameter")).contains("parameter is not known"));
        assert!(error(&text.replace("Policy: Delete", "Policy: Remove")).contains("Remove"));
    }

    #[test]
    fn a_snapshot_is_known() {
        let text = "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {name: a}\n\
                    spec: {volumeSnapshotClassName: c, source: {persistentVolumeClaimName: p}}\n";
        objects(text).unwrap();
        assert!(error(&text.replace("source", "sources")).contains("missing field"));
        assert!(error(&text.replace("volumeSnapshotClassName", "className")).contains("missing field"));
    }

    #[test]
    fn a_pod_monitor_and_a_rule_are_known() {
        let monitor = "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata: {name: a}\nspec:\n  \
                       selector: {matchLabels: {a: b}}\n  podMetricsEndpoints: [{port: http, interval: 30s}]\n";
        objects(monitor).unwrap();
        assert!(error(&monitor.replace("interval", "every")).contains("every is not known"));
        let rule = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: a}\nspec:\n  \
                    groups: [{name: g, rules: [{alert: A, expr: up, for: 5m}]}]\n";
        objects(rule).unwrap();
        assert!(error(&rule.replace("for:", "fro:")).contains("fro is not known"));
    }

    #[test]
    fn several_documents_are_several_objects() {
        let text = "---\n# one\napiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\n";
        assert_eq!(objects(text).unwrap().0.len(), 2);
    }
}
