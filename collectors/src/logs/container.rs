//! What container runtimes wrap around a line: the CRI prefix and docker's json-file object. Owns the two wrappers; whole lines
//! only: a chunk of a split line is passed on as it is and fails its own parser.

use crate::logs::flat::Fields;
use crate::logs::time;

/// The line inside `2026-11-21T03:00:00.123456789Z stderr F …`.
#[must_use]
pub(super) fn cri(raw: &[u8]) -> Option<&[u8]> {
    let (_, taken) = time::civil(raw)?;
    let rest = raw.get(taken..)?;
    [&b" stdout F "[..], b" stderr F "].iter().find_map(|wrapper| rest.strip_prefix(*wrapper))
}

/// The line inside `{"log":"…\n","stream":"stderr","time":"…"}`.
#[must_use]
pub(super) fn docker<'a>(fields: &'a Fields<'_>) -> Option<&'a str> {
    let stream = fields.text(&["stream"])?;
    if !matches!(stream, "stdout" | "stderr") || fields.get("time").is_none() {
        return None;
    }
    fields.text(&["log"])
}
