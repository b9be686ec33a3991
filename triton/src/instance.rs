//! An instance of a model: one encoder on one device, and the executions it is given.

use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::ptr::{NonNull, null, null_mut};
use std::sync::{Arc, Mutex, OnceLock};

use rayon::prelude::*;
use tilesight::image::Preprocessor;
use tilesight::{Device, Dtype, Encoder, EncoderConfig, Error};

use crate::api::{self, DataType, ErrorCode, GroupKind, LogLevel};
use crate::clock::{self, Times};
use crate::config::data_type;
use crate::model::Model;
use crate::parameters::Rows;
use crate::prepare::{Contents, Cutter, Prepared};
use crate::refusal::{Refusal, Result, check, log};
use crate::request::{Request, Tensor, Wishes};
use crate::response::{Buffer, Response};

/// The server's handle of an instance.
#[derive(Clone, Copy)]
pub(crate) struct InstanceHandle(NonNull<api::ModelInstance>);

/// What the backend keeps of an instance. The server gives it one batch at a time, and may ask at any time whether it is
/// ready.
pub(crate) struct Instance {
    handle: InstanceHandle,
    model: Arc<Model>,
    config: EncoderConfig,
    preprocessor: Option<Preprocessor>,
    encoder: Mutex<Encoder>,
    /// Why the device will never compute again.
    lost: OnceLock<String>,
}

/// The embeddings of a batch, and where each request's are among them.
struct Embeddings {
    values: Vec<f32>,
    of: Vec<Result<Range<usize>>>,
}

impl Instance {
    /// Builds the encoder of an instance.
    pub(crate) fn build(handle: InstanceHandle, model: Arc<Model>) -> Result<Self> {
        let encoder = model.parameters.encoder(handle.device()?)?;
        let message = format!(
            "{}: {}, {} semantics, on {} in {}",
            handle.name()?,
            model.parameters.source(),
            encoder.semantics(),
            encoder.device(),
            encoder.precision().activations
        );
        log(LogLevel::INFO, &message);
        Ok(Self {
            handle,
            model,
            config: encoder.config().clone(),
            preprocessor: encoder.preprocessor().ok().cloned(),
            encoder: Mutex::new(encoder),
            lost: OnceLock::new(),
        })
    }

    /// Refuses where nothing will be computed again.
    pub(crate) fn require_ready(&self) -> Result<()> {
        let lost = self.lost.get().map(String::as_str);
        let lost = lost.or_else(|| self.encoder.is_poisoned().then_some("a fault of the backend's own"));
        let refuse = |why: &str| Refusal::new(ErrorCode::UNAVAILABLE, format!("the encoder is lost: {why}"));
        lost.map_or(Ok(()), |why| Err(refuse(why)))
    }

    /// Encodes requests together, and answers each.
    pub(crate) fn execute(&self, mut requests: Vec<Request>) {
        let exec_start = clock::now();
        let prepared = self.prepare(&requests);
        let compute_start = clock::now();
        let embeddings = self.encode(&prepared);
        let compute_end = clock::now();
        let (mut num_pictures, mut are_good) = (0, Vec::new());
        for ((request, prepared), range) in requests.iter_mut().zip(prepared).zip(embeddings.of) {
            let answer = prepared.and_then(|(wishes, prepared)| {
                let values = &embeddings.values[range?];
                let is_good = request.answer(|response| self.fill(response, &wishes, &prepared, values))?;
                Ok(if is_good { prepared.num_tiles.len() } else { 0 })
            });
            let answered = answer.unwrap_or_else(|refusal| {
                request.refuse(refusal);
                0
            });
            num_pictures += answered;
            are_good.push(answered > 0);
        }
        let times = Times { exec_start, compute_start, compute_end, exec_end: clock::now() };
        for (request, is_good) in requests.iter_mut().zip(are_good) {
            request.report(is_good.then_some(&times));
        }
        if num_pictures > 0 {
            self.handle.report(num_pictures, &times);
        }
    }

    /// Reads requests, and makes tiles of their pictures on all threads. Each may fail alone.
    fn prepare(&self, requests: &[Request]) -> Vec<Result<(Wishes, Prepared)>> {
        let cutter = Cutter {
            config: &self.config,
            limits: self.model.parameters.limits(),
            preprocessor: self.preprocessor.as_ref(),
        };
        let read: Vec<Result<_>> = requests.iter().map(read).collect();
        let cut = |read: &Result<(Wishes, Vec<Tensor>)>| {
            let (wishes, tensors) = read.as_ref().map_err(Clone::clone)?;
            Ok((wishes.clone(), cutter.cut(Contents::read(tensors)?)?))
        };
        let prepared: Vec<_> = self.model.pool.install(|| read.par_iter().map(cut).collect());
        // What takes longest is still to come.
        let wanted = |(request, prepared): (&Request, Result<_>)| request.require_wanted().and(prepared);
        requests.iter().zip(prepared).map(wanted).collect()
    }

