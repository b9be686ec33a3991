//! Requests that claim what they do not hold: each is refused before its claim costs anything, and the server serves on.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

use crate::grpc_client::{
    Client, GRPC, RawClient, SERVICE, assert_serves, bytes_of, framed, infer, input, integers, pictures, raw_request,
};
use crate::server::{Server, picture, post_head, read_response, wait_until};

/// Shapes whose sizes multiply to no elements, to none that can be counted, or to more than were sent.
const CLAIMS: [[i64; 5]; 6] = [
    [100_000_000_000_000, 0, 3, 28, 28],
    [100_000_000_000_000, 4, 3, 28, 0],
    [0, 4, 3, 28, 28],
    [1 << 62, 1 << 62, 3, 28, 28],
    [i64::MAX, 4, 3, 28, 28],
    [1_000_000, 4, 3, 28, 28],
];

fn infer_json(server: &Server, tensor: &Value) -> (u16, String) {
    let body = json!({ "inputs": [tensor] }).to_string();
    let response = server.post("/v2/models/tilesight/infer", &[], body.as_bytes());
    (response.status, response.text())
}

#[test]
fn a_shape_without_its_elements_costs_nothing() {
    let mut server = Server::start(&[]);
    let before = server.resident_bytes();
    for shape in CLAIMS {
        for data in [json!([]), json!([0.5])] {
            let tensor = json!({ "name": "pixels", "shape": shape, "datatype": "FP32", "data": data });
            let (status, text) = infer_json(&server, &tensor);
            assert_eq!(status, 400, "{shape:?}: {text}");
        }
        let client = Client::connect(server.grpc);
        for values in [&[][..], &[0.5]] {
            let request = raw_request(vec![(input("pixels", "FP32", &shape), bytes_of(values))]);
            let refused = infer(&client, request).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{shape:?}: {refused}");
        }
    }
    for shape in [[1i64 << 40], [i64::MAX]] {
        let image = json!({ "name": "image", "shape": shape, "datatype": "BYTES", "data": [] });
        assert_eq!(infer_json(&server, &image).0, 400, "{shape:?}");
        let request = raw_request(vec![(input("image", "BYTES", &shape), Vec::new())]);
        assert_eq!(infer(&Client::connect(server.grpc), request).unwrap_err().code(), Code::InvalidArgument);
    }
    assert!(server.is_running());
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "refused requests left {grown} bytes");
    assert_eq!(server.post("/v1/encode", &[], &picture("image0.png")).status, 200);
    assert_serves(&Client::connect(server.grpc));
}

#[test]
fn claims_of_bodies_that_do_not_come_take_nobodys_place() {
    // A connection of gRPC has a quarter of the requests.
    let limits = ["--max-requests", "32", "--max-bytes", "1000000"];
    let server = Server::start(&[&limits[..], &["--timeout", "600", "--body-timeout", "600"]].concat());
    let silent = || {
        let mut stream = server.connect();
        stream.write_all(post_head("/v1/encode", &[], 64 << 20).as_bytes()).unwrap();
        stream
    };
    let http: Vec<TcpStream> = (0..64).map(|_| silent()).collect();
    let client = RawClient::connect(server.grpc);
    let calls = 8;
    let grpc: Vec<_> = (0..calls)
        .map(|number| {
            let mut call = client.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
            if number % 2 == 0 {
                // The length of a message, and nothing of it.
                call.send(&[0, 3, 0, 0, 0], false);
            }
            call
        })
        .collect();
    wait_until("the claims", || server.metric("tilesight_receiving_requests") == (64 + calls) as f64);
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
    assert_eq!(server.post("/v1/encode", &[], &picture("image0.png")).status, 200);
    assert_serves(&Client::connect(server.grpc));
    drop((http, grpc));
    wait_until("their end", || server.metric("tilesight_receiving_requests") == 0.0);
}

