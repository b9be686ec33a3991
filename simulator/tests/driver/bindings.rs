//! Prototypes as an engine has them: pointers are numbers or addresses, statuses are numbers.

use std::ffi::{c_char, c_int, c_uint, c_void};

// What exports the functions.
use tilesight_simulator as _;

pub const SUCCESS: u32 = 0;
pub const INVALID_VALUE: u32 = 1;
pub const OUT_OF_MEMORY: u32 = 2;
pub const NOT_INITIALIZED: u32 = 3;
pub const INVALID_DEVICE: u32 = 101;
pub const INVALID_IMAGE: u32 = 200;
pub const INVALID_CONTEXT: u32 = 201;
pub const NO_BINARY_FOR_GPU: u32 = 209;
pub const INVALID_HANDLE: u32 = 400;
pub const ILLEGAL_STATE: u32 = 401;
pub const NOT_FOUND: u32 = 500;
pub const NOT_READY: u32 = 600;
pub const ILLEGAL_ADDRESS: u32 = 700;
pub const LAUNCH_OUT_OF_RESOURCES: u32 = 701;
pub const LAUNCH_FAILED: u32 = 719;
pub const NOT_SUPPORTED: u32 = 801;
pub const CAPTURE_UNSUPPORTED: u32 = 900;
pub const CAPTURE_INVALIDATED: u32 = 901;
pub const CAPTURE_MERGE: u32 = 902;
pub const CAPTURE_UNMATCHED: u32 = 903;
pub const CAPTURE_UNJOINED: u32 = 904;
pub const CAPTURE_ISOLATION: u32 = 905;
pub const CAPTURE_IMPLICIT: u32 = 906;
pub const CAPTURED_EVENT: u32 = 907;
pub const CAPTURE_WRONG_THREAD: u32 = 908;

pub const NON_BLOCKING: c_uint = 1;
pub const DISABLE_TIMING: c_uint = 2;
pub const GLOBAL: c_int = 0;
pub const THREAD_LOCAL: c_int = 1;

/// `CUtensorMap`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
pub struct TensorMap(pub [u64; 16]);

macro_rules! prototypes {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        unsafe extern "C" {
            $(pub safe fn $name($($argument: $type),*) $(-> $result)?;)*
        }
    };
}

