// Kernels of the simulator's own tests, no part of the engine: one thing that a kernel must not do, chosen by `fault`;
// any other number does none of them.
#include <stdint.h>

#include <ptx.cuh>

struct FaultParams {
    uint8_t* bytes;  // global memory
    uint32_t fault;
    uint32_t size;   // of shared memory
};

__device__ uint32_t shared_row(uint32_t lane) {
    return shared_address(dynamic_shared()) + 16 * lane;
}

extern "C" __global__ void __launch_bounds__(64) diverge(const __grid_constant__ FaultParams params) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t all = 0xffffffffu;
    if ((params.fault == 1 && lane == 5) || (params.fault == 2 && warp == 1)) {
        return;
    }
    if (params.fault == 3 && lane >= 16) {
        __syncwarp();
    }
    if (params.fault == 4 && warp == 0 && lane % 2 == 0) {
        __shfl_xor_sync(all, lane, 1);
    }
    if (params.fault == 5 && threadIdx.x == 40) {
        uint32_t matrices[4];
        load_matrices(matrices, shared_row(lane));
    }
    if (params.fault == 6 && warp == 0 && lane < 4) {
        __syncwarp(0x0000000eu);
    }
    __syncthreads();
    if (params.fault == 7 && warp == 0) {
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(32) go_astray(const __grid_constant__ FaultParams params) {
    const uint32_t lane = threadIdx.x;
    uint8_t* shared = dynamic_shared();
    const uint32_t start = shared_address(shared);
    uint32_t row = start + 16 * lane;
    uint32_t destination = row;
    const uint8_t* source = params.bytes + 16 * lane;
    uint32_t num_bytes = 16;
    if (lane == 9) {
        row += params.fault == 1 ? 8 : params.fault == 2 ? params.size : 0;
        row = params.fault == 3 ? start - 16 : params.fault == 4 ? 0 : row;
        destination += params.fault == 5 ? 4 : params.fault == 6 ? params.size - 16 * lane : 0;
        source += params.fault == 7 ? 8 : 0;
        num_bytes = params.fault == 8 ? 17 : 16;
        if (params.fault == 9) {
            shared[params.size] = 0;
        }
        if (params.fault == 10) {
            (shared - 1)[0] = 0;
        }
        if (params.fault == 11) {
            row = shared_address(shared + params.size + 16);
        }
    }
    copy_async(destination, source, num_bytes);
    copy_async_commit();
    copy_async_wait<0>();
    uint32_t matrices[4];
    load_matrices(matrices, row);
    if (params.fault == 12) {
        __shfl_sync(0x0000ffffu, lane, 20);
    }
    if (params.fault == 13 && lane < 16) {
        __shfl_sync(0x0000ffffu, lane, 20);
    }
    while (params.fault == 14) {
        __syncwarp();
    }
}

// What only the sanitizers see.
extern "C" __global__ void __launch_bounds__(32) go_unseen(const __grid_constant__ FaultParams params) {
    uint8_t* bytes = params.bytes;
    if (params.fault == 1 && threadIdx.x == 3) {
        bytes[0] = bytes[params.size];  // read past the end of global memory
    }
    if (params.fault == 2 && threadIdx.x == 3) {
        bytes[params.size] = 1;
    }
    if (params.fault == 3 && threadIdx.x == 3) {
        bytes[0] = dynamic_shared()[params.size];  // read past the end of shared memory
    }
    if (params.fault == 4) {
        copy_async(shared_row(threadIdx.x), bytes + 16 * threadIdx.x, 16);  // past the end for the last lanes
    }
    if (params.fault == 5) {
        int32_t large = INT32_MAX - 3;
        large += static_cast<int32_t>(threadIdx.x);
        bytes[0] = static_cast<uint8_t>(large);
    }
    if (params.fault == 6) {
        const uint4 words = *reinterpret_cast<const uint4*>(bytes + 4);  // not aligned
        bytes[0] = static_cast<uint8_t>(words.x);
    }
    if (params.fault == 7) {
        bytes[0] = static_cast<uint8_t>(1u << (threadIdx.x + 8));
    }
    copy_async_commit();
    copy_async_wait<0>();
    if (threadIdx.x == 0) {
        bytes[0] = 1;
    }
}
