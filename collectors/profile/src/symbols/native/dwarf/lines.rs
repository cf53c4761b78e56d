//! File and line of each instruction of one unit.
//!
//! Owns the rows of its line program, and the paths of its files, which are put together when one is asked for.

use gimli::{Attribute, AttributeValue, FileEntry, LineProgramHeader, Reader, Section};

use super::{super::piece::Piece, Code, Sections, units::Root};
use crate::symbols::{file::ReadAt, gopclntab::Source, native::store::Shared};

/// 12 bytes each: the same bound as for what is kept of all units. 100,000 are many for one.
const ROWS_MAX: usize = 1 << 20;
/// The tables of files and folders before a program. A unit with 3,000 files has 70 KiB; an entry takes a hundred times
/// more memory than a lying file spends on it.
const HEADER_BYTES_MAX: u64 = 256 << 10;
/// The kernel's own limit on a path.
const PATH_BYTES_MAX: usize = 4_096;
/// In [`Row::file`]: here the code of this program ends.
const END: u32 = u32::MAX;

/// A line of a file of the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineOf {
    pub(super) file: u64,
    pub(super) line: u32,
}

impl LineOf {
    /// Keeps where something was called, if the attribute says that.
    pub(super) fn take<R: ReadAt>(&mut self, attribute: &Attribute<Piece<'_, R>>) {
        match (attribute.name(), attribute.value()) {
            (gimli::DW_AT_call_file, AttributeValue::FileIndex(file)) => self.file = file,
            (gimli::DW_AT_call_line, _) => {
                let line = attribute.udata_value().and_then(|line| u32::try_from(line).ok());
                self.line = line.unwrap_or(0);
            }
            _ => {}
        }
    }

    /// Itself, if it is known: no compiler has a line 0.
    pub(super) fn known(self) -> Option<LineOf> {
        Some(self).filter(|of| of.line > 0 && of.file < u64::from(END))
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    begin: u32,
    file: u32,
    line: u32,
}

/// In the order of addresses.
#[derive(Debug)]
pub(super) struct Lines(Vec<Row>);

/// Rows of one stretch of code, which a program may have in any order.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    begin: u32,
    end: u32,
    first: usize,
    last: usize,
}

impl Lines {
    pub(super) fn load<'a, R: ReadAt>(
        sections: &Sections<'a, R>,
        store: &Shared<R>,
        root: &Root<'a, R>,
        code: Code,
    ) -> gimli::Result<Lines> {
        let Some(program) = program(sections, root)? else { return Ok(Lines(Vec::new())) };
        let (mut rows, mut sequences) = (Vec::<Row>::new(), Vec::new());
        let (mut first, mut start) = (0, None);
        let mut running = program.rows();
        while let Some((_, row)) = running.next_row()? {
            if rows.len() + sequences.len() >= ROWS_MAX {
                store.borrow_mut().spend(u64::MAX);
                return Err(gimli::Error::Io);
            }
            if row.end_sequence() {
                // Of functions that the linker dropped the lines remain, from address 0 or 1 on.
                let is_dropped = start.take().is_none_or(|start| start <= 1);
                let end = code.at(row.address().saturating_sub(1)).map(|last| last + 1);
                if let Some(end) = end.filter(|_| !is_dropped) {
                    sequences.extend(sequence(&mut rows, first, end));
                }
                // A stretch that is no code leaves no rows.
                rows.truncate(sequences.last().map_or(0, |sequence: &Sequence| sequence.last));
                first = rows.len();
                continue;
            }
            start.get_or_insert(row.address());
            let Some(begin) = code.at(row.address()) else { continue };
            let line = row.line().and_then(|line| u32::try_from(line.get()).ok()).unwrap_or(0);
            let row = Row { begin, file: u32::try_from(row.file_index()).unwrap_or(END).min(END - 1), line };
            match rows.get_mut(first..).and_then(<[Row]>::last_mut).filter(|last| last.begin == begin) {
                // Of several at one address the last one counts.
                Some(last) => *last = row,
                None => rows.push(row),
            }
        }
        Ok(Lines(ordered(&rows, sequences)))
    }

    pub(super) fn find(&self, at: u32) -> Option<LineOf> {
        let after = self.0.partition_point(|row| row.begin <= at);
        let row = self.0.get(after.checked_sub(1)?).filter(|row| row.file != END)?;
        LineOf { file: u64::from(row.file), line: row.line }.known()
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Row>()
    }
}

