//! Tensors in system shared memory, by Triton's extension: what is put there comes back as the encoder's own embeddings,
//! over both protocols; what does not fit, is not there, or was cut short is told, and harms nobody.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::grpc_client;
use crate::grpc_client::inference::infer_parameter::ParameterChoice;
use crate::grpc_client::inference::model_infer_request::InferRequestedOutputTensor;
use crate::grpc_client::inference::*;
use crate::grpc_client::{Client, bytes_of, infer, input, integers};
use crate::noise::noise;
use crate::server::{Response, Server, expected, picture, post_head, read_response, wait_until};

const ON: [&str; 2] = ["--shared-memory-regions", "3"];

/// Bytes of the embeddings of `image0.png`: three tiles of five tokens, of 32 values each.
const EMBEDDINGS: usize = 3 * 5 * 32 * 4;

/// A shared memory object, gone when it is dropped.
struct Object {
    key: String,
    path: PathBuf,
    file: File,
}

impl Object {
    fn new(len: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let key = format!("/tilesight-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = PathBuf::from(format!("/dev/shm{key}"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(len as u64).unwrap();
        Self { key, path, file }
    }

    /// One that holds a file as an element of BYTES; the element's length, too.
    fn of_picture(name: &str) -> (Self, usize) {
        let file = picture(name);
        let element = [&(file.len() as u32).to_le_bytes()[..], &file].concat();
        let object = Self::new(element.len());
        object.file.write_all_at(&element, 0).unwrap();
        (object, element.len())
    }

    fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset as u64).unwrap();
        bytes
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn register(server: &Server, name: &str, key: &str, offset: u64, byte_size: u64) -> Response {
    let body = json!({ "key": key, "offset": offset, "byte_size": byte_size }).to_string();
    server.post(&format!("/v2/systemsharedmemory/region/{name}/register"), &[], body.as_bytes())
}

/// Registers a whole object.
fn share(server: &Server, name: &str, object: &Object) {
    let len = object.file.metadata().unwrap().len();
    let response = register(server, name, &object.key, 0, len);
    assert_eq!((response.status, response.body.len()), (200, 0), "{}", response.text());
}

fn parameters(region: &str, offset: usize, byte_size: usize) -> Value {
    json!({ "shared_memory_region": region, "shared_memory_offset": offset, "shared_memory_byte_size": byte_size })
}

/// A request for the picture in this region.
fn request(image: Value, outputs: Value) -> Vec<u8> {
    let image = json!({ "name": "image", "shape": [1], "datatype": "BYTES", "parameters": image });
    json!({ "inputs": [image], "outputs": outputs }).to_string().into_bytes()
}

fn encode(server: &Server, image: Value, outputs: Value) -> Response {
    server.post("/v2/models/tilesight/infer", &[], &request(image, outputs))
}

/// The same parameters over gRPC.
fn grpc_parameters(region: &str, offset: usize, byte_size: usize) -> HashMap<String, InferParameter> {
    let number = |number: usize| ParameterChoice::Int64Param(number as i64);
    [
        ("shared_memory_region", ParameterChoice::StringParam(region.into())),
        ("shared_memory_offset", number(offset)),
        ("shared_memory_byte_size", number(byte_size)),
    ]
    .map(|(name, choice)| (name.to_string(), InferParameter { parameter_choice: Some(choice) }))
    .into()
}

fn grpc_request(
    image: HashMap<String, InferParameter>,
    outputs: Vec<(&str, HashMap<String, InferParameter>)>,
) -> ModelInferRequest {
    let mut tensor = input("image", "BYTES", &[1]);
    tensor.parameters = image;
    let output = |(name, parameters): (&str, _)| InferRequestedOutputTensor { name: name.into(), parameters };
    let outputs = outputs.into_iter().map(output).collect();
    ModelInferRequest { model_name: "tilesight".into(), inputs: vec![tensor], outputs, ..<_>::default() }
}

/// Nothing is held any more, and the next request is right.
fn assert_unharmed(server: &Server) {
    wait_until("the last answer to leave", || server.metric("tilesight_requests") == 0.0);
    assert_eq!(server.metric("tilesight_held_bytes"), 0.0);
    grpc_client::assert_serves(&Client::connect(server.grpc));
}

#[test]
fn pictures_come_from_shared_memory_and_embeddings_go_there() {
    let server = Server::start(&ON);
    let (image, len) = Object::of_picture("image0.png");
    let results = Object::new(EMBEDDINGS + 100);
    share(&server, "in", &image);
    // The region begins within the object, and the window within the region.
    assert_eq!(register(&server, "out", &results.key, 60, EMBEDDINGS as u64 + 40).status, 200);
    let expected = expected(&["image0.png"]);

    let outputs = json!([
        { "name": "num_tiles" },
        { "name": "embeddings", "parameters": parameters("out", 40, EMBEDDINGS) },
    ]);
    let response = encode(&server, parameters("in", 0, len), outputs);
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    let found = &response.json()["outputs"];
    assert_eq!(found[0], json!({ "name": "num_tiles", "datatype": "INT64", "shape": [1], "data": [3] }));
    let embeddings = json!({
        "name": "embeddings", "datatype": "FP32", "shape": [15, 32], "parameters": parameters("out", 40, EMBEDDINGS),
    });
    assert_eq!(found[1], embeddings);
    assert!(results.read(100, EMBEDDINGS) == bytes_of(&expected));
    assert!(results.read(0, 100).iter().all(|byte| *byte == 0), "it wrote elsewhere");

    // In half precision, at the region's beginning, with more room than it takes; and the integers beside it.
    results.file.set_len(0).unwrap();
    results.file.set_len(EMBEDDINGS as u64 + 100).unwrap();
    let embeddings = grpc_parameters("out", 0, EMBEDDINGS);
    let ratio = grpc_parameters("out", EMBEDDINGS, 16);
    let outputs = vec![("embeddings", embeddings), ("num_tiles", HashMap::new()), ("aspect_ratio", ratio)];
    let mut request = grpc_request(grpc_parameters("in", 0, len), outputs);
    request.parameters.insert("dtype".into(), grpc_client::text("BF16"));
    let response = infer(&Client::connect(server.grpc), request).unwrap();
    let rounded: Vec<u8> = expected.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
    assert!(results.read(60, EMBEDDINGS / 2) == rounded);
    assert!(results.read(60 + EMBEDDINGS / 2, EMBEDDINGS / 2).iter().all(|byte| *byte == 0));
    assert_eq!(results.read(60 + EMBEDDINGS, 16), integers(&[1, 3]));
    assert_eq!(response.outputs[0].parameters, grpc_parameters("out", 0, EMBEDDINGS / 2));
    assert_eq!(response.outputs[2].parameters, grpc_parameters("out", EMBEDDINGS, 16));
    assert!(response.outputs[1].parameters.is_empty());
    // An output's bytes are where it stands among all.
    let raw: Vec<usize> = response.raw_output_contents.iter().map(|bytes| bytes.len()).collect();
    assert_eq!(raw, [0, 8, 0]);
    assert_unharmed(&server);
}

#[test]
fn pixels_come_from_shared_memory_beside_tensors_that_do_not() {
    let server = Server::start(&ON);
    let values = bytes_of(&noise(4 * 3 * 28 * 28, 3));
    let object = Object::new(values.len());
    object.file.write_all_at(&values, 0).unwrap();
    share(&server, "pixels", &object);
    let shape = [1, 4, 3, 28, 28];
    let ratio = |raw| (input("aspect_ratio", "INT64", &[1, 2]), raw);
    let inside =
        grpc_client::raw_request(vec![(input("pixels", "FP32", &shape), values.clone()), ratio(integers(&[1, 2]))]);
    let mut outside = grpc_client::raw_request(vec![ratio(integers(&[1, 2]))]);
    let mut pixels = input("pixels", "FP32", &shape);
    pixels.parameters = grpc_parameters("pixels", 0, values.len());
    outside.inputs.insert(0, pixels);
    let client = Client::connect(server.grpc);
    let [inside, outside] = [inside, outside].map(|request| infer(&client, request).unwrap());
    assert!(inside.raw_output_contents == outside.raw_output_contents);

    let json = json!({ "inputs": [
        { "name": "pixels", "shape": shape, "datatype": "FP32", "parameters": parameters("pixels", 0, values.len()) },
        { "name": "aspect_ratio", "shape": [1, 2], "datatype": "INT64", "data": [1, 2] },
    ] });
    let response = server.post("/v2/models/tilesight/infer", &[], json.to_string().as_bytes());
    let found: Vec<f32> = serde_json::from_value(response.json()["outputs"][0]["data"].clone()).unwrap();
    assert!(bytes_of(&found) == inside.raw_output_contents[0]);
    assert_unharmed(&server);
}

#[test]
fn regions_are_registered_once_listed_and_forgotten() {
    let server = Server::start(&ON);
    let client = Client::connect(server.grpc);
    let objects = [(); 4].map(|()| Object::new(100));
    for (name, object) in ["a", "b"].iter().zip(&objects) {
        share(&server, name, object);
    }
    let ask = |name: &str, key: &str, byte_size| {
        let asked = SystemSharedMemoryRegisterRequest { name: name.into(), key: key.into(), offset: 10, byte_size };
        client.ask::<_, SystemSharedMemoryRegisterResponse>("SystemSharedMemoryRegister", asked).map(drop)
    };
    let code = |result: Result<(), Status>| result.map_or_else(|status| status.code(), |()| Code::Ok);
    assert_eq!(code(ask("c", &objects[2].key, 90)), Code::Ok);
    // Twice, under a name that there is, and beyond the limit.
    assert_eq!(code(ask("a", &objects[3].key, 90)), Code::AlreadyExists);
    assert_eq!(register(&server, "a", &objects[0].key, 0, 100).status, 409);
    assert_eq!(code(ask("d", &objects[3].key, 90)), Code::ResourceExhausted);
    assert_eq!(register(&server, "d", &objects[3].key, 0, 100).status, 429);

    let status = |path: &str| server.get(&format!("/v2/systemsharedmemory/{path}"));
    let c = json!({ "name": "c", "key": objects[2].key, "offset": 10, "byte_size": 90 });
    assert_eq!(status("region/c/status").json(), json!([c]));
    let all = status("status").json();
    assert_eq!(all.as_array().unwrap().len(), 3);
    assert_eq!((&all[0]["name"], &all[2]), (&json!("a"), &c));
    let ask_status = |name: &str| {
        let asked = SystemSharedMemoryStatusRequest { name: name.into() };
        client.ask::<_, SystemSharedMemoryStatusResponse>("SystemSharedMemoryStatus", asked)
    };
    let region = ask_status("c").unwrap().regions.remove("c").unwrap();
    assert_eq!(
        (region.name, region.key, region.offset, region.byte_size),
        ("c".into(), objects[2].key.clone(), 10, 90)
    );
    assert_eq!(ask_status("").unwrap().regions.len(), 3);
    assert_eq!(ask_status("d").unwrap_err().code(), Code::NotFound);
    assert_eq!(status("region/d/status").status, 404);

    // What is not there is forgotten already.
    for _ in 0..2 {
        assert_eq!(server.post("/v2/systemsharedmemory/region/a/unregister", &[], b"").status, 200);
    }
    assert_eq!(status("region/a/status").status, 404);
    let asked = SystemSharedMemoryUnregisterRequest { name: "b".into() };
    client.ask::<_, SystemSharedMemoryUnregisterResponse>("SystemSharedMemoryUnregister", asked).unwrap();
    assert_eq!(status("status").json(), json!([c]));
    assert_eq!(register(&server, "a", &objects[0].key, 0, 100).status, 200);
    assert_eq!(server.post("/v2/systemsharedmemory/unregister", &[], b"").status, 200);
    assert_eq!(status("status").json(), json!([]));
    let asked = SystemSharedMemoryUnregisterRequest::default();
    client.ask::<_, SystemSharedMemoryUnregisterResponse>("SystemSharedMemoryUnregister", asked).unwrap();

    let extensions = server.get("/v2").json()["extensions"].clone();
    assert_eq!(extensions.as_array().unwrap().last().unwrap(), "system_shared_memory");
    let metadata: ServerMetadataResponse = client.ask("ServerMetadata", ServerMetadataRequest {}).unwrap();
    assert_eq!(json!(metadata.extensions), extensions);
}

#[test]
fn what_cannot_be_a_region_is_refused() {
    let server = Server::start(&ON);
    let object = Object::new(100);
    let link = PathBuf::from(format!("{}-link", object.path.display()));
    symlink("/etc/passwd", &link).unwrap();
    let link_key = format!("{}-link", object.key);
    let key = &object.key[..];
    for (what, key, offset, byte_size) in [
        ("nothing", "/tilesight-test-nothing", 0, 1),
        ("a way out", "/../../etc/passwd", 0, 1),
        ("a way out without a slash", "../../etc/passwd", 0, 1),
        ("the folder", "/", 0, 1),
        ("the folder's folder", "..", 0, 1),
        ("a link", &link_key, 0, 1),
        ("more than there is", key, 0, 101),
        ("more than there is behind an offset", key, 1, 100),
        ("an offset behind the end", key, 101, 1),
        ("a sum that overflows", key, u64::MAX, 1),
        ("a size that overflows", key, 1, u64::MAX),
        ("no bytes", key, 0, 0),
    ] {
        let response = register(&server, "x", key, offset, byte_size);
        assert_eq!(response.status, 400, "{what}: {}", response.text());
        let asked = SystemSharedMemoryRegisterRequest { name: "x".into(), key: key.into(), offset, byte_size };
        let refused: Result<SystemSharedMemoryRegisterResponse, Status> =
            Client::connect(server.grpc).ask("SystemSharedMemoryRegister", asked);
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument, "{what}");
    }
    std::fs::remove_file(&link).unwrap();
    let path = "/v2/systemsharedmemory/region/x/register";
    for body in [&b""[..], b"{", b"{\"key\": 1}", b"{\"key\": \"x\", \"byte_size\": -1}", &[b' '; 70_000]] {
        assert_eq!(server.post(path, &[], body).status, 400);
    }
    assert_eq!(server.get("/v2/systemsharedmemory/status").json(), json!([]));
}

