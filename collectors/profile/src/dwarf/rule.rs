//! From one frame's registers to its caller's: the rules that a table gives for one instruction, and what they come to.
//!
//! Owns the arithmetic, all of it checked: registers, stack and rules are whatever a program made of them. Refuses to
//! guess: a rule that needs what is not there is a [`Fault`].

use super::expression::{self, Inputs};
use crate::perf::copied::Copied;

/// DWARF's numbers of the registers that are followed. No other is needed to find callers in what compilers write, and no
/// other is in a sample.
#[cfg(target_arch = "x86_64")]
pub(super) mod number {
    pub(in crate::dwarf) const FP: u16 = 6;
    pub(in crate::dwarf) const SP: u16 = 7;
    pub(in crate::dwarf) const PC: u16 = 16;
    /// The column in which tables keep where a function returns to.
    pub(in crate::dwarf) const RETURN: u16 = 16;
}
/// DWARF's numbers of the registers that are followed.
#[cfg(target_arch = "aarch64")]
pub(super) mod number {
    pub(in crate::dwarf) const FP: u16 = 29;
    pub(in crate::dwarf) const SP: u16 = 31;
    pub(in crate::dwarf) const PC: u16 = 32;
    /// The link register is the column in which tables keep where a function returns to.
    pub(in crate::dwarf) const RETURN: u16 = 30;
}

/// A frame record is two words: the caller's frame pointer and where to return to.
pub(super) const RECORD_BYTES: u64 = 16;
/// Signatures of pointer authentication lie above this bit of a return address on arm64; on x86-64 nothing does.
const ADDRESS_BITS: u64 = if cfg!(target_arch = "aarch64") { (1 << 48) - 1 } else { u64::MAX };

/// What is known of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    /// The instruction that is next, or that a call returns to.
    pub(super) pc: u64,
    /// Stack pointer.
    pub(super) sp: u64,
    /// Frame pointer: one, if the function keeps it.
    pub(super) fp: u64,
    /// The link register, where there is one: known of the leaf alone.
    pub(super) lr: Option<u64>,
}

/// Why a rule does not lead to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It reads where the copy of the stack does not reach.
    Beyond,
    /// It leads nowhere: a stack that does not shrink, a number that overflows.
    Nonsense,
}

/// What a table says of an instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nothing that could be used.
    #[default]
    Unknown,
    /// Nothing called this.
    End,
    /// Offsets from one register: all that compilers write of ordinary functions.
    Frame(Frame),
    /// Something must be computed: signal frames, stubs of the linker, stacks that were aligned.
    Computed(Box<Computed>),
}

/// The register that a frame is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Sp,
    Fp,
}

/// Where the caller's value of a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// In the register still.
    Same,
    /// So far from the canonical frame address (CFA): the caller's stack pointer before its call.
    At(i32),
}

/// A rule of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) base: Base,
    /// From the base to the CFA.
    pub(super) cfa: i32,
    pub(super) ret: Kept,
    pub(super) fp: Kept,
    pub(super) is_signal: bool,
}

/// One value of a computed rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Same,
    At(i32),
    /// The CFA itself and so much more.
    Is(i32),
    /// A DWARF expression gives it.
    Computed(Box<[u8]>),
    /// A DWARF expression gives where it is.
    AtComputed(Box<[u8]>),
}

/// A rule with expressions in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Computed {
    pub(super) cfa: CfaValue,
    pub(super) ret: Value,
    pub(super) fp: Value,
    pub(super) is_signal: bool,
}

/// The canonical frame address of a computed rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CfaValue {
    Register(Base, i32),
    Computed(Box<[u8]>),
}

impl Frame {
    /// Whether the function keeps a frame record where its frame pointer points: the kernel's walk then sees its caller.
    pub(super) fn is_record(&self) -> bool {
        let cfa = if cfg!(target_arch = "x86_64") { self.cfa == 16 } else { true };
        let at = |kept: Kept, into: i32| matches!(kept, Kept::At(offset) if offset == into - self.cfa);
        self.base == Base::Fp && cfa && at(self.fp, 0) && at(self.ret, 8)
    }
}

