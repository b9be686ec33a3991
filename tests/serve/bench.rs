//! `tilesight bench serve` against a server: ours, one that is full, one that dies, and none.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::golden_data::golden;
use crate::server;
use crate::server::Server;

fn bench(url: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilesight"));
    command.args(["bench", "serve", "--url", url]).args(more).output().unwrap()
}

#[track_caller]
fn report(url: &str, folder: &Path, more: &[&str]) -> Value {
    let path = folder.join("report.json");
    let output = bench(url, &[&["--json", path.to_str().unwrap()][..], more].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[track_caller]
fn fails(url: &str, says: &str, more: &[&str]) {
    let output = bench(url, more);
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    assert!(output.status.code() == Some(1) && said.contains(says), "{said:?} does not say {says:?}");
}

fn picture(name: &str) -> String {
    golden("hf_tiny").join(name).to_str().unwrap().to_string()
}

#[test]
fn a_closed_and_an_open_loop_see_the_same_answers() {
    let server = Server::start(&[]);
    server.wait_until_ready();
    let (url, folder) = (format!("http://{}", server.address), tempfile::tempdir().unwrap());
    let pictures = [picture("image0.png"), picture("image1.png")];
    let pictures = [&pictures[0][..], &pictures[1]];
    let closed = report(&url, folder.path(), &[&["--clients", "3", "--duration", "1"], &pictures[..]].concat());
    let open = report(&url, folder.path(), &[&["--rate", "20", "--duration", "1"], &pictures[..]].concat());
    for (report, name) in [(&closed, "closed"), (&open, "open")] {
        let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{name}: no {key}"));
        assert!(report["scenario"].as_str().unwrap().starts_with(name));
        assert!(number("images_per_second") > 0.0 && number("tiles_per_second") >= number("images_per_second"));
        assert!(0.0 < number("p50") && number("p50") <= number("p99"));
        assert!(report["first_byte"]["p50"].as_f64().unwrap() <= number("p50"));
        assert_eq!(report["differing"], 0);
        assert_eq!(report["failures"], serde_json::json!({}));
        // The server's own stages are parts of what the client saw.
        for stage in ["decode", "preprocess", "compute"] {
            assert!(report["stages"][stage]["p50"].as_f64().unwrap() <= number("p99"), "{stage}");
        }
    }
    assert_eq!(closed["checksum"], open["checksum"]);
    // Half as many bytes in half precision, other bits.
    let half = report(&url, folder.path(), &[&["--dtype", "fp16", "--duration", "0.3"], &pictures[..]].concat());
    let bytes_each = |report: &Value| report["bytes"].as_f64().unwrap() / report["queries"].as_f64().unwrap();
    assert!(bytes_each(&half) < 0.75 * bytes_each(&closed));
    assert_ne!(half["checksum"], closed["checksum"]);
    // The server has seen what the client counts, and the first round.
    let answered = [&closed, &open, &half].map(|report| report["queries"].as_u64().unwrap() + 2).iter().sum::<u64>();
    assert_eq!(server.metric("tilesight_responses_total{status=\"200\"}") as u64, answered);
}

#[test]
fn tensors_of_noise_are_as_large_as_the_server_says() {
    let server = Server::start(&[]);
    server.wait_until_ready();
    let (url, folder) = (format!("http://{}", server.address), tempfile::tempdir().unwrap());
    let first = report(&url, folder.path(), &["--tiles", "1x1,2x2", "--duration", "0.5"]);
    assert_eq!(first["inputs"].as_array().unwrap().len(), 6);
    let kept = folder.path().join("earlier.json");
    std::fs::copy(folder.path().join("report.json"), &kept).unwrap();
    let output = bench(&url, &["--tiles", "1x1,2x2", "--duration", "0.5", "--compare", kept.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("the embeddings are the same") && text.contains("now / earlier"), "{text}");
}

#[test]
fn a_server_that_is_full_refuses_and_that_is_no_failure() {
    let server = Server::start(&["--max-requests", "1"]);
    server.wait_until_ready();
    let (url, folder) = (format!("http://{}", server.address), tempfile::tempdir().unwrap());
    let report = report(&url, folder.path(), &["--clients", "6", "--duration", "1", "--tiles", "2x2"]);
    assert!(report["refused"].as_u64().unwrap() > 0 && report["queries"].as_u64().unwrap() > 0, "{report:#}");
}

#[test]
fn what_is_no_server_is_said() {
    fails("http://127.0.0.1:9", "127.0.0.1:9", &["--duration", "0.1"]);
    fails("https://127.0.0.1:9", "http://", &["--duration", "0.1"]);
    fails("nonsense", "starts with http://", &["--duration", "0.1"]);
    let server = Server::start(&[]);
    server.wait_until_ready();
    let url = format!("http://{}", server.address);
    fails(&url, "404", &["--model-name", "other", "--duration", "0.1"]);
    fails(&url, "No such file", &["absent.png"]);
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, b"no picture").unwrap();
    fails(&url, "not a JPEG", &[broken.to_str().unwrap()]);
    // Something that answers, but no inference protocol.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
        }
    });
    fails(&format!("http://{address}"), "/v2/models/tilesight", &["--duration", "0.1"]);
}

#[test]
fn a_server_that_dies_is_a_failure() {
    // On a slow machine a short load may be over before its server is, which proves nothing: then a longer one is tried.
    let ends = |seconds: &'static str| {
        let server = Server::start(&[]);
        let url = format!("http://{}", server.address);
        let client = std::thread::spawn(move || bench(&url, &["--clients", "2", "--duration", seconds]));
        server::wait_until("the load is there", || server.metric("tilesight_tiles_total") > 5.0);
        server.signal("KILL");
        Some(client.join().unwrap()).filter(|output| output.status.code() != Some(0))
    };
    let output = ["2", "20", "100"].into_iter().find_map(ends).expect("a load outlives its server");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains(" 0 failed"), "{text}");
}
