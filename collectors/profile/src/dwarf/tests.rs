//! Walks without a process: records and stacks made by hand, and real tables that are damaged.

use std::sync::Arc;

use proptest::prelude::{ProptestConfig, any};
use proptest::{collection, proptest};

use super::chain::Chain;
use super::rule::{Base, Fault, Frame, Kept, Registers, Rule, step};
use super::table::{Evaluator, Table};
use super::{FRAMES_MAX, Walk, Walker, walk_file};
use crate::binaries::Binaries;
use crate::perf::copied::Copied;
use crate::perf::modules::{Mappings, Modules};
use crate::perf::record::{Beside, Identity, Layout, Record, Sample, decode};

const SP: u64 = 0x7000_0000;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A record with the kernel's walk, frame pointer and instruction, and the stack.
fn record(user: &[u64], fp: u64, stack: &[u64]) -> Vec<u8> {
    let mut body = words(&[1, 0, 5 | 5 << 32, 0, 0]);
    body.extend(words(&[u64::try_from(user.len()).unwrap() + 1, 512_u64.wrapping_neg()]));
    body.extend(words(user));
    let registers =
        if cfg!(target_arch = "aarch64") { vec![2, fp, 0, SP, user[0]] } else { vec![2, fp, SP, user[0]] };
    body.extend(words(&registers));
    let bytes = u64::try_from(stack.len()).unwrap() * 8;
    body.extend(words(&[bytes]));
    body.extend(words(stack));
    body.extend(words(&[bytes]));
    let mut header = [9_u32.to_ne_bytes(), [2, 0, 0, 0]].concat();
    header[6..].copy_from_slice(&u16::try_from(body.len() + 8).unwrap().to_ne_bytes());
    header.extend(body);
    header
}

fn sample(record: &[u8]) -> Sample<'_> {
    let layout =
        Layout { registers: crate::perf::attr::REGISTERS.len(), has_cgroup: false, beside: Beside::Nothing };
    let Some((_, Record::Sample(sample))) = decode(record, &layout) else { panic!("no sample") };
    sample
}

/// Memory with code in it at 0x1000 to 0x2000.
fn memory() -> Mappings {
    let identity = Identity::Inode { major: 0, minor: 0, inode: 0 };
    let module = Modules::default().intern(5, identity, b"//anon").unwrap();
    let mut mappings = Mappings::default();
    assert!(mappings.map(0x1000, 0x1000, 0, Arc::clone(&module)));
    mappings
}

fn check(user: &[u64], fp: u64, stack: &[u64], expected: (&[u64], Walk, bool)) {
    let mut walker = Walker::new(Binaries::default());
    let record = record(user, fp, stack);
    let walked = walker.walk(5, &memory(), &sample(&record));
    assert_eq!((walked.addresses, walked.walk, walked.is_truncated), expected);
}

#[test]
fn memory_is_walked_as_the_kernel_did() {
    let record_at = |place: u64| SP + 8 * place;
    // Two records in the copy, the third is beyond.
    let stack = [0, record_at(3), 0x1200, record_at(100), 0x1300, 0];
    let user = [0x1100, 0x1200, 0x1300, 0x1400, 0x1500];
    check(&user, record_at(1), &stack, (&user, Walk::FramePointer, false));
    // What the kernel could not read either is not there.
    check(&user[..3], record_at(1), &stack, (&user[..3], Walk::CutShort, true));
    // A null pointer ends it, and so does a return to nowhere.
    check(&[0x1100, 0x1200], record_at(1), &[0, 0, 0x1200], (&[0x1100, 0x1200], Walk::FramePointer, false));
    check(&[0x1100], 0, &[0, 0, 0x1200], (&[0x1100], Walk::CutShort, false));
    check(&[0x1100, 0x9200], record_at(1), &[0, 0, 0x9200], (&[0x1100], Walk::CutShort, false));
}