impl Rule {
    /// Whether the frame that it leads to was interrupted, so that its instruction is the one that is next.
    pub(super) fn is_signal(&self) -> bool {
        match self {
            Rule::Frame(frame) => frame.is_signal,
            Rule::Computed(computed) => computed.is_signal,
            Rule::Unknown | Rule::End => false,
        }
    }
}

/// The caller's registers; `None` where there is no caller.
pub(super) fn step(
    rule: &Rule,
    registers: &Registers,
    stack: &Copied<'_>,
    is_leaf: bool,
) -> Result<Option<Registers>, Fault> {
    let (cfa, ret, fp) = match rule {
        Rule::Unknown => return Err(Fault::Nonsense),
        Rule::End => return Ok(None),
        Rule::Frame(frame) => framed(frame, registers, stack, is_leaf)?,
        Rule::Computed(rule) => computed(rule, registers, stack)?,
    };
    let pc = ret & ADDRESS_BITS;
    if pc == 0 {
        return Ok(None);
    }
    // A function that has no frame on arm64 leaves the stack where it is; everything else shrinks it. A signal may have
    // been handled on another stack.
    let may_stay = is_leaf && registers.lr.is_some();
    let is_sane = cfa > registers.sp || (may_stay && cfa == registers.sp) || rule.is_signal();
    if !is_sane || (cfa == registers.sp && pc == registers.pc) {
        return Err(Fault::Nonsense);
    }
    Ok(Some(Registers { pc, sp: cfa, fp, lr: None }))
}

/// CFA, return address, frame pointer.
type Found = (u64, u64, u64);

fn framed(frame: &Frame, registers: &Registers, stack: &Copied<'_>, is_leaf: bool) -> Result<Found, Fault> {
    let cfa = plus(base(frame.base, registers), frame.cfa)?;
    let ret = match frame.ret {
        Kept::At(offset) => stack.word(plus(cfa, offset)?).ok_or(Fault::Beyond)?,
        Kept::Same => registers.lr.ok_or(Fault::Nonsense)?,
    };
    let fp = match frame.fp {
        Kept::Same => registers.fp,
        Kept::At(offset) => {
            let place = plus(cfa, offset)?;
            // In an epilogue the table may not say that the register has been popped: what lies below the stack pointer
            // is in the register again.
            if is_leaf && place < registers.sp {
                registers.fp
            } else {
                stack.word(place).ok_or(Fault::Beyond)?
            }
        }
    };
    Ok((cfa, ret, fp))
}

fn computed(rule: &Computed, registers: &Registers, stack: &Copied<'_>) -> Result<Found, Fault> {
    let inputs = |initial| Inputs { initial, registers, stack };
    let cfa = match &rule.cfa {
        CfaValue::Register(by, offset) => plus(base(*by, registers), *offset)?,
        CfaValue::Computed(bytes) => expression::evaluate(bytes, &inputs(None))?,
    };
    let value = |value: &Value, same: Option<u64>| match value {
        Value::Same => same.ok_or(Fault::Nonsense),
        Value::At(offset) => stack.word(plus(cfa, *offset)?).ok_or(Fault::Beyond),
        Value::Is(offset) => plus(cfa, *offset),
        Value::Computed(bytes) => expression::evaluate(bytes, &inputs(Some(cfa))),
        Value::AtComputed(bytes) => {
            stack.word(expression::evaluate(bytes, &inputs(Some(cfa)))?).ok_or(Fault::Beyond)
        }
    };
    Ok((cfa, value(&rule.ret, registers.lr)?, value(&rule.fp, Some(registers.fp))?))
}

fn base(base: Base, registers: &Registers) -> u64 {
    match base {
        Base::Sp => registers.sp,
        Base::Fp => registers.fp,
    }
}

fn plus(address: u64, offset: i32) -> Result<u64, Fault> {
    address.checked_add_signed(i64::from(offset)).ok_or(Fault::Nonsense)
}
