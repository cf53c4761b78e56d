//! One entry of a table (FDE) with what it shares with others (CIE), and the rule that it gives for an address.

use gimli::{
    BaseAddresses, CfaRule, DebugFrame, EhFrame, EndianSlice, FrameDescriptionEntry, LittleEndian, Register,
    RegisterRule, UnwindContext, UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow,
    Vendor,
};

use super::super::expression;
use super::super::rule::{Base, CfaValue, Computed, Frame, Kept, Rule, Value, number};
use crate::symbols::elf::Span;
use crate::symbols::file::{ReadAt, Windows, u32_at};

/// Of one entry: a row for each push and pop of a function of ten megabytes. Longer ones are of no honest compiler.
const ENTRY_BYTES_MAX: u32 = 64 << 10;
/// Of what entries share: some forty bytes, in anything that is known.
const SHARED_BYTES_MAX: u32 = 1 << 10;
/// Registers with rules at a time. Functions save seven on x86-64 and twenty on arm64.
const REGISTERS_MAX: usize = 32;
/// Rows that are remembered within one another. Compilers nest none.
const ROWS_MAX: usize = 4;
const VENDOR: Vendor = if cfg!(target_arch = "aarch64") { Vendor::AArch64 } else { Vendor::Default };

/// Which kind of section, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Eh(Span),
    Debug(Span),
}

impl Section {
    pub(super) fn span(self) -> Span {
        match self {
            Section::Eh(span) | Section::Debug(span) => span,
        }
    }

    /// Where an offset of it is in memory. What is for debuggers is never there, and has no addresses relative to itself.
    pub(super) fn address_of(self, offset: u64) -> Option<u64> {
        match self {
            Section::Eh(span) => span.address_of(offset),
            Section::Debug(_) => Some(0),
        }
    }

    /// The offset of the shared entry, by the word that follows the length of an entry at an offset; `None` for an entry
    /// that is itself shared.
    pub(super) fn shared(self, at: u64, word: u32) -> Option<u64> {
        match self {
            Section::Eh(_) if word != 0 => at.checked_add(4)?.checked_sub(u64::from(word)),
            Section::Debug(span) if word != u32::MAX => span.offset.checked_add(u64::from(word)),
            Section::Eh(_) | Section::Debug(_) => None,
        }
    }
}

/// Where an entry is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) section: Section,
    pub(super) offset: u64,
    pub(super) address: u64,
}

/// Rows of few registers: a hostile entry may copy one with each byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dwarf) struct Rows;

impl UnwindContextStorage<usize> for Rows {
    type Rules = [(Register, RegisterRule<usize>); REGISTERS_MAX];
    type Stack = Box<[UnwindTableRow<usize, Rows>; ROWS_MAX]>;
}

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Evaluates entries, one after the other in the same memory.
#[derive(Debug)]
pub(in crate::dwarf) struct Evaluator {
    context: UnwindContext<usize, Rows>,
    bytes: Vec<u8>,
}

impl Default for Evaluator {
    fn default() -> Evaluator {
        Evaluator { context: UnwindContext::new_in(), bytes: Vec::new() }
    }
}

impl Evaluator {
    /// The rule for an address; `None` when the entry does not cover it or makes no sense.
    pub(super) fn rule<R: ReadAt>(
        &mut self,
        file: &mut Windows<R>,
        entry: &Entry,
        address: u64,
    ) -> Option<Rule> {
        let own_at = self.load(file, entry)?;
        // Addresses in the entry are relative to where they stand: the section is taken to begin where that comes out.
        let begin = entry.address.wrapping_sub(u64::try_from(own_at).ok()?);
        let bases = BaseAddresses::default().set_eh_frame(begin);
        let bytes = EndianSlice::new(&self.bytes, LittleEndian);
        match entry.section {
            Section::Eh(_) => {
                let mut section = EhFrame::from(bytes);
                section.set_address_size(8);
                section.set_vendor(VENDOR);
                let own = section.fde_from_offset(&bases, own_at.into(), EhFrame::cie_from_offset).ok()?;
                rule(&section, &bases, &mut self.context, (&own, address))
            }
            Section::Debug(_) => {
                let mut section = DebugFrame::from(bytes);
                section.set_address_size(8);
                section.set_vendor(VENDOR);
                let own = section.fde_from_offset(&bases, own_at.into(), DebugFrame::cie_from_offset).ok()?;
                rule(&section, &bases, &mut self.context, (&own, address))
            }
        }
    }

