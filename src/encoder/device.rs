//! Where an encoder computes.

use std::str::FromStr;

use crate::error::{InputError, Result};

/// A device, as `--device` names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Device {
    /// The best there is for this build on this machine.
    #[default]
    Auto,
    /// The processor, in f32.
    Cpu,
}

impl FromStr for Device {
    type Err = crate::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => {
                let reason = "this build computes on the CPU; name cpu or auto";
                Err(InputError::Unavailable { option: "device", found: name.to_string(), reason }.into())
            }
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
        })
    }
}
