//! Where the controller's certificate comes from, and `quarry certificates`, which looks after those that are issued.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use quarry_certificates::{Authority, AuthorityStatus, DirectoryStore, LeafStatus, Requested, Settings, Status, Store};
use quarry_transport::tls;
use tokio::sync::watch;

use crate::kubernetes;

/// The least that `--certificate-settle` may be, in seconds: the API is asked at a third of it, and at 0 all the time.
const SHORTEST_SETTLE: u64 = 3;
/// The least that `--certificate-life` may be, in seconds: certificates are renewed, and their Secrets written, at two thirds of it.
const SHORTEST_LIFE: u64 = 600;

/// What a controller is told about certificates.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The directory with a certificate that an operator or cert-manager provides: tls.crt, tls.key, ca.crt. Then none
    /// are issued, for the nodes neither.
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
    /// Without Kubernetes: the directory in which certificates are kept: the authority, the controller's, and the one
    /// for the nodes, which has to be brought to them (DIR/node). They are issued, renewed and rotated there.
    #[arg(long, value_name = "DIR", conflicts_with = "tls")]
    certificates: Option<PathBuf>,
    /// How long issued certificates last, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = Settings::default().leaf_life.as_secs(),
        value_parser = clap::value_parser!(u64).range(SHORTEST_LIFE..))]
    certificate_life: u64,
    /// How long the slowest node may take to see a changed certificate, in seconds: each phase of the rotation of the
    /// authority waits for that, and for clocks that lie apart. Certificates are looked at three times as often.
    #[arg(long, value_name = "SECONDS", default_value_t = Settings::default().settle.as_secs(),
        value_parser = clap::value_parser!(u64).range(SHORTEST_SETTLE..))]
    certificate_settle: u64,
    /// How far the clocks of two controllers may lie apart, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = Settings::default().clocks_apart.as_secs())]
    clocks_apart: u64,
}

/// The controller's certificate as it changes, and who issues it; `None`: somebody else.
pub(crate) struct Certificates {
    pub(crate) source: tls::Source,
    pub(crate) authority: Option<Authority>,
}

impl Certificates {
    /// Somebody else's.
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

    /// For a controller whose certificates lie in `store`, unless an operator gives one.
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
            settle: Duration::from_secs(self.certificate_settle),
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
                    // Bad material is logged by the slot, and what was in use stays.
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

/// What `quarry certificates` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Tool {
    #[command(subcommand)]
    action: Action,
    /// The directory in which certificates are kept; Kubernetes' Secrets unless given.
    #[arg(long, value_name = "DIR", global = true)]
    certificates: Option<PathBuf>,
    /// A kubeconfig file; the pod's service account unless given.
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the Secrets; our own unless given.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", global = true)]
    namespace: Option<String>,
    /// What the names of the three Secrets begin with.
    #[arg(long, default_value = "quarry", value_name = "PREFIX", global = true)]
    secrets: String,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Issue what is missing or due now, for example before the first controller runs.
    Issue,
    /// Show what there is and when it expires.
    Show,
    /// Begin to replace the authority by a new one: in phases, without an outage. The controllers carry it on.
    Rotate,
}

/// Looks after the certificates that Quarry issues itself.
pub(crate) async fn run(tool: Tool) -> anyhow::Result<String> {
    let store: Arc<dyn Store> = match &tool.certificates {
        Some(directory) => Arc::new(DirectoryStore::new(directory)),
        None => kubernetes::store(tool.kubeconfig, tool.namespace, &tool.secrets).await?,
    };
    let authority = Authority::new(store, Settings::default())?;
    match tool.action {
        Action::Issue => {
            let done = authority.step().await?.done;
            Ok(done.iter().map(|what| format!("{what}\n")).collect())
        }
        Action::Show => Ok(show(&authority.status().await?)),
        Action::Rotate => Ok(match authority.rotate().await? {
            Requested::Begun => "the rotation has begun; the controllers carry it on\n".to_owned(),
            Requested::UnderWay(phase) => format!("a rotation is under way already, in phase {phase}\n"),
        }),
    }
}

fn show(status: &Status) -> String {
    use std::fmt::Write as _;

    let mut text = match &status.authority {
        AuthorityStatus::Missing => "authority   missing: a controller makes it\n".to_owned(),
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
                writeln!(text, "{name:<11} expires {}, to be issued anew: {why}", when(*expires))
            }
        };
    }
    text
}

/// A time as days from now: what an operator wants to know.
fn when(at: SystemTime) -> String {
    match at.duration_since(SystemTime::now()) {
        Ok(left) => format!("in {:.1} days", left.as_secs_f64() / 86400.0),
        Err(_) => "(has expired)".to_owned(),
    }
}
