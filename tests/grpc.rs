//! The server as gRPC's clients meet it: the real process, over HTTP/2. Every answer is held against the encoder's own.

mod common;
mod server;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use common::{golden, on_cpu};
use prost::Message;
use server::grpc::health::{HealthCheckRequest, HealthCheckResponse};
use server::grpc::inference::infer_parameter::ParameterChoice;
use server::grpc::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use server::grpc::inference::*;
use server::grpc::{Client, RawClient, SERVICE, framed};
use server::{Server, expected, picture, wait_until};
use tilesight::checkpoint::{NameFormat, RandomWeights};
use tilesight::{Dtype, EncoderConfig};
use tonic::{Code, Request, Status};

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn integers(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), ..<_>::default() }
}

/// A request with its tensors in memory.
fn raw_request(inputs: Vec<(InferInputTensor, Vec<u8>)>) -> ModelInferRequest {
    let (inputs, raw): (Vec<_>, Vec<_>) = inputs.into_iter().map(|(input, raw)| (input, Bytes::from(raw))).unzip();
    ModelInferRequest { model_name: "tilesight".into(), inputs, raw_input_contents: raw, ..<_>::default() }
}

/// A request for these files.
fn pictures(files: &[Vec<u8>]) -> ModelInferRequest {
    let raw = files.iter().flat_map(|file| [&(file.len() as u32).to_le_bytes()[..], file].concat()).collect();
    raw_request(vec![(input("image", "BYTES", &[files.len() as i64]), raw)])
}

fn text(value: &str) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::StringParam(value.into())) }
}

fn infer(client: &Client, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
    client.ask("ModelInfer", request)
}

/// The server still answers, and rightly.
#[track_caller]
fn assert_serves(client: &Client) {
    let response = infer(client, pictures(&[picture("image0.png")])).unwrap();
    assert!(response.raw_output_contents[0] == bytes_of(&expected(&["image0.png"])));
}

#[test]
fn what_the_server_and_its_model_are_can_be_asked() {
    let server = Server::start(&[]);
    let client = Client::connect(server.grpc);
    assert!(client.ask::<_, ServerLiveResponse>("ServerLive", ServerLiveRequest {}).unwrap().live);
    assert!(client.ask::<_, ServerReadyResponse>("ServerReady", ServerReadyRequest {}).unwrap().ready);
    let ready = |name: &str, version: &str| {
        let asked = ModelReadyRequest { name: name.into(), version: version.into() };
        client.ask::<_, ModelReadyResponse>("ModelReady", asked).unwrap().ready
    };
    assert!(ready("tilesight", "") && ready("tilesight", "1"));
    assert!(!ready("other", "") && !ready("tilesight", "2"));

    let metadata: ServerMetadataResponse = client.ask("ServerMetadata", ServerMetadataRequest {}).unwrap();
    let over_http = server.get("/v2").json();
    assert_eq!(serde_json::json!(metadata.extensions), over_http["extensions"]);
    assert_eq!((&over_http["name"], &over_http["version"]), (&metadata.name.into(), &metadata.version.into()));

    let asked = ModelMetadataRequest { name: "tilesight".into(), version: String::new() };
    let model: ModelMetadataResponse = client.ask("ModelMetadata", asked).unwrap();
    let tensors: Vec<_> =
        model.inputs.iter().chain(&model.outputs).map(|t| (&t.name[..], &t.datatype[..], &t.shape[..])).collect();
    assert_eq!(
        tensors,
        [
            ("image", "BYTES", &[-1][..]),
            ("pixels", "FP32", &[-1, 4, 3, 28, 28]),
            ("aspect_ratio", "INT64", &[-1, 2]),
            ("embeddings", "FP32", &[-1, 32]),
            ("num_tiles", "INT64", &[-1]),
            ("aspect_ratio", "INT64", &[-1, 2]),
        ]
    );
    for (name, version) in [("other", ""), ("tilesight", "2")] {
        let asked = ModelMetadataRequest { name: name.into(), version: version.into() };
        let unknown = client.ask::<_, ModelMetadataResponse>("ModelMetadata", asked).unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
    }
    let asked = ModelConfigRequest { name: "tilesight".into(), version: "1".into() };
    let config = client.ask::<_, ModelConfigResponse>("ModelConfig", asked).unwrap().config.unwrap();
    assert_eq!((config.max_batch_size, config.input.len(), config.output.len()), (0, 3, 3));
    assert_eq!((config.input[0].data_type(), config.input[0].optional), (DataType::TypeString, true));
    assert_eq!(
        (config.input[1].data_type(), &config.input[1].dims[..]),
        (DataType::TypeFp32, &[-1, -1, 3, 28, 28][..])
    );
    assert_eq!(config.output[1].data_type(), DataType::TypeInt64);

    let index: RepositoryIndexResponse = client.ask("RepositoryIndex", RepositoryIndexRequest::default()).unwrap();
    assert_eq!((&index.models[0].name[..], &index.models[0].state[..]), ("tilesight", "READY"));
    assert_eq!(server.post("/v2/repository/index", &[], b"{}").json()[0]["state"], "READY");

    let health = |service: &str| {
        let asked = HealthCheckRequest { service: service.into() };
        let answered = client.call::<_, HealthCheckResponse>("/grpc.health.v1.Health/Check", Request::new(asked));
        answered.map(|response| response.into_inner().status)
    };
    assert_eq!((health("").unwrap(), health("inference.GRPCInferenceService").unwrap()), (1, 1));
    assert_eq!(health("other").unwrap_err().code(), Code::NotFound);

    for method in ["TraceSetting", "SystemSharedMemoryStatus", "Nothing"] {
        let unknown = client.ask::<_, ServerLiveResponse>(method, ServerLiveRequest {}).unwrap_err();
        assert_eq!(unknown.code(), Code::Unimplemented, "{method}");
    }
    assert_eq!(server.post("/v2/models/tilesight/versions/2/infer", &[], b"{}").status, 404);
}

