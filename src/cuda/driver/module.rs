//! Kernels on the GPU.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{
    self, CUfunction_attribute, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
};

use super::{Context, Stream, check};
use crate::error::CudaError;

/// The most dynamic shared memory of a block that the driver grants unasked.
const UNASKED_SHARED_BYTES: u32 = 48 << 10;

/// A loaded fatbin.
#[derive(Debug)]
pub(crate) struct Module {
    handle: sys::CUmodule,
    context: Arc<Context>,
}

// SAFETY: a module's handle is a plain token of the driver, whose functions may be called from any thread.
unsafe impl Send for Module {}
// SAFETY: as above; nothing here is mutable.
unsafe impl Sync for Module {}

impl Module {
    /// Loads a fatbin as nvcc wrote it.
    pub(crate) fn new(context: &Arc<Context>, fatbin: &[u8]) -> Result<Arc<Self>, CudaError> {
        context.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a fatbin says its own length, and nvcc wrote this one; the module is unloaded once, when dropped.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut handle, fatbin.as_ptr().cast()) })?;
        Ok(Arc::new(Self { handle, context: context.clone() }))
    }

    /// The kernel of this name, for launches with `shared_bytes` of dynamic shared memory.
    pub(crate) fn function(self: &Arc<Self>, name: &CStr, shared_bytes: u32) -> Result<Function, CudaError> {
        self.context.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle, the name ends with zero.
        check("cuModuleGetFunction", unsafe { sys::cuModuleGetFunction(&mut handle, self.handle, name.as_ptr()) })?;
        if shared_bytes > UNASKED_SHARED_BYTES {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a loaded module.
            let status = unsafe { sys::cuFuncSetAttribute(handle, attribute, shared_bytes.cast_signed()) };
            check("cuFuncSetAttribute", status)?;
        }
        Ok(Function { handle, shared_bytes, _module: self.clone() })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // A failure cannot be told from here.
        let _ = self.context.synchronize();
        // SAFETY: loaded once by `new`, unloaded once here, and the GPU is idle.
        let _ = unsafe { sys::cuModuleUnload(self.handle) };
    }
}

/// A kernel, and the dynamic shared memory it is launched with.
#[derive(Debug)]
pub(crate) struct Function {
    handle: sys::CUfunction,
    shared_bytes: u32,
    _module: Arc<Module>,
}

// SAFETY: a function's handle is a plain token of the driver, whose functions may be called from any thread.
unsafe impl Send for Function {}

impl Function {
    /// Launches the kernel on `stream` with one struct of parameters, which is copied. With `overlap`, its blocks may start
    /// before the kernel before it has ended ("programmatic dependent launch").
    ///
    /// # Safety
    /// With `overlap`, the kernel itself waits for the one before it, in every block, before it touches what that one may.
    /// `params` is the struct that the kernel takes, the memory its pointers name is as large as the kernel takes it to
    /// be, and it stays alive, and unused by others, until the stream has done the launch.
    pub(crate) unsafe fn launch<P>(
        &self,
        stream: &Stream,
        grid: [u32; 3],
        block: u32,
        params: &P,
        overlap: bool,
    ) -> Result<(), CudaError> {
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        let [x, y, z] = grid;
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: overlap.into() },
        };
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: stream.handle(),
            attrs: &mut attribute,
            numAttrs: overlap.into(),
        };
        // SAFETY: function, stream and attribute live; the driver copies as many bytes of `params` as the kernel takes,
        // which is its size by the caller's promise.
        let status =
            unsafe { sys::cuLaunchKernelEx(&config, self.handle, arguments.as_mut_ptr(), std::ptr::null_mut()) };
        check("cuLaunchKernelEx", status)
    }
}
