//! What a sample and a ring may take. Owns how rings grow with the stacks in them, and up to where.

use super::super::attr::{Hz, STACK_BYTES, StackBytes};
use super::RING_BYTES;

/// A record beside its stack: 127 frames, registers, who and when.
const RECORD_BYTES: usize = 1200;
/// Samples of one CPU that a ring holds where stacks are little, at 999 Hz.
const SAMPLES_KEPT: usize = 300;
/// Time that it holds where they are big, milliseconds: it need not wake us between two rounds, and we may still come late
/// by as much as with little stacks at 999 Hz.
const KEPT_MS: usize = 550;
/// Fewer samples make no ring.
const SAMPLES_MIN: usize = 8;
/// Of one CPU in a session with big stacks, whatever its rate.
const RING_BYTES_DEEP_MAX: usize = 4 << 20;

/// What one sample and one CPU may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Of each CPU's ring.
    pub ring_bytes: usize,
    /// Of stack in each sample.
    pub stack_bytes: StackBytes,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { ring_bytes: RING_BYTES, stack_bytes: STACK_BYTES }
    }
}

impl Sizes {
    /// With so much stack in each sample, and rings that hold as much time as they do with little of it, up to 4 MiB each.
    #[must_use]
    pub fn with_stack(stack_bytes: StackBytes, hz: Hz) -> Sizes {
        let record = usize::try_from(stack_bytes.get()).unwrap_or(usize::MAX).saturating_add(RECORD_BYTES);
        let hz = usize::try_from(hz.get()).unwrap_or(SAMPLES_KEPT);
        let samples = SAMPLES_KEPT.min(hz * KEPT_MS / 1000).max(SAMPLES_MIN);
        let wanted = record.saturating_mul(samples).min(RING_BYTES_DEEP_MAX).next_power_of_two();
        Sizes { ring_bytes: wanted.max(RING_BYTES), stack_bytes }
    }

    /// Unread bytes of a ring of this size that wake us before the time: early enough that we may come late on a busy machine.
    pub(super) fn wakeup_bytes(stack_bytes: StackBytes, ring_bytes: usize, hz: Hz) -> usize {
        ring_bytes
            / match (stack_bytes > STACK_BYTES, hz > Hz::ASKED) {
                (false, _) => 4,
                // A ring for big stacks holds more than what comes between two rounds.
                (true, false) => 2,
                // It cannot grow any more, and at 999 Hz is full within a quarter of a second.
                (true, true) => 8,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::super::RING_BYTES;
    use super::Sizes;
    use crate::perf::attr::{Hz, STACK_BYTES, STACK_BYTES_DEEP, StackBytes};

    #[test]
    fn rings_hold_as_much_time_with_big_stacks_up_to_a_bound() {
        let fastest = Hz::new(999).unwrap();
        assert_eq!(Sizes::with_stack(STACK_BYTES, fastest), Sizes::default());
        assert_eq!(Sizes::default().ring_bytes, RING_BYTES, "two CPUs have 1 MiB");
        assert_eq!(Sizes::with_stack(STACK_BYTES_DEEP, Hz::ASKED).ring_bytes, 1 << 20);
        assert_eq!(Sizes::with_stack(STACK_BYTES_DEEP, Hz::TRIGGERED).ring_bytes, 4 << 20);
        assert_eq!(Sizes::with_stack(StackBytes::new(65_528).unwrap(), fastest).ring_bytes, 4 << 20);
        let rare = Sizes::with_stack(StackBytes::new(65_528).unwrap(), Hz::STEADY);
        assert!(rare.ring_bytes >= 8 * 65_528, "{rare:?}");
    }

    #[test]
    fn whoever_is_woken_may_come_a_fifth_of_a_second_late() {
        for hz in [Hz::STEADY, Hz::ASKED, Hz::TRIGGERED, Hz::new(999).unwrap()] {
            for stack in [STACK_BYTES, STACK_BYTES_DEEP] {
                let ring_bytes = Sizes::with_stack(stack, hz).ring_bytes;
                let room = ring_bytes - Sizes::wakeup_bytes(stack, ring_bytes, hz);
                let a_second = usize::try_from(hz.get() * (stack.get() + 1_200)).unwrap();
                assert!(room * 5 >= a_second, "{hz:?} with {stack:?}: {room} of {a_second} a second");
            }
        }
    }
}
