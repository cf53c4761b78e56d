//! One place in a file, asked of each source of names that the file has.

use std::sync::Arc;

use model::profile::{FrameKind, Function};

use crate::binaries::Binary;
use crate::symbols::gopclntab::{Frame, Pc, Role};
use crate::symbols::native::{NativeSymbols, Symbol};

use super::known::{Called, Ends};

/// How much is asked of native code. Go's table has everything in one place, for next to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Depth {
    /// Lines and inlined calls, by debug information: 100 ms for the first place in a program of 100 MB, and some MiB.
    #[default]
    Lines,
    /// The functions that the linker knows, as far as it does.
    Sparing,
    /// The same, and of what was compiled at run time, none.
    Functions,
}

/// All functions at an offset in a file, innermost first; none where nobody knows any, or a table is damaged there.
pub(super) fn of(
    binary: &Arc<Binary>,
    (offset, is_return): (u64, bool),
    depth: Depth,
    hot: &mut Hot,
) -> Vec<Called> {
    // The end of a segment is no place in it, but a call may be the last thing in it.
    let instruction = offset.saturating_sub(u64::from(is_return));
    let Some(address) = binary.address_of(instruction) else { return Vec::new() };
    let pc = if is_return { Pc::Return(address.saturating_add(1)) } else { Pc::Sampled(address) };
    let of_go = binary.go().as_mut().and_then(|symbols| symbols.frames(pc).ok()).unwrap_or_default();
    if !of_go.is_empty() {
        return of_go.into_iter().map(|frame| called(frame, FrameKind::Go)).collect();
    }
    // A program with C in it has both.
    hot.touch(binary, depth);
    let named = |symbol: Symbol| {
        let function = symbol.name;
        Frame { function, source: None, start_line: None, inlined: false, wrapper: false }
    };
    let symbol = |symbols: &mut _| NativeSymbols::symbol(symbols, pc).ok().flatten().map(named);
    let lines = || binary.with_native(|symbols| symbols.frames(pc).ok()).flatten().unwrap_or_default();
    let native = match depth {
        Depth::Lines => lines(),
        Depth::Functions => binary.with_native(symbol).flatten().into_iter().collect(),
        Depth::Sparing => match binary.with_native(|symbols| (symbol(symbols), symbols.is_whole())) {
            Some((Some(symbol), _)) => vec![symbol],
            // Who is asked for no more than functions may still be the only one to know this one.
            Some((None, false)) => {
                hot.touch(binary, Depth::Lines);
                lines()
            }
            Some((None, true)) | None => Vec::new(),
        },
    };
    native.into_iter().map(self::native).collect()
}

/// Files whose debug information is loaded. That of a browser is 100 MiB, and a hostile file has as much.
const HOT_MAX: usize = 3;
/// Files whose functions are loaded.
const KEPT_MAX: usize = 8;
/// Functions of theirs that stay loaded, 12 bytes each: 3 MiB.
const KEPT_FUNCTIONS_MAX: usize = 256 << 10;

/// The files that were asked last; the tables of others are closed.
#[derive(Debug, Default)]
pub(super) struct Hot {
    pub(super) depth: Depth,
    files: Vec<(Arc<Binary>, Depth)>,
}

impl Hot {
    fn touch(&mut self, binary: &Arc<Binary>, depth: Depth) {
        let known = self.files.iter().position(|(known, _)| Arc::ptr_eq(known, binary));
        let before = known.map(|known| self.files.remove(known).1);
        // What was loaded for lines stays loaded when functions are asked for.
        let depth = if before == Some(Depth::Lines) { Depth::Lines } else { depth };
        let is_hot = |(_, depth): &(Arc<Binary>, Depth)| *depth == Depth::Lines;
        if depth == Depth::Lines && self.files.iter().filter(|file| is_hot(file)).count() >= HOT_MAX {
            let oldest = self.files.iter().position(is_hot);
            oldest.into_iter().for_each(|oldest| self.files.remove(oldest).0.close());
        }
        if self.files.len() >= KEPT_MAX {
            self.files.remove(0).0.close();
        }
        self.files.push((Arc::clone(binary), depth));
    }

    /// Frees what they hold: what was found in them is remembered elsewhere. Tables of functions stay, the latest first, as
    /// far as there is room: there are always some more places.
    pub(super) fn cool(&mut self) {
        let mut room = if self.depth == Depth::Functions { KEPT_FUNCTIONS_MAX } else { 0 };
        let mut files = std::mem::take(&mut self.files);
        files.reverse();
        files.retain(|(binary, _)| {
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
pub(super) fn native(frame: Frame) -> Called {
    called(frame, FrameKind::Native)
}

fn called(frame: Frame, kind: FrameKind) -> Called {
    let (file, line) = frame.source.map(|source| (source.file, i64::from(source.line))).unwrap_or_default();
    let role = Role::of(&frame.function);
    let ends = match role {
        Role::Sigpanic | Role::AsyncPreempt => Ends::Interrupted,
        // The first three are where stacks begin. The last two leave a goroutine for the thread's own stack and never come
        // back to it: it is not for the goroutine that the rest is done, and their caller was not in the chain anyway.
        Role::Goexit | Role::Mstart | Role::Rt0Go | Role::Mcall | Role::Morestack => Ends::Stack,
        _ => Ends::Call,
    };
    Called {
        line,
        is_inlined: frame.inlined,
        is_wrapper: frame.wrapper,
        is_panic: role.is_panic(),
        ends: if frame.inlined { Ends::Call } else { ends },
        kind,
        function: Arc::new(Function {
            name: frame.function,
            file,
            start_line: frame.start_line.map_or(0, i64::from),
        }),
    }
}
