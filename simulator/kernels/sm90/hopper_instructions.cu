// Kernels of the simulator's own tests, no part of the engine: the instructions of Hopper one by one.
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/hopper.cuh>

struct LoadTensorParams {
    TensorMap map;
    uint8_t* output;  // all of shared memory from the destination on
    uint32_t offset;  // of the destination
    uint32_t num_bytes;
    uint32_t rank;
    int32_t x;
    int32_t y;
    int32_t z;
    int32_t w;
};

// A box as it lies in shared memory.
extern "C" __global__ void __launch_bounds__(32) load_tensor_box(const __grid_constant__ LoadTensorParams params) {
    uint8_t* bytes = dynamic_shared();
    const uint32_t barrier = shared_address(bytes);
    const uint32_t destination = barrier + params.offset;
    if (threadIdx.x == 0) {
        prefetch_tensor_map(&params.map);
        mbarrier_init(barrier, 1);
        mbarrier_fence_init();
        if (params.rank == 2) {
            load_tensor(destination, &params.map, barrier, params.x, params.y);
        } else if (params.rank == 3) {
            load_tensor(destination, &params.map, barrier, evict_last(), params.x, params.y, params.z);
        } else {
            load_tensor(destination, &params.map, barrier, params.x, params.y, params.z, params.w);
        }
        mbarrier_arrive_expect(barrier, params.num_bytes);
    }
    // The barrier is initialised before others wait.
    __syncwarp();
    mbarrier_wait(barrier, 0);
    for (uint32_t i = threadIdx.x; i < params.num_bytes; i += 32) {
        params.output[i] = bytes[params.offset + i];
    }
}

struct StoreTensorParams {
    TensorMap map;          // 16-bit elements, boxes of 64 x 64 swizzled by 128 bytes
    const uint16_t* input;  // [64, 64]
    int32_t x;
    int32_t y;
    uint32_t is_fenced;
    uint32_t is_awaited;
    uint32_t way;  // how the box comes to shared memory: plain stores, store_matrices, copy_async
};

// Unit `unit` of 16 bytes of a box of 64 x 64.
__device__ uint32_t place_of(uint32_t shared, uint32_t unit) {
    return swizzled(Swizzle::bytes_128, shared + 16 * unit);
}

__device__ void write_box(uint32_t way, uint8_t* bytes, const uint16_t* input) {
    const uint32_t shared = shared_address(bytes);
    const uint32_t lane = threadIdx.x % 32;
    if (way == 0) {
        for (uint32_t i = threadIdx.x; i < 64 * 64; i += 128) {
            uint8_t* unit = bytes + (place_of(shared, i / 8) - shared);
            reinterpret_cast<uint16_t*>(unit)[i % 8] = input[i];
        }
    } else if (way == 1) {
        for (uint32_t first = threadIdx.x / 32 * 32; first < 512; first += 128) {
            uint32_t matrices[4];
            for (uint32_t i = 0; i < 4; ++i) {
                const uint16_t* pair = input + 8 * (first + 8 * i + lane / 4) + 2 * (lane % 4);
                matrices[i] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
            }
            store_matrices(place_of(shared, first + lane), matrices);
        }
    } else {
        for (uint32_t unit = threadIdx.x; unit < 512; unit += 128) {
            copy_async(place_of(shared, unit), input + 8 * unit, 16);
        }
        copy_async_commit();
        copy_async_wait<0>();
    }
}

// A box through shared memory that is written again at once.
extern "C" __global__ void __launch_bounds__(128) store_tensor_box(const __grid_constant__ StoreTensorParams params) {
    uint8_t* bytes = dynamic_shared();
    const uint32_t shared = shared_address(bytes);
    wait_for_previous_grid();
    write_box(params.way, bytes, params.input);
    if (params.is_fenced != 0) {
        fence_proxy_async();
    }
    // The whole tile is written before it is stored.
    named_barrier_sync(3, 128);
    if (threadIdx.x == 0) {
        store_tensor(&params.map, shared, params.x, params.y);
        store_tensor_commit();
        if (params.is_awaited != 0) {
            store_tensor_wait_read<0>();
        }
    }
    // It is read before it is written again.
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < 64 * 64; i += 128) {
        reinterpret_cast<uint16_t*>(bytes)[i] = 0;
    }
    fence_proxy_async();
    // All of that is done before the last wait.
    __syncthreads();
    if (threadIdx.x == 0) {
        store_tensor_wait<0>();
    }
    launch_next_grid();
}

