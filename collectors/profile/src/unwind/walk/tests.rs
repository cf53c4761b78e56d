//! Stories of stacks built as programs build them.

use super::*;

/// A stack that grows down from `TOP`, built as Go's prologues build it.
const TOP: u64 = 0xc000_1000;
/// Addresses of code: everything from here to twice that.
const CODE: u64 = 0x40_0000;

fn go(delta: u32) -> Known {
    Known::Go { delta: Some(delta), role: Role::Plain }
}

struct Made {
    words: Vec<u64>,
}

impl Made {
    /// Words from the stack pointer up.
    fn new(words: &[u64]) -> Made {
        Made { words: words.to_vec() }
    }

    fn start(&self) -> u64 {
        TOP - 8 * u64::try_from(self.words.len()).unwrap()
    }

    fn address(&self, word: usize) -> u64 {
        self.start() + 8 * u64::try_from(word).unwrap()
    }

    /// Of the walk: all addresses, and how it ended.
    fn walk(
        &self,
        machine: Machine,
        (frame, link): (u64, Option<u64>),
        chain: &[u64],
        deltas: &[(u64, Known)],
    ) -> (Vec<u64>, Ending) {
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let copied = Copied { start: self.start(), bytes: &bytes };
        let registers = Registers { frame, link, stack: self.start(), instruction: chain[0] };
        let walked = walk(
            machine,
            registers,
            copied,
            |at| chain.get(at).copied(),
            |at| {
                let (At::Next(address) | At::Return(address)) = at;
                let known = deltas.iter().find(|(of, _)| *of == address).map(|(_, known)| *known);
                known.unwrap_or(if (CODE..2 * CODE).contains(&address) {
                    Known::Code
                } else {
                    Known::Nothing
                })
            },
        );
        let rest = chain.iter().skip(walked.resume).copied();
        let rest: Vec<u64> = if walked.ending == Ending::Broken { Vec::new() } else { rest.collect() };
        assert_eq!(walked.addresses().len() + rest.len(), 1 + walked.added + walked.resume - 1 + rest.len());
        (walked.addresses().iter().copied().chain(rest).collect(), walked.ending)
    }
}

const LEAF: u64 = CODE + 0x10;
const CALLER: u64 = CODE + 0x20;
const NEXT: u64 = CODE + 0x30;
const LAST: u64 = CODE + 0x40;

#[test]
fn a_leaf_without_a_frame_gets_its_caller() {
    // [return to caller] [a local of the caller] [saved frame pointer] [return to next]
    let made = Made::new(&[CALLER, 7, TOP + 0x100, NEXT]);
    let frame = made.address(2);
    let deltas = [(LEAF, go(0)), (CALLER, go(16))];
    let (addresses, ending) = made.walk(Machine::X86_64, (frame, None), &[LEAF, NEXT, LAST], &deltas);
    assert_eq!((addresses, ending), (vec![LEAF, CALLER, NEXT, LAST], Ending::Linked));
}

#[test]
fn a_leaf_with_a_frame_is_left_alone() {
    let made = Made::new(&[7, TOP + 0x100, CALLER]);
    let (addresses, ending) =
        made.walk(Machine::X86_64, (made.address(1), None), &[LEAF, CALLER, NEXT], &[(LEAF, go(16))]);
    assert_eq!((addresses, ending), (vec![LEAF, CALLER, NEXT], Ending::Linked));
}

#[test]
fn between_the_steps_of_a_prologue_the_caller_is_there() {
    // The frame pointer is pushed, but still points to the caller's: [saved] [return to caller] [saved] [return to next].
    let made = Made::new(&[0, CALLER, TOP + 0x100, NEXT]);
    let frame = made.address(2);
    let deltas = [(LEAF, go(8)), (CALLER, go(8))];
    let (addresses, ending) = made.walk(Machine::X86_64, (frame, None), &[LEAF, NEXT], &deltas);
    assert_eq!((addresses, ending), (vec![LEAF, CALLER, NEXT], Ending::Linked));
}

#[test]
fn two_callers_without_frames_are_both_put_in() {
    let made = Made::new(&[CALLER, NEXT, TOP + 0x100, LAST]);
    let deltas = [(LEAF, go(0)), (CALLER, go(0)), (NEXT, go(8))];
    let (addresses, ending) = made.walk(Machine::X86_64, (made.address(2), None), &[LEAF, LAST], &deltas);
    assert_eq!((addresses, ending), (vec![LEAF, CALLER, NEXT, LAST], Ending::Linked));
}

#[test]
fn what_switches_stacks_is_believed_to_have_a_chain() {
    let made = Made::new(&[CALLER, 1, 2]);
    let switches = Known::Go { delta: None, role: Role::Systemstack };
    let (addresses, ending) =
        made.walk(Machine::X86_64, (0xc0_0000, None), &[LEAF, NEXT], &[(LEAF, go(0)), (CALLER, switches)]);
    assert_eq!((addresses, ending), (vec![LEAF, CALLER, NEXT], Ending::Open(Why::NoDelta)));
}

#[test]
fn what_is_no_code_is_not_put_in() {
    let made = Made::new(&[99, 1, 2]);
    let (addresses, ending) = made.walk(Machine::X86_64, (TOP, None), &[LEAF, NEXT], &[(LEAF, go(0))]);
    assert_eq!((addresses, ending), (vec![LEAF, NEXT], Ending::Open(Why::NotCode)));
}

