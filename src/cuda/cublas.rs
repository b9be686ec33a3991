//! Matrix products by cuBLASLt: the baseline's. Layouts and algorithm are chosen when a product is recorded; replaying
//! the graph chooses nothing.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtMatmulDescAttributes_t, cublasLtMatmulPreferenceAttributes_t, cublasStatus_t,
    cudaDataType,
};

use super::driver::{Context, DeviceMemory, Stream};
use super::ops::Matrix;
use crate::dtype::Dtype;
use crate::error::CudaError;

/// What cuBLAS's documentation recommends for Hopper; older GPUs need less.
const WORKSPACE_BYTES: usize = 32 << 20;

/// What every buffer's rows are aligned to, in bytes; the library assumes 256 unless told.
const ALIGNMENT: u32 = 16;

/// The library on one GPU.
#[derive(Debug)]
pub(super) struct Cublas {
    handle: sys::cublasLtHandle_t,
    workspace: DeviceMemory,
}

// SAFETY: the handle is a token of the library, which may be used from any thread.
unsafe impl Send for Cublas {}

/// A product's operands: `output[rows, outputs] = input[rows, inputs] · weight[outputs, inputs]ᵀ`, plus what the output
/// held where `add` is set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'m> {
    pub(super) input: Matrix<'m>,
    pub(super) weight: Matrix<'m>,
    pub(super) output: Matrix<'m>,
    pub(super) rows: usize,
    pub(super) add: bool,
}

/// Whether the library is there, as the driver's `is_present` has it.
fn is_present() -> bool {
    #[allow(unused_imports, reason = "linked bindings have no `is_culib_present`, and the one below is meant")]
    use sys::*;
    // SAFETY: loading the library runs its initialisers only.
    unsafe { is_culib_present() }
}

#[allow(dead_code, reason = "that of bindings which load the library is nearer to its call")]
unsafe fn is_culib_present() -> bool {
    true
}

fn check(call: &'static str, status: cublasStatus_t) -> Result<(), CudaError> {
    match status {
        cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        status => Err(CudaError::Cublas { call, status: format!("{status:?}") }),
    }
}

impl Cublas {
    /// # Errors
    /// [`CudaError::NoCublas`], [`CudaError::Cublas`], [`CudaError::OutOfMemory`].
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, CudaError> {
        // The bindings panic at a missing library; so look first.
        if !is_present() {
            return Err(CudaError::NoCublas);
        }
        context.bind()?;
        let workspace = DeviceMemory::new(context, WORKSPACE_BYTES, "cuBLASLt's workspace")?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle, which is destroyed once, when this is dropped.
        check("cublasLtCreate", unsafe { sys::cublasLtCreate(&mut handle) })?;
        Ok(Self { handle, workspace })
    }

    /// Gives a product to `stream`, by the library's first choice of algorithm.
    pub(super) fn multiply(&self, product: &Product, stream: &Stream) -> Result<(), CudaError> {
        if product.is_empty() {
            return Ok(());
        }
        let algorithms = self.algorithms(product, 1)?;
        self.multiply_by(&algorithms[0], product, stream)
    }

    /// Gives a product to `stream`, by an algorithm that was found for one of its shape.
    pub(super) fn multiply_by(
        &self,
        algorithm: &Algorithm,
        product: &Product,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let Product { input, weight, output, add, .. } = *product;
        let (description, operands) = (Description::new()?, Operands::of(product)?);
        let layouts = operands.layouts();
        let (alpha, beta) = (1.0f32, if add { 1.0f32 } else { 0.0 });
        // SAFETY: handle, description and layouts live; the views say how large the matrices are, and their memory
        // stays until the GPU is idle; alpha and beta are read before the call returns.
        let status = unsafe {
            sys::cublasLtMatmul(
                self.handle,
                description.0,
                (&raw const alpha).cast(),
                weight.pointer(),
                layouts[0],
                input.pointer(),
                layouts[1],
                (&raw const beta).cast(),
                output.pointer(),
                layouts[2],
                output.pointer(),
                layouts[2],
                &algorithm.0,
                std::ptr::without_provenance_mut(self.workspace.address() as usize),
                self.workspace.len(),
                stream.handle().cast(),
            )
        };
        check("cublasLtMatmul", status)
    }

