// Kernels of the simulator's own tests, no part of the engine: programs that lack one thing that orders them, and have
// it where `ordered` is set. All of them move values between the threads of one block, through shared memory.
#include <stdint.h>

#include <ptx.cuh>

struct HazardParams {
    uint32_t* input;   // [rounds, 128]
    uint32_t* output;  // [rounds, 128]; round r, thread t: what the thread 32 before t had in round r
    uint32_t rounds;
    uint32_t ordered;
};

__device__ uint32_t neighbour() {
    return (threadIdx.x + 96) % 128;
}

// The barrier between a write and a read by another warp.
extern "C" __global__ void __launch_bounds__(128) hazard_read(const __grid_constant__ HazardParams params) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    for (uint32_t round = 0; round < params.rounds; ++round) {
        uint32_t* row = shared + 128 * round;
        row[threadIdx.x] = params.input[128 * round + threadIdx.x];
        if (params.ordered != 0) {
            __syncthreads();
        }
        params.output[128 * round + threadIdx.x] = row[neighbour()];
    }
}

// The barrier between a read and the write that takes its place.
extern "C" __global__ void __launch_bounds__(128) hazard_overwrite(const __grid_constant__ HazardParams params) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    for (uint32_t round = 0; round < params.rounds; ++round) {
        shared[threadIdx.x] = params.input[128 * round + threadIdx.x];
        __syncthreads();
        params.output[128 * round + threadIdx.x] = shared[neighbour()];
        if (params.ordered != 0) {
            __syncthreads();
        }
    }
}

// The same between lanes of a warp.
extern "C" __global__ void __launch_bounds__(128) hazard_lanes(const __grid_constant__ HazardParams params) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    for (uint32_t round = 0; round < params.rounds; ++round) {
        shared[neighbour()] = params.input[128 * round + neighbour()];
        __syncwarp();
        const uint32_t other = neighbour() / 32 * 32 + (threadIdx.x + 1) % 32;
        params.output[128 * round + threadIdx.x] = shared[other];
        if (params.ordered != 0) {
            __syncwarp();
        }
    }
}

// Scratch of a warp's own, which is another's too.
extern "C" __global__ void __launch_bounds__(128) hazard_scratch(const __grid_constant__ HazardParams params) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    uint32_t* scratch = shared + (params.ordered != 0 ? threadIdx.x / 32 * 32 : 0);
    for (uint32_t round = 0; round < params.rounds; ++round) {
        scratch[threadIdx.x % 32] = params.input[128 * round + neighbour()];
        __syncwarp();
        params.output[128 * round + threadIdx.x] = scratch[(threadIdx.x + 1) % 32];
        __syncwarp();
    }
}

__device__ void copy_row(uint32_t* shared, const HazardParams& params, uint32_t round) {
    if (threadIdx.x < 32) {
        copy_async(shared_address(shared + 4 * threadIdx.x), params.input + 128 * round + 4 * threadIdx.x, 16);
    }
    copy_async_commit();
}

// The wait for a copy.
extern "C" __global__ void __launch_bounds__(128) hazard_wait(const __grid_constant__ HazardParams params) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    for (uint32_t round = 0; round < params.rounds; ++round) {
        copy_row(shared, params, round);
        if (params.ordered != 0) {
            copy_async_wait<0>();
        }
        __syncthreads();
        params.output[128 * round + threadIdx.x] = shared[neighbour()];
        __syncthreads();
    }
}

// Two buffers, one round ahead: a wait for the older of two groups, where the last round has but one.
extern "C" __global__ void __launch_bounds__(128) hazard_last_group(const __grid_constant__ HazardParams params) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    copy_row(shared, params, 0);
    for (uint32_t round = 0; round < params.rounds; ++round) {
        if (round + 1 < params.rounds) {
            copy_row(shared + 128 * ((round + 1) % 2), params, round + 1);
        } else if (params.ordered != 0) {
            copy_async_commit();
        }
        copy_async_wait<1>();
        __syncthreads();
        params.output[128 * round + threadIdx.x] = shared[128 * (round % 2) + neighbour()];
        __syncthreads();
    }
}

// Two buffers: the barrier between the last read of one and the copy that refills it.
extern "C" __global__ void __launch_bounds__(128) hazard_refill(const __grid_constant__ HazardParams params) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    copy_row(shared, params, 0);
    for (uint32_t round = 0; round < params.rounds; ++round) {
        copy_async_wait<0>();
        __syncthreads();
        if (params.ordered == 0 && round + 1 < params.rounds) {
            copy_row(shared, params, round + 1);
        }
        params.output[128 * round + threadIdx.x] = shared[neighbour()];
        __syncthreads();
        if (params.ordered != 0 && round + 1 < params.rounds) {
            copy_row(shared, params, round + 1);
        }
    }
}

// The source of a copy that is still being read, overwritten.
extern "C" __global__ void __launch_bounds__(128) hazard_source(const __grid_constant__ HazardParams params) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    for (uint32_t round = 0; round < params.rounds; ++round) {
        copy_row(shared, params, round);
        if (params.ordered != 0) {
            copy_async_wait<0>();
        }
        __syncthreads();
        params.input[128 * round + threadIdx.x] = 0;
        copy_async_wait<0>();
        __syncthreads();
        params.output[128 * round + threadIdx.x] = shared[neighbour()];
        __syncthreads();
    }
}
