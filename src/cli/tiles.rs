//! `tilesight tiles`: the tiles that pictures are cut into, without encoding them.

use std::path::PathBuf;

use clap::Args;
use safetensors::Dtype;

use super::model::{Model, Preprocessing};
use super::output::{Format, Output, OutputPath};
use super::pictures::{self, PictureFile};
use super::{progress, table};
use crate::checkpoint::demo_config;
use crate::embeddings_file::Entry;
use crate::error::{InputError, Result};
use crate::image::{Preprocess, Preprocessor};
use crate::plan::Semantics;

/// Cut pictures into tiles and write the normalised pixel values
#[derive(Args)]
pub(super) struct Arguments {
    /// JPEG, PNG or WebP pictures
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Where the tiles go: a .safetensors file with `image{n}.pixels` (tiles, channels, s, s) and
    /// `image{n}.aspect_ratio` (tiles down, tiles across) for picture n, counted from 0
    #[arg(long, short, value_name = "FILE")]
    output: Option<OutputPath>,
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    preprocessing: Preprocessing,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(output) = arguments.output.as_ref().filter(|output| output.format == Format::Npy) {
        let found = output.path.display().to_string();
        let reason = "several tensors do not fit into an .npy file; name a .safetensors file";
        return Err(InputError::Unavailable { option: "output", found, reason }.into());
    }
    let mut output = arguments.output.as_ref().map(Output::open).transpose()?;
    let preprocessor = preprocessor(&arguments.model, &arguments.preprocessing)?;
    let files = PictureFile::list(&arguments.images);
    let pictures = pictures::survey(&files, &preprocessor)?;
    let side = preprocessor.tile_size();
    if let Some(output) = &mut output {
        let mut entries = Vec::new();
        let mut entry = |name, dtype, shape: Vec<usize>| entries.push(Entry::new(name, dtype, shape));
        for number in 0..pictures.len() {
            entry(format!("image{number}.aspect_ratio"), Dtype::I64, vec![2]);
        }
        for (number, picture) in pictures.iter().enumerate() {
            entry(format!("image{number}.pixels"), Dtype::F32, vec![picture.canvas.num_tiles(), 3, side, side]);
        }
        output.begin(&entries, &[("preprocess", preprocessor.preprocess().name().to_string())])?;
        output.integers(pictures.iter().flat_map(|picture| picture.canvas.aspect_ratio))?;
    }
    let bar = progress::bar(pictures.len() as u64, "cutting");
    let mut table = table(&["image", "pixels", "canvas", "tiles", "resized to"]);
    for picture in &pictures {
        let tiles = pictures::each(std::slice::from_ref(picture), |image| preprocessor.tiles(image))?;
        if let Some(output) = &mut output {
            output.values(&tiles[0].pixels)?;
        }
        let ([down, across], [height, width]) = (picture.canvas.aspect_ratio, picture.canvas.resized);
        table.add_row([
            picture.file.path.display().to_string(),
            format!("{}x{}", picture.width, picture.height),
            format!("{across}x{down}"),
            (down * across).to_string(),
            format!("{width}x{height}"),
        ]);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some(output) = output {
        output.finish()?;
    }
    println!("{table}");
    Ok(())
}

/// The preprocessor of a model; its weights are not read.
fn preprocessor(model: &Model, preprocessing: &Preprocessing) -> Result<Preprocessor> {
    let Some((checkpoint, config)) = model.open()? else {
        let config = model.geometry.config()?.map_or_else(|| model.geometry.resized(demo_config()), Ok)?;
        return Preprocessor::new(&config, preprocessing.preprocess.unwrap_or(Preprocess::Torchtune));
    };
    let semantics = model.semantics.map_or(Semantics::of(checkpoint.format()), Semantics::from);
    checkpoint.preprocessor(&config, preprocessing.preprocess.unwrap_or(semantics.preprocess()))
}