struct WarpParams {
    uint32_t* output;
    uint32_t fault;
};

// Lane l gives 2l and 2l + 1 of 256 elements to each matrix: matrix i holds 64 * i and on, in rows, then transposed.
extern "C" __global__ void __launch_bounds__(32) store_matrices_of_lanes(const __grid_constant__ WarpParams params) {
    uint8_t* bytes = dynamic_shared();
    const uint32_t row = shared_address(bytes) + 16 * threadIdx.x;
    uint32_t matrices[4];
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t element = 64 * i + 2 * threadIdx.x;
        matrices[i] = element | (element + 1) << 16;
    }
    store_matrices(row, matrices);
    store_matrices_transposed(row + 512, matrices);
    // All rows are written before they are read.
    __syncwarp();
    for (uint32_t i = threadIdx.x; i < 512; i += 32) {
        params.output[i] = reinterpret_cast<uint16_t*>(bytes)[i];
    }
}

// output: the number of lanes that were elected, twice, and whether they were the same.
extern "C" __global__ void __launch_bounds__(32) elect_lanes(const __grid_constant__ WarpParams params) {
    const uint32_t first = elect_one() ? 1 : 0;
    const uint32_t second = elect_one() ? 1 : 0;
    atomicAdd(params.output, first);
    atomicAdd(params.output + 1, second);
    atomicAdd(params.output + 2, first == second ? 1 : 0);
}

// Two warps hand a value to two others, by barriers that the others only arrive at.
extern "C" __global__ void __launch_bounds__(128) hand_over(const __grid_constant__ WarpParams params) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    const uint32_t partner = threadIdx.x % 64;
    for (uint32_t round = 0; round < 4; ++round) {
        if (threadIdx.x < 64) {
            if (round != 0) {
                // The last value was read.
                named_barrier_sync(2, 128);
            }
            shared[partner] = 100 * round + partner;
            named_barrier_arrive(1, 128);
        } else {
            if (params.fault == 0) {
                // The value is written.
                named_barrier_sync(1, 128);
            } else {
                named_barrier_arrive(1, 128);
            }
            params.output[64 * round + partner] = shared[(partner + 1) % 64];
            if (round != 3) {
                named_barrier_arrive(2, 128);
            }
        }
    }
}

// Warpgroup 0 gives, warpgroups 1 and 2 take. fault 1: they take more than there is; 2: one warp takes another number.
extern "C" __global__ void __launch_bounds__(384, 1) hand_registers(const __grid_constant__ WarpParams params) {
    if (threadIdx.x < 128) {
        give_registers<40>();
    } else if (params.fault == 1) {
        take_registers<240>();
    } else if (params.fault == 2 && threadIdx.x / 32 == 5) {
        take_registers<224>();
    } else {
        take_registers<232>();
    }
    params.output[threadIdx.x] = threadIdx.x;
}

// Phases of a barrier that all threads arrive at: what each wrote, its neighbour reads.
extern "C" __global__ void __launch_bounds__(128) arrive_and_wait(const __grid_constant__ WarpParams params) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
    const uint32_t barrier = shared_address(shared + 1024);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 128);
    }
    // The barrier is initialised before others arrive.
    __syncthreads();
    for (uint32_t round = 0; round < 5; ++round) {
        shared[128 * round + threadIdx.x] = 1000 * round + threadIdx.x;
        mbarrier_arrive(barrier);
        mbarrier_wait(barrier, (round + params.fault) % 2);
        params.output[128 * round + threadIdx.x] = shared[128 * round + (threadIdx.x + 32) % 128];
    }
}

// Whether a kernel waits for the one before it: always, too late, never.
extern "C" __global__ void __launch_bounds__(64) wait_for_grid(const __grid_constant__ WarpParams params) {
    if (params.fault == 0) {
        wait_for_previous_grid();
    }
    if (params.fault < 2) {
        params.output[threadIdx.x] = threadIdx.x;
    }
    if (params.fault == 1) {
        wait_for_previous_grid();
    }
}
