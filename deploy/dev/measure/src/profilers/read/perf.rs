//! The text of `perf script -F pid,ip,sym,dso --show-lost-events`: a line with the process, a line for each frame, leaf
//! first, a blank one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::profilers::stacks::{Frame, Heard, Known};

/// What perf writes for a function that it does not know.
const NAMELESS: &str = "[unknown]";

/// All samples in `file`.
pub(in crate::profilers) fn read(file: &Path, known: &[Known]) -> Result<Heard> {
    // Names are bytes of others.
    let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    Ok(judge(&String::from_utf8_lossy(&text), known))
}

fn judge(text: &str, known: &[Known]) -> Heard {
    let mut heard = Heard::new(known);
    let mut lost = 0;
    let mut stack = Vec::new();
    let mut pid = None;
    // The last sample need not end in a blank line.
    for line in text.lines().chain([""]) {
        if let Some((_, count)) = line.split_once("PERF_RECORD_LOST") {
            lost += count.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap_or(0);
        } else if line.trim().is_empty() {
            if let Some(pid) = pid.take() {
                heard.add(known, pid, (&stack, 1));
            }
            stack.clear();
        } else if pid.is_none() {
            pid = line.trim().parse().ok();
        } else {
            stack.extend(frame(line));
        }
    }
    heard.lost = Some(lost);
    heard
}

/// `ADDRESS NAME (FILE)`; a name may hold blanks and brackets, so the file is what begins with the last ` (`.
fn frame(line: &str) -> Option<Frame<'_>> {
    let (address, rest) = line.trim().split_once(' ')?;
    let (name, file) = rest.rsplit_once(" (")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let name = Some(name).filter(|name| *name != NAMELESS);
    Some(Frame::within(file.trim_end_matches(')'), address, name))
}

#[cfg(test)]
mod tests {
    use super::judge;
    use crate::profilers::stacks::{Known, Part};

    #[test]
    fn samples_frames_and_losses_are_read() {
        let known = [Known { pid: 70, ..Known::default() }];
        let text = "      70 \n\t          401000 churn (/x/spin native)\n\t          401100 price (/x/spin native)\n\
            \t 401100 orders (/x)\n\t 401100 work (/x)\n\n\
            \x20      0 \n\tffffffff81000000 idle ([kernel.kallsyms])\n\n\
            swapper     0 PERF_RECORD_LOST lost 12\n\
            \x20      9 \n\tffffffff81000000 f ([kernel.kallsyms])\n\t     45a [unknown] (/usr/bin/etcd)\n";
        let heard = judge(text, &known);
        assert_eq!((heard.samples, heard.lost), (2, Some(12)));
        assert_eq!(heard.named, Part { part: 4, of: 5 });
        assert_eq!(heard.callers, [Part { part: 1, of: 1 }]);
    }

    #[test]
    fn of_nothing_there_is_nothing() {
        let heard = judge("", &[]);
        assert_eq!((heard.samples, heard.lost), (0, Some(0)));
    }
}
