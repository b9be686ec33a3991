//! Pages of other sites cannot use a server on a loopback address, whatever a browser lets them send.

use crate::server::{Response, Server, picture};

/// Sends a request with just these headers.
fn send(server: &Server, line: &str, headers: &[&str], body: &[u8]) -> Response {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let len = body.len();
    server.send(&format!("{line}\r\n{headers}Connection: close\r\nContent-Length: {len}\r\n\r\n"), body)
}

fn ready(server: &Server, headers: &[&str]) -> u16 {
    send(server, "GET /v2/health/ready HTTP/1.1", headers, b"").status
}

#[test]
fn a_server_on_a_loopback_address_answers_to_its_own_names() {
    let server = Server::start(&["--allow-host", "models.example"]);
    let port = server.address.port();
    for own in ["localhost", "LOCALHOST.", "127.0.0.1", "127.8.9.10", "[::1]", "models.example", "Models.Example"] {
        assert_eq!(ready(&server, &[&format!("Host: {own}")]), 200, "{own}");
        assert_eq!(ready(&server, &[&format!("Host: {own}:{port}")]), 200, "{own}");
    }
    for foreign in ["evil.example", "localhost.evil.example", "10.0.0.1", "[2001:db8::1]", "xmodels.example"] {
        let refused = send(&server, "POST /v1/encode HTTP/1.1", &[&format!("Host: {foreign}")], &picture("image0.png"));
        assert_eq!(refused.status, 421, "{foreign}");
        assert!(!refused.text().contains(foreign), "a client's data are not repeated: {}", refused.text());
    }
    // The target's host counts where there is one.
    let absolute = |host: &str| format!("GET http://{host}/v2/health/ready HTTP/1.1");
    assert_eq!(send(&server, &absolute("evil.example"), &["Host: localhost"], b"").status, 421);
    assert_eq!(send(&server, &absolute("localhost"), &["Host: localhost"], b"").status, 200);
}

/// RFC 9112, section 3.2.
#[test]
fn a_request_has_one_host() {
    let server = Server::start(&[]);
    assert_eq!(ready(&server, &[]), 400);
    assert_eq!(ready(&server, &["Host: localhost", "Host: localhost"]), 400);
    assert_eq!(ready(&server, &["Host: local host"]), 400);
    assert_eq!(send(&server, "GET /v2/health/ready HTTP/1.0", &[], b"").status, 200);
}

#[test]
fn pages_of_other_sites_are_refused_unless_their_origin_is_allowed() {
    let server = Server::start(&["--allow-origin", "https://app.example", "--shared-memory-regions", "1"]);
    let own = format!("Host: {}", server.address);
    let file = picture("image0.png");
    let post = |headers: &[&str]| send(&server, "POST /v1/encode HTTP/1.1", &[&[&own[..]], headers].concat(), &file);
    let same = format!("Origin: http://{}", server.address);
    let same = &same[..];
    for mine in [&[][..], &[same], &[same, "Sec-Fetch-Site: same-origin"], &["Sec-Fetch-Site: none"]] {
        let answer = post(mine);
        assert_eq!(answer.status, 200, "{mine:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let foreign = [
        &["Origin: http://evil.example"][..],
        &["Origin: http://localhost:1"],
        &["Origin: null"],
        &["Origin: http://evil.example", "Content-Type: text/plain"],
        &["Sec-Fetch-Site: cross-site"],
        &["Sec-Fetch-Site: same-site"],
    ];
    for foreign in foreign {
        assert_eq!(post(foreign).status, 403, "{foreign:?}");
    }
    let register = "POST /v2/systemsharedmemory/region/r/register HTTP/1.1";
    let json = br#"{"key": "/object", "byte_size": 1}"#;
    assert_eq!(send(&server, register, &[&own, "Origin: http://evil.example"], json).status, 403);

    let allowed = post(&["Origin: https://app.example", "Sec-Fetch-Site: cross-site"]);
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(allowed.header("vary"), Some("origin"));
    let ask = ["Origin: https://app.example", "Access-Control-Request-Method: POST"];
    let preflight = send(&server, "OPTIONS /v1/encode HTTP/1.1", &[&own, ask[0], ask[1]], b"");
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (204, Some("GET, POST")));
    let ask = ["Origin: http://evil.example", "Access-Control-Request-Method: POST"];
    assert_eq!(send(&server, "OPTIONS /v1/encode HTTP/1.1", &[&own, ask[0], ask[1]], b"").status, 403);

    // A link elsewhere that a person follows shows the page; a frame or a script does not get it.
    let followed = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"];
    assert_eq!(send(&server, "GET / HTTP/1.1", &[&[&own[..]], &followed[..]].concat(), b"").status, 200);
    let framed = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"];
    assert_eq!(send(&server, "GET / HTTP/1.1", &[&[&own[..]], &framed[..]].concat(), b"").status, 403);
}

#[test]
fn every_response_says_that_its_type_is_not_to_be_guessed() {
    let server = Server::start(&[]);
    for path in ["/", "/metrics", "/health/live", "/v2", "/v2/models/other", "/nowhere", "/openapi.json"] {
        let answer = server.get(path);
        let found = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-content-type-options"));
        assert_eq!(found.map(|(_, value)| &value[..]).collect::<Vec<_>>(), ["nosniff"], "{path}");
    }
    assert_eq!(ready(&server, &[]), 400);
}
