//! What a profiler says, held against what is known: how many of the programs' frames have names, and whether the callers
//! of the two programs with known ones are right.
//!
//! Callers are judged by name where the profiler gives one, else by address: whether a stack is right and whether it is
//! named are two questions. A program says itself where its functions lie.

use std::collections::BTreeMap;

use serde::Serialize;

/// A stack ends in what computes, and came there by one of two ways; what lies below `work` is the C library's or Go's.
const WAYS: [[&str; 4]; 2] = [["churn", "price", "orders", "work"], ["churn", "count", "stock", "work"]];

/// All of a function lies this close behind its beginning: they are a few instructions each.
const FUNCTION_BYTES_MAX: u64 = 1_024;

/// Where linkers put programs that cannot be moved, as those with known callers are.
const PROGRAM_BEGINS: u64 = 0x40_0000;

/// Code of the kernel lies in the upper half of the addresses.
const KERNEL_BEGINS: u64 = 1 << 63;

/// One frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    /// The function's name, where the profiler knows it.
    pub(super) name: Option<&'a str>,
    /// Where in the file or in memory, which is the same for the programs that are judged.
    pub(super) address: u64,
    /// Not a program's.
    pub(super) is_kernel: bool,
}

impl<'a> Frame<'a> {
    /// One in a file, by its distance from the beginning of that; some say the address itself.
    pub(super) fn within(file: &str, address: u64, name: Option<&'a str>) -> Frame<'a> {
        let is_known = file.rsplit('/').next().is_some_and(|file| file.starts_with("spin-"));
        let begin = if is_known && address < PROGRAM_BEGINS { PROGRAM_BEGINS } else { 0 };
        Frame::at(begin + address, name)
    }

    /// One whose kind shows by its address.
    pub(super) fn at(address: u64, name: Option<&'a str>) -> Frame<'a> {
        Frame { name, address, is_kernel: address >= KERNEL_BEGINS }
    }
}

/// A program with known callers.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Which.
    pub(super) pid: u32,
    /// The beginning of each function.
    pub(super) functions: BTreeMap<u64, String>,
}

impl Known {
    /// Takes a line of its output: `function NAME ADDRESS`. Others are left to others.
    pub(super) fn read(&mut self, line: &str) {
        let mut words = line.split(' ');
        if let (Some("function"), Some(name), Some(Ok(address))) =
            (words.next(), words.next(), words.next().map(str::parse))
        {
            self.functions.insert(address, name.to_owned());
        }
    }

    fn function<'a>(&'a self, frame: &Frame<'a>) -> Option<&'a str> {
        // Go writes the package before it.
        if let Some(name) = frame.name {
            return Some(name.strip_prefix("main.").unwrap_or(name));
        }
        let (begin, name) = self.functions.range(..=frame.address).next_back()?;
        (frame.address - begin < FUNCTION_BYTES_MAX).then_some(name.as_str())
    }

    /// Whether the callers are right; `None` where the program was not computing.
    fn judge(&self, stack: &[Frame<'_>]) -> Option<bool> {
        let mut named = stack.iter().filter(|frame| !frame.is_kernel).map(|frame| self.function(frame));
        if named.next()? != Some("churn") {
            return None;
        }
        let callers: Vec<Option<&str>> = named.take(3).collect();
        Some(WAYS.iter().any(|[_, way @ ..]| callers.iter().copied().eq(way.iter().copied().map(Some))))
    }
}

/// A share of a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Part {
    /// So many
    pub(super) part: u64,
    /// of these.
    pub(super) of: u64,
}

impl Part {
    fn count(&mut self, is_part: bool, times: u64) {
        self.of += times;
        self.part += if is_part { times } else { 0 };
    }

    /// `None` of nothing.
    pub(super) fn percent(self) -> Option<f64> {
        (self.of > 0).then(|| self.part as f64 / self.of as f64 * 100.0)
    }
}

/// What a profiler knew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Heard {
    /// Samples of processes; the idle CPU is none.
    pub(super) samples: u64,
    /// Frames of programs, over all samples, that have a name.
    pub(super) named: Part,
    /// Samples of each program with known callers, in its order, whose callers are right.
    pub(super) callers: Vec<Part>,
    /// What it says that it lost; `None` where it says nothing about it.
    pub(super) lost: Option<u64>,
}

