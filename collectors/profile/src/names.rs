//! Names for what was counted: stacks of places in files become stacks of functions, files and lines.
//!
//! Owns what is remembered of places, over captures, and how a stack reads: calls that were inlined have frames of their
//! own, wrappers that the compiler made are left out as in Go's own tracebacks, and a stack ends where the runtime's does.
//! Refuses to guess. What has no name says where it is instead:
//!
//! | frame | name |
//! |---|---|
//! | in a file without a name for it, or that cannot be had | `[etcd+0x1f00]`: file's name and offset in the file |
//! | in the kernel's page of user code, no symbol | `[vdso+0x780]` |
//! | in memory, compiled at run time, in no list of the process | `[anon]` |
//! | in nothing that was mapped | `[unknown]` |
//! | in the kernel, no symbol | `[kernel]`, once for neighbours that have none |
//!
//! Addresses of the kernel are given to nobody: they tell an attacker where it is.

mod fileless;
mod frames;
mod kernel;
mod known;
mod order;
mod output;
mod returns;
mod worth;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use model::profile::{Owner, ProfileKind, Stacks};
use model::time::Stamp;

use crate::binaries::{Binaries, Binary, Missing, State};
use crate::perf::modules::{Kind, Module};
use crate::perf::record::Identity;
use crate::perf::session::KernelCode;
use crate::perf::stacks::{self, Frame, KERNEL, NOWHERE, Stack};
use crate::pods::Pods;

use fileless::Fileless;
use frames::Depth;
pub use kernel::Kernel;
use known::{Ends, Key, Known};
use order::{InKernel, Met};
use output::{How, Output};
pub use returns::{IsOwn, Returns, Taken};
use worth::Worth;

/// Modules that have a number in what is remembered. When there are more, all is forgotten: it takes a fraction of a
/// second to find it again.
const MODULES_MAX: usize = 16_384;

/// What the counts are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// [`ProfileKind::Cpu`] or [`ProfileKind::OffCpu`].
    pub kind: ProfileKind,
    /// When it began.
    pub at: Stamp,
    /// How long it took.
    pub duration_ns: u64,
    /// Between two samples of a CPU; 0 where samples differ in weight.
    pub period_ns: u64,
}

/// How much got a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Places in user space, each once for each stack it is in.
    pub user: u64,
    /// Of those, with a name.
    pub user_named: u64,
    /// Of those, in files that could not be had, in the order of [`Missing::ALL`].
    pub missing: [u64; Missing::ALL.len()],
    /// Places in the kernel.
    pub kernel: u64,
    /// Of those, with a name.
    pub kernel_named: u64,
    /// Stacks that were cut at the root's end because they, or all of them together, were too many frames.
    pub cut: u64,
    /// Places that had to be looked up in a file, the others were remembered.
    pub look_ups: u64,
}

impl Statistics {
    fn miss(&mut self, missing: Missing) {
        let at = Missing::ALL.iter().position(|one| *one == missing);
        if let Some(count) = at.and_then(|at| self.missing.get_mut(at)) {
            *count += 1;
        }
    }
}

/// A module in this capture.
#[derive(Debug)]
struct Opened {
    binary: Result<Arc<Binary>, Missing>,
    /// Its number in what is remembered, if it could be opened.
    number: u32,
    /// What a place without a name is called by, beside its offset.
    label: String,
}

/// The same file with other content has nothing in common with what it was, so it gets another number.
#[derive(Debug)]
struct Number {
    number: u32,
    state: State,
}

/// Names places, and remembers them.
#[derive(Debug, Default)]
pub struct Names {
    binaries: Binaries,
    kernel: Kernel,
    known: Known,
    numbers: HashMap<(Identity, PathBuf), Number>,
    last_number: u32,
    hot: frames::Hot,
    fileless: Fileless,
    pods: Pods,
}

impl Names {
    /// With files that others may use too.
    #[must_use]
    pub fn new(binaries: Binaries) -> Names {
        Names { binaries, ..Names::default() }
    }

    /// By functions alone where code is native, without lines and inlined calls: for who names all day.
    #[must_use]
    pub fn by_functions(mut self) -> Names {
        self.hot.depth = Depth::Functions;
        self
    }

    /// What is named next was counted while the kernel made this code of its own and let go of some, in order.
    pub(crate) fn kernel_changed(&mut self, changes: VecDeque<KernelCode>) {
        self.kernel.begin(changes);
    }