#[test]
fn a_stack_that_changes_to_another_one_is_followed_as_the_kernel_did() {
    let stack = [0, 0xc000, 0x1200];
    let user = [0x1100, 0x1200, 0x1300, 0x1400];
    check(&user, SP + 8, &stack, (&user, Walk::FramePointer, false));
    // Nobody knows where that is.
    check(&user, 0xc000_0001, &stack, (&user, Walk::FramePointer, false));
}

#[test]
fn a_process_of_which_nothing_is_known_is_as_the_kernel_says() {
    let record = record(&[0x1100, 0x99], SP, &[0, 0]);
    let mut walker = Walker::new(Binaries::default());
    let walked = walker.walk(5, &Mappings::default(), &sample(&record));
    assert_eq!((walked.addresses, walked.walk), (&[0x1100, 0x99][..], Walk::FramePointer));
    assert_eq!(walker.counts().frame_pointer, 1);
}

#[test]
fn equal_addresses_are_told_apart_by_their_records() {
    let stack = words(&[0, SP + 24, 0x1200, SP + 40, 0x1200, SP + 800, 0x1200]);
    let record = record(&[0x1100, 0x1200, 0x1200, 0x1200, 0x1300], SP + 8, &[0]);
    let stack = Copied { start: SP, bytes: &stack };
    let chain = Chain { addresses: sample(&record).user, fp: SP + 8, stack };
    let places: Vec<_> = [8, 24, 40, 800, 16].iter().map(|at| chain.place_of(SP + at)).collect();
    assert_eq!(places, [Some(1), Some(2), Some(3), Some(4), None]);
}

#[test]
fn rules_lead_up_the_stack_or_nowhere() {
    let stack = words(&[1, 2, 0x1200, 4]);
    let stack = Copied { start: SP, bytes: &stack };
    let registers = Registers { pc: 0x1100, sp: SP, fp: SP + 8, lr: None };
    let frame = |base, cfa, ret, fp| Frame { base, cfa, ret, fp, is_signal: false };
    let go = |frame, is_leaf| step(&Rule::Frame(frame), &registers, &stack, is_leaf);
    let by_sp = frame(Base::Sp, 24, Kept::At(-8), Kept::At(-16));
    let next = Registers { pc: 0x1200, sp: SP + 24, fp: 2, lr: None };
    assert_eq!(go(by_sp, false), Ok(Some(next)));
    assert!(frame(Base::Fp, 16, Kept::At(-8), Kept::At(-16)).is_record() && !by_sp.is_record());
    assert_eq!(go(frame(Base::Sp, 48, Kept::At(-8), Kept::Same), false), Err(Fault::Beyond));
    assert_eq!(go(frame(Base::Sp, 0, Kept::At(16), Kept::Same), false), Err(Fault::Nonsense));
    assert_eq!(go(frame(Base::Sp, i32::MIN, Kept::At(8), Kept::Same), false), Err(Fault::Nonsense));
    assert_eq!(go(frame(Base::Sp, 24, Kept::Same, Kept::Same), true), Err(Fault::Nonsense));
    // A register that an epilogue has popped already lies below the stack pointer.
    let popped = frame(Base::Sp, 24, Kept::At(-8), Kept::At(-40));
    assert_eq!(go(popped, true).map(|next| next.map(|next| next.fp)), Ok(Some(SP + 8)));
    assert_eq!(go(popped, false), Err(Fault::Beyond));
}

