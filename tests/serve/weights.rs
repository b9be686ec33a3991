//! The model's files while they are served: whoever shortens or rewrites them changes no answer and ends no server.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::golden_data::golden;
use crate::grpc_client::bytes_of;
use crate::server::{Response, Server, expected, picture};

/// Copies the golden model `hf_tiny`; returns its shards.
fn copy_model(folder: &Path) -> Vec<PathBuf> {
    let mut shards = Vec::new();
    for entry in std::fs::read_dir(golden("hf_tiny")).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), folder.join(entry.unwrap().file_name()));
        std::fs::copy(from, &to).unwrap();
        if to.file_name().unwrap().to_str().unwrap().starts_with("model-") {
            shards.push(to);
        }
    }
    assert_eq!(shards.len(), 3);
    shards
}

fn open(shard: &Path) -> File {
    OpenOptions::new().write(true).open(shard).unwrap()
}

/// Encodes a picture, rightly.
fn encode(server: &Server, name: &str) -> Response {
    let response = server.post("/v1/encode", &[], &picture(name));
    assert_eq!(response.status, 200, "{}", response.text());
    let file = safetensors::SafeTensors::deserialize(&response.body).unwrap();
    assert!(file.tensor("embeddings").unwrap().data() == bytes_of(&expected(&[name])), "{name}");
    response
}

#[test]
fn a_model_that_is_rewritten_or_shortened_is_served_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let shards = copy_model(folder.path());
    let model = folder.path().display().to_string();
    let mut server = Server::spawn(&["--device", "cpu", "--model", &model], &[]);
    server.wait_until_ready();
    let before = encode(&server, "image0.png");
    let is_the_same = |server: &Server| {
        let response = encode(server, "image0.png");
        assert!(response.body == before.body && response.header("etag") == before.header("etag"));
        // And a picture that it has not seen.
        encode(server, "image1.png");
    };
    for shard in &shards {
        let len = std::fs::metadata(shard).unwrap().len() as usize;
        open(shard).write_all(&vec![0x3f; len]).unwrap();
    }
    is_the_same(&server);
    for (shard, len) in shards.iter().zip([0, 1, 4096]) {
        open(shard).set_len(len).unwrap();
    }
    is_the_same(&server);
    std::fs::remove_dir_all(folder.path()).unwrap();
    is_the_same(&server);
    assert!(server.is_running());
}
