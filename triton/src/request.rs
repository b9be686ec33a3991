//! A request: its tensors and wishes, and the duty to answer it and give it back.

use std::borrow::Cow;
use std::ffi::{CStr, c_char};
use std::ptr::{NonNull, null, null_mut};

use tilesight::Dtype;

use crate::api::{self, DataType, ErrorCode, LogLevel, MemoryType, ParameterType};
use crate::clock::Times;
use crate::instance::InstanceHandle;
use crate::refusal::{Refusal, Result, check, log};
use crate::response::Response;

/// A request that was handed over. When it is dropped it is answered, if it was not, and given back.
pub(crate) struct Request {
    raw: NonNull<api::Request>,
    instance: InstanceHandle,
    answered: bool,
    reported: bool,
}

/// One of a request's inputs.
pub(crate) struct Tensor<'r> {
    pub(crate) name: &'r str,
    pub(crate) data_type: DataType,
    pub(crate) shape: Vec<usize>,
    /// The elements, little endian; of BYTES each with its length before it.
    pub(crate) bytes: Cow<'r, [u8]>,
}

/// What a request wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    pub(crate) embeddings: bool,
    pub(crate) num_tiles: bool,
    pub(crate) aspect_ratio: bool,
    /// The element type of the embeddings, if it is not the configuration's.
    pub(crate) dtype: Option<Dtype>,
}

impl Request {
    /// Takes a request over.
    pub(crate) fn new(raw: NonNull<api::Request>, instance: InstanceHandle) -> Self {
        Self { raw, instance, answered: false, reported: false }
    }

    /// Refuses a request whose client has left.
    pub(crate) fn require_wanted(&self) -> Result<()> {
        let mut is_cancelled = false;
        // SAFETY: the request is ours, and the answer may be written.
        check(unsafe { api::TRITONBACKEND_RequestIsCancelled(self.raw.as_ptr(), &raw mut is_cancelled) })?;
        if is_cancelled { Err(Refusal::new(ErrorCode::CANCELLED, "the request was cancelled")) } else { Ok(()) }
    }

