//! `--model OWNER/NAME`: only the configuration and the shards with tensors of the encoder are fetched. The hub is a
//! small server of this test's own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::golden_data::golden;

type Requests = Arc<Mutex<BTreeSet<String>>>;

/// Serves `tests/golden/hf_tiny` as a model repository, but for an index that names one more shard; returns the
/// address, and what is asked for.
fn serve() -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let seen = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || answer(&stream, &seen));
        }
    });
    (address, requests)
}

fn file(name: &str) -> Option<Vec<u8>> {
    let bytes = std::fs::read(golden("hf_tiny").join(name)).ok()?;
    if name != "model.safetensors.index.json" {
        return Some(bytes);
    }
    let mut index: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    index["weight_map"]["language_model.model.norm.extra"] = "model-text-only.safetensors".into();
    Some(serde_json::to_vec(&index).unwrap())
}

fn answer(mut stream: &TcpStream, seen: &Requests) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(first)) = lines.next() {
        let mut words = first.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let mut range = None;
        for line in lines.by_ref() {
            let line = line.ok()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            range = line.strip_prefix("range: bytes=").map(str::to_string).or(range);
        }
        let name = path.rsplit('/').next()?.to_string();
        seen.lock().unwrap().insert(name.clone());
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let head = match file(&name).filter(|_| path.contains("/test/hf_tiny/resolve/")) {
            None => "HTTP/1.1 404 Not Found\r\nX-Error-Code: EntryNotFound\r\nContent-Length: 0\r\n\r\n".to_string(),
            Some(bytes) => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nETag: \"{name}\"\r\nX-Repo-Commit: {commit}\r\nContent-Length: {}\r\n\r\n",
                    bytes.len()
                );
                assert!(range.is_none(), "the test's hub serves whole files");
                stream.write_all(head.as_bytes()).ok()?;
                if method == "GET" {
                    stream.write_all(&bytes).ok()?;
                }
                continue;
            }
        };
        stream.write_all(head.as_bytes()).ok()?;
    }
    Some(())
}

fn inspect(model: &str, hub: &str, home: &Path) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilesight"));
    command.args(["inspect", "--json", "--model", model]).env("HF_ENDPOINT", hub).env("HF_HOME", home);
    command.env_remove("HF_TOKEN").env("NO_PROXY", "127.0.0.1").output().unwrap()
}

#[test]
fn only_the_encoders_shards_are_fetched() {
    let home = tempfile::tempdir().unwrap();
    let (hub, requests) = serve();
    let output = inspect("test/hf_tiny", &hub, home.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["loads"], true);
    assert_eq!(report["names"], "Hugging Face");
    let requests = requests.lock().unwrap();
    assert!(requests.contains("config.json") && requests.contains("preprocessor_config.json"));
    assert!(requests.contains("model-00002-of-00003.safetensors"), "{requests:?}");
    assert!(!requests.contains("model-text-only.safetensors"), "{requests:?}");
}

#[test]
fn an_unknown_model_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let (hub, _) = serve();
    let output = inspect("test/nothing", &hub, home.path());
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("model hub: test/nothing"), "{stderr}");
}
