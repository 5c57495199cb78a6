//! kubectl, and the pods of Quarry.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use quarry_exec::Attended;
use serde::de::DeserializeOwned;

/// The namespace, the name, the readiness and two labels of each pod, one a line. What a pod does not have is empty.
const PODS: &str = r#"jsonpath={range .items[*]}{.metadata.namespace}{" "}{.metadata.name}{" "}{.status.conditions[?(@.type=="Ready")].status}{" "}{.metadata.labels.app\.kubernetes\.io/instance}{" "}{.metadata.labels.app\.kubernetes\.io/component}{"\n"}{end}"#;

/// Which cluster, and which pods of it. The names of the options are kubectl's.
#[derive(Debug, clap::Args)]
pub(super) struct Access {
    /// The namespace of Quarry's pods; default: all namespaces are searched.
    #[arg(short, long, env = "QUARRY_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// The context of the kubeconfig file.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig file.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<OsString>,
    /// The labels of the pods; default: those of the chart. For `disks` the pods are those of the node plugin, and for
    /// other commands those of the controller.
    #[arg(long, env = "QUARRY_SELECTOR", value_name = "LABELS")]
    selector: Option<String>,
    /// The container of the pod; default: the pod's default container.
    #[arg(long, env = "QUARRY_CONTAINER", value_name = "NAME")]
    container: Option<String>,
}

/// Whose pod is asked.
#[derive(Debug)]
pub(super) enum Component {
    /// Any controller: each one knows all nodes.
    Controller,
    /// The plugin of the node with this name. Only it sees the disks of its node.
    Node(String),
}

