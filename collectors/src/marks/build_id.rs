//! The build id of a program: the note that the linker (GNU) or Go leaves in it. Reads a few bounded pieces of the file and
//! maps nothing: a file that shrinks while it is mapped would kill us. Knows 64-bit little-endian ELF only.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Programs have about a dozen segments.
const SEGMENTS_MAX: u16 = 64;

/// Notes are some hundred bytes.
const NOTES_BYTES_MAX: u64 = 64 * 1024;

/// Characters of an id that are kept: 64 bits in hexadecimal tell builds apart, and people can still read them.
const ID_CHARS: usize = 16;

const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const NT_GO_BUILD_ID: u32 = 4;

/// The build id, or size and time of a program without one; `None` where we may not read it.
pub(super) fn of(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    if let Some(id) = note(&file) {
        return Some(id);
    }
    let data = file.metadata().ok()?;
    Some(format!("{:x}-{:x}", data.len(), data.mtime()))
}

fn note(file: &File) -> Option<String> {
    let header = piece(file, 0, 64)?;
    if header.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
        return None;
    }
    let table = u64_at(&header, 32)?;
    let (size, count) = (u16_at(&header, 54)?, u16_at(&header, 56)?);
    let mut go = None;
    for index in 0..count.min(SEGMENTS_MAX) {
        let at = table.checked_add(u64::from(index) * u64::from(size))?;
        let segment = piece(file, at, 56)?;
        if u32_at(&segment, 0)? != PT_NOTE {
            continue;
        }
        let notes = piece(file, u64_at(&segment, 8)?, u64_at(&segment, 32)?.min(NOTES_BYTES_MAX))?;
        match id_in(&notes) {
            (Some(gnu), _) => return Some(gnu),
            (None, found) => go = go.or(found),
        }
    }
    go
}

/// The ids of GNU and of Go among notes.
fn id_in(notes: &[u8]) -> (Option<String>, Option<String>) {
    let (mut gnu, mut go) = (None, None);
    let mut rest = notes;
    while let Some((name, kind, value, after)) = next_note(rest) {
        if name == b"GNU\0" && kind == NT_GNU_BUILD_ID {
            gnu = gnu.or_else(|| kept(&value.iter().map(|byte| format!("{byte:02x}")).collect::<String>()));
        } else if name == b"Go\0\0" && kind == NT_GO_BUILD_ID {
            // action/…/content: what was built is told by the last part.
            let text = String::from_utf8_lossy(value).into_owned();
            go = go.or_else(|| kept(text.rsplit('/').next().unwrap_or("")));
        }
        rest = after;
    }
    (gnu, go)
}

fn kept(id: &str) -> Option<String> {
    let id: String = id.chars().filter(char::is_ascii_graphic).take(ID_CHARS).collect();
    (!id.is_empty()).then_some(id)
}

type Note<'a> = (&'a [u8], u32, &'a [u8], &'a [u8]);

fn next_note(bytes: &[u8]) -> Option<Note<'_>> {
    let (name, value) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?);
    let kind = u32_at(bytes, 8)?;
    let (name, value) = (usize::try_from(name).ok()?, usize::try_from(value).ok()?);
    let body = bytes.get(12..)?;
    let value_at = name.checked_next_multiple_of(4)?;
    let end = value_at.checked_add(value)?.checked_next_multiple_of(4)?;
    let found = body.get(value_at..value_at.checked_add(value)?)?;
    Some((body.get(..name)?, kind, found, body.get(end..).unwrap_or_default()))
}

fn piece(file: &File, at: u64, len: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::discover::fixture::Tree;

    /// A program of one segment with a GNU and a Go note, as text: all its bytes are below 128.
    pub(crate) fn elf(gnu: &str, go: &str) -> String {
        let note = |name: &[u8; 4], kind: u8, value: &str| {
            let mut bytes =
                vec![4, 0, 0, 0, u8::try_from(value.len()).expect("short"), 0, 0, 0, kind, 0, 0, 0];
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let notes = [note(b"GNU\0", 3, gnu), note(b"Go\0\0", 4, go)].concat();
        let mut bytes = vec![0_u8; 64 + 56];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        (bytes[32], bytes[54], bytes[56], bytes[64]) = (64, 56, 1, 4);
        (bytes[64 + 8], bytes[64 + 32]) = (120, u8::try_from(notes.len()).expect("short"));
        bytes.extend_from_slice(&notes);
        String::from_utf8(bytes).expect("all below 128")
    }

    #[test]
    fn notes_give_the_build_id() {
        let tree = Tree::new("build-id");
        let check = |content: &str, expected: Option<&str>| {
            tree.file("program", content);
            let id = note(&File::open(tree.root().join("program")).expect("open"));
            assert_eq!(id.as_deref(), expected, "{content:?}");
        };
        check(&elf("az", "act/con"), Some("617a"));
        check(&elf("", "act/content"), Some("content"));
        check(&elf("", ""), None);
        check("#!/bin/sh\n", None);
        check("", None);
        for cut in 0..elf("ab", "c/d").len() - 1 {
            tree.file("program", &elf("ab", "c/d")[..cut]);
            assert_eq!(note(&File::open(tree.root().join("program")).expect("open")), None, "cut at {cut}");
        }
        assert!(of(&tree.root().join("program")).is_some_and(|id| id.contains('-')));
    }

    #[test]
    fn a_note_that_lies_about_its_length_ends_the_list() {
        for lengths in [[255_u8; 8], [0, 0, 0, 0, 255, 255, 255, 255], [255, 255, 255, 255, 0, 0, 0, 0]] {
            let mut bytes = lengths.to_vec();
            bytes.extend_from_slice(&[3, 0, 0, 0, b'G', b'N', b'U', 0]);
            assert_eq!(id_in(&bytes), (None, None));
        }
        assert_eq!(id_in(&[0; 4_096]), (None, None));
    }

    #[test]
    fn this_test_has_a_build_id_of_its_own_or_a_size() {
        assert!(of(Path::new("/proc/self/exe")).is_some());
    }
}
