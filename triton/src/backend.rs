//! The functions that the server calls.

use std::ptr::{NonNull, null};

use crate::api::{self, ErrorCode, GroupKind, LogLevel};
use crate::instance::{Instance, InstanceHandle};
use crate::model::{Model, ModelHandle};
use crate::refusal::{Refusal, Result, check, guarded, log};
use crate::request::Request;

/// The library was loaded: checks that the server is one it can talk to.
#[unsafe(no_mangle)]
pub extern "C" fn TRITONBACKEND_Initialize(_backend: *mut api::Backend) -> *mut api::Error {
    guarded(|| {
        let [mut major, mut minor] = [0; 2];
        // SAFETY: both may be written.
        check(unsafe { api::TRITONBACKEND_ApiVersion(&raw mut major, &raw mut minor) })?;
        let [known, least] = api::VERSION;
        if major != known || minor < least {
            return Err(Refusal::new(
                ErrorCode::UNSUPPORTED,
                format!(
                    "tilesight needs version {known}.{least} of Triton's backend API or a later {known}.x, this server \
                     has {major}.{minor}: take release 23.10 or newer"
                ),
            ));
        }
        Ok(())
    })
}

/// Says where a model's instances should be if its configuration does not: one on each GPU, else one on the CPU.
#[unsafe(no_mangle)]
pub extern "C" fn TRITONBACKEND_GetBackendAttribute(
    _backend: *mut api::Backend,
    attributes: *mut api::BackendAttribute,
) -> *mut api::Error {
    guarded(|| {
        let prefer = |kind: GroupKind| {
            // SAFETY: the attributes are the server's for this call, and no device is named.
            check(unsafe {
                api::TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(attributes, kind, 1, null(), 0)
            })
        };
        if cfg!(feature = "cuda") {
            prefer(GroupKind::GPU)?;
        }
        prefer(GroupKind::CPU)?;
        // Encoders know nothing of one another.
        // SAFETY: as above.
        check(unsafe { api::TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(attributes, true) })
    })
}

/// A model is loaded: reads and completes its configuration, and checks it.
///
/// # Safety
/// `model` is null or a model of the server's, which stays until [`TRITONBACKEND_ModelFinalize`] has returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInitialize(model: *mut api::Model) -> *mut api::Error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { ModelHandle::new(model) }?;
        handle.keep(Model::open(handle)?)
    })
}

/// A model is unloaded, after its instances.
///
/// # Safety
/// As for [`TRITONBACKEND_ModelInitialize`]; this is the last call with this model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelFinalize(model: *mut api::Model) -> *mut api::Error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { ModelHandle::new(model) }?;
        // SAFETY: this is the last call with this model.
        unsafe { handle.forget() }
    })
}

/// An instance of a model is made: builds its encoder on its device.
///
/// # Safety
/// `instance` is null or an instance of the server's, which stays until [`TRITONBACKEND_ModelInstanceFinalize`] has
/// returned, and its model longer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceInitialize(instance: *mut api::ModelInstance) -> *mut api::Error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { InstanceHandle::new(instance) }?;
        // SAFETY: the model lives longer than the instance.
        let model = unsafe { ModelHandle::new(handle.model()?) }?.kept()?;
        handle.keep(Instance::build(handle, model)?)
    })
}

/// An instance goes, and its encoder with it.
///
/// # Safety
/// As for [`TRITONBACKEND_ModelInstanceInitialize`]; this is the last call with this instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceFinalize(instance: *mut api::ModelInstance) -> *mut api::Error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { InstanceHandle::new(instance) }?;
        // SAFETY: this is the last call with this instance.
        unsafe { handle.forget() }
    })
}

/// Whether the instance can still compute. Servers of 2026 and later ask; earlier ones stay ready over a lost GPU.
///
/// # Safety
/// As for [`TRITONBACKEND_ModelInstanceInitialize`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceReady(instance: *mut api::ModelInstance) -> *mut api::Error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { InstanceHandle::new(instance) }?;
        // SAFETY: the finalizer is called after all others.
        unsafe { handle.kept() }?.require_ready()
    })
}

/// Encodes and answers requests.
///
/// # Safety
/// As for [`TRITONBACKEND_ModelInstanceInitialize`]; `requests` are `count` requests of the server's, which are given away
/// unless an error is returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceExecute(
    instance: *mut api::ModelInstance,
    requests: *mut *mut api::Request,
    count: u32,
) -> *mut api::Error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let handle = unsafe { InstanceHandle::new(instance) }?;
        // SAFETY: the finalizer is called after all others.
        let instance = unsafe { handle.kept() }?;
        // SAFETY: the caller's promise.
        let requests = unsafe { owned(requests, count) }?;
        let requests: Vec<Request> = requests.into_iter().map(|request| Request::new(request, handle)).collect();
        // From here on each request is answered, whatever happens: dropping one does it. So no error is returned.
        let executed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| instance.execute(requests)));
        if let Err(panic) = executed {
            log(LogLevel::ERROR, &Refusal::of_panic(&*panic).message);
        }
        Ok(())
    })
}

/// The requests of a call, none of which is null.
///
/// # Safety
/// `requests` is null or has `count` elements.
unsafe fn owned(requests: *mut *mut api::Request, count: u32) -> Result<Vec<NonNull<api::Request>>> {
    if requests.is_null() {
        return Err(Refusal::invalid("the requests are null"));
    }
    // SAFETY: not null, and of so many elements by the caller's promise.
    let requests = unsafe { std::slice::from_raw_parts(requests, count as usize) };
    let request = |request: &*mut api::Request| NonNull::new(*request);
    let requests: Option<Vec<_>> = requests.iter().map(request).collect();
    requests.ok_or_else(|| Refusal::invalid("a request is null"))
}
