//! `tilesight encode`: pictures or pixel tensors to embeddings.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::ProgressBar;
use safetensors::Dtype;

use super::model::EncoderOptions;
use super::output::{Output, OutputPath};
use super::pictures::{self, Picture, PictureFile};
use super::pixels::PixelFile;
use super::report_file::ReportFile;
use super::system::peak_rss_bytes;
use super::{progress, table};
use crate::digest::{DIGEST_LEN, Digest};
use crate::embeddings_file::{self, Entry};
use crate::encoder::{Device, Encoder};
use crate::error::Result;
use crate::image::Tiles;

/// Encode pictures, or a pixel tensor, into embeddings
#[derive(Args)]
#[command(after_help = "Examples:
  tilesight encode photo.jpg
  tilesight encode --model Llama-3.2-11B-Vision *.jpg --output embeddings.safetensors
  tilesight encode --model encoder.safetensors --config config.json photo.jpg --output embeddings.npy
  tilesight encode --model DIR --pixels case.safetensors --output out.safetensors")]
pub(super) struct Arguments {
    /// JPEG, PNG or WebP pictures
    #[arg(value_name = "IMAGE", required_unless_present = "pixels", conflicts_with = "pixels")]
    images: Vec<PathBuf>,
    /// A safetensors file with `images` (b, i, t, channels, s, s) and, if t > 1, `aspect_ratio` (b, i, 2), as
    /// torchtune's forward takes them
    #[arg(long, value_name = "FILE")]
    pixels: Option<PathBuf>,
    /// Where the embeddings go: .safetensors (`embeddings`, `num_tiles`, `aspect_ratio`, `content_hash`, and the semantics
    /// in the metadata) or .npy (the embeddings alone)
    #[arg(long, short, value_name = "FILE")]
    output: Option<OutputPath>,
    #[command(flatten)]
    encoder: EncoderOptions,
    /// Encode everything this many times, and report the seconds of each run; the first also reads the weights
    #[arg(long, value_name = "N", default_value = "1")]
    repeat: std::num::NonZeroUsize,
    /// Write what was done, the seconds of each run and the peak memory as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mut output = arguments.output.as_ref().map(Output::open).transpose()?;
    let report = ReportFile::create(arguments.json.as_ref())?;
    let mut encoder = arguments.encoder.build()?;
    let batches_at_once = batches_at_once(&arguments.encoder.computing.device, on_gpu(&encoder));
    let files = PictureFile::list(&arguments.images);
    let mut seconds = Vec::new();
    for run in 0..arguments.repeat.get() {
        let output = output.as_mut().filter(|_| run == 0);
        seconds.push(match &arguments.pixels {
            Some(file) => encode_pixels(&mut encoder, &PixelFile::read(file)?, output)?,
            None => encode_pictures(&mut encoder, &files, batches_at_once, output, run == 0)?,
        });
    }
    if let Some(output) = output {
        output.finish()?;
    }
    if let Some(file) = report {
        file.write(&serde_json::json!({
            "version": super::VERSION,
            "semantics": encoder.semantics().name(),
            "device": encoder.device(),
            "dtype": encoder.precision().activations.to_string(),
            "threads": encoder.num_threads(),
            "weights": encoder.precision().weights.to_string(),
            "seconds": seconds,
            "peak_rss_bytes": peak_rss_bytes(),
        }))?;
    }
    Ok(())
}

fn encode_pixels(encoder: &mut Encoder, file: &PixelFile, output: Option<&mut Output>) -> Result<f64> {
    let bar = step_bar(encoder);
    let start = Instant::now();
    let encodings = encoder.encode_pixels(&file.pixels())?;
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let [b, rows, width] = encodings.shape;
    println!("embeddings [{b}, {rows}, {width}] in {seconds:.2} s");
    if let Some(output) = output {
        let entries = [
            Entry::new("embeddings", Dtype::F32, encodings.shape),
            Entry::new("content_hash", Dtype::U8, [1, DIGEST_LEN]),
        ];
        output.begin(&entries, &metadata(encoder, None))?;
        output.values(&encodings.embeddings)?;
        let content_hash = encoder.identity().content_hash(&file.pixels().digest(), None);
        output.bytes(content_hash.as_bytes())?;
    }
    Ok(seconds)
}

/// Whether GPUs compute; the CPU does it in f32, and they never do.
fn on_gpu(encoder: &Encoder) -> bool {
    encoder.precision().activations != crate::dtype::Dtype::F32
}

/// Batches that are read and encoded in one call: one on the CPU; on GPUs two for each, which computes one while it
/// fetches the other. Their embeddings are held until they are written.
fn batches_at_once(device: &Device, on_gpu: bool) -> usize {
    match device {
        Device::Cuda(ordinals) => 2 * ordinals.len(),
        Device::Auto | Device::Cpu => 1 + usize::from(on_gpu),
    }
}

