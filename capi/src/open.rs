//! Encoders: made, described, closed.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::str::FromStr;

use engine::EncoderConfig;
use engine::plan::Semantics;

use crate::arguments::{read_struct, require_aligned, text, write_struct};
use crate::handles::{self, Encoder};
use crate::status::{Refusal, Status, call};
use crate::structs::{Description, Dtype, Options};

/// Makes an encoder. Null options take every default. The weights are read once, into memory of the
/// encoder's: what becomes of the files later changes no result.
///
/// # Safety
/// `options` is null or points to a struct of the size it says, whose texts end with a zero; `encoder` is null or may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilesight_open(options: *const Options, encoder: *mut Encoder) -> Status {
    call(|| {
        require_aligned(encoder.cast_const(), "encoder")?;
        let mut builder = engine::Encoder::builder();
        let mut model = None;
        if !options.is_null() {
            // SAFETY: the caller's promise.
            let options = unsafe { read_struct(options) }?;
            // SAFETY: the caller's promise.
            let text = |value, name| unsafe { text(value, name) };
            model = text(options.model, "model")?;
            if let Some(config) = text(options.config, "config")? {
                builder = builder.config(EncoderConfig::from_file(Path::new(config))?);
            }
            if let Some(semantics) = parsed(text(options.semantics, "semantics")?)? {
                builder = builder.semantics(semantics);
            }
            if let Some(preprocess) = parsed(text(options.preprocess, "preprocess")?)? {
                builder = builder.preprocess(preprocess);
            }
            if let Some(device) = parsed(text(options.device, "device")?)? {
                builder = builder.device(device);
            }
            if let Some(dtype) = parsed(text(options.dtype, "dtype")?)? {
                builder = builder.dtype(dtype);
            }
            if let Some(kernels) = parsed(text(options.kernels, "kernels")?)? {
                builder = builder.kernels(kernels);
            }
            builder = builder.threads(options.threads as usize);
            if options.max_batch_tiles > 0 {
                builder = builder.max_batch_tiles(options.max_batch_tiles as usize);
            }
        }
        let builder = match model {
            Some(path) => builder.model(path),
            None => builder.demo(),
        };
        let built = builder.build()?;
        let description = describe(&built);
        let handle = handles::insert(built, description);
        // SAFETY: not null, aligned, and writable by the caller's promise.
        unsafe { encoder.write(handle) };
        Ok(())
    })
}

fn parsed<T: FromStr<Err = engine::Error>>(text: Option<&str>) -> Result<Option<T>, Refusal> {
    Ok(text.map(T::from_str).transpose()?)
}

fn describe(encoder: &engine::Encoder) -> Description {
    let config = encoder.config();
    Description {
        size: size_of::<Description>(),
        tile_size: config.tile_size as u32,
        max_num_tiles: config.max_num_tiles as u32,
        in_channels: config.in_channels as u32,
        num_tokens: config.num_tokens() as u32,
        embed_dim: config.decoder_embed_dim as u32,
        computed_in: match encoder.precision().activations {
            engine::Dtype::F32 => Dtype::F32,
            engine::Dtype::Bf16 => Dtype::Bf16,
            engine::Dtype::F16 => Dtype::F16,
        } as u32,
        semantics: u32::from(encoder.semantics() == Semantics::Meta),
        num_threads: encoder.num_threads() as u32,
        identity: *encoder.identity().digest().as_bytes(),
    }
}

/// Closes an encoder and gives its memory back, once calls that are under way have ended.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_close(encoder: Encoder) -> Status {
    call(|| handles::remove(encoder).map(drop))
}

/// Says what an encoder is.
///
/// # Safety
/// `description` is null or points to a struct of the size it says, which may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilesight_describe(encoder: Encoder, description: *mut Description) -> Status {
    call(|| {
        let held = handles::find(encoder)?;
        // SAFETY: the caller's promise.
        unsafe { write_struct(description, &held.description) }
    })
}

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version has no zero in it"),
};

/// The library's version: "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_version() -> *const c_char {
    VERSION.as_ptr()
}
