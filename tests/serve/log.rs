//! The log never matters to a request: whoever reads it may have left, read nothing, or have no room.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::golden_data::golden;
use crate::server::{PATIENCE, Response, picture, post_head, read_response, wait_until};

/// A server on an address of its own, whose standard error the test has.
struct Quiet {
    child: Child,
    address: SocketAddr,
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Quiet {
    fn start(errors: Stdio, options: &[&str]) -> Self {
        // Free a moment ago, and nobody else on this machine asks for it by number.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tilesight"));
        command.args(["serve", "--no-grpc", "--device", "cpu", "--listen", &address.to_string(), "--model"]);
        command.arg(golden("hf_tiny")).args(options).stderr(errors);
        Self { child: command.spawn().unwrap(), address }
    }

    fn ask(&self, head: &str, body: &[u8]) -> Option<Response> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        Some(read_response(&mut stream))
    }

    fn get(&self, path: &str) -> Option<Response> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), b"")
    }

    fn lost_lines(&self) -> u64 {
        let text = self.get("/metrics").unwrap().text();
        let line = text.lines().find_map(|line| line.strip_prefix("tilesight_log_lines_lost_total "));
        line.expect("the counter is there").parse().unwrap()
    }

    /// Answers, counts lost lines, and ends when it is told to.
    fn assert_serves_and_ends(&mut self) {
        wait_until("readiness", || self.get("/health/ready").is_some_and(|answer| answer.status == 200));
        let file = picture("image0.png");
        wait_until("a line to be lost", || {
            assert_eq!(self.ask(&post_head("/v1/encode", &[], file.len()), &file).unwrap().status, 200);
            self.lost_lines() > 0
        });
        assert_eq!(self.get("/health/ready").unwrap().status, 200);
        assert!(Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status().unwrap().success());
        wait_until("the end", || self.child.try_wait().unwrap().is_some());
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn a_reader_that_has_left_stops_nothing() {
    let mut server = Quiet::start(Stdio::piped(), &["--log-level", "debug"]);
    let mut line = String::new();
    BufReader::new(server.child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("semantics"), "{line}");
    server.assert_serves_and_ends();
}

#[test]
fn a_full_disk_stops_nothing() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    Quiet::start(full.into(), &[]).assert_serves_and_ends();
}

/// The pipe takes some 64 KiB, and the queue behind it some thousand lines: beyond both they are lost.
#[test]
fn a_pipe_that_nobody_reads_stops_nothing() {
    let mut server = Quiet::start(Stdio::piped(), &["--log-level", "debug"]);
    wait_until("readiness", || server.get("/health/ready").is_some_and(|answer| answer.status == 200));
    // A client's name for its request is in its line.
    let id = "x".repeat(128);
    let head = format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {id}\r\n\r\n");
    wait_until("a line to be lost", || {
        let mut stream = TcpStream::connect(server.address).unwrap();
        for _ in 0..1000 {
            stream.write_all(head.as_bytes()).unwrap();
            assert_eq!(read_response(&mut stream).status, 200);
        }
        server.lost_lines() > 0
    });
    server.assert_serves_and_ends();
}

#[test]
fn every_line_for_programs_is_an_object() {
    let mut server = Quiet::start(Stdio::piped(), &["--log", "json"]);
    let errors = BufReader::new(server.child.stderr.take().unwrap());
    wait_until("readiness", || server.get("/health/ready").is_some_and(|answer| answer.status == 200));
    assert!(Command::new("kill").args(["-s", "TERM", &server.child.id().to_string()]).status().unwrap().success());
    let lines: Vec<String> = errors.lines().map_while(Result::ok).collect();
    assert!(lines.len() >= 4, "{lines:#?}");
    for line in &lines {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line.is_object()), "{line}");
    }
}
