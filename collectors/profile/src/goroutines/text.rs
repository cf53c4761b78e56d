//! Go's list of goroutines as text (`/debug/pprof/goroutine?debug=2`): who waits for what, and for how long.
//!
//! Owns the format, which `goroutineheader` and `traceback` of Go's runtime write (1.19 to 1.27), and every bound on it. Refuses
//! to fail: what is torn, foreign or too much is counted in [`Rejects`]. Arguments of calls, labels and source lines are left
//! where they are: nothing but names of functions, the word for the wait and numbers gets out.
//!
//! ```text
//! goroutine 12 [chan receive, 3 minutes, locked to thread]:
//! main.(*queue).take(0xc000012345, {0x1, 0x2})
//!         /src/main.go:20 +0x25
//! created by main.start in goroutine 1
//!         /src/main.go:9 +0x1f
//! ```
//! Go counts whole minutes, from one on, and only from the first garbage collection that found the goroutine waiting: it may
//! have been two minutes longer, since a collection is forced after as much time without one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use memchr::{memchr, memmem, memrchr};

use crate::gopprof::{FRAME_REFERENCES_MAX, NAME_BYTES_MAX, NAMES_BYTES_MAX};

/// Goroutines that are kept: four times what is asked for, as their number grows while one asks.
pub const GOROUTINES_MAX: usize = 20_000;
/// Different stacks; a busy etcd has some hundred.
pub const STACKS_MAX: usize = 10_000;
/// Frames of one stack: Go shows the fifty innermost and the fifty outermost, and a recursion hides behind "elided".
pub const FRAMES_MAX: usize = 128;
/// The longest that Go writes has 31 bytes.
const REASON_BYTES_MAX: usize = 64;
/// Different words for what is waited for: Go has 45.
const REASONS_MAX: usize = 256;

/// What was left out of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejects {
    /// Goroutines whose first line cannot be read; their frames went with it.
    pub bad_headers: u64,
    /// Lines that are nothing that Go writes.
    pub bad_lines: u64,
    /// Goroutines at the end of a text that ends within them.
    pub torn: u64,
    /// Stacks of which frames are missing, Go's own "elided" included.
    pub cut_stacks: u64,
    /// Goroutines that found no room.
    pub over: u64,
}

impl Rejects {
    /// All of them, by reason.
    #[must_use]
    pub fn lines(&self) -> [(&'static str, u64); 5] {
        [
            ("bad_header", self.bad_headers),
            ("bad_line", self.bad_lines),
            ("torn", self.torn),
            ("cut_stack", self.cut_stacks),
            ("over", self.over),
        ]
    }
}

/// One goroutine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goroutine {
    /// Its number: Go gives none twice in the life of a process.
    pub id: u64,
    /// What it waits for (`chan receive`, `IO wait`), or what it does (`running`, `runnable`).
    pub reason: Arc<str>,
    /// Whole minutes in that state; 0 for less than one.
    pub minutes: u64,
    /// Go's own search for leaks found that nobody can ever wake it.
    pub is_leaked: bool,
    /// It keeps a thread for itself.
    pub is_locked: bool,
}

/// All goroutines of one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Functions, innermost first; at least one.
    pub stack: Vec<Arc<str>>,
    /// The function that started the first of them, where Go says so.
    pub creator: Option<Arc<str>>,
    /// At least one, in the order of the text.
    pub goroutines: Vec<Goroutine>,
}

impl Group {
    /// What most of them wait for; of several the alphabet's first.
    #[must_use]
    pub fn reason(&self) -> &str {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for goroutine in &self.goroutines {
            *counts.entry(&goroutine.reason).or_default() += 1;
        }
        let most = counts.into_iter().min_by_key(|(_, n)| std::cmp::Reverse(*n));
        most.map_or("", |(reason, _)| reason)
    }

