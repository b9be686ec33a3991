//! The backend under a server that does what servers on the CPU do not.

#[cfg(feature = "cuda")]
mod gpu;
mod lifecycle;
mod requests;

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null_mut};

use serde_json::{Value, json};
use tilesight::image::{Image, Limits};
use tilesight::{Device, Encoder};

use crate::api::{self, DataType, ErrorCode, GroupKind, MemoryType};
use crate::backend;
use crate::host::{self, Input, Instance, Model, Request};

const ALL: [&str; 3] = ["embeddings", "num_tiles", "aspect_ratio"];

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/hf_tiny")
}

fn picture(number: usize) -> Vec<u8> {
    std::fs::read(tiny().join(format!("image{number}.png"))).unwrap()
}

/// What a call to the backend came to.
fn status(error: *mut api::Error) -> Result<(), (ErrorCode, String)> {
    // SAFETY: it is null, or comes from the host as a box.
    let error = NonNull::new(error).map(|error| unsafe { Box::from_raw(error.as_ptr().cast::<host::Error>()) });
    error.map_or(Ok(()), |error| Err((error.code, error.message.to_string_lossy().into_owned())))
}

/// A loaded model with one instance, and its way to be unloaded.
struct Loaded {
    model: *mut Model,
    instance: *mut Instance,
}

fn model(config: Value, completes: bool) -> *mut Model {
    let folder = CString::new("/nowhere").unwrap();
    Box::into_raw(Box::new(Model { folder, config: config.into(), completes, state: null_mut() }))
}

fn instance(model: *mut Model, kind: GroupKind, device: i32) -> *mut Instance {
    Box::into_raw(Box::new(Instance { kind, device, model, state: null_mut(), batches: Vec::new() }))
}

fn config(parameters: Value) -> Value {
    let mut all = json!({ "model": { "string_value": tiny() }, "threads": { "string_value": "1" } });
    for (name, value) in parameters.as_object().unwrap() {
        all[name] = json!({ "string_value": value });
    }
    json!({ "name": "tilesight", "max_batch_size": 0, "input": [], "output": [], "parameters": all })
}

impl Loaded {
    fn new(parameters: Value) -> Self {
        Self::on(GroupKind::CPU, 0, parameters)
    }

    fn on(kind: GroupKind, device: i32, parameters: Value) -> Self {
        let model = model(config(parameters), true);
        let instance = instance(model, kind, device);
        // SAFETY: both live until they are dropped below.
        status(unsafe { backend::TRITONBACKEND_ModelInitialize(model.cast()) }).unwrap();
        // SAFETY: as above.
        status(unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(instance.cast()) }).unwrap();
        Self { model, instance }
    }

    /// Has requests executed as one batch.
    fn execute(&self, requests: &mut [Request]) {
        let mut pointers: Vec<*mut api::Request> = requests.iter_mut().map(|one| (&raw mut *one).cast()).collect();
        let (instance, count) = (self.instance.cast(), pointers.len() as u32);
        // SAFETY: instance and requests live, and nobody else uses them meanwhile.
        status(unsafe { backend::TRITONBACKEND_ModelInstanceExecute(instance, pointers.as_mut_ptr(), count) }).unwrap();
        assert_eq!(host::open_responses(), 0);
        for request in requests {
            let (is_good, times) = request.reported.unwrap();
            assert!(request.released && is_good == request.answer.as_ref().unwrap().is_ok());
            assert!(!is_good || (times[0] > 0 && times.is_sorted()), "{times:?}");
        }
    }

    fn batches(&self) -> Vec<u64> {
        // SAFETY: it lives, and nobody changes it now.
        let instance = unsafe { &*self.instance };
        assert!(instance.batches.iter().all(|(_, times)| times[0] > 0 && times.is_sorted()));
        instance.batches.iter().map(|(size, _)| *size).collect()
    }

    fn ready(&self) -> Result<(), (ErrorCode, String)> {
        // SAFETY: the instance lives.
        status(unsafe { backend::TRITONBACKEND_ModelInstanceReady(self.instance.cast()) })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: this is the last call with the instance.
        status(unsafe { backend::TRITONBACKEND_ModelInstanceFinalize(self.instance.cast()) }).unwrap();
        // SAFETY: this is the last call with the model.
        status(unsafe { backend::TRITONBACKEND_ModelFinalize(self.model.cast()) }).unwrap();
        // SAFETY: it comes from a box, and nobody has it any more.
        let instance = unsafe { Box::from_raw(self.instance) };
        // SAFETY: as above.
        let model = unsafe { Box::from_raw(self.model) };
        assert!(instance.state.is_null() && model.state.is_null(), "nothing is left with the server");
    }
}

fn input(name: &str, data_type: DataType, shape: &[i64], bytes: Vec<u8>) -> Input {
    let (name, shape) = (CString::new(name).unwrap(), shape.to_vec());
    Input { name, data_type, shape, pieces: vec![bytes], memory: MemoryType::CPU }
}

/// Elements of BYTES.
fn elements(files: &[&[u8]]) -> Vec<u8> {
    files.iter().flat_map(|file| [&(file.len() as u32).to_le_bytes(), *file].concat()).collect()
}

fn request(inputs: Vec<Input>, outputs: &[&str]) -> Request {
    let outputs = outputs.iter().map(|name| CString::new(*name).unwrap()).collect();
    Request { inputs, outputs, ..Request::default() }
}

fn pictures(files: &[&[u8]]) -> Request {
    request(vec![input("image", DataType::BYTES, &[files.len() as i64, 1], elements(files))], &ALL)
}

fn pixels(values: &[f32], aspect_ratio: [i64; 2]) -> Request {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let ratio = aspect_ratio.iter().flat_map(|side| side.to_le_bytes()).collect();
    let pixels = input("pixels", DataType::FP32, &[1, 4, 3, 28, 28], bytes);
    request(vec![pixels, input("aspect_ratio", DataType::INT64, &[1, 2], ratio)], &ALL)
}

fn encoder() -> Encoder {
    Encoder::builder().model(tiny()).device(Device::Cpu).build().unwrap()
}

/// A picture's embeddings, as a program in Rust gets them.
fn embeddings(file: &[u8]) -> Vec<f32> {
    encoder().encode(&[Image::decode(file, &Limits::default()).unwrap()]).unwrap().embeddings
}

/// The embeddings of an answer, cut into pictures.
fn answered(request: &Request) -> Vec<Vec<f32>> {
    let outputs = request.answer.as_ref().unwrap().as_ref().unwrap();
    let output = outputs.iter().find(|output| output.name == "embeddings").unwrap();
    let values: Vec<f32> = output.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(output.shape.iter().product::<i64>() as usize, values.len());
    values.chunks(output.shape[1] as usize * output.shape[2] as usize).map(<[f32]>::to_vec).collect()
}

fn refusal(request: &Request) -> (ErrorCode, String) {
    request.answer.as_ref().unwrap().as_ref().err().unwrap().clone()
}

/// Embeddings, and zeros behind them.
fn assert_padded(found: &[f32], expected: &[f32]) {
    assert_eq!(found[..expected.len()], *expected);
    assert!(found[expected.len()..].iter().all(|value| value.to_bits() == 0));
}

fn noise(seed: u32) -> Vec<f32> {
    (0..4 * 3 * 28 * 28).map(|n: u32| (n.wrapping_mul(seed) % 251) as f32 / 125.0 - 1.0).collect()
}
