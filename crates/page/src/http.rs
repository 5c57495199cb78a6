//! HTTP: the routes, who is answered, and the headers.
//!
//! There is no login: a loopback address is all that protects the page. A browser would also send requests that another
//! site makes it send, so only requests to a loopback *name* are answered (DNS rebinding), and nothing is ever changed.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use data_encoding::BASE64;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use maud::Markup;
use quarry_proto::view::v2::view_server::View;
use quarry_volume::VolumeId;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::render::{self, STYLE};
use crate::source::Source;
use crate::url::Query;

/// How many pages are made at once: more requests wait, and the controller's own work goes on.
const AT_ONCE: usize = 2;

/// Nothing but the stylesheet in the page and images in `data:` URLs is loaded, nothing runs, and no other site can show
/// the page in a frame.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let style = BASE64.encode(&Sha256::digest(STYLE.as_bytes()));
    HeaderValue::try_from(format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'"
    ))
    .ok()
});

/// The headers of every answer, besides [`POLICY`].
const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// An address that only this host (in Kubernetes: this pod) can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopbackAddress(SocketAddr);

/// The text is not a loopback address with a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a loopback address with a port, such as 127.0.0.1:9814 or [::1]:9814: the page has no login, so it is \
     served on loopback addresses only; use `kubectl quarry page`, or `ssh -L`, to open it from another host"
)]
pub struct NotLoopback(String);

impl FromStr for LoopbackAddress {
    type Err = NotLoopback;

    fn from_str(text: &str) -> Result<Self, NotLoopback> {
        let address = text.parse::<SocketAddr>().ok().filter(|address| address.ip().is_loopback());
        address.map(Self).ok_or_else(|| NotLoopback(text.to_owned()))
    }
}

impl fmt::Display for LoopbackAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The port cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for the page: {source}; choose a free port")]
pub struct BindError {
    /// The address.
    address: LoopbackAddress,
    /// The cause.
    source: io::Error,
}

/// Binds the port. Separate from [`serve`], so that a port in use is detected at startup.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(address: LoopbackAddress) -> Result<TcpListener, BindError> {
    TcpListener::bind(address.0).await.map_err(|source| BindError { address, source })
}

/// Serves the page until `stop` is cancelled.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, view: Arc<dyn View>, stop: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router(view)).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// What the handlers share.
struct Pages {
    source: Source,
    turns: Semaphore,
}

/// The routes. Other methods than GET and HEAD get 405.
pub(crate) fn router(view: Arc<dyn View>) -> Router {
    let pages = Arc::new(Pages { source: Source::new(view), turns: Semaphore::new(AT_ONCE) });
    Router::new()
        .route("/", get(fleet))
        .route("/findings", get(findings))
        .route("/nodes/{name}", get(node))
        .route("/volumes", get(volumes))
        .route("/volumes/{id}", get(volume))
        .fallback(get(|| async { not_found("this address") }))
        .with_state(pages)
        .layer(middleware::from_fn(guard))
}

/// Rejects requests to other names, and adds the headers to every answer.
async fn guard(request: Request, next: Next) -> Response {
    let local = is_local(request.headers()) && request.uri().authority().is_none_or(is_loopback);
    let mut response = match local {
        true => next.run(request).await,
        false => (
            StatusCode::FORBIDDEN,
            "The page is only answered under the names 127.0.0.1, [::1] and localhost: open it through one of them.\n",
        )
            .into_response(),
    };
    let headers = response.headers_mut();
    headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.extend(POLICY.clone().map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
    response
}

/// Whether the request names exactly one host, and that is a loopback name.
fn is_local(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    host.to_str().ok().and_then(|host| host.parse().ok()).is_some_and(|authority| is_loopback(&authority))
}

/// Whether this is `localhost` or a loopback address, with or without a port.
fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    !authority.as_str().contains('@')
        && (host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

type Answer = Result<Html<String>, Response>;

fn html(page: Markup) -> Html<String> {
    Html(page.into_string())
}

async fn fleet(State(pages): State<Arc<Pages>>, RawQuery(query): RawQuery) -> Answer {
    let _turn = pages.turns.acquire().await;
    let fleet = pages.source.fleet().await.map_err(failed)?;
    Ok(html(render::fleet(&fleet, &parse(query))))
}

async fn findings(State(pages): State<Arc<Pages>>, RawQuery(query): RawQuery) -> Answer {
    let _turn = pages.turns.acquire().await;
    let diagnosis = pages.source.diagnosis().await.map_err(failed)?;
    Ok(html(render::findings(&diagnosis, &parse(query))))
}

async fn node(State(pages): State<Arc<Pages>>, Path(name): Path<String>, RawQuery(query): RawQuery) -> Answer {
    let _turn = pages.turns.acquire().await;
    let node = pages.source.node(&name).await.map_err(failed)?;
    let node = node.ok_or_else(|| not_found(&format!("node {name}")))?;
    Ok(html(render::node(&node, &parse(query))))
}

async fn volumes(State(pages): State<Arc<Pages>>, RawQuery(query): RawQuery) -> Answer {
    let _turn = pages.turns.acquire().await;
    let query = parse(query);
    let volumes = pages.source.volumes(&query).await.map_err(failed)?;
    Ok(html(render::volumes(&volumes, &query)))
}

async fn volume(State(pages): State<Arc<Pages>>, Path(id): Path<String>) -> Answer {
    let _turn = pages.turns.acquire().await;
    let missing = || not_found(&format!("volume {id}"));
    let parsed: VolumeId = id.parse().map_err(|_| missing())?;
    let volume = pages.source.volume(&parsed).await.map_err(failed)?.ok_or_else(missing)?;
    Ok(html(render::volume(&volume)))
}

fn parse(query: Option<String>) -> Query {
    Query::parse(&query.unwrap_or_default())
}

/// The answer if something does not exist.
fn not_found(what: &str) -> Response {
    (StatusCode::NOT_FOUND, html(render::not_found(what))).into_response()
}

/// The answer if the controller does not know yet.
fn failed(status: Status) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, html(render::failed(status.message()))).into_response()
}