/// The stretch of the rows from `first` on.
fn sequence(rows: &mut [Row], first: usize, end: u32) -> Option<Sequence> {
    let rows = rows.get_mut(first..)?;
    if !rows.is_sorted_by_key(|row| row.begin) {
        rows.sort_by_key(|row| row.begin);
    }
    // Compilers like to say once more, at the end, which line was the last.
    let length = rows.partition_point(|row| row.begin < end);
    let begin = rows.get(..length)?.first()?.begin;
    Some(Sequence { begin, end, first, last: first + length })
}

/// The rows in order, one where nothing changes, and an end behind each stretch. One that begins within another is dropped.
fn ordered(rows: &[Row], mut sequences: Vec<Sequence>) -> Vec<Row> {
    sequences.sort_by_key(|sequence| sequence.begin);
    let mut ordered: Vec<Row> = Vec::with_capacity(rows.len() + sequences.len());
    let mut end = 0;
    for sequence in sequences {
        if sequence.begin < end {
            continue;
        }
        if ordered.last().is_some_and(|last| last.begin == sequence.begin) {
            ordered.pop();
        }
        for row in rows.get(sequence.first..sequence.last).unwrap_or_default() {
            let is_same = ordered.last().is_some_and(|last| last.file == row.file && last.line == row.line);
            if !is_same {
                ordered.push(*row);
            }
        }
        end = sequence.end;
        ordered.push(Row { begin: end, file: END, line: 0 });
    }
    ordered.shrink_to_fit();
    ordered
}

/// The unit's line program, if its tables are not too large.
fn program<'a, R: ReadAt>(
    sections: &Sections<'a, R>,
    root: &Root<'a, R>,
) -> gimli::Result<Option<gimli::IncompleteLineProgram<Piece<'a, R>>>> {
    let Some(offset) = root.lines else { return Ok(None) };
    // Length, version, since DWARF 5 two sizes, then how long the tables are.
    let mut header = *sections.debug_line.reader();
    header.skip(offset.0)?;
    let (_, format) = header.read_initial_length()?;
    if header.read_u16()? >= 5 {
        header.skip(2)?;
    }
    if header.read_length(format)? > HEADER_BYTES_MAX {
        return Err(gimli::Error::Io);
    }
    let (size, folder, name) = (root.unit.header.address_size(), root.unit.comp_dir, root.unit.name);
    sections.debug_line.program(offset, size, folder, name).map(Some)
}

/// The paths of a unit's files.
pub(super) struct Files<'s, 'a, R: ReadAt> {
    sections: &'s Sections<'a, R>,
    root: &'s Root<'a, R>,
    header: Option<Option<LineProgramHeader<Piece<'a, R>>>>,
}

impl<'s, 'a, R: ReadAt> Files<'s, 'a, R> {
    pub(super) fn new(sections: &'s Sections<'a, R>, root: &'s Root<'a, R>) -> Files<'s, 'a, R> {
        Files { sections, root, header: None }
    }

    pub(super) fn source(&mut self, of: LineOf) -> Option<Source> {
        let (sections, root) = (self.sections, self.root);
        let header = self.header.get_or_insert_with(|| {
            program(sections, root).ok().flatten().map(|program| program.header().clone())
        });
        let header = header.as_ref()?;
        let file = path(sections, root, header, header.file(of.file)?)?;
        Some(Source { file, line: of.line })
    }
}

/// Folder of the unit, folder of the file, file: an absolute one makes those before it void.
fn path<'a, R: ReadAt>(
    sections: &Sections<'a, R>,
    root: &Root<'a, R>,
    header: &LineProgramHeader<Piece<'a, R>>,
    file: &FileEntry<Piece<'a, R>>,
) -> Option<String> {
    let text = |value| {
        let text = sections.attr_string(&root.unit, value).ok()?;
        text.to_string_lossy().ok().map(|text| text.into_owned())
    };
    let mut path = match root.unit.comp_dir {
        Some(folder) => folder.to_string_lossy().ok()?.into_owned(),
        None => String::new(),
    };
    // Folder 0 is the unit's own.
    let folder = file.directory(header).filter(|_| file.directory_index() > 0);
    for part in [folder.and_then(text), Some(text(file.path_name())?)].into_iter().flatten() {
        if part.starts_with('/') {
            path.clear();
        } else if !path.is_empty() && !path.ends_with('/') {
            path.push('/');
        }
        path.push_str(&part);
    }
    (path.len() <= PATH_BYTES_MAX && !path.is_empty()).then_some(path)
}
