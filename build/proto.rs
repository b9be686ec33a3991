//! The messages of the gRPC protocols in Rust: `inference.rs` and `grpc.health.v1.rs` in `OUT_DIR`. protox reads the
//! `.proto` files, so that no protoc is needed.

use super::Failure;

const FOLDER: &str = "src/serve/grpc";
const FILES: [&str; 2] = ["inference.proto", "health.proto"];

pub fn compile() -> Result<(), Failure> {
    for file in FILES {
        println!("cargo::rerun-if-changed={FOLDER}/{file}");
    }
    let files = protox::compile(FILES, [FOLDER]).map_err(|error| Failure {
        cause: format!("protox refuses a file of {FOLDER}: {error:?}"),
        remedy: "correct it".into(),
    })?;
    let mut config = prost_build::Config::new();
    // Tensors stay where they were received.
    config.bytes(["."]);
    config.compile_fds(files).map_err(|error| super::failed_to("write the messages", error))
}
