//! What the server shows to people: pages that ask nobody but it, a description of its routes that leaves none out, and
//! where a picture lies on its canvas.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tilesight::EncoderConfig;
use tilesight::image::{Image, Limits, Preprocess, Preprocessor};

use crate::golden_data::golden;
use crate::server::{Response, Server};

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "PATCH"];

fn request(server: &Server, method: &str, path: &str) -> Response {
    server.send(
        &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        b"",
    )
}

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Files of a folder and of those in it.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_of(&path) } else { vec![path] }).collect()
}

/// The routes, as the server's source has them.
fn routes() -> BTreeSet<String> {
    let sources = files_of(&folder("src/serve")).into_iter().filter(|path| path.extension() == Some("rs".as_ref()));
    let routes_in = |source: String| {
        let paths = source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_string());
        paths.collect::<Vec<_>>()
    };
    sources.flat_map(|path| routes_in(std::fs::read_to_string(path).unwrap())).collect()
}

/// What a reference points at.
fn resolve<'a>(document: &'a Value, node: &'a Value) -> &'a Value {
    match node["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).expect(reference),
        None => node,
    }
}

#[test]
fn pages_ask_nobody_but_the_server() {
    let server = Server::start(&[]);
    let parts: Vec<String> = routes().into_iter().filter(|path| path.starts_with("/page/")).collect();
    assert!(parts.len() > 3);
    for path in parts.iter().map(String::as_str).chain(["/", "/docs", "/openapi.json"]) {
        let response = server.get(path);
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
        let policy = response.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{path}: {policy}");
        // A namespace is a name, and is not asked for anything.
        let text = response.text().replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("src=\"//"), "{path}");
        assert_eq!(request(&server, "POST", path).status, 405, "{path}");
    }
    let kind = |path: &str| server.get(path).header("content-type").unwrap().to_string();
    assert_eq!(kind("/"), "text/html; charset=utf-8");
    assert_eq!(kind("/page/page.js"), "text/javascript; charset=utf-8");
    assert_eq!(kind("/page/page.css"), "text/css; charset=utf-8");
    assert_eq!(kind("/page/icon.svg"), "image/svg+xml");
}

#[test]
fn every_part_of_the_pages_is_served() {
    let known: BTreeSet<String> = routes().into_iter().filter(|path| path.starts_with("/page/")).collect();
    let parts = files_of(&folder("src/serve/http/page")).into_iter();
    let parts = parts.filter(|path| !["html", "json"].iter().any(|kind| path.extension() == Some(kind.as_ref())));
    let names = parts.map(|path| format!("/page/{}", path.file_name().unwrap().display()));
    assert_eq!(names.collect::<BTreeSet<_>>(), known);
}

#[test]
fn the_description_has_every_route_with_its_methods_and_no_other() {
    let server = Server::start(&["--shared-memory-regions", "1"]);
    // A region for those who ask for one.
    let object = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    object.as_file().set_len(1).unwrap();
    let key = object.path().file_name().unwrap().display();
    let registration = format!("{{\"key\": \"{key}\", \"byte_size\": 1}}");
    let response = server.post("/v2/systemsharedmemory/region/x/register", &[], registration.as_bytes());
    assert_eq!(response.status, 200, "{}", response.text());
    let document = server.get("/openapi.json").json();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let paths = document["paths"].as_object().unwrap();
    let described: BTreeSet<String> = paths.keys().cloned().collect();
    let routes: BTreeSet<String> = routes().into_iter().filter(|path| !path.starts_with("/page/")).collect();
    assert!(routes.len() > 10 && routes.contains("/v1/encode"));
    assert_eq!(described, routes);
    for (path, item) in paths {
        let item = resolve(&document, item);
        let path = path.replace("{model}", "tilesight").replace("{name}", "x");
        for method in METHODS {
            let known = item.get(method.to_lowercase()).is_some();
            let response = request(&server, method, &path);
            assert_eq!(response.status != 405, known, "{method} {path}: {}", response.status);
            assert!(response.status != 404, "{path}");
            if known {
                let described = &item[method.to_lowercase()]["responses"];
                assert!(described.get(response.status.to_string()).is_some(), "{method} {path}: {}", response.status);
            }
        }
    }
}

#[test]
fn every_refusal_is_described() {
    let server = Server::start(&["--max-body-bytes", "20000"]);
    let document = server.get("/openapi.json").json();
    let good = std::fs::read(golden("hf_tiny").join("image0.png")).unwrap();
    let etag = server.post("/v1/encode", &[], &good).header("etag").unwrap().to_string();
    for (path, headers, body, status) in [
        ("/v1/encode", vec![], b"x".to_vec(), 415),
        ("/v1/encode", vec![], vec![0; 20_001], 413),
        ("/v1/encode", vec![("If-None-Match", etag.as_str())], good.clone(), 412),
        ("/v1/encode?dtype=x", vec![], good.clone(), 400),
        ("/v1/encode", vec![("Tilesight-Timeout-Ms", "0")], good.clone(), 504),
        ("/v2/models/{model}/infer", vec![], b"{".to_vec(), 400),
    ] {
        let response = server.post(&path.replace("{model}", "tilesight"), &headers, &body);
        // A body may be late before the rest is.
        assert!(response.status == status || (status == 504 && response.status == 408), "{path}: {}", response.text());
        let item = resolve(&document, &document["paths"][path.split('?').next().unwrap()]);
        let described = resolve(&document, &item["post"]["responses"][response.status.to_string()]);
        let schema = resolve(&document, &described["content"]["application/json"]["schema"]);
        assert_eq!(schema["required"][0], "error", "{path}: {}", response.status);
        for name in described["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
            assert!(response.header(name).is_some(), "{path}: {} without {name}", response.status);
        }
    }
}

#[test]
fn an_answer_says_where_the_picture_lies() {
    let server = Server::start(&[]);
    let config = EncoderConfig { tile_size: 28, max_num_tiles: 4, ..EncoderConfig::preset("11b").unwrap() };
    let preprocessor = Preprocessor::new(&config, Preprocess::Pil).unwrap();
    let rocket = std::fs::read(folder("tests/golden/images/rocket.jpg")).unwrap();
    // Exif that says: turn it by 90 degrees. The references do not look.
    let exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let turned = [&rocket[..2], exif, &rocket[2..]].concat();
    let hf_tiny = |name: &str| std::fs::read(golden("hf_tiny").join(name)).unwrap();
    let mut seen = BTreeSet::new();
    for file in [rocket, turned, hf_tiny("image0.png"), hf_tiny("image1.png")] {
        let (width, height) = Image::dimensions(&file, &Limits::default()).unwrap();
        let canvas = preprocessor.canvas(width, height).unwrap();
        let response = server.post("/v1/encode", &[], &file);
        let (_, head) = safetensors::SafeTensors::read_metadata(&response.body).unwrap();
        let said = |name: &str| -> [usize; 2] {
            let value = head.metadata().as_ref().unwrap().get(name).unwrap();
            serde_json::from_str(value).unwrap()
        };
        assert_eq!(said("picture_size"), [height, width]);
        assert_eq!(said("resized"), canvas.resized);
        let file = safetensors::SafeTensors::deserialize(&response.body).unwrap();
        let ratio: Vec<u8> = canvas.aspect_ratio.iter().flat_map(|side| (*side as i64).to_le_bytes()).collect();
        assert_eq!(file.tensor("aspect_ratio").unwrap().data(), ratio);
        seen.insert((canvas.aspect_ratio, canvas.resized));
    }
    assert_eq!(seen.len(), 3, "pictures that tell nothing apart: {seen:?}");
}
