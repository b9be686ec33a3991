//! The configuration of the golden set `tiny`.

use tilesight::EncoderConfig;

/// The golden set `tiny`, as its README has it.
pub fn tiny_config() -> EncoderConfig {
    EncoderConfig {
        patch_size: 14,
        num_heads: 2,
        clip_embed_dim: 160,
        clip_num_layers: 3,
        clip_hidden_states: vec![0, 2],
        num_layers_projection: 2,
        decoder_embed_dim: 96,
        tile_size: 28,
        max_num_tiles: 4,
        in_channels: 3,
    }
}