    /// Longest and median of the blocked time, whole minutes. Of an even number the lower of the two in the middle.
    #[must_use]
    pub fn minutes(&self) -> (u64, u64) {
        let mut minutes: Vec<u64> = self.goroutines.iter().map(|goroutine| goroutine.minutes).collect();
        minutes.sort_unstable();
        let median = minutes.get(minutes.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        (minutes.last().copied().unwrap_or(0), median)
    }
}

/// Reads a text into groups by identical stacks, in the order in which they first appear.
#[must_use]
pub fn parse(text: &[u8]) -> (Vec<Group>, Rejects) {
    let mut reader = Reader::default();
    let mut rest = text;
    while let Some(end) = memchr(b'\n', rest) {
        let (line, after) = rest.split_at(end);
        reader.line(line);
        rest = after.get(1..).unwrap_or_default();
    }
    // A whole text ends with a whole line. Go cuts its own at 64 MiB, and a connection may break anywhere.
    reader.end(!rest.is_empty());
    (reader.groups, reader.rejects)
}

/// A goroutine on its way.
struct Open {
    goroutine: Goroutine,
    stack: Vec<Arc<str>>,
    creator: Option<Arc<str>>,
    is_cut: bool,
}

#[derive(Default)]
struct Reader {
    open: Option<Open>,
    /// Lines of a goroutine whose first line was bad: they are not counted a second time.
    is_skipping: bool,
    groups: Vec<Group>,
    by_stack: HashMap<Vec<Arc<str>>, usize>,
    kept: usize,
    /// Frames of all groups.
    references: usize,
    names: HashMap<String, Arc<str>>,
    names_bytes: usize,
    reasons: HashMap<String, Arc<str>>,
    rejects: Rejects,
}

impl Reader {
    fn line(&mut self, line: &[u8]) {
        if let Some(header) = line.strip_prefix(b"goroutine ") {
            self.close();
            self.header(header);
        } else if line.is_empty() {
            self.close();
            self.is_skipping = false;
        } else if line.starts_with(b"\t") || self.is_skipping {
            // Where in the source, or a note that the stack cannot be had.
        } else {
            self.frame(line);
        }
    }

    fn header(&mut self, header: &[u8]) {
        let goroutine = head(header).and_then(|head| {
            let reason = self.reason(head.reason)?;
            let Head { id, minutes, is_leaked, is_locked, .. } = head;
            Some(Goroutine { id, reason, minutes, is_leaked, is_locked })
        });
        self.is_skipping = goroutine.is_none();
        self.rejects.bad_headers += u64::from(goroutine.is_none());
        self.open =
            goroutine.map(|goroutine| Open { goroutine, stack: Vec::new(), creator: None, is_cut: false });
    }

    fn frame(&mut self, line: &[u8]) {
        if self.open.is_none() {
            self.rejects.bad_lines += 1;
            return;
        }
        if line.starts_with(b"...") {
            self.open.iter_mut().for_each(|open| open.is_cut = true);
            return;
        }
        let (is_creator, name) = match line.strip_prefix(b"created by ") {
            // Since 1.21 it says in which goroutine.
            Some(creator) => {
                let end = memmem::find(creator, b" in goroutine ").unwrap_or(creator.len());
                (true, creator.get(..end).unwrap_or_default())
            }
            // Arguments have no parentheses; a method's receiver stands in some.
            None => (false, line.get(..memrchr(b'(', line).unwrap_or(0)).unwrap_or_default()),
        };
        if name.is_empty() {
            self.rejects.bad_lines += 1;
            return;
        }
        let name = self.name(name);
        let Some(open) = &mut self.open else { return };
        match name {
            None => open.is_cut = true,
            Some(name) if is_creator => open.creator = Some(name),
            Some(_) if open.stack.len() >= FRAMES_MAX => open.is_cut = true,
            Some(name) => open.stack.push(name),
        }
    }

