//! What `quarry doctor` tells besides the cluster: certificates, the place where they are kept, commands that hang.

use std::time::{Duration, SystemTime};

use quarry_certificates::{Authority, AuthorityStatus, LeafStatus, Phase, Status};
use quarry_controller::Finding;
use quarry_transport::tls;

/// A certificate that somebody else issues is to be replaced with this much left of it.
const GIVEN_LEFT: Duration = Duration::from_secs(7 * 86400);
/// The same of our own authority.
const AUTHORITY_LEFT: Duration = Duration::from_secs(30 * 86400);

const SUBJECT: &str = "controller";
const DOCUMENT: &str = "docs/certificates.md";

/// What is wrong with the certificates of a controller: the one in use, and those that `authority` issues.
pub(crate) async fn certificates(source: tls::Source, authority: Option<Authority>) -> Vec<Finding> {
    let now = SystemTime::now();
    let expires = source.borrow().as_ref().map(|material| material.expires());
    let mut findings: Vec<Finding> = in_use(expires, authority.is_none(), now).into_iter().collect();
    if let Some(authority) = authority {
        match authority.status().await {
            Ok(status) => findings.extend(issued(&status, now)),
            Err(error) => findings.push(Finding::error(
                "store-unreadable",
                "certificates",
                format!("cannot be read where they are kept: {error}"),
                "with Kubernetes, see whether its API answers and what the controller's service account may do; without, \
                 see the directory given by --certificates",
            )),
        }
    }
    findings
}

/// The certificate that the controller shows to nodes.
fn in_use(expires: Option<SystemTime>, given: bool, now: SystemTime) -> Option<Finding> {
    let Some(expires) = expires else {
        return Some(Finding::error(
            "certificate-missing",
            SUBJECT,
            "has no certificate to show to nodes, so that none can be reached",
            format!("see its log for why, and {DOCUMENT}"),
        ));
    };
    match expires.duration_since(now) {
        Err(over) => Some(Finding::error(
            "certificate-expired",
            SUBJECT,
            format!("shows a certificate that expired {} ago", spoken(over.duration())),
            format!("issue another, or see the controller's log for why none was issued; {DOCUMENT}"),
        )),
        Ok(left) if given && left < GIVEN_LEFT => Some(Finding::warning(
            "certificate-expires",
            SUBJECT,
            format!("shows a certificate that expires in {}", spoken(left)),
            "whoever issues it (--tls) has to replace it; the controller takes the new one without a restart",
        )),
        Ok(_) => None,
    }
}

/// What we issue ourselves.
fn issued(status: &Status, now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &status.authority {
        AuthorityStatus::Missing => findings.push(Finding::error(
            "authority-missing",
            "certificate authority",
            "there is none yet, so that no certificate can be issued",
            "wait, if the controller has just been started; else see its log",
        )),
        AuthorityStatus::Unusable { why } => findings.push(Finding::error(
            "authority-unusable",
            "certificate authority",
            format!("cannot be used: {why}"),
            format!("see {DOCUMENT}"),
        )),
        AuthorityStatus::Present { phase, expires, next_expires, .. } => {
            if *phase != Phase::Steady {
                findings.push(Finding::note(
                    "authority-rotation",
                    "certificate authority",
                    format!("is being replaced by a new one, in phase {phase}"),
                    "nothing: the controllers carry it on; `quarry certificates show` tells how far it is",
                ));
            }
            let left = next_expires.unwrap_or(*expires).duration_since(now).unwrap_or_default();
            if left < AUTHORITY_LEFT {
                findings.push(Finding::warning(
                    "authority-expires",
                    "certificate authority",
                    format!("expires in {}, and all certificates with it", spoken(left)),
                    "the controllers replace it in time by themselves: see their logs for why that has not happened, or \
                     begin with `quarry certificates rotate`",
                ));
            }
        }
    }
    for (subject, leaf) in [("controller's certificate", &status.controller), ("nodes' certificate", &status.node)] {
        let problem = match leaf {
            LeafStatus::Missing => "is missing".to_owned(),
            LeafStatus::Unreadable { why } => format!("cannot be read: {why}"),
            LeafStatus::Present { due: Some(why), .. } => format!("is to be issued anew: {why}"),
            LeafStatus::Present { due: None, .. } => continue,
        };
        findings.push(Finding::warning(
            "certificate-due",
            subject,
            problem,
            "wait a minute: the controller issues it; if it does not, see its log, or try `quarry certificates issue`",
        ));
    }
    findings
}

/// Commands of this host that should have ended long ago.
pub(crate) fn commands() -> Vec<Finding> {
    let overdue = quarry_exec::running().into_iter().filter(|command| command.overdue);
    overdue
        .map(|command| {
            Finding::error(
                "command-overdue",
                format!("`{}`", command.command),
                format!("has been running for {}", spoken(command.age)),
                "a disk does not answer, or another lvm holds the lock: see the kernel's log, and docs/troubleshooting.md",
            )
        })
        .collect()
}

fn spoken(length: Duration) -> String {
    super::rows::length(length.as_secs())
}
