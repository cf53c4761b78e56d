//! Symbols and debug information: whatever a file says, each answer is a name or none, and comes soon.
//!
//! The input is not a file but what stands in its sections: six times a length in two bytes, then the contents. A file is
//! put around them, so that what is tried is the readers and not the headers, for which there is a target of their own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profile::symbols::{gopclntab::Pc, native::NativeSymbols};

const SECTIONS: [&str; 6] =
    [".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_rnglists", ".symtab"];
const BASE: u64 = 0x40_0000;
const TEXT: usize = 0x200;

fn words(bytes: &mut Vec<u8>, words: &[u64]) {
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

/// A program with these sections, its text at `BASE + TEXT`.
fn file(data: &[u8]) -> Option<Vec<u8>> {
    let (lengths, mut rest) = data.split_at_checked(SECTIONS.len() * 2)?;
    let (mut content, mut headers) = (vec![0x90; TEXT], vec![0; 64]);
    let mut names = vec![0];
    let mut section = |name: &str, (kind, flags, link): (u64, u64, u64), bytes: &[u8]| {
        let (at, offset) = (names.len() as u64, (TEXT + content.len()) as u64);
        names.extend(name.bytes().chain([0]));
        let (offset, length) =
            if flags & 2 > 0 { (TEXT as u64, TEXT as u64) } else { (offset, bytes.len() as u64) };
        words(&mut headers, &[at | kind << 32, flags, BASE + offset, offset, length, link, 1, 24]);
        content.extend(bytes);
    };
    section(".text", (1, 6, 0), &[]);
    for (name, length) in SECTIONS.iter().zip(lengths.chunks_exact(2)) {
        let length = usize::from(u16::from_le_bytes([length[0], length[1]])).min(rest.len());
        let (bytes, behind) = rest.split_at(length);
        rest = behind;
        // Names of symbols are read from the texts of debug information: section 5.
        section(name, (if *name == ".symtab" { 2 } else { 1 }, 0, 5), bytes);
    }
    section(".shstrtab", (3, 0, 0), &[]);
    let names_at = TEXT + content.len();
    let last = headers.len() - 64;
    headers[last + 24..last + 32].copy_from_slice(&(names_at as u64).to_le_bytes());
    headers[last + 32..last + 40].copy_from_slice(&(names.len() as u64).to_le_bytes());
    let table = (names_at + names.len()) as u64;
    let mut file = Vec::new();
    words(&mut file, &[0x0001_0102_464c_457f, 0, 2 | 62 << 16 | 1 << 32, 0, 64, table, 64 << 32 | 56 << 48]);
    words(&mut file, &[1 | 64 << 16 | 9 << 32 | 8 << 48]);
    words(&mut file, &[1 | 5 << 32, TEXT as u64, BASE + TEXT as u64, 0, TEXT as u64, TEXT as u64, 4096]);
    file.resize(TEXT, 0);
    file.extend(content.iter().chain(&names).chain(&headers));
    Some(file)
}

fuzz_target!(|data: &[u8]| {
    let Some(file) = file(data) else { return };
    let mut symbols = NativeSymbols::open(&file[..]).expect("what is around the sections is whole");
    let start = BASE + TEXT as u64;
    for pc in
        (0..TEXT as u64).step_by(24).map(|at| start + at).chain([0, start - 1, start + TEXT as u64, u64::MAX])
    {
        if let Ok(Some(symbol)) = symbols.symbol(Pc::Sampled(pc)) {
            assert!(symbol.start <= pc && pc - symbol.start < u64::from(symbol.size));
        }
        let Ok(frames) = symbols.frames(Pc::Sampled(pc)) else { continue };
        assert!(frames.len() <= 129);
        assert!(frames.iter().all(|frame| !frame.function.is_empty() && frame.function.len() <= 4_100));
        assert!(frames.iter().rev().skip(1).all(|frame| frame.inlined));
        assert!(frames.last().is_none_or(|frame| !frame.inlined));
        assert!(frames.is_empty() || (start..start + TEXT as u64).contains(&pc));
    }
});
