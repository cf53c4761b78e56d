//! Counts by process and stack: what a session comes to when single samples are not wanted.
//!
//! Owns the bound on them. A frame is a place in a module, so that the same code in two processes is the same frame; what
//! is nowhere keeps its address.

use std::sync::Arc;

use foldhash::HashMap;

use super::cgroup::Container;
use super::modules::Module;
use super::record::Words;
use super::session::{Seen, Sink};

/// Different stacks. An hour of a busy node has some tens of thousands.
const STACKS_MAX: usize = 65_536;
/// Words of all of them: 16 MiB.
const WORDS_MAX: usize = 2 << 20;
/// Different names of processes, threads and containers. Those that come later are counted without one.
const TEXTS_MAX: usize = 16_384;

/// The module number of kernel frames: modules begin at 1.
pub const KERNEL: u32 = u32::MAX;
/// The module number of addresses that are in nothing we know.
pub const NOWHERE: u32 = 0;

/// Words of a key before its frames, two of which stand for one frame.
const OWNER_WORDS: usize = 4;
/// Different stacks up to which each is counted by CPU: on a large node that makes many of one, and losing some is worse than
/// not knowing where they ran.
const BY_CPU_MAX: usize = STACKS_MAX / 4;

/// Where a function was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// A module's id, [`KERNEL`] or [`NOWHERE`].
    pub module: u32,
    /// In the module's file; an address in the other two.
    pub offset: u64,
}

/// One stack of one process with its count.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// Process.
    pub pid: u32,
    /// Tells it from others that had the number.
    pub generation: u64,
    /// Its name then.
    pub name: &'a str,
    /// The name of the thread.
    pub thread: &'a str,
    /// The id of its container, empty when there is none.
    pub container: &'a str,
    /// The uid of its pod, empty when there is none.
    pub pod: &'a str,
    /// Where it ran, where that is counted.
    pub cpu: Option<u32>,
    /// Samples; nanoseconds, where waiting is measured.
    pub count: u64,
    /// Samples in either case.
    pub samples: u64,
    frames: &'a [u64],
}

impl<'a> Stack<'a> {
    /// Leaf first, the kernel's before the program's.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = Frame> + use<'a> {
        let frame = |[module, offset]: &[u64; 2]| Frame { module: low(*module), offset: *offset };
        self.frames.as_chunks::<2>().0.iter().map(frame)
    }
}

/// How often and how much.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    weight: u64,
    samples: u64,
}

/// All stacks, each once. Adding to one that is known allocates nothing.
#[derive(Debug, Default)]
pub struct Stacks {
    counts: HashMap<Box<[u64]>, Count>,
    words: usize,
    texts: Vec<Arc<str>>,
    text_ids: HashMap<Arc<str>, u32>,
    /// The pod of a container, by the numbers of their texts.
    pods: HashMap<u32, u32>,
    modules: HashMap<u32, Arc<Module>>,
    overflow: u64,
    key: Vec<u64>,
    is_by_cpu: bool,
}

impl Stacks {
    /// Empty, and from here on by CPU too, as long as there is room for that.
    #[must_use]
    pub fn by_cpu() -> Stacks {
        Stacks { is_by_cpu: true, ..Stacks::default() }
    }

    /// What there is, and an empty one that counts on in the same way.
    #[must_use]
    pub fn take(&mut self) -> Stacks {
        let empty = Stacks { is_by_cpu: self.is_by_cpu, ..Stacks::default() };
        std::mem::replace(self, empty)
    }

    /// One sample as the kernel walked it.
    pub fn add(&mut self, seen: &Seen<'_>) {
        self.begin(seen);
        for address in seen.sample.kernel.iter() {
            self.push(Frame { module: KERNEL, offset: address });
        }
        self.push_user(seen, seen.sample.user);
        self.count(seen.wait.map_or(1, |wait| wait.length_ns));
    }

    /// Leaves a process out, as if it had not been seen.
    pub fn leave_out(&mut self, pid: u32) {
        self.counts.retain(|key, _| key.first().is_none_or(|who| low(*who) != pid));
    }