#[test]
fn tensors_that_are_not_where_they_are_said_to_be_are_refused() {
    let server = Server::start(&ON);
    let client = Client::connect(server.grpc);
    let (image, len) = Object::of_picture("image0.png");
    let results = Object::new(EMBEDDINGS);
    share(&server, "in", &image);
    share(&server, "out", &results);
    let good = parameters("in", 0, len);
    let none = || json!([{ "name": "num_tiles" }]);
    let to = |parameters: Value| json!([{ "name": "embeddings", "parameters": parameters }]);
    let encoded = server.metric("tilesight_tiles_total");
    for (what, image, outputs, status) in [
        ("an unknown region", parameters("other", 0, len), none(), 404),
        ("an unknown region of an output", good.clone(), to(parameters("other", 0, 1)), 404),
        ("beyond the region", parameters("in", 1, len), none(), 400),
        ("beyond all numbers", parameters("in", usize::MAX, len), none(), 400),
        ("an output beyond the region", good.clone(), to(parameters("out", 1, EMBEDDINGS)), 400),
        ("an output without room", good.clone(), to(parameters("out", 0, EMBEDDINGS - 1)), 400),
        ("no size", json!({ "shared_memory_region": "in" }), none(), 400),
        ("no region", json!({ "shared_memory_byte_size": len }), none(), 400),
        ("an offset alone", json!({ "shared_memory_offset": 0 }), none(), 400),
        (
            "a negative offset",
            json!({ "shared_memory_region": "in", "shared_memory_byte_size": len, "shared_memory_offset": -1 }),
            none(),
            400,
        ),
        ("half of the picture", parameters("in", 0, len / 2), none(), 400),
        ("a picture that begins elsewhere", parameters("in", 1, len - 1), none(), 400),
    ] {
        let response = encode(&server, image, outputs);
        assert_eq!(response.status, status, "{what}: {}", response.text());
    }
    let with = |change: fn(&mut ModelInferRequest)| {
        let mut request = grpc_request(grpc_parameters("in", 0, 1), vec![]);
        change(&mut request);
        request
    };
    for (what, request, code) in [
        ("an unknown region", grpc_request(grpc_parameters("other", 0, len), vec![]), Code::NotFound),
        (
            "an output without room",
            grpc_request(grpc_parameters("in", 0, len), vec![("aspect_ratio", grpc_parameters("out", 0, 15))]),
            Code::InvalidArgument,
        ),
        ("contents, too", with(|r| r.inputs[0].contents = Some(<_>::default())), Code::InvalidArgument),
        ("raw contents, too", with(|r| r.raw_input_contents.push(vec![0; 4].into())), Code::InvalidArgument),
        (
            "a size that is text",
            with(|r| drop(r.inputs[0].parameters.insert("shared_memory_byte_size".into(), grpc_client::text("1")))),
            Code::InvalidArgument,
        ),
    ] {
        let refused = infer(&client, request).unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
    }
    assert_eq!(server.metric("tilesight_tiles_total"), encoded, "something was encoded for nothing");

    // The client cuts its objects short: the server reads and writes no mapping, so there is nothing to be killed by.
    image.file.set_len(len as u64 - 1).unwrap();
    let response = encode(&server, good.clone(), none());
    assert_eq!(response.status, 400, "{}", response.text());
    assert!(response.text().contains("do not lie within"), "{}", response.text());
    image.file.set_len(0).unwrap();
    assert_eq!(encode(&server, good, none()).status, 400);
    let (image, len) = Object::of_picture("image0.png");
    share(&server, "again", &image);
    results.file.set_len(10).unwrap();
    let response = encode(&server, parameters("again", 0, len), to(parameters("out", 0, EMBEDDINGS)));
    assert_eq!(response.status, 400, "{}", response.text());
    assert_eq!(results.file.metadata().unwrap().len(), 10, "it was made longer");
    assert_unharmed(&server);
}

