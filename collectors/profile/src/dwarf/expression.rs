//! DWARF expressions, as far as unwinding tables have them: a few operations in a row.
//!
//! Owns the bound on them. Refuses jumps, so that an expression takes no more steps than it has bytes.

use gimli::{Encoding, EndianSlice, Expression, Format, LittleEndian, Operation};

use super::rule::{Fault, Registers, number};
use crate::perf::copied::Copied;

/// The longest that compilers write has 15; libraries of assembly have a few more.
pub(super) const BYTES_MAX: usize = 64;
/// Values at a time; the deepest that is known needs three.
const DEPTH_MAX: usize = 16;
const ENCODING: Encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };

/// What an expression may ask for.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    /// Lies on its stack when it begins: the CFA, but for the expression that gives it.
    pub(super) initial: Option<u64>,
    pub(super) registers: &'a Registers,
    pub(super) stack: &'a Copied<'a>,
}

#[derive(Debug, Default)]
struct Values {
    values: [u64; DEPTH_MAX],
    depth: usize,
}

impl Values {
    fn push(&mut self, value: u64) -> Option<()> {
        *self.values.get_mut(self.depth)? = value;
        self.depth += 1;
        Some(())
    }

    fn pop(&mut self) -> Option<u64> {
        self.depth = self.depth.checked_sub(1)?;
        self.values.get(self.depth).copied()
    }

    fn pick(&self, below: u8) -> Option<u64> {
        self.values.get(self.depth.checked_sub(1)?.checked_sub(usize::from(below))?).copied()
    }

    /// Replaces two values by one.
    fn join(&mut self, join: impl FnOnce(u64, u64) -> u64) -> Option<()> {
        let (second, first) = (self.pop()?, self.pop()?);
        self.push(join(first, second))
    }
}

/// What it comes to.
pub(super) fn evaluate(bytes: &[u8], inputs: &Inputs<'_>) -> Result<u64, Fault> {
    let mut values = Values::default();
    if let Some(initial) = inputs.initial {
        values.push(initial).ok_or(Fault::Nonsense)?;
    }
    let bytes = bytes.get(..bytes.len().min(BYTES_MAX)).unwrap_or_default();
    let mut operations = Expression(EndianSlice::new(bytes, LittleEndian)).operations(ENCODING);
    while let Some(operation) = operations.next().map_err(|_| Fault::Nonsense)? {
        if let Operation::Deref { size: 8, space: false, .. } = operation {
            let address = values.pop().ok_or(Fault::Nonsense)?;
            let word = inputs.stack.word(address).ok_or(Fault::Beyond)?;
            values.push(word).ok_or(Fault::Nonsense)?;
        } else {
            apply(&operation, &mut values, inputs.registers).ok_or(Fault::Nonsense)?;
        }
    }
    values.pop().ok_or(Fault::Nonsense)
}

/// `None` for what is not known here, and for what has nothing to work with.
fn apply(
    operation: &Operation<EndianSlice<'_, LittleEndian>>,
    values: &mut Values,
    registers: &Registers,
) -> Option<()> {
    // Comparisons are of signed numbers.
    let signed = |value: u64| value.cast_signed();
    let shift = |by: u64| u32::try_from(by).ok();
    match *operation {
        Operation::RegisterOffset { register, offset, .. } => {
            let value = match register.0 {
                number::FP => registers.fp,
                number::SP => registers.sp,
                number::PC => registers.pc,
                _ => return None,
            };
            values.push(value.wrapping_add_signed(offset))
        }
        Operation::UnsignedConstant { value } | Operation::Address { address: value } => values.push(value),
        Operation::SignedConstant { value } => values.push(value.cast_unsigned()),
        Operation::PlusConstant { value } => {
            let sum = values.pop()?.wrapping_add(value);
            values.push(sum)
        }
        Operation::Plus => values.join(u64::wrapping_add),
        Operation::Minus => values.join(u64::wrapping_sub),
        Operation::Mul => values.join(u64::wrapping_mul),
        Operation::And => values.join(|a, b| a & b),
        Operation::Or => values.join(|a, b| a | b),
        Operation::Xor => values.join(|a, b| a ^ b),
        Operation::Shl => values.join(|a, b| shift(b).and_then(|b| a.checked_shl(b)).unwrap_or(0)),
        Operation::Shr => values.join(|a, b| shift(b).and_then(|b| a.checked_shr(b)).unwrap_or(0)),
        Operation::Eq => values.join(|a, b| u64::from(a == b)),
        Operation::Ne => values.join(|a, b| u64::from(a != b)),
        Operation::Ge => values.join(|a, b| u64::from(signed(a) >= signed(b))),
        Operation::Gt => values.join(|a, b| u64::from(signed(a) > signed(b))),
        Operation::Le => values.join(|a, b| u64::from(signed(a) <= signed(b))),
        Operation::Lt => values.join(|a, b| u64::from(signed(a) < signed(b))),
        Operation::Pick { index } => values.pick(index).and_then(|value| values.push(value)),
        Operation::Drop => values.pop().map(|_| ()),
        Operation::Swap => {
            let (second, first) = (values.pop()?, values.pop()?);
            values.push(second)?;
            values.push(first)
        }
        Operation::Nop => Some(()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, Copied, Fault, Inputs, Registers, evaluate};

    fn check(bytes: &[u8], expected: Result<u64, Fault>) {
        let registers = Registers { pc: 0x100b, sp: 0x7000, fp: 0x7008, lr: None };
        let stack = Copied { start: 0x7000, bytes: &[[1; 8], [2; 8]].concat() };
        let inputs = Inputs { initial: Some(40), registers: &registers, stack: &stack };
        assert_eq!(evaluate(bytes, &inputs), expected, "{bytes:02x?}");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn expressions_of_real_tables() {
        // A stub of the linker: one word further once it has pushed, in the eleventh byte of each sixteen.
        let stub = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
        check(&stub, Ok(0x7010));
        // A stack that was aligned: the old one is kept below the frame pointer.
        check(&[0x76, 0, 0x06], Ok(u64::from_ne_bytes([2; 8])));
        check(&[0x77, 0x10, 0x06], Err(Fault::Beyond));
        check(&[0x77, 9, 0x06], Err(Fault::Beyond));
    }

    #[test]
    fn what_is_damaged_is_nonsense() {
        check(&[], Ok(40));
        check(&[0x23, 2], Ok(42));
        check(&[0x13], Err(Fault::Nonsense));
        check(&[0x22], Err(Fault::Nonsense));
        check(&[0x23], Err(Fault::Nonsense));
        check(&[0x50], Err(Fault::Nonsense));
        check(&[0x12; 17], Err(Fault::Nonsense));
        // A jump back to itself.
        check(&[0x2f, 0xfd, 0xff], Err(Fault::Nonsense));
        check(&[0x96; 2 * BYTES_MAX], Ok(40));
    }
}
