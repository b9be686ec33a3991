//! The encoder in this process, which is what the server is held against.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tilesight::encoder::Input;
use tilesight::image::{Image, Limits};
use tilesight::{Device, Encoder, Pixels};

use super::median;

pub struct Offline {
    encoder: Encoder,
    picture: Vec<u8>,
    /// A tile.
    pixels: Vec<f32>,
}

/// Medians of the parts of a request, one at a time.
#[derive(Clone, Copy)]
pub struct Stages {
    pub decode_ms: f64,
    pub preprocess_ms: f64,
    pub encode_ms: f64,
}

impl Offline {
    pub fn new(model: &Path, device: Device) -> Self {
        let encoder = Encoder::builder().model(model).device(device).build().unwrap();
        let config = encoder.config();
        let pixels = (0..config.tile_len()).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
        let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images/rocket.jpg");
        Self { picture: std::fs::read(picture).unwrap(), pixels, encoder }
    }

    pub fn picture(&self) -> &[u8] {
        &self.picture
    }

    /// Tiles that the picture is cut into.
    pub fn picture_tiles(&self) -> usize {
        let (width, height) = Image::dimensions(&self.picture, &Limits::default()).unwrap();
        self.encoder.preprocessor().unwrap().num_tiles(width, height).unwrap()
    }

    pub fn device(&self) -> String {
        self.encoder.device()
    }

    pub fn num_threads(&self) -> usize {
        self.encoder.num_threads()
    }

    pub fn batch_tiles(&self) -> usize {
        self.encoder.max_batch_tiles()
    }

    pub fn stages(&mut self, duration: Duration) -> Stages {
        let (mut decode, mut preprocess, mut encode) = (Vec::new(), Vec::new(), Vec::new());
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        let begin = Instant::now();
        while begin.elapsed() < duration || encode.len() < 5 {
            let start = Instant::now();
            let image = Image::decode(&self.picture, &Limits::default()).unwrap();
            let decoded = Instant::now();
            let tiles = self.encoder.preprocessor().unwrap().tiles(&image).unwrap();
            let cut = Instant::now();
            self.encoder.encode_inputs(&[Input::Pictures(&[tiles])]).unwrap();
            encode.push(ms(cut, Instant::now()));
            decode.push(ms(start, decoded));
            preprocess.push(ms(decoded, cut));
        }
        Stages {
            decode_ms: median(&mut decode),
            preprocess_ms: median(&mut preprocess),
            encode_ms: median(&mut encode),
        }
    }

    /// Full batches of single tiles, one behind the other.
    pub fn tiles_per_second(&mut self, duration: Duration) -> f64 {
        let (batch_tiles, side) = (self.batch_tiles(), self.encoder.config().tile_size);
        let channels = self.encoder.config().in_channels;
        let pixels =
            Pixels { images: &self.pixels, shape: [1, 1, 1, channels, side, side], aspect_ratio: Some(&[[1, 1]]) };
        let inputs = vec![Input::Pixels(pixels); batch_tiles];
        let (begin, mut tiles) = (Instant::now(), 0);
        while begin.elapsed() < duration || tiles == 0 {
            self.encoder.encode_inputs(&inputs).unwrap();
            tiles += batch_tiles;
        }
        tiles as f64 / begin.elapsed().as_secs_f64()
    }

    /// The tile as a request of the inference protocol.
    pub fn tensor_request(&self) -> Vec<u8> {
        let (side, channels) = (self.encoder.config().tile_size, self.encoder.config().in_channels);
        let request = json!({
            "inputs": [
                {
                    "name": "pixels", "shape": [1, 1, channels, side, side], "datatype": "FP32",
                    "parameters": { "binary_data_size": 4 * self.pixels.len() },
                },
                { "name": "aspect_ratio", "shape": [1, 2], "datatype": "INT64", "data": [1, 1] },
            ],
            "outputs": [{ "name": "embeddings", "parameters": { "binary_data": true } }],
        });
        let json = request.to_string();
        let binary = self.pixels.iter().flat_map(|x| x.to_le_bytes());
        let body: Vec<u8> = json.bytes().chain(binary).collect();
        let headers = format!("Inference-Header-Content-Length: {}\r\n", json.len());
        super::client::post("/v2/models/tilesight/infer", &headers, &body)
    }
}
