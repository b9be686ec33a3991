//! A CUDA device simulated on the CPU: the engine's own kernels, compiled by the host's C++ compiler, run thread by
//! thread as the PTX manual defines, in the order that is worst for them. For tests only; nothing it does is ever
//! timed.

pub mod driver;
pub mod machine;
