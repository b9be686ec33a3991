// Forms of flash_attention on Hopper, heads of 80, that a sweep compares with the one in use. By their suffix: the rows of an
// item and the keys of a block; mixed, the other layout of keys; always, the sums rescaled at every block.
// always has the same bits as the form in use, and the two of 128x176 have the same bits.
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/flash_attention.cuh>
#include <sm90/hopper.cuh>

extern "C" __global__ void __launch_bounds__(384, 1) flash_attention_bf16_80_128x176(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<HopperTiling<Bf16, 80, 2, 176>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) flash_attention_fp16_80_128x176(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<HopperTiling<Fp16, 80, 2, 176>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) flash_attention_bf16_80_128x176_mixed(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<HopperTiling<Bf16, 80, 2, 176, KeyForm::mixed>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) flash_attention_fp16_80_128x176_mixed(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<HopperTiling<Fp16, 80, 2, 176, KeyForm::mixed>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_bf16_80_always(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<HopperTiling<Bf16, 80, 3, 112, KeyForm::uniform, Rescaling::always>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_fp16_80_always(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<HopperTiling<Fp16, 80, 3, 112, KeyForm::uniform, Rescaling::always>>(params);
}
