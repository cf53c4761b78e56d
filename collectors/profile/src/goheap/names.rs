//! Stacks of a heap profile with names, as Go's own profiles show them.
//!
//! Owns how return addresses become frames: an inlined call has an address of its own in Go's stacks, which belongs to the
//! one before; wrappers are left out, and so is what of the runtime an allocation passes through.

use std::{collections::HashMap, rc::Rc};

use model::profile::{Frame, FrameKind, Function, Mapping};

use super::HeapError;
use crate::{
    gopprof::{FRAME_REFERENCES_MAX, FRAMES_MAX, NAMES_BYTES_MAX},
    symbols::{
        file::ReadAt,
        gopclntab::{self, GoSymbols, Pc, Role},
    },
};

/// Addresses that are given names; further ones stay numbers. An etcd has some thousands, and a name takes a few µs.
const NAMED_MAX: usize = 32_768;

/// Functions and frames of one reading.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) mapping: Mapping,
    pub(super) functions: Vec<Function>,
    pub(super) frames: Vec<Frame>,
}

/// Makes [`Names`] from one stack after another.
#[derive(Debug)]
pub(super) struct Namer<'s, R> {
    symbols: &'s mut GoSymbols<R>,
    /// How far the loader moved the program.
    bias: u64,
    names: Names,
    known: HashMap<u64, Rc<[gopclntab::Frame]>>,
    functions: HashMap<(String, String, i64), u32>,
    frames: HashMap<(u32, u64, i64, bool), u32>,
    bytes: usize,
    references: usize,
}

