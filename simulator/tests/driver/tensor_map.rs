//! Maps of tensors, and launches that may start early.

use std::ffi::{c_int, c_uint, c_void};

use super::bindings::*;
use super::gpu::*;

/// Arguments of `cuTensorMapEncodeTiled` for bf16, but for those that are zero.
#[derive(Clone, Copy)]
struct Tensor {
    rank: c_uint,
    address: u64,
    extents: [u64; 2],
    stride: u64,
    boxes: [u32; 2],
    element_stride: u32,
    swizzle: c_int,
}

impl Tensor {
    fn encode(&self, map: &mut TensorMap) -> u32 {
        let &Self { rank, address, extents, stride, boxes, element_stride, swizzle } = self;
        let steps = [element_stride; 2];
        let (extents, strides) = (extents.as_ptr(), [stride]);
        let (boxes, steps) = (boxes.as_ptr(), steps.as_ptr());
        cuTensorMapEncodeTiled(map, 9, rank, address, extents, strides.as_ptr(), boxes, steps, 0, swizzle, 2, 0)
    }
}

fn gpu_of_hopper(seed: u64) -> Gpu {
    let simulator = Simulator::new();
    assert!(tilesight_simulator_set_compute_capability(9, 0));
    Gpu::on(simulator, seed)
}

#[test]
fn a_map_is_of_a_tensor_that_can_be_copied() {
    let gpu = gpu_of_hopper(0);
    let mut map = TensorMap::default();
    let right = Tensor {
        rank: 2,
        address: gpu.memory(4096),
        extents: [60, 20],
        stride: 128,
        boxes: [64, 16],
        element_stride: 1,
        swizzle: 3,
    };
    ok(right.encode(&mut map));
    let wrong = [
        Tensor { rank: 0, ..right },
        Tensor { rank: 6, ..right },
        Tensor { address: right.address + 8, ..right },
        Tensor { extents: [60, 0], ..right },
        Tensor { extents: [60, (1 << 32) + 1], ..right },
        Tensor { stride: 120, ..right },
        Tensor { stride: 1 << 40, ..right },
        Tensor { boxes: [64, 0], ..right },
        Tensor { boxes: [64, 257], ..right },
        // 128 bytes in a row, 64 in the swizzle; then rows that are no multiple of 16 bytes.
        Tensor { swizzle: 2, ..right },
        Tensor { boxes: [60, 16], ..right },
        Tensor { element_stride: 9, ..right },
    ];
    for tensor in wrong {
        assert_eq!(tensor.encode(&mut map), INVALID_VALUE);
    }
    assert_eq!(Tensor { element_stride: 2, ..right }.encode(&mut map), NOT_SUPPORTED);
    assert!(tilesight_simulator_set_compute_capability(8, 0));
    assert_eq!(right.encode(&mut map), NOT_SUPPORTED);
}

/// `LoadTensorParams` of `hopper_instructions.cu`.
#[repr(C)]
struct LoadTensorParams {
    map: TensorMap,
    output: u64,
    offset: u32,
    num_bytes: u32,
    rank: u32,
    origin: [i32; 4],
    padding: [u32; 7],
}

#[test]
fn a_kernel_takes_a_map_with_its_params() {
    for seed in seeds() {
        let gpu = gpu_of_hopper(seed);
        let values: Vec<f32> = (0..16).map(|value| value as f32).collect();
        let (input, output, stream) = (gpu.upload(&values), gpu.memory(64), gpu.stream());
        let mut map = TensorMap::default();
        // Floats as pairs of elements of two bytes: a box of 8 floats in each of 2 rows.
        let tensor = Tensor {
            rank: 2,
            address: input,
            extents: [16, 2],
            stride: 32,
            boxes: [16, 2],
            element_stride: 1,
            swizzle: 0,
        };
        ok(tensor.encode(&mut map));
        let params = LoadTensorParams {
            map,
            output,
            offset: 128,
            num_bytes: 64,
            rank: 2,
            origin: [0, 1, 0, 0],
            padding: [0; 7],
        };
        let arguments = [(&raw const params).cast::<c_void>()];
        let function = Function::compiled_for(90, "load_tensor_box").handle;
        ok(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 256, stream, arguments.as_ptr(), std::ptr::null()));
        let expected: Vec<f32> = values[8..].iter().copied().chain([0.0; 8]).collect();
        assert_eq!(gpu.download(output, 16, stream), expected);
    }
}

#[test]
fn a_kernel_that_may_start_early_waits() {
    for (fault, status) in [(0, SUCCESS), (2, LAUNCH_FAILED)] {
        let gpu = gpu_of_hopper(0);
        let (output, stream) = (gpu.memory(256), gpu.stream());
        let params = [output, fault];
        let arguments = [params.as_ptr().cast::<c_void>()];
        let attributes = [LaunchAttribute { id: 6, padding: 0, value: [1, 0, 0, 0, 0, 0, 0, 0] }];
        let config = LaunchConfig {
            grid: [1; 3],
            block: [64, 1, 1],
            shared_bytes: 0,
            stream,
            attributes: attributes.as_ptr(),
            num_attributes: 1,
        };
        let function = Function::compiled_for(90, "wait_for_grid").handle;
        ok(cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
        ok(cuLaunchKernelEx(&config, function, arguments.as_ptr(), std::ptr::null()));
        let graph = made(|graph| cuStreamEndCapture(stream, graph));
        let executable = made(|executable| cuGraphInstantiateWithFlags(executable, graph, 0));
        ok(cuGraphLaunch(executable, stream));
        assert_eq!(cuStreamSynchronize(stream), status);
    }
}
