//! Which stacks look like leaks of goroutines, and how sure that is.
//!
//! Owns the bounds. Refuses to name a stack for its size, or for growth alone: connections, watches and pools grow too.

use model::time::SECOND_NS;
use profile::goroutines::{Row, Turnover, Waits};

/// Fewer that came are chance.
const CAME_MIN: u64 = 3;
/// From so many on it is a rate.
const CAME_SURE: u64 = 20;
/// Of those who came, as many as one in so many may have gone: one that is woken by a timeout, or by the end of the program.
const WENT_SHARE: u64 = 10;
/// A window in which who waits for a timeout of the usual length has gone again.
const WINDOW_SURE_NS: u64 = 60 * SECOND_NS;
/// What a goroutine does that reads from a connection, in Go's words and functions.
const READING: (&str, &str) = ("IO wait", "internal/poll.runtime_pollWait");

/// How sure it is that a stack leaks, the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sureness {
    /// Go's own search has found that nobody can wake them.
    Told,
    /// Many came, hardly one went, in a window in which they would have.
    Sure,
    /// The same, in a window that is short, or of a few.
    Likely,
    /// As many connections came: they may be clients that stay.
    Clients,
    /// They grew, and none has waited for a minute yet.
    Young,
    /// They grew, and it is not known who came, who went and how long they have waited.
    Unlisted,
}

/// A stack that may be a leak.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect<'a> {
    /// The stack.
    pub(super) row: &'a Row,
    /// How sure.
    pub(super) sureness: Sureness,
}

/// The stacks that may be leaks: the surest first, of one sureness those that grew most.
pub(super) fn suspects(rows: &[Row], window_ns: u64) -> Vec<Suspect<'_>> {
    let reads = |row: &&Row| {
        let is_read = row.path.first().is_some_and(|leaf| &**leaf == READING.1);
        is_read || row.waits.as_ref().is_some_and(|waits| waits.reason == READING.0)
    };
    let connections = rows.iter().filter(reads).map(grown).fold(0, u64::saturating_add);
    let suspect = |row| Some(Suspect { row, sureness: sureness(row, connections, window_ns)? });
    let mut suspects: Vec<Suspect<'_>> = rows.iter().filter_map(suspect).collect();
    suspects.sort_by_key(|suspect| (suspect.sureness, std::cmp::Reverse(grown(suspect.row))));
    suspects
}

fn sureness(row: &Row, connections: u64, window_ns: u64) -> Option<Sureness> {
    if row.waits.as_ref().is_some_and(|waits| waits.leaked > 0) {
        return Some(Sureness::Told);
    }
    let grown = grown(row);
    if grown < CAME_MIN {
        return None;
    }
    let (Some(waits), Some(Turnover { came, went })) = (&row.waits, row.turnover) else {
        return Some(Sureness::Unlisted);
    };
    if is_at_work(waits) || went > came / WENT_SHARE {
        return None;
    }
    Some(match waits.long {
        _ if grown <= connections => Sureness::Clients,
        0 => Sureness::Young,
        _ if came >= CAME_SURE && window_ns >= WINDOW_SURE_NS => Sureness::Sure,
        _ => Sureness::Likely,
    })
}

/// More goroutines than processors is load, not a leak.
fn is_at_work(waits: &Waits) -> bool {
    matches!(waits.reason.as_str(), "running" | "runnable")
}

/// How many more there are.
pub(super) fn grown(row: &Row) -> u64 {
    row.before.map_or(0, |before| row.after.saturating_sub(before))
}

/// The slowest leak that a window of this length can show, goroutines a minute.
pub(super) fn slowest_a_minute(window_ns: u64) -> u64 {
    CAME_MIN.saturating_mul(60 * SECOND_NS).div_ceil(window_ns.max(1))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn row(
        leaf: &str,
        (before, after): (u64, u64),
        (came, went): (u64, u64),
        (reason, long): (&str, u64),
    ) -> Row {
        let waits = Waits { reason: reason.to_owned(), long, ..Waits::default() };
        let turnover = Some(Turnover { came, went });
        Row { path: vec![Arc::from(leaf)], before: Some(before), after, waits: Some(waits), turnover }
    }

    fn check(rows: &[Row], seconds: u64, expected: &[(&str, Sureness)]) {
        let suspects = suspects(rows, seconds * SECOND_NS);
        let seen: Vec<_> = suspects.iter().map(|suspect| (&*suspect.row.path[0], suspect.sureness)).collect();
        assert_eq!(seen, expected, "{rows:?}");
    }

    #[test]
    fn what_grows_and_stays_is_a_leak() {
        let leak = row("main.take", (50, 80), (30, 0), ("chan receive", 45));
        check(std::slice::from_ref(&leak), 10, &[("main.take", Sureness::Likely)]);
        check(std::slice::from_ref(&leak), 60, &[("main.take", Sureness::Sure)]);
        let few = row("main.few", (50, 54), (4, 0), ("select", 50));
        check(&[few, leak], 120, &[("main.take", Sureness::Sure), ("main.few", Sureness::Likely)]);
        check(
            &[row("main.take", (0, 30), (30, 0), ("chan receive", 0))],
            10,
            &[("main.take", Sureness::Young)],
        );
    }

    #[test]
    fn what_comes_and_goes_is_none() {
        check(&[row("main.pool", (50, 53), (40, 37), ("select", 10))], 60, &[]);
        check(&[row("main.idle", (5_000, 5_000), (0, 0), ("chan receive", 5_000))], 60, &[]);
        check(&[row("main.fewer", (50, 20), (0, 30), ("chan receive", 20))], 60, &[]);
        check(&[row("main.two", (50, 52), (2, 0), ("chan receive", 50))], 600, &[]);
        check(&[row("main.busy", (5, 50), (45, 0), ("runnable", 0))], 60, &[]);
    }

    #[test]
    fn clients_that_came_are_perhaps_none() {
        let read = row(READING.1, (10, 30), (20, 0), ("IO wait", 10));
        let serve = row("http.serve", (10, 30), (20, 0), ("select", 10));
        let more = row("main.leak", (10, 50), (40, 0), ("select", 10));
        let expected = [
            ("main.leak", Sureness::Sure),
            (READING.1, Sureness::Clients),
            ("http.serve", Sureness::Clients),
        ];
        check(&[read, serve, more], 60, &expected);
    }

    #[test]
    fn what_is_not_known_is_said() {
        let unlisted = Row { waits: None, turnover: None, ..row("main.f", (1, 9), (0, 0), ("", 0)) };
        check(std::slice::from_ref(&unlisted), 60, &[("main.f", Sureness::Unlisted)]);
        check(&[Row { before: None, ..unlisted }], 60, &[]);
        let mut told = row("main.dead", (9, 9), (0, 0), ("chan send", 0));
        told.waits.iter_mut().for_each(|waits| waits.leaked = 9);
        check(&[told], 1, &[("main.dead", Sureness::Told)]);
        assert_eq!((slowest_a_minute(10 * SECOND_NS), slowest_a_minute(120 * SECOND_NS)), (18, 2));
    }
}
