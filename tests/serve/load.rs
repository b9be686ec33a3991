//! More than the server can do, for a while: what is admitted comes back right to the bit, the rest is told to come again,
//! memory stays flat, and the counts add up. `TILESIGHT_LOAD_SECONDS` says for how long; scripts/test-clients takes a
//! minute.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use safetensors::SafeTensors;
use serde_json::json;
use tilesight::image::{Image, Limits};
use tilesight::{Encoder, Pixels};

use crate::golden_data::golden;
use crate::noise::noise;
use crate::on_cpu::on_cpu;
use crate::server::{Response, Server, read_response, wait_until};

/// Requests that the server lets in, and clients that each always have one.
const MAX_REQUESTS: usize = 8;
const CLIENTS: usize = 24;

/// Clients that leave: in the body, or before their answer.
const VANISHING: usize = 2;

/// Side of the golden model's tiles.
const SIDE: usize = 28;

/// How long a client waits that was told to come again: less than it was told, for the test is about too many.
const AGAIN: Duration = Duration::from_millis(5);

/// A request and what must come back.
pub struct Request {
    path: &'static str,
    headers: String,
    pub body: Vec<u8>,
    answer: Expected,
}

pub enum Expected {
    /// In the tensor of a file.
    Picture(Vec<u8>),
    /// In the last bytes of the answer.
    Tensor(Vec<u8>),
    Status(u16),
}

impl Request {
    pub fn bytes(&self) -> Vec<u8> {
        let Self { path, headers, body, .. } = self;
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        [head.as_bytes(), body].concat()
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A picture of so many tiles down and across, of noise.
fn picture(encoder: &mut Encoder, [down, across]: [usize; 2], seed: u64) -> Request {
    let mut body = Vec::new();
    let mut png = png::Encoder::new(&mut body, (across * SIDE) as u32, (down * SIDE) as u32);
    png.set_color(png::ColorType::Rgb);
    let mut samples = vec![0; 3 * down * across * SIDE * SIDE];
    Xoshiro256PlusPlus::seed_from_u64(seed).fill_bytes(&mut samples);
    png.write_header().unwrap().write_image_data(&samples).unwrap();
    let image = Image::decode(&body, &Limits::default()).unwrap();
    let encodings = encoder.encode(&[image]).unwrap();
    assert_eq!(encodings.aspect_ratios, [[down, across]]);
    let answer = Expected::Picture(bytes(&encodings.embeddings));
    Request { path: "/v1/encode", headers: String::new(), body, answer }
}

/// Pixels of two images, each with all the tiles that Meta's semantics want.
fn tensor(encoder: &mut Encoder, ratio: [i64; 2], seed: u64) -> Request {
    let values = noise(2 * 4 * 3 * SIDE * SIDE, seed);
    let ratios = vec![ratio, [1, 1]];
    let pixels = Pixels { images: &values, shape: [1, 2, 4, 3, SIDE, SIDE], aspect_ratio: Some(&ratios) };
    let answer = Expected::Tensor(bytes(&encoder.encode_pixels(&pixels).unwrap().embeddings));
    let request = json!({
        "inputs": [
            {
                "name": "pixels", "shape": [2, 4, 3, SIDE, SIDE], "datatype": "FP32",
                "parameters": { "binary_data_size": 4 * values.len() },
            },
            { "name": "aspect_ratio", "shape": [2, 2], "datatype": "INT64", "data": ratios },
        ],
        "outputs": [{ "name": "embeddings", "parameters": { "binary_data": true } }],
    });
    let json = request.to_string().into_bytes();
    let headers = format!("Inference-Header-Content-Length: {}\r\n", json.len());
    Request { path: "/v2/models/tilesight/infer", headers, body: [json, bytes(&values)].concat(), answer }
}

pub fn requests() -> Vec<Request> {
    let mut encoder = on_cpu().model(golden("hf_tiny")).build().unwrap();
    let ratios = [[1, 1], [2, 1], [1, 3], [2, 2], [1, 2], [4, 1]];
    let mut requests: Vec<Request> =
        ratios.into_iter().zip(0..).map(|(ratio, seed)| picture(&mut encoder, ratio, seed)).collect();
    requests.extend([[1, 2], [2, 2]].into_iter().zip(100..).map(|(ratio, seed)| tensor(&mut encoder, ratio, seed)));
    let malformed = |path, body: &[u8], status| Request {
        path,
        headers: String::new(),
        body: body.to_vec(),
        answer: Expected::Status(status),
    };
    let cut = requests[3].body[..requests[3].body.len() / 2].to_vec();
    requests.push(malformed("/v1/encode", b"no picture", 415));
    requests.push(malformed("/v1/encode", &cut, 400));
    requests.push(malformed("/v2/models/tilesight/infer", b"{\"inputs\": [", 400));
    requests
}

/// What the clients were told.
#[derive(Default)]
pub struct Seen {
    pub statuses: BTreeMap<u16, u64>,
}

impl Seen {
    fn check(&mut self, request: &Request, response: &Response) {
        *self.statuses.entry(response.status).or_default() += 1;
        match (&request.answer, response.status) {
            (_, 429) => assert_eq!(response.header("retry-after"), Some("1")),
            (Expected::Picture(expected), 200) => {
                let file = SafeTensors::deserialize(&response.body).unwrap();
                assert!(file.tensor("embeddings").unwrap().data() == *expected, "another's embeddings");
            }
            (Expected::Tensor(expected), 200) => assert!(response.body.ends_with(expected), "another's embeddings"),
            (Expected::Status(expected), status) => assert_eq!(status, *expected, "{}", response.text()),
            (Expected::Picture(_) | Expected::Tensor(_), _) => panic!("{}: {}", response.status, response.text()),
        }
    }
}

/// Asks for one thing after another on one connection.
pub fn ask(server: &Server, requests: &[Request], seed: u64, is_over: &AtomicBool) -> Seen {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (mut stream, mut seen) = (server.connect(), Seen::default());
    while !is_over.load(Ordering::Relaxed) {
        let request = &requests[random.next_u64() as usize % requests.len()];
        stream.write_all(&request.bytes()).unwrap();
        let response = read_response(&mut stream);
        seen.check(request, &response);
        if response.status == 429 {
            std::thread::sleep(AGAIN);
        }
    }
    seen
}

/// Sends a part of a request, or all of it, and leaves.
fn vanish(server: &Server, requests: &[Request], seed: u64, is_over: &AtomicBool, count: &AtomicU64) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    while !is_over.load(Ordering::Relaxed) {
        let bytes = requests[random.next_u64() as usize % requests.len()].bytes();
        let len = if random.next_u64() % 2 == 0 { bytes.len() } else { random.next_u64() as usize % bytes.len() };
        let mut stream: TcpStream = server.connect();
        count.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&bytes[..len]).unwrap();
        std::thread::sleep(Duration::from_millis(random.next_u64() % 20));
    }
}

