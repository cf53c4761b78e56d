//! A process whose heap is to be read: which program it is, where that was loaded, and where its profile is.
//!
//! Owns the order in which that is asked, so that another program in its place is noticed. Reads /proc and the file.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use model::{profile::Mapping, time::Stamp};

use super::{
    Cost, HeapError, Rate, Reading,
    buckets::{self, Plan},
    layout::Layout,
    memory::{Memory, ProcessMemory},
    names::Namer,
    places,
};
use crate::symbols::{
    elf::Elf,
    file::{self, ReadAt, ReadError, u64_at},
    gopclntab::{GoError, GoSymbols},
    identity,
};

/// Some twenty pairs of words.
const AUXILIARY_BYTES_MAX: usize = 4 << 10;
const AUXILIARY_ENTRY: u64 = 9;

/// A process whose places are known.
#[derive(Debug)]
pub(super) struct Process {
    id: (u32, String),
    memory: Memory<ProcessMemory>,
    symbols: GoSymbols<File>,
    bias: u64,
    version: String,
    plan: Plan,
    rate: Option<u64>,
    mapping: Mapping,
}

impl Process {
    pub(super) fn open(pid: u32) -> Result<Process, HeapError> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        // First of all: whatever becomes of the process id, this is the memory of the program that is there now. When
        // another one takes its place before the rest is read, it is empty.
        let memory = ProcessMemory::open(pid).map_err(|error| HeapError::of(&error))?;
        let stat = fs::read_to_string(proc.join("stat")).map_err(|error| HeapError::of(&error))?;
        let started = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(19));
        let auxiliary = beginning(&proc.join("auxv")).map_err(|error| HeapError::of(&error))?;
        let exe = proc.join("exe");
        let path = fs::read_link(&exe).map_err(|error| HeapError::of(&error))?;
        let opened = file::open(&exe).map_err(|error| HeapError::of(&error))?;
        let mut symbols = GoSymbols::open(opened)?;
        let bias = entry(&auxiliary)
            .map(|entry| entry.wrapping_sub(symbols.elf().entry))
            .filter(|bias| bias.is_multiple_of(4_096))
            .ok_or(HeapError::NoPlace("the program"))?;
        let elf = symbols.elf().clone();
        let version = identity::go_version(symbols.file(), &elf).map_err(GoError::from)?.unwrap_or_default();
        let layout = Layout::of(&version).ok_or_else(|| HeapError::Version(version.clone()))?;
        let places = places::find(&mut symbols)?;
        let code = symbols.code();
        let plan = Plan {
            layout,
            head: places.head.wrapping_add(bias),
            cycle: places.cycle.wrapping_add(bias),
            code: code.start.wrapping_add(bias)..code.end.wrapping_add(bias),
        };
        let ids = build_ids(&mut symbols, &elf)?;
        let mapping = mapping(&elf, bias, path.to_string_lossy().into_owned(), ids);
        Ok(Process {
            id: (pid, started.unwrap_or_default().to_owned()),
            memory: Memory::new(memory),
            symbols,
            bias,
            version,
            plan,
            rate: places.rate.map(|rate| rate.wrapping_add(bias)),
            mapping,
        })
    }

    pub(super) fn read(mut self, at: Stamp) -> Result<Reading, HeapError> {
        let rate = match self.rate {
            Some(place) => Rate::Read(self.memory.u64(place)?),
            None => Rate::Assumed(places::RATE),
        };
        if rate.bytes() == 0 {
            return Err(HeapError::Off);
        }
        let snapshot = buckets::read(&mut self.memory, &self.plan, thread::sleep)?;
        let mut namer = Namer::new(&mut self.symbols, self.bias, self.mapping);
        let mut stacks = Vec::with_capacity(snapshot.buckets.len());
        for bucket in &snapshot.buckets {
            stacks.push(namer.stack(snapshot.stack(bucket))?);
        }
        let names = namer.finish();
        let cost = Cost { bytes: self.memory.bytes_read(), attempts: snapshot.attempts, cpu_ns: 0 };
        let (process, version) = (self.id, self.version);
        Ok(Reading { at, cycle: snapshot.cycle, rate, version, cost, process, snapshot, stacks, names })
    }
}

/// The first bytes of a file that the kernel makes up.
fn beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; AUXILIARY_BYTES_MAX];
    let read = File::open(path)?.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Where the program begins in memory, as the kernel has told the program itself.
pub(super) fn entry(auxiliary: &[u8]) -> Option<u64> {
    let mut pairs = auxiliary.chunks_exact(16).map(|pair| (u64_at(pair, 0), u64_at(pair, 8)));
    pairs.find(|(kind, _)| *kind == AUXILIARY_ENTRY).map(|(_, entry)| entry)
}

/// Of the linker, of Go; each empty where there is none.
fn build_ids<R: ReadAt>(symbols: &mut GoSymbols<R>, elf: &Elf) -> Result<[String; 2], HeapError> {
    let failed = |error: ReadError| HeapError::Go(error.into());
    let linker = identity::build_id(symbols.file(), elf).map_err(failed)?;
    let linker = linker.map_or_else(String::new, |id| identity::hex(id.iter()));
    Ok([linker, identity::go_build_id(symbols.file(), elf).map_err(failed)?.unwrap_or_default()])
}

/// Where the code of the program is.
fn mapping(elf: &Elf, bias: u64, path: String, [build_id, go_build_id]: [String; 2]) -> Mapping {
    let code = elf.segments.iter().find(|segment| segment.is_executable()).map(|segment| segment.span);
    let code = code.unwrap_or_default();
    let start = code.address.wrapping_add(bias);
    let end = start.wrapping_add(code.length);
    Mapping { path, build_id, go_build_id, start, end, offset: code.offset, ..Mapping::default() }
}
