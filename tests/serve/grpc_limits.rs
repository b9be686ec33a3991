//! What gRPC's clients are refused, what they may hold and for how long, and what becomes of them when the server ends: the
//! real process, over HTTP/2.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use prost::Message;
use tonic::Code;

use crate::grpc_client::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::grpc_client::inference::*;
use crate::grpc_client::{
    Client, GRPC, RawClient, SERVICE, assert_serves, bytes_of, framed, infer, input, integers, pictures, raw_request,
    text,
};
use crate::noise::noise;
use crate::server::{PATIENCE, Server, picture, wait_until};

/// A request to the demo model, whose answer is of a megabyte.
fn two_tiles() -> ModelInferRequest {
    let values = bytes_of(&noise(2 * 3 * 224 * 224, 5));
    let ratios = (input("aspect_ratio", "INT64", &[2, 2]), integers(&[1; 4]));
    raw_request(vec![(input("pixels", "FP32", &[2, 1, 3, 224, 224]), values), ratios])
}

#[test]
fn an_answer_holds_its_place_until_it_has_left() {
    let server = Server::spawn(&["--device", "cpu"], &[]);
    server.wait_until_ready();
    let client = RawClient::connect(server.grpc);
    let mut call = client.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
    call.send(&framed(&two_tiles().encode_to_vec()), true);
    let answer = call.head();
    // A client of HTTP/2 says how much it takes: nothing but the first 65,535 bytes so far.
    assert_eq!(server.metric("tilesight_requests"), 1.0);
    assert!(server.metric("tilesight_held_bytes") > (2 * 257 * 512 * 4) as f64);
    assert_eq!(answer.code(), Code::Ok);
    wait_until("its end", || server.metric("tilesight_requests") == 0.0);
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
}

#[test]
fn an_answer_that_nobody_takes_gives_its_place_back() {
    let server = Server::spawn(&["--device", "cpu", "--write-timeout", "2"], &[]);
    server.wait_until_ready();
    let client = RawClient::connect(server.grpc);
    let begin = Instant::now();
    let mut call = client.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
    call.send(&framed(&two_tiles().encode_to_vec()), true);
    let answer = call.head();
    assert_eq!(server.metric("tilesight_requests"), 1.0);
    wait_until("its end", || server.metric("tilesight_requests") == 0.0);
    // Not earlier, and long before the thirty seconds that it would have otherwise.
    let time = begin.elapsed();
    assert!(time > Duration::from_secs(2) && time < Duration::from_secs(20), "after {time:?}");
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
    assert_ne!(answer.code(), Code::Ok);
}

#[test]
fn an_answer_that_is_taken_too_slowly_gives_its_place_back() {
    let options = |rate| ["--device", "cpu", "--write-timeout", "1", "--min-read-rate", rate];
    // A window of few bytes, one of none, and one of a client that goes on asking for other things.
    for (rate, window, is_asking, is_taken) in [
        ("100000", 1000, false, false),
        ("100000", 0, false, false),
        ("100000", 1000, true, false),
        ("1000", 1000, false, true),
    ] {
        let server = Server::spawn(&options(rate), &[]);
        server.wait_until_ready();
        let client = RawClient::with_window(server.grpc, window);
        let mut call = client.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
        call.send(&framed(&two_tiles().encode_to_vec()), true);
        let mut answer = call.head();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while is_asking && !is_over.load(Ordering::Relaxed) {
                    let mut other = client.begin(&format!("{SERVICE}/ServerLive"), &[GRPC]);
                    other.send(&framed(&[]), true);
                    other.status();
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            // A client that is dropped waits for that, less than the thirty seconds that it would have otherwise.
            let taken = answer.take_slowly(5000, Duration::from_secs(if is_taken { 4 } else { 20 }));
            is_over.store(true, Ordering::Relaxed);
            let is_there = server.metric("tilesight_requests") == 1.0;
            assert_eq!(is_there, is_taken, "{rate} bytes a second, window of {window}: {taken} taken");
            assert!(taken < 100_000 && (taken > 0) == (window > 0), "{taken}");
        });
    }
}

