//! What container runtimes wrap around a line: the CRI prefix and docker's json-file object. Owns the two wrappers; whole lines
//! only: a chunk of a split line is passed on as it is and fails its own parser.

use crate::logs::flat::Fields;
use crate::logs::time;

/// The line inside `2026-11-21T03:00:00.123456789Z stderr F …`, and the runtime's time.
#[must_use]
pub(super) fn cri(raw: &[u8]) -> Option<(&[u8], u64)> {
    let (written, taken) = time::civil(raw)?;
    let rest = raw.get(taken..)?;
    let inner = [&b" stdout F "[..], b" stderr F "].iter().find_map(|wrapper| rest.strip_prefix(*wrapper))?;
    Some((inner, written.ns))
}

/// The line inside `{"log":"…\n","stream":"stderr","time":"…"}`, and the runtime's time.
#[must_use]
pub(super) fn docker<'a>(fields: &'a Fields<'_>) -> Option<(&'a str, u64)> {
    let written = time::civil_whole(fields.text(&["time"])?)?;
    matches!(fields.text(&["stream"])?, "stdout" | "stderr").then_some(())?;
    Some((fields.text(&["log"])?, written.ns))
}
