//! Which file this is: build ids, the Go version, a hash for files without any.
//!
//! Owns the notes and the build information that linkers leave, and nothing of what they mean.

use sha2::{Digest, Sha256};

use super::elf::{Elf, ElfError, relative};
use super::file::{ReadAt, ReadError, Windows, u64_at};

/// Linkers write 20 bytes, 32 at most.
const BUILD_ID_BYTES_MAX: usize = 64;
/// Go writes four hashes of 20 characters and slashes between them.
const GO_BUILD_ID_BYTES_MAX: usize = 256;
/// `go1.26.8`; a development version has a hash, a date and experiments: up to a hundred.
const GO_VERSION_BYTES_MAX: usize = 256;
/// Without sections, the build information stands at the beginning of the data.
const SEARCH_BYTES: usize = 8 << 10;
/// All notes, the information, and one pass over relocations: a bound on a hostile file, far above an honest one.
const READ_BYTES_MAX: u64 = 80 << 20;
/// How much of each end of a file its hash is of.
const HASHED_BYTES: u64 = 4_096;

const GNU_BUILD_ID: u32 = 3;
const GO_BUILD_ID: u32 = 4;
const GO_MAGIC: &[u8] = b"\xff Go buildinf:";
const IS_BIG_ENDIAN: u8 = 1;
const IS_INLINE: u8 = 2;

/// The linker's build id (`.note.gnu.build-id`) as it is: bytes.
///
/// # Errors
/// When the file cannot be read; a file without an id, or with a strange one, has none.
pub fn build_id<R: ReadAt>(file: &mut Windows<R>, elf: &Elf) -> Result<Option<Vec<u8>>, ReadError> {
    file.allow(READ_BYTES_MAX);
    let id = elf.note(file, b"GNU\0", GNU_BUILD_ID)?;
    Ok(id.filter(|id| !id.is_empty() && id.len() <= BUILD_ID_BYTES_MAX))
}

/// Go's build id (`.note.go.buildid`), four hashes with slashes between them.
///
/// # Errors
/// When the file cannot be read; a file without an id, or with a strange one, has none.
pub fn go_build_id<R: ReadAt>(file: &mut Windows<R>, elf: &Elf) -> Result<Option<String>, ReadError> {
    file.allow(READ_BYTES_MAX);
    let id = elf.note(file, b"Go\0\0", GO_BUILD_ID)?;
    Ok(id.filter(|id| id.len() <= GO_BUILD_ID_BYTES_MAX).and_then(printable))
}

/// The version of Go that built this (`.go.buildinfo`): `go1.26.8`. `None` when Go did not.
///
/// # Errors
/// When the file cannot be read, or its relocations are damaged.
pub fn go_version<R: ReadAt>(file: &mut Windows<R>, elf: &Elf) -> Result<Option<String>, ElfError> {
    file.allow(READ_BYTES_MAX);
    let Some((offset, flags)) = build_info(file, elf)? else { return Ok(None) };
    if flags & IS_INLINE != 0 {
        return Ok(inline_version(file, offset)?);
    }
    if flags & IS_BIG_ENDIAN != 0 {
        return Ok(None);
    }
    // Up to Go 1.17: a pointer to a Go string, both of which the loader may have to move.
    let Some(string) = pointer_at(file, elf, offset.saturating_add(16))? else { return Ok(None) };
    let Some(string_at) = elf.offset_of(string) else { return Ok(None) };
    let Some(text) = pointer_at(file, elf, string_at)? else { return Ok(None) };
    let length = usize::try_from(file.u64(string_at.saturating_add(8))?).unwrap_or(usize::MAX);
    let Some(text_at) = elf.offset_of(text).filter(|_| length <= GO_VERSION_BYTES_MAX) else {
        return Ok(None);
    };
    Ok(version(file.bytes(text_at, length)?.to_vec()))
}

/// SHA-256 of the first and the last 4,096 bytes and of the length in eight, most significant first; the first half of it,
/// in hexadecimal. `OpenTelemetry` calls it `htlhash`: the id of a file that has no other.
///
/// # Errors
/// When the file cannot be read.
pub fn htlhash<R: ReadAt>(file: &mut Windows<R>) -> Result<String, ReadError> {
    file.allow(READ_BYTES_MAX);
    let (length, size) = (file.length(), file.length().min(HASHED_BYTES));
    let mut end = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut hash = Sha256::new();
    file.fill(0, &mut end)?;
    hash.update(&end);
    file.fill(length - size, &mut end)?;
    hash.update(&end);
    hash.update(length.to_be_bytes());
    Ok(hex(hash.finalize().iter().take(16)))
}

