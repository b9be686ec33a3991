//! The `tilesight` command.

fn main() -> std::process::ExitCode {
    tilesight::cli::run()
}