/// A running pod.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Access {
    /// kubectl for this cluster, without a command.
    pub(super) fn kubectl(&self) -> Attended {
        let mut kubectl = Attended::new("kubectl");
        if let Some(context) = given(self.context.as_ref()) {
            kubectl = kubectl.arg(format!("--context={context}"));
        }
        if let Some(file) = &self.kubeconfig {
            let mut option = OsString::from("--kubeconfig=");
            option.push(file);
            kubectl = kubectl.arg(option);
        }
        kubectl
    }

    /// A pod of the component: a ready one, if there is one. A pod that is not ready may still be able to answer.
    ///
    /// # Errors
    /// kubectl cannot list the pods, or finds no pod, or those of several installations.
    pub(super) fn pod(&self, component: &Component) -> anyhow::Result<Pod> {
        let (name, other, fields, missing) = match component {
            Component::Controller => ("controller", "node", String::new(), "no controller runs".to_owned()),
            Component::Node(node) => {
                ("node", "controller", format!(",spec.nodeName={node}"), format!("no node plugin runs on {node}"))
            }
        };
        let selector = match given(self.selector.as_ref()) {
            Some(selector) => selector.to_owned(),
            None => format!("app.kubernetes.io/name=quarry,app.kubernetes.io/component={name}"),
        };
        let place = match given(self.namespace.as_ref()) {
            Some(namespace) => format!("--namespace={namespace}"),
            None => "--all-namespaces".to_owned(),
        };
        let kubectl = self.kubectl().args(["get", "pods"]).arg(&place).arg(format!("--selector={selector}"));
        let kubectl = kubectl.arg(format!("--field-selector=status.phase=Running{fields}"));
        let listed = self.answer(kubectl.arg(format!("--output={PODS}")), "list the pods of Quarry")?;
        // A selector of your own may be for both components.
        let pods: Vec<Listed> =
            listed.lines().filter_map(Listed::parse).filter(|listed| listed.component != other).collect();
        let installations: BTreeSet<String> = pods.iter().map(Listed::installation).collect();
        if installations.len() > 1 {
            bail!(
                "there is more than one Quarry: {}; choose one with --namespace NAME, or with --selector \
                 app.kubernetes.io/name=quarry,app.kubernetes.io/instance=NAME",
                installations.into_iter().collect::<Vec<_>>().join("; ")
            );
        }
        let ready = pods.iter().position(|listed| listed.ready).unwrap_or_default();
        match pods.into_iter().nth(ready) {
            Some(listed) => Ok(listed.pod),
            None => bail!("{missing}: no running pod has the labels {selector} (searched with {place})"),
        }
    }

    /// What kubectl prints.
    ///
    /// # Errors
    /// kubectl cannot be run, or it fails; it has then printed the reason to standard error.
    pub(super) fn answer(&self, kubectl: Attended, what: &str) -> anyhow::Result<String> {
        let (code, output) = kubectl.output()?;
        if code != 0 {
            bail!("cannot {what}: kubectl failed with exit code {code}; its message is above");
        }
        String::from_utf8(output).with_context(|| format!("cannot {what}: kubectl's answer is not text"))
    }

    /// kubectl, which runs `quarry` with these words in the pod. `options` are those of `kubectl exec`.
    fn exec(&self, pod: &Pod, options: &[&str], words: impl IntoIterator<Item = impl Into<OsString>>) -> Attended {
        let kubectl = self.kubectl().arg("exec").arg(format!("--namespace={}", pod.namespace));
        let mut kubectl = kubectl.args(options.iter().copied()).arg(&pod.name);
        if let Some(container) = given(self.container.as_ref()) {
            kubectl = kubectl.arg(format!("--container={container}"));
        }
        kubectl.args(["--", "quarry"]).args(words)
    }

    /// Runs `quarry` with these words in a pod of the component. kubectl takes this process' place, so that its
    /// output and its exit code are this process'.
    ///
    /// # Errors
    /// There is no pod, or kubectl cannot be run.
    pub(super) fn run_quarry(&self, component: &Component, words: Vec<OsString>) -> anyhow::Result<ExitCode> {
        Err(self.exec(&self.pod(component)?, &[], words).replace().into())
    }

    /// Like [`Access::run_quarry`], and `quarry` can ask the person at the terminal, if there is one.
    ///
    /// # Errors
    /// As for [`Access::run_quarry`].
    pub(super) fn run_quarry_that_asks(&self, component: &Component, words: Vec<OsString>) -> anyhow::Result<ExitCode> {
        let options: &[&str] = if std::io::stdin().is_terminal() { &["--stdin", "--tty"] } else { &[] };
        Err(self.exec(&self.pod(component)?, options, words).replace().into())
    }

    /// The JSON that `quarry` prints in the pod for these words.
    ///
    /// # Errors
    /// kubectl or `quarry` fails, or prints something else. `what` completes the sentence "cannot …".
    pub(super) fn ask_quarry<T: DeserializeOwned>(&self, pod: &Pod, words: &[&str], what: &str) -> anyhow::Result<T> {
        self.json(self.exec(pod, &[], words.iter().copied().chain(["--output=json"])), what)
    }

    /// The JSON that kubectl prints.
    ///
    /// # Errors
    /// As for [`Access::answer`]; or the answer is something else.
    pub(super) fn json<T: DeserializeOwned>(&self, kubectl: Attended, what: &str) -> anyhow::Result<T> {
        let answer = self.answer(kubectl, what)?;
        serde_json::from_str(&answer)
            .with_context(|| format!("cannot {what}: the answer of kubectl is not as expected"))
    }
}

/// An empty variable of the environment is as good as none.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// A line of [`PODS`].
struct Listed {
    pod: Pod,
    ready: bool,
    /// The name of the chart's release; empty if the pod has no such label.
    instance: String,
    /// The same for its component.
    component: String,
}

impl Listed {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ').map(str::to_owned);
        Some(Self {
            pod: Pod { namespace: words.next()?, name: words.next()? },
            ready: words.next()? == "True",
            instance: words.next().unwrap_or_default(),
            component: words.next().unwrap_or_default(),
        })
    }

    /// The installation that it belongs to.
    fn installation(&self) -> String {
        match self.instance.as_str() {
            "" => format!("namespace {}", self.pod.namespace),
            instance => format!("namespace {}, instance {instance}", self.pod.namespace),
        }
    }
}