#[test]
fn a_return_address_beyond_the_copy_is_not_looked_for() {
    let made = Made::new(&[1, 2, 3]);
    let check = |frame: u64, expected: (Vec<u64>, Ending)| {
        let walked = made.walk(Machine::X86_64, (frame, None), &[LEAF, NEXT], &[(LEAF, go(800))]);
        assert_eq!(walked, expected);
    };
    // The frame is set up all the same, and so the chain is complete.
    check(made.start() + 792, (vec![LEAF, NEXT], Ending::Linked));
    check(made.start() + 8_000, (vec![LEAF, NEXT], Ending::Open(Why::OutOfReach)));
    // Within the function's own frame: it is used for something else.
    check(made.start() + 80, (vec![LEAF], Ending::Broken));
    check(12_345, (vec![LEAF], Ending::Broken));
}

#[test]
fn a_frame_pointer_used_for_something_else_costs_only_what_is_beyond_the_copy() {
    let made = Made::new(&[7, 7, CALLER, 8, 8, NEXT, 9]);
    let deltas = [(LEAF, go(16)), (CALLER, go(16)), (NEXT, go(4_000))];
    let (addresses, ending) = made.walk(Machine::X86_64, (3, None), &[LEAF, 0xdead], &deltas);
    assert_eq!((addresses, ending), (vec![LEAF, CALLER, NEXT], Ending::Broken));
}

#[test]
fn a_function_that_was_interrupted_without_a_frame_has_its_caller() {
    // The interrupter's saved frame pointer is the one its victim's caller has set up.
    let made = Made::new(&[0, LEAF + 4, CALLER, TOP + 0x100, NEXT]);
    let mut words = made.words.clone();
    words[0] = made.address(3);
    let made = Made { words };
    let interrupts = Known::Go { delta: Some(8), role: Role::AsyncPreempt };
    let deltas = [(LEAF, interrupts), (LEAF + 4, go(0)), (CALLER, go(8))];
    let (addresses, ending) =
        made.walk(Machine::X86_64, (made.address(0), None), &[LEAF, LEAF + 4, NEXT, LAST], &deltas);
    assert_eq!((addresses, ending), (vec![LEAF, LEAF + 4, CALLER, NEXT, LAST], Ending::Linked));
}

#[test]
fn a_stack_has_a_bottom() {
    let made = Made::new(&[CALLER, 5, 5]);
    let goexit = Known::Go { delta: Some(0), role: Role::Goexit };
    let (addresses, ending) =
        made.walk(Machine::X86_64, (0, None), &[LEAF], &[(LEAF, go(0)), (CALLER, goexit)]);
    assert_eq!((addresses, ending), (vec![LEAF, CALLER], Ending::Bottom));
}

#[test]
fn on_arm64_the_link_register_has_the_caller_until_it_is_saved() {
    // The caller's frame: [return to next] [local] and its record below the stack pointer at the time of the call.
    let made = Made::new(&[NEXT, 7, LAST]);
    let record = made.address(0) - 8;
    let deltas = [(LEAF, go(0)), (CALLER, go(16))];
    let walk = |link| made.walk(Machine::Arm64, (record, link), &[LEAF, NEXT, LAST], &deltas);
    assert_eq!(walk(Some(CALLER)), (vec![LEAF, CALLER, NEXT, LAST], Ending::Linked));
    assert_eq!(walk(Some(5)).0, [LEAF, NEXT, LAST]);
    // A frame of its own, complete; and one whose frame pointer is still the caller's.
    let made = Made::new(&[CALLER, 7, NEXT, 8]);
    let deltas = [(LEAF, go(16)), (CALLER, go(16))];
    let complete = made.walk(Machine::Arm64, (made.address(0) - 8, Some(9)), &[LEAF, CALLER, NEXT], &deltas);
    assert_eq!(complete, (vec![LEAF, CALLER, NEXT], Ending::Linked));
    let early = made.walk(Machine::Arm64, (made.address(2) - 8, Some(9)), &[LEAF, NEXT], &deltas);
    assert_eq!(early, (vec![LEAF, CALLER, NEXT], Ending::Linked));
}

/// Whatever is in registers, stacks and tables: a walk ends, and gives no more than it may.
#[test]
fn nonsense_comes_to_an_end() {
    let mut random = 88_172_645_463_325_252_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..20_000 {
        let words: Vec<u64> = (0..next() % 65)
            .map(|_| if next() % 2 == 0 { CODE + next() % CODE } else { TOP - next() % 512 })
            .collect();
        let made = Made::new(&words);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let machine = if next() % 2 == 0 { Machine::X86_64 } else { Machine::Arm64 };
        let extreme = [0, u64::MAX, made.start(), TOP - 8][usize::try_from(next() % 4).unwrap()];
        let registers = Registers {
            frame: extreme,
            link: Some(next()),
            stack: if next() % 8 == 0 { extreme } else { made.start() },
            instruction: CODE,
        };
        let copied = Copied { start: registers.stack, bytes: &bytes };
        let walked = walk(
            machine,
            registers,
            copied,
            |at| (at < 9).then_some(CODE),
            |_| match next() % 8 {
                0 => Known::Nothing,
                1 => Known::Code,
                2 => Known::Go { delta: Some(8), role: Role::AsyncPreempt },
                3 => Known::Go { delta: None, role: Role::Mcall },
                4 => go(u32::MAX),
                _ => go(u32::try_from(next() % 8 * 8).unwrap()),
            },
        );
        assert!(walked.added <= ADDED_MAX && walked.addresses().len() <= ADDED_MAX + 4);
        assert!(walked.resume <= 10 && walked.addresses()[0] == CODE);
    }
}
