//! What the kernel at hand can do, by its version.

/// Whether tasks can be timed by clocks of their own: Linux 6.13.
pub(crate) fn has_clocks() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    (parts.next().unwrap_or(0_u32), parts.next().unwrap_or(0)) >= (6, 13)
}
