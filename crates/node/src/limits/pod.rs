//! Which pod a target path belongs to.

use std::path::Path;

/// The UID of the pod that a volume is published for, according to kubelet's target path. `None` if the path is not
/// kubelet's.
///
/// A filesystem is published at `…/pods/UID/volumes/kubernetes.io~csi/PV/mount`, and the binds of its subpaths are below
/// `…/pods/UID/volume-subpaths`. A raw block volume is published at `…/kubernetes.io/csi/volumeDevices/publish/PV/UID`.
pub(crate) fn uid(target: &Path) -> Option<String> {
    let parts: Vec<&str> = target.iter().filter_map(|part| part.to_str()).collect();
    let of_pod = parts.windows(3).find_map(|parts| match parts {
        ["pods", uid, "volumes" | "volume-subpaths"] => Some(*uid),
        _ => None,
    });
    let of_block = || match parts.as_slice() {
        [.., "volumeDevices", "publish", _, uid] => Some(*uid),
        _ => None,
    };
    let uid = of_pod.or_else(of_block)?;
    // It becomes a part of a path.
    let plain = uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (plain && !uid.is_empty()).then(|| uid.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_of_kubelets_paths_is_known() {
        const UID: &str = "0b5ae1c6-6f0a-4d3e-9c1a-6f1d2b3c4d5e";
        for path in [
            format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/pvc-1/mount"),
            format!("/data/pods/pods/{UID}/volumes/kubernetes.io~csi/pvc-1/mount"),
            format!("/var/lib/kubelet/pods/{UID}/volume-subpaths/pvc-1/main/0"),
            format!("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/{UID}"),
        ] {
            assert_eq!(uid(Path::new(&path)).as_deref(), Some(UID), "{path}");
        }
        for path in [
            "/tmp/csi-mount/target",
            "/var/lib/kubelet/pods",
            "/var/lib/kubelet/pods/..x/volumes/a",
            "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1",
            "/var/lib/kubelet/plugins/kubernetes.io/csi/driver/0123/globalmount",
        ] {
            assert_eq!(uid(Path::new(path)), None, "{path}");
        }
    }
}
