//! Requests as spans of OpenTelemetry: the real server, and a collector that keeps what it is sent. Spans stand under their
//! caller's, last as long as the answer's `Server-Timing` says, and are all there when the server has ended; where nobody
//! collects them, no request waits.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::json;
use tokio::runtime::Runtime;
use tonic_prost::ProstCodec;

use crate::golden_data::golden;
use crate::grpc_client::inference::{ModelInferResponse, ModelStreamInferResponse};
use crate::grpc_client::{Client, SERVICE, pictures};
use crate::server::{Server, picture, post_head, read_response, wait_until};

/// Takes OTLP over gRPC, and keeps all spans.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    /// Of the process that sends them.
    attributes: Arc<Mutex<Vec<KeyValue>>>,
    _runtime: Runtime,
}

impl Collector {
    fn start() -> Self {
        let (spans, attributes) = <(Arc<Mutex<Vec<Span>>>, Arc<Mutex<Vec<KeyValue>>>)>::default();
        let (kept, process) = (spans.clone(), attributes.clone());
        let export = async move |request: Request| {
            let keep = tower::service_fn(move |request: tonic::Request<ExportTraceServiceRequest>| {
                for sent in request.into_inner().resource_spans {
                    *process.lock().unwrap() = sent.resource.unwrap().attributes;
                    kept.lock().unwrap().extend(sent.scope_spans.into_iter().flat_map(|scope| scope.spans));
                }
                std::future::ready(Ok(tonic::Response::new(ExportTraceServiceResponse::default())))
            });
            let codec = ProstCodec::<ExportTraceServiceResponse, ExportTraceServiceRequest>::default();
            tonic::server::Grpc::new(codec).unary(keep, request).await
        };
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route(path, post(export));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, spans, attributes, _runtime: runtime }
    }

    /// The span of this name that answered a request of this id, and its children in order, as soon as they have come.
    fn request(&self, id: &str) -> (Span, Vec<Span>) {
        let find = || self.roots().into_iter().find(|span| attribute(span, "tilesight.request_id") == json!(id));
        wait_until("the request's span", || find().is_some());
        let span = find().unwrap();
        let mut children = self.all();
        children.retain(|child| child.parent_span_id == span.span_id);
        children.sort_by_key(|child| child.start_time_unix_nano);
        (span, children)
    }

    fn all(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// The spans of requests.
    fn roots(&self) -> Vec<Span> {
        self.all().into_iter().filter(|span| span.kind == 2).collect()
    }
}

/// A server that sends its spans to this address.
fn start(address: SocketAddr, options: &[&str], variables: &[(&str, &str)]) -> Server {
    let (model, endpoint) = (golden("hf_tiny").display().to_string(), format!("http://{address}"));
    let ours = ["--device", "cpu", "--model", &model, "--otlp-endpoint", &endpoint];
    let server = Server::spawn(&[&ours, options].concat(), variables);
    server.wait_until_ready();
    server
}

/// An attribute's value; null where there is none.
fn attribute(span: &Span, name: &str) -> serde_json::Value {
    value(&span.attributes, name)
}

fn value(attributes: &[KeyValue], name: &str) -> serde_json::Value {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.clone()) {
        None => json!(null),
        Some(Value::StringValue(text)) => json!(text),
        Some(Value::IntValue(number)) => json!(number),
        Some(other) => panic!("{name}: {other:?}"),
    }
}

