//! Findings of `quarry doctor` beyond the cluster: certificates, their store, and commands that hang.

use std::time::{Duration, SystemTime};

use quarry_certificates::{Authority, AuthorityStatus, LeafStatus, Phase, Status};
use quarry_controller::Finding;
use quarry_transport::tls;

/// Warn if a provided certificate has less than this left.
const GIVEN_LEFT: Duration = Duration::from_secs(7 * 86400);
/// The same for an authority that Quarry issued.
const AUTHORITY_LEFT: Duration = Duration::from_secs(30 * 86400);

const SUBJECT: &str = "controller";
const DOCUMENT: &str = "docs/certificates.md";

/// Problems with a controller's certificates: the one in use, and those that `authority` issues.
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
                format!("cannot be read from their store: {error}"),
                "with Kubernetes, check that its API answers and that the controller's service account has its \
                 permissions; without, check the directory given by --certificates",
            )),
        }
    }
    findings
}

/// The certificate that the controller presents to nodes.
fn in_use(expires: Option<SystemTime>, given: bool, now: SystemTime) -> Option<Finding> {
    let Some(expires) = expires else {
        return Some(Finding::error(
            "certificate-missing",
            SUBJECT,
            "has no certificate to present to nodes, so it cannot reach any",
            format!("see its log for the reason, and {DOCUMENT}"),
        ));
    };
    match expires.duration_since(now) {
        Err(over) => Some(Finding::error(
            "certificate-expired",
            SUBJECT,
            format!("presents a certificate that expired {} ago", spoken(over.duration())),
            format!("issue a new one, or see the controller's log for why none was issued; {DOCUMENT}"),
        )),
        Ok(left) if given && left < GIVEN_LEFT => Some(Finding::warning(
            "certificate-expires",
            SUBJECT,
            format!("presents a certificate that expires in {}", spoken(left)),
            "replace it in the directory of --tls; the controller loads the new one without a restart",
        )),
        Ok(_) => None,
    }
}

/// The certificates that Quarry issues.
fn issued(status: &Status, now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &status.authority {
        AuthorityStatus::Missing => findings.push(Finding::error(
            "authority-missing",
            "certificate authority",
            "is missing, so no certificate can be issued",
            "if the controller has just started, wait; otherwise see its log",
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
                    "nothing: the controllers complete it; `quarry certificates show` shows its progress",
                ));
            }
            let left = next_expires.unwrap_or(*expires).duration_since(now).unwrap_or_default();
            if left < AUTHORITY_LEFT {
                findings.push(Finding::warning(
                    "authority-expires",
                    "certificate authority",
                    format!("expires in {}, and with it all certificates", spoken(left)),
                    "the controllers should have replaced it by now: see their logs for why they did not, or \
                     start with `quarry certificates rotate`",
                ));
            }
        }
    }
    for (subject, leaf) in [("controller's certificate", &status.controller), ("nodes' certificate", &status.node)] {
        let problem = match leaf {
            LeafStatus::Missing => "is missing".to_owned(),
            LeafStatus::Unreadable { why } => format!("cannot be read: {why}"),
            LeafStatus::Present { due: Some(why), .. } => format!("must be renewed: {why}"),
            LeafStatus::Present { due: None, .. } => continue,
        };
        findings.push(Finding::warning(
            "certificate-due",
            subject,
            problem,
            "the controller issues it within a minute; if it does not, see its log, or try `quarry certificates issue`",
        ));
    }
    findings
}

/// Commands of this host that run for much longer than expected.
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

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86400);

    fn checks(findings: &[Finding]) -> Vec<(&str, &str)> {
        findings.iter().map(|finding| (finding.check, finding.subject.as_str())).collect()
    }

    #[test]
    fn the_certificate_in_use_is_judged_by_its_remaining_time() {
        let now = SystemTime::now();
        let check = |expires: Option<SystemTime>, given| in_use(expires, given, now).map(|finding| finding.check);
        assert_eq!(check(None, false), Some("certificate-missing"));
        assert_eq!(check(Some(now - DAY), false), Some("certificate-expired"));
        assert_eq!(check(Some(now + 6 * DAY), true), Some("certificate-expires"));
        assert_eq!(check(Some(now + 8 * DAY), true), None);
        // Issued certificates are renewed in time, whatever is left of them: their status reports that they
        // are due.
        assert_eq!(check(Some(now + DAY), false), None);
    }

    #[test]
    fn issued_certificates_are_reported_when_they_need_attention() {
        let now = SystemTime::now();
        let leaf = |due: Option<&str>| LeafStatus::Present { expires: now + 20 * DAY, due: due.map(str::to_owned) };
        let authority = |phase, left: Duration| AuthorityStatus::Present {
            phase,
            since: None,
            expires: now + left,
            next_expires: None,
        };
        let well = Status { authority: authority(Phase::Steady, 900 * DAY), controller: leaf(None), node: leaf(None) };
        assert_eq!(checks(&issued(&well, now)), []);
        let rotating = Status { authority: authority(Phase::Switch, 900 * DAY), ..well.clone() };
        assert_eq!(checks(&issued(&rotating, now)), [("authority-rotation", "certificate authority")]);
        let old = Status { authority: authority(Phase::Steady, 29 * DAY), ..well.clone() };
        assert_eq!(checks(&issued(&old, now)), [("authority-expires", "certificate authority")]);
        let broken = Status {
            authority: AuthorityStatus::Unusable { why: "its key is another's".into() },
            controller: leaf(Some("its time is nearly over")),
            node: LeafStatus::Missing,
        };
        assert_eq!(
            checks(&issued(&broken, now)),
            [
                ("authority-unusable", "certificate authority"),
                ("certificate-due", "controller's certificate"),
                ("certificate-due", "nodes' certificate"),
            ]
        );
    }

    #[tokio::test]
    async fn a_directory_is_read_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let store = std::sync::Arc::new(quarry_certificates::DirectoryStore::new(directory.path()));
        let authority = Authority::new(store, quarry_certificates::Settings::default()).unwrap();
        let (_slot, source) = tls::slot();
        let found = certificates(source.clone(), Some(authority.clone())).await;
        assert_eq!(found.first().map(|finding| finding.check), Some("certificate-missing"));
        assert!(checks(&found).contains(&("authority-missing", "certificate authority")), "{found:?}");
        authority.step().await.unwrap();
        assert_eq!(checks(&certificates(source, Some(authority)).await), [("certificate-missing", "controller")]);
    }
}
