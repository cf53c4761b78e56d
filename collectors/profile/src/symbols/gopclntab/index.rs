//! Which function is where, and what an unwinder asks of it: 12 bytes for each, and everything checked once that look-ups
//! rely on.

use super::{
    super::{
        elf::{Elf, relative},
        file::{ReadAt, Windows, u32_at, u64_at},
    },
    GoError,
    header::{CHUNK_BYTES, Era, Header},
    record::{self, Record},
};

/// Addresses in the table that the loader has to write: position-independent programs of Go 1.16 and 1.17 have about six
/// a function. 8 MiB.
const RELOCATIONS_MAX: usize = 1 << 20;
/// Functions with inlined calls that a guess about trees is held against.
pub(super) const SAMPLES_MAX: usize = 16;
/// Every so many functions one is such a sample, so that they are not all of one package.
const SAMPLE_EVERY: usize = 61;

const DAMAGED: GoError = GoError::Damaged("the index of functions is");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// From the beginning of the code.
    start: u32,
    /// Among the records; [`NO_RECORD`] where there is no function.
    record: u32,
    /// Of its record, so that who unwinds need not read that.
    stack_pointers: u32,
}

/// What few functions have.
#[derive(Clone, Copy, Debug)]
struct Marks {
    /// Which entry has them.
    at: usize,
    is_plain: bool,
    switches_stack: bool,
}

/// How the index says that the code up to the next function is not Go's.
const NO_RECORD: u32 = u32::MAX;

/// Where a function is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) start: u32,
    pub(super) size: u32,
    pub(super) record: u64,
}

/// What is known of a function without its record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unwinding {
    pub(super) place: Place,
    /// As in its record.
    pub(super) stack_pointers: u32,
    /// See [`Record::is_plain`].
    pub(super) is_plain: bool,
    /// See [`Record::switches_stack`].
    pub(super) switches_stack: bool,
}

/// All functions, in order.
#[derive(Debug)]
pub(super) struct Index {
    entries: Vec<Entry>,
    /// Of the few that have any, in order.
    marks: Vec<Marks>,
    /// Of each piece of code of `1 << piece_shift` bytes: how many functions begin before it. A search among all functions
    /// meets a dozen that nobody has met lately, and that is what it takes.
    pieces: Vec<u32>,
    piece_shift: u32,
    end: u32,
    /// Go 1.16 writes addresses: the first one, which `entries` count from.
    base: Option<u64>,
    /// What the runtime calls functions that the compiler made up: the last of its numbers, another one in each version.
    wrapper: u8,
    /// Functions with trees of inlined calls.
    samples: Vec<Place>,
    /// Where in the file an address of a tree is missing, and the address.
    trees: Vec<(u32, u32)>,
}

impl Index {
    pub(super) fn load<R: ReadAt>(
        file: &mut Windows<R>,
        elf: &Elf,
        header: &Header,
    ) -> Result<Index, GoError> {
        let mut relocated = relocated(file, elf, header)?;
        relocated.sort_unstable();
        let mut index = read(file, header, &relocated)?;
        index.check(file, header, &relocated)?;
        index.cut();
        Ok(index)
    }

