//! What of a Hugging Face `preprocessor_config.json` bears on the pixel values.

use std::path::Path;

use serde::Deserialize;

use crate::error::{ConfigError, Result};

/// The fields of the file; what is absent has the default of `MllamaImageProcessor`.
#[derive(Deserialize)]
pub(super) struct ProcessorConfig {
    image_processor_type: Option<String>,
    do_convert_rgb: Option<bool>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    do_pad: Option<bool>,
    resample: Option<i64>,
    rescale_factor: Option<f64>,
    size: Option<Size>,
    max_image_tiles: Option<usize>,
    image_mean: Option<PerChannel>,
    image_std: Option<PerChannel>,
}

#[derive(Deserialize, PartialEq, Debug)]
struct Size {
    height: usize,
    width: usize,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
enum PerChannel {
    Same(f64),
    Each([f64; 3]),
}

/// `PIL.Image.Resampling.BILINEAR`.
const BILINEAR: i64 = 2;

impl ProcessorConfig {
    pub(super) fn from_json(text: &str, path: &Path) -> Result<Self> {
        let refuse = |e: serde_json::Error| ConfigError::Json { path: path.to_path_buf(), reason: e.to_string() };
        Ok(serde_json::from_str(text).map_err(refuse)?)
    }

    /// Mean and standard deviation, if everything else is what this crate does for these tiles.
    pub(super) fn mean_and_std(&self, tile_size: usize, max_num_tiles: usize) -> Result<[[f32; 3]; 2]> {
        let processor = self.image_processor_type.as_deref().unwrap_or("MllamaImageProcessor");
        if !matches!(processor, "MllamaImageProcessor" | "MllamaImageProcessorFast") {
            return Err(unsupported("image_processor_type", "MllamaImageProcessor", processor).into());
        }
        for (field, value) in [
            ("do_convert_rgb", self.do_convert_rgb),
            ("do_resize", self.do_resize),
            ("do_rescale", self.do_rescale),
            ("do_normalize", self.do_normalize),
            ("do_pad", self.do_pad),
        ] {
            require(field, true, value.unwrap_or(true))?;
        }
        require("resample", BILINEAR, self.resample.unwrap_or(BILINEAR))?;
        require("rescale_factor", 1.0 / 255.0, self.rescale_factor.unwrap_or(1.0 / 255.0))?;
        let tile = Size { height: tile_size, width: tile_size };
        require("size", &tile, self.size.as_ref().unwrap_or(&DEFAULT_SIZE))?;
        require("max_image_tiles", max_num_tiles, self.max_image_tiles.unwrap_or(4))?;

        let [mean, std] = [self.image_mean, self.image_std].map(per_channel);
        if !mean.iter().all(|value| value.is_finite()) {
            return Err(unsupported("image_mean", "finite", &format!("{mean:?}")).into());
        }
        if !std.iter().all(|value| value.is_finite() && *value > 0.0) {
            return Err(unsupported("image_std", "finite and above 0", &format!("{std:?}")).into());
        }
        Ok([mean, std])
    }
}

const DEFAULT_SIZE: Size = Size { height: 224, width: 224 };

fn per_channel(value: Option<PerChannel>) -> [f32; 3] {
    match value.unwrap_or(PerChannel::Same(0.5)) {
        PerChannel::Same(value) => [value as f32; 3],
        PerChannel::Each(values) => values.map(|value| value as f32),
    }
}

fn require<T: PartialEq + std::fmt::Debug>(field: &'static str, expected: T, found: T) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(unsupported(field, &format!("{expected:?}"), &format!("{found:?}")).into())
}

fn unsupported(field: &'static str, expected: &str, found: &str) -> ConfigError {
    ConfigError::Unsupported { field, expected: expected.to_string(), found: found.to_string() }
}
