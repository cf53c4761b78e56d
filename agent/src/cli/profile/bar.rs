//! The progress bar, for a person at a terminal and nobody else.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Cells of the bar.
const CELLS: usize = 30;

/// Drawn on stderr when that is a terminal; in colour unless `NO_COLOR` is set to something.
#[derive(Debug)]
pub(super) struct Bar {
    name: String,
    drawn: bool,
    colour: bool,
}

impl Bar {
    /// `None` where stderr is no terminal.
    pub(super) fn on_terminal(name: &str) -> Option<Bar> {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        std::io::stderr().is_terminal().then(|| Bar { name: name.to_owned(), drawn: false, colour })
    }

    /// Draws how far it is, and how many samples there are so far where that is known.
    pub(super) fn draw(&mut self, passed: Duration, of: Duration, samples: Option<u64>) {
        self.drawn = true;
        let samples = samples.map_or(String::new(), |n| format!(", {n} samples"));
        self.write(&(line(&self.name, passed, of, self.colour) + &samples));
    }

    fn write(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        // A terminal that is gone needs no bar.
        write!(stderr, "{text}").and_then(|()| stderr.flush()).ok();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.drawn {
            self.write("\r\x1b[K");
        }
    }
}

fn line(name: &str, passed: Duration, of: Duration, colour: bool) -> String {
    let done = (passed.as_secs_f64() / of.as_secs_f64().max(0.001)).clamp(0.0, 1.0);
    let full = (done * CELLS as f64) as usize;
    let (on, off) = if colour { ("\x1b[32m", "\x1b[0m") } else { ("", "") };
    format!(
        "\r\x1b[K{name} {on}{}{off}{} {:.0} / {:.0} s",
        "█".repeat(full),
        "░".repeat(CELLS - full.min(CELLS)),
        passed.as_secs_f64().min(of.as_secs_f64()),
        of.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_and_never_overflows() {
        let check = |passed: u64, full: usize| {
            let line = line("m1", Duration::from_secs(passed), Duration::from_secs(10), false);
            assert_eq!((line.matches('█').count(), line.matches('░').count()), (full, CELLS - full));
        };
        check(0, 0);
        check(5, 15);
        check(99, CELLS);
    }
}
