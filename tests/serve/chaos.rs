//! Hostile clients and honest ones at once: the honest ones get their own embeddings, to the bit, and the server goes on.
//! `TILESIGHT_LOAD_SECONDS` says for how long; 20 is the least.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use serde_json::json;

use crate::grpc_client::{Client, GRPC, RawClient, SERVICE, bytes_of, framed, infer, input, integers, raw_request};
use crate::load::{End, Request, Seen, ask, requests};
use crate::server::{Server, post_head, wait_until};

const HONEST: u64 = 4;

/// One thing that a hostile client does. It looks at no answer.
type Attack = fn(&Server, &[Request], &mut Xoshiro256PlusPlus);

const ATTACKS: [Attack; 8] = [claim_shape, claim_body, mutate, cut_off, overflow, expire, flood_calls, mutate_messages];

fn draw(random: &mut Xoshiro256PlusPlus, below: usize) -> usize {
    (random.next_u64() % below.max(1) as u64) as usize
}

/// Sends bytes, and takes an answer if one comes soon.
fn send(server: &Server, bytes: &[u8]) {
    let mut stream = server.connect();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let _ = stream.write_all(bytes).and_then(|()| stream.read(&mut [0; 512]));
}

fn claim_shape(server: &Server, _: &[Request], random: &mut Xoshiro256PlusPlus) {
    let sizes = [0, 1, 28, 1 << 32, i64::MAX];
    let shape: Vec<i64> = (0..5).map(|_| sizes[draw(random, sizes.len())]).collect();
    let tensor = json!({ "name": "pixels", "shape": shape, "datatype": "FP32", "data": [] });
    let body = json!({ "inputs": [tensor] }).to_string();
    send(server, (post_head("/v2/models/tilesight/infer", &[], body.len()) + &body).as_bytes());
}

fn claim_body(server: &Server, _: &[Request], _: &mut Xoshiro256PlusPlus) {
    let claims: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    for mut stream in &claims {
        let _ = stream.write_all(post_head("/v1/encode", &[], 64 << 20).as_bytes());
    }
    std::thread::sleep(Duration::from_millis(100));
}

fn mutate(server: &Server, requests: &[Request], random: &mut Xoshiro256PlusPlus) {
    let mut bytes = requests[draw(random, requests.len())].bytes();
    for _ in 0..=draw(random, 8) {
        let place = draw(random, bytes.len());
        bytes[place] ^= 1 << draw(random, 8);
    }
    send(server, &bytes);
}

fn cut_off(server: &Server, requests: &[Request], random: &mut Xoshiro256PlusPlus) {
    let bytes = requests[draw(random, requests.len())].bytes();
    let mut stream = server.connect();
    let _ = stream.write_all(&bytes[..draw(random, bytes.len())]);
    let how = [Shutdown::Write, Shutdown::Both][draw(random, 2)];
    let _ = stream.shutdown(how);
}

fn overflow(server: &Server, _: &[Request], _: &mut Xoshiro256PlusPlus) {
    let pixels = bytes_of(&[3e38; 4 * 3 * 28 * 28]);
    let request = raw_request(vec![
        (input("pixels", "FP32", &[1, 4, 3, 28, 28]), pixels),
        (input("aspect_ratio", "INT64", &[1, 2]), integers(&[2, 2])),
    ]);
    let _ = infer(&Client::connect(server.grpc), request);
}

fn expire(server: &Server, requests: &[Request], random: &mut Xoshiro256PlusPlus) {
    let body = &requests[draw(random, 6)].body;
    let millis = draw(random, 20).to_string();
    let head = post_head("/v1/encode", &[("Tilesight-Timeout-Ms", &millis)], body.len());
    send(server, &[head.as_bytes(), body].concat());
}

fn flood_calls(server: &Server, _: &[Request], _: &mut Xoshiro256PlusPlus) {
    // The silent calls of one connection are as many as it may have.
    let client = RawClient::connect(server.grpc);
    let _calls = [(); 2].map(|()| client.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]));
    std::thread::sleep(Duration::from_millis(50));
}

fn mutate_messages(server: &Server, requests: &[Request], random: &mut Xoshiro256PlusPlus) {
    let file = requests[draw(random, 6)].body.clone();
    let message = raw_request(vec![(input("image", "BYTES", &[1]), file)]).encode_to_vec();
    let mut bytes = framed(&message);
    for _ in 0..=draw(random, 4) {
        let place = draw(random, bytes.len().min(64));
        bytes[place] ^= 1 << draw(random, 8);
    }
    let mut call = RawClient::connect(server.grpc).begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
    call.send(&bytes, true);
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn honest_clients_get_their_own_embeddings_while_hostile_ones_act() {
    let seconds: u64 = std::env::var("TILESIGHT_LOAD_SECONDS").map_or(20, |text| text.parse().unwrap());
    let requests = requests();
    let mut server = Server::start(&["--body-timeout", "1", "--log-level", "error"]);
    let is_over = AtomicBool::new(false);
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let (server, requests, is_over) = (&server, &requests, &is_over);
        let _end = End(is_over);
        let honest: Vec<_> =
            (0..HONEST).map(|seed| scope.spawn(move || ask(server, requests, seed, is_over))).collect();
        for (seed, attack) in (100..).zip(ATTACKS) {
            scope.spawn(move || {
                let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
                while !is_over.load(Ordering::Relaxed) {
                    attack(server, requests, &mut random);
                }
            });
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_millis(100));
        }
        is_over.store(true, Ordering::Relaxed);
        honest.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(server.is_running());
    assert!(seen.iter().all(|seen| seen.statuses.contains_key(&200)), "an honest client was starved");
    let refused: u64 = seen.iter().filter_map(|seen| seen.statuses.get(&429)).sum();
    let answered: u64 = seen.iter().filter_map(|seen| seen.statuses.get(&200)).sum();
    eprintln!("{answered} honest requests answered right, {refused} refused");
    assert_eq!(refused, 0, "hostile clients took the place of honest ones");
    assert_eq!(server.get("/health/ready").status, 200);
    wait_until("the end", || {
        server.metric("tilesight_requests") + server.metric("tilesight_receiving_requests") == 0.0
    });
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
}