/// Encodes pictures, so many batches in a call, and writes what a call gives when it is done.
fn encode_pictures(
    encoder: &mut Encoder,
    files: &[PictureFile],
    batches_at_once: usize,
    mut output: Option<&mut Output>,
    show: bool,
) -> Result<f64> {
    let preprocessor = encoder.preprocessor()?.clone();
    // Takes a look at every weight, for hashes that only a file holds.
    let identity = output.is_some().then(|| encoder.identity());
    let start = Instant::now();
    let pictures = pictures::survey(files, &preprocessor)?;
    let num_tiles: usize = pictures.iter().map(|p| p.canvas.num_tiles()).sum();
    let (tokens, width) = (encoder.config().num_tokens(), encoder.config().decoder_embed_dim);
    if let Some(output) = &mut output {
        let embeddings = [num_tiles * tokens, width];
        let entries = embeddings_file::entries(pictures.len(), embeddings, crate::Dtype::F32, pictures.len());
        output.begin(&entries, &metadata(encoder, Some(preprocessor.preprocess().name())))?;
        output.integers(pictures.iter().map(|p| p.canvas.num_tiles()))?;
        output.integers(pictures.iter().flat_map(|p| p.canvas.aspect_ratio))?;
    }
    let bar = step_bar(encoder);
    let (mut lines, mut content_hashes) = (Vec::with_capacity(pictures.len()), Vec::new());
    let computed_tiles = pictures.iter().map(|picture| encoder.num_computed_tiles(picture.canvas.aspect_ratio));
    let batches = encoder.batch_ranges(computed_tiles.collect::<Result<Vec<_>>>()?);
    let mut rest = &pictures[..];
    for at_once in batches.chunks(batches_at_once) {
        let (together, later) = rest.split_at(at_once.iter().map(Range::len).sum());
        rest = later;
        let (first, last) = (lines.len() + 1, lines.len() + together.len());
        bar.set_message(format!("images {first} to {last} of {}", pictures.len()));
        let cut = pictures::each(together, |image| {
            let hash = || identity.map(|identity| identity.content_hash(&image.digest(), Some(&preprocessor)));
            let (tiles, content_hash) = rayon::join(|| preprocessor.tiles(image), hash);
            Ok((tiles?, content_hash))
        })?;
        let (tiles, hashes): (Vec<Tiles>, Vec<Option<Digest>>) = cut.into_iter().unzip();
        content_hashes.extend(hashes.into_iter().flatten());
        let encodings = encoder.encode_tiles(&tiles)?;
        if let Some(output) = &mut output {
            output.values(&encodings.embeddings)?;
        }
        for (number, picture) in together.iter().enumerate() {
            lines.push(line(picture, encodings.image(number).unwrap_or_default(), width));
        }
    }
    if let Some(output) = &mut output {
        content_hashes.iter().try_for_each(|content_hash| output.bytes(content_hash.as_bytes()))?;
    }
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    if show {
        let mut table = table(&["image", "pixels", "canvas", "tiles", "embeddings", "rms"]);
        table.add_rows(lines);
        println!("{table}");
    }
    println!("{} images, {num_tiles} tiles in {seconds:.2} s", pictures.len());
    Ok(seconds)
}

/// What a person sees of an image's embeddings.
fn line(picture: &Picture, embeddings: &[f32], width: usize) -> [String; 6] {
    let [down, across] = picture.canvas.aspect_ratio;
    let squares: f64 = embeddings.iter().map(|x| f64::from(*x).powi(2)).sum();
    [
        picture.file.path.display().to_string(),
        format!("{}x{}", picture.width, picture.height),
        format!("{across}x{down}"),
        (down * across).to_string(),
        format!("[{}, {width}]", embeddings.len() / width),
        format!("{:.4}", (squares / embeddings.len().max(1) as f64).sqrt()),
    ]
}

/// The metadata of the file of this encoder's embeddings.
fn metadata(encoder: &Encoder, preprocess: Option<&str>) -> Vec<(&'static str, String)> {
    let computed_in = encoder.precision().activations;
    embeddings_file::metadata(encoder.config(), encoder.semantics(), computed_in, preprocess)
}

/// A bar that follows the steps of the plan. On a GPU a batch is one launch, which nobody can follow, so there it only
/// shows which images are under way.
fn step_bar(encoder: &mut Encoder) -> ProgressBar {
    let bar = progress::bar(0, "encoding");
    if on_gpu(encoder) {
        return bar;
    }
    let steps = bar.clone();
    encoder.observe(move |output| {
        if output.step.name == output.plan.steps[0].name {
            steps.set_length(output.plan.steps.len() as u64);
            steps.set_position(0);
        }
        steps.inc(1);
    });
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_gets_a_batch_and_the_next_one() {
        assert_eq!(batches_at_once(&Device::Cpu, false), 1);
        assert_eq!(batches_at_once(&Device::Auto, false), 1);
        assert_eq!(batches_at_once(&Device::Auto, true), 2);
        assert_eq!(batches_at_once(&Device::Cuda(vec![1, 0]), true), 4);
    }
}
