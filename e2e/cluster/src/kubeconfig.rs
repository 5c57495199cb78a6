//! kubeconfig files: the API server's address, its CA, and the user. They are JSON, which is valid YAML.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::pki::{Authority, Pair};

/// The text of a kubeconfig for `user` against the API server at `server`, with the certificates inside.
pub(crate) fn text(server: &str, authority: &Authority, user: &str, pair: &Pair) -> Result<String> {
    let inside = |path: &Path| -> Result<String> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(data_encoding::BASE64.encode(&bytes))
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "quarry",
            "cluster": { "server": server, "certificate-authority-data": inside(&authority.certificate())? },
        }],
        "users": [{
            "name": user,
            "user": {
                "client-certificate-data": inside(&pair.certificate)?,
                "client-key-data": inside(&pair.key)?,
            },
        }],
        "contexts": [{ "name": "quarry", "context": { "cluster": "quarry", "user": user } }],
        "current-context": "quarry",
    });
    serde_json::to_string_pretty(&config).context("cannot write a kubeconfig")
}