#[test]
fn a_stream_may_be_idle_for_a_while_and_compute_for_longer() {
    let server = Server::start(&["--idle-timeout", "1", "--max-delay", "2500"]);
    let client = RawClient::connect(server.grpc);
    let begin = Instant::now();
    let idle = client.begin(&format!("{SERVICE}/ModelStreamInfer"), &[GRPC]);
    assert_eq!(idle.status().code(), Code::DeadlineExceeded);
    assert!(begin.elapsed() > Duration::from_secs(1));
    // The batch waits for more, which does not come.
    let begin = Instant::now();
    let mut busy = client.begin(&format!("{SERVICE}/ModelStreamInfer"), &[GRPC]);
    busy.send(&framed(&pictures(&[picture("image0.png")]).encode_to_vec()), true);
    assert_eq!(busy.status().code(), Code::Ok);
    assert!(begin.elapsed() > Duration::from_secs(2));
}

#[test]
fn a_connection_that_asks_for_nothing_has_an_end() {
    let server = Server::start(&["--header-timeout", "1", "--idle-timeout", "1"]);
    for begins in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(server.grpc).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(begins).unwrap();
        // Whether it ends or is reset, it is over.
        let _ = stream.read_to_end(&mut Vec::new()).map_err(|error| assert_ne!(error.kind(), ErrorKind::WouldBlock));
        let time = begin.elapsed();
        assert!(time > Duration::from_millis(900) && time < Duration::from_secs(60), "after {time:?}");
    }
    assert_serves(&Client::connect(server.grpc));
}

#[test]
fn every_bad_request_is_told_and_the_next_one_is_right() {
    let server = Server::start(&["--max-body-bytes", "200000", "--max-pixels", "100000"]);
    let client = Client::connect(server.grpc);
    let good = picture("image0.png");
    let request = pictures(std::slice::from_ref(&good));
    let with = |change: fn(&mut ModelInferRequest)| {
        let mut request = request.clone();
        change(&mut request);
        request
    };
    let pixels =
        |shape: &[i64], datatype: &str, len: usize| raw_request(vec![(input("pixels", datatype, shape), vec![0; len])]);
    for (what, request, code) in [
        ("another model", with(|r| r.model_name = "other".into()), Code::NotFound),
        ("another version", with(|r| r.model_version = "2".into()), Code::NotFound),
        (
            "another output",
            with(|r| r.outputs.push(InferRequestedOutputTensor { name: "x".into(), ..<_>::default() })),
            Code::InvalidArgument,
        ),
        (
            "an output twice",
            with(|r| r.outputs = vec![InferRequestedOutputTensor { name: "num_tiles".into(), ..<_>::default() }; 2]),
            Code::InvalidArgument,
        ),
        ("another input", with(|r| r.inputs[0].name = "x".into()), Code::InvalidArgument),
        (
            "an input twice",
            with(|r| {
                r.inputs.push(r.inputs[0].clone());
                r.raw_input_contents.push(Bytes::new())
            }),
            Code::InvalidArgument,
        ),
        (
            "no inputs",
            with(|r| {
                r.inputs.clear();
                r.raw_input_contents.clear()
            }),
            Code::InvalidArgument,
        ),
        ("no contents", with(|r| r.raw_input_contents.clear()), Code::InvalidArgument),
        ("more contents than inputs", with(|r| r.raw_input_contents.push(Bytes::new())), Code::InvalidArgument),
        (
            "contents twice",
            with(|r| r.inputs[0].contents = Some(InferTensorContents::default())),
            Code::InvalidArgument,
        ),
        ("another datatype", with(|r| r.inputs[0].datatype = "UINT8".into()), Code::InvalidArgument),
        ("a negative size", with(|r| r.inputs[0].shape = vec![-1]), Code::InvalidArgument),
        ("other sizes", with(|r| r.inputs[0].shape = vec![2]), Code::InvalidArgument),
        ("two dimensions", with(|r| r.inputs[0].shape = vec![1, 1]), Code::InvalidArgument),
        (
            "another element type",
            with(|r| {
                r.parameters.insert("dtype".into(), text("INT8"));
            }),
            Code::InvalidArgument,
        ),
        (
            "an element type that is no text",
            with(|r| {
                r.parameters.insert("dtype".into(), InferParameter::default());
            }),
            Code::InvalidArgument,
        ),
        ("no picture", pictures(&[b"hello".to_vec()]), Code::InvalidArgument),
        ("a picture cut short", pictures(&[good[..good.len() / 2].to_vec()]), Code::InvalidArgument),
        (
            "a length beyond the tensor",
            raw_request(vec![(input("image", "BYTES", &[1]), vec![200, 0, 0, 0, 1])]),
            Code::InvalidArgument,
        ),
        ("no tiles", pixels(&[1, 0, 3, 28, 28], "FP32", 0), Code::InvalidArgument),
        ("tiles of another size", pixels(&[1, 4, 3, 1, 1], "FP32", 48), Code::InvalidArgument),
        ("a shape that overflows", pixels(&[1 << 40, 1 << 40, 3, 28, 28], "FP32", 0), Code::InvalidArgument),
        ("a shape of four", pixels(&[1, 3, 28, 28], "FP32", 0), Code::InvalidArgument),
        ("bytes that are no floats", pixels(&[1, 1, 3, 28, 28], "BF16", 3), Code::InvalidArgument),
        ("pixels as integers", pixels(&[1, 1, 3, 28, 28], "INT64", 3), Code::InvalidArgument),
        ("a message beyond the limit", pictures(&[vec![0; 200_001]]), Code::InvalidArgument),
    ] {
        let refused = infer(&client, request).unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
        assert!(!refused.message().is_empty() && refused.message().len() < 2000, "{what}");
    }
    let long = with(|r| r.model_name = "é".repeat(90_000));
    assert!(infer(&client, long).unwrap_err().message().len() < 4000);
    assert_serves(&client);
    wait_until("the last answer to leave", || server.metric("tilesight_requests") == 0.0);
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
    let failed =
        server.get("/v2/models/tilesight/stats").json()["model_stats"][0]["inference_stats"]["fail"]["count"].clone();
    assert_eq!(failed, 27);
}

