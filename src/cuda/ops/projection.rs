//! The last matrix, on the gated layers' result and the hidden states where they lie.

use super::gemm::{self, GemmKernels, GemmShape};
use super::rows::number;
use super::sm90::gemm::{self as sm90, Product, STATES};
use super::{Array, DeviceBatch, Launcher, Matrix};
use crate::cuda::abi;
use crate::error::CudaError;
use crate::plan::Form;

pub(super) static KERNELS: GemmKernels = gemm::kernels("projection", "projection", 0);
pub(super) static HOPPER_KERNELS: sm90::GemmKernels = sm90::kernels("sm90/projection", "projection");

/// `embeddings = [head | hidden state 0 | …] · weightᵀ + bias`, into the batch's embeddings.
#[derive(Debug)]
pub(crate) struct Projection<'a, 'm> {
    /// Says how many of `rows` there are, and where the embeddings go.
    pub(crate) batch: DeviceBatch<'m>,
    /// As many as there can be.
    pub(crate) rows: Array<'m, abi::ProjectedRow>,
    /// The same rows in stretches, as many as there can be.
    pub(crate) items: Array<'m, abi::ProjectionItem>,
    /// `[rows of the gated layers, C]`.
    pub(crate) head: Matrix<'m>,
    /// `[rows of the transformer, C]` each.
    pub(crate) hidden: &'a [Matrix<'m>],
    /// `[(1 + hidden states)·E, C]`.
    pub(crate) weight: Matrix<'m>,
    /// `[E]`.
    pub(crate) bias: Array<'m, f32>,
    /// N, rows of the embeddings between two copies.
    pub(crate) tokens: usize,
}

impl Projection<'_, '_> {
    /// Launches it.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub(crate) fn launch(&self, on: &Launcher) -> Result<(), CudaError> {
        let Self { batch, rows, items, head, hidden, weight, bias, tokens } = self;
        let num_states = 1 + hidden.len();
        let outputs = weight.rows / num_states;
        weight.require("weight", num_states * outputs, head.width, on.dtype());
        bias.require("bias", outputs);
        for state in hidden.iter().chain([head]) {
            state.require("state", 0, head.width, on.dtype());
            assert_eq!(state.stride, head.stride, "states have one stride");
        }
        if on.form() == Form::Hopper && items.len > 0 {
            return self.launch_hopper(on, outputs);
        }
        let mut states = [std::ptr::null(); abi::MAX_HIDDEN_STATES as usize];
        assert!(hidden.len() <= states.len(), "more hidden states than the kernel's params hold");
        states.iter_mut().zip(*hidden).for_each(|(address, state)| *address = state.pointer());
        let params = abi::ProjectionParams {
            batch: batch.pointer(),
            rows: rows.pointer(),
            head: head.pointer(),
            weight: weight.pointer(),
            bias: bias.pointer(),
            num_hidden: number(hidden.len()),
            width: number(head.width),
            outputs: number(outputs),
            state_stride: number(head.stride),
            weight_stride: number(weight.stride),
            tokens: number(*tokens),
            hidden: states,
        };
        let shape = GemmShape { rows: rows.len, inputs: num_states * head.width, outputs };
        // SAFETY: the kernels take these params; the views were checked against one another above, and a batch's rows
        // lie in the states and embeddings that its plan has.
        unsafe { gemm::launch(&KERNELS, shape, on, &params) }
    }

    /// The same in Hopper's form, the views checked.
    fn launch_hopper(&self, on: &Launcher, outputs: usize) -> Result<(), CudaError> {
        let Self { batch, rows, items, head, hidden, weight, bias, tokens } = self;
        let num_states = 1 + hidden.len();
        assert!(num_states <= STATES, "more states than the kernel's params hold");
        bias.require_pairs("bias");
        let shape = GemmShape { rows: rows.len, inputs: num_states * head.width, outputs };
        let product = Product::of_row_tiles(&HOPPER_KERNELS, items.len, shape, on);
        let mut states = [abi::TensorMap::default(); STATES];
        for (map, state) in states.iter_mut().zip(std::iter::once(head).chain(*hidden)) {
            *map = product.input(state)?;
        }
        let params = abi::HopperProjectionParams {
            states,
            weight: product.weights(weight, num_states)?,
            batch: batch.pointer(),
            items: items.pointer(),
            bias: bias.pointer(),
            num_states: number(num_states),
            width: number(head.width),
            outputs: number(outputs),
            tokens: number(*tokens),
            __bindgen_padding_0: Default::default(),
        };
        // SAFETY: the kernels take these params; a batch's rows lie in the states and embeddings that its plan has.
        unsafe { product.launch(&params) }
    }
}