    /// Reads each record once: whatever they say that cannot be is found here, not by a wrong name later.
    fn check<R: ReadAt>(
        &mut self,
        file: &mut Windows<R>,
        header: &Header,
        relocated: &[(u32, u32)],
    ) -> Result<(), GoError> {
        let mut trees = Vec::new();
        for at in 0..self.entries.len() {
            let Some(place) = self.place(at) else { continue };
            let record = Record::read(file, header, place)?;
            let has_files = record.unit.is_none_or(|unit| u64::from(unit) * 4 <= header.units.length);
            if u64::from(record.name) >= header.names.length || !has_files {
                return Err(DAMAGED);
            }
            if let Some(base) = self.base {
                let address = record::address(file, header, place.record)?;
                if address != 0 && address != base + u64::from(place.start) {
                    return Err(DAMAGED);
                }
            }
            self.wrapper = self.wrapper.max(record.id);
            if let Some(entry) = self.entries.get_mut(at) {
                entry.stack_pointers = record.stack_pointers;
            }
            let (is_plain, switches_stack) = (record.is_plain(), record.switches_stack());
            if !is_plain || switches_stack {
                self.marks.push(Marks { at, is_plain, switches_stack });
            }
            let word = record.tree_word();
            if at % SAMPLE_EVERY == 0 || at + SAMPLES_MAX > self.entries.len() {
                self.sample(file, header, place, &record)?;
            }
            if let Some((word, tree)) = word.filter(|_| !relocated.is_empty()).and_then(|word| {
                let into = u32::try_from(word - header.span.offset).ok()?;
                Some((into, find(relocated, into)?))
            }) {
                trees.push((word, tree));
            }
        }
        trees.sort_unstable();
        self.trees = trees;
        Ok(())
    }

    fn sample<R: ReadAt>(
        &mut self,
        file: &mut Windows<R>,
        header: &Header,
        place: Place,
        record: &Record,
    ) -> Result<(), GoError> {
        if self.samples.len() < SAMPLES_MAX && record.tree(file, header, self)?.is_some() {
            self.samples.push(place);
        }
        Ok(())
    }

    /// Functions with trees of inlined calls.
    pub(super) fn samples(&self) -> &[Place] {
        &self.samples
    }

    /// Is this the number of functions that the compiler made up? Among two dozen it is the last.
    pub(super) fn is_wrapper(&self, id: u8) -> bool {
        id > 0 && id == self.wrapper
    }

    /// Cuts the code into pieces in which few functions begin, at most one piece for two functions.
    fn cut(&mut self) {
        let pieces_max = self.entries.len() / 2 + 1;
        let pieces = |shift: u32| usize::try_from(self.end >> shift).unwrap_or(usize::MAX).saturating_add(1);
        self.piece_shift =
            (0..u32::BITS - 1).find(|shift| pieces(*shift) <= pieces_max).unwrap_or(u32::BITS - 1);
        let (mut before, shift) = (0, self.piece_shift);
        self.pieces = (0..=self.end >> shift)
            .map(|piece| {
                let begins_before = |entry: &&Entry| entry.start >> shift < piece;
                let rest = self.entries.get(before..).unwrap_or_default();
                before += rest.iter().take_while(begins_before).count();
                u32::try_from(before).unwrap_or(u32::MAX)
            })
            .collect();
    }

    /// Which function is at an offset from the beginning of the code.
    fn entry(&self, offset: u32) -> Option<(usize, Place)> {
        let piece = usize::try_from(offset >> self.piece_shift).ok()?;
        let before = |piece: usize| self.pieces.get(piece).and_then(|before| usize::try_from(*before).ok());
        let (from, to) = (before(piece)?, before(piece + 1).unwrap_or(self.entries.len()));
        let after = from + self.entries.get(from..to)?.partition_point(|entry| entry.start <= offset);
        let at = after.checked_sub(1)?;
        let place = self.place(at).filter(|place| offset - place.start < place.size)?;
        Some((at, place))
    }

    /// The function at an offset from the beginning of the code.
    pub(super) fn find(&self, offset: u32) -> Option<Place> {
        self.entry(offset).map(|(_, place)| place)
    }

    /// What an unwinder asks of the function at an offset from the beginning of the code.
    pub(super) fn unwinding(&self, offset: u32) -> Option<Unwinding> {
        let (at, place) = self.entry(offset)?;
        let marks = self.marks.binary_search_by_key(&at, |marks| marks.at).ok();
        let marks = marks.and_then(|at| self.marks.get(at));
        Some(Unwinding {
            place,
            stack_pointers: self.entries.get(at)?.stack_pointers,
            is_plain: marks.is_none_or(|marks| marks.is_plain),
            switches_stack: marks.is_some_and(|marks| marks.switches_stack),
        })
    }

