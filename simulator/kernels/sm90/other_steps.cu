// A kernel of the simulator's own tests, no part of the engine: it has the name of another, portable one, and so has
// what it calls.
#include <stdint.h>

#include <ptx.cuh>

struct DoubleValuesParams {
    const float* input;
    float* output;
    uint32_t num_values;
    uint32_t stride;
};

__device__ float twice(float value) {
    return value + value;
}

// output[stride * i] = 2 * input[i].
extern "C" __global__ void __launch_bounds__(64) double_values(const __grid_constant__ DoubleValuesParams params) {
    for (uint32_t i = blockIdx.x * 64 + threadIdx.x; i < params.num_values; i += 64 * gridDim.x) {
        params.output[params.stride * i] = twice(params.input[i]);
    }
}
