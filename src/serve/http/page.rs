//! What a person looks at: `GET /`, which shows what becomes of a picture, and `GET /docs`, which shows
//! `GET /openapi.json`. All of it is in the program; a browser asks nobody but this server.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::IntoResponse;
use axum::routing::get;

/// Nothing from elsewhere, nothing inline. `blob:` and `data:` are the picture that was dropped and the like: what the
/// page itself holds.
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The routes of the pages and of what they are made of.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let file = |kind, text| get(move || async move { answer(kind, text) });
    Router::new()
        .route("/", file(HTML, include_str!("page/index.html")))
        .route("/docs", file(HTML, include_str!("page/docs.html")))
        .route("/openapi.json", file("application/json", include_str!("page/openapi.json")))
        .route("/page/page.css", file(CSS, include_str!("page/page.css")))
        .route("/page/page.js", file(SCRIPT, include_str!("page/page.js")))
        .route("/page/answer.js", file(SCRIPT, include_str!("page/answer.js")))
        .route("/page/figures.js", file(SCRIPT, include_str!("page/figures.js")))
        .route("/page/components.js", file(SCRIPT, include_str!("page/components.js")))
        .route("/page/docs.js", file(SCRIPT, include_str!("page/docs.js")))
        .route("/page/icon.svg", file("image/svg+xml", include_str!("page/icon.svg")))
}

fn answer(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        // Another version of the program may stand here tomorrow.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}
