//! The model's files while they are served: whoever shortens or rewrites them changes no answer and ends no server.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::golden_data::golden;
use crate::server::Server;

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

#[test]
fn a_model_that_is_rewritten_or_shortened_is_served_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let shards = copy_model(folder.path());
    let model = folder.path().display().to_string();
    let mut server = Server::spawn(&["--device", "cpu", "--model", &model], &[]);
    server.wait_until_ready();
    let before = server.encode("image0.png");
    let is_the_same = |server: &Server| {
        let response = server.encode("image0.png");
        assert!(response.body == before.body && response.header("etag") == before.header("etag"));
        // And a picture that it has not seen.
        server.encode("image1.png");
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
