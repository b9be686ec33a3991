//! Requests that are broken anywhere, over HTTP and gRPC: each is answered with a refusal or its connection is closed, no
//! answer is a failure of the server, nothing is left behind, and the next request is right.
//!
//! The mutations follow from a seed: what fails once fails again.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use prost::Message;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use tonic::Code;

use crate::grpc_client::inference::model_infer_request::InferInputTensor;
use crate::grpc_client::inference::{InferTensorContents, ModelInferRequest, ModelInferResponse};
use crate::grpc_client::{Client, RawClient, SERVICE, framed};
use crate::server;
use crate::server::{PATIENCE, Server, post_head, wait_until};

/// Clients at once.
const CLIENTS: usize = 8;

/// How long a connection that is waited for is listened to before its end is sent.
const LISTEN: Duration = Duration::from_millis(100);

/// Text that has a meaning somewhere in a request.
const WORDS: [&[u8]; 16] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b" ",
    b":",
    b"-1",
    b"0",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Inference-Header-Content-Length: 3\r\n",
    b"Expect: 100-continue\r\n",
    b"[[[[[[",
    b"\xff\xff\xff\xff",
];

fn picture() -> Vec<u8> {
    server::picture("image0.png")
}

fn expected() -> Vec<u8> {
    bytemuck::cast_slice(&server::expected(&["image0.png"])).to_vec()
}

fn bytes_tensor() -> Vec<u8> {
    let picture = picture();
    [&(picture.len() as u32).to_le_bytes()[..], &picture].concat()
}

fn grpc_request() -> ModelInferRequest {
    let (name, datatype, shape) = ("image".into(), "BYTES".into(), vec![1]);
    ModelInferRequest {
        model_name: "tilesight".into(),
        inputs: vec![InferInputTensor { name, datatype, shape, ..<_>::default() }],
        raw_input_contents: vec![bytes_tensor().into()],
        ..<_>::default()
    }
}

/// One to three changes somewhere.
fn mutate(mut bytes: Vec<u8>, random: &mut SplitMix64) -> Vec<u8> {
    let below = |random: &mut SplitMix64, end: usize| (random.next_u64() % end.max(1) as u64) as usize;
    for _ in 0..=below(random, 3) {
        // Half of the changes are where requests are structure, the others anywhere.
        let end = if random.next_u64().is_multiple_of(2) { bytes.len().min(300) } else { bytes.len() };
        let at = below(random, end);
        let word = WORDS[below(random, WORDS.len())];
        match random.next_u64() % 8 {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << below(random, 8),
            2 if at < bytes.len() => bytes[at] = random.next_u64() as u8,
            3 => drop(bytes.splice(at..at, word.iter().copied())),
            4 => {
                let end = (at + word.len()).min(bytes.len());
                bytes.splice(at..end, word.iter().copied());
            }
            5 => drop(bytes.drain(at..(at + below(random, 9)).min(bytes.len()))),
            6 => {
                let again = bytes[at..(at + below(random, 40)).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
            _ => bytes.extend((0..below(random, 20)).map(|_| random.next_u64() as u8)),
        }
    }
    bytes
}

/// Sends bytes, and returns all that comes back until the connection ends.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LISTEN)).unwrap();
    let mut answer = Vec::new();
    // A server that refuses early may close before it has read everything.
    let _ = stream.write_all(bytes);
    if stream.read_to_end(&mut answer).is_err() {
        let _ = stream.shutdown(Shutdown::Write);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if let Err(error) = stream.read_to_end(&mut answer) {
            let is_timeout = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
            assert!(!is_timeout, "it is neither answered nor closed: {}", String::from_utf8_lossy(bytes));
        }
    }
    answer
}

/// Has so many mutations of each request tried by several clients at once.
fn try_all(requests: &[Vec<u8>], times: usize, try_one: impl Fn(usize, Vec<u8>) + Sync) {
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let try_one = &try_one;
            scope.spawn(move || {
                for case in (client..requests.len() * times).step_by(CLIENTS) {
                    let mut random = SplitMix64::seed_from_u64(case as u64);
                    try_one(case, mutate(requests[case % requests.len()].clone(), &mut random));
                }
            });
        }
    });
}

/// Nothing is left of the requests, none of them was answered as a failure, and the next ones are right.
fn assert_unharmed(server: &Server) {
    wait_until("their end", || server.metric("tilesight_requests") == 0.0);
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
    let metrics = server.get("/metrics").text();
    assert!(!metrics.contains("tilesight_responses_total{status=\"5"), "{metrics}");
    let response = server.post("/v1/encode", &[], &picture());
    assert_eq!(response.status, 200, "{}", response.text());
    let file = safetensors::SafeTensors::deserialize(&response.body).unwrap();
    assert!(file.tensor("embeddings").unwrap().data() == expected());
    let response: ModelInferResponse = Client::connect(server.grpc).ask("ModelInfer", grpc_request()).unwrap();
    assert!(response.raw_output_contents[0] == expected());
}

