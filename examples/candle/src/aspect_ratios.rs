//! Aspect ratios, as Hugging Face's processor writes them and as the encoder reads them.

use candle_core::{DType, Result, Tensor, bail};

/// Tiles down and across of each image, from their ids: a number from 1 on stands for one of the supported aspect ratios, in
/// the order of tiles down and then across; 0 for a missing image.
pub(crate) fn read(ids: &Tensor, dims: &[usize], max_num_tiles: usize) -> Result<Vec<[i64; 2]>> {
    if ids.dims() != dims {
        bail!("aspect_ratio_ids must be {dims:?}, found {:?}", ids.dims());
    }
    let counts = 1..=max_num_tiles as i64;
    let supported: Vec<[i64; 2]> = counts
        .clone()
        .flat_map(|down| counts.clone().map(move |across| [down, across]))
        .filter(|[down, across]| down * across <= max_num_tiles as i64)
        .collect();
    let of = |id: i64| match usize::try_from(id) {
        Ok(0) => Ok([0, 0]),
        Ok(id) if id <= supported.len() => Ok(supported[id - 1]),
        _ => bail!("aspect_ratio_ids must be from 0 to {}, found {id}", supported.len()),
    };
    ids.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?.into_iter().map(of).collect()
}

/// The mask must have ones for an aspect ratio's tiles, of a missing image for its first: it is what says the same of an
/// image in another way, and the encoder can follow but one.
pub(crate) fn require_mask(mask: &Tensor, dims: &[usize; 3], aspect_ratios: &[[i64; 2]]) -> Result<()> {
    if mask.dims() != dims {
        bail!("aspect_ratio_mask must be {dims:?}, found {:?}", mask.dims());
    }
    let values: Vec<f32> = mask.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    for (image, [down, across]) in aspect_ratios.iter().enumerate() {
        let num_real = (down * across).max(1) as usize;
        let row = &values[image * dims[2]..(image + 1) * dims[2]];
        let is_right = |(tile, value): (usize, &f32)| *value == if tile < num_real { 1.0 } else { 0.0 };
        if !row.iter().enumerate().all(is_right) {
            bail!("aspect_ratio_mask of image {image} must have {num_real} ones and then zeros, found {row:?}");
        }
    }
    Ok(())
}