/// Bytes in hexadecimal.
pub fn hex<'a>(bytes: impl Iterator<Item = &'a u8>) -> String {
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Did Go build this, as far as names and notes tell? For whether a search is worth its while.
pub(super) fn looks_like_go<R: ReadAt>(file: &mut Windows<R>, elf: &Elf) -> Result<bool, ReadError> {
    Ok(elf.sections.is_empty()
        || elf.sections.iter().any(|section| section.name.starts_with(".go"))
        || elf.note(file, b"Go\0\0", GO_BUILD_ID)?.is_some()
        || build_info(file, elf)?.is_some())
}

/// Offset and flags of the build information.
fn build_info<R: ReadAt>(file: &mut Windows<R>, elf: &Elf) -> Result<Option<(u64, u8)>, ReadError> {
    let named = elf.section(".go.buildinfo").map(|section| section.span);
    let data = elf.segments.iter().filter(|segment| segment.is_writable()).map(|segment| segment.span);
    for span in named.into_iter().chain(data) {
        let length = usize::try_from(span.length).unwrap_or(usize::MAX).min(SEARCH_BYTES);
        let bytes = match file.bytes(span.offset, length) {
            Ok(bytes) => bytes,
            Err(ReadError::Truncated) => continue,
            Err(error) => return Err(error),
        };
        let headers = bytes.chunks_exact(16).zip(0_u64..);
        let mut found = headers.filter(|(header, _)| header.starts_with(GO_MAGIC));
        if let Some((header, at)) = found.find(|(header, _)| header.get(14) == Some(&8)) {
            let flags = header.get(15).copied().unwrap_or(0);
            return Ok(span.offset.checked_add(at * 16).map(|offset| (offset, flags)));
        }
    }
    Ok(None)
}

/// Since Go 1.18 the version stands there itself, with its length before it.
fn inline_version<R: ReadAt>(file: &mut Windows<R>, offset: u64) -> Result<Option<String>, ReadError> {
    let at = offset.saturating_add(32);
    let [low, high] = file.bytes(at, 2)?.first_chunk::<2>().copied().unwrap_or_default();
    let (length, size) = match (low, high) {
        (0..=127, _) => (usize::from(low), 1),
        (_, 0..=1) => (usize::from(low & 127) | usize::from(high) << 7, 2),
        _ => return Ok(None),
    };
    let bytes = file.bytes(at.saturating_add(size), length.min(GO_VERSION_BYTES_MAX))?;
    Ok(version(bytes.to_vec()))
}

/// The address that will be there when the loader is done; `None` for none.
fn pointer_at<R: ReadAt>(file: &mut Windows<R>, elf: &Elf, offset: u64) -> Result<Option<u64>, ElfError> {
    let written = file.bytes(offset, 8).map(|bytes| u64_at(bytes, 0))?;
    if written != 0 {
        return Ok(Some(written));
    }
    let mut target = None;
    relative(file, elf, |place, address| {
        if elf.offset_of(place) == Some(offset) {
            target = Some(address);
        }
    })?;
    Ok(target)
}

fn version(bytes: Vec<u8>) -> Option<String> {
    printable(bytes).filter(|text| text.starts_with("go") || text.starts_with("devel"))
}

fn printable(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok().filter(|text| text.chars().all(|c| c.is_ascii() && !c.is_ascii_control()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> String {
        htlhash(&mut Windows::new(bytes).unwrap()).unwrap()
    }

    /// The expected ones are by Python's hashlib: `sha256(b[:4096] + b[-min(4096, len(b)):] + len(b).to_bytes(8))`.
    #[test]
    fn a_file_without_an_id_is_known_by_its_ends_and_its_length() {
        assert_eq!(hash(b""), "af5570f5a1810b7af78caf4bc70a660f");
        assert_eq!(hash(b"short"), "44a7e1d2bd59d26f377a8dd07d0461ac");
        let long: Vec<u8> = (0..10_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        assert_eq!(hash(&long), "29e3194e821b97b5565d43a5156ad97a");
        let mut other = long;
        other[5_000] ^= 1;
        assert_eq!(hash(&other), "29e3194e821b97b5565d43a5156ad97a");
        other[9_999] ^= 1;
        assert_ne!(hash(&other), "29e3194e821b97b5565d43a5156ad97a");
    }

    /// A file whose data begins with build information.
    fn informed(information: &[u8], more: &[(usize, &[u8])]) -> Option<String> {
        let mut bytes = vec![0; 0x400];
        let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(0, 0x0001_0102_464c_457f);
        put(16, 2 | 62 << 16 | 1 << 32);
        put(32, 64);
        put(52, 64 | 56 << 16 | 1 << 32 | 64 << 48);
        put(64, 1 | 6 << 32);
        put(72, 0x100);
        put(80, 0x1_0100);
        put(96, 0x300);
        for (at, piece) in [(0x110, information)].iter().chain(more) {
            bytes[*at..*at + piece.len()].copy_from_slice(piece);
        }
        let mut file = Windows::new(&bytes[..]).unwrap();
        let elf = Elf::read(&mut file).unwrap();
        go_version(&mut file, &elf).unwrap()
    }

    #[test]
    fn the_version_stands_there_or_is_pointed_at() {
        let inline = b"\xff Go buildinf:\x08\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x08go1.26.8";
        assert_eq!(informed(inline, &[]).as_deref(), Some("go1.26.8"));
        let pointed = b"\xff Go buildinf:\x08\0\x80\x01\x01\0\0\0\0\0";
        let string = b"\x00\x02\x01\0\0\0\0\0\x06\0\0\0\0\0\0\0";
        assert_eq!(informed(pointed, &[(0x180, string), (0x200, b"go1.17")]).as_deref(), Some("go1.17"));
        assert_eq!(informed(pointed, &[(0x180, string), (0x200, b"gone\n!")]), None);
        assert_eq!(informed(pointed, &[]), None);
        assert_eq!(informed(b"\xff Go buildinf;", &[]), None);
    }
}
