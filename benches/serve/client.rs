//! The server as a process, and clients that look at the clock.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub struct Server {
    child: Child,
    address: String,
}

/// What was seen at one request at a time; times in milliseconds, a value a request.
pub struct Latency {
    /// From the first byte of the request to the first of the answer.
    pub first_byte: Vec<f64>,
    /// The stages that `Server-Timing` names, added up, but for those that are the server's own.
    pub stages: Vec<f64>,
    /// The first byte less these stages.
    pub own: Vec<f64>,
    /// Gigabytes a second from the first byte of the answer to the last.
    pub rates: Vec<f64>,
    pub body_bytes: usize,
}

/// A request, whole.
pub fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub fn picture_request(picture: &[u8]) -> Vec<u8> {
    post("/v1/encode", "", picture)
}

/// The stages of the encoder, not of the server around it.
const ENCODER: [&str; 6] = ["decode", "preprocess", "compute", "h2d", "gpu", "d2h"];

struct Answer {
    first_byte: Instant,
    stages_ms: f64,
    body_bytes: usize,
}

/// Reads an answer, whose status must be 200.
fn read(stream: &mut TcpStream, body: &mut Vec<u8>) -> Answer {
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    let first_byte = Instant::now();
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    let (mut len, mut stages_ms) = (0, 0.0);
    for number in 0.. {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end();
        assert!(number > 0 || line.contains(" 200 "), "{line}");
        match line.split_once(": ") {
            Some(("content-length", value)) => len = value.parse().unwrap(),
            Some(("server-timing", value)) => {
                let stages = value.split(", ").map(|stage| stage.split_once(";dur=").unwrap());
                let stages = stages.filter(|(name, _)| ENCODER.contains(name));
                stages_ms = stages.map(|(_, time)| time.parse::<f64>().unwrap()).sum();
            }
            Some(_) => {}
            None if line.is_empty() => break,
            None => {}
        }
    }
    body.resize(len, 0);
    reader.read_exact(body).unwrap();
    Answer { first_byte, stages_ms, body_bytes: len }
}

impl Server {
    pub fn start(model: &Path, device: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tilesight"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--device", device, "--model"]).arg(model);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("listening on http://").map(str::to_string));
        let address = address.expect("the server does not start");
        std::thread::spawn(move || lines.for_each(|line| eprintln!("server: {line}")));
        let server = Self { child, address };
        let ready = || {
            let mut stream = server.connect();
            stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer.starts_with("HTTP/1.1 200")
        };
        while !ready() {
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub fn latency(&self, picture: &[u8], duration: Duration) -> Latency {
        let (request, mut stream, mut body) = (picture_request(picture), self.connect(), Vec::new());
        let (mut first_byte, mut stages, mut own, mut rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (begin, mut body_bytes, mut number) = (Instant::now(), 0, 0);
        while begin.elapsed() < duration || number < 7 {
            let start = Instant::now();
            stream.write_all(&request).unwrap();
            let answer = read(&mut stream, &mut body);
            let transfer = answer.first_byte.elapsed();
            number += 1;
            // The first two warm caches and the allocator.
            if number <= 2 {
                continue;
            }
            let milliseconds = (answer.first_byte - start).as_secs_f64() * 1e3;
            first_byte.push(milliseconds);
            stages.push(answer.stages_ms);
            own.push(milliseconds - answer.stages_ms);
            rates.push(answer.body_bytes as f64 / transfer.as_secs_f64() / 1e9);
            body_bytes = answer.body_bytes;
        }
        Latency { first_byte, stages, own, rates, body_bytes }
    }

    /// Answers a second to clients that each always have one request. Answers come a batch at a time, so the clock runs
    /// from the first answer of a batch to the first of another.
    pub fn answers_per_second(&self, request: &[u8], clients: usize, duration: Duration) -> f64 {
        let (is_over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..clients {
                scope.spawn(|| {
                    let (mut stream, mut body) = (self.connect(), Vec::new());
                    while !is_over.load(Ordering::Relaxed) {
                        stream.write_all(request).unwrap();
                        read(&mut stream, &mut body);
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            // Until all clients have had an answer, the batches are not what they will be.
            while answers.load(Ordering::Relaxed) < 2 * clients as u64 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let (begin, before) = next_batch(&answers);
            std::thread::sleep(duration);
            let (end, after) = next_batch(&answers);
            is_over.store(true, Ordering::Relaxed);
            (after - before) as f64 / (end - begin).as_secs_f64()
        })
    }
}

/// When the next batch is answered, and the answers before it.
fn next_batch(answers: &AtomicU64) -> (Instant, u64) {
    let (mut known, mut since) = (answers.load(Ordering::Relaxed), Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(1));
        let found = answers.load(Ordering::Relaxed);
        // The rest of a batch comes within this time.
        if found > known && since.elapsed() > Duration::from_millis(10) {
            return (Instant::now(), known);
        }
        if found > known {
            (known, since) = (found, Instant::now());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