    fn place(&self, at: usize) -> Option<Place> {
        let entry = self.entries.get(at).filter(|entry| entry.record != NO_RECORD)?;
        let end = self.entries.get(at + 1).map_or(self.end, |next| next.start);
        Some(Place { start: entry.start, size: end - entry.start, record: u64::from(entry.record) })
    }

    pub(super) fn starts(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().filter(|entry| entry.record != NO_RECORD).map(|entry| entry.start)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where the first function is, from the beginning of the code.
    pub(super) fn first(&self) -> u64 {
        self.entries.first().map_or(0, |entry| u64::from(entry.start))
    }

    /// Where the last function ends.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.end)
    }

    /// The address that entries count from, where the table itself says it.
    pub(super) fn base(&self) -> Option<u64> {
        self.base
    }

    /// The address that the loader will write at an offset in the file.
    pub(super) fn relocated_tree(&self, header: &Header, word: u64) -> Option<u64> {
        let into = u32::try_from(word.checked_sub(header.span.offset)?).ok()?;
        find(&self.trees, into).map(u64::from)
    }
}

fn find(relocated: &[(u32, u32)], place: u32) -> Option<u32> {
    let at = relocated.binary_search_by_key(&place, |(place, _)| *place).ok()?;
    relocated.get(at).map(|(_, address)| *address)
}

/// Places in a table of Go 1.16, from its beginning, and the addresses that the loader will write there.
fn relocated<R: ReadAt>(
    file: &mut Windows<R>,
    elf: &Elf,
    header: &Header,
) -> Result<Vec<(u32, u32)>, GoError> {
    let mut found = Vec::new();
    if header.era != Era::Go116 {
        return Ok(found);
    }
    let (mut is_far, span) = (false, header.span);
    relative(file, elf, |place, address| {
        let Some(place) = place.checked_sub(span.address).filter(|place| *place < span.length) else {
            return;
        };
        match (u32::try_from(place), u32::try_from(address)) {
            (Ok(place), Ok(address)) if found.len() < RELOCATIONS_MAX => found.push((place, address)),
            _ => is_far = true,
        }
    })?;
    if is_far { Err(GoError::Damaged("the relocation of the table is")) } else { Ok(found) }
}

/// Reads the index itself: {where, which record} for each function, then where the last one ends.
fn read<R: ReadAt>(
    file: &mut Windows<R>,
    header: &Header,
    relocated: &[(u32, u32)],
) -> Result<Index, GoError> {
    let (size, half) = (header.era.entry_bytes(), header.era.entry_bytes() / 2);
    let count = usize::try_from(header.functions).map_err(|_| DAMAGED)?;
    let length = u64::try_from(count * size + half).map_err(|_| DAMAGED)?;
    let mut offset = header.records.piece(0, length).ok_or(DAMAGED)?;
    let mut index = Index {
        entries: Vec::with_capacity(count),
        marks: Vec::new(),
        pieces: Vec::new(),
        piece_shift: 0,
        end: 0,
        base: None,
        wrapper: 0,
        samples: Vec::new(),
        trees: Vec::new(),
    };
    let (mut bytes, mut before) = (Vec::new(), 0);
    loop {
        let left = count - index.entries.len();
        let now = left.min(CHUNK_BYTES / size);
        bytes.resize(if now == 0 { half } else { now * size }, 0);
        file.fill(offset, &mut bytes)?;
        for raw in bytes.chunks(size) {
            let start = start(header, relocated, &mut index.base, (offset, raw))?;
            if start < before {
                return Err(DAMAGED);
            }
            before = start;
            if now == 0 {
                index.end = start;
                return Ok(index);
            }
            index.entries.push(Entry { start, record: record_of(header, raw, half), stack_pointers: 0 });
            offset += u64::try_from(size).unwrap_or(0);
        }
    }
}