    /// All that was counted, named.
    #[must_use]
    pub fn name(&mut self, counted: &stacks::Stacks, capture: &Capture) -> (Stacks, Statistics) {
        let worth = (self.hot.depth == Depth::Lines).then(|| Worth::of(counted, capture.kind));
        if worth.is_some() {
            self.kernel.read_around(&InKernel::of(counted));
        }
        let mut naming = Naming { worth, ..Naming::new(self) };
        let mut output = Output::default();
        let stacks = order::by_process(counted);
        naming.ahead(&stacks, counted);
        for stack in stacks {
            naming.stack(&stack, counted, &mut output);
            output.end(&stack, capture);
        }
        let mut statistics = naming.statistics;
        self.finish();
        statistics.cut = output.cut();
        let mut named = output.finish(capture);
        let in_pods = named.owners.iter_mut().filter(|owner| !owner.pod.is_empty());
        in_pods.for_each(|owner| self.name_pod(owner, capture.at));
        (named, statistics)
    }

    /// Lets go of what only this capture needed.
    fn finish(&mut self) {
        self.hot.cool();
        self.fileless.end();
        self.kernel.end();
    }

    /// The kernel knows pods by their uid; where their names are not known, it stays.
    fn name_pod(&mut self, owner: &mut Owner, at: Stamp) {
        if let Some(pod) = self.pods.find(&owner.pod, at) {
            (owner.pod, owner.namespace) = (pod.name.clone(), pod.namespace.clone());
        }
    }

    /// Where names of the kernel come from.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The number of a module's file in the state that it is in.
    fn number(&mut self, module: &Module, state: State) -> u32 {
        if self.numbers.len() >= MODULES_MAX {
            self.numbers.clear();
            self.known.forget();
        }
        let key = (module.identity, module.path.clone());
        if let Some(known) = self.numbers.get(&key).filter(|known| known.state == state) {
            return known.number;
        }
        self.last_number = self.last_number.wrapping_add(1);
        self.numbers.insert(key, Number { number: self.last_number, state });
        self.last_number
    }
}

/// One capture on its way.
struct Naming<'n> {
    names: &'n mut Names,
    opened: HashMap<u32, Opened>,
    statistics: Statistics,
    /// Where it matters which files are read how deeply.
    worth: Option<Worth>,
}

