//! pprof files, as the agent writes them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use model::profile::{FrameKind, ProfileKind, Stacks};
use profile::gopprof;

use crate::profilers::stacks::{Frame, Heard, Known};

/// The CPU profile in `file`.
pub(in crate::profilers) fn read(file: &Path, known: &[Known]) -> Result<Heard> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let kinds = gopprof::decode_file(&bytes).with_context(|| format!("decode {}", file.display()))?;
    let cpu = kinds.into_iter().find(|(stacks, _)| stacks.kind == ProfileKind::Cpu);
    Ok(judge(&cpu.context("no CPU profile in it")?.0, known))
}

fn judge(stacks: &Stacks, known: &[Known]) -> Heard {
    let mut heard = Heard::new(known);
    heard.lost = Some(stacks.losses.lost);
    let frames: Vec<Frame<'_>> = (0..stacks.frames.len()).map(|at| frame(stacks, at)).collect();
    for sample in &stacks.samples {
        let place = |at: &u32| frames.get(usize::try_from(*at).ok()?).copied();
        let stack: Vec<Frame<'_>> = sample.frames.iter().filter_map(place).collect();
        let owner = usize::try_from(sample.owner).ok().and_then(|at| stacks.owners.get(at));
        let times = u64::try_from(sample.count).unwrap_or(0);
        heard.add(known, owner.map_or(0, |owner| owner.pid), (&stack, times));
    }
    heard
}

fn frame(stacks: &Stacks, at: usize) -> Frame<'_> {
    let Some(frame) = stacks.frames.get(at) else { return Frame::at(0, None) };
    let function = usize::try_from(frame.function).ok().and_then(|at| stacks.functions.get(at));
    // What has no name stands in brackets with its module.
    let name = function.map(|function| function.name.as_str()).filter(|name| !name.starts_with('['));
    Frame { is_kernel: frame.kind == FrameKind::Kernel, ..Frame::at(frame.address, name) }
}

#[cfg(test)]
mod tests {
    use model::profile::{self, FrameKind, Function, Losses, Owner, ProfileKind, StackSample, Stacks};
    use model::time::Stamp;

    use super::judge;
    use crate::profilers::stacks::Part;

    #[test]
    fn names_in_brackets_are_none_and_the_kernel_is_no_program() {
        let function = |name: &str| Function { name: name.to_owned(), ..Function::default() };
        let frame = |function, kind| profile::Frame { function, kind, ..profile::Frame::default() };
        let stacks = Stacks {
            kind: ProfileKind::Cpu,
            at: Stamp::default(),
            duration_ns: 0,
            period: 0,
            mappings: Vec::new(),
            functions: vec![function("f"), function("[lib.so+0x80]"), function("schedule")],
            frames: vec![
                frame(0, FrameKind::Native),
                frame(1, FrameKind::Unknown),
                frame(2, FrameKind::Kernel),
            ],
            owners: vec![Owner { pid: 7, ..Owner::default() }],
            samples: vec![StackSample { frames: vec![2, 1, 0], value: 30, count: 3, owner: 0 }],
            losses: Losses { lost: 2, truncated: 0 },
            pprof: Vec::new(),
        };
        let heard = judge(&stacks, &[]);
        assert_eq!((heard.samples, heard.named, heard.lost), (3, Part { part: 3, of: 6 }, Some(2)));
    }
}
