//! How the backend is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The server unloads a backend with its last model. Threads of a pool that was dropped end in their own time, and must
    // still find their code then: the library stays mapped.
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
}