impl Heard {
    /// Nothing yet.
    pub(super) fn new(known: &[Known]) -> Heard {
        Heard { callers: vec![Part::default(); known.len()], ..Heard::default() }
    }

    /// Adds what another of the same kind heard.
    pub(super) fn join(&mut self, other: &Heard) {
        self.samples += other.samples;
        let callers = self.callers.iter_mut().zip(&other.callers);
        for (all, one) in callers.chain([(&mut self.named, &other.named)]) {
            all.part += one.part;
            all.of += one.of;
        }
    }

    /// Takes a stack, leaf first, that was seen so often.
    pub(super) fn add(&mut self, known: &[Known], pid: u32, (stack, times): (&[Frame<'_>], u64)) {
        // The kernel's idle task.
        if pid == 0 {
            return;
        }
        self.samples += times;
        for frame in stack.iter().filter(|frame| !frame.is_kernel) {
            self.named.count(frame.name.is_some(), times);
        }
        for (known, callers) in known.iter().zip(&mut self.callers).filter(|(known, _)| known.pid == pid) {
            if let Some(is_right) = known.judge(stack) {
                callers.count(is_right, times);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, Heard, Known, Part};

    fn program() -> Known {
        let mut known = Known { pid: 7, ..Known::default() };
        for (at, name) in ["churn", "price", "count", "orders", "stock", "work"].iter().enumerate() {
            known.read(&format!("function {name} {}", 0x40_0000 + at * 0x40));
        }
        known.read("12 0 99");
        known
    }

    fn named<'a>(name: &'a str) -> Frame<'a> {
        Frame::at(1, Some(name))
    }

    fn check(stack: &[Frame<'_>], expected: Option<bool>) {
        assert_eq!(program().judge(stack), expected, "{stack:?}");
    }

    #[test]
    fn callers_are_right_by_name_and_by_address() {
        check(&["main.churn", "main.price", "main.orders", "main.work", "main.main"].map(named), Some(true));
        check(&["churn", "count", "stock", "work"].map(named), Some(true));
        let address = |at: u64| Frame::at(0x40_0000 + at * 0x40 + 9, None);
        check(&[0, 1, 3, 5].map(address), Some(true));
        check(&[Frame::at(u64::MAX, None), address(0), named("price"), address(3), address(5)], Some(true));
    }

    #[test]
    fn a_place_in_a_known_program_is_an_address() {
        let at = |file, address| Frame::within(file, address, None).address;
        assert_eq!(at("/x/spin-go", 0x9e958), 0x49_e958);
        assert_eq!(at("/x/spin-go", 0x49_e958), 0x49_e958);
        assert_eq!(at("/x/etcd", 0x9e958), 0x9e958);
    }

    #[test]
    fn a_mixed_up_a_cut_and_a_wild_chain_are_wrong() {
        check(&["churn", "price", "stock", "work"].map(named), Some(false));
        check(&["churn", "orders", "work"].map(named), Some(false));
        check(&["churn", "price", "orders"].map(named), Some(false));
        check(&[named("churn"), Frame::at(0x7fff_0000_1000, None)], Some(false));
    }

    #[test]
    fn a_program_that_did_not_compute_is_not_judged() {
        check(&["write", "churn"].map(named), None);
        check(&[Frame::at(u64::MAX, Some("schedule"))], None);
        check(&[], None);
    }

    #[test]
    fn frames_of_programs_are_counted_over_all_samples_and_the_idle_task_is_none() {
        let known = [program()];
        let mut heard = Heard::new(&known);
        heard.add(&known, 0, (&[named("idle")], 50));
        heard.add(&known, 7, (&["churn", "price", "orders", "work"].map(named), 3));
        heard.add(&known, 7, (&[named("churn")], 1));
        heard.add(&known, 8, (&[Frame::at(u64::MAX, Some("k")), Frame::at(5, None), named("f")], 2));
        assert_eq!(heard.samples, 6);
        assert_eq!(heard.named, Part { part: 15, of: 17 });
        assert_eq!(heard.callers, [Part { part: 3, of: 4 }]);
        assert_eq!(heard.callers[0].percent(), Some(75.0));
        assert_eq!(Part::default().percent(), None);
    }
}
