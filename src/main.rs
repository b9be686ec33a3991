//! The `tilesight` command.

#[cfg(feature = "serve")]
#[global_allocator]
static ALLOCATOR: tilesight::cli::Allocator = tilesight::cli::Allocator;

fn main() -> std::process::ExitCode {
    tilesight::cli::run()
}