#[test]
fn a_body_that_stops_or_drips_is_not_waited_for() {
    // All but the time under test is without end.
    let stops = Server::start(&["--body-timeout", "1", "--min-write-rate", "1", "--timeout", "600"]);
    let mut stream = stops.connect();
    stream.write_all(post_head("/v1/encode", &[], 1000).as_bytes()).unwrap();
    stream.write_all(&[0; 10]).unwrap();
    let response = read_response(&mut stream);
    assert_eq!(response.status, 408, "{}", response.text());
    let mut call = RawClient::connect(stops.grpc).begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
    call.send(&[0, 0, 0, 1, 0, 7, 7], false);
    assert_eq!(call.status().code(), Code::DeadlineExceeded);

    let drips = Server::start(&["--body-timeout", "1", "--min-write-rate", "1000000", "--timeout", "600"]);
    let mut stream = drips.connect();
    stream.write_all(post_head("/v1/encode", &[], 1 << 20).as_bytes()).unwrap();
    let mut dripping = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        while dripping.write_all(&[0]).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert_eq!(read_response(&mut stream).status, 408);
    assert_eq!(drips.post("/v1/encode", &[], &picture("image0.png")).status, 200);
}

#[test]
fn a_body_that_stops_does_not_hold_the_end() {
    let mut server = Server::start(&["--body-timeout", "1", "--timeout", "600", "--drain-timeout", "600"]);
    let mut stream = server.connect();
    stream.write_all(post_head("/v1/encode", &[], 1000).as_bytes()).unwrap();
    wait_until("the request", || server.metric("tilesight_receiving_requests") == 1.0);
    let begin = Instant::now();
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(begin.elapsed() < Duration::from_secs(300), "it was waited for until the drain's end");
}

#[test]
fn pixels_that_overflow_are_their_senders_fault_and_disturb_nobody() {
    let server = Server::start(&["--max-batch-tiles", "8", "--max-delay", "600000", "--timeout", "600"]);
    let tiles = |value: f32| {
        raw_request(vec![
            (input("pixels", "FP32", &[1, 4, 3, 28, 28]), bytes_of(&[value; 4 * 3 * 28 * 28])),
            (input("aspect_ratio", "INT64", &[1, 2]), integers(&[2, 2])),
        ])
    };
    // Two requests share a batch, and what one of them does is not the other's affair.
    let beside = |value: f32| {
        let client = Client::connect(server.grpc);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| infer(&Client::connect(server.grpc), tiles(value)));
            (infer(&client, tiles(0.5)).unwrap(), other.join().unwrap())
        })
    };
    let (alone, other) = beside(0.25);
    other.unwrap();
    let before = server.metric("tilesight_batch_tiles_count");
    let (answer, refused) = beside(3e38);
    assert_eq!(answer.raw_output_contents, alone.raw_output_contents);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("pixels are too large"), "{refused}");
    assert_eq!(server.metric("tilesight_batch_tiles_count") - before, 1.0, "the batch was computed twice");
    assert_eq!(server.metric("tilesight_responses_total{status=\"422\"}"), 1.0);
    assert_eq!(server.get("/health/ready").status, 200);
}

/// A picture of one colour, of so many pixels a side: small as a file.
pub fn plain_png(side: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut png = png::Encoder::new(&mut file, side, side);
    png.set_color(png::ColorType::Grayscale);
    png.write_header().unwrap().write_image_data(&vec![7; (side * side) as usize]).unwrap();
    file
}

#[test]
fn decoding_ends_once_its_client_has_left() {
    let server = Server::start(&["--image-threads", "1", "--timeout", "600"]);
    let request = pictures(&vec![plain_png(4000); 10]);
    let begin = Instant::now();
    infer(&Client::connect(server.grpc), request.clone()).unwrap();
    let whole = begin.elapsed();
    let mut call = RawClient::connect(server.grpc).begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
    call.send(&framed(&request.encode_to_vec()), true);
    wait_until("decoding", || server.metric("tilesight_requests") == 1.0);
    let begin = Instant::now();
    drop(call);
    // The one decoder is free again long before it would have decoded all.
    assert_eq!(server.post("/v1/encode", &[], &picture("image0.png")).status, 200);
    let waited = begin.elapsed();
    assert!(waited < whole / 2, "waited {waited:?} for pictures that take {whole:?}");
}

#[test]
fn more_pictures_than_there_is_room_for_are_refused_before_one_is_read() {
    let server = Server::start(&["--max-bytes", "10000000"]);
    let files = vec![b"no picture".to_vec(); 10_000];
    let refused = infer(&Client::connect(server.grpc), pictures(&files)).unwrap_err();
    assert!(refused.message().contains("the limit is 10000000"), "{refused}");
}
