//! Locations as frames: one for each call that was inlined there.
//!
//! Owns what a frame without a name is called, and what kind of code it is. Refuses to guess a name.

use std::collections::HashMap;

use model::profile::{Frame, FrameKind, Function, Mapping};

use super::wire::RawLocation;
use super::{DecodeError, cut, index};

/// Frames by location id.
pub(super) struct Places<'a> {
    pub(super) frames: Vec<Frame>,
    frames_max: usize,
    by_id: HashMap<u64, (u32, u32)>,
    mappings: &'a [Mapping],
    /// What is left of the bound on names for names made up from addresses.
    names_left: usize,
}

impl<'a> Places<'a> {
    pub(super) fn new(mappings: &'a [Mapping], frames_max: usize, names_left: usize) -> Places<'a> {
        Places { frames: Vec::new(), frames_max, by_id: HashMap::new(), mappings, names_left }
    }

    /// The frames of a location, where it is known: the first, and how many.
    pub(super) fn of(&self, location: u64) -> Option<(u32, u32)> {
        self.by_id.get(&location).copied()
    }

    pub(super) fn add(
        &mut self,
        location: &RawLocation,
        mapping: u32,
        function_ids: &HashMap<u64, u32>,
        functions: &mut Vec<Function>,
    ) -> Result<(), DecodeError> {
        let start = self.frames.len();
        if start + location.line.len().max(1) > self.frames_max {
            return Err(DecodeError::TooLarge("frames"));
        }
        let address = location.address;
        let module = usize::try_from(mapping).ok().and_then(|at| self.mappings.get(at));
        let last = location.line.len().saturating_sub(1);
        for (position, line) in location.line.iter().enumerate() {
            // An unknown function id keeps its place in the stack, as an address.
            let function = match function_ids.get(&line.function_id) {
                Some(function) => *function,
                None => self.unnamed(location.address, mapping, functions)?,
            };
            let kind = kind_of(module, functions, function);
            let (line, inlined) = (line.line.max(0), position < last);
            self.frames.push(Frame { function, mapping, address, line, inlined, kind });
        }
        if location.line.is_empty() {
            let function = self.unnamed(location.address, mapping, functions)?;
            let kind = kind_of(module, functions, function);
            self.frames.push(Frame { function, mapping, address, kind, ..Frame::default() });
        }
        let length = self.frames.len() - start;
        self.by_id.insert(location.id, (index(start), index(length)));
        Ok(())
    }

    /// `[module+0x…]`: the file's own address where the mapping is known, never a guess at a name.
    fn unnamed(
        &mut self,
        address: u64,
        mapping: u32,
        functions: &mut Vec<Function>,
    ) -> Result<u32, DecodeError> {
        let mapping = usize::try_from(mapping).ok().and_then(|at| self.mappings.get(at));
        let name = match mapping {
            Some(mapping) => {
                let module = mapping.path.rsplit('/').next().unwrap_or("");
                let module = if module.is_empty() { "unknown" } else { cut(module, 255) };
                let offset = address.wrapping_sub(mapping.start).wrapping_add(mapping.offset);
                format!("[{module}+0x{offset:x}]")
            }
            None => format!("[unknown+0x{address:x}]"),
        };
        self.names_left = self.names_left.checked_sub(name.len()).ok_or(DecodeError::TooLarge("names"))?;
        functions.push(Function { name, file: String::new(), start_line: 0 });
        Ok(index(functions.len() - 1))
    }
}

/// What kind of code it is, as far as the format tells: by the kernel's mapping, by the source file's ending.
fn kind_of(module: Option<&Mapping>, functions: &[Function], function: u32) -> FrameKind {
    if module.is_some_and(|module| module.path.starts_with("[kernel")) {
        return FrameKind::Kernel;
    }
    let function = usize::try_from(function).ok().and_then(|at| functions.get(at));
    match function.and_then(|function| function.file.rsplit_once('.')).map(|(_, ending)| ending) {
        Some("go" | "s") => FrameKind::Go,
        Some("c" | "cc" | "cpp" | "cxx" | "h" | "hh" | "hpp" | "rs" | "S") => FrameKind::Native,
        _ => FrameKind::Unknown,
    }
}
