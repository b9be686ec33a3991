//! Pixel values without a pattern.

/// Values between -2 and 2, the same for the same seed: SplitMix64.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let value = |index: usize| {
        let mut bits = (seed << 32).wrapping_add(index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits >> 40) as f32 / (1u32 << 22) as f32 - 2.0
    };
    (0..len).map(value).collect()
}