#[test]
fn more_than_there_is_room_for_is_borne() {
    let seconds = std::env::var("TILESIGHT_LOAD_SECONDS").map_or(15, |text| text.parse().unwrap());
    let (duration, requests) = (Duration::from_secs(seconds), requests());
    let server =
        Server::start(&["--max-requests", &MAX_REQUESTS.to_string(), "--image-threads", "2", "--log-level", "error"]);
    let (is_over, vanished) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut memory = Vec::new();
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let (server, requests, is_over, vanished) = (&server, &requests, &is_over, &vanished);
        // Whatever ends this ends the clients.
        let _end = End(is_over);
        let clients: Vec<_> =
            (0..CLIENTS as u64).map(|seed| scope.spawn(move || ask(server, requests, seed, is_over))).collect();
        for seed in 0..VANISHING as u64 {
            scope.spawn(move || vanish(server, requests, 1000 + seed, is_over, vanished));
        }
        let begin = Instant::now();
        while begin.elapsed() < duration {
            std::thread::sleep(Duration::from_millis(100));
            memory.push((begin.elapsed(), server.resident_bytes()));
        }
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut statuses = BTreeMap::<u16, u64>::new();
    for (status, count) in seen.iter().flat_map(|seen| &seen.statuses) {
        *statuses.entry(*status).or_default() += count;
    }
    let vanished = vanished.into_inner();
    eprintln!("{seconds} s: {statuses:?}, {vanished} left");
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200, 400, 415, 429], "each kind came");
    assert!(seen.iter().all(|seen| seen.statuses.contains_key(&200)), "a client was starved");
    assert_flat(&memory, duration);
    // Whoever left may have been counted, and nobody else.
    wait_until("the end", || server.metric("tilesight_requests") == 0.0);
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
    let mut uncertain = vanished as f64;
    for (status, count) in &statuses {
        let more = server.metric(&format!("tilesight_responses_total{{status=\"{status}\"}}")) - *count as f64;
        assert!((0.0..=uncertain).contains(&more), "{status}: {more} answers that nobody got");
        uncertain -= more;
    }
    let answered = server.metric("tilesight_responses_total{status=\"200\"}");
    assert_eq!(server.metric("tilesight_stage_seconds_count{stage=\"serialise\"}"), answered);
    let computed = server.metric("tilesight_batch_requests_sum");
    assert!((answered..=answered + vanished as f64).contains(&computed), "{computed} computed, {answered} answered");
    assert!(server.metric("tilesight_batch_requests_count") < computed, "nothing was batched");
}

pub struct End<'a>(pub &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the last quarter of the time holds at most is what the first did, but for what the allocator sets aside.
#[track_caller]
fn assert_flat(memory: &[(Duration, u64)], duration: Duration) {
    let most = |from: Duration, to: Duration| {
        let within = memory.iter().filter(|(time, _)| (from..to).contains(time));
        within.map(|(_, bytes)| *bytes).max().unwrap()
    };
    let (first, last) = (most(Duration::ZERO, duration / 4), most(duration * 3 / 4, Duration::MAX));
    eprintln!("memory: {} MB in the first quarter, {} MB in the last", first >> 20, last >> 20);
    assert!(last <= first + first / 20 + (4 << 20), "memory grows from {first} to {last} bytes");
}
