//! The server as gRPC's clients meet it: the real process, over HTTP/2. Every answer is held against the encoder's own.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use axum::body::Bytes;
use serde_json::{Value, json};
use tilesight::Pixels;
use tilesight::checkpoint::{NameFormat, RandomWeights};
use tilesight::{Dtype, EncoderConfig};
use tonic::{Code, Request};

use crate::golden_data::golden;
use crate::grpc_client::health::{HealthCheckRequest, HealthCheckResponse};
use crate::grpc_client::inference::model_infer_request::InferRequestedOutputTensor;
use crate::grpc_client::inference::*;
use crate::grpc_client::{
    Client, SERVICE, assert_serves, bytes_of, infer, input, integers, pictures, raw_request, text,
};
use crate::noise::noise;
use crate::on_cpu::on_cpu;
use crate::server::{Server, expected, picture, wait_until};
use crate::tiny_config::tiny_config;

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
    assert_eq!(json!(metadata.extensions), over_http["extensions"]);
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
    assert_eq!((config.input[1].data_type(), &config.input[1].dims[..]), (DataType::TypeFp32, &[-1, 4, 3, 28, 28][..]));
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
    let image = json!({
        "name": "image", "shape": [2], "datatype": "BYTES", "parameters": { "binary_data_size": tensor.len() },
    });
    let json = json!({ "inputs": [image], "outputs": [{ "name": "num_tiles" }] }).to_string();
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
    for tag in ["\"other\"", &etag] {
        known.metadata_mut().append("if-none-match", tag.parse().unwrap());
    }
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
    let values = noise(4 * 3 * 28 * 28, 3);
    let halves: Vec<half::f16> = values.iter().map(|x| half::f16::from_f32(*x)).collect();
    let brains: Vec<half::bf16> = values.iter().map(|x| half::bf16::from_f32(*x)).collect();
    let expected = |values: Vec<f32>| {
        let mut encoder = on_cpu().model(golden("hf_tiny")).build().unwrap();
        let pixels = Pixels { images: &values, shape: [1, 1, 4, 3, 28, 28], aspect_ratio: Some(&[[1, 2]]) };
        bytes_of(&encoder.encode_pixels(&pixels).unwrap().embeddings)
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

#[test]
fn an_answer_may_have_the_size_of_a_large_models() {
    let config = EncoderConfig {
        num_heads: 1,
        clip_embed_dim: 16,
        clip_num_layers: 1,
        clip_hidden_states: vec![],
        num_layers_projection: 1,
        decoder_embed_dim: 8192,
        ..tiny_config()
    };
    let model = tempfile::tempdir().unwrap();
    let weights = RandomWeights::new(&config, Dtype::Bf16, 1).unwrap();
    weights.write(model.path(), NameFormat::Torchtune, &|_, _| {}).unwrap();
    let server = Server::spawn(&["--device", "cpu", "--model", &model.path().display().to_string()], &[]);
    server.wait_until_ready();
    let client = Client::connect(server.grpc);
    let images = 160;
    let values = noise(images * 4 * config.tile_len(), 5);
    let request = raw_request(vec![
        (input("pixels", "FP32", &[images as i64, 4, 3, 28, 28]), bytes_of(&values)),
        (input("aspect_ratio", "INT64", &[images as i64, 2]), integers(&vec![2; 2 * images])),
    ]);
    let response = infer(&client, request).unwrap();
    let mut encoder = on_cpu().model(model.path()).build().unwrap();
    let ratios = vec![[2, 2]; images];
    let pixels = Pixels { images: &values, shape: [1, images, 4, 3, 28, 28], aspect_ratio: Some(&ratios) };
    let expected = encoder.encode_pixels(&pixels).unwrap().embeddings;
    assert!(response.raw_output_contents[0].len() > 100_000_000);
    assert!(response.raw_output_contents[0] == bytes_of(&expected));
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

/// Statistics as HTTP tells them: every field of the message under its own name.
fn statistics_json(ModelStatisticsResponse { model_stats }: &ModelStatisticsResponse) -> Value {
    let times = |times: &Option<StatisticDuration>| {
        let StatisticDuration { count, ns } = times.unwrap();
        json!({ "count": count, "ns": ns })
    };
    let batch = |batch: &InferBatchStatistics| {
        json!({
            "batch_size": batch.batch_size,
            "compute_input": times(&batch.compute_input),
            "compute_infer": times(&batch.compute_infer),
            "compute_output": times(&batch.compute_output),
        })
    };
    let model = |model: &ModelStatistics| {
        let all = model.inference_stats.as_ref().unwrap();
        json!({
            "name": model.name,
            "version": model.version,
            "last_inference": model.last_inference,
            "inference_count": model.inference_count,
            "execution_count": model.execution_count,
            "inference_stats": {
                "success": times(&all.success),
                "fail": times(&all.fail),
                "queue": times(&all.queue),
                "compute_input": times(&all.compute_input),
                "compute_infer": times(&all.compute_infer),
                "compute_output": times(&all.compute_output),
                "cache_hit": times(&all.cache_hit),
                "cache_miss": times(&all.cache_miss),
            },
            "batch_stats": model.batch_stats.iter().map(batch).collect::<Vec<_>>(),
        })
    };
    json!({ "model_stats": model_stats.iter().map(model).collect::<Vec<_>>() })
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
        assert_eq!(server.get(path).json(), statistics_json(&statistics), "{path}");
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
