//! Records as the kernel would write them, and what becomes of them when they are torn.

use super::{Beside, Birth, Identity, Layout, Meta, Mmap, Record, Stint, decode, kind, misc, time_at};

pub(in crate::perf) const LAYOUT: Layout = Layout { registers: 3, has_cgroup: true, beside: Beside::Nothing };

/// Any record but a sample: header, body padded to eight bytes, trailer.
pub(in crate::perf) fn framed(kind: u32, misc: u16, body: &[u8], meta: Meta) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(8), 0);
    body.extend(meta.pid.to_ne_bytes());
    body.extend(meta.tid.to_ne_bytes());
    body.extend(meta.time_ns.to_ne_bytes());
    body.extend(u64::from(meta.cpu).to_ne_bytes());
    body.extend(meta.id.to_ne_bytes());
    with_header(kind, misc, &body)
}

fn with_header(kind: u32, misc: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_ne_bytes().to_vec();
    bytes.extend(misc.to_ne_bytes());
    bytes.extend(u16::try_from(body.len() + 8).unwrap().to_ne_bytes());
    bytes.extend(body);
    bytes
}

pub(in crate::perf) fn comm(tid: u32, name: &str, time_ns: u64) -> Vec<u8> {
    let mut body = [1_u32.to_ne_bytes(), tid.to_ne_bytes()].concat();
    body.extend(name.as_bytes());
    body.push(0);
    framed(kind::COMM, 0, &body, Meta { pid: 1, tid, time_ns, cpu: 0, id: 7 })
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A sample in user mode with a chain of one kernel and two user frames and 16 of 24 bytes of stack.
fn a_sample() -> Vec<u8> {
    let mut body = words(&[7, 0x1000, 5 | 6 << 32, 99, 1]);
    let marks = [128_u64.wrapping_neg(), 0xffff_ffff_8000_0000, 512_u64.wrapping_neg(), 0x1000, 0x2000];
    body.extend(words(&[5]));
    body.extend(words(&marks));
    body.extend(words(&[2, 11, 12, 13]));
    body.extend(words(&[24, 1, 2, 3, 16]));
    body.extend(words(&[4242]));
    with_header(kind::SAMPLE, 2, &body)
}

#[test]
fn a_sample_gives_its_chains_registers_and_stack() {
    let bytes = a_sample();
    let (meta, record) = decode(&bytes, &LAYOUT).unwrap();
    assert_eq!(meta, Meta { pid: 5, tid: 6, time_ns: 99, cpu: 1, id: 7 });
    let Record::Sample(sample) = record else { panic!("{record:?}") };
    assert_eq!((sample.address, sample.is_in_kernel, sample.cgroup), (0x1000, false, 4242));
    assert_eq!(sample.kernel.iter().collect::<Vec<_>>(), [0xffff_ffff_8000_0000]);
    assert_eq!(sample.user.iter().collect::<Vec<_>>(), [0x1000, 0x2000]);
    assert_eq!(sample.registers.iter().collect::<Vec<_>>(), [11, 12, 13]);
    assert_eq!(sample.stack, words(&[1, 2]));
    assert_eq!((sample.user.get(1), sample.user.get(2), sample.user.len()), (Some(0x2000), None, 2));
}

#[test]
fn a_thread_of_the_kernel_has_no_registers_and_no_stack() {
    let mut body = words(&[7, 0x1000, 0, 99, 1]);
    body.extend(words(&[2, 128_u64.wrapping_neg(), 0xffff_ffff_8000_0000]));
    body.extend(words(&[0, 0, 1]));
    let bytes = with_header(kind::SAMPLE, misc::KERNEL, &body);
    let Some((_, Record::Sample(sample))) = decode(&bytes, &LAYOUT) else { panic!() };
    assert!(sample.is_in_kernel && sample.registers.is_empty() && sample.stack.is_empty());
    assert_eq!((sample.kernel.len(), sample.user.len(), sample.cgroup), (1, 0, 1));
}

#[test]
fn a_sample_of_a_tracepoint_has_a_count_and_what_it_wrote() {
    let mut body = words(&[7, 0x1000, 5 | 6 << 32, 99, 1, 4_000_000, 0]);
    body.extend([&12_u32.to_ne_bytes()[..], b"twelve bytes"].concat());
    body.extend(words(&[2, 11, 12, 13, 0, 4242]));
    let bytes = with_header(kind::SAMPLE, misc::KERNEL, &body);
    let layout = Layout { beside: Beside::Tracepoint, ..LAYOUT };
    let Some((meta, Record::Sample(sample))) = decode(&bytes, &layout) else { panic!() };
    assert_eq!((meta.tid, sample.period, sample.raw), (6, 4_000_000, &b"twelve bytes"[..]));
    assert_eq!((sample.registers.len(), sample.stack.len(), sample.cgroup), (3, 0, 4242));
    assert!((0..bytes.len()).all(|length| decode(&bytes[..length], &layout).is_none()));
    for length in [13, 64, 1 << 16, u32::MAX] {
        let mut longer = bytes.clone();
        longer[64..68].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(decode(&longer, &layout), None, "{length} bytes are not there");
    }
}

#[test]
fn a_sample_of_a_task_that_is_timed_has_its_clock() {
    let check = |reading: &[u64], expected: Option<Stint>| {
        let mut body = words(&[7, 0x1000, 5 | 6 << 32, 99, 1]);
        body.extend(words(reading));
        body.extend(words(&[1, 0xffff_ffff_ffff_ff80, 0, 0, 4242]));
        let bytes = with_header(kind::SAMPLE, misc::KERNEL, &body);
        let layout = Layout { beside: Beside::Stint, ..LAYOUT };
        let seen = decode(&bytes, &layout).map(|(_, record)| match record {
            Record::Sample(sample) => (sample.stint, sample.cgroup),
            other => panic!("{other:?}"),
        });
        assert_eq!(seen, expected.map(|stint| (Some(stint), 4242)), "{reading:?}");
        assert!((0..bytes.len()).all(|length| decode(&bytes[..length], &layout).is_none()));
    };
    check(&[2, 3, 100, 0, 4_000_000, 101, 0], Some(Stint { switches: 3, ran_ns: 4_000_000 }));
    check(&[1, 3, 100, 0], None);
    check(&[0], None);
    check(&[u64::MAX], None);
}

#[test]
fn each_record_gives_what_the_kernel_put_in() {
    let meta = Meta { pid: 1, tid: 2, time_ns: 3, cpu: 4, id: 5 };
    let check = |kind: u32, misc: u16, body: &[u8], expected: Record<'_>| {
        let bytes = framed(kind, misc, body, meta);
        assert_eq!(decode(&bytes, &LAYOUT), Some((meta, expected)), "{kind}");
        let head = u64::from(kind) | u64::from(misc) << 32;
        let at = time_at(head, bytes.len()).unwrap();
        assert_eq!(bytes[at..at + 8], 3_u64.to_ne_bytes());
    };
    let ids = [8_u32, 9, 10, 11].map(u32::to_ne_bytes).concat();
    let birth = Birth { pid: 8, parent_pid: 9, tid: 10, parent_tid: 11 };
    check(kind::FORK, 0, &[&ids[..], &[0; 8]].concat(), Record::Fork(birth));
    check(kind::EXIT, 0, &[&ids[..], &[0; 8]].concat(), Record::Exit(birth));
    check(kind::LOST, 0, &words(&[5, 77]), Record::Lost { records: 77 });
    check(kind::LOST_SAMPLES, 0, &words(&[3]), Record::LostSamples { samples: 3 });
    check(kind::THROTTLE, 0, &words(&[3, 5, 5]), Record::Throttle { is_on: true });
    check(kind::UNTHROTTLE, 0, &words(&[3, 5, 5]), Record::Throttle { is_on: false });
    let comm = [&8_u32.to_ne_bytes()[..], &9_u32.to_ne_bytes(), b"etcd\0\0\0\0"].concat();
    let named = Record::Comm { pid: 8, tid: 9, is_exec: true, name: b"etcd" };
    check(kind::COMM, misc::COMM_EXEC, &comm, named);
    let made = Record::Cgroup { id: 42, path: b"/kubepods" };
    check(kind::CGROUP, 0, &[&words(&[42])[..], b"/kubepods\0"].concat(), made);
    let symbol = [&words(&[0xff00])[..], &64_u32.to_ne_bytes(), &[1, 0, 1, 0], b"bpf_x\0"].concat();
    let gone = Record::Ksymbol { address: 0xff00, bytes: 64, is_gone: true, name: b"bpf_x" };
    check(kind::KSYMBOL, 0, &symbol, gone);
    let out = Record::Switch { is_out: true, is_preempted: true, other: None };
    check(kind::SWITCH, misc::SWITCH_OUT | misc::SWITCH_OUT_PREEMPT, &[], out);
    let back = Record::Switch { is_out: false, is_preempted: false, other: Some((8, 9)) };
    check(kind::SWITCH_CPU_WIDE, 0, &ids[..8], back);
    check(77, 0, &[], Record::Other(77));
}

