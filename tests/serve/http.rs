//! The server as its clients meet it: the real process, over TCP. Every answer is held against the encoder's own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tilesight::Pixels;
use tilesight::image::{Image, Limits};

use crate::golden_data::golden;
use crate::noise::noise;
use crate::on_cpu::on_cpu;
use crate::server::{Response, Server, expected, picture, post_head, read_response, wait_until};

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn integers(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

/// The server still answers, and rightly.
#[track_caller]
fn assert_serves(server: &Server) {
    let response = server.post("/v1/encode", &[], &picture("image0.png"));
    assert_eq!(response.status, 200, "{}", response.text());
    let file = safetensors::SafeTensors::deserialize(&response.body).unwrap();
    assert!(floats(file.tensor("embeddings").unwrap().data()) == expected(&["image0.png"]));
}

/// A request with binary tensors: what `Inference-Header-Content-Length` says, and the body.
fn infer_body(request: &Value, tensors: &[&[u8]]) -> (String, Vec<u8>) {
    let json = request.to_string().into_bytes();
    (json.len().to_string(), [json, tensors.concat()].concat())
}

fn infer(server: &Server, request: &Value, tensors: &[&[u8]]) -> Response {
    let (len, body) = infer_body(request, tensors);
    server.post("/v2/models/tilesight/infer", &[("Inference-Header-Content-Length", &len)], &body)
}

fn bytes_tensor(elements: &[Vec<u8>]) -> Vec<u8> {
    elements.iter().flat_map(|bytes| [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat()).collect()
}

fn image_input(elements: usize, bytes: usize) -> Value {
    json!({ "name": "image", "shape": [elements], "datatype": "BYTES", "parameters": { "binary_data_size": bytes } })
}

#[test]
fn the_log_has_an_object_for_every_request_to_encode() {
    let mut server = Server::start(&["--log", "json", "--log-level", "debug"]);
    let named = server.post("/v1/encode", &[("X-Request-Id", "abc-1")], &picture("image0.png"));
    assert_eq!(named.header("x-request-id"), Some("abc-1"));
    let refused = server.post("/v1/encode", &[], b"no picture");
    let given = refused.header("x-request-id").unwrap().to_string();
    let other = server.post("/v1/encode", &[("X-Request-Id", &"x".repeat(200))], b"no picture");
    assert!(other.header("x-request-id").unwrap().len() < 100);
    assert_ne!(other.header("x-request-id"), Some(&*given));
    server.signal("TERM");
    assert!(server.wait().success());

    let lines = || server.said().iter().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<Value>>();
    let find = |field: &str, value: &str| lines().into_iter().find(|line| line[field] == value);
    wait_until("the last line", || find("message", "draining").is_some());
    // What others have to say of every frame is in nobody's log.
    let known = ["note", "listening", "draining", "encoded", "refused", "answered"];
    assert!(lines().iter().all(|line| known.contains(&line["message"].as_str().unwrap())), "{:#?}", lines());
    let encoded = find("id", "abc-1").unwrap();
    assert_eq!((&encoded["message"], &encoded["level"]), (&json!("encoded"), &json!("INFO")));
    assert_eq!((&encoded["path"], &encoded["status"]), (&json!("/v1/encode"), &json!(200)));
    assert_eq!((&encoded["images"], &encoded["tiles"]), (&json!(1), &json!(3)));
    let etag = named.header("etag").unwrap();
    assert!(etag.contains(encoded["content_hash"].as_str().unwrap()));
    let time = |name: &str| encoded[name].as_f64().unwrap();
    let stages: f64 =
        ["receive_ms", "decode_ms", "preprocess_ms", "queue_ms", "compute_ms"].into_iter().map(time).sum();
    assert!(stages > 0.0 && stages <= time("milliseconds"), "{encoded}");
    let refusal = find("id", &given).unwrap();
    assert_eq!((&refusal["message"], &refusal["status"]), (&json!("refused"), &json!(415)));
    assert!(refused.text().contains(refusal["reason"].as_str().unwrap()));
}

#[test]
fn every_answer_carries_its_content_hash_and_a_client_that_has_it_gets_nothing_computed() {
    let server = Server::start(&[]);
    let encoder = on_cpu().model(golden("hf_tiny")).build().unwrap();
    let image = Image::decode(&picture("image0.png"), &Limits::default()).unwrap();
    let content_hash = encoder.identity().content_hash(&image.digest(), Some(encoder.preprocessor().unwrap()));

    let response = server.post("/v1/encode", &[], &picture("image0.png"));
    let file = safetensors::SafeTensors::deserialize(&response.body).unwrap();
    assert_eq!(file.tensor("content_hash").unwrap().data(), content_hash.as_bytes());
    let etag = response.header("etag").unwrap().to_string();
    assert_eq!(etag, format!("W/\"{content_hash}-f32\""));

    let encoded = server.metric("tilesight_tiles_total");
    // Several lines are one list.
    let lines = format!("\"other\"\r\nIf-None-Match: {etag}\r\nIf-None-Match: \"more\"");
    for tags in [etag.clone(), format!("\"other\", {etag}"), etag.trim_start_matches("W/").to_string(), lines] {
        let known = server.post("/v1/encode", &[("If-None-Match", &tags)], &picture("image0.png"));
        assert_eq!((known.status, known.header("etag")), (412, Some(&*etag)), "{}", known.text());
    }
    assert_eq!(server.metric("tilesight_tiles_total"), encoded);
    // Another picture, other values, and nothing like a tag.
    for (path, name, tags) in [
        ("/v1/encode", "image1.png", &*etag),
        ("/v1/encode?dtype=bf16", "image0.png", &*etag),
        ("/v1/encode", "image0.png", "*"),
    ] {
        let response = server.post(path, &[("If-None-Match", tags)], &picture(name));
        assert_eq!(response.status, 200, "{path} {name} {tags}");
        assert_eq!(response.header("etag") == Some(&*etag), tags == "*");
    }

    let tensor = bytes_tensor(&[picture("image0.png")]);
    let outputs = json!([{ "name": "num_tiles" }]);
    let request = json!({ "inputs": [image_input(1, tensor.len())], "outputs": outputs });
    let response = infer(&server, &request, &[&tensor]);
    assert_eq!(response.json()["parameters"]["content_hash"], content_hash.to_string());
    assert_eq!(response.header("etag"), Some(&*etag));
}

#[test]
fn a_picture_comes_back_as_the_librarys_embeddings() {
    let server = Server::start(&[]);
    for (name, content_type) in [("image0.png", "image/png"), ("image1.png", "application/x-www-form-urlencoded")] {
        let response = server.post("/v1/encode", &[("Content-Type", content_type)], &picture(name));
        assert_eq!(response.status, 200, "{}", response.text());
        for stage in ["receive", "decode", "preprocess", "queue", "compute", "serialise"] {
            assert!(response.header("server-timing").unwrap().contains(&format!("{stage};dur=")), "{stage}");
        }
        let file = safetensors::SafeTensors::deserialize(&response.body).unwrap();
        assert!(floats(file.tensor("embeddings").unwrap().data()) == expected(&[name]));
        let tiles = if name == "image0.png" { ([3i64], [1i64, 3]) } else { ([1], [1, 1]) };
        assert_eq!(integers(file.tensor("num_tiles").unwrap().data()), tiles.0);
        assert_eq!(integers(file.tensor("aspect_ratio").unwrap().data()), tiles.1);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&response.body).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["semantics"], "meta");
    }
    let response = server.post("/v1/encode?dtype=fp16", &[], &picture("image0.png"));
    let file = safetensors::SafeTensors::deserialize(&response.body).unwrap();
    let rounded = expected(&["image0.png"]).into_iter().flat_map(|x| half::f16::from_f32(x).to_le_bytes());
    assert!(file.tensor("embeddings").unwrap().data() == rounded.collect::<Vec<u8>>());
    assert_eq!(server.metric("tilesight_responses_total{status=\"200\"}"), 3.0);
    for stage in ["receive", "preprocess", "compute", "serialise"] {
        assert_eq!(server.metric(&format!("tilesight_stage_seconds_count{{stage=\"{stage}\"}}")), 3.0);
    }
    // Alone each, of three tiles and a padding tile, once of one.
    assert_eq!(server.metric("tilesight_batch_requests_sum"), 3.0);
    assert_eq!(server.metric("tilesight_batch_requests_count"), 3.0);
    assert_eq!(server.metric("tilesight_batch_tiles_sum"), 4.0 + 2.0 + 4.0);
    assert_eq!(server.metric("tilesight_batch_padding_share_sum"), 0.25 + 0.5 + 0.25);
    assert_eq!((server.metric("tilesight_requests"), server.metric("tilesight_held_bytes")), (0.0, 0.0));
}

