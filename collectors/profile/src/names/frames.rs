//! One place in a file, asked of each source of names that the file has.

use std::sync::Arc;

use model::profile::Function;

use crate::binaries::{Binary, FileSymbols};
use crate::symbols::gopclntab::{self, Pc};

use super::known::{Called, Ends};

/// All functions at an offset in a file, innermost first; none where nobody knows any, or a table is damaged there.
pub(super) fn of(binary: &Binary, offset: u64, is_return: bool) -> Vec<Called> {
    // The end of a segment is no place in it, but a call may be the last thing in it.
    let instruction = offset.saturating_sub(u64::from(is_return));
    let Some(address) = binary.address_of(instruction) else { return Vec::new() };
    for source in binary.symbols().iter_mut() {
        let found = match source {
            FileSymbols::Go(symbols) => {
                let pc = if is_return { Pc::Return(address.saturating_add(1)) } else { Pc::Sampled(address) };
                symbols.frames(pc).map(|frames| frames.into_iter().map(called).collect::<Vec<_>>())
            } // SEAM: `FileSymbols::Native(symbols)` is asked `symbols.frames(address, is_return)` here.
        };
        if let Ok(found) = found
            && !found.is_empty()
        {
            return found;
        }
    }
    Vec::new()
}

fn called(frame: gopclntab::Frame) -> Called {
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
        function: Arc::new(Function {
            name: frame.function,
            file,
            start_line: frame.start_line.map_or(0, i64::from),
        }),
    }
}
