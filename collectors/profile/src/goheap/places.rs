//! Where the runtime keeps its memory profile: read off its own code, which names the places, as no symbol does.
//!
//! Owns the search for a few functions by name, and which loads in them are of which variable. Nothing of a process is
//! read for it, only its file. Refuses to choose: where code loads one thing too many, there is no answer.

use std::collections::HashMap;

use super::HeapError;
use crate::symbols::{
    elf::{Elf, Machine},
    file::{ReadAt, u32_at},
    gopclntab::{GoError, GoSymbols, Pc},
};

/// Adds the events of a cycle to what is published: it walks all buckets.
const FLUSH_LOCKED: &str = "runtime.mProf_FlushLocked";
/// The same for the next cycle.
const POST_SWEEP: &str = "runtime.mProf_PostSweep";
/// Files an allocation under the cycle after that.
const MALLOC: &str = "runtime.mProf_Malloc";
/// Decides when the next allocation is sampled; in some versions by another function.
const PROFILE: &str = "runtime.profilealloc";
const NEXT_SAMPLE: &str = "runtime.nextSample";
const WANTED: [&str; 5] = [FLUSH_LOCKED, POST_SWEEP, MALLOC, PROFILE, NEXT_SAMPLE];

/// Functions whose names are looked at. The runtime, among whose 3,000 they are, is linked before what uses it.
const FUNCTIONS_MAX: usize = 20_000;
/// So many functions of others in a row are the end of the runtime, once it has begun.
const OTHERS_MAX: usize = 256;
/// The longest of them has 500 bytes.
const CODE_BYTES_MAX: u64 = 4 << 10;
/// For the code of one function: a window or two.
const READ_BYTES_MAX: u64 = 64 << 10;
/// What the rate is in every file: runtime.MemProfileRate is 512 KiB until the program says otherwise.
pub(super) const RATE: u64 = 512 << 10;

/// Addresses in the file's own terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// A word of 64 bits: the newest bucket's address.
    pub(super) head: u64,
    /// A word of 32 bits: which cycle it is.
    pub(super) cycle: u64,
    /// A word of 64 bits: the mean number of bytes from one sampled allocation to the next.
    pub(super) rate: Option<u64>,
}

/// How many bytes an instruction loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Width {
    Four = 4,
    Eight = 8,
}

type Load = (Width, u64);

/// Finds all there is.
pub(super) fn find<R: ReadAt>(symbols: &mut GoSymbols<R>) -> Result<Places, HeapError> {
    let code = functions(symbols)?;
    let walks = [FLUSH_LOCKED, POST_SWEEP].into_iter().filter_map(|name| code.get(name)).flatten();
    let walks: Vec<Load> = walks.copied().collect();
    let head = only(&walks, Width::Eight).ok_or(HeapError::NoPlace("the chain of buckets"))?;
    let cycle = only(&walks, Width::Four).ok_or(HeapError::NoPlace("the number of the cycle"))?;
    // Whoever files an allocation must go by the same number.
    if !code.get(MALLOC).is_some_and(|loads| loads.contains(&(Width::Four, cycle))) {
        return Err(HeapError::NoPlace("the number of the cycle"));
    }
    let samplers = [PROFILE, NEXT_SAMPLE].into_iter().filter_map(|name| code.get(name)).flatten();
    let mut rates = Vec::new();
    for (width, address) in samplers.copied().collect::<Vec<Load>>() {
        if is_rate(symbols, address) {
            rates.push((width, address));
        }
    }
    Ok(Places { head, cycle, rate: only(&rates, Width::Eight) })
}

/// What the wanted functions load, by their names.
fn functions<R: ReadAt>(symbols: &mut GoSymbols<R>) -> Result<HashMap<&'static str, Vec<Load>>, HeapError> {
    let entries: Vec<u64> = symbols.entries().take(FUNCTIONS_MAX).collect();
    let (mut found, mut others) = (HashMap::new(), None);
    for entry in entries {
        let Some(function) = symbols.function(Pc::Sampled(entry))? else { continue };
        if function.name.starts_with("runtime.") {
            others = Some(0);
        } else if let Some(others) = &mut others {
            *others += 1;
        }
        if let Some(name) = WANTED.into_iter().find(|name| *name == function.name) {
            found.insert(name, loads(symbols, function.start, function.end)?);
        }
        if found.len() == WANTED.len() || others.is_some_and(|others| others > OTHERS_MAX) {
            break;
        }
    }
    Ok(found)
}

/// The address of the only variable of this width that is loaded.
fn only(loads: &[Load], width: Width) -> Option<u64> {
    let mut addresses = loads.iter().filter(|load| load.0 == width).map(|load| load.1);
    let first = addresses.next()?;
    addresses.all(|address| address == first).then_some(first)
}

