//! One place in a file, asked of each source of names that the file has.

use std::sync::Arc;

use model::profile::{FrameKind, Function};

use crate::binaries::Binary;
use crate::symbols::gopclntab::{self, Pc};

use super::known::{Called, Ends};

/// How much is asked of native code. Go's table has everything in one place, for next to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Depth {
    /// Lines and inlined calls, by debug information: 100 ms for the first place in a program of 100 MB, and some MiB.
    #[default]
    Lines,
    /// The functions that the linker knows: some ms for the first. Of what was compiled at run time, none.
    Functions,
}

/// All functions at an offset in a file, innermost first; none where nobody knows any, or a table is damaged there.
pub(super) fn of(binary: &Arc<Binary>, (offset, is_return): (u64, bool), hot: &mut Hot) -> Vec<Called> {
    // The end of a segment is no place in it, but a call may be the last thing in it.
    let instruction = offset.saturating_sub(u64::from(is_return));
    let Some(address) = binary.address_of(instruction) else { return Vec::new() };
    let pc = if is_return { Pc::Return(address.saturating_add(1)) } else { Pc::Sampled(address) };
    let of_go = binary.go().as_mut().and_then(|symbols| symbols.frames(pc).ok()).unwrap_or_default();
    if !of_go.is_empty() {
        return of_go.into_iter().map(|frame| called(frame, FrameKind::Go)).collect();
    }
    // A program with C in it has both.
    hot.touch(binary);
    let native = match hot.depth {
        Depth::Lines => binary.with_native(|symbols| symbols.frames(pc).ok()).flatten().unwrap_or_default(),
        Depth::Functions => {
            let symbol = binary.with_native(|symbols| symbols.symbol(pc).ok().flatten()).flatten();
            symbol.map(|symbol| named(symbol.name)).into_iter().collect()
        }
    };
    native.into_iter().map(self::native).collect()
}

fn named(function: String) -> gopclntab::Frame {
    gopclntab::Frame { function, source: None, start_line: None, inlined: false, wrapper: false }
}

/// Files whose tables of native code are loaded. Those of a browser are 100 MiB, and a hostile file has as much.
const HOT_MAX: usize = 3;
/// The same where only functions are asked for.
const KEPT_MAX: usize = 8;
/// Functions of theirs that stay loaded, 12 bytes each: 3 MiB.
const KEPT_FUNCTIONS_MAX: usize = 256 << 10;

/// The files that were asked last; the tables of others are closed.
#[derive(Debug, Default)]
pub(super) struct Hot {
    pub(super) depth: Depth,
    files: Vec<Arc<Binary>>,
}

impl Hot {
    fn touch(&mut self, binary: &Arc<Binary>) {
        let max = if self.depth == Depth::Lines { HOT_MAX } else { KEPT_MAX };
        self.files.retain(|known| !Arc::ptr_eq(known, binary));
        if self.files.len() >= max {
            self.files.remove(0).close();
        }
        self.files.push(Arc::clone(binary));
    }

    /// Frees what they hold: what was found in them is remembered elsewhere. Tables of functions stay, the latest first, as
    /// far as there is room: there are always some more places.
    pub(super) fn cool(&mut self) {
        let mut room = if self.depth == Depth::Lines { 0 } else { KEPT_FUNCTIONS_MAX };
        let mut files = std::mem::take(&mut self.files);
        files.reverse();
        files.retain(|binary| {
            let functions = if room > 0 { binary.with_native(|symbols| symbols.symbols()) } else { None };
            let left = functions.and_then(|functions| room.checked_sub(functions));
            room = left.unwrap_or(room);
            if left.is_none() {
                binary.close();
            }
            left.is_some()
        });
        files.reverse();
        self.files = files;
    }
}

/// A function of native code.
pub(super) fn native(frame: gopclntab::Frame) -> Called {
    called(frame, FrameKind::Native)
}

fn called(frame: gopclntab::Frame, kind: FrameKind) -> Called {
    let (file, line) = frame.source.map(|source| (source.file, i64::from(source.line))).unwrap_or_default();
    let ends = match &*frame.function {
        "runtime.sigpanic" | "runtime.asyncPreempt" => Ends::Interrupted,
        // The first three are where stacks begin. The last two leave a goroutine for the thread's own stack and never come
        // back to it: it is not for the goroutine that the rest is done, and their caller was not in the chain anyway.
        "runtime.goexit" | "runtime.mstart" | "runtime.rt0_go" | "runtime.mcall" | "runtime.morestack" => {
            Ends::Stack
        }
        _ => Ends::Call,
    };
    Called {
        line,
        is_inlined: frame.inlined,
        is_wrapper: frame.wrapper,
        is_panic: matches!(&*frame.function, "runtime.gopanic" | "runtime.sigpanic" | "runtime.panicwrap"),
        ends: if frame.inlined { Ends::Call } else { ends },
        kind,
        function: Arc::new(Function {
            name: frame.function,
            file,
            start_line: frame.start_line.map_or(0, i64::from),
        }),
    }
}