/// A library that everything on this machine uses.
fn library() -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.split_whitespace().find(|word| word.contains("/libc.so") || word.contains("/libc-"));
    std::fs::read(path.expect("a C library that is loaded")).unwrap()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn where_a_function_begins_its_return_address_is_on_top_of_the_stack() {
    let library = library();
    let mut table = Table::open(&library[..]).unwrap();
    let offset = |address| {
        let elf =
            crate::symbols::elf::Elf::read(&mut crate::symbols::file::Windows::new(&library[..]).unwrap());
        elf.unwrap().offset_of(address).unwrap()
    };
    let mut evaluator = Evaluator::default();
    let starts: Vec<u64> = (0..400).map_while(|at| table.start(at * 7)).collect();
    let plain = Frame { base: Base::Sp, cfa: 8, ret: Kept::At(-8), fp: Kept::Same, is_signal: false };
    let rules: Vec<Rule> = starts.iter().map(|start| table.rule(offset(*start), &mut evaluator).0).collect();
    // What the compiler moved out of a function begins in the middle of it, and the stubs of the linker compute.
    let first = rules.iter().filter(|rule| **rule == Rule::Frame(plain)).count();
    assert!(starts.len() == 400 && first >= 370, "{first} of {}", starts.len());
    assert!(!rules.contains(&Rule::Unknown));
    assert!(table.bytes() <= 300 << 10, "{}", table.bytes());
}

/// Three hundred programs at once, each a file of its own: tables, descriptors and openings have a bound, and what finds no
/// room is counted.
#[test]
fn tables_of_many_programs_make_room_for_each_other() {
    let folder = std::env::temp_dir().join(format!("tables-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (mut modules, mut mappings, mut walker) =
        (Modules::default(), Mappings::default(), Walker::new(Binaries::default()));
    let place = |at: u64| (at + 1) << 24;
    for at in 0..300 {
        let path = folder.join(at.to_string());
        std::fs::copy("/bin/true", &path).unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        let identity = Identity::Inode { major: 0, minor: 0, inode };
        let module = modules.intern(std::process::id(), identity, path.as_os_str().as_encoded_bytes());
        assert!(mappings.map(place(at), 1 << 20, 0, module.unwrap()));
    }
    for at in 0..300 {
        for pc in (0x2000..0x5000).step_by(0x800) {
            let record = record(&[place(at) + pc], 0, &[0; 8]);
            let walked = walker.walk(std::process::id(), &mappings, &sample(&record));
            assert_eq!(walked.addresses.first(), Some(&(place(at) + pc)));
        }
        let work = walker.work();
        assert!(work.tables <= 128 && work.bytes <= 7 << 20, "{work:?}");
    }
    let work = walker.work();
    println!("{work:?}");
    assert!(work.opened >= 256 && work.evicted + 128 >= work.opened && work.refused == 0);
    // The first is read again when it is asked for again.
    let read = work.read;
    let record = record(&[place(0) + 0x2004], 0, &[0; 8]);
    walker.walk(std::process::id(), &mappings, &sample(&record));
    assert_eq!(walker.work().read, read + 1);
    std::fs::remove_dir_all(folder).unwrap();
}

/// The bytes of a library's table and of the index to it.
fn table_bytes(library: &[u8]) -> std::ops::Range<usize> {
    let elf =
        crate::symbols::elf::Elf::read(&mut crate::symbols::file::Windows::new(library).unwrap()).unwrap();
    let span = |name| elf.section(name).unwrap().span;
    let (index, table) = (span(".eh_frame_hdr"), span(".eh_frame"));
    let at = |offset: u64| usize::try_from(offset).unwrap();
    at(index.offset)..at(table.offset + table.length)
}

#[test]
fn damaged_tables_neither_panic_nor_stall() {
    let library = library();
    let range = table_bytes(&library);
    let length = range.len();
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(flips in collection::vec((0..length, any::<u8>()), 1..200), cut in any::<bool>(), at in any::<u16>())| {
        let mut library = library.clone();
        for (at, value) in &flips {
            library[range.start + at] = *value;
        }
        // The header of the index decides most of what follows: it is hit now and then, and so is the end of the file.
        if cut {
            library.truncate(range.start + flips[0].0);
        }
        let stack: Vec<u8> = (0..4096_u32).flat_map(|word| (word * 977).to_le_bytes()).collect();
        for step in 0..40_u64 {
            let pc = (u64::from(at) + step * 9173) * 8 % 0x15_0000 + 0x2_0000;
            assert!(walk_file(&library, [pc, SP, SP + 64], &stack) <= FRAMES_MAX);
        }
    });
}
