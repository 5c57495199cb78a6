//! Authorities and certificates of every kind, and two ends that connect.

// Each test binary uses a part of it; a helper that fails is a test that fails.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, unreachable_pub)]

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, Once};

use quarry_transport::tls::{
    Acceptor, CONTROLLER_NAME, ClientStream, ConnectError, Connector, NODE_NAME, Pem, Refusal, Refusals, ServerStream,
    Source, slot,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

pub use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

/// An authority that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// The contents of a certificate.
#[derive(Clone)]
pub struct Leaf {
    pub names: Vec<String>,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    /// First and last year of its validity.
    pub years: (i32, i32),
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Leaf {
    pub fn node() -> Self {
        Self { names: vec![NODE_NAME.into()], usages: vec![ServerAuth], years: (2020, 2999) }
    }

    pub fn controller() -> Self {
        Self { names: vec![CONTROLLER_NAME.into()], usages: vec![ClientAuth], years: (2020, 2999) }
    }

    pub fn named(mut self, names: &[&str]) -> Self {
        self.names = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    pub fn used_for(mut self, usages: &[ExtendedKeyUsagePurpose]) -> Self {
        self.usages = usages.to_vec();
        self
    }

    pub fn expired(mut self) -> Self {
        self.years = (2001, 2002);
        self
    }

    pub fn not_yet_valid(mut self) -> Self {
        self.years = (2998, 2999);
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::new(self.names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a subject");
        params.extended_key_usages = self.usages.clone();
        params.not_before = date_time_ymd(self.years.0, 1, 1);
        params.not_after = date_time_ymd(self.years.1, 1, 1);
        params
    }

    pub fn self_signed(&self) -> Issued {
        let key = KeyPair::generate().unwrap();
        Issued { certificate: self.params().self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        install();
        let key = KeyPair::generate().unwrap();
        let params = Self::params(name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// An authority below this one; its certificate is part of the chains that it issues.
    pub fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = Self::params(name);
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    pub fn issue(&self, leaf: &Leaf) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf.params().signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate, key: key.serialize_pem() }
    }

    /// A certificate that trusts its own authority.
    pub fn pem(&self, leaf: &Leaf) -> Pem {
        self.issue(leaf).trusting(&[self])
    }
}

impl Issued {
    pub fn trusting(self, authorities: &[&Authority]) -> Pem {
        let authorities = authorities.iter().map(|authority| authority.pem.as_str()).collect();
        Pem { certificate: self.certificate, key: self.key, authorities }
    }
}

/// A source with only this material.
pub fn fixed(pem: &Pem) -> Source {
    let (slot, source) = slot();
    slot.offer(pem).unwrap();
    source
}

/// An empty source.
pub fn empty() -> Source {
    slot().1
}

/// What a node sends first.
pub const GREETING: &[u8] = b"settings";

pub type Met = (Result<ServerStream<DuplexStream>, Refusal>, Result<ClientStream<DuplexStream>, ConnectError>);

/// Both ends over a pair of pipes; the server speaks first.
pub async fn meet(acceptor: &Acceptor, connector: &Connector) -> Met {
    let (ours, theirs) = duplex(64 * 1024);
    let server = async {
        let mut stream = acceptor.accept(ours, "10.0.0.9".into()).await?;
        // A client that rejects the server is gone; its own result says so.
        let _ = stream.write_all(GREETING).await;
        let _ = stream.flush().await;
        Ok(stream)
    };
    tokio::join!(server, connector.connect(theirs))
}

pub async fn meet_with(server: &Pem, client: &Pem) -> Met {
    meet(&Acceptor::new(fixed(server), Refusals::new()), &Connector::new(fixed(client))).await
}

/// Sends a line from the client to the server and back.
pub async fn talk<S, C>(server: &mut S, client: &mut C) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut line = [0; 4];
    client.write_all(b"ping").await?;
    client.flush().await?;
    server.read_exact(&mut line).await?;
    assert_eq!(&line, b"ping");
    server.write_all(b"pong").await?;
    server.flush().await?;
    client.read_exact(&mut line).await?;
    assert_eq!(&line, b"pong");
    Ok(())
}

/// Reads what the server sent first.
pub async fn greeted<C: tokio::io::AsyncRead + Unpin>(client: &mut C) {
    let mut greeting = [0; GREETING.len()];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(greeting, GREETING);
}

/// What was logged on this thread since [`Log::capture`], for tests whose tasks all run on their own thread.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

thread_local! {
    static CAPTURED: RefCell<Option<Log>> = const { RefCell::new(None) };
}

impl Log {
    pub fn capture() -> Self {
        install();
        let log = Self::default();
        CAPTURED.set(Some(log.clone()));
        log
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub fn count(&self, part: &str) -> usize {
        self.text().matches(part).count()
    }
}

/// One subscriber for all threads, installed before anything is logged: tracing remembers, for the whole
/// process, which call sites have no subscriber.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::INFO)
            .with_writer(|| ToThread)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

struct ToThread;

impl io::Write for ToThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        CAPTURED.with_borrow(|log| {
            if let Some(log) = log {
                log.0.lock().unwrap().extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The kind of an error, for tables of expectations.
pub(crate) fn kind(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::NotReady => "not_ready",
        ConnectError::TimedOut => "time_out",
        ConnectError::NotTls(_) => "plain_text",
        ConnectError::NotHttp2 => "not_http2",
        ConnectError::Closed(_) => "closed",
        ConnectError::Expired(_) => "expired",
        ConnectError::NotYetValid(_) => "not_yet_valid",
        ConnectError::OtherAuthority(_) => "unknown_authority",
        ConnectError::WrongRole(_) => "wrong_role",
        ConnectError::Rejected(_) => "rejected",
        ConnectError::Other(_) => "other",
    }
}
