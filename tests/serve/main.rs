//! The server: each test starts a process of its own and is its client. Tests of other servers run meanwhile, so that
//! none may count on the machine for itself.

#[path = "../support/golden_data.rs"]
mod golden_data;
#[path = "../support/noise.rs"]
mod noise;
#[path = "../support/on_cpu.rs"]
mod on_cpu;
#[path = "../support/tiny_config.rs"]
mod tiny_config;

mod bench;
mod cache;
mod chaos;
mod connections;
#[cfg(feature = "cuda-unversioned")]
mod cuda;
mod framing;
mod grpc;
mod grpc_client;
mod grpc_limits;
mod hostile;
mod http;
mod leaving;
mod load;
mod log;
mod memory;
mod origin;
mod overload;
mod pages;
mod pings;
mod probes;
mod server;
mod shared_memory;
#[cfg(feature = "otel")]
mod traces;
mod weights;
