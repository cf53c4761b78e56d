//! Copies the vendored protoc to the path given as the only argument; `make tools` passes `.tools/bin/protoc`.

use std::{env, fs, io};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let to = env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: protoc PATH"))?;
    fs::copy(protoc_bin_vendored::protoc_bin_path()?, to)?;
    Ok(())
}
