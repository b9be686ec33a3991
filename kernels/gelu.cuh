// The exact GELU.
#pragma once

// x Phi(x). The complementary error function keeps the relative accuracy of the negative tail, where 1 + erf cancels.
__device__ __forceinline__ float gelu(float x) {
    constexpr float HALF_SQRT_2 = 0.70710678f;
    return 0.5f * x * erfcf(-HALF_SQRT_2 * x);
}