    /// Bytes of the entry that was evaluated last.
    pub(super) fn evaluated(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    /// Puts the shared entry and the entry itself behind one another, as if there were no others, and says where the
    /// second begins.
    fn load<R: ReadAt>(&mut self, file: &mut Windows<R>, entry: &Entry) -> Option<usize> {
        self.bytes.clear();
        let head = file.bytes(entry.offset, 8).ok()?;
        let (length, word) = (u32_at(head, 0), u32_at(head, 4));
        let shared = entry.section.shared(entry.offset, word)?;
        let shared_length = file.u32(shared).ok()?;
        if !(4..=ENTRY_BYTES_MAX).contains(&length) || !(4..=SHARED_BYTES_MAX).contains(&shared_length) {
            return None;
        }
        append(file, shared, shared_length, &mut self.bytes)?;
        let own_at = self.bytes.len();
        append(file, entry.offset, length, &mut self.bytes)?;
        let back = match entry.section {
            Section::Eh(_) => u32::try_from(own_at + 4).ok()?,
            Section::Debug(_) => 0,
        };
        self.bytes.get_mut(own_at + 4..own_at + 8)?.copy_from_slice(&back.to_le_bytes());
        Some(own_at)
    }
}

/// Appends an entry, with its length before it.
fn append<R: ReadAt>(file: &mut Windows<R>, at: u64, length: u32, into: &mut Vec<u8>) -> Option<()> {
    let length = usize::try_from(length).ok()?.checked_add(4)?;
    // Most are in a window already.
    if let Ok(bytes) = file.bytes(at, length) {
        into.extend_from_slice(bytes);
        return Some(());
    }
    let from = into.len();
    into.resize(from.checked_add(length)?, 0);
    file.fill(at, into.get_mut(from..)?).ok()
}

fn rule<'a, S: UnwindSection<Bytes<'a>>>(
    section: &S,
    bases: &BaseAddresses,
    context: &mut UnwindContext<usize, Rows>,
    (own, address): (&FrameDescriptionEntry<Bytes<'a>>, u64),
) -> Option<Rule> {
    if !own.contains(address) || own.cie().return_address_register().0 != number::RETURN {
        return None;
    }
    let is_signal = own.is_signal_trampoline();
    let row = own.unwind_info_for_address(section, bases, context, address).ok()?;
    let ret = row.register(Register(number::RETURN));
    if ret == Some(RegisterRule::Undefined) {
        return Some(Rule::End);
    }
    let fp = row.register(Register(number::FP));
    if let CfaRule::RegisterAndOffset { register, offset } = row.cfa()
        && let (Some(ret), Some(fp)) = (kept(ret.as_ref()), kept(fp.as_ref()))
    {
        let (base, cfa) = (base(*register)?, i32::try_from(*offset).ok()?);
        return Some(Rule::Frame(Frame { base, cfa, ret, fp, is_signal }));
    }
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            CfaValue::Register(base(*register)?, i32::try_from(*offset).ok()?)
        }
        CfaRule::Expression(expression) => CfaValue::Computed(bytes(section, expression)?),
    };
    let (ret, fp) = (value(section, ret.as_ref())?, value(section, fp.as_ref())?);
    Some(Rule::Computed(Box::new(Computed { cfa, ret, fp, is_signal })))
}

fn base(register: Register) -> Option<Base> {
    match register.0 {
        number::SP => Some(Base::Sp),
        number::FP => Some(Base::Fp),
        _ => None,
    }
}

fn kept(rule: Option<&RegisterRule<usize>>) -> Option<Kept> {
    match rule {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => Some(Kept::Same),
        Some(RegisterRule::Offset(offset)) => i32::try_from(*offset).ok().map(Kept::At),
        _ => None,
    }
}

fn value<'a, S: UnwindSection<Bytes<'a>>>(section: &S, rule: Option<&RegisterRule<usize>>) -> Option<Value> {
    match rule {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => Some(Value::Same),
        Some(RegisterRule::Offset(offset)) => i32::try_from(*offset).ok().map(Value::At),
        Some(RegisterRule::ValOffset(offset)) => i32::try_from(*offset).ok().map(Value::Is),
        Some(RegisterRule::Expression(expression)) => bytes(section, expression).map(Value::AtComputed),
        Some(RegisterRule::ValExpression(expression)) => bytes(section, expression).map(Value::Computed),
        _ => None,
    }
}

fn bytes<'a, S: UnwindSection<Bytes<'a>>>(
    section: &S,
    expression: &UnwindExpression<usize>,
) -> Option<Box<[u8]>> {
    let bytes = expression.get::<Bytes<'a>, S>(section).ok()?.0.slice();
    (bytes.len() <= expression::BYTES_MAX).then(|| bytes.into())
}

/// The frame that the kernel makes for a signal on x86-64: at the stack pointer a `ucontext`, with the registers of the
/// interrupted instruction in it (arch/x86/include/uapi/asm/sigcontext.h).
pub(super) fn signal_return() -> Rule {
    const REGISTERS_AT: u64 = 40;
    // `DW_OP_breg7` with the offset of a register, by its place among them, in two digits of seven bits.
    let at = |place: u64| {
        let offset = REGISTERS_AT + 8 * place;
        [0x77, offset & 0x7f | 0x80, offset >> 7].map(|byte| u8::try_from(byte).unwrap_or(0))
    };
    let deref = 0x06;
    Rule::Computed(Box::new(Computed {
        cfa: CfaValue::Computed(at(15).into_iter().chain([deref]).collect()),
        ret: Value::AtComputed(at(16).into()),
        fp: Value::AtComputed(at(10).into()),
        is_signal: true,
    }))
}
