//! Which products there are, the algorithm for them, and giving them to a stream.

use std::ffi::{c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::descriptors::{MatmulDesc, MatmulPreference, MatrixLayout, exports};
use crate::driver::{UsedMemory, give};
use crate::product::Product;
use crate::status::Status;
use crate::{Type, unsupported};

/// Workspace of the one algorithm, where it may have some. It overwrites it, for real algorithms do.
const WORKSPACE_BYTES: u64 = 64 << 10;

/// What a workspace's address must be a multiple of.
const WORKSPACE_ALIGNMENT: u64 = 16;

/// `cublasLtMatmulAlgo_t`: for which product it was found, and what it was promised.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    product: u64,
    workspace_bytes: u64,
    alignments: [u32; 4],
    unused: [u64; 4],
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
pub struct HeuristicResult {
    algorithm: Algorithm,
    workspace_bytes: usize,
    state: Status,
    num_waves: f32,
    reserved: [c_int; 4],
}

/// A product's shape: A, B, C, D.
#[derive(Clone, Copy, Hash)]
struct Shape {
    desc: MatmulDesc,
    layouts: [MatrixLayout; 4],
}

impl Shape {
    /// All four matrices, if they can be multiplied, and are.
    fn new(desc: Option<&MatmulDesc>, layouts: [Option<&MatrixLayout>; 4]) -> Result<Self, Status> {
        let [Some(a), Some(b), Some(c), Some(d)] = layouts else { return Err(Status::INVALID_VALUE) };
        let shape = Self { desc: *desc.ok_or(Status::INVALID_VALUE)?, layouts: [*a, *b, *c, *d] };
        let [m, n, k] = shape.sizes();
        let turned = |rows, columns, transpose| if transpose { (columns, rows) } else { (rows, columns) };
        let [transpose_a, transpose_b] = shape.desc.transposes;
        let wanted = [turned(m, k, transpose_a), turned(k, n, transpose_b), (m, n), (m, n)];
        let agree = shape.layouts.map(|layout| (layout.rows, layout.columns)) == wanted;
        let fits = |layout: &MatrixLayout| layout.rows > 0 && layout.columns > 0 && layout.leading >= layout.rows;
        if !agree || !shape.layouts.iter().all(fits) {
            return Err(Status::INVALID_VALUE);
        }
        let types = shape.layouts.map(|layout| layout.element);
        let is_known = types[0] != Type::F32 && types[0] == types[1] && types[2] == types[3];
        if !is_known || (types[3] != types[0] && types[3] != Type::F32) {
            return Err(unsupported(format_args!("a product of types {types:?}")));
        }
        Ok(shape)
    }

    /// Rows and columns of D, and how many products make each of its elements.
    fn sizes(&self) -> [u64; 3] {
        let [a, _, _, d] = self.layouts;
        [d.rows, d.columns, if self.desc.transposes[0] { a.rows } else { a.columns }]
    }

    fn number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

exports! {
    /// One algorithm, for this product and no other; the addresses that it gets must keep what the preference promises.
    fn cublasLtMatmulAlgoGetHeuristic(
        handle: *const c_void,
        desc: Option<&MatmulDesc>,
        a_layout: Option<&MatrixLayout>,
        b_layout: Option<&MatrixLayout>,
        c_layout: Option<&MatrixLayout>,
        d_layout: Option<&MatrixLayout>,
        preference: Option<&MatmulPreference>,
        num_requested: c_int,
        results: Option<&mut HeuristicResult>,
        num_found: Option<&mut c_int>,
    ) {
        if handle.is_null() {
            return Err(Status::NOT_INITIALIZED);
        }
        let shape = Shape::new(desc, [a_layout, b_layout, c_layout, d_layout])?;
        let (Some(preference), Some(result), Some(num_found)) = (preference, results, num_found) else {
            return Err(Status::INVALID_VALUE);
        };
        if num_requested < 1 {
            return Err(Status::INVALID_VALUE);
        }
        let is_enough = preference.workspace_bytes >= WORKSPACE_BYTES;
        let workspace_bytes = if is_enough { WORKSPACE_BYTES } else { 0 };
        let elements = shape.layouts.map(|layout| layout.element.bytes() as u32);
        let alignments = std::array::from_fn(|matrix| preference.alignments[matrix].max(elements[matrix]));
        let algorithm = Algorithm { product: shape.number(), workspace_bytes, alignments, unused: [0; 4] };
        *result = HeuristicResult {
            algorithm,
            workspace_bytes: workspace_bytes as usize,
            state: Status::SUCCESS,
            num_waves: 1.0,
            reserved: [0; 4],
        };
        *num_found = 1;
        Ok(())
    }

    /// Factors are the host's, read before it returns; without an algorithm, elements must be aligned and no more.
    fn cublasLtMatmul(
        handle: *const c_void,
        desc: Option<&MatmulDesc>,
        alpha: Option<&f32>,
        a: u64,
        a_layout: Option<&MatrixLayout>,
        b: u64,
        b_layout: Option<&MatrixLayout>,
        beta: Option<&f32>,
        c: u64,
        c_layout: Option<&MatrixLayout>,
        d: u64,
        d_layout: Option<&MatrixLayout>,
        algorithm: Option<&Algorithm>,
        workspace: u64,
        workspace_bytes: usize,
        stream: usize,
    ) {
        if handle.is_null() {
            return Err(Status::NOT_INITIALIZED);
        }
        let shape = Shape::new(desc, [a_layout, b_layout, c_layout, d_layout])?;
        let (Some(&alpha), Some(&beta)) = (alpha, beta) else { return Err(Status::INVALID_VALUE) };
        let addresses = [a, b, c, d];
        let reads_c = beta != 0.0;
        let is_used = [true, true, reads_c, true];
        let implied = Algorithm {
            product: shape.number(),
            workspace_bytes: 0,
            alignments: shape.layouts.map(|layout| layout.element.bytes() as u32),
            unused: [0; 4],
        };
        let algorithm = algorithm.unwrap_or(&implied);
        let mut operands = addresses.iter().zip(is_used).zip(algorithm.alignments);
        if !operands.all(|((&address, is_used), alignment)| {
            !is_used || (address != 0 && address.is_multiple_of(u64::from(alignment)))
        }) {
            eprintln!("CUDA simulator: cuBLASLt: {addresses:x?} are null or not aligned to {:?}", algorithm.alignments);
            return Err(Status::INVALID_VALUE);
        }
        // In place means: the same matrix.
        if reads_c && c == d && shape.layouts[2] != shape.layouts[3] {
            return Err(Status::INVALID_VALUE);
        }
        let is_room = workspace_bytes as u64 >= algorithm.workspace_bytes && workspace.is_multiple_of(WORKSPACE_ALIGNMENT);
        if algorithm.workspace_bytes > 0 && (workspace == 0 || !is_room) {
            return Err(Status::INVALID_VALUE);
        }
        if algorithm.product != shape.number() {
            eprintln!("CUDA simulator: cuBLASLt: the algorithm was found for another product");
            return Err(Status::NOT_SUPPORTED);
        }
        let used = shape.layouts.iter().zip(addresses).zip(is_used).filter(|(_, is_used)| *is_used);
        let mut used: Vec<UsedMemory> = used.map(|((layout, address), _)| memory(layout, address)).collect();
        let workspace = UsedMemory { address: workspace, bytes: algorithm.workspace_bytes };
        let (overwritten, overwritten_bytes) = (workspace.address, workspace.bytes);
        used.extend((workspace.bytes > 0).then_some(workspace));
        let product = Product {
            sizes: shape.sizes(),
            elements: shape.layouts.map(|layout| layout.element),
            leading: shape.layouts.map(|layout| layout.leading),
            transposes: shape.desc.transposes,
            addresses,
            factors: [alpha, beta],
            workspace: [overwritten, overwritten_bytes],
        };
        give(stream, c"cublasLtMatmul", Product::run, &product.arguments(), &used)
    }
}

/// From a matrix's first element to its last.
fn memory(layout: &MatrixLayout, address: u64) -> UsedMemory {
    let len = (layout.columns - 1) * layout.leading + layout.rows;
    UsedMemory { address, bytes: len * layout.element.bytes() }
}
