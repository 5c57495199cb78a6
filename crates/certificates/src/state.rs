//! The authority's item: the authority itself, and the phase of its rotation.
//!
//! | file | content |
//! |---|---|
//! | `tls.crt`, `tls.key` | the authority; during a rotation the old one |
//! | `phase` | `publish` or `switch` during a rotation, else absent |
//! | `next.crt`, `next.key` | during a rotation the new authority |
//! | `since` | when both leaf items were first observed to meet the phase's requirements, seconds since 1970;
//! absent until then |
//!
//! Files of other names are kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Error;
use crate::leaf;
use crate::store::{Data, file};

const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const PHASE: &str = "phase";
const SINCE: &str = "since";

/// The phase of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// One authority, no rotation.
    Steady,
    /// Certificates are issued by the old authority; old and new are trusted.
    Publish,
    /// Certificates are issued by the new authority; old and new are trusted.
    Switch,
}

impl Phase {
    /// The name for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Steady => "steady",
            Phase::Publish => "publish",
            Phase::Switch => "switch",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An authority: a certificate and its key.
#[derive(Clone)]
pub(crate) struct Ca {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Ca {
    /// Parses an authority.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(certificate: String, key: String) -> Result<Self, String> {
        let mut all = leaf::certificates(&certificate, file::CERTIFICATE)?;
        if all.len() != 1 {
            return Err(format!("{} contains {} certificates instead of one", file::CERTIFICATE, all.len()));
        }
        let der = all.remove(0);
        let (not_before, not_after) = leaf::check_pair(&der, &key)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|why| why.to_string())?;
        let signs = parsed.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
        if !parsed.is_ca() || !signs {
            return Err(format!("{} is not an authority's certificate", file::CERTIFICATE));
        }
        Ok(Self { certificate, key, der, not_before, not_after })
    }

    /// The certificate, PEM, ending in a newline.
    pub(crate) fn certificate(&self) -> String {
        format!("{}\n", self.certificate.trim_end())
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When another authority must replace it.
    pub(crate) fn rotate_at(&self) -> SystemTime {
        leaf::two_thirds(self.not_before, self.not_after)
    }
}

/// The new authority during a rotation.
#[derive(Clone)]
pub(crate) struct Rotation {
    pub(crate) next: Ca,
    /// Whether certificates are already issued by the new authority.
    pub(crate) switched: bool,
    /// When both leaf items were first observed to meet the phase's requirements.
    pub(crate) since: Option<SystemTime>,
}

/// The parsed item of the authority.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) current: Ca,
    pub(crate) rotation: Option<Rotation>,
    /// Unknown files.
    other: Data,
}

impl State {
    /// A first authority.
    pub(crate) fn new(current: Ca, other: Data) -> Self {
        let mut state = Self { current, rotation: None, other };
        for name in [file::CERTIFICATE, file::KEY, NEXT_CERTIFICATE, NEXT_KEY, PHASE, SINCE] {
            state.other.remove(name);
        }
        state
    }

    /// Parses the authority's item.
    ///
    /// # Errors
    /// [`Error::AuthorityUnusable`]: damaged, or written by a version of Quarry with other phases.
    pub(crate) fn parse(mut data: Data) -> Result<Self, Error> {
        Self::read(&mut data).map_err(|why| Error::AuthorityUnusable { why })
    }

    fn read(data: &mut Data) -> Result<Self, String> {
        let current = Ca::parse(take(data, file::CERTIFICATE)?, take(data, file::KEY)?)?;
        let rotation = match take_if_there(data, PHASE)?.as_deref().unwrap_or("steady").trim() {
            "steady" => {
                if data.contains_key(NEXT_CERTIFICATE) || data.contains_key(NEXT_KEY) {
                    return Err(format!("{NEXT_CERTIFICATE} or {NEXT_KEY} exists, but no {PHASE}"));
                }
                None
            }
            phase @ ("publish" | "switch") => {
                let next = Ca::parse(take(data, NEXT_CERTIFICATE)?, take(data, NEXT_KEY)?)
                    .map_err(|why| format!("the new authority ({NEXT_CERTIFICATE}, {NEXT_KEY}): {why}"))?;
                if next.der == current.der {
                    return Err("the new authority is the same as the old one".to_owned());
                }
                let since = take_if_there(data, SINCE)?.map(|text| instant(&text)).transpose()?;
                Some(Rotation { next, switched: phase == "switch", since })
            }
            other => return Err(format!("{PHASE} is {other:?}, perhaps written by a newer Quarry")),
        };
        Ok(Self { current, rotation, other: std::mem::take(data) })
    }

    /// The files of the item.
    pub(crate) fn data(&self) -> Data {
        let mut data = self.other.clone();
        let mut put = |name: &str, content: String| data.insert(name.to_owned(), content.into_bytes());
        put(file::CERTIFICATE, self.current.certificate());
        put(file::KEY, self.current.key.clone());
        if let Some(rotation) = &self.rotation {
            put(PHASE, self.phase().name().to_owned());
            put(NEXT_CERTIFICATE, rotation.next.certificate());
            put(NEXT_KEY, rotation.next.key.clone());
            if let Some(since) = rotation.since {
                put(SINCE, since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string());
            }
        }
        data
    }

    pub(crate) fn phase(&self) -> Phase {
        match &self.rotation {
            None => Phase::Steady,
            Some(Rotation { switched: false, .. }) => Phase::Publish,
            Some(Rotation { switched: true, .. }) => Phase::Switch,
        }
    }

    /// The phase's requirements for the leaf items: the issuer, and the trusted authorities.
    pub(crate) fn demand(&self) -> (&Ca, Vec<&Ca>) {
        match &self.rotation {
            None => (&self.current, vec![&self.current]),
            Some(rotation) => {
                let issuer = if rotation.switched { &rotation.next } else { &self.current };
                (issuer, vec![&self.current, &rotation.next])
            }
        }
    }

    /// The same state, with both leaf items observed to meet the requirements at `since`, or not.
    pub(crate) fn with_since(&self, since: Option<SystemTime>) -> Self {
        let mut state = self.clone();
        if let Some(rotation) = &mut state.rotation {
            rotation.since = since;
        }
        state
    }

    /// The next state: from `publish` to `switch`, from `switch` to `steady`. `steady` has no automatic next
    /// state.
    pub(crate) fn following(&self) -> Self {
        let mut state = self.clone();
        match state.rotation.take() {
            Some(rotation) if !rotation.switched => {
                state.rotation = Some(Rotation { switched: true, since: None, ..rotation });
            }
            Some(rotation) => state.current = rotation.next,
            None => {}
        }
        state
    }

    /// A new rotation to `next`.
    pub(crate) fn rotating_to(&self, next: Ca) -> Self {
        let mut state = self.clone();
        state.rotation = Some(Rotation { next, switched: false, since: None });
        state
    }
}

fn take(data: &mut Data, name: &str) -> Result<String, String> {
    let text = leaf::text(data, name)?;
    data.remove(name);
    Ok(text)
}

fn take_if_there(data: &mut Data, name: &str) -> Result<Option<String>, String> {
    if data.contains_key(name) { take(data, name).map(Some) } else { Ok(None) }
}

fn instant(text: &str) -> Result<SystemTime, String> {
    let seconds = text.trim().parse().map_err(|_| format!("{SINCE} is not a number of seconds"))?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(|| format!("{SINCE} is out of range"))
}
