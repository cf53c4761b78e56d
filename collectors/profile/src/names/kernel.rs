//! Names of the kernel's functions.
//!
//! Owns when the kernel's list is read. Who names all day reads it once, when the first of its frames is met; from then on
//! the kernel says itself what code it makes and lets go of. Who names once asks the kernel for what he has, and reads the list
//! for it where that does not do. Refuses to give an address away, and to name what was at an address that two had.

use std::collections::VecDeque;

use super::order::InKernel;
use crate::perf::session::KernelCode;
use crate::symbols::kernel::{KernelError, KernelSymbols};

/// A part of the list is kept by its gaps, which for more addresses than these take more than the whole of it.
const AROUND_MAX: usize = 16 << 10;

/// Of what the kernel did, so small a part may be without a name before its whole list is read for it.
const NAMELESS_PART: u64 = 100;

/// Where they come from.
#[derive(Debug, Default)]
pub struct Kernel {
    list: List,
    /// What it made and let go of since the samples that are named now began.
    changes: VecDeque<KernelCode>,
}

#[derive(Debug, Default)]
enum List {
    /// Not asked yet.
    #[default]
    Unread,
    /// Nowhere: each is `[kernel]`, for this reason.
    Nameless(KernelError),
    /// Its own list.
    Symbols(Box<KernelSymbols>),
}

impl Kernel {
    /// Samples are named next during which the kernel changed so.
    pub(super) fn begin(&mut self, changes: VecDeque<KernelCode>) {
        self.changes = changes;
        if let List::Symbols(symbols) = &mut self.list {
            add(symbols, &self.changes);
        }
    }

    /// They have been named: what is gone is gone.
    pub(super) fn end(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        // A list that was not read yet will know.
        let List::Symbols(symbols) = &mut self.list else { return };
        for KernelCode { address, bytes, name } in changes {
            match name {
                Some(name) => symbols.add(address, bytes, &name),
                None => symbols.remove(address),
            }
        }
    }

    /// Only these are asked for until the end: who names once needs no copy of the whole list.
    pub(super) fn read_around(&mut self, there: &InKernel) {
        if there.met.is_empty() || matches!(self.list, List::Nameless(_)) {
            return;
        }
        let addresses: Vec<u64> = there.met.iter().map(|(address, _)| *address).collect();
        let asked = KernelSymbols::asked(&addresses).map(|symbols| self.changed(symbols));
        let read = match asked.filter(|symbols| is_enough(symbols, there)) {
            Some(symbols) => Ok(symbols),
            None => self.listed(if addresses.len() <= AROUND_MAX { Some(&addresses) } else { None }),
        };
        // A list that was read before is better than none.
        if read.is_ok() || matches!(self.list, List::Unread) {
            self.put(read);
        }
    }

    /// From the list, all or what is around these.
    fn listed(&self, addresses: Option<&[u64]>) -> Result<KernelSymbols, KernelError> {
        let read = addresses.map_or_else(KernelSymbols::read, KernelSymbols::read_around);
        read.map(|symbols| self.changed(symbols))
    }

    /// With what the kernel said while samples were taken.
    fn changed(&self, mut symbols: KernelSymbols) -> KernelSymbols {
        add(&mut symbols, &self.changes);
        symbols
    }

    fn put(&mut self, read: Result<KernelSymbols, KernelError>) {
        self.list = match read {
            Ok(symbols) => List::Symbols(Box::new(symbols)),
            Err(error) => List::Nameless(error),
        };
    }

    /// The function at an address.
    pub(super) fn name(&mut self, address: u64) -> Option<String> {
        if matches!(self.list, List::Unread) {
            self.put(self.listed(None));
        }
        match &self.list {
            List::Symbols(symbols) => symbols.name(address),
            List::Unread | List::Nameless(_) => None,
        }
    }

    /// Why its frames have no names.
    #[must_use]
    pub fn why_nameless(&self) -> Option<&KernelError> {
        match &self.list {
            List::Nameless(error) => Some(error),
            List::Unread | List::Symbols(_) => None,
        }
    }
}

/// Whether what was asked for has names. What has none may have one in the list: code that tracing makes. But most often it has
/// none there either, thunks against speculation for one, and then there are a few samples of it.
fn is_enough(symbols: &KernelSymbols, there: &InKernel) -> bool {
    let nameless = there.met.iter().filter(|(address, _)| symbols.name(*address).is_none());
    let count = nameless.fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    count.saturating_mul(NAMELESS_PART) <= there.count
}

/// What was made is added, and what went meanwhile stays: there are samples of both.
fn add(symbols: &mut KernelSymbols, changes: &VecDeque<KernelCode>) {
    for KernelCode { address, bytes, name } in changes {
        let Some(name) = name else { continue };
        match symbols.is_made_over(*address, *bytes, name) {
            true => symbols.add(*address, *bytes, b"?"),
            false => symbols.add(*address, *bytes, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "ffffffff81000000 T _stext\nffffffff81000000 T startup_64\nffffffff81000300 T _etext\n\
        ffffffffc0200000 t bpf_prog_old\t[bpf]\n";
    const OLD: u64 = 0xffff_ffff_c020_0000;
    const NEW: u64 = 0xffff_ffff_c030_0000;

    fn made(address: u64, name: &str) -> KernelCode {
        KernelCode { address, bytes: 64, name: Some(name.as_bytes().into()) }
    }

    fn gone(address: u64) -> KernelCode {
        KernelCode { address, bytes: 64, name: None }
    }

    fn named(kernel: &mut Kernel, changes: &[KernelCode], places: &[u64]) -> Vec<Option<String>> {
        kernel.begin(changes.iter().cloned().collect());
        let names = places.iter().map(|place| kernel.name(place + 8)).collect();
        kernel.end();
        names
    }

    #[test]
    fn code_has_its_name_as_long_as_there_are_samples_of_it() {
        let symbols = KernelSymbols::parse(LIST.as_bytes()).unwrap();
        let mut kernel = Kernel { list: List::Symbols(Box::new(symbols)), ..Kernel::default() };
        let name = |name: &str| Some(format!("{name} [bpf]"));
        let mut check = |changes: &[KernelCode], expected: [Option<String>; 2]| {
            assert_eq!(named(&mut kernel, changes, &[OLD, NEW]), expected, "{changes:?}");
        };
        check(&[], [name("bpf_prog_old"), None]);
        // Of one that came and went there are samples in the window in which it did.
        check(&[made(NEW, "short")], [name("bpf_prog_old"), name("short")]);
        check(&[gone(NEW), gone(OLD)], [name("bpf_prog_old"), name("short")]);
        check(&[], [None, None]);
        // Which of two the samples are of, nobody knows.
        check(&[made(NEW, "a"), gone(NEW), made(NEW, "b"), made(OLD, "c")], [name("c"), name("?")]);
        check(&[], [name("c"), name("b")]);
    }

    #[test]
    fn a_little_may_be_nameless_before_the_whole_list_is_read() {
        let mut symbols = KernelSymbols::default();
        symbols.add(OLD, 64, b"bpf_prog_old");
        let check = |named: u64, nameless: u64, expected: bool| {
            let there = InKernel { met: vec![(OLD, named), (NEW, nameless)], count: named.max(nameless) };
            assert_eq!(is_enough(&symbols, &there), expected, "{nameless} of {named} without a name");
        };
        check(1_000, 0, true);
        check(1_000, 10, true);
        check(1_000, 11, false);
        check(0, 1, false);
    }
}
