//! The kernels of one GPU, loaded, and how they are launched.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

use crate::cuda::driver::{Context, Function, Module, Stream};
use crate::cuda::fatbin;
use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::Form;

/// An entry point, but for its element type.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The kernel's file, without `.cu`.
    pub(crate) file: &'static str,
    /// The entry point's name up to the element type: `layer_norm_linear_gelu`.
    pub(crate) name: &'static str,
    /// What follows the element type: `_80`, or nothing.
    pub(crate) suffix: &'static str,
    /// Threads of a block.
    pub(crate) block: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(crate) shared_bytes: u32,
}

impl Kernel {
    /// The entry point's name for an element type.
    fn entry(&self, dtype: Dtype) -> String {
        format!("{}_{dtype}{}", self.name, self.suffix)
    }
}

/// All entry points for one element type, ready to launch: nothing is loaded while work is recorded.
#[derive(Debug)]
pub(crate) struct Kernels {
    dtype: Dtype,
    form: Form,
    /// By file, name and suffix.
    functions: HashMap<[&'static str; 3], Function>,
}

impl Kernels {
    /// Loads the kernels of `form`, and those of the forms that its steps may fall back to, for `dtype`.
    ///
    /// # Errors
    /// [`CudaError::Driver`] where the GPU does not take them.
    pub(crate) fn load(context: &Arc<Context>, dtype: Dtype, form: Form) -> Result<Self, CudaError> {
        let mut modules: HashMap<&'static str, Arc<Module>> = HashMap::new();
        let mut functions = HashMap::new();
        for kernel in super::all(form) {
            let module = match modules.get(kernel.file) {
                Some(module) => module,
                None => {
                    let Some(fatbin) = fatbin::find(kernel.file) else {
                        unreachable!("{} is not among the files that were compiled", kernel.file)
                    };
                    let module = Module::new(context, &fatbin.image.0)?;
                    modules.entry(kernel.file).or_insert(module)
                }
            };
            let Ok(name) = CString::new(kernel.entry(dtype)) else { unreachable!("names are constants without zeros") };
            functions.insert([kernel.file, kernel.name, kernel.suffix], module.function(&name, kernel.shared_bytes)?);
        }
        Ok(Self { dtype, form, functions })
    }
}

/// Gives kernels to a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launcher<'a> {
    kernels: &'a Kernels,
    stream: &'a Stream,
    form: Form,
    tiling: Option<usize>,
}

impl<'a> Launcher<'a> {
    pub(crate) fn new(kernels: &'a Kernels, stream: &'a Stream) -> Self {
        Self { kernels, stream, form: kernels.form, tiling: None }
    }

    /// The same for operations in another form that the kernels were loaded for.
    pub(crate) fn in_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// The same with products in the tiling of this number in the form's [`tilings`](super::tilings), and attention by the
    /// kernel of this number of its [`variants`](super::attention_variants); none leaves it to the prediction.
    pub(crate) fn with_tiling(self, tiling: Option<usize>) -> Self {
        Self { tiling, ..self }
    }

    /// The tiling that was asked for.
    pub(crate) fn tiling(&self) -> Option<usize> {
        self.tiling
    }

    /// The form that operations take here.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// The element type of the kernels.
    pub(crate) fn dtype(&self) -> Dtype {
        self.kernels.dtype
    }

    /// The stream that takes the launches.
    pub(crate) fn stream(&self) -> &'a Stream {
        self.stream
    }

    /// Launches `kernel` on `grid` blocks; a grid without blocks is no launch.
    ///
    /// # Safety
    /// `params` is the struct that `kernel` takes; what its pointers name is as large as the kernel takes it to be.
    pub(crate) unsafe fn launch<P>(&self, kernel: &Kernel, grid: [u32; 3], params: &P) -> Result<(), CudaError> {
        let Some(function) = self.kernels.functions.get(&[kernel.file, kernel.name, kernel.suffix]) else {
            unreachable!("{}: {}{} is not among the kernels that were loaded", kernel.file, kernel.name, kernel.suffix)
        };
        if grid.contains(&0) {
            return Ok(());
        }
        // Every kernel waits for its turn by itself, in the machine code of compute capability 9.0, which Hopper's form is
        // bound to.
        let overlap = self.kernels.form == Form::Hopper;
        // SAFETY: params and sizes are the caller's promise; views keep their memory alive, and freeing waits.
        unsafe { function.launch(self.stream, grid, kernel.block, params, overlap) }
    }
}