impl<'n> Naming<'n> {
    fn new(names: &'n mut Names) -> Naming<'n> {
        Naming { names, opened: HashMap::new(), statistics: Statistics::default(), worth: None }
    }
}

impl Naming<'_> {
    /// Looks up the places in files in the order of their code, so that the tables of few files are loaded at a time and
    /// few pieces of them are read twice. That a call was no call is seen when its stack is named; there are few of those.
    fn ahead(&mut self, stacks: &[Stack<'_>], counted: &stacks::Stacks) {
        for (Met { frame, is_return }, pid) in order::places(stacks) {
            let module = counted.module(frame.module).filter(|module| module.kind.is_of_file());
            let opened = module.and_then(|module| self.opened(frame.module, module, pid));
            if let Some(Opened { binary: Ok(binary), number, .. }) = opened {
                let (binary, number) = (Arc::clone(binary), *number);
                self.known((&binary, number), frame, is_return);
            }
        }
    }

    /// The file of a module.
    fn opened(&mut self, id: u32, module: &Module, pid: u32) -> Option<&Opened> {
        if !self.opened.contains_key(&id) {
            let binary = self.names.binaries.open(module, pid);
            let number = binary.as_ref().map_or(0, |binary| self.names.number(module, binary.state()));
            self.opened.insert(id, Opened { binary, number, label: label(module) });
        }
        self.opened.get(&id)
    }

    /// The functions at a place in a file.
    fn known(
        &mut self,
        (binary, number): (&Arc<Binary>, u32),
        frame: Frame,
        is_return: bool,
    ) -> known::Place {
        let depth = self.worth.as_ref().map_or(self.names.hot.depth, |worth| worth.depth(frame.module));
        let key = Key { module: number, offset: frame.offset, is_return, depth };
        if let Some(known) = self.names.known.get(&key) {
            return known;
        }
        self.statistics.look_ups += 1;
        let found = frames::of(binary, (frame.offset, is_return), depth, &mut self.names.hot);
        self.names.known.put(key, found)
    }

    fn stack(&mut self, stack: &Stack<'_>, counted: &stacks::Stacks, output: &mut Output) {
        output.begin();
        let (mut how, mut is_leaf) = (How::default(), true);
        for frame in stack.frames() {
            if frame.module == KERNEL {
                self.kernel_frame(frame, output);
                continue;
            }
            let named = match output.again(frame, how) {
                Some(named) => named,
                None => {
                    let module = counted.module(frame.module).filter(|_| frame.module != NOWHERE);
                    self.user_frame(frame, (how, stack.pid), module.map(Arc::clone), output)
                }
            };
            self.statistics.user += 1;
            self.statistics.user_named += u64::from(named.is_named);
            if !output.push(named) || (named.ends == Ends::Stack && !is_leaf) {
                break;
            }
            is_leaf = false;
            how = How { is_return: named.ends != Ends::Interrupted, is_panic: named.is_panic };
        }
    }

    fn kernel_frame(&mut self, frame: Frame, output: &mut Output) {
        self.statistics.kernel += 1;
        let kernel = &mut self.names.kernel;
        let is_named = output.kernel(frame.offset, || kernel.name(frame.offset));
        self.statistics.kernel_named += u64::from(is_named);
    }

    /// A place that this capture has not met before.
    fn user_frame(
        &mut self,
        frame: Frame,
        (how, pid): (How, u32),
        module: Option<Arc<Module>>,
        output: &mut Output,
    ) -> output::Named {
        let Some(module) = module else {
            return output.nameless((frame, how), "[unknown]", None);
        };
        match module.kind {
            Kind::Vdso => return self.page_frame(&module, (frame, how), output),
            Kind::Anonymous => return self.compiled_frame((frame, how), pid, output),
            Kind::File | Kind::Deleted | Kind::Memfd => {}
        }
        let (binary, number) = match self.opened(frame.module, &module, pid) {
            Some(Opened { binary: Ok(binary), number, .. }) => (Arc::clone(binary), *number),
            Some(Opened { binary: Err(missing), .. }) => {
                let missing = *missing;
                self.statistics.miss(missing);
                let mapping = output.mapping(&module, None, frame.offset);
                return output.nameless((frame, how), &self.place(frame), mapping);
            }
            None => return output.nameless((frame, how), "[unknown]", None),
        };
        let known = self.known((&binary, number), frame, how.is_return);
        let mapping = output.mapping(&module, Some(&binary), frame.offset);
        if known.is_empty() {
            return output.nameless((frame, how), &self.place(frame), mapping);
        }
        let address = binary.address_of(frame.offset).map_or(0, |address| address - u64::from(how.is_return));
        output.named((frame, how), &known, (mapping.unwrap_or(u32::MAX), address))
    }

    /// What a place without a name is called.
    fn place(&self, frame: Frame) -> String {
        let label = self.opened.get(&frame.module).map_or("", |opened| &opened.label);
        format!("[{label}+{:#x}]", frame.offset)
    }

    /// A place in the kernel's page, the same in all processes.
    fn page_frame(&mut self, module: &Module, place: (Frame, How), output: &mut Output) -> output::Named {
        let (frame, how) = place;
        // No number of a file is 0.
        let depth = Depth::default();
        let key = Key { module: 0, offset: frame.offset, is_return: how.is_return, depth };
        let known = match self.names.known.get(&key) {
            Some(known) => known,
            None => {
                self.statistics.look_ups += 1;
                let found = self.names.fileless.in_page((frame.offset, how.is_return));
                self.names.known.put(key, found)
            }
        };
        let mapping = output.mapping(module, None, frame.offset);
        if known.is_empty() {
            self.statistics.miss(Missing::Memory);
            return output.nameless(place, &format!("[vdso+{:#x}]", frame.offset), mapping);
        }
        output.named(place, &known, (mapping.unwrap_or(u32::MAX), frame.offset))
    }

    /// A place in memory that no file is mapped to: each process has its own.
    fn compiled_frame(&mut self, (frame, how): (Frame, How), pid: u32, output: &mut Output) -> output::Named {
        let is_asked = self.names.hot.depth == Depth::Lines;
        let names = &mut self.names.fileless;
        let name = if is_asked { names.compiled(pid, (frame.offset, how.is_return)) } else { None };
        if name.is_none() {
            self.statistics.miss(Missing::Memory);
        }
        output.placeless(name)
    }
}

/// A file's name without what the kernel writes behind it.
fn label(module: &Module) -> String {
    let name = module.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
    name.trim_start_matches('[').trim_end_matches(']').to_owned()
}

#[cfg(test)]
mod tests;
