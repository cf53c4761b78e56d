//! Where the code is, and where trees of inlined calls are: the program's own description of itself, `moduledata`.
//!
//! It is found by the one thing known of it, the table's address in its first word, and believed when a dozen other words
//! agree with the table.

use super::{
    super::{
        elf::{Elf, Span, relative},
        file::{ReadAt, ReadError, Windows, u64_at},
    },
    GoError,
    header::{Era, Header, words},
    index::{Index, Place},
    record::{InlinedCall, Record},
};

/// Words read of it: trees are in the 44th of Go 1.27.
const WORDS: usize = 48;
/// Since Go 1.26 it has a section of its own.
const SECTION: &str = ".go.module";
/// Data looked through for it. An etcd has less than one mebibyte, the largest programs some tens.
const DATA_BYTES_MAX: u64 = 64 << 20;
/// Words that hold the table's address: two in an honest program.
const CANDIDATES_MAX: usize = 64;
/// Which word says where trees begin: since Go 1.27, in Go 1.20 to 1.26, before.
const TREES_SINCE_1_20: [usize; 2] = [40, 43];
const TREES_BEFORE: [usize; 1] = [38];

type Words = [u64; WORDS];

/// The beginning of the code, and that of the trees.
pub(super) fn places<R: ReadAt>(
    file: &mut Windows<R>,
    elf: &Elf,
    header: &Header,
    index: &Index,
) -> Result<(u64, Option<u64>), GoError> {
    if let Some(base) = index.base() {
        return Ok((base, None));
    }
    let mut candidates: Vec<u64> =
        elf.section(SECTION).map(|section| section.span.address).into_iter().collect();
    relative(file, elf, |place, address| {
        if address == header.span.address && candidates.len() < CANDIDATES_MAX {
            candidates.push(place);
        }
    })?;
    if let Some(found) = first(file, elf, header, index, &candidates)? {
        return Ok(found);
    }
    let candidates = search(file, elf, header)?;
    match first(file, elf, header, index, &candidates)? {
        Some(found) => Ok(found),
        // Without the module, the table's own word for it has to do, which Go 1.26 no longer writes.
        None if header.text != 0 => Ok((header.text, None)),
        None => Err(GoError::NoText),
    }
}

/// The places that the first candidate to agree with the table gives.
fn first<R: ReadAt>(
    file: &mut Windows<R>,
    elf: &Elf,
    header: &Header,
    index: &Index,
    candidates: &[u64],
) -> Result<Option<(u64, Option<u64>)>, GoError> {
    for candidate in candidates {
        let Some(words) = read(file, elf, *candidate)? else { continue };
        if let Some(text) = text(&words, header, index) {
            return Ok(Some((text, trees(file, elf, header, index, &words)?)));
        }
    }
    Ok(None)
}

/// Where else the table's address stands in the data.
fn search<R: ReadAt>(file: &mut Windows<R>, elf: &Elf, header: &Header) -> Result<Vec<u64>, ReadError> {
    let (mut found, mut left) = (Vec::new(), DATA_BYTES_MAX);
    for segment in elf.segments.iter().filter(|segment| segment.is_writable()) {
        let span = Span { length: segment.span.length.min(left), ..segment.span };
        left -= span.length;
        words(file, span, |_, offset, word| {
            if word == header.span.address {
                found.extend(span.address_of(offset));
            }
            Ok(found.len() < CANDIDATES_MAX)
        })?;
    }
    Ok(found)
}

/// The words at an address, as they will be when the loader is done.
fn read<R: ReadAt>(file: &mut Windows<R>, elf: &Elf, address: u64) -> Result<Option<Words>, GoError> {
    let Some(offset) = elf.offset_of(address) else { return Ok(None) };
    let mut read = [0; WORDS];
    match file.bytes(offset, WORDS * 8) {
        Ok(raw) => read.iter_mut().zip(raw.chunks_exact(8)).for_each(|(word, raw)| *word = u64_at(raw, 0)),
        Err(ReadError::Truncated) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    relative(file, elf, |place, target| {
        let into = place.checked_sub(address).filter(|into| into % 8 == 0);
        let word = into.and_then(|into| usize::try_from(into / 8).ok()).and_then(|word| read.get_mut(word));
        if let Some(word) = word {
            *word = target;
        }
    })?;
    Ok(Some(read))
}

/// Where the code begins, if this is the description of this table.
fn text(words: &Words, header: &Header, index: &Index) -> Option<u64> {
    let [of_header, names, _, _, units, _, _, paths, _, _, values, _, _, records, _, _, entries, count, ..] =
        *words;
    let [.., first, end, text, text_end] = words.get(..24)?.try_into().ok().map(|head: [u64; 24]| head)?;
    let agrees = of_header == header.span.address
        && Some(names) == header.address_of(header.names)
        && Some(units) == header.address_of(header.units)
        && Some(paths) == header.address_of(header.paths)
        && Some(values) == header.address_of(header.values)
        && Some(records) == header.address_of(header.records)
        && entries == records
        && count == u64::from(header.functions) + 1
        && Some(first) == text.checked_add(index.first())
        && Some(end) == text.checked_add(index.end())
        && text < text_end
        && (header.text == 0 || header.text == text);
    agrees.then_some(text)
}

/// Where trees begin: the word that makes sense of all samples.
fn trees<R: ReadAt>(
    file: &mut Windows<R>,
    elf: &Elf,
    header: &Header,
    index: &Index,
    words: &Words,
) -> Result<Option<u64>, GoError> {
    let candidates: &[usize] = if header.era == Era::Go120 { &TREES_SINCE_1_20 } else { &TREES_BEFORE };
    for base in candidates.iter().filter_map(|word| words.get(*word)) {
        let mut is_base = !index.samples().is_empty();
        for place in index.samples() {
            is_base = is_base && is_tree(file, elf, header, index, (*place, *base))?;
        }
        if is_base {
            return Ok(Some(*base));
        }
    }
    Ok(None)
}

/// Is there a tree for this function, if trees begin there?
fn is_tree<R: ReadAt>(
    file: &mut Windows<R>,
    elf: &Elf,
    header: &Header,
    index: &Index,
    (place, base): (Place, u64),
) -> Result<bool, GoError> {
    let record = Record::read(file, header, place)?;
    let Some(tree) = record.tree(file, header, index)?.and_then(|tree| base.checked_add(tree)) else {
        return Ok(false);
    };
    let call = InlinedCall::read(file, elf, header, tree, 0)?;
    // The parent of a call that left no instruction behind is unknown, and never asked for.
    Ok(call.is_some_and(|call| call.parent < place.size || call.parent == u32::MAX))
}