    /// The library's algorithms for a product, at least one and at most so many, the one it thinks fastest first.
    pub(super) fn algorithms(&self, product: &Product, most: usize) -> Result<Vec<Algorithm>, CudaError> {
        const CALL: &str = "cublasLtMatmulAlgoGetHeuristic";
        let (description, operands, preference) = (Description::new()?, Operands::of(product)?, Preference::new()?);
        let [weight, input, output] = operands.layouts();
        // SAFETY: a struct of integers, for which zeros are values.
        let empty: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        let mut found = vec![empty; most];
        let mut count = 0;
        // SAFETY: handle, description, layouts and preference live; there is room for as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                description.0,
                weight,
                input,
                output,
                output,
                preference.0,
                most as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        check(CALL, status)?;
        found.truncate(count.unsigned_abs() as usize);
        let Some(first) = found.first() else {
            return Err(CudaError::Cublas { call: CALL, status: "no algorithm for this product".to_string() });
        };
        check(CALL, first.state)?;
        let usable =
            |found: &sys::cublasLtMatmulHeuristicResult_t| found.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS;
        Ok(found.into_iter().filter(usable).map(|found| Algorithm(found.algo)).collect())
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // A failure cannot be told from here.
        // SAFETY: created once by `new`, destroyed once here.
        let _ = unsafe { sys::cublasLtDestroy(self.handle) };
    }
}

/// A way to carry a product out.
pub(super) struct Algorithm(sys::cublasLtMatmulAlgo_t);

impl Product<'_> {
    fn is_empty(&self) -> bool {
        self.rows == 0 || self.weight.rows == 0
    }
}

/// How a product's matrices lie. The library's are column-major: outputᵀ = weight · inputᵀ, where weight, as it lies, is
/// transposed.
struct Operands {
    weight: Layout,
    input: Layout,
    output: Layout,
}

impl Operands {
    fn of(product: &Product) -> Result<Self, CudaError> {
        let Product { input, weight, output, rows, .. } = *product;
        let (inputs, outputs) = (weight.width, weight.rows);
        assert!(input.width == inputs && output.width == outputs, "a product's widths disagree");
        assert!(rows <= input.rows && rows <= output.rows, "a product has more rows than its matrices");
        Ok(Self {
            weight: Layout::new(weight.dtype, inputs, outputs, weight.stride)?,
            input: Layout::new(input.dtype, inputs, rows, input.stride)?,
            output: Layout::new(output.dtype, outputs, rows, output.stride)?,
        })
    }

    fn layouts(&self) -> [sys::cublasLtMatrixLayout_t; 3] {
        [self.weight.0, self.input.0, self.output.0]
    }
}

/// f32 sums, the first operand transposed.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new() -> Result<Self, CudaError> {
        let (compute, scale) = (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType::CUDA_R_32F);
        let mut description = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle, which is destroyed once, when this is dropped.
        let status = unsafe { sys::cublasLtMatmulDescCreate(&mut description, compute, scale) };
        check("cublasLtMatmulDescCreate", status)?;
        let description = Self(description);
        // CUBLAS_OP_T, of an enum that cuBLAS's own header has and cuBLASLt's has not.
        let transposed = 1u32;
        let attribute = cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        let value: *const c_void = (&raw const transposed).cast();
        // SAFETY: the description lives, and the value has the size that is said.
        let status = unsafe { sys::cublasLtMatmulDescSetAttribute(description.0, attribute, value, size_of::<u32>()) };
        check("cublasLtMatmulDescSetAttribute", status)?;
        Ok(description)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once here.
        let _ = unsafe { sys::cublasLtMatmulDescDestroy(self.0) };
    }
}

/// A column-major matrix.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(dtype: Dtype, rows: usize, columns: usize, stride: usize) -> Result<Self, CudaError> {
        let element = match dtype {
            Dtype::F32 => cudaDataType::CUDA_R_32F,
            Dtype::Bf16 => cudaDataType::CUDA_R_16BF,
            Dtype::F16 => cudaDataType::CUDA_R_16F,
        };
        let mut layout = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle, which is destroyed once, when this is dropped.
        let status = unsafe {
            sys::cublasLtMatrixLayoutCreate(&mut layout, element, rows as u64, columns as u64, stride as i64)
        };
        check("cublasLtMatrixLayoutCreate", status)?;
        Ok(Self(layout))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once here.
        let _ = unsafe { sys::cublasLtMatrixLayoutDestroy(self.0) };
    }
}

/// What an algorithm may use and must cope with.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self, CudaError> {
        let mut preference = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle, which is destroyed once, when this is dropped.
        check("cublasLtMatmulPreferenceCreate", unsafe { sys::cublasLtMatmulPreferenceCreate(&mut preference) })?;
        let preference = Self(preference);
        use cublasLtMatmulPreferenceAttributes_t as Attribute;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE_BYTES)?;
        for operand in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(operand, &ALIGNMENT)?;
        }
        Ok(preference)
    }

    fn set<T>(&self, attribute: cublasLtMatmulPreferenceAttributes_t, value: &T) -> Result<(), CudaError> {
        let value = std::ptr::from_ref(value);
        // SAFETY: the preference lives, and the value has the size that is said.
        let status =
            unsafe { sys::cublasLtMatmulPreferenceSetAttribute(self.0, attribute, value.cast(), size_of::<T>()) };
        check("cublasLtMatmulPreferenceSetAttribute", status)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once here.
        let _ = unsafe { sys::cublasLtMatmulPreferenceDestroy(self.0) };
    }
}