#[test]
fn pictures_come_back_as_the_librarys_embeddings() {
    let server = Server::start(&[]);
    let client = Client::connect(server.grpc);
    let names = ["image0.png", "image1.png"];
    let files = names.map(picture);
    let expected = expected(&names);
    let raw = ModelInferRequest { id: "seven".into(), ..pictures(&files) };
    let tensor = &raw.raw_input_contents[0];
    let image = serde_json::json!({
        "name": "image", "shape": [2], "datatype": "BYTES", "parameters": { "binary_data_size": tensor.len() },
    });
    let json = serde_json::json!({ "inputs": [image], "outputs": [{ "name": "num_tiles" }] }).to_string();
    let (len, body) = (json.len().to_string(), [json.as_bytes(), tensor].concat());
    let mut typed = ModelInferRequest { raw_input_contents: Vec::new(), ..raw.clone() };
    typed.inputs[0].contents =
        Some(InferTensorContents { bytes_contents: files.map(Bytes::from).into(), ..<_>::default() });
    for request in [raw.clone(), typed] {
        let request = Request::new(request);
        let response = client.call(&format!("{SERVICE}/ModelInfer"), request).unwrap();
        let timing = response.metadata().get("server-timing").unwrap().to_str().unwrap();
        assert!(timing.contains("compute;dur="), "{timing}");
        let response: ModelInferResponse = response.into_inner();
        assert_eq!(
            (&response.model_name[..], &response.model_version[..], &response.id[..]),
            ("tilesight", "1", "seven")
        );
        let shapes: Vec<_> = response.outputs.iter().map(|o| (&o.name[..], &o.datatype[..], &o.shape[..])).collect();
        assert_eq!(
            shapes,
            [("embeddings", "FP32", &[20, 32][..]), ("num_tiles", "INT64", &[2]), ("aspect_ratio", "INT64", &[2, 2])]
        );
        let over_http = server.post("/v2/models/tilesight/infer", &[("Inference-Header-Content-Length", &len)], &body);
        let content_hash = over_http.json()["parameters"]["content_hash"].as_str().unwrap().to_string();
        assert_eq!(response.parameters["content_hash"], text(&content_hash));
        assert!(response.raw_output_contents[0] == bytes_of(&expected));
        assert_eq!(response.raw_output_contents[1], integers(&[3, 1]));
        assert_eq!(response.raw_output_contents[2], integers(&[1, 3, 1, 1]));
    }
    for (dtype, rounded) in [
        ("FP16", expected.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect::<Vec<u8>>()),
        ("BF16", expected.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect()),
    ] {
        let wanted = InferRequestedOutputTensor { name: "embeddings".into(), ..<_>::default() };
        let mut request = ModelInferRequest { outputs: vec![wanted], ..raw.clone() };
        request.parameters.insert("dtype".into(), text(dtype));
        let response = infer(&client, request).unwrap();
        assert_eq!((response.outputs.len(), &response.outputs[0].datatype[..]), (1, dtype));
        assert!(response.raw_output_contents[0] == rounded, "{dtype}");
    }
    let etag = server.post("/v1/encode", &[], &picture(names[0])).header("etag").unwrap().to_string();
    let mut known = Request::new(pictures(&[picture(names[0])]));
    known.metadata_mut().insert("if-none-match", etag.parse().unwrap());
    let known = client.call::<_, ModelInferResponse>(&format!("{SERVICE}/ModelInfer"), known).unwrap_err();
    assert_eq!(
        (known.code(), known.metadata().get("etag").unwrap().to_str().unwrap()),
        (Code::FailedPrecondition, &*etag)
    );
    wait_until("the last answer to leave", || server.metric("tilesight_requests") == 0.0);
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
}

