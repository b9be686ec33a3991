// Kernels of the simulator's own tests, no part of the engine: built-in variables, vectors, partial blocks, atomics.
#include <stdint.h>

#include <ptx.cuh>

struct DoubleValuesParams {
    const float* input;
    float* output;
    uint32_t num_values;
};

__device__ float twice(float value) {
    return 2.0f * value;
}

// output[i] = 2 * input[i].
extern "C" __global__ void __launch_bounds__(128) double_values(const __grid_constant__ DoubleValuesParams params) {
    const uint32_t index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < params.num_values) {
        params.output[index] = twice(params.input[index]);
    }
}

struct NameThreadsParams {
    uint4* names;
    uint32_t* count;
};

// names[thread of the grid] = its indices as six numbers of 10 bits, with the sizes of block and grid.
extern "C" __global__ void __launch_bounds__(64, 2) name_threads(const __grid_constant__ NameThreadsParams params) {
    const uint32_t block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const uint32_t thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const uint32_t place = block * blockDim.x * blockDim.y * blockDim.z + thread;
    params.names[place] = make_uint4(threadIdx.x | threadIdx.y << 10 | threadIdx.z << 20,
                                     blockIdx.x | blockIdx.y << 10 | blockIdx.z << 20,
                                     blockDim.x | blockDim.y << 10 | blockDim.z << 20,
                                     gridDim.x | gridDim.y << 10 | gridDim.z << 20);
    atomicAdd(params.count, 1u);
}
