// How flash_attention of Hopper divides its work and its shared memory.
#pragma once
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/hopper.cuh>
#include <sm90/ring.cuh>

// How a block of keys lies in shared memory: as the queries and values do, or, in heads of 80, as 64 columns of the
// widest swizzle and 16 of the narrowest. The products are the same.
enum class KeyForm { uniform, mixed };

// When the sums follow a row's maximum: at every block; or where it grew in some row of the warp, which is the same to the
// bit. A maximum that lags behind by up to 2^8 would spare a little more, and was tried: a peaked row's largest weight is
// then no longer 1, which rounds to itself, and the error was beyond what the element type explains.
enum class Rescaling { always, grown };

// A head of an item, or a piece of it, as the producer hands it to the consumers.
struct AttentionWork {
    uint32_t query_row;
    uint32_t num_queries;  // 0: there is no more
    uint32_t head;
    uint32_t key_row;
    uint32_t first_key;  // of the piece, counted from the image's first
    uint32_t end_key;
    uint32_t first_multiple;
    uint32_t piece;
    uint32_t num_pieces;
    uint32_t first_ticket;  // of the head
};

template <class Element, uint32_t head_size, uint32_t consumers, uint32_t block_keys, KeyForm form = KeyForm::uniform,
          Rescaling when = Rescaling::grown>
struct HopperTiling {
    using T = Element;
    static constexpr uint32_t HEAD = head_size;
    static constexpr uint32_t CONSUMERS = consumers;
    static constexpr uint32_t KEYS = block_keys;
    static constexpr KeyForm KEY_FORM = form;
    static constexpr Rescaling RESCALING = when;
    static_assert(HEAD % 16 == 0 && HEAD <= 128 && KEYS % 16 == 0, "whole steps of a wgmma");
    static_assert(KEY_FORM == KeyForm::uniform || HEAD == 80, "64 columns and 16");
    static_assert(CONSUMERS == 2 || CONSUMERS == 3, "what registers allow");

    static constexpr uint32_t THREADS = 128 * (CONSUMERS + 1);
    static constexpr uint32_t ROWS = ATTENTION_TILE * CONSUMERS;
    // All that a block starts with: scores, weights and sums of a consumer stay in registers, as does a producer's state,
    // for which 24 would not do.
    static constexpr uint32_t PRODUCER_REGISTERS = CONSUMERS == 3 ? 32 : 40;
    static constexpr uint32_t CONSUMER_REGISTERS = CONSUMERS == 3 ? 160 : 232;

    static constexpr uint32_t STEPS = HEAD / 16;
    static constexpr uint32_t KEY_STEPS = KEYS / 16;

    // Columns of a chunk. Swizzled rows of a chunk are next to each other.
    static constexpr uint32_t CHUNK = HEAD % 64 == 0 ? 64 : HEAD % 32 == 0 ? 32 : 16;
    static constexpr uint32_t CHUNKS = HEAD / CHUNK;
    static constexpr uint32_t CHUNK_BYTES = 2 * CHUNK;
    static constexpr uint32_t CHUNK_STEPS = CHUNK / 16;
    static constexpr Swizzle SWIZZLE =
        CHUNK == 64 ? Swizzle::bytes_128 : CHUNK == 32 ? Swizzle::bytes_64 : Swizzle::bytes_32;

    static constexpr uint32_t round_up(uint32_t bytes, uint32_t grain) {
        return (bytes + grain - 1) / grain * grain;
    }

    // Bytes of a warpgroup's queries or output; of a block of keys or values; of a block's logarithms.
    static constexpr uint32_t TILE_BYTES = ATTENTION_TILE * HEAD * 2;
    static constexpr uint32_t BLOCK_BYTES = KEYS * HEAD * 2;
    static constexpr uint32_t BIAS_BYTES = KEYS * 4;
    // Mixed: bytes of a block's columns, and of its others.
    static constexpr uint32_t WIDE_BYTES = KEYS * 128;
    static constexpr uint32_t TAIL_BYTES = KEYS * 32;