// Declared safe for the tests' sake: what they pass is theirs and alive, or wrong in a way that the driver answers for.
prototypes! {
    fn cuInit(flags: c_uint) -> u32;
    fn cuDriverGetVersion(version: &mut c_int) -> u32;
    fn cuDeviceGetCount(count: &mut c_int) -> u32;
    fn cuDeviceGet(device: &mut c_int, ordinal: c_int) -> u32;
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> u32;
    fn cuDeviceGetAttribute(value: &mut c_int, attribute: c_int, device: c_int) -> u32;
    fn cuDeviceTotalMem_v2(bytes: &mut usize, device: c_int) -> u32;
    fn cuDevicePrimaryCtxRetain(context: &mut usize, device: c_int) -> u32;
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> u32;
    fn cuCtxSetCurrent(context: usize) -> u32;
    fn cuCtxGetCurrent(context: &mut usize) -> u32;
    fn cuCtxPushCurrent_v2(context: usize) -> u32;
    fn cuCtxPopCurrent_v2(context: &mut usize) -> u32;
    fn cuCtxSynchronize() -> u32;
    fn cuMemGetInfo_v2(free: &mut usize, total: &mut usize) -> u32;
    fn cuMemAlloc_v2(address: &mut u64, bytes: usize) -> u32;
    fn cuMemFree_v2(address: u64) -> u32;
    fn cuMemHostAlloc(address: &mut *mut c_void, bytes: usize, flags: c_uint) -> u32;
    fn cuMemFreeHost(address: *mut c_void) -> u32;
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) -> u32;
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) -> u32;
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> u32;
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32;
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> u32;
    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize) -> u32;
    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: usize) -> u32;
    fn cuStreamCreate(stream: &mut usize, flags: c_uint) -> u32;
    fn cuStreamDestroy_v2(stream: usize) -> u32;
    fn cuStreamSynchronize(stream: usize) -> u32;
    fn cuStreamQuery(stream: usize) -> u32;
    fn cuStreamGetCtx(stream: usize, context: &mut usize) -> u32;
    fn cuStreamWaitEvent(stream: usize, event: usize, flags: c_uint) -> u32;
    fn cuEventCreate(event: &mut usize, flags: c_uint) -> u32;
    fn cuEventDestroy_v2(event: usize) -> u32;
    fn cuEventRecord(event: usize, stream: usize) -> u32;
    fn cuEventQuery(event: usize) -> u32;
    fn cuEventSynchronize(event: usize) -> u32;
    fn cuEventElapsedTime_v2(milliseconds: &mut f32, start: usize, end: usize) -> u32;
    fn cuModuleLoadData(module: &mut usize, image: *const c_void) -> u32;
    fn cuModuleUnload(module: usize) -> u32;
    fn cuModuleGetFunction(function: &mut usize, module: usize, name: *const c_char) -> u32;
    fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) -> u32;
    fn cuFuncGetAttribute(value: &mut c_int, attribute: c_int, function: usize) -> u32;
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: &mut c_int, function: usize, threads: c_int, shared: usize)
        -> u32;
    fn cuLaunchKernel(function: usize, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint,
        block_y: c_uint, block_z: c_uint, shared: c_uint, stream: usize, params: *const *const c_void,
        extra: *const *const c_void) -> u32;
    fn cuTensorMapEncodeTiled(map: *mut TensorMap, data_type: c_int, rank: c_uint, address: u64, extents: *const u64,
        strides: *const u64, boxes: *const u32, element_strides: *const u32, interleave: c_int, swizzle: c_int,
        promotion: c_int, fill: c_int) -> u32;
    fn cuLaunchKernelEx(config: &LaunchConfig, function: usize, params: *const *const c_void,
        extra: *const *const c_void) -> u32;
    fn cuStreamBeginCapture_v2(stream: usize, mode: c_int) -> u32;
    fn cuStreamEndCapture(stream: usize, graph: &mut usize) -> u32;
    fn cuStreamIsCapturing(stream: usize, status: &mut c_int) -> u32;
    fn cuGraphInstantiateWithFlags(executable: &mut usize, graph: usize, flags: u64) -> u32;
    fn cuGraphUpload(executable: usize, stream: usize) -> u32;
    fn cuGraphLaunch(executable: usize, stream: usize) -> u32;
    fn cuGraphGetNodes(graph: usize, nodes: *mut usize, count: &mut usize) -> u32;
    fn cuGraphExecDestroy(executable: usize) -> u32;
    fn cuGraphDestroy(graph: usize) -> u32;
    fn cuGetErrorName(status: u32, name: &mut *const c_char) -> u32;
    fn cuGetErrorString(status: u32, text: &mut *const c_char) -> u32;

    fn tilesight_simulator_reset();
    fn tilesight_simulator_set_seed(seed: u64);
    fn tilesight_simulator_set_devices(count: c_uint) -> bool;
    fn tilesight_simulator_set_compute_capability(major: c_uint, minor: c_uint) -> bool;
    fn tilesight_simulator_set_memory(bytes: u64);
    fn tilesight_simulator_set_prompt(prompt: bool);
    fn tilesight_simulator_fail_call(number: u64, status: u32);
    fn tilesight_simulator_fail_function(name: *const c_char, status: u32);
    fn tilesight_simulator_fail_launch(number: u64, status: u32);
    fn tilesight_simulator_hang_launch(number: u64);
    fn tilesight_simulator_release();
    fn tilesight_simulator_num_calls() -> u64;
    fn tilesight_simulator_num_launches() -> u64;
    fn tilesight_simulator_num_alive(kind: *const c_char) -> i64;
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_bytes: c_uint,
    pub stream: usize,
    pub attributes: *const LaunchAttribute,
    pub num_attributes: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C)]
pub struct LaunchAttribute {
    pub id: c_uint,
    pub padding: c_uint,
    pub value: [u64; 8],
}