/// Does the file have the rate there that every program begins with?
fn is_rate<R: ReadAt>(symbols: &mut GoSymbols<R>, address: u64) -> bool {
    let Some(offset) = symbols.elf().offset_of(address) else { return false };
    let file = symbols.file();
    file.allow(READ_BYTES_MAX);
    file.u64(offset) == Ok(RATE)
}

/// Variables that the code between two addresses loads.
fn loads<R: ReadAt>(symbols: &mut GoSymbols<R>, start: u64, end: u64) -> Result<Vec<Load>, HeapError> {
    let length = end.saturating_sub(start).min(CODE_BYTES_MAX);
    let Some(offset) = symbols.elf().offset_of(start) else { return Ok(Vec::new()) };
    let file = symbols.file();
    file.allow(READ_BYTES_MAX);
    let code = file.bytes(offset, usize::try_from(length).unwrap_or(0)).map_err(GoError::from)?.to_vec();
    let mut loads = match symbols.elf().machine {
        Machine::X86_64 => x86_64(&code, start),
        Machine::Arm64 => arm64(&code, start),
    };
    loads.retain(|load| is_variable(symbols.elf(), *load));
    Ok(loads)
}

fn is_variable(elf: &Elf, (width, address): Load) -> bool {
    let size = if width == Width::Eight { 8 } else { 4 };
    let mut data = elf.segments.iter().filter(|segment| segment.is_writable());
    address.is_multiple_of(size) && data.any(|segment| segment.holds(address, size))
}

/// `mov register, [rip + distance]`: `8b`, a byte that says so, the distance in four; before it perhaps a prefix, of which
/// one bit makes the register one of 64 bits. Bytes that only look like it lead out of the data, or to one variable too many.
fn x86_64(code: &[u8], start: u64) -> Vec<Load> {
    const BYTES: usize = 6;
    let mut loads = Vec::new();
    for (at, bytes) in code.windows(BYTES).enumerate() {
        let [0x8b, how, ..] = bytes else { continue };
        if how & 0xc7 != 0x05 {
            continue;
        }
        let distance = i64::from(u32_at(bytes, 2).cast_signed());
        let prefix = at.checked_sub(1).and_then(|before| code.get(before)).copied().unwrap_or(0);
        let width = if prefix & 0xf8 == 0x48 { Width::Eight } else { Width::Four };
        let next = u64::try_from(at + BYTES).ok().and_then(|into| start.checked_add(into));
        loads.extend(next.and_then(|next| next.checked_add_signed(distance)).map(|address| (width, address)));
    }
    loads
}

/// `adrp` puts a page into a register, `add` the place in it, `ldr` or `ldar` loads from there.
fn arm64(code: &[u8], start: u64) -> Vec<Load> {
    let mut registers: [Option<u64>; 32] = [None; 32];
    let mut loads = Vec::new();
    for (at, bytes) in code.chunks_exact(4).enumerate() {
        let word = u32_at(bytes, 0);
        let Some(here) = u64::try_from(at * 4).ok().and_then(|into| start.checked_add(into)) else { break };
        let register = |shift: u32| usize::try_from(word >> shift & 31).unwrap_or(0);
        let base = registers.get(register(5)).copied().flatten();
        let immediate = u64::from(word >> 10 & 0xfff);
        let target = match word {
            _ if word & 0x9f00_0000 == 0x9000_0000 => Some(page(word, here)),
            _ if word & 0xffc0_0000 == 0x9100_0000 => base.and_then(|base| base.checked_add(immediate)),
            _ => None,
        };
        let load = match word {
            _ if word & 0xffc0_0000 == 0xf940_0000 => Some((Width::Eight, immediate * 8)),
            _ if word & 0xffc0_0000 == 0xb940_0000 => Some((Width::Four, immediate * 4)),
            _ if word & 0xffff_fc00 == 0xc8df_fc00 => Some((Width::Eight, 0)),
            _ if word & 0xffff_fc00 == 0x88df_fc00 => Some((Width::Four, 0)),
            _ => None,
        };
        loads.extend(load.zip(base).and_then(|((width, into), base)| Some((width, base.checked_add(into)?))));
        // Whatever else an instruction does to the register it names first, the page is no longer known to be there.
        if let Some(place) = registers.get_mut(register(0)) {
            *place = target;
        }
    }
    loads
}

/// The page of an `adrp`: 21 signed bits of pages from here.
fn page(word: u32, here: u64) -> u64 {
    let pages = (word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3;
    let signed = i64::from((pages << 11).cast_signed() >> 11);
    (here & !0xfff).wrapping_add_signed(signed << 12)
}
