// How matrices lie in shared memory for wgmma, and the descriptors that tell it so: plain arithmetic.
#pragma once
#include <stdint.h>

// Which 16-byte units of shared memory change places: the bits of an address from 4 on, three of them for 128 bytes, two
// for 64, one for 32, are exclusive-ored with as many bits from 7 on. The numbers are a descriptor's.
enum class Swizzle : uint32_t {
    none = 0,
    bytes_128 = 1,
    bytes_64 = 2,
    bytes_32 = 3,
};

// The dimension along which elements are next to each other: K, or the other one (M or N).
enum class Major : uint32_t {
    k = 0,
    mn = 1,
};

// Bytes of a row of a swizzled tile, after which the next one starts; 16 without a swizzle.
__host__ __device__ constexpr uint32_t swizzle_bytes(Swizzle swizzle) {
    return swizzle == Swizzle::none ? 16 : 256 >> static_cast<uint32_t>(swizzle);
}

// The address at which a byte lies that would be at `address` without the swizzle; its own inverse.
__host__ __device__ constexpr uint32_t swizzled(Swizzle swizzle, uint32_t address) {
    return address ^ (address >> 3 & (swizzle_bytes(swizzle) - 16));
}

// The descriptor of a tile ("matrix descriptor format" of wgmma), of 16-bit elements, that starts at a shared address,
// a multiple of 16. The tile as a whole starts on a multiple of 8 * swizzle_bytes; an operand may start inside of it.
//
// K-major, a row of M or N after another, swizzle_bytes each: stride_bytes from eight rows to the next eight, which is
// 8 * swizzle_bytes in a box of a tensor map; leading_bytes means nothing. The next 16 elements of K are 32 bytes on,
// as long as they are within swizzle_bytes.
//
// MN-major, a row of K after another, swizzle_bytes / 2 elements of M or N each: stride_bytes from eight rows of K to
// the next eight, leading_bytes from the first swizzle_bytes / 2 columns to the next.
//
// Without a swizzle, eight rows of 16 bytes lie together in 128 bytes. K-major: leading_bytes from one such to the next
// along K, stride_bytes along M or N. MN-major: leading_bytes along K, stride_bytes along M or N.
__host__ __device__ constexpr uint64_t matrix_descriptor(Swizzle swizzle, uint32_t address, uint32_t leading_bytes,
                                                         uint32_t stride_bytes) {
    const auto field = [](uint32_t bytes) { return static_cast<uint64_t>((bytes & 0x3ffffu) >> 4); };
    return field(address) | field(leading_bytes) << 16 | field(stride_bytes) << 32 |
           static_cast<uint64_t>(swizzle) << 62;
}
