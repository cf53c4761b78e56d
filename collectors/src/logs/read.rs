//! The lines of one slice, parsed and counted, and what a file tells of its writer. Owns the counts by reason; refuses to keep
//! what is neither shipped nor meaningful.

use std::path::Path;

use model::ledger::Ledger;
use model::log::LogEvent;

use crate::logs::file::Slice;
use crate::logs::line::{self, Context, Line, Reject};
use crate::logs::time;

/// Kinds of reject.
const REASONS: usize = 4;

/// Lines of one slice, parsed.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub events: Vec<LogEvent>,
    pub lines: u64,
    rejected: [(u64, Option<Reject>); REASONS],
}

impl Read {
    pub(super) fn line(&mut self, raw: &[u8], context: &Context<'_>, line_max: usize) {
        self.lines += 1;
        if raw.len() >= line_max && raw.last() != Some(&b'\n') {
            return self.reject(Reject::TooLong);
        }
        match line::parse(raw, context) {
            Line::Event(event) => self.events.push(*event),
            Line::Quiet => {}
            Line::Reject(reason) => self.reject(reason),
        }
    }

    fn reject(&mut self, reason: Reject) {
        let place = self.rejected.iter_mut().find(|(_, known)| known.is_none_or(|known| known == reason));
        if let Some((count, known)) = place {
            *count += 1;
            *known = Some(reason);
        }
    }

    pub(super) fn rejected(&self) -> bool {
        self.rejected.iter().any(|(count, _)| *count > 0)
    }

    pub(super) fn rejects(&self) -> Vec<(String, u64)> {
        self.rejected
            .iter()
            .filter_map(|(count, reason)| Some((reason.as_ref()?.reason().to_owned(), *count)))
            .collect()
    }

    pub(super) fn count(&self, ledger: &Ledger, slice: &Slice) {
        ledger.add("agent_logs_lines_total", "read", self.lines);
        ledger.add("agent_logs_lines_total", "kept", u64::try_from(self.events.len()).unwrap_or(0));
        ledger.add("agent_logs_lost_bytes_total", "line_too_long", slice.dropped_bytes);
        for (count, reason) in &self.rejected {
            if let Some(reason) = reason {
                ledger.add("agent_logs_rejects_total", reason.reason(), *count);
            }
        }
    }

    /// About the memory the events take.
    pub(super) fn bytes(&self) -> usize {
        let event = |event: &LogEvent| {
            let attributes: usize =
                event.attributes.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
            256 + event.message.len() + event.service.len() + attributes
        };
        256 + self.events.iter().map(event).sum::<usize>()
    }
}

/// What to add to times without a zone in a file that is written now: the last line's time against ours, to the quarter hour.
pub(super) fn zone(bytes: &[u8], now_ns: u64) -> Option<i64> {
    const QUARTER_NS: i64 = 900 * 1_000_000_000;
    const MOST: i64 = 56; // fourteen hours
    let line = bytes.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty())?;
    let (written, _) = time::civil(line.strip_prefix(b"raft").unwrap_or(line))?;
    let behind = i64::try_from(now_ns).ok()?.checked_sub(i64::try_from(written.ns).ok()?)?;
    let quarters = (behind + QUARTER_NS / 2).div_euclid(QUARTER_NS);
    let rest = (behind - quarters * QUARTER_NS).abs();
    (!written.zoned && quarters.abs() <= MOST && rest <= QUARTER_NS / 15).then_some(quarters * QUARTER_NS)
}

/// A service's name from its file: the stem, or the directory where the stem is a container's restart count.
pub(super) fn service_of(path: &Path) -> String {
    let name = |part: Option<&std::ffi::OsStr>| {
        part.map_or_else(String::new, |part| part.to_string_lossy().into_owned())
    };
    let stem = name(path.file_stem());
    if stem.bytes().all(|byte| byte.is_ascii_digit()) {
        name(path.parent().and_then(Path::file_name))
    } else {
        stem
    }
}

#[cfg(test)]
mod tests {
    use model::time::SECOND_NS;

    use super::*;

    #[test]
    fn a_zone_is_learnt_from_a_line_that_was_just_written() {
        let now = 1_795_176_000 * SECOND_NS; // 12:00:00Z
        let check = |line: &str, hours: Option<i64>| {
            let expected = hours.map(|hours| hours * 3600 * 1_000_000_000);
            assert_eq!(zone(line.as_bytes(), now), expected, "{line}");
        };
        check("2026-11-20 11:59:59.769904 I | embed: x\n", Some(0));
        check("2026-11-20 19:59:59.769904 I | embed: x\n", Some(-8));
        check("raft2026/11/20 07:00:00 INFO: x\n", Some(5));
        check("2026-11-20 11:52:00.769904 I | embed: x\n", None);
        check("2026-11-20T12:00:00Z", None);
    }

    #[test]
    fn a_service_is_named_by_its_file_or_its_container() {
        let check = |path: &str, expected: &str| assert_eq!(service_of(Path::new(path)), expected);
        check("/var/log/orders.log", "orders");
        check("/var/log/pods/ns_orders-1_uid/orders/0.log", "orders");
        check("/0.log", "");
    }
}
