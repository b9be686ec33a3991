//! Answers that are kept by their content hash: the same bits without being computed, within a budget, and only where it is
//! asked for.

use serde_json::json;
use tonic::Request;

use crate::grpc_client::inference::ModelInferResponse;
use crate::grpc_client::{Client, SERVICE, bytes_of, infer, input, integers, pictures, raw_request};
use crate::noise::noise;
use crate::server::{Server, expected, picture, wait_until};

const MISS: Option<&str> = Some("tilesight; fwd=miss");
const HIT: Option<&str> = Some("tilesight; hit");

/// Bytes of the embeddings of `image0.png`, of three tiles, and of `image1.png`, of one.
const SIZES: [u64; 2] = [3 * 5 * 32 * 4, 5 * 32 * 4];

/// More than an entry takes beside its embeddings, and less than any of those.
const ENTRY: u64 = 500;

/// Hits and misses so far.
fn counts(server: &Server) -> [f64; 2] {
    ["hits", "misses"].map(|name| server.metric(&format!("tilesight_cache_{name}_total")))
}

#[test]
fn what_was_encoded_is_not_encoded_again() {
    let mut server = Server::start(&["--answer-cache", "100000", "--log", "json"]);
    let first = server.encode("image0.png");
    assert_eq!(first.header("cache-status"), MISS);
    assert_eq!(counts(&server), [0.0, 1.0]);
    let tiles = server.metric("tilesight_tiles_total");
    let again = server.encode("image0.png");
    assert_eq!(again.header("cache-status"), HIT);
    assert!(again.body == first.body && again.header("etag") == first.header("etag"));
    let stages = again.header("server-timing").unwrap();
    assert!(stages.contains("cache;dur=") && !stages.contains("compute"), "{stages}");
    // In another element type, and the same pixels in another file.
    let half = server.post("/v1/encode?dtype=fp16", &[], &picture("image0.png"));
    assert_eq!(half.header("cache-status"), HIT);
    let file = safetensors::SafeTensors::deserialize(&half.body).unwrap();
    let rounded = expected(&["image0.png"]).into_iter().flat_map(|x| half::f16::from_f32(x).to_le_bytes());
    assert!(file.tensor("embeddings").unwrap().data() == rounded.collect::<Vec<u8>>());
    let other = [&picture("image0.png")[..], b"behind its end"].concat();
    assert_eq!(server.post("/v1/encode", &[], &other).header("cache-status"), HIT);
    assert_eq!(server.metric("tilesight_tiles_total"), tiles, "something was encoded");

    // Of two pictures one is here: both are encoded, and kept apart.
    let client = Client::connect(server.grpc);
    let names = ["image0.png", "image1.png"];
    for status in ["tilesight; fwd=miss", "tilesight; hit"] {
        let request = Request::new(pictures(&names.map(picture)));
        let response = client.call::<_, ModelInferResponse>(&format!("{SERVICE}/ModelInfer"), request).unwrap();
        assert_eq!(response.metadata().get("cache-status").unwrap(), status);
        assert!(response.into_inner().raw_output_contents[0] == bytes_of(&expected(&names)));
    }
    assert_eq!(server.encode("image1.png").header("cache-status"), HIT);
    let reversed = [names[1], names[0]];
    let response = infer(&client, pictures(&reversed.map(picture))).unwrap();
    assert!(response.raw_output_contents[0] == bytes_of(&expected(&reversed)));
    assert_eq!(counts(&server), [6.0, 2.0]);

    // Triton's clients see what was computed, and what was not.
    let model = server.get("/v2/models/tilesight/stats").json()["model_stats"][0].clone();
    let count = |name: &str| model["inference_stats"][name]["count"].as_u64().unwrap();
    assert_eq!(["success", "queue", "cache_hit", "cache_miss", "compute_infer"].map(count), [8, 8, 6, 2, 2]);
    assert_eq!((&model["inference_count"], &model["execution_count"]), (&json!(2), &json!(2)));

    wait_until("the last answer to leave", || server.metric("tilesight_requests") == 0.0);
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
    server.signal("TERM");
    assert!(server.wait().success());
    let lines: Vec<serde_json::Value> =
        server.said().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let looked: Vec<_> =
        lines.iter().filter(|line| line["path"] == "/v1/encode").map(|line| line["cache"].as_str().unwrap()).collect();
    assert_eq!(looked, ["miss", "hit", "hit", "hit", "hit"]);
}

