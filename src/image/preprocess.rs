//! Which reference the pixel values follow.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, InputError};

/// Which reference the pixel values follow. They differ by about half a grey level, and in what becomes of
/// transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Preprocess {
    /// torchtune's `CLIPImageTransform` with `dtype=torch.float32`: transparency dropped, resized in float32.
    #[default]
    Torchtune,
    /// torchtune's default, `dtype=torch.bfloat16`: as [`Torchtune`](Self::Torchtune), each step rounded to bfloat16.
    TorchtuneBf16,
    /// Hugging Face's `MllamaImageProcessor` of transformers 4: laid over white, and resized by Pillow in 8 bits.
    Pil,
}

impl Preprocess {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Torchtune, Self::TorchtuneBf16, Self::Pil];

    /// The name it is chosen by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Torchtune => "torchtune",
            Self::TorchtuneBf16 => "torchtune-bf16",
            Self::Pil => "pil",
        }
    }
}

impl fmt::Display for Preprocess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Preprocess {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            let reason = "there are torchtune, torchtune-bf16 and pil";
            InputError::Unavailable { option: "preprocess", found: name.to_string(), reason }.into()
        })
    }
}
