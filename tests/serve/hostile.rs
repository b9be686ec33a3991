//! Requests that claim what they do not hold: each is refused before its claim costs anything, and the server serves on.

use serde_json::{Value, json};
use tonic::Code;

use crate::grpc_client::{Client, assert_serves, bytes_of, infer, input, raw_request};
use crate::server::{Server, picture};

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
