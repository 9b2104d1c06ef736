//! A site of pages over the same connections: for programs that show people what a server does.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tokio::signal::unix::{SignalKind, signal};

use super::HttpSettings;
use super::connections::Connections;

/// Bytes of a form at most.
const FORM_BYTES_MAX: usize = 64 << 10;
/// Nothing is loaded from elsewhere, nothing runs that is not a file of the site, nobody frames it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What a site is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteRequest {
    /// `GET`, or `POST` with a form from a page of this site: others are refused before.
    pub method: String,
    /// The path, still percent-encoded.
    pub path: String,
    /// What follows `?`.
    pub query: String,
    /// The body.
    pub body: Vec<u8>,
}

/// What a site answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteAnswer {
    /// The status code.
    pub status: u16,
    /// The type of the body.
    pub content_type: &'static str,
    /// Where to go instead.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl SiteAnswer {
    /// An answer without a new place.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type,
            location: None,
            body: body.into(),
        }
    }

    /// Sends the browser, after a form, to another page.
    pub fn see_other(location: &str) -> Self {
        Self {
            location: Some(location.to_owned()),
            ..Self::new(303, "text/plain; charset=utf-8", location)
        }
    }
}

/// What answers; it may read files, and blocks no connection by it.
pub type Site = Arc<dyn Fn(SiteRequest) -> SiteAnswer + Send + Sync>;

/// Serves `site` on `listen` until SIGTERM or SIGINT; `listening` is told the address.
///
/// # Errors
/// When the address cannot be listened on, or the runtime cannot be started.
pub fn serve_site(listen: &str, site: Site, listening: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = stop_signal()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let is_local = address.ip().is_loopback();
        let router = Router::new().fallback(move |request: Request| {
            let site = Arc::clone(&site);
            async move { answer(site, request, is_local).await }
        });
        listening(address);
        let connections = Connections::new(router, HttpSettings::default());
        connections.serve(listener, stop).await;
        Ok(())
    })
}

fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn answer(site: Site, request: Request, is_local: bool) -> Response<Body> {
    let answered = match asked(request, is_local).await {
        Ok(request) => tokio::task::spawn_blocking(move || site(request)).await,
        Err(refused) => Ok(refused),
    };
    let told = "text/plain; charset=utf-8";
    let answer = answered
        .unwrap_or_else(|_| SiteAnswer::new(500, told, "a bug of the site, which its log tells"));
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(header::CONTENT_TYPE, answer.content_type);
    set(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "same-origin");
    set(header::CACHE_CONTROL, "no-store");
    if let Some(Ok(location)) = answer.location.as_deref().map(HeaderValue::from_str) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// Reads a request, or says why it is not for this site.
async fn asked(request: Request, is_local: bool) -> Result<SiteRequest, SiteAnswer> {
    let refuse = |status, why: &str| SiteAnswer::new(status, "text/plain; charset=utf-8", why);
    let headers = request.headers();
    // A page of another site may have a name of its own lead here; this machine's own names it cannot have.
    if is_local && !host(headers).is_some_and(is_loopback) {
        let why = "this site is for this machine: ask it by localhost or its loopback address";
        return Err(refuse(421, why));
    }
    let method = request.method().as_str().to_owned();
    match method.as_str() {
        "GET" => {}
        "POST" if is_same_origin(headers) => {}
        "POST" => return Err(refuse(403, "the form was not sent by a page of this site")),
        _ => return Err(refuse(405, "a page takes GET, a form POST")),
    }
    let uri = request.uri();
    let (path, query) = (
        uri.path().to_owned(),
        uri.query().unwrap_or_default().to_owned(),
    );
    let (head, body) = request.into_parts();
    let length = head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let body = match (method.as_str(), length) {
        ("GET", _) => Bytes::new(),
        (_, Some(length)) if length <= FORM_BYTES_MAX => {
            let request = Request::from_parts(head, body);
            let patience = HttpSettings::default().body_max;
            let read = tokio::time::timeout(patience, Bytes::from_request(request, &())).await;
            let read = read.map_err(|_| refuse(408, "the form did not arrive"))?;
            read.map_err(|_| refuse(400, "the form cannot be read"))?
        }
        _ => return Err(refuse(413, "a form tells its length, of up to 64 KiB")),
    };
    Ok(SiteRequest {
        method,
        path,
        query,
        body: body.to_vec(),
    })
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let address: Option<std::net::IpAddr> = name.parse().ok();
    name.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

/// Whether a browser says that a page of this very site sent a form. Every current browser says so.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    let origin = text("origin").and_then(|origin| origin.split_once("://"));
    matches!((origin, host(headers)), (Some((_, origin)), Some(host)) if origin == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn only_forms_of_the_site_itself_are_taken() {
        for (expected, pairs) in [
            (true, &[("sec-fetch-site", "same-origin")][..]),
            (
                false,
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://a"),
                    ("host", "a"),
                ],
            ),
            (false, &[("sec-fetch-site", "same-site")]),
            (true, &[("origin", "http://a:80"), ("host", "a:80")]),
            (false, &[("origin", "http://evil"), ("host", "a:80")]),
            (false, &[("origin", "null"), ("host", "a:80")]),
            (false, &[("host", "a:80")]),
            (false, &[]),
        ] {
            assert_eq!(is_same_origin(&headers(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn names_of_this_machine_are_known() {
        for host in [
            "localhost",
            "LOCALHOST:8090",
            "127.0.0.1:1",
            "127.8.0.1",
            "[::1]:9",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "10.0.0.1", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