#[test]
fn a_pixel_tensor_is_kept_whole() {
    let server = Server::start(&["--answer-cache", "100000"]);
    let client = Client::connect(server.grpc);
    let values = noise(2 * 4 * 3 * 28 * 28, 3);
    let ask = |values: &[f32], ratios: [i64; 4]| {
        let pixels = (input("pixels", "FP32", &[2, 4, 3, 28, 28]), bytes_of(values));
        let ratios = (input("aspect_ratio", "INT64", &[2, 2]), integers(&ratios));
        infer(&client, raw_request(vec![pixels, ratios])).unwrap()
    };
    let first = ask(&values, [1, 2, 2, 2]);
    assert!(ask(&values, [1, 2, 2, 2]).raw_output_contents == first.raw_output_contents);
    assert_eq!(counts(&server), [1.0, 1.0]);
    let mut other = values.clone();
    other[2 * 4 * 3 * 28 * 28 - 1] += 1.0;
    assert!(ask(&values, [2, 1, 2, 2]).raw_output_contents != first.raw_output_contents);
    assert!(ask(&other, [1, 2, 2, 2]).raw_output_contents != first.raw_output_contents);
    assert_eq!(counts(&server), [1.0, 3.0]);
}

#[test]
fn the_budget_is_kept_and_what_was_used_last_stays() {
    // Room for the larger one, or for the smaller one: not for both.
    let budget = SIZES[0] + ENTRY;
    let server = Server::start(&["--answer-cache", &budget.to_string()]);
    for (name, status, size) in [
        ("image1.png", MISS, SIZES[1]),
        ("image1.png", HIT, SIZES[1]),
        ("image0.png", MISS, SIZES[0]),
        ("image0.png", HIT, SIZES[0]),
        ("image1.png", MISS, SIZES[1]),
    ] {
        assert_eq!(server.encode(name).header("cache-status"), status, "{name}");
        let kept = server.metric("tilesight_cache_bytes") as u64;
        assert!(kept > size && kept < size + ENTRY && kept <= budget, "{kept}");
    }
    // What never has room sends nothing away.
    let server = Server::start(&["--answer-cache", &(SIZES[1] + ENTRY).to_string()]);
    for (name, status) in [("image1.png", MISS), ("image0.png", MISS), ("image0.png", MISS), ("image1.png", HIT)] {
        assert_eq!(server.encode(name).header("cache-status"), status, "{name}");
    }
}

#[test]
fn many_at_once_all_get_their_own() {
    const CLIENTS: usize = 8;
    const TIMES: usize = 20;
    let budget = SIZES[0] + ENTRY;
    let server = Server::start(&["--answer-cache", &budget.to_string()]);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let server = &server;
            scope.spawn(move || {
                for time in 0..TIMES {
                    server.encode(["image0.png", "image1.png"][(client + time / 3) % 2]);
                    assert!(server.metric("tilesight_cache_bytes") as u64 <= budget);
                }
            });
        }
    });
    let [hits, misses] = counts(&server);
    assert_eq!(hits + misses, (CLIENTS * TIMES) as f64);
    assert!(hits > 0.0 && misses >= 2.0, "{hits} {misses}");
}

#[test]
fn nothing_is_kept_unless_it_is_asked_for() {
    let server = Server::start(&[]);
    for _ in 0..2 {
        assert_eq!(server.encode("image0.png").header("cache-status"), None);
    }
    assert_eq!(server.metric("tilesight_tiles_total"), 6.0);
    assert!(!server.get("/metrics").text().contains("cache"));
}
