//! Weights on their way: from wherever the checkpoint has them, through pinned memory, to kernels that turn them into
//! the form the encoder reads.

use std::sync::Arc;

use super::block::{ArrayPiece, MatrixPiece};
use crate::checkpoint::Tensor;
use crate::cuda::driver::{Context, DeviceMemory, Event, PinnedMemory, Stream};
use crate::cuda::ops::{Array, FoldNorm, Groups, Launcher, Matrix, PlaceWeight};
use crate::error::CudaError;

/// Bytes that travel together: enough that starting a copy costs nothing beside it, little beside the weights.
const CHUNK_BYTES: usize = 16 << 20;

/// How a stored matrix lies in the form that kernels read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placing<'m> {
    /// Groups of rows, and how far apart they lie in the result.
    pub(super) row_groups: Option<Groups>,
    /// Groups of columns, likewise.
    pub(super) column_groups: Option<Groups>,
    /// The stored columns that are taken: the first, how many, and how far apart they are.
    pub(super) columns: (usize, usize, usize),
    /// What each column is multiplied by; each row is then centred.
    pub(super) norm_weight: Option<Array<'m, f32>>,
}

/// What folding a norm into a matrix leaves beside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Folding<'a, 'm> {
    /// The norm's bias.
    pub(super) norm_bias: Array<'m, f32>,
    /// The matrix' own bias.
    pub(super) bias: Option<Array<'m, f32>>,
    /// Results, from the matrix' first row on.
    pub(super) folded_bias: &'a ArrayPiece<f32>,
    pub(super) column_sum: &'a ArrayPiece<f32>,
    /// The matrix' first row in the results.
    pub(super) first: usize,
}

/// Two chunks in turn: one is filled while the other is copied and read.
pub(super) struct Upload<'a> {
    launcher: Launcher<'a>,
    stream: &'a Stream,
    chunks: [Chunk; 2],
    next: usize,
    /// One number a tensor: its elements that the element type cannot hold.
    counters: DeviceMemory,
    tensors: Vec<String>,
}

struct Chunk {
    pinned: PinnedMemory,
    staged: DeviceMemory,
    read: Event,
}

impl Chunk {
    fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, CudaError> {
        Ok(Self {
            pinned: PinnedMemory::new(context, bytes)?,
            staged: DeviceMemory::new(context, bytes, "weights on their way")?,
            read: Event::new(context)?,
        })
    }
}

impl<'a> Upload<'a> {
    /// Ready for `num_tensors` tensors, no group of rows of which is larger than `group_bytes`.
    pub(super) fn new(launcher: Launcher<'a>, num_tensors: usize, group_bytes: usize) -> Result<Self, CudaError> {
        let stream = launcher.stream();
        let context = stream.context();
        let bytes = CHUNK_BYTES.max(group_bytes);
        let chunks = [Chunk::new(context, bytes)?, Chunk::new(context, bytes)?];
        let mut counters = DeviceMemory::new(context, num_tensors * size_of::<u32>(), "weights on their way")?;
        counters.zero(stream)?;
        Ok(Self { launcher, stream, chunks, next: 0, counters, tensors: Vec::new() })
    }

    /// Puts values where an array of `block` lies.
    pub(super) fn vector(
        &self,
        values: &[f32],
        block: &mut DeviceMemory,
        piece: &ArrayPiece<f32>,
    ) -> Result<(), CudaError> {
        block.write(piece.offset(), bytemuck::cast_slice(values), self.stream)
    }

    /// Puts a stored matrix, `[rows, columns]`, where a matrix of `block` lies, from row `first` on.
    pub(super) fn matrix(
        &mut self,
        name: String,
        stored: &Tensor,
        block: &DeviceMemory,
        (piece, first): (&MatrixPiece, usize),
        placing: Placing,
        folding: Option<Folding>,
    ) -> Result<(), CudaError> {
        let num_columns = stored.shape().last().copied().unwrap_or(1);
        let num_rows = stored.num_elements() / num_columns;
        let row_bytes = num_columns * stored.dtype().size();
        let counter = self.tensors.len();
        self.tensors.push(name);
        let group = placing.row_groups.unwrap_or(Groups { len: 1, stride: 1 });
        let rows_at_once = (self.chunks[0].pinned.bytes().len() / (group.len * row_bytes)).max(1) * group.len;
        for start in (0..num_rows).step_by(rows_at_once) {
            let rows = rows_at_once.min(num_rows - start);
            let chunk = self.stage(&stored.bytes()[start * row_bytes..(start + rows) * row_bytes])?;
            let Chunk { staged, read, .. } = &self.chunks[chunk];
            let input = Matrix::new(staged, 0, [rows, num_columns, num_columns], stored.dtype());
            let target_row = first + start / group.len * group.stride;
            let output = piece.rows_from(block, target_row);
            let row_groups = placing.row_groups.unwrap_or(Groups { len: rows, stride: rows });
            let column_groups =
                placing.column_groups.unwrap_or(Groups { len: placing.columns.1, stride: placing.columns.1 });
            let place = PlaceWeight {
                input,
                output,
                norm_weight: placing.norm_weight,
                num_not_finite: Array::new(&self.counters, counter * size_of::<u32>(), 1),
                columns: placing.columns,
                row_groups,
                column_groups,
                centre: placing.norm_weight.is_some(),
            };
            place.launch(&self.launcher)?;
            if let Some(folding) = folding {
                let target = folding.first + start / group.len * group.stride;
                let fold = FoldNorm {
                    input,
                    weight: output,
                    norm_bias: folding.norm_bias,
                    bias: folding.bias.map(|bias| bias.skip(start)),
                    folded_bias: folding.folded_bias.from(block, target),
                    column_sum: folding.column_sum.from(block, target),
                    row_groups,
                };
                fold.launch(&self.launcher)?;
            }
            read.record(self.stream)?;
        }
        Ok(())
    }

    /// Copies bytes to the next chunk's memory on the GPU, once that is free; returns the chunk's number.
    fn stage(&mut self, bytes: &[u8]) -> Result<usize, CudaError> {
        let number = self.next;
        self.next = 1 - number;
        let chunk = &mut self.chunks[number];
        chunk.read.synchronize()?;
        chunk.pinned.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: the pinned bytes are written again only after `read`, which is recorded behind this copy, and both
        // memories are dropped only once the GPU is idle.
        unsafe { chunk.pinned.upload(0..bytes.len(), &chunk.staged, 0, self.stream) }?;
        Ok(number)
    }

    /// Waits for everything; tells which tensor, if any, held values that the element type cannot hold.
    pub(super) fn finish(self) -> Result<(), CudaError> {
        let mut counts = vec![0u32; self.tensors.len()];
        self.counters.read(0, bytemuck::cast_slice_mut(&mut counts), self.stream)?;
        let overflowed = counts.iter().zip(self.tensors).find(|(count, _)| **count > 0);
        match overflowed {
            Some((&count, tensor)) => Err(CudaError::WeightOverflow { tensor, count, dtype: self.launcher.dtype() }),
            None => Ok(()),
        }
    }
}
