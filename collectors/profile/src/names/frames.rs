//! One place in a file, asked of each source of names that the file has.

use std::sync::Arc;

use model::profile::{FrameKind, Function};

use crate::binaries::Binary;
use crate::symbols::gopclntab::{self, Pc};

use super::known::{Called, Ends};

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
    let native = binary.with_native(|symbols| symbols.frames(pc).ok()).flatten().unwrap_or_default();
    native.into_iter().map(|frame| called(frame, FrameKind::Native)).collect()
}

/// Files whose tables of native code are loaded. Those of a browser are 100 MiB, and a hostile file has as much.
const HOT_MAX: usize = 3;

/// The files that were asked last; the tables of others are closed.
#[derive(Debug, Default)]
pub(super) struct Hot(Vec<Arc<Binary>>);

impl Hot {
    fn touch(&mut self, binary: &Arc<Binary>) {
        self.0.retain(|known| !Arc::ptr_eq(known, binary));
        if self.0.len() >= HOT_MAX {
            self.0.remove(0).close();
        }
        self.0.push(Arc::clone(binary));
    }

    /// Frees what they hold: what was found in them is remembered elsewhere.
    pub(super) fn cool(&mut self) {
        self.0.drain(..).for_each(|binary| binary.close());
    }
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