#[test]
fn pixels_come_back_as_the_librarys_embeddings() {
    let server = Server::start(&[]);
    let client = Client::connect(server.grpc);
    let shape = [1, 4, 3, 28, 28];
    let values = common::noise(4 * 3 * 28 * 28, 3);
    let halves: Vec<half::f16> = values.iter().map(|x| half::f16::from_f32(*x)).collect();
    let brains: Vec<half::bf16> = values.iter().map(|x| half::bf16::from_f32(*x)).collect();
    let expected = |values: Vec<f32>| {
        let mut encoder = on_cpu().model(golden("hf_tiny")).build().unwrap();
        let case = common::Case::new(values, [1, 1, 4, 3, 28, 28], Some(vec![[1, 2]]));
        bytes_of(&encoder.encode_pixels(&case.pixels()).unwrap().embeddings)
    };
    let request = |datatype: &str, raw: Vec<u8>| {
        let ratio = (input("aspect_ratio", "INT64", &[1, 2]), integers(&[1, 2]));
        raw_request(vec![(input("pixels", datatype, &shape), raw), ratio])
    };
    let mut typed = ModelInferRequest { raw_input_contents: Vec::new(), ..request("FP32", Vec::new()) };
    typed.inputs[0].contents = Some(InferTensorContents { fp32_contents: values.clone(), ..<_>::default() });
    typed.inputs[1].contents = Some(InferTensorContents { int64_contents: vec![1, 2], ..<_>::default() });
    for (what, request, values) in [
        ("FP32", request("FP32", bytes_of(&values)), values.clone()),
        ("typed", typed, values),
        (
            "FP16",
            request("FP16", halves.iter().flat_map(|x| x.to_le_bytes()).collect()),
            halves.iter().map(|x| x.to_f32()).collect(),
        ),
        (
            "BF16",
            request("BF16", brains.iter().flat_map(|x| x.to_le_bytes()).collect()),
            brains.iter().map(|x| x.to_f32()).collect(),
        ),
    ] {
        let response = infer(&client, request).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(response.raw_output_contents[0] == expected(values), "{what}");
        assert_eq!(response.raw_output_contents[1], integers(&[4]));
    }
}

/// A request to the demo model, whose answer is of a megabyte.
fn two_tiles() -> ModelInferRequest {
    let values = bytes_of(&common::noise(2 * 3 * 224 * 224, 5));
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
    let server = Server::spawn(&["--device", "cpu", "--write-timeout", "1"], &[]);
    server.wait_until_ready();
    let client = RawClient::connect(server.grpc);
    let mut call = client.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
    call.send(&framed(&two_tiles().encode_to_vec()), true);
    let answer = call.head();
    let begin = Instant::now();
    assert_eq!(server.metric("tilesight_requests"), 1.0);
    wait_until("its end", || server.metric("tilesight_requests") == 0.0);
    assert!(begin.elapsed() < Duration::from_secs(5) && begin.elapsed() > Duration::from_millis(500));
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
    assert_ne!(answer.code(), Code::Ok);
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
    let mut busy = client.begin(&format!("{SERVICE}/ModelStreamInfer"), &[GRPC]);
    busy.send(&framed(&pictures(&[picture("image0.png")]).encode_to_vec()), true);
    let begin = Instant::now();
    assert_eq!(busy.status().code(), Code::Ok);
    assert!(begin.elapsed() > Duration::from_secs(2));
}

