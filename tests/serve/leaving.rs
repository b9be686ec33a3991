//! Clients that close their sending half, and clients that leave: both look the same at first. The one gets its answer, and
//! nothing is left of the other.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::server::{PATIENCE, Server, expected, picture, post_head, read_response, wait_until};

/// A server whose batch waits for three tiles: `image1.png` has fewer, and `image0.png` enough.
fn server_that_waits() -> Server {
    Server::start(&["--max-delay", "600000", "--max-batch-tiles", "3"])
}

/// Sends `image1.png` and closes the sending half.
fn half_closed(server: &Server, version: &str, pipelined: &str) -> TcpStream {
    let body = picture("image1.png");
    let head = post_head("/v1/encode", &[], body.len()).replacen("HTTP/1.1", version, 1);
    let mut stream = server.connect();
    stream.write_all(&[head.as_bytes(), &body, pipelined.as_bytes()].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    wait_until("the request", || server.metric("tilesight_requests") == 1.0);
    stream
}

/// Has the batch computed, and takes the answer that was waited for.
#[track_caller]
fn assert_answered(server: &Server, stream: &mut TcpStream) {
    assert_eq!(server.metric("tilesight_requests"), 1.0, "it counts as gone");
    assert_eq!(server.post("/v1/encode", &[], &picture("image0.png")).status, 200);
    let response = read_response(stream);
    assert_eq!(response.status, 200, "{}", response.text());
    let values = bytemuck::cast_slice::<f32, u8>(&expected(&["image1.png"])).to_vec();
    assert!(response.body.windows(values.len()).any(|bytes| bytes == values), "other embeddings");
    wait_until("the end", || server.metric("tilesight_requests") == 0.0);
}

#[test]
fn a_client_that_has_closed_its_sending_half_gets_its_answer() {
    let server = server_that_waits();
    for pipelined in ["", "G"] {
        let mut stream = half_closed(&server, "HTTP/1.1", pipelined);
        let mut interim = [0; 25];
        stream.read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        // It is asked once, and stays.
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(stream.read(&mut [0]).is_err(), "it was asked again, or closed");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_answered(&server, &mut stream);
    }
}

#[test]
fn a_client_of_http_1_0_is_not_asked() {
    let server = server_that_waits();
    let mut stream = half_closed(&server, "HTTP/1.0", "");
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "it was asked, or closed");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_answered(&server, &mut stream);
}

#[test]
fn a_client_that_vanishes_in_its_body_or_its_wait_holds_nothing() {
    // A batch waits for three tiles: pictures that vanish have fewer, and the last one has enough.
    let server = Server::start(&["--max-delay", "600000", "--max-batch-tiles", "3"]);
    let body = picture("image1.png");
    let requests = || server.metric("tilesight_receiving_requests") + server.metric("tilesight_requests");
    // What is pipelined behind the request does not hide that the client has left.
    for (sent, pipelined) in
        [(1, ""), (body.len() / 2, ""), (body.len(), ""), (body.len(), "G"), (body.len(), "\r\n\r\n")]
    {
        let mut vanishing = server.connect();
        vanishing.write_all(post_head("/v1/encode", &[], body.len()).as_bytes()).unwrap();
        vanishing.write_all(&[&body[..sent], pipelined.as_bytes()].concat()).unwrap();
        wait_until("the request", || requests() == 1.0);
        drop(vanishing);
        wait_until("its end", || requests() == 0.0);
        assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
    }
    assert_eq!(server.post("/v1/encode", &[], &picture("image0.png")).status, 200);
    assert_eq!(server.metric("tilesight_batch_requests_sum"), 1.0, "nobody's picture was encoded");
}
