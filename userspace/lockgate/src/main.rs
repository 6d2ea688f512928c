//! `lockgate`: the one binary. Command line, configuration, and the wiring of every other crate.
//!
//! Nothing here decides, parses, records or connects: that is done one layer down. Two halves: the verbs in
//! [`cli`], of which `agent` starts the service in [`agent`]; the others talk to it or work alone.

mod agent;
mod cli;
mod config;
mod trust;

use clap::Parser as _;
use std::process::ExitCode;

/// A session allocates a few small things an operation, on the thread where it stays: no lock, and little kept per thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// SQL grammars recurse by the nesting of the text; whatever runs them gets this much stack.
const DEEP_STACK_BYTES: usize = 16 * 1024 * 1024;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(exit) => exit.into(),
        Err(error) => cli::report(&error),
    }
}