#[test]
fn http_that_is_broken_anywhere_is_refused() {
    let server = Server::start(&["--max-body-bytes", "200000"]);
    let tensor = bytes_tensor();
    let json = format!(
        r#"{{"id":"a","inputs":[{{"name":"image","shape":[1],"datatype":"BYTES","parameters":{{"binary_data_size":{}}}}}],"outputs":[{{"name":"num_tiles"}}]}}"#,
        tensor.len()
    );
    let binary = [json.as_bytes(), &tensor].concat();
    let json_len = json.len().to_string();
    let pixels = r#"{"inputs":[{"name":"pixels","shape":[1,1,3,28,28],"datatype":"FP32","data":[[0.5,1e3,-1]]}]}"#;
    let picture = picture();
    let infer = "/v2/models/tilesight/infer";
    let head = post_head(infer, &[("Inference-Header-Content-Length", &json_len)], binary.len());
    let chunked = |chunks: &[&[u8]]| {
        let head = format!(
            "POST {infer} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let chunks =
            chunks.iter().flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        [head.into_bytes(), chunks.collect(), b"0\r\n\r\n".to_vec()].concat()
    };
    let (first, second) = pixels.as_bytes().split_at(40);
    let requests = [
        [post_head("/v1/encode?dtype=fp16", &[], picture.len()).into_bytes(), picture].concat(),
        [head.into_bytes(), binary].concat(),
        chunked(&[first, second]),
        b"GET /v2/models/tilesight/config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(),
    ];
    for request in &requests {
        let answer = exchange(server.address, request);
        assert!(answer.starts_with(b"HTTP/1.1 200") || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    }
    try_all(&requests, 100, |case, request| {
        let answer = exchange(server.address, &request);
        let status = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        let is_told = ["HTTP/1.1 1", "HTTP/1.1 2", "HTTP/1.1 4", "HTTP/1.0 2", "HTTP/1.0 4"]
            .iter()
            .any(|s| status.starts_with(s));
        // A mutation may be the beginning of HTTP/2, which is answered in frames.
        let is_http2 = request.starts_with(b"PRI ");
        assert!(
            answer.is_empty() || is_told || is_http2,
            "case {case}: {status:?} to {}",
            String::from_utf8_lossy(&request)
        );
    });
    assert_unharmed(&server);
}

#[test]
fn a_transfer_coding_that_is_unknown_is_not_implemented() {
    let server = Server::start(&[]);
    let picture = picture();
    let chunks = [format!("{:x}\r\n", picture.len()).as_bytes(), &picture, b"\r\n0\r\n\r\n"].concat();
    let send = |codings: &str| {
        let head = format!("POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{codings}\r\n");
        server.send(&head, &chunks)
    };
    for codings in ["Transfer-Encoding: chunked\r\n", "transfer-encoding:  Chunked \r\n"] {
        assert_eq!(send(codings).status, 200, "{codings}");
    }
    for codings in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let refused = send(codings);
        assert_eq!(refused.status, 501, "{codings}");
        assert!(refused.json()["error"].as_str().unwrap().contains("transfer coding"), "{}", refused.text());
    }
    // Where chunked is not the last, nobody knows where the body ends.
    for codings in ["Transfer-Encoding: gzip\r\n", "Transfer-Encoding: chunked, gzip\r\n"] {
        assert_eq!(send(codings).status, 400, "{codings}");
    }
    assert_unharmed(&server);
}

/// A frame of HTTP/2.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// All that a client says of one call, from the preface of HTTP/2 on.
fn conversation(message: &[u8]) -> Vec<u8> {
    let path = format!("{SERVICE}/ModelInfer");
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        // Of any text as long, the latest: no answer may come too late on a slow machine.
        ("grpc-timeout", "99H"),
    ];
    // HPACK's literals without indexing: every name and value behind its length.
    let literal = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let headers = headers.iter().flat_map(|(name, value)| [vec![0], literal(name), literal(value)].concat());
    let mut bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat();
    bytes.extend(frame(1, 4, 1, &headers.collect::<Vec<_>>()));
    bytes.extend(frame(0, 1, 1, message));
    // Goes away, so that the connection ends when the answer has been sent.
    bytes.extend(frame(7, 0, 0, &[0; 8]));
    bytes
}

#[test]
fn http2_that_is_broken_anywhere_is_refused() {
    let server = Server::start(&["--max-body-bytes", "200000"]);
    let message = framed(&grpc_request().encode_to_vec());
    let whole = conversation(&message);
    let answer = exchange(server.grpc, &whole);
    assert!(answer.windows(expected().len()).any(|bytes| bytes == expected()), "the whole of it is answered");
    try_all(&[whole.clone(), whole[..200].to_vec()], 100, |_, bytes| drop(exchange(server.grpc, &bytes)));
    // The preface, or anything else, at the other protocol's address.
    exchange(server.address, &whole);
    exchange(server.grpc, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    exchange(server.grpc, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
    assert_unharmed(&server);
}

#[test]
fn messages_that_are_broken_anywhere_are_refused() {
    let server = Server::start(&["--max-body-bytes", "200000"]);
    let typed = {
        let mut request = grpc_request();
        let contents = InferTensorContents { bytes_contents: vec![picture().into()], ..<_>::default() };
        request.inputs[0].contents = Some(contents);
        request.raw_input_contents.clear();
        request
    };
    let requests = [framed(&grpc_request().encode_to_vec()), framed(&typed.encode_to_vec())];
    let clients: Vec<RawClient> = (0..CLIENTS).map(|_| RawClient::connect(server.grpc)).collect();
    for (method, times) in [("ModelInfer", 150), ("ModelStreamInfer", 50), ("ModelConfig", 20)] {
        try_all(&requests, times, |case, message| {
            let headers = [("content-type", "application/grpc"), ("te", "trailers")];
            let mut call = clients[case % CLIENTS].begin(&format!("{SERVICE}/{method}"), &headers);
            call.send(&message, true);
            let status = call.status();
            let is_told =
                [Code::Ok, Code::InvalidArgument, Code::NotFound, Code::Unimplemented].contains(&status.code());
            // tonic's own codec has codes of its own for frames that are none.
            let is_tonics = method == "ModelConfig" && [Code::Internal, Code::OutOfRange].contains(&status.code());
            assert!(is_told || is_tonics, "{method}, case {case}: {status}");
        });
    }
    assert_unharmed(&server);
}
