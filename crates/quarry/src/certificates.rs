//! The source of the controller's certificate, and `quarry certificates`, which manages issued certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use quarry_certificates::{Authority, AuthorityStatus, DirectoryStore, LeafStatus, Requested, Settings, Status, Store};
use quarry_transport::tls;
use tokio::sync::watch;

use crate::kubernetes;

/// The minimum of `--certificate-settle`, in seconds: the API is polled every third of it, so 0 would poll
/// without a pause.
const SHORTEST_PROPAGATION: u64 = 3;
/// The minimum of `--certificate-life`, in seconds: certificates are renewed, and their Secrets written,
/// after two thirds of it.
const SHORTEST_LIFE: u64 = 600;

/// A controller's options for certificates.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The directory with a certificate that you or cert-manager provide: tls.crt, tls.key, ca.crt. Quarry
    /// then issues no certificates, not even for the nodes.
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
    /// Without Kubernetes: the directory that holds the certificates of the authority, the controller and the
    /// nodes. They are issued, renewed and rotated there. Copy the nodes' certificate (DIR/node) to the
    /// nodes.
    #[arg(long, value_name = "DIR", conflicts_with = "tls")]
    certificates: Option<PathBuf>,
    /// The lifetime of issued certificates, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = Settings::default().leaf_life.as_secs(),
        value_parser = clap::value_parser!(u64).range(SHORTEST_LIFE..))]
    certificate_life: u64,
    /// How long the slowest node takes to see a changed certificate, in seconds. Each phase of an authority
    /// rotation waits for this time, plus the clock skew. Certificates are checked three times as often.
    #[arg(long, value_name = "SECONDS", default_value_t = Settings::default().propagation.as_secs(),
        value_parser = clap::value_parser!(u64).range(SHORTEST_PROPAGATION..))]
    certificate_settle: u64,
    /// The largest clock skew between two controllers, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = Settings::default().clocks_apart.as_secs())]
    clocks_apart: u64,
}

/// The controller's certificate as it changes, and the authority that issues it; `None` if the certificate is
/// provided.
pub(crate) struct Certificates {
    pub(crate) source: tls::Source,
    pub(crate) authority: Option<Authority>,
}

impl Certificates {
    /// For a certificate that an operator or cert-manager provides.
    fn given(directory: &Path) -> Self {
        Self { source: tls::files::watch(directory), authority: None }
    }
}

impl Args {
    /// For a controller without Kubernetes.
    pub(crate) fn without_kubernetes(&self) -> anyhow::Result<Certificates> {
        match (&self.tls, &self.certificates) {
            (Some(directory), _) => Ok(Certificates::given(directory)),
            (None, Some(directory)) => self.issued(Arc::new(DirectoryStore::new(directory))),
            (None, None) => bail!("give --tls DIR with a certificate, or --certificates DIR in which they are issued"),
        }
    }

    /// For a controller whose certificates are kept in `store`, unless an operator provides one.
    pub(crate) fn in_kubernetes(&self, store: Arc<dyn Store>) -> anyhow::Result<Certificates> {
        match &self.tls {
            Some(directory) => Ok(Certificates::given(directory)),
            None => self.issued(store),
        }
    }

    fn issued(&self, store: Arc<dyn Store>) -> anyhow::Result<Certificates> {
        let default = Settings::default();
        let leaf_life = Duration::from_secs(self.certificate_life);
        let settings = Settings {
            leaf_life,
            backdate: default.backdate.min(leaf_life / 4),
            propagation: Duration::from_secs(self.certificate_settle),
            clocks_apart: Duration::from_secs(self.clocks_apart),
            ..default
        };
        let authority = Authority::new(store, settings).context("--certificate-life, --certificate-settle")?;
        let (changes, mut changed) = watch::channel(None);
        tokio::spawn(quarry_certificates::run(authority.clone(), changes));
        let (slot, source) = tls::slot();
        tokio::spawn(async move {
            loop {
                let pem = changed.borrow_and_update().clone();
                if let Some(pem) = pem {
                    // The slot logs bad material and keeps the certificate that was in use.
                    let _ = slot.offer(&pem);
                }
                if changed.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Certificates { source, authority: Some(authority) })
    }
}

/// The options of `quarry certificates`.
#[derive(Debug, clap::Args)]
pub(crate) struct Tool {
    #[command(subcommand)]
    action: Action,
    /// The directory that holds the certificates; default: the Secrets in Kubernetes.
    #[arg(long, value_name = "DIR", global = true)]
    certificates: Option<PathBuf>,
    /// A kubeconfig file; default: the pod's service account.
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the Secrets; default: the pod's own.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", global = true)]
    namespace: Option<String>,
    /// The prefix of the names of the three Secrets.
    #[arg(long, env = "QUARRY_SECRETS", default_value = "quarry", value_name = "PREFIX", global = true)]
    secrets: String,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Issue certificates that are missing or due, for example before the first controller starts. A rotation of the
    /// authority is left to the controllers.
    Issue,
    /// Show the certificates and when they expire.
    Show,
    /// Start to replace the authority, in phases and without an outage. The controllers complete the
    /// rotation.
    Rotate,
}

/// Manages the certificates that Quarry issues.
pub(crate) async fn run(tool: Tool) -> anyhow::Result<String> {
    let store: Arc<dyn Store> = match &tool.certificates {
        Some(directory) => Arc::new(DirectoryStore::new(directory)),
        None => kubernetes::store(tool.kubeconfig, tool.namespace, &tool.secrets).await?,
    };
    let authority = Authority::new(store, Settings::default())?;
    match tool.action {
        Action::Issue => {
            let done = authority.issue().await?;
            Ok(done.iter().map(|what| format!("{what}\n")).collect())
        }
        Action::Show => Ok(show(&authority.status().await?)),
        Action::Rotate => Ok(match authority.rotate().await? {
            Requested::Begun => "the rotation has started; the controllers complete it\n".to_owned(),
            Requested::UnderWay(phase) => format!("a rotation is already in progress, in phase {phase}\n"),
        }),
    }
}

fn show(status: &Status) -> String {
    use std::fmt::Write as _;

    let mut text = match &status.authority {
        AuthorityStatus::Missing => "authority   missing: a controller creates it\n".to_owned(),
        AuthorityStatus::Unusable { why } => format!("authority   unusable: {why}\n"),
        AuthorityStatus::Present { phase, expires, .. } => {
            format!("authority   expires {}, phase {phase}\n", when(*expires))
        }
    };
    for (name, leaf) in [("controller", &status.controller), ("node", &status.node)] {
        let _ = match leaf {
            LeafStatus::Missing => writeln!(text, "{name:<11} missing"),
            LeafStatus::Unreadable { why } => writeln!(text, "{name:<11} unreadable: {why}"),
            LeafStatus::Present { expires, due: None } => writeln!(text, "{name:<11} expires {}", when(*expires)),
            LeafStatus::Present { expires, due: Some(why) } => {
                writeln!(text, "{name:<11} expires {}, to be renewed: {why}", when(*expires))
            }
        };
    }
    text
}

/// The time until then, in days.
fn when(at: SystemTime) -> String {
    match at.duration_since(SystemTime::now()) {
        Ok(left) => format!("in {:.1} days", left.as_secs_f64() / 86400.0),
        Err(_) => "(expired)".to_owned(),
    }
}
