//! Maps of tensors.

use std::ffi::{c_int, c_uint, c_void};

use super::exports;
use crate::driver::Status;
use crate::driver::streams::unsupported;
use crate::machine::{Swizzle, TensorMap, TiledTensor};

/// Bytes of an element, by `CUtensorMapDataType`; beyond these are types that are packed.
const ELEMENT_BYTES: [u32; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];

/// Dimensions at most.
const MAX_RANK: c_uint = 5;

/// Elements between two that are taken, at most.
const MAX_ELEMENT_STRIDE: u32 = 8;

/// `CUtensorMapL2promotion` and `CUtensorMapFloatOOBfill` have as many values.
const NUM_PROMOTIONS: c_int = 4;
const NUM_FILLS: c_int = 2;

exports! {
    /// Of all tensors those without interleaving, steps and fills of NaN. What the manual says of a stride and the one
    /// before it is not asked for: drivers do not, and a tensor may have its dimensions in any order.
    fn cuTensorMapEncodeTiled(
        map: *mut TensorMap,
        data_type: c_int,
        rank: c_uint,
        address: *mut c_void,
        extents: *const u64,
        strides: *const u64,
        boxes: *const u32,
        element_strides: *const u32,
        interleave: c_int,
        swizzle: c_int,
        promotion: c_int,
        fill: c_int,
    ) |driver| {
        driver.initialized()?;
        if driver.config.model.compute_capability < (9, 0) {
            return Err(unsupported("a tensor map of a device below compute capability 9.0"));
        }
        let arrays = [extents.cast::<u8>(), boxes.cast(), element_strides.cast()];
        let lacks_array = arrays.iter().any(|array| array.is_null()) || (rank > 1 && strides.is_null());
        if map.is_null() || !map.is_aligned() || !(1..=MAX_RANK).contains(&rank) || lacks_array {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        let rank = rank as usize;
        // SAFETY: not null, so that the manual asks for one for each dimension.
        let extents = unsafe { std::slice::from_raw_parts(extents, rank) };
        let strides = match rank {
            1 => &[],
            // SAFETY: likewise, but for the innermost.
            _ => unsafe { std::slice::from_raw_parts(strides, rank - 1) },
        };
        // SAFETY: as the extents.
        let boxes = unsafe { std::slice::from_raw_parts(boxes, rank) };
        // SAFETY: as the extents.
        let element_strides = unsafe { std::slice::from_raw_parts(element_strides, rank) };
        if element_strides.iter().any(|stride| !(1..=MAX_ELEMENT_STRIDE).contains(stride))
            || !(0..NUM_PROMOTIONS).contains(&promotion)
            || !(0..NUM_FILLS).contains(&fill)
        {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        let element_bytes = usize::try_from(data_type).ok().and_then(|number| ELEMENT_BYTES.get(number));
        let swizzle = usize::try_from(swizzle).ok().and_then(|number| Swizzle::ALL.get(number));
        let (Some(&element_bytes), Some(&swizzle)) = (element_bytes, swizzle) else {
            return Err(unsupported("a tensor map of this type or swizzle"));
        };
        if interleave != 0 || fill != 0 || element_strides.iter().any(|&stride| stride != 1) {
            return Err(unsupported("a tensor map with interleaving, steps or a fill of NaN"));
        }
        let address = address as u64;
        let tensor = TiledTensor { address, element_bytes, extents, strides, boxes, swizzle };
        let encoded = TensorMap::tiled(&tensor).ok_or(Status::ERROR_INVALID_VALUE)?;
        // SAFETY: not null and aligned; the manual asks for one that can be written.
        unsafe { map.write(encoded) };
        Ok(())
    }
}
