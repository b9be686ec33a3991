//! Maps of tensors: what the copies of Hopper take in place of addresses.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};

use super::check;
use crate::cuda::abi;
use crate::dtype::Dtype;
use crate::error::CudaError;

/// Which 16-byte units of a box change places in shared memory: `Swizzle` of `kernels/sm90/layout.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swizzle {
    /// None.
    None,
    /// Within rows of 32 bytes.
    Bytes32,
    /// Within rows of 64 bytes.
    Bytes64,
    /// Within rows of 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// Bytes of a row of a box; none where it may have any multiple of 16.
    fn row_bytes(self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Bytes32 => Some(32),
            Self::Bytes64 => Some(64),
            Self::Bytes128 => Some(128),
        }
    }

    fn mode(self) -> CUtensorMapSwizzle {
        match self {
            Self::None => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            Self::Bytes32 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            Self::Bytes64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            Self::Bytes128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        }
    }
}

/// A tensor in the GPU's memory, and the boxes that are copied of it. Dimensions come from the innermost outwards; along
/// the innermost one, elements lie side by side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiled<const RANK: usize> {
    /// The first element, a multiple of 16.
    pub(crate) address: u64,
    pub(crate) dtype: Dtype,
    /// Elements along each dimension.
    pub(crate) extents: [usize; RANK],
    /// Elements from one to the next along each dimension: 1, then numbers that make multiples of 16 bytes.
    pub(crate) strides: [usize; RANK],
    /// Elements of a box along each dimension, at most 256.
    pub(crate) boxes: [usize; RANK],
    pub(crate) swizzle: Swizzle,
}

impl<const RANK: usize> Tiled<RANK> {
    /// The map, for a kernel's params. It names the tensor by its address, as a pointer would.
    ///
    /// # Errors
    /// [`CudaError::Driver`] for a tensor that cannot be copied in such boxes.
    ///
    /// # Panics
    /// Where elements do not lie side by side, or a box has not just as long rows as its swizzle: narrower ones lie in
    /// shared memory in a way that no kernel here expects.
    pub(crate) fn encode(&self) -> Result<abi::TensorMap, CudaError> {
        assert!(self.strides[0] == 1, "elements of a tensor that is copied in boxes lie side by side");
        let row_bytes = self.boxes[0] * self.dtype.size();
        assert!(self.swizzle.row_bytes().is_none_or(|bytes| bytes == row_bytes), "rows of a box are its swizzle's");
        let data_type = match self.dtype {
            Dtype::F32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            Dtype::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            Dtype::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        };
        let address: *mut c_void = ptr::without_provenance_mut(self.address as usize);
        let extents = self.extents.map(|extent| extent as u64);
        let strides = self.strides.map(|stride| (stride * self.dtype.size()) as u64);
        // More than the driver takes stays more.
        let boxes = self.boxes.map(|elements| u32::try_from(elements).unwrap_or(u32::MAX));
        let steps = [1u32; RANK];
        let mut map = CUtensorMap { opaque: [0; 16] };
        // SAFETY: the map and the arrays live; each has an element for each dimension, of the strides the innermost is not
        // asked for. The driver keeps the tensor's address, and reads nothing there.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                data_type,
                RANK as u32,
                address,
                extents.as_ptr(),
                strides[1..].as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                self.swizzle.mode(),
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check("cuTensorMapEncodeTiled", status)?;
        Ok(abi::TensorMap { opaque: map.opaque })
    }
}