    /// The goroutine is whole: it joins those of its stack.
    fn close(&mut self) {
        let Some(Open { goroutine, stack, creator, is_cut }) = self.open.take() else { return };
        if stack.is_empty() {
            self.rejects.bad_headers += 1;
            return;
        }
        self.rejects.cut_stacks += u64::from(is_cut);
        let known = self.by_stack.get(&stack).copied();
        let references = self.references.saturating_add(if known.is_none() { stack.len() } else { 0 });
        let is_full = self.kept >= GOROUTINES_MAX
            || references > FRAME_REFERENCES_MAX
            || (known.is_none() && self.groups.len() >= STACKS_MAX);
        if is_full {
            self.rejects.over += 1;
            return;
        }
        self.kept += 1;
        self.references = references;
        match known.and_then(|at| self.groups.get_mut(at)) {
            Some(group) => group.goroutines.push(goroutine),
            None => {
                self.by_stack.insert(stack.clone(), self.groups.len());
                self.groups.push(Group { stack, creator, goroutines: vec![goroutine] });
            }
        }
    }

    fn end(&mut self, is_torn: bool) {
        if is_torn && self.open.take().is_some() {
            self.rejects.torn += 1;
        }
        self.close();
    }

    /// A name, once for all that share it; `None` where there is no more room for names.
    fn name(&mut self, name: &[u8]) -> Option<Arc<str>> {
        let text = String::from_utf8_lossy(name.get(..name.len().min(NAME_BYTES_MAX)).unwrap_or_default());
        if let Some(known) = self.names.get(&*text) {
            return Some(Arc::clone(known));
        }
        self.names_bytes =
            self.names_bytes.checked_add(text.len()).filter(|bytes| *bytes <= NAMES_BYTES_MAX)?;
        let shared: Arc<str> = Arc::from(&*text);
        self.names.insert(text.into_owned(), Arc::clone(&shared));
        Some(shared)
    }

    fn reason(&mut self, reason: &str) -> Option<Arc<str>> {
        if let Some(known) = self.reasons.get(reason) {
            return Some(Arc::clone(known));
        }
        if self.reasons.len() >= REASONS_MAX {
            return None;
        }
        let shared: Arc<str> = Arc::from(reason);
        self.reasons.insert(reason.to_owned(), Arc::clone(&shared));
        Some(shared)
    }
}

/// A first line, behind `goroutine `.
struct Head<'a> {
    id: u64,
    reason: &'a str,
    minutes: u64,
    is_leaked: bool,
    is_locked: bool,
}

/// `12 [chan receive (leaked), 3 minutes, locked to thread] {label: value}:`; `12 gp=0xc0 m=3 mp=0xc1 [running]:` of a program
/// that was started with GOTRACEBACK=system.
fn head(line: &[u8]) -> Option<Head<'_>> {
    let line = std::str::from_utf8(line.strip_suffix(b":")?).ok()?;
    let (id, rest) = line.split_once(' ')?;
    let state = rest.split_once('[')?.1;
    // 1.26 writes labels within the brackets, 1.27 behind them: they may hold anything, brackets too.
    let state = state.split_once(']')?.0;
    let state = state.split_once(" labels:{").map_or(state, |(state, _)| state);
    let mut parts = state.split(", ");
    let mut reason = parts.next()?;
    let (mut is_leaked, mut minutes, mut is_locked) = (false, 0, false);
    while let Some((plain, mark)) =
        reason.rsplit_once(' ').filter(|(_, mark)| matches!(*mark, "(scan)" | "(leaked)"))
    {
        is_leaked |= mark == "(leaked)";
        reason = plain;
    }
    for part in parts {
        match part.strip_suffix(" minutes").map(str::parse) {
            Some(Ok(n)) => minutes = n,
            Some(Err(_)) => return None,
            None => is_locked |= part == "locked to thread",
        }
    }
    let is_plain = (1..=REASON_BYTES_MAX).contains(&reason.len()) && !reason.contains(char::is_control);
    is_plain.then_some(Head { id: id.parse().ok()?, reason, minutes, is_leaked, is_locked })
}

#[cfg(test)]
mod tests;
