//! CLOCK_MONOTONIC as the kernel counts it; the standard library keeps its origin to itself.
#![expect(unsafe_code, reason = "clock_gettime has no safe form in the standard library")]

/// CLOCK_MONOTONIC, nanoseconds since boot (suspend not counted).
pub(super) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec of ours, written by the call and not kept. CLOCK_MONOTONIC always exists, so
    // the call cannot fail; if it did, `time` stays zero.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
