//! Clients that keep the server waiting: each is sent away in time, holds nothing afterwards, and costs nobody else
//! anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tilesight::checkpoint::{NameFormat, RandomWeights, demo_config};
use tilesight::{Dtype, EncoderConfig};

use crate::golden_data::golden;
use crate::grpc_client::{Client, assert_serves as assert_infers};
use crate::noise::noise;
use crate::server;
use crate::server::{PATIENCE, Server, post_head, read_response, wait_until};

fn picture() -> Vec<u8> {
    server::picture("image0.png")
}

#[track_caller]
fn assert_serves(server: &Server) {
    let response = server.post("/v1/encode", &[], &picture());
    assert_eq!(response.status, 200, "{}", response.text());
}

/// The server has closed this connection, and says nothing more.
#[track_caller]
fn assert_closed(stream: &mut TcpStream) {
    // A connection may end by a reset, too.
    let mut said = Vec::new();
    if let Err(error) = stream.read_to_end(&mut said) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it is open");
    }
    assert_eq!(said, b"", "{}", String::from_utf8_lossy(&said));
}

/// Waits until a connection that may stay for so long is closed: not earlier, and within a minute, for a slow machine is late.
#[track_caller]
fn assert_closed_after(time: Duration, stream: &mut TcpStream, begin: Instant) {
    assert_closed(stream);
    assert!(begin.elapsed() >= time.mul_f64(0.9), "after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(60), "after {:?}", begin.elapsed());
}

#[test]
fn a_head_that_comes_drop_by_drop_has_an_end() {
    let server = Server::start(&["--header-timeout", "1"]);
    let begin = Instant::now();
    let mut silent = server.connect();
    let mut slow = server.connect();
    let drops = {
        let mut slow = slow.try_clone().unwrap();
        std::thread::spawn(move || {
            // All of it would take minutes.
            let head = post_head("/v1/encode", &[("X", &"x".repeat(6000))], 5);
            let sent = head.bytes().take_while(|byte| {
                std::thread::sleep(Duration::from_millis(20));
                slow.write_all(&[*byte]).is_ok()
            });
            sent.count()
        })
    };
    assert_closed_after(Duration::from_secs(1), &mut slow, begin);
    assert_closed_after(Duration::from_secs(1), &mut silent, begin);
    drop(slow);
    assert!(drops.join().unwrap() < 6000, "all of it was taken");
    assert_serves(&server);
}

#[test]
fn a_connection_that_asks_for_nothing_has_an_end_and_one_that_asks_again_has_none() {
    const IDLE: Duration = Duration::from_secs(2);
    let server = Server::start(&["--idle-timeout", "2", "--header-timeout", "60"]);
    let mut stream = server.connect();
    let ask = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // Questions at a tenth of that time from one another, over more than that time.
    let first = Instant::now();
    while first.elapsed() < IDLE + IDLE / 4 {
        stream.write_all(ask).unwrap();
        assert_eq!(read_response(&mut stream).status, 200);
        std::thread::sleep(IDLE / 10);
    }
    let begin = Instant::now();
    stream.write_all(ask).unwrap();
    assert_eq!(read_response(&mut stream).status, 200);
    assert_closed_after(IDLE, &mut stream, begin);
    // A request that takes longer than that is no idle connection.
    let waits = Server::start(&["--idle-timeout", "1", "--header-timeout", "1", "--max-delay", "2500"]);
    assert_serves(&waits);
}

/// A small encoder of wide embeddings.
fn wide() -> EncoderConfig {
    EncoderConfig {
        num_heads: 1,
        clip_embed_dim: 16,
        clip_num_layers: 1,
        clip_hidden_states: vec![],
        num_layers_projection: 1,
        decoder_embed_dim: 8192,
        tile_size: 28,
        ..demo_config()
    }
}

/// A request whose answer, of 32 MB, is larger than what the system keeps for a connection.
fn large() -> Vec<u8> {
    let values = noise(NUM_TILES * wide().tile_len(), 3);
    let binary: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let request = json!({
        "inputs": [
            {
                "name": "pixels", "shape": [NUM_TILES / 4, 4, 3, 28, 28], "datatype": "FP32",
                "parameters": { "binary_data_size": binary.len() },
            },
            { "name": "aspect_ratio", "shape": [NUM_TILES / 4, 2], "datatype": "INT64", "data": vec![[2, 2]; NUM_TILES / 4] },
        ],
        "parameters": { "binary_data_output": true },
    });
    let json = request.to_string();
    let body = [json.as_bytes(), &binary].concat();
    let headers = [("Inference-Header-Content-Length", &*json.len().to_string())];
    [post_head("/v2/models/tilesight/infer", &headers, body.len()).as_bytes(), &body].concat()
}

const NUM_TILES: usize = 200;

/// Bytes of its embeddings.
fn large_answer() -> usize {
    4 * NUM_TILES * wide().num_tokens() * wide().decoder_embed_dim
}

#[test]
fn an_answer_that_nobody_takes_gives_its_place_back() {
    let model = tempfile::tempdir().unwrap();
    let weights = RandomWeights::new(&wide(), Dtype::Bf16, 1).unwrap();
    weights.write(model.path(), NameFormat::Torchtune, &|_, _| {}).unwrap();
    let model = model.path().display().to_string();
    let options = ["--device", "cpu", "--model", &model, "--write-timeout", "2", "--max-requests", "1"];
    let server = Server::spawn(&options, &[]);
    server.wait_until_ready();
    let request = large();
    let mut memory = Vec::new();
    for _ in 0..4 {
        let mut stuck = server.connect();
        stuck.write_all(&request).unwrap();
        wait_until("the request", || server.metric("tilesight_requests") == 1.0);
        assert_eq!(server.post("/v1/encode", &[], &picture()).status, 429, "the place is taken");
        wait_until("its body", || server.metric("tilesight_held_bytes") > large_answer() as f64);
        wait_until("its end", || server.metric("tilesight_requests") == 0.0);
        assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
        memory.push(server.resident_bytes());
        drop(stuck);
    }
    assert_eq!(server.metric("tilesight_responses_total{status=\"200\"}"), 4.0, "they were answered, not refused");
    // The allocator keeps one answer's memory for the next, and no more than that.
    assert!(memory[3] < memory[1] + large_answer() as u64 / 2, "memory does not come back: {memory:?}");
    // A reader that takes its time takes it all.
    let mut slow = server.connect();
    slow.write_all(&request).unwrap();
    let (mut taken, mut chunk) = (0, vec![0; 1 << 20]);
    while let Ok(len @ 1..) = slow.read(&mut chunk) {
        taken += len;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(taken > large_answer(), "only {taken} bytes of it came");
}

/// Nothing comes for a while.
#[track_caller]
fn assert_waits(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "it was served or closed");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// A request on a connection that stays.
fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
}

#[test]
fn connections_have_a_cap_beyond_which_they_wait_while_all_have_requests() {
    // A batch waits for three tiles, which the first has not.
    let options = ["--max-connections", "1", "--max-delay", "600000", "--max-batch-tiles", "3"];
    let server = Server::start(&[&options[..], &["--health-listen", "127.0.0.1:0"]].concat());
    let body = server::picture("image1.png");
    let mut held = server.connect();
    held.write_all(&[post_head("/v1/encode", &[], body.len()).as_bytes(), &body].concat()).unwrap();
    wait_until("the request", || server.probe("/metrics").text().contains("tilesight_requests 1\n"));
    let mut second = server.connect();
    ask(&mut second);
    assert_waits(&mut second);
    drop(held);
    assert_eq!(read_response(&mut second).status, 200);
    assert_serves(&server);
}

#[test]
fn the_connection_that_has_been_idle_for_the_longest_gives_way() {
    let patient = ["--idle-timeout", "600", "--header-timeout", "600", "--max-connections"];
    let server = Server::start(&[&patient[..], &["3"]].concat());
    let [mut first, mut second, mut third] = [(); 3].map(|()| {
        let mut stream = server.connect();
        ask(&mut stream);
        assert_eq!(read_response(&mut stream).status, 200);
        stream
    });
    // The first to come asks last.
    ask(&mut first);
    assert_eq!(read_response(&mut first).status, 200);
    let mut fourth = server.connect();
    ask(&mut fourth);
    assert_eq!(read_response(&mut fourth).status, 200);
    assert_closed(&mut second);
    for stream in [&mut first, &mut third, &mut fourth] {
        ask(stream);
        assert_eq!(read_response(stream).status, 200);
    }
    // One that has never asked, or not to the end, is idle too.
    let server = Server::start(&[&patient[..], &["1"]].concat());
    for begins in ["", "GET /health/live HT"] {
        let mut silent = server.connect();
        silent.write_all(begins.as_bytes()).unwrap();
        assert_serves(&server);
        assert_closed(&mut silent);
    }
}

#[test]
fn a_system_without_room_for_a_connection_has_idle_ones_give_way() {
    let model = golden("hf_tiny").display().to_string();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tilesight")]);
    let server = Server::run(limited, &["--device", "cpu", "--model", &model, "--idle-timeout", "600"]);
    server.wait_until_ready();
    // More than there are descriptors, at both addresses.
    let _http: Vec<TcpStream> = (0..80).map(|_| server.connect()).collect();
    let _grpc: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(server.grpc).unwrap()).collect();
    for _ in 0..10 {
        assert_serves(&server);
        assert_eq!(server.get("/health/live").status, 200);
    }
    assert_infers(&Client::connect(server.grpc));
}

#[test]
fn descriptors_that_others_have_taken_are_had_back_from_idle_connections() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let server = Server::start(&["--idle-timeout", "600", "--header-timeout", "600", "--health-listen", "127.0.0.1:0"]);
    let idle: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    wait_until("the connections", || open() > idle.len());
    let limit = Some(open() as u64);
    let pid = Pid::from_raw(server.pid() as i32);
    prlimit(pid, Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    let _more: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
    for _ in 0..10 {
        assert_serves(&server);
        assert_eq!(server.get("/health/ready").status, 200);
        assert_eq!(server.probe("/health/ready").status, 200);
    }
}

#[test]
fn the_limit_of_descriptors_is_raised_as_far_as_it_goes() {
    let model = golden("hf_tiny").display().to_string();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -Sn 60 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tilesight")]);
    let server = Server::run(limited, &["--device", "cpu", "--model", &model]);
    let limits = server.proc("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard] = [0, 1].map(|at| line.split_whitespace().nth(at).unwrap());
    assert_eq!(soft, hard, "{line}");
}
