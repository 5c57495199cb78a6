//! The Kubernetes objects that scenarios create, as JSON.

use serde_json::{Value, json};

/// The image of pods that only hold volumes: busybox.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-4";

/// A claim of a class, with a size such as `100Mi`.
#[must_use]
pub fn claim(name: &str, class: &str, size: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": name },
        "spec": {
            "storageClassName": class,
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": size } },
        },
    })
}

/// A StorageClass of Quarry for a pool, bound when the first pod is scheduled.
#[must_use]
pub fn class(name: &str, pool: &str) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": { "name": name },
        "provisioner": "local.csi.quarry.dev",
        "parameters": { "pool": pool },
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// A VolumeAttributesClass with these parameters.
#[must_use]
pub fn attributes_class(name: &str, parameters: &Value) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttributesClass",
        "metadata": { "name": name },
        "driverName": "local.csi.quarry.dev",
        "parameters": parameters,
    })
}

/// The template of a pod that sleeps, with claims mounted at `/data/CLAIM`.
#[must_use]
pub fn sleeper(claims: &[&str]) -> Value {
    let volumes: Vec<_> =
        claims.iter().map(|claim| json!({ "name": claim, "persistentVolumeClaim": { "claimName": claim } })).collect();
    let mut spec = sleeping(claims);
    merge(&mut spec, json!({ "volumes": volumes }));
    spec
}

/// As [`sleeper`], for volumes that a StatefulSet's templates give.
#[must_use]
pub fn sleeping(volumes: &[&str]) -> Value {
    let mounts: Vec<_> =
        volumes.iter().map(|volume| json!({ "name": volume, "mountPath": format!("/data/{volume}") })).collect();
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "main",
            "image": BUSYBOX,
            "command": ["/bin/busybox", "sleep", "1000000"],
            "volumeMounts": mounts,
        }],
    })
}

/// A pod with this specification.
#[must_use]
pub fn pod(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
}

/// A StatefulSet of sleeping pods, each with a volume `data` of a class and size.
#[must_use]
pub fn stateful_set(name: &str, replicas: u32, class: &str, size: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": { "name": name },
        "spec": {
            "serviceName": name,
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": sleeping(&["data"]) },
            "volumeClaimTemplates": [claim("data", class, size)],
        },
    })
}

/// Puts everything of `more` into `object`: objects are merged, everything else is replaced.
pub fn merge(object: &mut Value, more: Value) {
    match (object, more) {
        (Value::Object(object), Value::Object(more)) => {
            for (key, value) in more {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (object, more) => *object = more,
    }
}

/// `object` with everything of `more`; see [`merge`].
#[must_use]
pub fn with(mut object: Value, more: Value) -> Value {
    merge(&mut object, more);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_replaces_and_adds() {
        let merged = with(json!({ "a": { "b": 1, "c": 2 }, "d": [1] }), json!({ "a": { "b": 3 }, "d": [2], "e": 4 }));
        assert_eq!(merged, json!({ "a": { "b": 3, "c": 2 }, "d": [2], "e": 4 }));
    }
}