    /// Encodes all requests that want embeddings together; if that fails, each by itself, so that one fails alone.
    fn encode(&self, prepared: &[Result<(Wishes, Prepared)>]) -> Embeddings {
        let wants = |prepared: &&(Wishes, Prepared)| prepared.0.embeddings;
        let wanting =
            prepared.iter().map(|prepared| prepared.as_ref().ok().filter(wants).map(|(_, prepared)| prepared));
        let wanting: Vec<Option<&Prepared>> = wanting.collect();
        let all: Vec<&Prepared> = wanting.iter().copied().flatten().collect();
        let (mut values, mut of) = (Vec::new(), Vec::new());
        match self.run(&all) {
            Ok(together) => {
                values = together;
                let mut end = 0;
                for one in wanting {
                    let begin = end;
                    end += one.map_or(0, |one| self.num_values(one));
                    of.push(Ok(begin..end));
                }
            }
            Err(refusal) if all.len() == 1 => {
                of.extend(wanting.into_iter().map(|one| one.map_or(Ok(0..0), |_| Err(refusal.clone()))));
            }
            Err(_) => {
                for one in wanting {
                    let begin = values.len();
                    of.push(self.run(one.as_slice()).map(|mut alone| {
                        values.append(&mut alone);
                        begin..values.len()
                    }));
                }
            }
        }
        Embeddings { values, of }
    }

    /// The embeddings of requests, one after another.
    fn run(&self, prepared: &[&Prepared]) -> Result<Vec<f32>> {
        self.require_ready()?;
        if prepared.is_empty() {
            return Ok(Vec::new());
        }
        let inputs: Vec<_> = prepared.iter().map(|prepared| prepared.input()).collect();
        // It was not poisoned just now, and this thread alone uses it.
        let mut encoder =
            self.encoder.lock().map_err(|_| Refusal::new(ErrorCode::UNAVAILABLE, "the encoder is lost"))?;
        encoder.encode_inputs(&inputs).map_err(|error| {
            if let Error::Cuda(cuda) = &error
                && cuda.is_fatal()
            {
                let _ = self.lost.set(cuda.to_string());
                log(LogLevel::ERROR, &format!("the encoder is lost: {cuda}"));
            }
            error.into()
        })
    }

    fn num_values(&self, prepared: &Prepared) -> usize {
        prepared.num_tiles.iter().sum::<usize>() * self.config.num_tokens() * self.config.decoder_embed_dim
    }

    /// Writes the outputs that a request wants.
    fn fill(&self, response: &mut Response, wishes: &Wishes, prepared: &Prepared, values: &[f32]) -> Result<()> {
        let n = prepared.num_tiles.len();
        if wishes.embeddings {
            let dtype = wishes.dtype.unwrap_or(self.model.dtype);
            let most = match self.model.parameters.rows() {
                Rows::Max => self.config.max_num_tiles,
                Rows::Request => prepared.num_tiles.iter().copied().max().unwrap_or(0),
            };
            let (rows, width) = (most * self.config.num_tokens(), self.config.decoder_embed_dim);
            let len = n * rows * width * dtype.size();
            response.output(c"embeddings", data_type(dtype), &[n, rows, width], len, |buffer| {
                self.pad(buffer, prepared, values, rows * width, dtype);
            })?;
        }
        if wishes.num_tiles {
            let counts: Vec<i64> = prepared.num_tiles.iter().map(|count| *count as i64).collect();
            integers(response, c"num_tiles", &[n, 1], &counts)?;
        }
        if wishes.aspect_ratio {
            integers(response, c"aspect_ratio", &[n, 2], prepared.aspect_ratios.as_flattened())?;
        }
        Ok(())
    }

    /// Writes each image's embeddings in this type, and zeros up to `padded` values.
    fn pad(&self, buffer: &mut Buffer, prepared: &Prepared, mut values: &[f32], padded: usize, dtype: Dtype) {
        let tile_len = self.config.num_tokens() * self.config.decoder_embed_dim;
        for num_tiles in &prepared.num_tiles {
            let (image, behind) = values.split_at(num_tiles * tile_len);
            values = behind;
            if dtype == Dtype::F32 {
                buffer.write(bytemuck::cast_slice(image));
            } else {
                buffer.write(&self.model.pool.install(|| dtype.narrowed(image)));
            }
            buffer.zeros((padded - image.len()) * dtype.size());
        }
    }
}

/// A request's wishes and tensors.
fn read(request: &Request) -> Result<(Wishes, Vec<Tensor<'_>>)> {
    request.require_wanted()?;
    Ok((request.wishes()?, request.tensors()?))
}

fn integers(response: &mut Response, name: &CStr, shape: &[usize], values: &[i64]) -> Result<()> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    response.output(name, DataType::INT64, shape, bytes.len(), |buffer| buffer.write(bytes))
}

