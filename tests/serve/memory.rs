//! A server with little memory: it refuses what it has no room for, and no request ends it.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use serde_json::json;

use crate::golden_data::golden;
use crate::hostile::plain_png;
use crate::server::{Server, picture, post_head, wait_until};

/// Requests in all, and the clients that send them at once.
const REQUESTS: usize = 1000;
const CLIENTS: u64 = 8;

/// Numbers as JSON, which take many times their text.
fn json_numbers(len: usize) -> Vec<u8> {
    let tensor = json!({ "name": "pixels", "shape": [1, 4, 3, 28, 28], "datatype": "FP32", "data": vec![0; len] });
    json!({ "inputs": [tensor] }).to_string().into_bytes()
}

/// Descriptions of inputs that are not there.
fn json_names(len: usize) -> Vec<u8> {
    let output = json!({ "name": "x" });
    json!({ "inputs": [], "outputs": vec![output; len] }).to_string().into_bytes()
}

/// The request that makes the most of a body: as many tiles as fit.
fn pixels(images: usize) -> (String, Vec<u8>) {
    let request = json!({
        "inputs": [
            {
                "name": "pixels", "shape": [images, 4, 3, 28, 28], "datatype": "FP32",
                "parameters": { "binary_data_size": 4 * images * 4 * 3 * 28 * 28 },
            },
            { "name": "aspect_ratio", "shape": [images, 2], "datatype": "INT64", "data": vec![[2, 2]; images] },
        ],
    });
    let json = request.to_string().into_bytes();
    (json.len().to_string(), [json, vec![0; 4 * images * 4 * 3 * 28 * 28]].concat())
}

#[test]
fn a_lack_of_memory_is_refused_and_ends_nothing() {
    let model = golden("hf_tiny").display().to_string();
    let options = ["--device", "cpu", "--model", &model, "--log-level", "error"];
    let needed = {
        let server = Server::spawn(&options, &[]);
        server.wait_until_ready();
        assert_eq!(server.post("/v1/encode", &[], &picture("image0.png")).status, 200);
        server.peak_virtual_bytes()
    };
    let infer = "/v2/models/tilesight/infer";
    let bodies: Vec<(&str, Option<String>, Vec<u8>)> = vec![
        ("/v1/encode", None, picture("image0.png")),
        ("/v1/encode", None, picture("image1.png")),
        ("/v1/encode", None, plain_png(2000)),
        ("/v1/encode", None, plain_png(5000)),
        (infer, None, json_numbers(500_000)),
        (infer, None, json_names(100_000)),
        {
            let (json_len, body) = pixels(400);
            (infer, Some(json_len), body)
        },
    ];
    for more in [64, 256, 1024] {
        let mut limited = Command::new("sh");
        let kib = (needed >> 10) + (more << 10);
        let run = format!("ulimit -v {kib} && exec \"$0\" \"$@\"");
        limited.args(["-c", &run, env!("CARGO_BIN_EXE_tilesight")]);
        let mut server = Server::run(limited, &options);
        server.wait_until_ready();
        let (sent, lacking) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for seed in 0..CLIENTS {
                let (server, bodies, sent, lacking) = (&server, &bodies, &sent, &lacking);
                scope.spawn(move || {
                    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
                    while sent.fetch_add(1, Ordering::Relaxed) < REQUESTS / 3 {
                        let (path, json_len, body) = &bodies[random.next_u64() as usize % bodies.len()];
                        let headers = json_len.as_ref().map(|len| ("Inference-Header-Content-Length", &len[..]));
                        let headers: Vec<_> = headers.into_iter().chain([("Connection", "close")]).collect();
                        // Whether and how it is answered depends on what else is there. An aborted connection is no answer.
                        let mut stream = server.connect();
                        let _ = stream.write_all(post_head(path, &headers, body.len()).as_bytes());
                        let _ = stream.write_all(body);
                        let mut answer = Vec::new();
                        let _ = stream.read_to_end(&mut answer);
                        lacking.fetch_add(usize::from(answer.starts_with(b"HTTP/1.1 507")), Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(server.is_running(), "with {more} MiB more than the start needs a request ended it");
        println!("{more} MiB: {} of {} requests lacked memory", lacking.into_inner(), REQUESTS / 3);
        wait_until("an answer", || server.post("/v1/encode", &[], &picture("image0.png")).status == 200);
    }
}
