//! Generated types of Quarry's protocols; no logic.
//!
//! The sources are in `proto/`. Maps are `BTreeMap`s. A service implements every call by name.
//! `Debug` of a message never shows its secrets.

/// The Container Storage Interface.
pub mod csi {
    /// Version 1 of the interface, as of CSI 1.13.
    // Generated code does not follow Quarry's lints.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
    pub mod v1 {
        tonic::include_proto!("csi.v1");
        include!(concat!(env!("OUT_DIR"), "/csi.v1.redacted.rs"));
    }
}

/// The protocol by which kubelet learns of a plugin.
pub mod pluginregistration {
    /// Version 1 of the protocol, which the package does not name.
    // Generated code does not follow Quarry's lints.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
    pub mod v1 {
        tonic::include_proto!("pluginregistration");
    }
}

/// The protocol between the controller and the node plugin that holds the disks.
pub mod agent {
    /// Version 1 of the protocol.
    // Generated code does not follow Quarry's lints.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
    pub mod v1 {
        tonic::include_proto!("quarry.agent.v1");
    }
}

/// The protocol between an operator and a controller.
pub mod view {
    /// Version 2 of the protocol.
    // Generated code does not follow Quarry's lints.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
    pub mod v2 {
        tonic::include_proto!("quarry.view.v2");
    }
}

/// Volumes and pools, in both of Quarry's protocols.
pub mod volume {
    /// Version 1 of the messages.
    // Generated code does not follow Quarry's lints.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
    pub mod v1 {
        tonic::include_proto!("quarry.volume.v1");
    }
}

#[cfg(test)]
mod tests {
    use super::csi::v1::{CreateVolumeRequest, NodeStageVolumeRequest};

    #[test]
    fn debug_hides_secrets_and_shows_the_rest() {
        let secrets = [("pass-key".to_owned(), "pass-word".to_owned())];
        let create = format!(
            "{:?}",
            CreateVolumeRequest { name: "v".into(), secrets: secrets.clone().into(), ..Default::default() }
        );
        let stage = format!(
            "{:?}",
            NodeStageVolumeRequest { volume_id: "v".into(), secrets: secrets.into(), ..Default::default() }
        );
        for text in [create, stage] {
            assert!(!text.contains("pass"), "{text}");
            assert!(text.contains("<1 hidden>") && text.contains("\"v\""), "{text}");
        }
    }
}