#[test]
fn a_request_that_has_begun_keeps_its_regions() {
    // A batch waits for eight tiles: the request's four, padding among them, and as many that come when its regions are others.
    let server = Server::start(&[&ON[..], &["--max-delay", "600000", "--max-batch-tiles", "8"]].concat());
    let (image, len) = Object::of_picture("image0.png");
    let results = Object::new(EMBEDDINGS);
    share(&server, "in", &image);
    share(&server, "out", &results);
    let body = request(
        parameters("in", 0, len),
        json!([{ "name": "embeddings", "parameters": parameters("out", 0, EMBEDDINGS) }]),
    );
    let mut inside = server.connect();
    inside.write_all(post_head("/v2/models/tilesight/infer", &[], body.len()).as_bytes()).unwrap();
    inside.write_all(&body).unwrap();
    // Its pixels are held, so its regions are known and its picture is read.
    wait_until("its pixels", || server.metric("tilesight_held_bytes") > (body.len() + EMBEDDINGS) as f64);
    assert_eq!(server.post("/v2/systemsharedmemory/unregister", &[], b"").status, 200);
    let others = Object::new(EMBEDDINGS);
    share(&server, "out", &others);
    assert_eq!(server.post("/v1/encode", &[], &picture("image0.png")).status, 200);
    let response = read_response(&mut inside);
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(results.read(0, EMBEDDINGS) == bytes_of(&expected(&["image0.png"])));
    assert!(others.read(0, EMBEDDINGS).iter().all(|byte| *byte == 0), "another region of the same name was written to");
}

#[test]
fn shared_memory_is_off_unless_it_is_asked_for() {
    let server = Server::start(&[]);
    let client = Client::connect(server.grpc);
    assert!(!server.get("/v2").text().contains("shared_memory"));
    let path = "/v2/systemsharedmemory/region/x/register";
    assert_eq!(server.post(path, &[], b"{}").status, 404);
    for path in ["/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/x/status"] {
        assert_eq!(server.get(path).status, 404);
    }
    for method in ["SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"] {
        let unknown = client.ask::<_, ServerLiveResponse>(method, ServerLiveRequest {}).unwrap_err();
        assert_eq!(unknown.code(), Code::Unimplemented, "{method}");
    }
    let response = encode(&server, parameters("x", 0, 4), json!([{ "name": "num_tiles" }]));
    assert_eq!(response.status, 400);
    assert!(response.text().contains("--shared-memory-regions"), "{}", response.text());
    let refused = infer(&client, grpc_request(grpc_parameters("x", 0, 4), vec![])).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("--shared-memory-regions"), "{refused}");
}
