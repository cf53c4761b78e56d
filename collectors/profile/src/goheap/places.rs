//! Where the runtime keeps its memory profile: read off its own code, which names the places, as no symbol does.
//!
//! Owns the search for a few functions by name, and which variable is which of those they use. Nothing of a process is
//! read for it, only its file. Refuses to choose: where code uses one thing too many, there is no answer.

use std::collections::{BTreeSet, HashMap};

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
/// Set it at the start of a program, and nothing else that is loaded by those two.
const SETTERS: [&str; 2] = ["runtime.parsedebugvars", "runtime.parsegodebug"];
const WANTED: [&str; 7] = [FLUSH_LOCKED, POST_SWEEP, MALLOC, PROFILE, NEXT_SAMPLE, SETTERS[0], SETTERS[1]];

/// Functions whose names are looked at. The runtime, among whose 3,000 they are, is linked before what uses it.
const FUNCTIONS_MAX: usize = 20_000;
/// So many functions of others in a row are the end of the runtime, once one of the wanted was seen: a few functions that
/// are called after the runtime belong to packages before it.
const OTHERS_MAX: usize = 256;
/// The longest of them has 500 bytes.
const CODE_BYTES_MAX: u64 = 4 << 10;
/// For the code of one function: a window or two.
const READ_BYTES_MAX: u64 = 64 << 10;
/// What the rate is in most files: runtime.MemProfileRate is 512 KiB until the program says otherwise. From Go 1.17 on to
/// 1.20 it is computed at the start.
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

/// Finds all there is.
pub(super) fn find<R: ReadAt>(symbols: &mut GoSymbols<R>) -> Result<Places, HeapError> {
    let code = functions(symbols)?;
    let of = |names: &[&str]| -> BTreeSet<u64> {
        names.iter().filter_map(|name| code.get(name)).flatten().copied().collect()
    };
    // Both walks load where the chain begins and which cycle it is, and no more. Who files an allocation goes by the cycle,
    // too, but does not walk.
    let (walks, filing) = (of(&[FLUSH_LOCKED, POST_SWEEP]), of(&[MALLOC]));
    let cycle = only(walks.intersection(&filing)).ok_or(HeapError::NoPlace("the number of the cycle"))?;
    let head = only(walks.difference(&filing)).filter(|head| head.is_multiple_of(8));
    let head = head.ok_or(HeapError::NoPlace("the chain of buckets"))?;
    let sampling = of(&[PROFILE, NEXT_SAMPLE]);
    let (mut rates, setting) = (BTreeSet::new(), of(&SETTERS));
    for address in sampling {
        if address.is_multiple_of(8) && (setting.contains(&address) || is_rate(symbols, address)) {
            rates.insert(address);
        }
    }
    Ok(Places { head, cycle, rate: only(rates.iter()) })
}

/// The only one, if there is but one.
fn only<'a>(mut addresses: impl Iterator<Item = &'a u64>) -> Option<u64> {
    let first = addresses.next().copied();
    first.filter(|_| addresses.next().is_none())
}

/// What the wanted functions load, by their names.
fn functions<R: ReadAt>(symbols: &mut GoSymbols<R>) -> Result<HashMap<&'static str, Vec<u64>>, HeapError> {
    let entries: Vec<u64> = symbols.entries().take(FUNCTIONS_MAX).collect();
    let (mut found, mut others) = (HashMap::new(), 0);
    for entry in entries {
        let Some(function) = symbols.function(Pc::Sampled(entry))? else { continue };
        others = if function.name.starts_with("runtime.") { 0 } else { others + 1 };
        if let Some(name) = WANTED.into_iter().find(|name| *name == function.name) {
            found.insert(name, operands(symbols, function.start, function.end)?);
        }
        if found.len() == WANTED.len() || (!found.is_empty() && others > OTHERS_MAX) {
            break;
        }
    }
    Ok(found)
}

/// Does the file have the rate there that every program begins with?
fn is_rate<R: ReadAt>(symbols: &mut GoSymbols<R>, address: u64) -> bool {
    let Some(offset) = symbols.elf().offset_of(address) else { return false };
    let file = symbols.file();
    file.allow(READ_BYTES_MAX);
    file.u64(offset) == Ok(RATE)
}

/// Variables that the code between two addresses loads or stores.
fn operands<R: ReadAt>(symbols: &mut GoSymbols<R>, start: u64, end: u64) -> Result<Vec<u64>, HeapError> {
    let length = end.saturating_sub(start).min(CODE_BYTES_MAX);
    let Some(offset) = symbols.elf().offset_of(start) else { return Ok(Vec::new()) };
    let file = symbols.file();
    file.allow(READ_BYTES_MAX);
    let code = file.bytes(offset, usize::try_from(length).unwrap_or(0)).map_err(GoError::from)?.to_vec();
    let mut operands = match symbols.elf().machine {
        Machine::X86_64 => x86_64(&code, start),
        Machine::Arm64 => arm64(&code, start),
    };
    operands.retain(|address| is_variable(symbols.elf(), *address));
    Ok(operands)
}

fn is_variable(elf: &Elf, address: u64) -> bool {
    let mut data = elf.segments.iter().filter(|segment| segment.is_writable());
    address.is_multiple_of(4) && data.any(|segment| segment.holds(address, 4))
}

/// `mov register, [rip + distance]` and `mov [rip + distance], register`: `8b` or `89`, a byte that says so, the distance in
/// four. Bytes that only look like it lead out of the data, or to one variable too many.
fn x86_64(code: &[u8], start: u64) -> Vec<u64> {
    const BYTES: usize = 6;
    let mut found = Vec::new();
    for (at, bytes) in code.windows(BYTES).enumerate() {
        let [0x89 | 0x8b, how, ..] = bytes else { continue };
        if how & 0xc7 != 0x05 {
            continue;
        }
        let distance = i64::from(u32_at(bytes, 2).cast_signed());
        let next = u64::try_from(at + BYTES).ok().and_then(|into| start.checked_add(into));
        found.extend(next.and_then(|next| next.checked_add_signed(distance)));
    }
    found
}

/// `adrp` puts a page into a register, `add` the place in it, `ldr`, `ldar` or `str` goes there.
fn arm64(code: &[u8], start: u64) -> Vec<u64> {
    let mut registers: [Option<u64>; 32] = [None; 32];
    let mut found = Vec::new();
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
        let (into, is_store) = match word {
            _ if word & 0xffc0_0000 == 0xf940_0000 => (Some(immediate * 8), false),
            _ if word & 0xffc0_0000 == 0xb940_0000 => (Some(immediate * 4), false),
            _ if word & 0xffc0_0000 == 0xf900_0000 => (Some(immediate * 8), true),
            _ if word & 0xbfff_fc00 == 0x88df_fc00 => (Some(0), false),
            _ => (None, false),
        };
        found.extend(base.zip(into).and_then(|(base, into)| base.checked_add(into)));
        // Whatever else an instruction does to the register it names first, the page is no longer known to be there.
        if let Some(place) = registers.get_mut(register(0)).filter(|_| !is_store) {
            *place = target;
        }
    }
    found
}

/// The page of an `adrp`: 21 signed bits of pages from here.
fn page(word: u32, here: u64) -> u64 {
    let pages = (word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3;
    let signed = i64::from((pages << 11).cast_signed() >> 11);
    (here & !0xfff).wrapping_add_signed(signed << 12)
}
