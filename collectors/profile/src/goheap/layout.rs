//! How a version of Go lays its memory profile out.
//!
//! A bucket is `{next, allnext, kind, hash, size, depth}`, then as many return addresses as it is deep, then four counts:
//! what is published, and three cycles that will be. All of it in words of 64 bits. What has changed over the years is what
//! a count consists of, and how the number of the cycle is kept.

/// Words before the stack.
pub(super) const HEADER_WORDS: usize = 6;
/// Counts in a bucket.
pub(super) const COUNTS: usize = 4;
/// Cycles that are yet to be published.
pub(super) const FUTURES: u32 = 3;

/// The oldest version whose layout is known.
const OLDEST: u32 = 16;
/// Since then, the cycle's number shares its word with a flag in the lowest bit.
const SHIFTED_SINCE: u32 = 19;
/// Since then, bytes are not counted: they are the objects times their size.
const NARROW_SINCE: u32 = 27;
/// The newest version whose layout is known; see [`Layout::is_known`].
const NEWEST: u32 = 27;

/// What differs between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Words of one count: allocations and frees, perhaps the bytes of both.
    pub(super) count_words: usize,
    /// The cycle's number begins at this bit.
    pub(super) cycle_shift: u32,
    /// Seen in Go's source, not supposed of a newer version.
    pub(super) is_known: bool,
}

impl Layout {
    /// The layout of a version as the program names it: `go1.26.8`, `devel go1.28-0a1b2c3`. `None` before Go 1.16, and
    /// when it is no version.
    pub(super) fn of(version: &str) -> Option<Layout> {
        let at = version.find("go1.")?;
        let minor = version.get(at + 4..)?;
        let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        let minor: u32 = minor.get(..digits)?.parse().ok()?;
        if minor < OLDEST {
            return None;
        }
        Some(Layout {
            count_words: if minor < NARROW_SINCE { 4 } else { 2 },
            cycle_shift: u32::from(minor >= SHIFTED_SINCE),
            is_known: minor <= NEWEST && !version.starts_with("devel"),
        })
    }

    /// Bytes of a bucket with so many return addresses.
    pub(super) fn bucket_bytes(&self, depth: usize) -> usize {
        (HEADER_WORDS + depth + COUNTS * self.count_words) * 8
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;

    fn check(version: &str, expected: Option<(usize, u32, bool)>) {
        let layout =
            Layout::of(version).map(|layout| (layout.count_words, layout.cycle_shift, layout.is_known));
        assert_eq!(layout, expected, "{version}");
    }

    #[test]
    fn a_version_has_a_layout_since_go_1_16() {
        check("go1.15.15", None);
        check("go1.16", Some((4, 0, true)));
        check("go1.18.10", Some((4, 0, true)));
        check("go1.19.8", Some((4, 1, true)));
        check("go1.21rc2", Some((4, 1, true)));
        check("go1.26.8 X:nocoverageredesign", Some((4, 1, true)));
        check("go1.27.3", Some((2, 1, true)));
        check("go1.28", Some((2, 1, false)));
        check("devel go1.27-0a1b2c3 Thu Jan 1", Some((2, 1, false)));
        check("devel +0a1b2c3", None);
        check("go1.", None);
        check("go1.99999999999", None);
        check("", None);
    }
}