fn nanoseconds(span: &Span) -> u64 {
    span.end_time_unix_nano - span.start_time_unix_nano
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Each stage of a `Server-Timing` is a span, one behind the other from the request's beginning, and as long.
#[track_caller]
fn assert_stages(timing: &str, span: &Span, children: &[Span]) {
    let stages: Vec<(&str, f64)> = timing
        .split(", ")
        .map(|stage| stage.split_once(";dur=").unwrap())
        .map(|(s, t)| (s, t.parse().unwrap()))
        .collect();
    let names: Vec<&str> = children.iter().map(|child| &child.name[..]).collect();
    assert_eq!(names, stages.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let mut begin = span.start_time_unix_nano;
    for (child, (name, milliseconds)) in children.iter().zip(stages) {
        // The header has three decimals.
        let found = nanoseconds(child) as f64 / 1e6;
        assert!((found - milliseconds).abs() <= 0.00051, "{name}: {found} ms, {milliseconds} in the header");
        assert_eq!((child.start_time_unix_nano, &child.trace_id), (begin, &span.trace_id), "{name}");
        begin = child.end_time_unix_nano;
    }
    assert!(begin <= span.end_time_unix_nano, "stages end behind their request");
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

#[test]
fn a_request_is_a_span_under_its_callers_and_its_stages_are_spans_under_it() {
    let collector = Collector::start();
    let variables = [("OTEL_BSP_SCHEDULE_DELAY", "50"), ("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=tests")];
    let server = start(collector.address, &["--answer-cache", "100000"], &variables);
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let ask = |id: &str, traceparent: &str, path: &str, body: &[u8]| {
        server.post(path, &[("X-Request-Id", id), ("traceparent", traceparent)], body)
    };

    let response = ask("encode", &traceparent, "/v1/encode", &picture("image0.png"));
    let (span, children) = collector.request("encode");
    assert_eq!(
        (&span.name[..], hex(&span.trace_id), hex(&span.parent_span_id)),
        ("POST /v1/encode", TRACE.into(), CALLER.into())
    );
    assert_stages(response.header("server-timing").unwrap(), &span, &children);
    let hash = response.header("etag").unwrap().trim_start_matches("W/\"").trim_end_matches("-f32\"").to_string();
    for (name, expected) in [
        ("http.request.method", json!("POST")),
        ("url.path", json!("/v1/encode")),
        ("http.route", json!("/v1/encode")),
        ("http.response.body.size", json!(response.body.len())),
        ("tilesight.status", json!(200)),
        ("tilesight.images", json!(1)),
        ("tilesight.tiles", json!(3)),
        ("tilesight.batch_requests", json!(1)),
        ("tilesight.content_hash", json!(hash)),
        ("tilesight.cache", json!("miss")),
    ] {
        assert_eq!(attribute(&span, name), expected, "{name}");
    }
    let process = collector.attributes.lock().unwrap().clone();
    assert_eq!(value(&process, "service.name"), "tilesight");
    assert_eq!(value(&process, "service.version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&process, "service.namespace"), "tests");

    // What the cache had was computed in no span.
    let response = ask("again", &traceparent, "/v1/encode", &picture("image0.png"));
    let (span, children) = collector.request("again");
    assert_eq!(attribute(&span, "tilesight.cache"), "hit");
    assert!(children.iter().any(|child| child.name == "cache") && children.iter().all(|child| child.name != "compute"));
    assert_stages(response.header("server-timing").unwrap(), &span, &children);

    // A caller that is none, and none at all.
    for (id, traceparent) in [("malformed", "00-xyz"), ("alone", "")] {
        ask(id, traceparent, "/v1/encode", &picture("image1.png"));
        let (span, _) = collector.request(id);
        assert!(span.parent_span_id.is_empty() && hex(&span.trace_id) != TRACE, "{id}");
    }
    // One that keeps no spans, for which there are none here either.
    let unsampled = traceparent.replace("-01", "-00").replace(TRACE, "11111111111111111111111111111111");
    assert_eq!(ask("unsampled", &unsampled, "/v1/encode", &picture("image0.png")).status, 200);

    // A client's mistake is told, and is no error of the server's.
    assert_eq!(ask("refused", &traceparent, "/v1/encode", b"no picture").status, 415);
    let (span, children) = collector.request("refused");
    assert_eq!((attribute(&span, "tilesight.status"), children.len()), (json!(415), 0));
    assert!(attribute(&span, "tilesight.reason").as_str().unwrap().contains("picture"));
    assert_eq!(span.status.unwrap_or_default().code(), StatusCode::Unset);
    assert_eq!(ask("infer", &traceparent, "/v2/models/tilesight/infer", b"{").status, 400);
    assert_eq!(collector.request("infer").0.name, "POST /v2/models/{model}/infer");

    let roots = collector.roots();
    assert_eq!(roots.len(), 6, "what only looks, or is not sampled, has no span: {roots:#?}");
    assert!(roots.iter().all(|span| hex(&span.trace_id) != "11111111111111111111111111111111"));
}

#[test]
fn calls_of_grpc_are_spans_and_so_is_each_request_of_a_stream() {
    let collector = Collector::start();
    let server = start(collector.address, &[], &[("OTEL_BSP_SCHEDULE_DELAY", "50")]);
    let client = Client::connect(server.grpc);
    let mut request = tonic::Request::new(pictures(&[picture("image0.png")]));
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{CALLER}-01").parse().unwrap());
    request.metadata_mut().insert("x-request-id", "call".parse().unwrap());
    let response = client.call::<_, ModelInferResponse>(&format!("{SERVICE}/ModelInfer"), request).unwrap();
    let (span, children) = collector.request("call");
    assert_eq!(span.name, "inference.GRPCInferenceService/ModelInfer");
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), CALLER.into()));
    assert_stages(response.metadata().get("server-timing").unwrap().to_str().unwrap(), &span, &children);
    for (name, expected) in [
        ("rpc.system", json!("grpc")),
        ("rpc.service", json!("inference.GRPCInferenceService")),
        ("rpc.method", json!("ModelInfer")),
        ("tilesight.tiles", json!(3)),
    ] {
        assert_eq!(attribute(&span, name), expected, "{name}");
    }

    let requests = ["image0.png", "", "image1.png"];
    let file = |name: &str| if name.is_empty() { b"no picture".to_vec() } else { picture(name) };
    let requests = requests.map(|name| pictures(&[file(name)])).into();
    let answers: Vec<ModelStreamInferResponse> = client.stream("ModelStreamInfer", requests).unwrap();
    assert_eq!(answers.len(), 3);
    let of_stream = || {
        let mut spans = collector.roots();
        spans.retain(|span| span.name == "inference.GRPCInferenceService/ModelStreamInfer");
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans
    };
    wait_until("a span for each", || of_stream().len() == 3);
    let told: Vec<_> = of_stream().iter().map(|span| attribute(span, "tilesight.status")).collect();
    assert_eq!(told, [json!(200), json!(415), json!(200)]);
    let lines = server.said().iter().filter(|line| line.contains("ModelStreamInfer")).count();
    assert_eq!(lines, 3, "a line each, too");
}

#[test]
fn the_last_spans_leave_before_the_server_ends() {
    let collector = Collector::start();
    // It sends none by itself.
    let mut server = start(collector.address, &["--body-timeout", "600"], &[("OTEL_BSP_SCHEDULE_DELAY", "3600000")]);
    let body = picture("image0.png");
    let mut inside = server.connect();
    let head = post_head("/v1/encode", &[("X-Request-Id", "inside")], body.len());
    inside.write_all(head.as_bytes()).unwrap();
    wait_until("the request", || server.metric("tilesight_receiving_requests") == 1.0);
    server.signal("TERM");
    wait_until("draining", || server.get("/health/ready").status == 503);
    assert_eq!(server.post("/v1/encode", &[("X-Request-Id", "late")], &body).status, 503);
    inside.write_all(&body).unwrap();
    assert_eq!(read_response(&mut inside).status, 200);
    assert!(collector.all().is_empty());
    assert!(server.wait().success());
    let spans = collector.roots();
    let by_id: BTreeMap<String, Span> = spans
        .into_iter()
        .map(|span| (attribute(&span, "tilesight.request_id").as_str().unwrap().to_string(), span))
        .collect();
    assert_eq!(attribute(&by_id["inside"], "tilesight.status"), 200);
    assert_eq!(attribute(&by_id["late"], "error.type"), "503");
    assert_eq!(by_id["late"].status.clone().unwrap().code(), StatusCode::Error);
}

#[test]
fn a_collector_that_is_not_there_delays_nobody() {
    // One address where nobody listens, and one where somebody does and says nothing.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let few =
        [("OTEL_BSP_SCHEDULE_DELAY", "10"), ("OTEL_BSP_MAX_QUEUE_SIZE", "16"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")];
    for address in [closed, silent.local_addr().unwrap()] {
        let mut server = start(address, &[], &few);
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            let begin = Instant::now();
            assert_eq!(server.post("/v1/encode", &[], &picture("image0.png")).status, 200);
            longest = longest.max(begin.elapsed());
        }
        // An export that is not answered takes ten seconds.
        assert!(longest < Duration::from_secs(9), "a request took {longest:?}");
        let is_told = || server.said().iter().any(|line| line.contains("BatchSpanProcessor"));
        wait_until("a word of it in the log", is_told);
        let begin = Instant::now();
        server.signal("TERM");
        assert!(server.wait().success());
        assert!(begin.elapsed() < Duration::from_secs(9), "it ended after {:?}", begin.elapsed());
    }
}

#[test]
fn the_address_comes_from_the_flag_or_the_environment() {
    let collector = Collector::start();
    let (model, endpoint) = (golden("hf_tiny").display().to_string(), format!("http://{}", collector.address));
    let options = ["--device", "cpu", "--model", &model];
    let delay = ("OTEL_BSP_SCHEDULE_DELAY", "50");
    let ask = |id: &str, variables: &[(&str, &str)]| {
        let mut server = Server::spawn(&options, variables);
        server.wait_until_ready();
        assert_eq!(server.post("/v1/encode", &[("X-Request-Id", id)], &picture("image0.png")).status, 200);
        server.signal("TERM");
        assert!(server.wait().success());
    };
    ask("variable", &[delay, ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_SERVICE_NAME", "mine")]);
    collector.request("variable");
    assert_eq!(value(&collector.attributes.lock().unwrap(), "service.name"), "mine");
    ask("disabled", &[delay, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint), ("OTEL_SDK_DISABLED", "true")]);
    ask("nowhere", &[delay]);
    assert_eq!(collector.roots().len(), 1);

    let mut command = Command::new(env!("CARGO_BIN_EXE_tilesight"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--no-grpc", "--otlp-endpoint", "not an address"]).args(options);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("cannot send spans"), "{said}");
}
