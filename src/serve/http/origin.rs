//! Keeps the pages of other sites away from the server.
//!
//! A browser lets any page send requests to `localhost`, and a name of a page's own may lead to a loopback address (DNS
//! rebinding). So a server on a loopback address answers only to its own names, and no server answers a request that a
//! browser marks as another site's. Programs that are no browsers send neither mark.
//!
//! Reference: <https://www.rfc-editor.org/rfc/rfc9112#section-3.2> for Host,
//! <https://fetch.spec.whatwg.org/#http-cors-protocol> for the origins that are allowed.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::body::drain;
use crate::serve::core::error::ApiError;
use crate::serve::core::service::Service;
use crate::serve::options::Options;

/// Response headers that a page of an allowed origin may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "etag, server-timing, cache-status, retry-after, x-request-id, inference-header-content-length",
);

/// Refuses requests of other sites, and lets the pages of allowed origins read the responses.
pub(super) async fn guard(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let origin = match check(&head, &service.options) {
        Ok(origin) => origin,
        Err(error) => {
            drain(body);
            return finish(error.into_response(), None);
        }
    };
    let is_preflight = head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let response = match &origin {
        Some(_) if is_preflight => preflight(),
        _ => next.run(Request::from_parts(head, body)).await,
    };
    finish(response, origin)
}

/// The origin of the page that asks, where it is another site's and allowed.
fn check(head: &Parts, options: &Options) -> Result<Option<HeaderValue>, ApiError> {
    let host = host(head)?;
    if let Some(host) = &host
        && !is_own_name(host.host(), options)
    {
        return Err(ApiError::ForeignHost);
    }
    let Some(origin) = head.headers.get(ORIGIN) else {
        return if is_cross_site(head) { Err(ApiError::ForeignOrigin) } else { Ok(None) };
    };
    if options.allow_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
        return Ok(Some(origin.clone()));
    }
    // The scheme is a proxy's affair: one that speaks TLS hands plain requests on.
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    match (authority, host) {
        (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host.as_str()) => Ok(None),
        _ => Err(ApiError::ForeignOrigin),
    }
}

/// The host that the request is for: the target's, else the one header there must be.
fn host(head: &Parts) -> Result<Option<Authority>, ApiError> {
    let mut headers = head.headers.get_all(HOST).iter();
    let header = match (headers.next(), headers.next()) {
        (Some(_), Some(_)) => return Err(ApiError::malformed("a request has one Host, found several")),
        (None, _) if head.version == Version::HTTP_11 => {
            return Err(ApiError::malformed("a request of HTTP/1.1 has a Host, found none"));
        }
        (header, _) => header,
    };
    let malformed = || ApiError::malformed("Host must be a name or an address, and a port if need be");
    let header = header.map(|host| host.to_str().ok().and_then(|host| host.parse().ok()).ok_or_else(malformed));
    Ok(head.uri.authority().cloned().or(header.transpose()?))
}

/// Whether the server goes by this name.
fn is_own_name(host: &str, options: &Options) -> bool {
    let name = host.trim_end_matches('.');
    let address = address(name);
    let is_loopback = name.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback());
    if is_loopback || options.allow_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)) {
        return true;
    }
    // A name can be led to any address; an address is what it is.
    !options.listen.ip().is_loopback() && (options.allow_hosts.is_empty() || address.is_some())
}

fn address(host: &str) -> Option<IpAddr> {
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    in_brackets.map_or_else(|| host.parse().ok(), |host| host.parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

/// Whether a browser says that another site asks. A link that is followed shows a page to a person, and to nobody else.
fn is_cross_site(head: &Parts) -> bool {
    let mark = |name| head.headers.get(name).map(HeaderValue::as_bytes);
    let is_followed_link = head.method == Method::GET
        && mark("sec-fetch-mode") == Some(b"navigate")
        && mark("sec-fetch-dest") == Some(b"document");
    mark("sec-fetch-site").is_some_and(|site| site != b"same-origin" && site != b"none") && !is_followed_link
}

/// What a page of an allowed origin may ask.
fn preflight() -> Response {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            "content-type, if-none-match, inference-header-content-length, tilesight-timeout-ms, x-request-id, traceparent, tracestate",
        ),
        (ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn finish(mut response: Response, origin: Option<HeaderValue>) -> Response {
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    response
}