    /// How many different ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// What was counted of stacks that found no room.
    #[must_use]
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Stack<'_>> {
        self.counts.iter().filter_map(|(key, count)| {
            let (owner, frames) = key.split_first_chunk::<OWNER_WORDS>()?;
            let [who, generation, labels, cpu] = *owner;
            let text = |id: u32| self.texts.get(usize::try_from(id).ok()?).map(|text| &**text);
            Some(Stack {
                pid: low(who),
                generation,
                name: text(high(who))?,
                thread: text(low(labels))?,
                container: text(high(labels))?,
                pod: self.pods.get(&high(labels)).map_or(Some(""), |pod| text(*pod))?,
                cpu: low(cpu).checked_sub(1),
                count: count.weight,
                samples: count.samples,
                frames,
            })
        })
    }

    /// What a frame's number stands for.
    #[must_use]
    pub fn module(&self, id: u32) -> Option<&Arc<Module>> {
        self.modules.get(&id)
    }

    fn begin(&mut self, seen: &Seen<'_>) {
        let process = seen.process;
        if self.texts.is_empty() {
            self.texts.push("".into());
        }
        let name = process.map_or(0, |process| self.text(process.name()));
        let thread = process.map_or(0, |process| self.text(process.thread_name(seen.meta.tid)));
        let container = seen.cgroup.and_then(|cgroup| cgroup.container.as_ref());
        let container = container.map_or(0, |container| self.container(container));
        self.key.clear();
        self.key.push(pair(seen.meta.pid, name));
        self.key.push(process.map_or(0, |process| process.generation));
        self.key.push(pair(thread, container));
        let is_by_cpu = self.is_by_cpu && self.counts.len() < BY_CPU_MAX;
        self.key.push(if is_by_cpu { u64::from(seen.meta.cpu) + 1 } else { 0 });
    }

    fn push(&mut self, frame: Frame) {
        self.key.extend([u64::from(frame.module), frame.offset]);
    }

    fn push_user(&mut self, seen: &Seen<'_>, addresses: Words<'_>) {
        for address in addresses.iter() {
            let place = seen.process.and_then(|process| process.mappings.locate(address));
            let Some(place) = place else {
                self.push(Frame { module: NOWHERE, offset: address });
                continue;
            };
            // Held here, so that the number means something after the process has ended.
            self.modules.entry(place.module.id).or_insert_with(|| Arc::clone(place.module));
            self.push(Frame { module: place.module.id, offset: place.offset });
        }
    }

    fn count(&mut self, weight: u64) {
        if let Some(count) = self.counts.get_mut(self.key.as_slice()) {
            count.weight = count.weight.saturating_add(weight);
            count.samples += 1;
        } else if self.counts.len() < STACKS_MAX && self.words + self.key.len() <= WORDS_MAX {
            self.words += self.key.len();
            self.counts.insert(self.key.as_slice().into(), Count { weight, samples: 1 });
        } else {
            self.overflow = self.overflow.saturating_add(weight);
        }
    }

    fn container(&mut self, container: &Container) -> u32 {
        let id = self.text(&container.id);
        if let Some(pod) = container.pod_uid.as_deref().filter(|_| id != 0 && !self.pods.contains_key(&id)) {
            let pod = self.text(pod);
            self.pods.insert(id, pod);
        }
        id
    }

    /// The number of a text; 0 is the empty one.
    fn text(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(id) = self.text_ids.get(text) {
            return *id;
        }
        let Some(id) = u32::try_from(self.texts.len()).ok().filter(|_| self.texts.len() < TEXTS_MAX) else {
            return 0;
        };
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.text_ids.insert(text, id);
        id
    }
}

impl Sink for Stacks {
    fn sample(&mut self, seen: &Seen<'_>) {
        self.add(seen);
    }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn low(pair: u64) -> u32 {
    u32::try_from(pair & u64::from(u32::MAX)).unwrap_or(0)
}

fn high(pair: u64) -> u32 {
    low(pair >> 32)
}

#[cfg(test)]
mod tests {
    use super::super::processes::{Found, Processes};
    use super::super::record::{Identity, Meta, Mmap, Record, Sample, Words};
    use super::super::session::Seen;
    use super::{Frame, KERNEL, NOWHERE, STACKS_MAX, Stacks, WORDS_MAX};

