//! A model as the server knows it, and what the backend keeps of it.

use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::Value;
use tilesight::{Dtype, Error};

use crate::api;
use crate::config::{Config, complete};
use crate::parameters::Parameters;
use crate::refusal::{Refusal, Result, check};

/// The server's handle of a model.
#[derive(Clone, Copy)]
pub(crate) struct ModelHandle(NonNull<api::Model>);

/// What instances share of a model; they keep it alive.
pub(crate) struct Model {
    pub(crate) parameters: Parameters,
    /// The element type of the embeddings, unless a request asks for another.
    pub(crate) dtype: Dtype,
    /// Decodes and cuts pictures, and rounds embeddings.
    pub(crate) pool: ThreadPool,
}

impl Model {
    /// Reads a model's configuration, completes it where the server allows it, and holds it against the checkpoint.
    pub(crate) fn open(handle: ModelHandle) -> Result<Self> {
        let mut json = handle.config()?;
        let parameters = Parameters::read(&Config::of(&json)?.parameters(), &handle.folder()?)?;
        if handle.completes()? && complete(&mut json, parameters.config(), parameters.rows()) {
            handle.set_config(&json)?;
            // The server may have added to it.
            json = handle.config()?;
        }
        let dtype = Config::of(&json)?.check(parameters.config(), parameters.rows())?;
        let threads = parameters.threads();
        let refuse = |e: rayon::ThreadPoolBuildError| Error::Threads { threads, reason: e.to_string() };
        let builder = ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("tilesight-cut-{n}"));
        Ok(Self { parameters, dtype, pool: builder.build().map_err(refuse)? })
    }
}

impl ModelHandle {
    /// # Safety
    /// `model` is null, or a model that the server keeps until its finalizer has returned.
    pub(crate) unsafe fn new(model: *mut api::Model) -> Result<Self> {
        NonNull::new(model).map(Self).ok_or_else(|| Refusal::invalid("the model is null"))
    }

    /// The configuration as JSON.
    fn config(self) -> Result<Value> {
        let mut message = null_mut();
        // SAFETY: the model is the server's, and the message may be written.
        check(unsafe { api::TRITONBACKEND_ModelConfig(self.0.as_ptr(), api::CONFIG_VERSION, &raw mut message) })?;
        let message = Message(message);
        let (mut base, mut len) = (null(), 0);
        // SAFETY: the message is ours until it is dropped.
        check(unsafe { api::TRITONSERVER_MessageSerializeToJson(message.0, &raw mut base, &raw mut len) })?;
        // SAFETY: the text lives as long as the message, which nobody changes.
        let text = unsafe { std::slice::from_raw_parts(base.cast::<u8>(), len) };
        serde_json::from_slice(text).map_err(|e| Refusal::invalid(format!("the configuration is no JSON: {e}")))
    }

    /// Whether the configuration may be completed.
    fn completes(self) -> Result<bool> {
        let mut completes = false;
        // SAFETY: the model is the server's, and the answer may be written.
        check(unsafe { api::TRITONBACKEND_ModelAutoCompleteConfig(self.0.as_ptr(), &raw mut completes) })?;
        Ok(completes)
    }

    fn set_config(self, config: &Value) -> Result<()> {
        let text = config.to_string();
        let mut message = null_mut();
        // SAFETY: the text has so many bytes, and the server copies it.
        check(unsafe {
            api::TRITONSERVER_MessageNewFromSerializedJson(&raw mut message, text.as_ptr().cast(), text.len())
        })?;
        let message = Message(message);
        // SAFETY: the model is the server's, and the message stays ours.
        check(unsafe { api::TRITONBACKEND_ModelSetConfig(self.0.as_ptr(), api::CONFIG_VERSION, message.0) })
    }

    /// The folder of the model's version in the repository.
    fn folder(self) -> Result<PathBuf> {
        let mut version = 0;
        // SAFETY: the model is the server's, and the version may be written.
        check(unsafe { api::TRITONBACKEND_ModelVersion(self.0.as_ptr(), &raw mut version) })?;
        let (mut artifact_type, mut location) = (0, null());
        // SAFETY: the model is the server's, and both may be written.
        check(unsafe {
            api::TRITONBACKEND_ModelRepository(self.0.as_ptr(), &raw mut artifact_type, &raw mut location)
        })?;
        // SAFETY: a text of the server's that ends with a zero and lives as long as the model.
        let location = unsafe { CStr::from_ptr(location) };
        let location = location.to_str().map_err(|_| Refusal::invalid("the repository's path must be UTF-8"))?;
        Ok(Path::new(location).join(version.to_string()))
    }

    /// Hands what the backend keeps of the model to the server.
    pub(crate) fn keep(self, model: Model) -> Result<()> {
        let state = Box::into_raw(Box::new(Arc::new(model)));
        // SAFETY: the model is the server's.
        check(unsafe { api::TRITONBACKEND_ModelSetState(self.0.as_ptr(), state.cast()) }).inspect_err(|_| {
            // SAFETY: it comes from the box above, and the server has not taken it.
            drop(unsafe { Box::from_raw(state) });
        })
    }

    /// What was kept.
    pub(crate) fn kept(self) -> Result<Arc<Model>> {
        let state = self.state()?.cast::<Arc<Model>>();
        // SAFETY: it is null, or comes from `keep`, and is only given up by the model's finalizer, which is called last.
        let model = unsafe { state.as_ref() };
        model.cloned().ok_or_else(|| Refusal::invalid("the model was not initialised"))
    }

    /// Gives up what was kept.
    ///
    /// # Safety
    /// Nobody asks for it any more.
    pub(crate) unsafe fn forget(self) -> Result<()> {
        let state = self.state()?.cast::<Arc<Model>>();
        if !state.is_null() {
            // SAFETY: the model is the server's.
            check(unsafe { api::TRITONBACKEND_ModelSetState(self.0.as_ptr(), null_mut()) })?;
            // SAFETY: it comes from `keep`, and nobody else has it.
            drop(unsafe { Box::from_raw(state) });
        }
        Ok(())
    }

    fn state(self) -> Result<*mut c_void> {
        let mut state = null_mut();
        // SAFETY: the model is the server's, and the state may be written.
        check(unsafe { api::TRITONBACKEND_ModelState(self.0.as_ptr(), &raw mut state) })?;
        Ok(state)
    }
}

/// A message that is ours to delete.
struct Message(*mut api::Message);

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it any more. A message that cannot be deleted is the server's loss.
        let _ = check(unsafe { api::TRITONSERVER_MessageDelete(self.0) });
    }
}
