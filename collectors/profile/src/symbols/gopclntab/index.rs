//! Which function is where: 8 bytes for each, and everything checked once that look-ups rely on.

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

/// All functions, in order.
#[derive(Debug)]
pub(super) struct Index {
    entries: Vec<Entry>,
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

    /// The function at an offset from the beginning of the code.
    pub(super) fn find(&self, offset: u32) -> Option<Place> {
        let after = self.entries.partition_point(|entry| entry.start <= offset);
        self.place(after.checked_sub(1)?).filter(|place| offset - place.start < place.size)
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
            index.entries.push(Entry { start, record: record_of(header, raw, half) });
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
