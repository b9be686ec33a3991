//! Products, through both libraries as a program loads them, against sums of products in float64.

use std::ffi::{c_int, c_void};
use std::sync::{Mutex, OnceLock};

use half::{bf16, f16};
use libloading::Library;

const F32: c_int = 0;
const F16: c_int = 2;
const BF16: c_int = 14;
const INVALID_VALUE: u32 = 7;
const NOT_SUPPORTED: u32 = 15;

/// The simulator is one for the process, so tests take turns.
static TURN: Mutex<()> = Mutex::new(());

struct Libraries {
    cuda: Library,
    cublas: Library,
}

fn libraries() -> &'static Libraries {
    static LIBRARIES: OnceLock<Libraries> = OnceLock::new();
    LIBRARIES.get_or_init(|| {
        let program = std::env::current_exe().unwrap();
        let load = |name: &str| {
            // SAFETY: cargo builds both beside the test; they have no initialisers.
            unsafe { Library::new(program.with_file_name(name)) }.unwrap()
        };
        Libraries { cuda: load("libtilesight_simulator.so"), cublas: load("libtilesight_simulator_cublaslt.so") }
    })
}

/// A call of a function of one of the libraries, by its name, with arguments of these types. What it returns is of no
/// meaning if it returns nothing.
macro_rules! call {
    ($library:ident.$name:ident($($argument:expr => $type:ty),* $(,)?)) => {{
        let name = concat!(stringify!($name), "\0").as_bytes();
        // SAFETY: the function has this type, by NVIDIA's manual or the simulator's.
        let function = unsafe { libraries().$library.get::<unsafe extern "C" fn($($type),*) -> u32>(name) }.unwrap();
        // SAFETY: what the pointers name is alive for the call.
        unsafe { function($($argument),*) }
    }};
}

fn ok(status: u32) {
    assert_eq!(status, 0, "status of the call");
}

/// A matrix as it lies in memory, column-major, with NaNs between columns.
#[derive(Clone)]
struct Matrix {
    element: c_int,
    rows: usize,
    columns: usize,
    leading: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn new(element: c_int, rows: usize, columns: usize, leading: usize, seed: u64) -> Self {
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Sixteenths up to 2, which all types hold exactly.
            ((state >> 59) as f64 - 16.0) / 8.0
        };
        let len = (columns - 1) * leading + rows;
        let values = (0..len).map(|place| if place % leading < rows { draw() } else { f64::NAN }).collect();
        Self { element, rows, columns, leading, values }
    }

    fn at(&self, row: usize, column: usize, transposed: bool) -> f64 {
        let (row, column) = if transposed { (column, row) } else { (row, column) };
        self.values[column * self.leading + row]
    }

    fn bytes(&self) -> Vec<u8> {
        let encode = |&value: &f64| match self.element {
            F32 => (value as f32).to_ne_bytes().to_vec(),
            F16 => f16::from_f64(value).to_ne_bytes().to_vec(),
            _ => bf16::from_f64(value).to_ne_bytes().to_vec(),
        };
        self.values.iter().flat_map(encode).collect()
    }

    fn decode(&self, bytes: &[u8]) -> Vec<f64> {
        match self.element {
            F32 => bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap()).into()).collect(),
            F16 => bytes.chunks_exact(2).map(|b| f16::from_ne_bytes(b.try_into().unwrap()).into()).collect(),
            _ => bytes.chunks_exact(2).map(|b| bf16::from_ne_bytes(b.try_into().unwrap()).into()).collect(),
        }
    }

    fn layout(&self) -> *mut c_void {
        let mut layout = std::ptr::null_mut();
        ok(call!(cublas.cublasLtMatrixLayoutCreate(
            &mut layout => &mut *mut c_void, self.element => c_int, self.rows as u64 => u64,
            self.columns as u64 => u64, self.leading as i64 => i64)));
        layout
    }

    fn upload(&self) -> u64 {
        let (bytes, mut address) = (self.bytes(), 0);
        ok(call!(cuda.cuMemAlloc_v2(&mut address => &mut u64, bytes.len() => usize)));
        ok(call!(cuda.cuMemcpyHtoD_v2(address => u64, bytes.as_ptr() => *const u8, bytes.len() => usize)));
        address
    }
}

