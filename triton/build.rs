//! How the backend is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A server that ends unloads its models and, right behind them, this library. Threads of a pool that was dropped end in
    // their own time, and must still find their code then: the library stays mapped.
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
}