#[test]
fn a_connection_that_asks_for_nothing_has_an_end() {
    let server = Server::start(&["--header-timeout", "1", "--idle-timeout", "1"]);
    for begins in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = TcpStream::connect(server.grpc).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(begins).unwrap();
        let begin = Instant::now();
        // Whether it ends or is reset, it is over.
        let _ = stream.read_to_end(&mut Vec::new()).map_err(|error| assert_ne!(error.kind(), ErrorKind::WouldBlock));
        assert!(begin.elapsed() > Duration::from_millis(500) && begin.elapsed() < Duration::from_secs(10));
    }
    assert_serves(&Client::connect(server.grpc));
}

#[test]
fn an_answer_may_have_the_size_of_a_large_models() {
    let config = EncoderConfig {
        num_heads: 1,
        clip_embed_dim: 16,
        clip_num_layers: 1,
        clip_hidden_states: vec![],
        num_layers_projection: 1,
        decoder_embed_dim: 8192,
        ..common::tiny_config()
    };
    let model = tempfile::tempdir().unwrap();
    let weights = RandomWeights::new(&config, Dtype::Bf16, 1).unwrap();
    weights.write(model.path(), NameFormat::Torchtune, &|_, _| {}).unwrap();
    let server = Server::spawn(&["--device", "cpu", "--model", &model.path().display().to_string()], &[]);
    server.wait_until_ready();
    let client = Client::connect(server.grpc);
    let images = 160;
    let values = common::noise(images * 4 * config.tile_len(), 5);
    let request = raw_request(vec![
        (input("pixels", "FP32", &[images as i64, 4, 3, 28, 28]), bytes_of(&values)),
        (input("aspect_ratio", "INT64", &[images as i64, 2]), integers(&vec![2; 2 * images])),
    ]);
    let response = infer(&client, request).unwrap();
    let mut encoder = on_cpu().model(model.path()).build().unwrap();
    let case = common::Case::new(values, [1, images, 4, 3, 28, 28], Some(vec![[2, 2]; images]));
    let expected = encoder.encode_pixels(&case.pixels()).unwrap().embeddings;
    assert!(response.raw_output_contents[0].len() > 100_000_000);
    assert!(response.raw_output_contents[0] == bytes_of(&expected));
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

const GRPC: (&str, &str) = ("content-type", "application/grpc");

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
    let server = Server::start(&["--max-requests", "1", "--max-bytes", "100000"]);
    let (client, raw) = (Client::connect(server.grpc), RawClient::connect(server.grpc));
    let good = framed(&pictures(&[picture("image0.png")]).encode_to_vec());
    let mut first = raw.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
    first.send(&good[..100], false);
    // The length is held as soon as it is known, before the message is there.
    wait_until("the first request", || server.metric("tilesight_held_bytes") == (good.len() - 5) as f64);
    let refused = infer(&client, pictures(&[picture("image0.png")])).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
    first.send(&good[100..], true);
    assert_eq!(first.status().code(), Code::Ok);
    wait_until("room", || server.metric("tilesight_requests") == 0.0);
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
    let server = Server::start(&["--timeout", "5"]);
    let infer = format!("{SERVICE}/ModelInfer");
    let mut slow = RawClient::connect(server.grpc).begin(&infer, &[GRPC]);
    slow.send(&[0, 0, 0, 16, 0, 1], false);
    assert_eq!(slow.status().code(), Code::DeadlineExceeded);
    for whole_connection in [false, true] {
        let client = RawClient::connect(server.grpc);
        let mut vanishing = client.begin(&infer, &[GRPC]);
        vanishing.send(&[0, 0, 0, 16, 0, 1], false);
        wait_until("the request", || server.metric("tilesight_requests") == 1.0);
        let begin = Instant::now();
        drop(vanishing);
        if whole_connection {
            drop(client);
        }
        wait_until("its end", || server.metric("tilesight_requests") == 0.0);
        assert!(begin.elapsed() < Duration::from_secs(4), "it was there until its deadline");
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
fn a_stream_answers_in_turn_and_outlives_a_refusal() {
    let server = Server::start(&["--max-body-bytes", "200000"]);
    let client = Client::connect(server.grpc);
    let names = ["image0.png", "image1.png"];
    let request = |name, id: &str| ModelInferRequest { id: id.into(), ..pictures(&[picture(name)]) };
    let bad = pictures(&[b"hello".to_vec()]);
    let requests = vec![request(names[0], "a"), bad, request(names[1], "b")];
    let answers: Vec<ModelStreamInferResponse> = client.stream("ModelStreamInfer", requests).unwrap();
    assert_eq!(answers.len(), 3);
    for (answer, name, id) in [(&answers[0], names[0], "a"), (&answers[2], names[1], "b")] {
        assert_eq!(answer.error_message, "");
        let response = answer.infer_response.as_ref().unwrap();
        assert_eq!(response.id, id);
        assert!(response.raw_output_contents[0] == bytes_of(&expected(&[name])));
    }
    assert!(answers[1].error_message.contains("picture"), "{}", answers[1].error_message);
    let requests = vec![request(names[0], "a"), pictures(&[vec![0; 200_001]])];
    let broken = client.stream::<_, ModelStreamInferResponse>("ModelStreamInfer", requests).unwrap_err();
    assert_eq!(broken.code(), Code::InvalidArgument);
    assert_serves(&client);
    wait_until("the last answer to leave", || server.metric("tilesight_requests") == 0.0);
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
}

#[test]
fn a_signal_lets_those_who_are_there_finish() {
    let mut server = Server::start(&[]);
    let (client, raw) = (Client::connect(server.grpc), RawClient::connect(server.grpc));
    let good = framed(&pictures(&[picture("image0.png")]).encode_to_vec());
    let mut inside = raw.begin(&format!("{SERVICE}/ModelInfer"), &[GRPC]);
    inside.send(&good[..100], false);
    wait_until("the request", || server.metric("tilesight_requests") == 1.0);
    server.signal("TERM");
    wait_until("draining", || server.get("/health/ready").status == 503);
    assert!(!client.ask::<_, ServerReadyResponse>("ServerReady", ServerReadyRequest {}).unwrap().ready);
    assert_eq!(infer(&client, pictures(&[])).unwrap_err().code(), Code::Unavailable);
    inside.send(&good[100..], true);
    assert_eq!(inside.status().code(), Code::Ok);
    assert!(server.wait().success());
}

#[test]
fn statistics_say_what_was_done() {
    let server = Server::start(&["--max-delay", "200"]);
    let request = || pictures(&[picture("image0.png")]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| infer(&Client::connect(server.grpc), request()).unwrap());
        }
    });
    infer(&Client::connect(server.grpc), pictures(&[b"hello".to_vec()])).unwrap_err();
    let asked = ModelStatisticsRequest { name: "tilesight".into(), version: String::new() };
    let statistics: ModelStatisticsResponse = Client::connect(server.grpc).ask("ModelStatistics", asked).unwrap();
    for path in ["/v2/models/tilesight/stats", "/v2/models/tilesight/versions/1/stats", "/v2/models/stats"] {
        assert_eq!(server.get(path).json(), serde_json::json!(statistics), "{path}");
    }
    assert_eq!(server.get("/v2/models/other/stats").status, 404);
    let [model] = &statistics.model_stats[..] else { panic!("{statistics:?}") };
    assert_eq!((&model.name[..], &model.version[..], model.inference_count), ("tilesight", "1", 3));
    assert!((1..=3).contains(&model.execution_count) && model.last_inference > 1_700_000_000_000);
    let all = model.inference_stats.as_ref().unwrap();
    let [success, fail, queue, input, compute, output] =
        [&all.success, &all.fail, &all.queue, &all.compute_input, &all.compute_infer, &all.compute_output]
            .map(|one| one.as_ref().unwrap());
    assert_eq!([success, queue, input, compute, output].map(|one| one.count), [3; 5]);
    assert_eq!((fail.count, all.cache_hit.unwrap().count), (1, 0));
    assert!(compute.ns > 0 && input.ns > 0 && success.ns >= queue.ns + input.ns + compute.ns);
    let requests: u64 = model.batch_stats.iter().map(|b| b.batch_size * b.compute_infer.unwrap().count).sum();
    let batches: u64 = model.batch_stats.iter().map(|b| b.compute_infer.unwrap().count).sum();
    assert_eq!((requests, batches), (3, model.execution_count));
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

#[test]
fn grpc_can_be_left_out_and_its_port_is_not_shared() {
    let serve = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tilesight"));
        command.args(["serve", "--device", "cpu", "--listen", "127.0.0.1:0"]).args(options).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = serve(&["--grpc-listen", &address]).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains(&format!("cannot listen on {address}")), "{said}");
    assert_eq!(serve(&["--no-grpc", "--grpc-listen", &address]).wait().unwrap().code(), Some(2));
    let mut child = serve(&["--no-grpc"]);
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let listening: Vec<String> = lines.filter(|line| line.starts_with("listening")).take(1).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(listening[0].starts_with("listening on http://"), "{listening:?}");
}
