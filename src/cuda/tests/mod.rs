//! What ptxas and cuobjdump say of the compiled kernels.

mod machine_code;
mod ptxas;