/// Where a function begins. The first address that Go 1.16 writes becomes the base of all.
fn start(
    header: &Header,
    relocated: &[(u32, u32)],
    base: &mut Option<u64>,
    (offset, raw): (u64, &[u8]),
) -> Result<u32, GoError> {
    if header.era != Era::Go116 {
        return Ok(u32_at(raw, 0));
    }
    let address = match u64_at(raw, 0) {
        0 => {
            let place = u32::try_from(offset - header.span.offset).ok();
            u64::from(place.and_then(|place| find(relocated, place)).ok_or(DAMAGED)?)
        }
        address => address,
    };
    let base = *base.get_or_insert(address);
    address.checked_sub(base).and_then(|start| u32::try_from(start).ok()).ok_or(DAMAGED)
}

/// Where a record is. Go before 1.18 has holes between several texts: 0, where the index itself is.
fn record_of(header: &Header, raw: &[u8], half: usize) -> u32 {
    let record = if header.era == Era::Go116 {
        u32::try_from(u64_at(raw, half)).unwrap_or(NO_RECORD)
    } else {
        u32_at(raw, half)
    };
    if record == 0 { NO_RECORD } else { record }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Entry, Index, Marks, NO_RECORD};

    fn index(mut starts: Vec<u32>, holes: &[usize], end: u32) -> Index {
        starts.sort_unstable();
        let end = end.max(starts.last().copied().unwrap_or(0));
        let record = |at: usize| if holes.contains(&at) { NO_RECORD } else { 1 };
        let entry = |(at, start)| Entry { start, record: record(at), stack_pointers: start ^ 7 };
        let entries: Vec<Entry> = starts.into_iter().enumerate().map(entry).collect();
        let marks = (0..entries.len()).step_by(3);
        let mut index = Index {
            marks: marks.map(|at| Marks { at, is_plain: at % 2 == 0, switches_stack: true }).collect(),
            entries,
            pieces: Vec::new(),
            piece_shift: 0,
            end,
            base: None,
            wrapper: 0,
            samples: Vec::new(),
            trees: Vec::new(),
        };
        index.cut();
        index
    }

    fn starts() -> impl Strategy<Value = Vec<u32>> {
        let (far, near) =
            (prop::collection::vec(any::<u32>(), 0..40), prop::collection::vec(0..300_u32, 0..200));
        prop_oneof![far, near]
    }

    proptest! {
        #[test]
        fn a_function_is_found_wherever_the_code_is_cut(
            starts in starts(),
            holes in prop::collection::vec(0..40_usize, 0..4),
            end in any::<u32>(),
            offsets in prop::collection::vec(any::<u32>(), 1..40),
        ) {
            let index = index(starts, &holes, end);
            prop_assert!(index.pieces.len() <= index.entries.len() / 2 + 2);
            let around = |entry: &Entry| [entry.start.saturating_sub(1), entry.start, entry.start.saturating_add(1)];
            let near: Vec<u32> = index.entries.iter().flat_map(around).collect();
            for offset in offsets.into_iter().chain(near).chain([0, index.end, u32::MAX]) {
                let is_here = |entry: &Entry| entry.start <= offset && offset < index.end;
                let last = index.entries.iter().rposition(is_here);
                let expected = last.filter(|at| index.entries[*at].record != NO_RECORD);
                let found = index.unwinding(offset);
                let start = found.map(|found| found.place.start);
                prop_assert_eq!(start, expected.map(|at| index.entries[at].start));
                prop_assert_eq!(index.find(offset).map(|place| place.start), start);
                if let Some((at, found)) = expected.zip(found) {
                    prop_assert_eq!(found.stack_pointers, index.entries[at].start ^ 7);
                    let is_plain = at % 3 != 0 || at % 2 == 0;
                    prop_assert_eq!((found.is_plain, found.switches_stack), (is_plain, at % 3 == 0));
                }
            }
        }
    }
}