    /// All inputs.
    pub(crate) fn tensors(&self) -> Result<Vec<Tensor<'_>>> {
        let mut count = 0;
        // SAFETY: the request is ours, and the count may be written.
        check(unsafe { api::TRITONBACKEND_RequestInputCount(self.raw.as_ptr(), &raw mut count) })?;
        let tensor = |index| {
            let mut input = null_mut();
            // SAFETY: the request is ours, and has more inputs than this index.
            check(unsafe { api::TRITONBACKEND_RequestInputByIndex(self.raw.as_ptr(), index, &raw mut input) })?;
            // SAFETY: the input lives as long as the request, which is borrowed.
            unsafe { self.tensor(input) }
        };
        (0..count).map(tensor).collect()
    }

    /// # Safety
    /// `input` is one of this request's.
    unsafe fn tensor<'r>(&'r self, input: *mut api::Input) -> Result<Tensor<'r>> {
        let (mut name, mut data_type, mut shape) = (null(), DataType(0), null());
        let (mut num_dims, mut byte_size, mut num_buffers) = (0, 0, 0);
        // SAFETY: the input is this request's, and all may be written.
        check(unsafe {
            api::TRITONBACKEND_InputProperties(
                input,
                &raw mut name,
                &raw mut data_type,
                &raw mut shape,
                &raw mut num_dims,
                &raw mut byte_size,
                &raw mut num_buffers,
            )
        })?;
        // SAFETY: the name is the input's.
        let name: &'r str = unsafe { named(name) }?;
        // SAFETY: the input has so many dimensions, which live as long as it does.
        let shape = unsafe { elements(shape, num_dims as usize) };
        let refuse = || Refusal::invalid(format!("{name} cannot have the shape {shape:?}"));
        let shape = shape.iter().map(|size| usize::try_from(*size).map_err(|_| refuse())).collect::<Result<_>>()?;
        let piece = |index| -> Result<&'r [u8]> {
            let (mut buffer, mut len) = (null(), 0);
            let (mut memory, mut device) = (MemoryType::CPU, 0);
            // SAFETY: the input has more buffers than this index, and all may be written.
            check(unsafe {
                api::TRITONBACKEND_InputBuffer(
                    input,
                    index,
                    &raw mut buffer,
                    &raw mut len,
                    &raw mut memory,
                    &raw mut device,
                )
            })?;
            if ![MemoryType::CPU, MemoryType::CPU_PINNED].contains(&memory) {
                let message = format!("{name} lies in memory of GPU {device}: send it in memory of the host");
                return Err(Refusal::new(ErrorCode::UNSUPPORTED, message));
            }
            // SAFETY: so many bytes of the host's memory, which live as long as the input.
            Ok(unsafe { elements(buffer.cast::<u8>(), len as usize) })
        };
        let bytes = match num_buffers {
            0 => Cow::Borrowed(&[][..]),
            1 => Cow::Borrowed(piece(0)?),
            _ => Cow::Owned((0..num_buffers).map(piece).collect::<Result<Vec<_>>>()?.concat()),
        };
        Ok(Tensor { name, data_type, shape, bytes })
    }

    /// The outputs that the request asks for, and how.
    pub(crate) fn wishes(&self) -> Result<Wishes> {
        let mut count = 0;
        // SAFETY: the request is ours, and the count may be written.
        check(unsafe { api::TRITONBACKEND_RequestOutputCount(self.raw.as_ptr(), &raw mut count) })?;
        let mut wishes = Wishes { dtype: self.dtype()?, ..Wishes::default() };
        for index in 0..count {
            let mut name = null();
            // SAFETY: the request is ours, and asks for more outputs than this index.
            check(unsafe { api::TRITONBACKEND_RequestOutputName(self.raw.as_ptr(), index, &raw mut name) })?;
            // SAFETY: the name lives as long as the request.
            match unsafe { named(name) }? {
                "embeddings" => wishes.embeddings = true,
                "num_tiles" => wishes.num_tiles = true,
                "aspect_ratio" => wishes.aspect_ratio = true,
                other => return Err(Refusal::invalid(format!("there is no output {other:?}"))),
            }
        }
        Ok(wishes)
    }

    /// The parameter `dtype`, as the server of this project takes it. Other parameters are for others.
    fn dtype(&self) -> Result<Option<Dtype>> {
        let refuse = || Refusal::invalid("dtype must be FP32, FP16 or BF16");
        let mut count = 0;
        // SAFETY: the request is ours, and the count may be written.
        check(unsafe { api::TRITONBACKEND_RequestParameterCount(self.raw.as_ptr(), &raw mut count) })?;
        for index in 0..count {
            let (mut key, mut kind, mut value) = (null(), ParameterType(u32::MAX), null());
            // SAFETY: the request is ours, and has more parameters than this index.
            check(unsafe {
                api::TRITONBACKEND_RequestParameter(
                    self.raw.as_ptr(),
                    index,
                    &raw mut key,
                    &raw mut kind,
                    &raw mut value,
                )
            })?;
            // SAFETY: the key lives as long as the request.
            if unsafe { named(key) }? != "dtype" {
                continue;
            }
            if kind != ParameterType::STRING {
                return Err(refuse());
            }
            // SAFETY: the value of a text is the text, which lives as long as the request.
            let name = unsafe { named(value.cast()) }?;
            return Dtype::from_kserve_name(name).map(Some).ok_or_else(refuse);
        }
        Ok(None)
    }

    /// Answers with what `fill` writes, or with its refusal. Returns whether it was the former.
    pub(crate) fn answer(&mut self, fill: impl FnOnce(&mut Response) -> Result<()>) -> Result<bool> {
        // SAFETY: the request is ours, and a response before this one was not sent.
        let mut response = unsafe { Response::new(self.raw) }?;
        let filled = fill(&mut response);
        let is_good = filled.is_ok();
        self.answered = true;
        response.send(filled)?;
        Ok(is_good)
    }

    /// Answers with a refusal, unless there is an answer, which then could not be sent.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        let sent = if self.answered { Err(refusal) } else { self.answer(|_| Err(refusal)) };
        if let Err(Refusal { message, .. }) = sent {
            log(LogLevel::ERROR, &format!("a request was not answered: {message}"));
        }
    }

    /// Reports a request that was answered well, or, with no times, one that was not, to the server's statistics.
    pub(crate) fn report(&mut self, times: Option<&Times>) {
        let none = Times { exec_start: 0, compute_start: 0, compute_end: 0, exec_end: 0 };
        let Times { exec_start, compute_start, compute_end, exec_end } = *times.unwrap_or(&none);
        self.reported = true;
        // SAFETY: both are ours for now, and the request was not given back.
        let reported = check(unsafe {
            api::TRITONBACKEND_ModelInstanceReportStatistics(
                self.instance.as_ptr(),
                self.raw.as_ptr(),
                times.is_some(),
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

impl Drop for Request {
    fn drop(&mut self) {
        if !self.answered {
            self.refuse(Refusal::new(
                ErrorCode::INTERNAL,
                "a fault of the backend's own ended the batch; its log says more",
            ));
        }
        if !self.reported {
            self.report(None);
        }
        // SAFETY: the request is ours, and nothing that belongs to it is borrowed any more.
        let released = check(unsafe { api::TRITONBACKEND_RequestRelease(self.raw.as_ptr(), api::RELEASE_ALL) });
        if let Err(Refusal { message, .. }) = released {
            log(LogLevel::ERROR, &format!("a request could not be given back: {message}"));
        }
    }
}

/// A text of the server's.
///
/// # Safety
/// It is null or ends with a zero, and lives for `'a`.
unsafe fn named<'a>(text: *const c_char) -> Result<&'a str> {
    if text.is_null() {
        return Err(Refusal::invalid("a name is null"));
    }
    // SAFETY: not null, and ends with a zero by the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Refusal::invalid("names must be UTF-8"))
}

/// Elements of the server's. None of them may be nowhere.
///
/// # Safety
/// `data` is null where `len` is 0, or has `len` elements that live for `'a`.
unsafe fn elements<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 || data.is_null() {
        return &[];
    }
    // SAFETY: not null, and of so many elements by the caller's promise.
    unsafe { std::slice::from_raw_parts(data, len) }
}
