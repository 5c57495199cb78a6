//! Runs kubectl as a person would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// How long one command may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// kubectl with one kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(program: &Path, kubeconfig: &Path) -> Self {
        Self { program: program.to_owned(), kubeconfig: kubeconfig.to_owned() }
    }

    /// The program itself.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The arguments of a command, including those that select the cluster.
    pub(crate) fn arguments(&self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
        let cluster = format!("--kubeconfig={}", self.kubeconfig.display());
        std::iter::once(cluster).chain(arguments.into_iter().map(Into::into)).collect()
    }

    /// Runs a command and returns its output.
    ///
    /// # Errors
    /// It fails (the error quotes its output) or times out.
    pub async fn run(&self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Result<String> {
        quarry_vm::run(&self.program, self.arguments(arguments), DEADLINE).await
    }

    /// The object, or the list of objects, that `kubectl get` names.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn get(&self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Result<Value> {
        let mut all = vec!["get".to_owned(), "--output=json".to_owned()];
        all.extend(arguments.into_iter().map(Into::into));
        let text = self.run(all).await?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// Applies a manifest: YAML or JSON, one or many.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn apply(&self, manifest: &Path) -> Result<()> {
        self.run(["apply".to_owned(), "--filename".to_owned(), manifest.display().to_string()]).await.map(drop)
    }
}