    // Works that the producer may be ahead.
    static constexpr uint32_t WORKS = 2;
    static constexpr uint32_t WORK_BYTES = 64;

    static constexpr uint32_t shared_bytes(uint32_t stages) {
        return 2 * CONSUMERS * TILE_BYTES + 2 * round_up(stages * BLOCK_BYTES, 1024) +
               stages * round_up(BIAS_BYTES, 128) + WORKS * WORK_BYTES + 16 * (2 * stages + WORKS + 1) + 16;
    }

    // Two are enough to overlap; more take up the unevenness of memory.
    static constexpr uint32_t STAGES = shared_bytes(4) <= ATTENTION_HOPPER_SHARED_BYTES   ? 4
                                       : shared_bytes(3) <= ATTENTION_HOPPER_SHARED_BYTES ? 3
                                                                                          : 2;
    static_assert(shared_bytes(STAGES) <= ATTENTION_HOPPER_SHARED_BYTES, "what a block can have");

    // Where things start in shared memory. Tiles of a swizzle start on eight of its rows, 1024 bytes at most.
    static constexpr uint32_t QUERIES = 0;
    static constexpr uint32_t OUTPUT = CONSUMERS * TILE_BYTES;
    static constexpr uint32_t BLOCK_KEYS = 2 * CONSUMERS * TILE_BYTES;
    static constexpr uint32_t KEY_TAILS = BLOCK_KEYS + STAGES * WIDE_BYTES;
    static constexpr uint32_t VALUES = BLOCK_KEYS + round_up(STAGES * BLOCK_BYTES, 1024);
    static constexpr uint32_t BIASES = VALUES + round_up(STAGES * BLOCK_BYTES, 1024);
    static constexpr uint32_t BIAS_STRIDE = round_up(BIAS_BYTES, 128);
    static constexpr uint32_t WORK = BIASES + STAGES * BIAS_STRIDE;
    static_assert(TILE_BYTES % 1024 == 0 && WIDE_BYTES % 1024 == 0 && TAIL_BYTES % 256 == 0, "swizzles repeat");
    static_assert(sizeof(AttentionWork) <= WORK_BYTES, "room for a work");

    // Barriers: full and empty ones of each.
    static constexpr uint32_t BARRIERS = WORK + WORKS * WORK_BYTES;
    static constexpr uint32_t KEYS_FULL = BARRIERS;
    static constexpr uint32_t KEYS_EMPTY = KEYS_FULL + 8 * STAGES;
    static constexpr uint32_t VALUES_FULL = KEYS_EMPTY + 8 * STAGES;
    static constexpr uint32_t VALUES_EMPTY = VALUES_FULL + 8 * STAGES;
    static constexpr uint32_t WORK_FULL = VALUES_EMPTY + 8 * STAGES;
    static constexpr uint32_t WORK_EMPTY = WORK_FULL + 8 * WORKS;
    static constexpr uint32_t QUERIES_FULL = WORK_EMPTY + 8 * WORKS;
    static constexpr uint32_t QUERIES_EMPTY = QUERIES_FULL + 8;
    // The number that each warpgroup drew last.
    static constexpr uint32_t ARRIVALS = QUERIES_EMPTY + 8;
    static_assert(ARRIVALS + 16 <= shared_bytes(STAGES), "as counted above");
    static_assert(BARRIERS % 8 == 0, "aligned");

    // Barriers by number: a warpgroup's turn, its own, and all consumers'.
    static constexpr uint32_t TURN = 1;
    static constexpr uint32_t OWN = TURN + CONSUMERS;
    static constexpr uint32_t ALL = OWN + CONSUMERS;

    // Floats of a piece's partial result of one ticket.
    static constexpr uint32_t PARTIAL = 128 * (HEAD / 2 + ATTENTION_PARTIAL_EXTRA);
};

// Whether a block of keys needs more than its scores: some stand for several, or are not there.
__device__ __forceinline__ bool is_biased(const AttentionWork& work, uint32_t end_of_block) {
    return end_of_block > min(work.first_multiple, work.end_key);
}
