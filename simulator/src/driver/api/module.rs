//! Modules and their kernels.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use super::launch::UNASKED_SHARED_BYTES;
use super::{Out, exports, put};
use crate::driver::Status;
use crate::driver::image::Image;
use crate::driver::state::{Driver, Function, Module};
use crate::driver::status::Result;
use crate::driver::work::{Misfortune, Work};
use crate::machine;

/// `CUfunction_attribute`.
const MAX_THREADS_PER_BLOCK: c_int = 0;
const SHARED_SIZE_BYTES: c_int = 1;
const BINARY_VERSION: c_int = 6;
const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
const PREFERRED_SHARED_MEMORY_CARVEOUT: c_int = 9;

impl Driver {
    /// Loads a fatbin.
    ///
    /// # Safety
    ///
    /// It is as long as its header says.
    unsafe fn load(&mut self, module: Out<'_, usize>, image: *const c_void) -> Result<()> {
        let device = self.current()?;
        self.outside_of_captures()?;
        let out = module.ok_or(Status::ERROR_INVALID_VALUE)?;
        // SAFETY: the caller's promise.
        let image = unsafe { Image::read(image.cast(), self.config.model.compute_capability) }?;
        out.write(self.modules.add(Module { device, image }));
        Ok(())
    }
}

exports! {
    /// The image is looked at for its parts and names only; the kernels are those that the simulator was built with.
    fn cuModuleLoadData(module: Out<'_, usize>, image: *const c_void) |driver| {
        // SAFETY: the manual asks for the same.
        unsafe { driver.load(module, image) }
    }

    /// Options of the compiler have nothing to apply to.
    fn cuModuleLoadDataEx(
        module: Out<'_, usize>,
        image: *const c_void,
        _num_options: c_uint,
        _options: *const c_uint,
        _values: *const *mut c_void,
    ) |driver| {
        // SAFETY: the manual asks for the same.
        unsafe { driver.load(module, image) }
    }

    /// That a kernel of it is yet to run is a fault.
    fn cuModuleUnload(module: usize) |driver| {
        let current = driver.current();
        let device = driver.modules.get(module)?.device;
        driver.outside_of_captures()?;
        let is_of_it = |work: &Work| matches!(work, Work::Kernel(kernel) if kernel.module == module);
        let pending = driver.schedule.of(device).find(|(_, work)| is_of_it(work)).map(|(_, work)| work.name());
        driver.modules.remove(module)?;
        driver.functions.retain(|function| function.module != module);
        if let Some(name) = pending {
            let text = format!("the module of {name} was unloaded, but a launch of it was given before");
            return Err(driver.fail(device, Misfortune::illegal_address(text)));
        }
        current.map(|_| ())
    }

    /// A kernel that both the image and the simulator have. Where the simulator has two of one name, the one for newer
    /// devices comes from a file that is compiled for no older ones.
    fn cuModuleGetFunction(function: Out<'_, usize>, module: usize, name: *const c_char) |driver| {
        driver.current()?;
        let out = function.filter(|_| !name.is_null()).ok_or(Status::ERROR_INVALID_VALUE)?;
        let Module { device, image } = driver.modules.get(module)?;
        // SAFETY: not null, and the caller says that it ends with a zero.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| Status::ERROR_NOT_FOUND)?;
        let Some(entry) = machine::entry_for(name, (image.least / 10, image.least % 10)).filter(|_| !name.is_empty() && image.may_hold(name)) else {
            eprintln!("CUDA simulator: no kernel {name} in the image, or in the simulator as it was built");
            return Err(Status::ERROR_NOT_FOUND);
        };
        let function = Function { device: *device, module, entry, max_shared_bytes: UNASKED_SHARED_BYTES };
        out.write(driver.functions.add(function));
        Ok(())
    }

    /// The dynamic shared memory of a launch is what matters; how the rest of it is divided is a matter of speed.
    fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) |driver| {
        driver.current()?;
        let limit = driver.config.model.max_shared_bytes;
        let function = driver.functions.get_mut(function)?;
        match attribute {
            MAX_DYNAMIC_SHARED_SIZE_BYTES => {
                let bytes = u32::try_from(value).ok().filter(|&bytes| bytes <= limit);
                function.max_shared_bytes = bytes.ok_or(Status::ERROR_INVALID_VALUE)?;
                Ok(())
            }
            PREFERRED_SHARED_MEMORY_CARVEOUT if (-1..=100).contains(&value) => Ok(()),
            _ => Err(Status::ERROR_INVALID_VALUE),
        }
    }

    /// Registers and local memory are the real compiler's business.
    fn cuFuncGetAttribute(value: Out<'_, c_int>, attribute: c_int, function: usize) |driver| {
        driver.current()?;
        let (major, minor) = driver.config.model.compute_capability;
        let function = driver.functions.get(function)?;
        let found = match attribute {
            MAX_THREADS_PER_BLOCK => function.entry.max_threads,
            SHARED_SIZE_BYTES => 0,
            BINARY_VERSION => major * 10 + minor,
            MAX_DYNAMIC_SHARED_SIZE_BYTES => function.max_shared_bytes,
            _ => return Err(Status::ERROR_INVALID_VALUE),
        };
        put(value, found as c_int)
    }
}
