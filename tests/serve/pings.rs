//! Clients of HTTP/2 that ask for nothing, at both addresses: a connection that only pings ends, and is told why; floods end
//! at once; at the address of HTTP/1.1 there is an answer that can be read.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::framing::frame;
use crate::grpc_client::{Client, assert_serves};
use crate::server::{PATIENCE, Server, read_response};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A connection that has sent its preface and settings.
fn connect(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.grpc).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).unwrap();
    stream
}

/// The next frame's kind and payload; none where the connection is over.
fn next_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut read = |len| {
        let mut bytes = vec![0; len];
        let result = stream.read_exact(&mut bytes);
        result.inspect_err(|error| assert_ne!(error.kind(), ErrorKind::WouldBlock, "it is open")).ok().map(|()| bytes)
    };
    let head = read(9)?;
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    Some((head[3], read(len)?))
}

/// Reads to the end; whether it was told.
fn is_told_goodbye(stream: &mut TcpStream) -> bool {
    std::iter::from_fn(|| next_frame(stream)).filter(|(kind, _)| *kind == GOAWAY).count() > 0
}

#[test]
fn a_flood_of_frames_that_ask_for_nothing_ends_the_connection() {
    let server = Server::start(&["--idle-timeout", "600"]);
    for kind in [PING, SETTINGS] {
        let mut stream = connect(&server);
        let mut writer = stream.try_clone().unwrap();
        let flood = std::thread::spawn(move || {
            let payload = if kind == PING { &[0; 8][..] } else { &[] };
            let frames = frame(kind, 0, 0, payload).repeat(100);
            let begin = Instant::now();
            while writer.write_all(&frames).is_ok() && begin.elapsed() < PATIENCE {}
        });
        assert!(is_told_goodbye(&mut stream), "frames of kind {kind}");
        drop(stream);
        flood.join().unwrap();
    }
    assert_serves(&Client::connect(server.grpc));
}

#[test]
fn pings_do_not_keep_a_connection_and_its_end_is_told() {
    let server = Server::start(&["--idle-timeout", "1"]);
    for is_pinging in [true, false] {
        let begin = Instant::now();
        let mut stream = connect(&server);
        let mut writer = stream.try_clone().unwrap();
        let pings = std::thread::spawn(move || {
            // Few enough to be no flood.
            while is_pinging && writer.write_all(&frame(PING, 0, 0, &[0; 8])).is_ok() && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        assert!(is_told_goodbye(&mut stream), "pinging: {is_pinging}");
        let time = begin.elapsed();
        assert!(time > Duration::from_millis(900) && time < Duration::from_secs(60), "after {time:?}");
        drop(stream);
        pings.join().unwrap();
    }
}

#[test]
fn a_connection_has_a_share_of_the_requests() {
    for (max_requests, share) in [("256", 64), ("40", 10), ("1", 1), ("100000", 256)] {
        let server = Server::start(&["--max-requests", max_requests]);
        let mut stream = connect(&server);
        let (kind, settings) = next_frame(&mut stream).unwrap();
        assert_eq!(kind, SETTINGS);
        // SETTINGS_MAX_CONCURRENT_STREAMS.
        let found = settings.chunks_exact(6).find(|setting| setting[..2] == [0, 3]).unwrap();
        assert_eq!(found[2..], u32::to_be_bytes(share), "of {max_requests}");
    }
}

#[test]
fn http2_at_the_address_of_http1_is_told_where_to_go() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    stream.write_all(PREFACE).unwrap();
    // What a client says next, before it has read anything.
    let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[]).repeat(20));
    let response = read_response(&mut stream);
    assert_eq!((response.status, response.header("connection")), (505, Some("close")));
    assert!(response.text().contains("--grpc-listen"), "{}", response.text());
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    // One that comes in pieces is told that this is no request.
    let mut stream = server.connect();
    for piece in PREFACE.chunks(12) {
        let _ = stream.write_all(piece);
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = read_response(&mut stream).status;
    assert!(status == 400 || status == 505, "{status}");
}
