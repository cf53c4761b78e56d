//! Copies the vendored protoc and the well-known types it imports to the folder given as the only argument, as
//! `bin/protoc` and `include/`: protoc finds the second from the first.

use std::{env, fs, io, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let to = env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: protoc FOLDER"))?;
    let to = Path::new(&to);
    fs::create_dir_all(to.join("bin"))?;
    fs::copy(protoc_bin_vendored::protoc_bin_path()?, to.join("bin/protoc"))?;
    copy_folder(&protoc_bin_vendored::include_path()?, &to.join("include"))?;
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?
        } else {
            fs::copy(entry.path(), to).map(drop)?
        }
    }
    Ok(())
}
