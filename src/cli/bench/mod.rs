//! `tilesight bench`: how fast this build is on this machine.

mod kernels;

use clap::{Args, Subcommand};

use crate::error::Result;

/// Time this build on this machine
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Kernels(kernels::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Kernels(arguments) => kernels::run(arguments),
    }
}
