//! The server when its GPU fails: what is lost is told and ends the process, what is not lost goes on. Needs the
//! simulated device: `scripts/on-simulator cargo test --features cuda,serve`.

use crate::golden_data::golden;
use crate::grpc_client::{Client, infer, pictures};
use crate::server::{Response, Server, picture};

/// CUDA's status of a call that lacks memory.
const OUT_OF_MEMORY: u32 = 2;
/// CUDA's status of a kernel that failed; every later call fails, too.
const LAUNCH_FAILED: u32 = 719;

/// A launch and a call that come after the weights have been turned and the first encode is done, and long before
/// `MAX_REQUESTS` requests are.
const LATER: u32 = 3000;
const MAX_REQUESTS: usize = 400;

fn start(options: &[&str], fault: Option<(&str, &str)>) -> Server {
    start_on("cuda", options, fault)
}

fn start_on(device: &str, options: &[&str], fault: Option<(&str, &str)>) -> Server {
    let model = golden("hf_tiny").display().to_string();
    let variables: Vec<(&str, &str)> = fault.into_iter().collect();
    let server = Server::spawn(&[&["--device", device, "--model", &model], options].concat(), &variables);
    server.wait_until_ready();
    server
}

fn encode(server: &Server) -> Response {
    server.post("/v1/encode", &[], &picture("image0.png"))
}

#[test]
fn both_protocols_give_the_gpus_embeddings() {
    let server = start(&[], None);
    let file = encode(&server).body;
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let response = infer(&Client::connect(server.grpc), pictures(&[picture("image0.png")])).unwrap();
    for (output, bytes) in response.outputs.iter().zip(&response.raw_output_contents) {
        assert!(file.tensor(&output.name).unwrap().data() == bytes, "{}", output.name);
    }
    assert_eq!(response.outputs.len(), 3);
}

/// The first answer that is not an encoded picture; those before it are all the same.
fn first_failure(server: &Server) -> Response {
    let first = encode(server);
    assert_eq!(first.status, 200, "{}", first.text());
    for _ in 0..MAX_REQUESTS {
        let next = encode(server);
        if next.status != 200 {
            return next;
        }
        assert!(next.body == first.body, "the same picture, other embeddings");
    }
    panic!("the fault fell into no request");
}

#[test]
fn a_lost_gpu_is_told_and_ends_the_process() {
    let fault = format!("{LATER}:{LAUNCH_FAILED}");
    let mut server = start(&[], Some(("TILESIGHT_SIMULATOR_FAIL_LAUNCH", &fault)));
    let failure = first_failure(&server);
    assert_eq!(failure.status, 503, "{}", failure.text());
    assert_eq!(server.wait().code(), Some(1));
}

#[test]
fn a_gpu_that_hangs_is_told_and_ends_the_process() {
    let fault = LATER.to_string();
    let mut server = start(&["--batch-timeout", "5"], Some(("TILESIGHT_SIMULATOR_HANG_LAUNCH", &fault)));
    let failure = first_failure(&server);
    assert_eq!(failure.status, 503, "{}", failure.text());
    // By itself, or by being aborted where the driver holds it.
    assert!(!server.wait().success());
}

#[test]
fn memory_that_lacks_for_one_request_is_there_for_the_next() {
    let expected = encode(&start(&[], None)).body;
    let fault = format!("{LATER}:{OUT_OF_MEMORY}");
    let server = start(&[], Some(("TILESIGHT_SIMULATOR_FAIL_CALL", &fault)));
    let failure = first_failure(&server);
    assert_eq!(failure.status, 507, "{}", failure.text());
    assert_eq!(server.get("/health/ready").status, 200);
    let next = encode(&server);
    assert_eq!(next.status, 200, "{}", next.text());
    assert!(next.body == expected);
}

/// Clients that each ask for the picture, one time after another; how many there are in all.
fn ask_at_once(server: &Server, expected: &Response) -> f64 {
    const CLIENTS: usize = 6;
    const TIMES: usize = 8;
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..TIMES {
                    let response = encode(server);
                    assert_eq!(response.status, 200, "{}", response.text());
                    assert!(response.body == expected.body);
                }
            });
        }
    });
    (CLIENTS * TIMES) as f64
}

#[test]
fn what_a_gpu_has_computed_is_not_computed_again() {
    let expected = encode(&start(&[], None)).body;
    let server = start(&["--answer-cache", "100000"], None);
    for status in ["tilesight; fwd=miss", "tilesight; hit"] {
        let response = encode(&server);
        assert_eq!(response.header("cache-status"), Some(status));
        assert!(response.body == expected);
    }
    // Three tiles of five tokens, of 32 values each, in half precision.
    let kept = server.metric("tilesight_cache_bytes");
    assert!((3 * 5 * 32 * 2..2 * 3 * 5 * 32 * 2).contains(&(kept as usize)), "{kept}");
    assert_eq!(server.metric("tilesight_batch_requests_count"), 1.0);
}

#[test]
fn several_gpus_share_the_requests() {
    let expected = encode(&start(&[], None));
    let server = start_on("cuda:0,1", &["--max-batch-tiles", "4"], None);
    let asked = ask_at_once(&server, &expected);
    assert_eq!(server.metric("tilesight_batch_requests_count"), asked);
}

#[test]
fn a_full_batch_is_given_to_the_gpu_while_it_computes() {
    let expected = encode(&start(&[], None));
    for stage in ["receive", "decode", "preprocess", "queue", "h2d", "gpu", "d2h", "serialise"] {
        assert!(expected.header("server-timing").unwrap().contains(&format!("{stage};dur=")), "{stage}");
    }
    // A picture is a full batch.
    let server = start(&["--max-batch-tiles", "4"], None);
    let asked = ask_at_once(&server, &expected);
    assert!(server.metric("tilesight_batches_ahead_total") > 0.0);
    assert_eq!(server.metric("tilesight_batch_requests_count"), asked);
    for stage in ["h2d", "gpu", "d2h"] {
        assert_eq!(server.metric(&format!("tilesight_stage_seconds_count{{stage=\"{stage}\"}}")), asked);
    }
}