    fn processes() -> Processes {
        let mut processes = Processes::default();
        let identity = Identity::Inode { major: 8, minor: 1, inode: 5 };
        for (pid, start) in [(10, 0x40_0000), (11, 0x7f_0000)] {
            let mmap = Mmap { pid, start, length: 0x1000, offset: 0x200, identity, path: b"/bin/x" };
            processes.found(pid, Found { name: "x", mappings: vec![mmap], ..Found::default() });
        }
        processes
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn add(stacks: &mut Stacks, processes: &Processes, pid: u32, (kernel, user): (&[u64], &[u64])) {
        let mut body = words(&[1, 0, u64::from(pid) | u64::from(pid) << 32, 0, 0]);
        let marks = [&[128_u64.wrapping_neg()][..], kernel, &[512_u64.wrapping_neg()], user].concat();
        body.extend(words(&[u64::try_from(marks.len()).unwrap()]));
        body.extend(words(&marks));
        body.extend(words(&[0, 0, 0]));
        let mut bytes = [9_u32.to_ne_bytes(), [2, 0, 0, 0]].concat();
        let size = u16::try_from(body.len() + 8).unwrap();
        bytes[6..].copy_from_slice(&size.to_ne_bytes());
        bytes.extend(body);
        let (meta, record) =
            super::super::record::decode(&bytes, &super::super::record::tests::LAYOUT).unwrap();
        let Record::Sample(sample): Record<'_> = record else { panic!() };
        add_sample(stacks, processes, meta, sample);
    }

    fn add_sample(stacks: &mut Stacks, processes: &Processes, meta: Meta, sample: Sample<'_>) {
        let process = processes.get(meta.pid);
        stacks.add(&Seen { meta, sample, process, cgroup: None, is_truncated: false, wait: None });
    }

    #[test]
    fn the_same_code_in_two_processes_is_the_same_frame() {
        let (mut stacks, processes) = (Stacks::default(), processes());
        add(&mut stacks, &processes, 10, (&[0xffff], &[0x40_0010, 0x99]));
        add(&mut stacks, &processes, 10, (&[0xffff], &[0x40_0010, 0x99]));
        add(&mut stacks, &processes, 11, (&[0xffff], &[0x7f_0010, 0x99]));
        let mut all: Vec<_> = stacks.iter().collect();
        all.sort_by_key(|stack| stack.pid);
        assert_eq!(
            all.iter().map(|stack| (stack.pid, stack.count, stack.name)).collect::<Vec<_>>(),
            [(10, 2, "x"), (11, 1, "x")]
        );
        let frames: Vec<_> = all[0].frames().collect();
        assert_eq!(frames, all[1].frames().collect::<Vec<_>>());
        let [kernel, code, nowhere] = frames[..] else { panic!("{frames:?}") };
        assert_eq!(kernel, Frame { module: KERNEL, offset: 0xffff });
        assert_eq!(stacks.module(code.module).unwrap().path, std::path::Path::new("/bin/x"));
        assert_eq!((code.offset, nowhere), (0x210, Frame { module: NOWHERE, offset: 0x99 }));
        stacks.leave_out(10);
        assert_eq!(stacks.iter().map(|stack| stack.pid).collect::<Vec<_>>(), [11]);
    }

    #[test]
    fn each_cpu_has_its_count_where_that_is_wanted_and_there_is_room() {
        let (processes, user) = (Processes::default(), words(&[7]));
        let sample = Sample { user: Words::new(&user), ..Sample::default() };
        let add = |stacks: &mut Stacks, cpu| {
            let meta = Meta { pid: 9, tid: 9, cpu, ..Meta::default() };
            add_sample(stacks, &processes, meta, sample);
        };
        let counted = |mut stacks: Stacks| {
            [0, 3, 3].into_iter().for_each(|cpu| add(&mut stacks, cpu));
            let mut all: Vec<_> = stacks.iter().map(|stack| (stack.cpu, stack.count)).collect();
            all.sort_unstable();
            (all, stacks)
        };
        assert_eq!(counted(Stacks::default()).0, [(None, 3)]);
        let (all, mut stacks) = counted(Stacks::by_cpu());
        assert_eq!(all, [(Some(0), 1), (Some(3), 2)]);
        drop(stacks.take());
        assert_eq!(counted(stacks).0, [(Some(0), 1), (Some(3), 2)], "taken, it counts on in the same way");
    }

    #[test]
    fn stacks_are_bounded_and_what_finds_no_room_is_counted() {
        let (mut stacks, processes) = (Stacks::default(), processes());
        let user: Vec<u64> = (0..20).collect();
        let added: u64 = 70_000;
        for at in 0..added {
            add(&mut stacks, &processes, 10, (&[at], &user));
        }
        assert!(stacks.len() <= STACKS_MAX && stacks.words <= WORDS_MAX);
        assert_eq!(stacks.iter().map(|stack| stack.count).sum::<u64>() + stacks.overflow(), added);
        assert!(stacks.overflow() > 0);
        add(&mut stacks, &processes, 10, (&[0], &user));
        assert_eq!(stacks.iter().map(|stack| stack.count).max(), Some(2), "known ones are counted on");
    }

    #[test]
    fn a_sample_of_nobody_is_counted_too() {
        let mut stacks = Stacks::default();
        add(&mut stacks, &Processes::default(), 77, (&[1], &[]));
        let one = stacks.iter().next().expect("counted");
        assert_eq!((one.pid, one.name, one.count), (77, "", 1));
    }
}
