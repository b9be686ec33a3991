//! Probes: they are answered whatever connections there are, at the ordinary address as long as some of them are idle, and at
//! an address of their own in any case.

use std::io::Write;
use std::net::TcpStream;

use crate::golden_data::golden;
use crate::server::{Server, picture, post_head, wait_until};

#[test]
fn probes_have_an_address_of_their_own() {
    // Three tiles make a batch, and the requests that hold all connections have fewer.
    let options = ["--max-connections", "2", "--max-delay", "600000", "--max-batch-tiles", "3"];
    let server = Server::start(&[&options[..], &["--health-listen", "127.0.0.1:0"]].concat());
    let health = server.health.unwrap();
    let body = picture("image1.png");
    let held = [(); 2].map(|()| {
        let mut stream = server.connect();
        stream.write_all(post_head("/v1/encode", &[], body.len()).as_bytes()).unwrap();
        stream
    });
    wait_until("the requests", || server.probe("/metrics").text().contains("tilesight_receiving_requests 2\n"));
    // More than there are slots for probes ask for nothing.
    let _idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(health).unwrap()).collect();
    for _ in 0..10 {
        for path in ["/health/live", "/health/ready", "/metrics"] {
            let response = server.probe(path);
            assert_eq!((response.status, response.header("x-content-type-options")), (200, Some("nosniff")), "{path}");
        }
    }
    for path in ["/", "/v2", "/docs", "/v1/encode"] {
        assert_eq!(server.probe(path).status, 404, "{path}");
    }
    drop(held);
    assert_eq!(server.get("/health/live").status, 200);
}

#[test]
fn probes_are_told_while_the_server_loads_and_while_it_ends() {
    let model = golden("hf_tiny").display().to_string();
    let options = ["--device", "cpu", "--model", &model, "--health-listen", "127.0.0.1:0"];
    let more = ["--body-timeout", "600", "--timeout", "600", "--drain-timeout", "600"];
    let mut server = Server::spawn(&[&options[..], &more].concat(), &[]);
    assert_eq!(server.probe("/health/live").status, 200);
    wait_until("readiness", || server.probe("/health/ready").status == 200);
    let body = picture("image1.png");
    let mut held = server.connect();
    held.write_all(&[post_head("/v1/encode", &[], body.len()).as_bytes(), &body[..100]].concat()).unwrap();
    wait_until("the request", || server.metric("tilesight_receiving_requests") == 1.0);
    server.signal("TERM");
    wait_until("the end's beginning", || server.probe("/health/ready").status == 503);
    assert_eq!(server.probe("/health/live").status, 200);
    drop(held);
    assert!(server.wait().success());
}

#[test]
fn probes_at_the_ordinary_address_are_answered_among_idle_connections() {
    let server = Server::start(&["--max-connections", "64", "--idle-timeout", "600", "--header-timeout", "600"]);
    let _idle: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
    for _ in 0..10 {
        assert_eq!(server.get("/health/live").status, 200);
        assert_eq!(server.get("/health/ready").status, 200);
    }
}
