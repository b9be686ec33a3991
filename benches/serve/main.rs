//! What the server adds to the encoder: time to the first byte of an answer at one request at a time, and throughput with
//! more requests than it can do, each against the same encoder in this process with the same threads.
//!
//! ```sh
//! cargo bench --features serve --bench serve -- --json serve.json            # two random models on the CPU
//! cargo bench --features serve,cuda --bench serve -- --device cuda --model DIR --json serve.json
//! ```
//!
//! Client and server share the machine. Offline rounds stand before and behind the server's, for machines drift. The goals
//! are those of the design: to the first byte at most 1 ms and 5 % of the encode more, and 95 % of the throughput. Tensors
//! are what throughput is compared with, for a picture's decoding takes the cores that the CPU encodes on.

mod client;
mod offline;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tilesight::checkpoint::{NameFormat, RandomWeights, demo_config};
use tilesight::{Device, Dtype, EncoderConfig};

use client::{Latency, Server};
use offline::Offline;

struct Arguments {
    device: String,
    model: Option<PathBuf>,
    seconds: u64,
    json: Option<PathBuf>,
}

impl Arguments {
    fn read() -> Self {
        let mut arguments = Self { device: "cpu".to_string(), model: None, seconds: 20, json: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
            match &*word {
                "--device" => arguments.device = value(),
                "--model" => arguments.model = Some(value().into()),
                "--seconds" => arguments.seconds = value().parse().expect("a number of seconds"),
                "--json" => arguments.json = Some(value().into()),
                // What cargo says to every benchmark.
                "--bench" => {}
                _ => panic!("{word}: there are --device, --model, --seconds and --json"),
            }
        }
        arguments
    }
}

/// Models of one tile in about 12 and 55 milliseconds on two cores; the picture has four.
fn models(folder: &Path) -> [(&'static str, PathBuf); 2] {
    let small = demo_config();
    let medium = EncoderConfig { clip_embed_dim: 512, num_heads: 8, clip_num_layers: 10, ..demo_config() };
    [("small", small), ("medium", medium)].map(|(name, config)| {
        let place = folder.join(name);
        let weights = RandomWeights::new(&config, Dtype::Bf16, 1).unwrap();
        std::fs::create_dir(&place).unwrap();
        weights.write(&place, NameFormat::Torchtune, &|_, _| {}).unwrap();
        (name, place)
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One request at a time: what the first byte of an answer waits for beside the stages.
fn latency(server: &Server, offline: &mut Offline, duration: Duration) -> Value {
    let before = offline.stages(duration / 4);
    let Latency { mut first_byte, mut stages, mut own, mut rates, body_bytes } =
        server.latency(offline.picture(), duration / 2);
    let behind = offline.stages(duration / 4);
    let (requests, first_byte) = (first_byte.len(), median(&mut first_byte));
    let offline_ms = [before, behind].map(|stages| stages.decode_ms + stages.preprocess_ms + stages.encode_ms);
    let encode = (before.encode_ms + behind.encode_ms) / 2.0;
    let allowed = 1.0 + 0.05 * encode;
    let overhead = first_byte - offline_ms.iter().sum::<f64>() / 2.0;
    let own = median(&mut own);
    json!({
        "requests": requests,
        "first_byte_p50_ms": first_byte,
        "offline_ms": {
            "decode": [before.decode_ms, behind.decode_ms],
            "preprocess": [before.preprocess_ms, behind.preprocess_ms],
            "encode": [before.encode_ms, behind.encode_ms],
        },
        "server_stages_p50_ms": median(&mut stages),
        "overhead_ms": { "against_offline": overhead, "against_its_own_stages": own, "allowed": allowed },
        "within_goal": { "against_offline": overhead <= allowed, "against_its_own_stages": own <= allowed },
        "body": { "bytes": body_bytes, "gigabytes_per_second_p50": median(&mut rates) },
    })
}

/// Rounds of saturation, each of its own share: one that another program disturbed stands out.
const ROUNDS: u32 = 5;

/// More requests than the server can do.
fn saturation(server: &Server, offline: &mut Offline, duration: Duration) -> Value {
    let clients = 2 * offline.batch_tiles() + 2;
    let request = offline.tensor_request();
    let mut shares = Vec::new();
    let rounds = (0..ROUNDS).map(|_| {
        let before = offline.tiles_per_second(duration / (2 * ROUNDS));
        let served = server.answers_per_second(&request, clients, duration / ROUNDS);
        let behind = offline.tiles_per_second(duration / (2 * ROUNDS));
        let share = served / ((before + behind) / 2.0);
        shares.push(share);
        json!({ "offline_tiles_per_second": [before, behind], "served_tiles_per_second": served, "share": share })
    });
    let rounds: Vec<Value> = rounds.collect();
    let share = median(&mut shares);
    let pictures = client::picture_request(offline.picture());
    let pictures = server.answers_per_second(&pictures, clients, duration / ROUNDS);
    json!({
        "clients": clients,
        "batch_tiles": offline.batch_tiles(),
        "tensors": { "rounds": rounds, "share_of_offline": share, "within_goal": share >= 0.95 },
        "pictures": { "pictures_per_second": pictures, "tiles_each": offline.picture_tiles() },
    })
}

fn main() {
    let arguments = Arguments::read();
    let (folder, duration) = (tempfile::tempdir().unwrap(), Duration::from_secs(arguments.seconds));
    let models = match &arguments.model {
        Some(model) => vec![("given", model.clone())],
        None => models(folder.path()).into(),
    };
    let device: Device = arguments.device.parse().unwrap();
    let mut report = serde_json::Map::new();
    for (name, model) in models {
        let mut offline = Offline::new(&model, device.clone());
        let server = Server::start(&model, &arguments.device);
        eprintln!("{name}: one at a time");
        let latency = latency(&server, &mut offline, duration);
        eprintln!("{name}: as much as goes");
        let saturation = saturation(&server, &mut offline, duration);
        report.insert(
            name.to_string(),
            json!({
                "device": offline.device(),
                "threads": offline.num_threads(),
                "latency": latency,
                "saturation": saturation,
            }),
        );
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cores": cores,
        "load_at_the_end": load.trim(),
        "seconds_each": arguments.seconds,
        "models": report,
    });
    let text = serde_json::to_string_pretty(&report).unwrap();
    println!("{text}");
    if let Some(path) = arguments.json {
        std::fs::write(path, text + "\n").unwrap();
    }
}
