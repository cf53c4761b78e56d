//! The program: flags in, exit code out. Everything else is the library's.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::cli::main(std::env::args_os())
}
