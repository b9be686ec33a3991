// The entry points of flash_attention on Hopper; flash_attention.cuh says what they do.
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/flash_attention.cuh>
#include <sm90/hopper.cuh>

// Heads up to 80 leave room for three warpgroups with 160 registers a thread, wider ones for two with 232; blocks of keys
// are what registers have room for, in heads of 128 shared memory.
template <class T, uint32_t head, KeyForm form = KeyForm::uniform>
using InUse = HopperTiling<T, head, head <= 80 ? 3 : 2, head <= 80 ? 112 : head <= 96 ? 176 : 160, form>;

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_bf16_16(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Bf16, 16>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_fp16_16(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Fp16, 16>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_bf16_32(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Bf16, 32>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_fp16_32(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Fp16, 32>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_bf16_48(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Bf16, 48>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_fp16_48(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Fp16, 48>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_bf16_64(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Bf16, 64>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_fp16_64(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Fp16, 64>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_bf16_80(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Bf16, 80>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_fp16_80(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Fp16, 80>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_bf16_80_mixed(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Bf16, 80, KeyForm::mixed>>(params);
}

extern "C" __global__ void __launch_bounds__(512, 1) flash_attention_fp16_80_mixed(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Fp16, 80, KeyForm::mixed>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) flash_attention_bf16_96(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Bf16, 96>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) flash_attention_fp16_96(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Fp16, 96>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) flash_attention_bf16_112(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Bf16, 112>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) flash_attention_fp16_112(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Fp16, 112>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) flash_attention_bf16_128(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Bf16, 128>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) flash_attention_fp16_128(const __grid_constant__ HopperAttentionParams params) {
    flash_attention<InUse<Fp16, 128>>(params);
}