/// Device 0, reset, with a stream.
fn start(seed: u64) -> usize {
    call!(cuda.tilesight_simulator_reset());
    call!(cuda.tilesight_simulator_set_seed(seed => u64));
    let (mut context, mut stream) = (0, 0);
    ok(call!(cuda.cuInit(0 => u32)));
    ok(call!(cuda.cuDevicePrimaryCtxRetain(&mut context => &mut usize, 0 => c_int)));
    ok(call!(cuda.cuCtxSetCurrent(context => usize)));
    ok(call!(cuda.cuStreamCreate(&mut stream => &mut usize, 0 => u32)));
    stream
}

/// D = 0.5 · op(A) · op(B) + beta · D, with an algorithm that was asked for; the status, and D.
fn multiply(
    matrices: [&Matrix; 3],
    transposes: [bool; 2],
    beta: f32,
    stream: usize,
    alignment: u32,
    offset: u64,
) -> (u32, Vec<f64>) {
    let (mut handle, mut desc, mut preference) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    ok(call!(cublas.cublasLtCreate(&mut handle => &mut *mut c_void)));
    ok(call!(cublas.cublasLtMatmulDescCreate(&mut desc => &mut *mut c_void, 68 => c_int, 0 => c_int)));
    for (attribute, transpose) in [3, 4].into_iter().zip(transposes) {
        let operation = c_int::from(transpose);
        ok(call!(cublas.cublasLtMatmulDescSetAttribute(
            desc => *mut c_void, attribute => c_int, &operation => &c_int, 4 => usize)));
    }
    let workspace_bytes = 1u64 << 20;
    ok(call!(cublas.cublasLtMatmulPreferenceCreate(&mut preference => &mut *mut c_void)));
    ok(call!(cublas.cublasLtMatmulPreferenceSetAttribute(
        preference => *mut c_void, 1 => c_int, &workspace_bytes => &u64, 8 => usize)));
    for attribute in 5..=8 {
        ok(call!(cublas.cublasLtMatmulPreferenceSetAttribute(
            preference => *mut c_void, attribute => c_int, &alignment => &u32, 4 => usize)));
    }
    let layouts = matrices.map(Matrix::layout);
    let [a, b, d] = matrices.map(Matrix::upload);
    let mut workspace = 0u64;
    ok(call!(cuda.cuMemAlloc_v2(&mut workspace => &mut u64, workspace_bytes as usize => usize)));
    // The algorithm is the first 64 bytes of the result.
    let (mut result, mut count) = ([0u64; 12], 0);
    let status = call!(cublas.cublasLtMatmulAlgoGetHeuristic(
        handle => *mut c_void, desc => *mut c_void, layouts[0] => *mut c_void, layouts[1] => *mut c_void,
        layouts[2] => *mut c_void, layouts[2] => *mut c_void, preference => *mut c_void, 1 => c_int,
        &mut result => &mut [u64; 12], &mut count => &mut c_int));
    if status != 0 {
        return (status, Vec::new());
    }
    assert_eq!(count, 1);
    let alpha = 0.5f32;
    let status = call!(cublas.cublasLtMatmul(
        handle => *mut c_void, desc => *mut c_void, &alpha => &f32, a + offset => u64, layouts[0] => *mut c_void,
        b => u64, layouts[1] => *mut c_void, &beta => &f32, d => u64, layouts[2] => *mut c_void, d => u64,
        layouts[2] => *mut c_void, &result => &[u64; 12], workspace => u64, workspace_bytes as usize => usize,
        stream => usize));
    let mut bytes = matrices[2].bytes();
    let read = call!(cuda.cuMemcpyDtoHAsync_v2(
        bytes.as_mut_ptr() => *mut u8, d => u64, bytes.len() => usize, stream => usize));
    for layout in layouts {
        ok(call!(cublas.cublasLtMatrixLayoutDestroy(layout => *mut c_void)));
    }
    ok(call!(cublas.cublasLtMatmulPreferenceDestroy(preference => *mut c_void)));
    ok(call!(cublas.cublasLtMatmulDescDestroy(desc => *mut c_void)));
    ok(call!(cublas.cublasLtDestroy(handle => *mut c_void)));
    (if status == 0 { read } else { status }, matrices[2].decode(&bytes))
}