#[test]
fn the_inference_protocol_takes_pictures_and_gives_binary_tensors() {
    let server = Server::start(&[]);
    let bytes = bytes_tensor(&[picture("image0.png"), picture("image1.png")]);
    let request = json!({
        "id": "seven",
        "inputs": [image_input(2, bytes.len())],
        "parameters": { "binary_data_output": true },
    });
    let response = infer(&server, &request, &[&bytes]);
    assert_eq!(response.status, 200, "{}", response.text());
    let len: usize = response.header("inference-header-content-length").unwrap().parse().unwrap();
    let head: Value = serde_json::from_slice(&response.body[..len]).unwrap();
    assert_eq!((&head["id"], &head["model_name"]), (&json!("seven"), &json!("tilesight")));
    let expected = expected(&["image0.png", "image1.png"]);
    let mut rest = &response.body[len..];
    for (output, (name, datatype, shape)) in head["outputs"].as_array().unwrap().iter().zip([
        ("embeddings", "FP32", json!([20, 32])),
        ("num_tiles", "INT64", json!([2])),
        ("aspect_ratio", "INT64", json!([2, 2])),
    ]) {
        assert_eq!((&output["name"], &output["datatype"]), (&json!(name), &json!(datatype)));
        assert_eq!(output["shape"], shape);
        let (data, later) = rest.split_at(output["parameters"]["binary_data_size"].as_u64().unwrap() as usize);
        rest = later;
        match name {
            "embeddings" => assert!(floats(data) == expected),
            "num_tiles" => assert_eq!(integers(data), [3, 1]),
            _ => assert_eq!(integers(data), [1, 3, 1, 1]),
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn the_inference_protocol_takes_pixels_and_gives_json() {
    let server = Server::start(&[]);
    let values = noise(4 * 3 * 28 * 28, 3);
    let mut encoder = on_cpu().model(golden("hf_tiny")).build().unwrap();
    let pixels = Pixels { images: &values, shape: [1, 1, 4, 3, 28, 28], aspect_ratio: Some(&[[1, 2]]) };
    let expected = encoder.encode_pixels(&pixels).unwrap().embeddings;
    let binary: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let aspect_ratio = json!({ "name": "aspect_ratio", "shape": [1, 2], "datatype": "INT64", "data": [[1, 2]] });
    let pixels = |rest: Value| {
        let mut pixels = json!({ "name": "pixels", "shape": [1, 4, 3, 28, 28], "datatype": "FP32" });
        pixels.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        json!({ "inputs": [pixels, aspect_ratio], "outputs": [{ "name": "embeddings" }, { "name": "num_tiles" }] })
    };
    let behind = infer(&server, &pixels(json!({ "parameters": { "binary_data_size": binary.len() } })), &[&binary]);
    let inside =
        server.post("/v2/models/tilesight/infer", &[], pixels(json!({ "data": values })).to_string().as_bytes());
    for response in [behind, inside] {
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("content-type"), Some("application/json"));
        let outputs = &response.json()["outputs"];
        let found: Vec<f32> =
            outputs[0]["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        assert!(found == expected);
        assert_eq!(outputs[1]["data"], json!([4]));
    }
}

#[test]
fn what_the_model_is_can_be_asked() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/v2").json()["extensions"][0], "binary_tensor_data");
    let model = server.get("/v2/models/tilesight").json();
    assert_eq!(model["inputs"][1], json!({ "name": "pixels", "datatype": "FP32", "shape": [-1, 4, 3, 28, 28] }));
    assert_eq!(model["outputs"][0], json!({ "name": "embeddings", "datatype": "FP32", "shape": [-1, 32] }));
    assert_eq!(server.get("/v2/models/tilesight/versions/1/config").json()["input"][0]["data_type"], "TYPE_STRING");
    for path in ["/v2/health/live", "/v2/health/ready", "/health/live", "/v2/models/tilesight/ready"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert_eq!(server.get("/v2/models/other/ready").status, 404);
    assert_eq!(server.get("/nowhere").status, 404);
    assert_eq!(server.get("/v1/encode").status, 405);
}

#[test]
fn every_bad_request_is_told_and_the_next_one_is_right() {
    let server = Server::start(&["--max-body-bytes", "200000", "--max-pixels", "100000"]);
    let good = picture("image0.png");
    let bomb = {
        // A header that claims 60,000 pixels a side, its checksum right.
        let mut png = good.clone();
        png[16..24].copy_from_slice(&[60_000u32.to_be_bytes(), 60_000u32.to_be_bytes()].concat());
        let checksum = crc32fast::hash(&png[12..29]).to_be_bytes();
        png[29..33].copy_from_slice(&checksum);
        png
    };
    for (what, path, headers, body, status) in [
        ("no picture", "/v1/encode", &[][..], &b"hello"[..], 415),
        ("an empty body", "/v1/encode", &[], b"", 415),
        ("a picture cut short", "/v1/encode", &[], &good[..good.len() / 2], 400),
        ("a bomb", "/v1/encode", &[], &bomb, 413),
        ("an oversize body", "/v1/encode", &[], &[0; 200_001], 413),
        ("another element type", "/v1/encode?dtype=int8", &[], &good, 400),
        ("another encoding", "/v1/encode", &[("Content-Encoding", "gzip")], &good, 400),
        ("a time that is none", "/v1/encode", &[("Tilesight-Timeout-Ms", "soon")], &good, 400),
        ("no JSON", "/v2/models/tilesight/infer", &[], b"{", 400),
        (
            "a header beyond the body",
            "/v2/models/tilesight/infer",
            &[("Inference-Header-Content-Length", "9")],
            b"{}",
            400,
        ),
        ("another model", "/v2/models/other/infer", &[], b"{}", 404),
    ] {
        let response = server.post(path, headers, body);
        assert_eq!(response.status, status, "{what}: {}", response.text());
        assert!(response.json()["error"].as_str().is_some_and(|error| !error.is_empty()), "{what}");
        assert_serves(&server);
    }
    let bytes = bytes_tensor(std::slice::from_ref(&good));
    let image = |n, len| image_input(n, len);
    let pixels = |shape: Value, datatype: &str, size: usize| json!({ "name": "pixels", "shape": shape, "datatype": datatype, "parameters": { "binary_data_size": size } });
    for (what, request, tensors) in [
        ("no inputs", json!({ "inputs": [] }), &[][..]),
        ("fewer bytes than said", json!({ "inputs": [image(1, bytes.len() + 1)] }), &bytes),
        ("more bytes than said", json!({ "inputs": [image(1, bytes.len() - 1)] }), &bytes),
        ("more elements than said", json!({ "inputs": [image(2, bytes.len())] }), &bytes),
        ("a length beyond the tensor", json!({ "inputs": [image(1, 5)] }), &[200, 0, 0, 0, 1]),
        ("no elements", json!({ "inputs": [image(0, 0)] }), &[]),
        ("both inputs", json!({ "inputs": [image(1, bytes.len()), pixels(json!([0]), "FP32", 0)] }), &bytes),
        ("the same twice", json!({ "inputs": [image(1, bytes.len()), image(0, 0)] }), &bytes),
        (
            "an input that is none",
            json!({ "inputs": [image(1, bytes.len()), { "name": "x", "shape": [0], "datatype": "FP32", "data": [] }] }),
            &bytes,
        ),
        ("an output that is none", json!({ "inputs": [image(1, bytes.len())], "outputs": [{ "name": "x" }] }), &bytes),
        (
            "half precision in JSON",
            json!({ "inputs": [image(1, bytes.len())], "parameters": { "dtype": "FP16" } }),
            &bytes,
        ),
        ("a shape that is none", json!({ "inputs": [pixels(json!([1, 3, 28, 28]), "FP32", 0)] }), &[]),
        (
            "a shape that overflows",
            json!({ "inputs": [pixels(json!([1u64 << 40, 1u64 << 40, 3, 28, 28]), "FP32", 0)] }),
            &[],
        ),
        ("a type that is none", json!({ "inputs": [pixels(json!([1, 0, 3, 28, 28]), "INT8", 0)] }), &[]),
        ("no tiles", json!({ "inputs": [pixels(json!([1, 0, 3, 28, 28]), "FP32", 0)] }), &[]),
        ("other tiles", json!({ "inputs": [pixels(json!([1, 4, 3, 1, 1]), "FP32", 48)] }), &[0; 48]),
    ] {
        let response = infer(&server, &request, &[tensors]);
        assert_eq!(response.status, 400, "{what}: {}", response.text());
        assert!(response.json()["error"].as_str().is_some_and(|error| !error.is_empty()), "{what}");
    }
    assert_serves(&server);
    assert_eq!((server.metric("tilesight_requests"), server.metric("tilesight_held_bytes")), (0.0, 0.0));
}

#[test]
fn who_comes_when_it_is_full_is_told_to_come_again() {
    // The first request waits for others to share its batch.
    let server = Server::start(&["--max-requests", "1", "--max-delay", "600000", "--timeout", "600"]);
    let body = picture("image0.png");
    let mut first = server.connect();
    first.write_all(post_head("/v1/encode", &[], body.len()).as_bytes()).unwrap();
    first.write_all(&body).unwrap();
    wait_until("the first request", || server.metric("tilesight_requests") == 1.0);
    let refused = server.post("/v1/encode", &[], &body);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{}", refused.text());
    drop(first);
    wait_until("room", || server.metric("tilesight_requests") == 0.0);
    // Nothing is computed for a request without inputs, so it does not wait.
    assert_eq!(server.post("/v1/encode", &[], b"no picture").status, 415);
}

#[test]
fn memory_is_promised_once() {
    let server = Server::start(&["--max-bytes", "100000"]);
    let mut first = server.connect();
    first.write_all(post_head("/v1/encode", &[], 60_000).as_bytes()).unwrap();
    first.write_all(&[0; 59_999]).unwrap();
    wait_until("the first request", || server.metric("tilesight_held_bytes") == 59_999.0);
    assert_eq!(server.post("/v1/encode", &[], &[0; 60_000]).status, 429, "there will be room");
    drop(first);
    wait_until("room", || server.metric("tilesight_held_bytes") == 0.0);
    assert_eq!(server.post("/v1/encode", &[], &[0; 100_001]).status, 413, "there never will be");
    assert_serves(&server);
}

#[test]
fn slow_senders_and_vanished_clients_cost_no_place() {
    let body = picture("image0.png");
    // A server of its own: what must be answered is not asked of one that gives a request a second only.
    let hurried = Server::start(&["--timeout", "1"]);
    let mut slow = hurried.connect();
    slow.write_all(post_head("/v1/encode", &[], body.len()).as_bytes()).unwrap();
    slow.write_all(&body[..100]).unwrap();
    assert_eq!(read_response(&mut slow).status, 408);
    wait_until("its end", || hurried.metric("tilesight_receiving_requests") == 0.0);
    let server = Server::start(&[]);
    let mut vanishing = server.connect();
    vanishing.write_all(post_head("/v1/encode", &[], body.len()).as_bytes()).unwrap();
    vanishing.write_all(&body[..100]).unwrap();
    wait_until("the request", || server.metric("tilesight_receiving_requests") == 1.0);
    drop(vanishing);
    wait_until("its end", || server.metric("tilesight_receiving_requests") == 0.0);
    let hurried = server.post("/v1/encode", &[("Tilesight-Timeout-Ms", "0")], &body);
    assert!([408, 504].contains(&hurried.status), "{}", hurried.text());
    assert_serves(&server);
}

#[test]
fn a_deadline_that_comes_in_the_queue_is_told() {
    let server = Server::start(&["--max-delay", "60000"]);
    let begin = Instant::now();
    let late = server.post("/v1/encode", &[("Tilesight-Timeout-Ms", "300")], &picture("image0.png"));
    assert_eq!(late.status, 504, "{}", late.text());
    assert!(begin.elapsed() >= Duration::from_millis(300));
    wait_until("its end", || server.metric("tilesight_receiving_requests") == 0.0);
}

#[test]
fn many_at_once_all_get_their_own() {
    let server = Server::start(&["--max-delay", "20"]);
    let expected = [expected(&["image0.png"]), expected(&["image1.png"])];
    std::thread::scope(|scope| {
        for client in 0..12 {
            let (server, expected) = (&server, &expected[client % 2]);
            scope.spawn(move || {
                let body = picture(["image0.png", "image1.png"][client % 2]);
                for _ in 0..4 {
                    let response = server.post("/v1/encode", &[], &body);
                    assert_eq!(response.status, 200, "{}", response.text());
                    let file = safetensors::SafeTensors::deserialize(&response.body).unwrap();
                    assert!(floats(file.tensor("embeddings").unwrap().data()) == *expected);
                }
            });
        }
    });
    let alone = server.metric("tilesight_batch_requests_bucket{le=\"1\"}");
    assert!(alone < server.metric("tilesight_batch_requests_count"), "nothing was batched");
}

#[test]
fn a_signal_lets_those_who_are_there_finish() {
    let mut server = Server::start(&[]);
    let body = picture("image0.png");
    let mut inside = server.connect();
    inside.write_all(post_head("/v1/encode", &[], body.len()).as_bytes()).unwrap();
    wait_until("the request", || server.metric("tilesight_receiving_requests") == 1.0);
    server.signal("TERM");
    wait_until("draining", || server.get("/health/ready").status == 503);
    assert_eq!(server.get("/health/live").status, 200);
    assert_eq!(server.post("/v1/encode", &[], &body).status, 503);
    inside.write_all(&body).unwrap();
    let response = read_response(&mut inside);
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(server.wait().success());
}

#[test]
fn a_drain_has_an_end_and_a_second_signal_ends_at_once() {
    for second in [false, true] {
        let timeout = if second { "600" } else { "1" };
        let mut server = Server::start(&["--drain-timeout", timeout, "--body-timeout", "600"]);
        let mut inside = server.connect();
        inside.write_all(post_head("/v1/encode", &[], 1000).as_bytes()).unwrap();
        wait_until("the request", || server.metric("tilesight_receiving_requests") == 1.0);
        let begin = Instant::now();
        server.signal("TERM");
        if second {
            wait_until("draining", || server.get("/health/ready").status == 503);
            server.signal("TERM");
        }
        assert_eq!(server.wait().success(), !second);
        // Without the second signal's help it would take ten minutes.
        assert!(begin.elapsed() < Duration::from_secs(300));
        let _ = inside.read_to_end(&mut Vec::new());
    }
}

#[test]
fn a_batch_that_takes_too_long_ends_the_process() {
    // The demo model, for the golden one is done before anybody looks.
    let mut server = Server::spawn(&["--device", "cpu", "--batch-timeout", "0"], &[]);
    let body = picture("image0.png");
    wait_until("the end", || {
        if let Ok(mut stream) = TcpStream::connect(server.address) {
            // Whether there is an answer depends on when it is found out.
            let _ = stream.write_all(post_head("/v1/encode", &[], body.len()).as_bytes());
            let _ = stream.write_all(&body).and_then(|()| stream.read_to_end(&mut Vec::new()));
        }
        !server.is_running()
    });
    assert_eq!(server.wait().code(), Some(1));
}