impl<'s, R: ReadAt> Namer<'s, R> {
    pub(super) fn new(symbols: &'s mut GoSymbols<R>, bias: u64, mapping: Mapping) -> Namer<'s, R> {
        Namer {
            symbols,
            bias,
            names: Names { mapping, ..Names::default() },
            known: HashMap::new(),
            functions: HashMap::new(),
            frames: HashMap::new(),
            bytes: 0,
            references: 0,
        }
    }

    pub(super) fn finish(self) -> Names {
        self.names
    }

    /// The frames of a stack, the innermost first.
    pub(super) fn stack(&mut self, addresses: &[u64]) -> Result<Vec<u32>, HeapError> {
        let mut begin = 0;
        while begin < addresses.len() && self.is_runtime(addresses.get(begin))? {
            begin += 1;
        }
        // Of what the runtime allocates for itself, all is shown.
        let shown = addresses.get(begin..).filter(|rest| !rest.is_empty()).unwrap_or(addresses);
        let mut stack: Vec<Shown> = Vec::new();
        for (at, address) in shown.iter().enumerate() {
            let here = self.at(*address)?;
            let next = match shown.get(at + 1) {
                Some(next) => self.at(*next)?,
                None => Rc::default(),
            };
            show(&mut stack, *address, &here, &next);
        }
        self.references += stack.len();
        if self.references > FRAME_REFERENCES_MAX {
            return Err(HeapError::TooLarge("stacks"));
        }
        stack.iter().map(|shown| self.frame(shown)).collect()
    }

    /// Does Go's own profile leave this out of the inner end? It looks at the address itself, not the call before it.
    fn is_runtime(&mut self, address: Option<&u64>) -> Result<bool, HeapError> {
        let Some(address) = address else { return Ok(false) };
        let here = Pc::Sampled(address.wrapping_sub(self.bias));
        let name = self.symbols.frames(here)?.into_iter().next().map(|frame| frame.function);
        Ok(name.is_some_and(|name| name.starts_with("runtime.") || name.starts_with("internal/runtime/")))
    }

    /// All functions at a return address, none where there is no Go.
    fn at(&mut self, address: u64) -> Result<Rc<[gopclntab::Frame]>, HeapError> {
        if let Some(known) = self.known.get(&address) {
            return Ok(Rc::clone(known));
        }
        if self.known.len() >= NAMED_MAX {
            return Ok(Rc::default());
        }
        let here = Pc::Return(address.wrapping_sub(self.bias));
        let frames: Rc<[gopclntab::Frame]> = self.symbols.frames(here)?.into();
        self.known.insert(address, Rc::clone(&frames));
        Ok(frames)
    }

    fn frame(&mut self, shown: &Shown) -> Result<u32, HeapError> {
        let function = match &shown.frame {
            Some(frame) => Function {
                name: frame.function.clone(),
                file: frame.source.as_ref().map(|source| source.file.clone()).unwrap_or_default(),
                start_line: frame.start_line.map_or(0, i64::from),
            },
            None => Function { name: self.unknown(shown.address), ..Function::default() },
        };
        let line = shown
            .frame
            .as_ref()
            .and_then(|frame| frame.source.as_ref())
            .map_or(0, |source| i64::from(source.line));
        let function = self.function(function)?;
        let key = (function, shown.address, line, shown.inlined);
        if let Some(known) = self.frames.get(&key) {
            return Ok(*known);
        }
        let number = number(self.names.frames.len(), FRAMES_MAX)?;
        let is_ours = (self.names.mapping.start..self.names.mapping.end).contains(&shown.address);
        let mapping = if is_ours { 0 } else { u32::MAX };
        let (address, inlined) = (shown.address, shown.inlined);
        self.names.frames.push(Frame { function, mapping, address, line, inlined, kind: FrameKind::Go });
        self.frames.insert(key, number);
        Ok(number)
    }

    fn function(&mut self, function: Function) -> Result<u32, HeapError> {
        let key = (function.name.clone(), function.file.clone(), function.start_line);
        if let Some(known) = self.functions.get(&key) {
            return Ok(*known);
        }
        self.bytes += function.name.len() + function.file.len();
        if self.bytes > NAMES_BYTES_MAX {
            return Err(HeapError::TooLarge("names"));
        }
        let number = number(self.names.functions.len(), FRAMES_MAX)?;
        self.names.functions.push(function);
        self.functions.insert(key, number);
        Ok(number)
    }

    fn unknown(&self, address: u64) -> String {
        let Mapping { path, start, end, offset, .. } = &self.names.mapping;
        match (*start..*end).contains(&address) {
            true => {
                format!("[{}+{:#x}]", path.rsplit('/').next().unwrap_or_default(), address - start + offset)
            }
            false => format!("[unknown+{address:#x}]"),
        }
    }
}

/// A frame to be shown.
#[derive(Debug)]
struct Shown {
    frame: Option<gopclntab::Frame>,
    address: u64,
    inlined: bool,
}

/// Shows what an address stands for: its innermost function alone, if the next address stands for those it is inlined into;
/// all of them, if it does not, which is so at the end of a stack that was cut.
fn show(stack: &mut Vec<Shown>, address: u64, here: &[gopclntab::Frame], next: &[gopclntab::Frame]) {
    // All that is inlined into one place has the address of the innermost.
    let address = match stack.last() {
        Some(before) if before.inlined => before.address,
        _ => address.wrapping_sub(1),
    };
    let Some((inner, outer)) = here.split_first() else {
        stack.push(Shown { frame: None, address, inlined: false });
        return;
    };
    if Role::of(&inner.function) == Role::Goexit {
        return;
    }
    let continues = (0..outer.len()).find(|at| !next.is_empty() && outer.get(*at..) == Some(next));
    stack.push(Shown { frame: Some(inner.clone()), address, inlined: inner.inlined });
    let mut callee = &inner.function;
    for frame in outer.get(..continues.unwrap_or(outer.len())).unwrap_or_default() {
        let shows_wrapper = Role::of(callee).is_panic();
        callee = &frame.function;
        if !frame.wrapper || shows_wrapper {
            stack.push(Shown { frame: Some(frame.clone()), address, inlined: frame.inlined });
        }
    }
    // Where the function it is inlined into is left out, nothing is left to be inlined into.
    if continues.is_none()
        && let Some(last) = stack.last_mut()
    {
        last.inlined = false;
    }
}

fn number(length: usize, most: usize) -> Result<u32, HeapError> {
    u32::try_from(length).ok().filter(|_| length < most).ok_or(HeapError::TooLarge("names"))
}