#[test]
fn products_are_those_of_float64() {
    let _turn = TURN.lock().unwrap();
    let (m, n, k) = (9, 7, 33);
    let mut seed = 0;
    for (operands, output) in [(BF16, BF16), (BF16, F32), (F16, F16), (F16, F32)] {
        for transposes in [[false, false], [false, true], [true, false], [true, true]] {
            for (gap, beta) in [(0, 0.0), (3, 1.0), (5, -0.5)] {
                seed += 1;
                let stream = start(seed);
                let oriented = |rows, columns, transpose, seed| {
                    let (rows, columns) = if transpose { (columns, rows) } else { (rows, columns) };
                    Matrix::new(operands, rows, columns, rows + gap, seed)
                };
                let (a, b) = (oriented(m, k, transposes[0], 1), oriented(k, n, transposes[1], 2));
                let mut d = Matrix::new(output, m, n, m + gap, 3);
                if beta == 0.0 {
                    d.values.fill(f64::NAN);
                }
                let (status, found) = multiply([&a, &b, &d], transposes, beta, stream, 16, 0);
                ok(status);
                for (column, row) in (0..n).flat_map(|column| (0..m).map(move |row| (column, row))) {
                    let terms = (0..k).map(|i| a.at(row, i, transposes[0]) * b.at(i, column, transposes[1]));
                    let before = if beta == 0.0 { 0.0 } else { f64::from(beta) * d.at(row, column, false) };
                    let expected = 0.5 * terms.sum::<f64>() + before;
                    // The sum is exact in f32, for these values; so what is left is the rounding of the output.
                    let exact = Matrix { values: vec![expected], ..d.clone() };
                    let expected = exact.decode(&exact.bytes())[0];
                    assert_eq!(found[column * d.leading + row], expected, "{operands} {output} {transposes:?} {gap}");
                }
                let gaps = found.iter().enumerate().filter(|(place, _)| place % d.leading >= m);
                assert!(gaps.into_iter().all(|(_, value)| value.is_nan()), "something was written between columns");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let _turn = TURN.lock().unwrap();
    let stream = start(0);
    let matrix = |element, rows, columns| Matrix::new(element, rows, columns, rows, 0);
    let status = |matrices: [&Matrix; 3], offset| multiply(matrices, [false; 2], 0.0, stream, 16, offset).0;
    let (a, b, d) = (matrix(BF16, 8, 4), matrix(BF16, 4, 3), matrix(BF16, 8, 3));
    ok(status([&a, &b, &d], 0));
    assert_eq!(status([&a, &matrix(BF16, 5, 3), &d], 0), INVALID_VALUE);
    assert_eq!(status([&a, &b, &matrix(BF16, 7, 3)], 0), INVALID_VALUE);
    assert_eq!(status([&a, &matrix(F16, 4, 3), &d], 0), NOT_SUPPORTED);
    assert_eq!(status([&a, &b, &matrix(F16, 8, 3)], 0), NOT_SUPPORTED);
    // The preference promised 16 bytes.
    assert_eq!(status([&a, &b, &d], 2), INVALID_VALUE);
    // Aligned, but the last elements are beyond the allocation: found when the product runs.
    assert_eq!(status([&a, &b, &d], 16), 700);
}

#[test]
fn calls_are_made_to_fail_with_the_drivers() {
    let _turn = TURN.lock().unwrap();
    start(0);
    let mut handle = std::ptr::null_mut();
    call!(cuda.tilesight_simulator_fail_function(c"cublasLtCreate".as_ptr() => *const _, 3 => u32));
    assert_eq!(call!(cublas.cublasLtCreate(&mut handle => &mut *mut c_void)), 3);
    call!(cuda.tilesight_simulator_reset());
    ok(call!(cublas.cublasLtCreate(&mut handle => &mut *mut c_void)));
    ok(call!(cublas.cublasLtDestroy(handle => *mut c_void)));
}
