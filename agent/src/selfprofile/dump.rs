//! jemalloc's profile as text (`heap_v2`), as its `jeprof` reads it.
//!
//! Owns the format and the scaling of samples. Refuses to name anything.
//!
//! ```text
//! heap_v2/524288                        bytes between two samples, on average
//!   t*: 28106: 56637512 [0: 0]          all threads: objects, bytes [allocated ever]
//! @ 0x5f86da8 0x5f5a1dc                 a stack, innermost first: where each call returns to
//!   t*: 13: 6688 [0: 0]
//!   t3: 12: 6496 [0: 0]
//!
//! MAPPED_LIBRARIES:
//! …                                     /proc/self/maps
//! ```

use profile::names::Returns;

/// Different stacks; the agent has some hundred.
const STACKS_MAX: usize = 100_000;
/// As many as jemalloc takes.
const DEPTH_MAX: usize = 128;

/// What a text says.
#[derive(Debug, PartialEq)]
pub(super) struct Dump<'a> {
    /// Bytes between two samples.
    pub(super) period: u64,
    /// What is in use, by stack.
    pub(super) stacks: Vec<Returns>,
    /// What was mapped, as `/proc/PID/maps`.
    pub(super) maps: &'a [u8],
}

/// Reads it; `None` where it is no such text. Lines of another form are passed over.
pub(super) fn parse(text: &[u8]) -> Option<Dump<'_>> {
    let (mut rest, mut stacks) = (text, Vec::new());
    let period: u64 =
        std::str::from_utf8(line(&mut rest)?).ok()?.strip_prefix("heap_v2/")?.trim().parse().ok()?;
    let mut addresses: Option<Vec<u64>> = None;
    while let Some(line) = line(&mut rest) {
        if line.starts_with(b"MAPPED_LIBRARIES:") {
            break;
        }
        let Ok(line) = std::str::from_utf8(line) else { continue };
        if let Some(stack) = line.strip_prefix("@ ") {
            let address = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
            addresses = Some(stack.split_ascii_whitespace().map_while(address).take(DEPTH_MAX).collect());
        } else if let Some(counts) = line.trim_start().strip_prefix("t*:") {
            // The first such line is of all stacks together.
            let Some(addresses) = addresses.take() else { continue };
            let Some((objects, bytes)) = counted(counts).filter(|_| stacks.len() < STACKS_MAX) else {
                continue;
            };
            let (count, value) = scaled((objects, bytes), period);
            stacks.push(Returns { addresses, value, count });
        }
    }
    Some(Dump { period, stacks, maps: rest })
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    if rest.is_empty() {
        return None;
    }
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (line, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    Some(line)
}

/// ` 13: 6688 [0: 0]`: objects and bytes in use, where there are any.
fn counted(text: &str) -> Option<(u64, u64)> {
    let (in_use, _) = text.split_once('[')?;
    let (objects, bytes) = in_use.split_once(':')?;
    let (objects, bytes) = (objects.trim().parse().ok()?, bytes.trim().parse().ok()?);
    (objects > 0 && bytes > 0).then_some((objects, bytes))
}

/// A sample is taken of one byte in `period`, and so of an object of b bytes with the probability 1 − exp(−b / period): what
/// was sampled stands for as many more. As `jeprof` scales this version of the format, and Go its profiles.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "sizes and counts below 2^53 are exact, and a float to integer cast saturates"
)]
fn scaled((objects, bytes): (u64, u64), period: u64) -> (i64, i64) {
    let (objects, bytes) = (objects as f64, bytes as f64);
    let seen = -(-(bytes / objects) / (period.max(1) as f64)).exp_m1();
    ((objects / seen).round() as i64, (bytes / seen).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"heap_v2/524288\n  t*: 3: 1049600 [0: 0]\n  t3: 3: 1049600 [0: 0]\n\
        @ 0x55d0 0x7f01\n  t*: 1: 1048576 [9: 9]\n  t3: 1: 1048576 [0: 0]\n@ 0x1\n  t*: 2: 1024 [0: 0]\n\
        @ 0x2\n  t*: 0: 0 [4: 4096]\n\nMAPPED_LIBRARIES:\n55d0-55d1 r-xp 0 0:0 1 /agent\n";

    #[test]
    fn what_is_in_use_is_read_and_scaled() {
        let dump = parse(TEXT).unwrap();
        assert_eq!((dump.period, dump.maps), (524_288, &b"55d0-55d1 r-xp 0 0:0 1 /agent\n"[..]));
        let seen: Vec<_> =
            dump.stacks.iter().map(|stack| (stack.addresses.as_slice(), stack.count, stack.value)).collect();
        // 1 MiB is seen with 86 %; an object of 512 bytes with 0.1 %, so that two stand for 2,049 and 1 MiB.
        assert_eq!(seen, [(&[0x55d0, 0x7f01][..], 1, 1_212_697), (&[0x1][..], 2_049, 1_049_088)]);
    }

    #[test]
    fn another_text_is_none_and_a_torn_one_ends() {
        for text in [&b""[..], b"heap profile: 1: 2", b"heap_v2/x\n", b"\xff\n"] {
            assert_eq!(parse(text), None);
        }
        for end in 15..TEXT.len() {
            let dump = parse(&TEXT[..end]).unwrap();
            assert!(dump.stacks.len() <= 2);
        }
        let odd = b"heap_v2/1\n@ 0x1 zz 0x2\n  t*: x: 1 [\n@ 0xffffffffffffffffff\n  t*: 1: 1 [0: 0]\n";
        let dump = parse(odd).unwrap();
        assert_eq!(dump.stacks.iter().map(|stack| stack.addresses.len()).collect::<Vec<_>>(), [0]);
    }
}