impl InstanceHandle {
    /// # Safety
    /// `instance` is null, or an instance that the server keeps until its finalizer has returned.
    pub(crate) unsafe fn new(instance: *mut api::ModelInstance) -> Result<Self> {
        NonNull::new(instance).map(Self).ok_or_else(|| Refusal::invalid("the instance is null"))
    }

    pub(crate) fn as_ptr(self) -> *mut api::ModelInstance {
        self.0.as_ptr()
    }

    /// The model that it is an instance of.
    pub(crate) fn model(self) -> Result<*mut api::Model> {
        let mut model = null_mut();
        // SAFETY: the instance is the server's, and the model may be written.
        check(unsafe { api::TRITONBACKEND_ModelInstanceModel(self.as_ptr(), &raw mut model) })?;
        Ok(model)
    }

    fn name(self) -> Result<String> {
        let mut name = null();
        // SAFETY: the instance is the server's, and the name may be written.
        check(unsafe { api::TRITONBACKEND_ModelInstanceName(self.as_ptr(), &raw mut name) })?;
        // SAFETY: a text of the server's that ends with a zero.
        Ok(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }

    /// Where the instance is to compute.
    fn device(self) -> Result<Device> {
        let mut kind = GroupKind(u32::MAX);
        // SAFETY: the instance is the server's, and the kind may be written.
        check(unsafe { api::TRITONBACKEND_ModelInstanceKind(self.as_ptr(), &raw mut kind) })?;
        match kind {
            GroupKind::CPU => Ok(Device::Cpu),
            GroupKind::GPU if cfg!(feature = "cuda") => {
                let mut id = 0;
                // SAFETY: as above.
                check(unsafe { api::TRITONBACKEND_ModelInstanceDeviceId(self.as_ptr(), &raw mut id) })?;
                let refuse = |_| Refusal::invalid(format!("there is no GPU {id}"));
                Ok(Device::Cuda(vec![usize::try_from(id).map_err(refuse)?]))
            }
            GroupKind::GPU => Err(Refusal::new(
                ErrorCode::UNSUPPORTED,
                "this build computes on the CPU alone: build the backend with --features cuda, or set the instance group's \
                 kind to KIND_CPU",
            )),
            _ => Err(Refusal::new(ErrorCode::UNSUPPORTED, "an instance group's kind must be KIND_CPU or KIND_GPU")),
        }
    }

    /// Hands what the backend keeps of the instance to the server.
    pub(crate) fn keep(self, instance: Instance) -> Result<()> {
        let state = Box::into_raw(Box::new(instance));
        // SAFETY: the instance is the server's.
        check(unsafe { api::TRITONBACKEND_ModelInstanceSetState(self.as_ptr(), state.cast()) }).inspect_err(|_| {
            // SAFETY: it comes from the box above, and the server has not taken it.
            drop(unsafe { Box::from_raw(state) });
        })
    }

    /// What was kept.
    ///
    /// # Safety
    /// Nobody calls [`forget`](Self::forget) while it is borrowed.
    pub(crate) unsafe fn kept<'a>(self) -> Result<&'a Instance> {
        let state = self.state()?.cast::<Instance>();
        // SAFETY: it is null or comes from `keep`, and stays by the caller's promise; it is shared, never changed.
        unsafe { state.as_ref() }.ok_or_else(|| Refusal::invalid("the instance was not initialised"))
    }

    /// Gives up what was kept.
    ///
    /// # Safety
    /// Nobody asks for it any more.
    pub(crate) unsafe fn forget(self) -> Result<()> {
        let state = self.state()?.cast::<Instance>();
        if !state.is_null() {
            // SAFETY: the instance is the server's.
            check(unsafe { api::TRITONBACKEND_ModelInstanceSetState(self.as_ptr(), null_mut()) })?;
            // SAFETY: it comes from `keep`, and nobody else has it.
            drop(unsafe { Box::from_raw(state) });
        }
        Ok(())
    }

    fn state(self) -> Result<*mut c_void> {
        let mut state = null_mut();
        // SAFETY: the instance is the server's, and the state may be written.
        check(unsafe { api::TRITONBACKEND_ModelInstanceState(self.as_ptr(), &raw mut state) })?;
        Ok(state)
    }

    /// Reports a batch to the server's statistics.
    fn report(self, num_pictures: usize, times: &Times) {
        let Times { exec_start, compute_start, compute_end, exec_end } = *times;
        // SAFETY: the instance is the server's.
        let reported = check(unsafe {
            api::TRITONBACKEND_ModelInstanceReportBatchStatistics(
                self.as_ptr(),
                num_pictures as u64,
                exec_start,
                compute_start,
                compute_end,
                exec_end,
            )
        });
        if let Err(Refusal { message, .. }) = reported {
            log(LogLevel::ERROR, &format!("statistics were not taken: {message}"));
        }
    }
}