#[test]
fn a_mapping_is_known_by_its_build_id_or_its_inode() {
    let check = |misc: u16, file: &[u8; 24], identity: Identity| {
        let mut body = [8_u32, 9].map(u32::to_ne_bytes).concat();
        body.extend(words(&[0x40_0000, 0x1000, 0x2000]));
        body.extend(file);
        body.extend([5_u32, 2].map(u32::to_ne_bytes).concat());
        body.extend(b"/usr/bin/etcd\0");
        let bytes = framed(kind::MMAP2, misc, &body, Meta::default());
        let path = b"/usr/bin/etcd";
        let map = Mmap { pid: 8, start: 0x40_0000, length: 0x1000, offset: 0x2000, identity, path };
        assert_eq!(decode(&bytes, &LAYOUT).unwrap().1, Record::Mmap(map));
    };
    let mut file = [0; 24];
    file[0] = 20;
    file[4..].fill(0xab);
    check(misc::BUILD_ID, &file, Identity::BuildId(20, [0xab; 20]));
    file.fill(0);
    (file[0], file[4], file[8]) = (8, 1, 77);
    check(0, &file, Identity::Inode { major: 8, minor: 1, inode: 77 });
}

#[test]
fn torn_records_are_none_and_never_a_panic() {
    let whole = a_sample();
    for length in 0..whole.len() {
        assert_eq!(decode(&whole[..length], &LAYOUT), None, "the header says more");
    }
    // Whatever one word is changed to: decoded or not, but never past the end.
    for at in (0..whole.len()).step_by(8) {
        for value in [0, 1, 3, u64::from(u32::MAX), u64::MAX / 8, u64::MAX] {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
            if let Some((_, Record::Sample(sample))) = decode(&bytes, &LAYOUT) {
                assert!(sample.user.len() + sample.kernel.len() <= 5 && sample.stack.len() <= 24);
            }
        }
    }
    assert_eq!(time_at(9, 16), None);
    assert_eq!(time_at(3, 8), None);
}