#[test]
fn frames_that_are_no_calls_are_told() {
    let server = Server::start(&["--max-body-bytes", "200000"]);
    let client = RawClient::connect(server.grpc);
    let infer = format!("{SERVICE}/ModelInfer");
    let good = framed(&pictures(&[picture("image0.png")]).encode_to_vec());
    let mut compressed = good.clone();
    compressed[0] = 1;
    let gzip = [GRPC, ("grpc-encoding", "gzip")];
    for (what, headers, body, code) in [
        ("no message", &[GRPC][..], &b""[..], Code::InvalidArgument),
        ("no whole length", &[GRPC], &[0, 0, 0], Code::InvalidArgument),
        ("a message cut short", &[GRPC], &good[..good.len() - 1], Code::InvalidArgument),
        ("a length beyond the limit", &[GRPC], &[0, 255, 255, 255, 255, 1], Code::InvalidArgument),
        ("two messages", &[GRPC], &[&good[..], &good].concat(), Code::InvalidArgument),
        ("a compressed message", &[GRPC], &compressed, Code::Unimplemented),
        ("a compression", &gzip, &good, Code::Unimplemented),
        ("no protobuf", &[GRPC], &framed(&[255; 40]), Code::InvalidArgument),
        ("a deadline that is none", &[GRPC, ("grpc-timeout", "soon")], &good, Code::InvalidArgument),
        ("another content type", &[("content-type", "text/plain")], &good, Code::Unknown),
        ("all well", &[GRPC], &good, Code::Ok),
    ] {
        let mut call = client.begin(&infer, headers);
        call.send(body, true);
        let status = call.status();
        assert_eq!(status.code(), code, "{what}: {status}");
    }
    assert_serves(&Client::connect(server.grpc));
}

#[test]
fn who_comes_when_it_is_full_is_told_to_come_again() {
    // The first request waits for others to share its batch.
    let waiting = ["--max-delay", "600000", "--timeout", "600"];
    let server = Server::start(&[&["--max-requests", "1"], &waiting[..]].concat());
    let (client, raw) = (Client::connect(server.grpc), RawClient::connect(server.grpc));
    let mut first = raw.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
    first.send(&framed(&pictures(&[picture("image0.png")]).encode_to_vec()), true);
    wait_until("the first request", || server.metric("tilesight_requests") == 1.0);
    let refused = infer(&client, pictures(&[picture("image0.png")])).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
    drop(first);
    wait_until("room", || server.metric("tilesight_requests") == 0.0);

    let server = Server::start(&["--max-bytes", "100000"]);
    let client = Client::connect(server.grpc);
    let never = infer(&client, pictures(&[vec![0; 100_001]])).unwrap_err();
    assert_eq!((never.code(), never.metadata().get("grpc-retry-pushback-ms")), (Code::InvalidArgument, None));
    // What a message becomes counts as well: descriptions that are two bytes each, and elements of four.
    let descriptions = ModelInferRequest { inputs: vec![InferInputTensor::default(); 5000], ..pictures(&[]) };
    let elements = raw_request(vec![(input("image", "BYTES", &[5000]), vec![0; 4 * 5000])]);
    for request in [descriptions, elements] {
        let never = infer(&client, request).unwrap_err();
        assert_eq!(never.code(), Code::InvalidArgument);
        assert!(never.message().contains("the limit is 100000"), "{never}");
    }
    assert_serves(&client);
}

