//! Programs that are built for a test.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("native").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn run(program: &str, arguments: &[&OsStr]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program} is missing: {error}"));
    assert!(status.success(), "{program} {arguments:?}");
}

/// Builds sources of `testdata/native`, optimized.
pub(crate) fn build(compiler: &str, name: &str, sources: &[&str], flags: &[&str]) -> PathBuf {
    let program = folder(name).join("program");
    let status = Command::new(compiler)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/native"))
        .arg("-O2")
        .args(flags)
        .args(sources)
        .arg("-o")
        .arg(&program)
        .status();
    let status =
        status.unwrap_or_else(|error| panic!("{compiler} is missing (install gcc and g++): {error}"));
    assert!(status.success(), "{compiler} cannot build {name}");
    program
}

pub(crate) fn rust(name: &str, debug: &str) -> PathBuf {
    let program = folder(&format!("rust-{name}")).join("program");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/native/program.rs");
    let flags = ["--edition=2024", "-Copt-level=2", "-C", debug, "-o"].map(OsStr::new);
    let arguments: Vec<&OsStr> = flags.into_iter().chain([program.as_os_str(), source.as_os_str()]).collect();
    run("rustc", &arguments);
    program
}

/// Files with sections that no tool here writes.
pub(crate) mod assemble {
    use super::{Path, fs};

    const PACKED: u64 = 1 << 11;

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// Headers of sections called `.debug_…`, by their place in the file.
    fn debug_sections(bytes: &[u8]) -> Vec<usize> {
        let table = usize::try_from(u64_at(bytes, 40)).unwrap();
        let number = |at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
        let names = usize::try_from(u64_at(bytes, table + number(62) * 64 + 24)).unwrap();
        let name = |at: usize| names + usize::try_from(u64_at(bytes, at) & 0xffff_ffff).unwrap();
        let headers = (0..number(60)).map(|section| table + section * 64);
        headers.filter(|at| bytes[name(*at)..].starts_with(b".debug_")).collect()
    }

    fn put(bytes: &mut [u8], at: usize, value: u64) {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn packed(kind: u32, real: u64, content: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        packed.extend(u64::from(kind).to_le_bytes());
        packed.extend(real.to_le_bytes());
        packed.extend(1_u64.to_le_bytes());
        packed.extend(content);
        packed
    }

    /// Packs each section of debug information and puts it behind the end of the file.
    pub(crate) fn pack_by_zstd(from: &Path, to: &Path) {
        let mut bytes = fs::read(from).unwrap();
        for header in debug_sections(&bytes) {
            let offset = usize::try_from(u64_at(&bytes, header + 24)).unwrap();
            let length = usize::try_from(u64_at(&bytes, header + 32)).unwrap();
            let content = zstd::bulk::compress(&bytes[offset..offset + length], 3).unwrap();
            replace(&mut bytes, header, &packed(2, u64::try_from(length).unwrap(), &content));
        }
        fs::write(to, bytes).unwrap();
    }

    /// Says of each section that it is packed, and how large it would be.
    pub(crate) fn pretend_packed(from: &Path, to: &Path, real: u64) {
        let mut bytes = fs::read(from).unwrap();
        for header in debug_sections(&bytes) {
            replace(&mut bytes, header, &packed(1, real, &[0x78, 0x9c, 1, 2, 3]));
        }
        fs::write(to, bytes).unwrap();
    }

    fn replace(bytes: &mut Vec<u8>, header: usize, content: &[u8]) {
        let end = u64::try_from(bytes.len()).unwrap();
        bytes.extend(content);
        let flags = u64_at(bytes, header + 8) | PACKED;
        put(bytes, header + 8, flags);
        put(bytes, header + 24, end);
        put(bytes, header + 32, u64::try_from(content.len()).unwrap());
    }
}