#[test]
fn slow_senders_and_vanished_clients_cost_no_place() {
    let infer = format!("{SERVICE}/ModelInfer");
    // A server of its own: what must be answered is not asked of one that gives a request a second only.
    let hurried = Server::start(&["--timeout", "1"]);
    let mut slow = RawClient::connect(hurried.grpc).begin(&infer, &[GRPC]);
    slow.send(&[0, 0, 0, 16, 0, 1], false);
    assert_eq!(slow.status().code(), Code::DeadlineExceeded);
    wait_until("its end", || hurried.metric("tilesight_receiving_requests") == 0.0);
    let server = Server::start(&["--timeout", "600"]);
    for whole_connection in [false, true] {
        let client = RawClient::connect(server.grpc);
        let mut vanishing = client.begin(&infer, &[GRPC]);
        vanishing.send(&[0, 0, 0, 16, 0, 1], false);
        wait_until("the request", || server.metric("tilesight_receiving_requests") == 1.0);
        let begin = Instant::now();
        drop(vanishing);
        if whole_connection {
            drop(client);
        }
        wait_until("its end", || server.metric("tilesight_receiving_requests") == 0.0);
        assert!(begin.elapsed() < Duration::from_secs(300), "it was there until its deadline");
    }
    assert_serves(&Client::connect(server.grpc));
}

#[test]
fn a_deadline_that_comes_in_the_queue_is_told() {
    let server = Server::start(&["--max-delay", "60000"]);
    let client = RawClient::connect(server.grpc);
    let good = framed(&pictures(&[picture("image0.png")]).encode_to_vec());
    for timeout in [("grpc-timeout", "300m"), ("tilesight-timeout-ms", "300")] {
        let begin = Instant::now();
        let mut call = client.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC, timeout]);
        call.send(&good, true);
        assert_eq!(call.status().code(), Code::DeadlineExceeded);
        assert!(begin.elapsed() >= Duration::from_millis(300));
    }
    wait_until("their end", || server.metric("tilesight_requests") == 0.0);
}

#[test]
fn a_signal_lets_those_who_are_there_finish() {
    let mut server = Server::start(&[]);
    let (client, raw) = (Client::connect(server.grpc), RawClient::connect(server.grpc));
    let good = framed(&pictures(&[picture("image0.png")]).encode_to_vec());
    let mut inside = raw.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
    inside.send(&good[..100], false);
    wait_until("the request", || server.metric("tilesight_receiving_requests") == 1.0);
    server.signal("TERM");
    wait_until("draining", || server.get("/health/ready").status == 503);
    assert!(!client.ask::<_, ServerReadyResponse>("ServerReady", ServerReadyRequest {}).unwrap().ready);
    assert_eq!(infer(&client, pictures(&[])).unwrap_err().code(), Code::Unavailable);
    inside.send(&good[100..], true);
    assert_eq!(inside.status().code(), Code::Ok);
    assert!(server.wait().success());
}

#[test]
fn an_encoder_that_is_lost_is_told_and_ends_the_process() {
    // The demo model, for the golden one is done before anybody looks.
    let mut server = Server::spawn(&["--device", "cpu", "--batch-timeout", "0"], &[]);
    let good = framed(&pictures(&[picture("image0.png")]).encode_to_vec());
    let client = RawClient::connect(server.grpc);
    let health = || {
        let mut call = client.begin("/grpc.health.v1.Health/Check", &[GRPC]);
        call.send(&framed(&[]), true);
        call.status().code()
    };
    wait_until("the end", || {
        let mut call = client.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
        call.send(&good, true);
        let code = call.status().code();
        // Whether it still starts, computes, or has closed the connection depends on when it is found out.
        assert!([Code::Ok, Code::Unavailable, Code::Unknown].contains(&code), "{code:?}");
        assert!([Code::Ok, Code::Unknown].contains(&health()));
        !server.is_running()
    });
    assert_eq!(server.wait().code(), Some(1));
}
