//! What is told of a member's goroutines: how many by stack, what they wait for, and which of them look like a leak.
//!
//! Owns the words for how sure that is. Names are the profiled process's: nothing that moves a terminal's cursor.

use std::fmt::Write;
use std::sync::Arc;

use model::time::SECOND_NS;
use profile::goroutines::{Row, Waits};

use super::super::goroutines::{Goroutines, Searched, total};
use super::super::leaks::{self, Sureness, Suspect};
use super::{FRAMES_SHOWN, OTHERS_SHOWN, seconds, shown};

/// Packages in which every goroutine of a kind waits: whose it is stands behind them.
const WAITING_ROOMS: [&str; 12] = [
    "sync.",
    "time.",
    "net.",
    "os.",
    "io.",
    "bufio.",
    "syscall.",
    "internal/",
    "crypto/tls.",
    "os/signal.",
    "net/http.",
    "context.",
];

/// All lines.
pub(super) fn lines(seen: &Goroutines) -> Vec<String> {
    let Ok(counts) = &seen.counts else { return Vec::new() };
    let now = total(counts);
    let mut lines = vec![match &seen.earlier {
        Some(earlier) => format!("goroutines: {} > {now} in {:.1} s", total(earlier), seconds(seen.apart_ns)),
        None => format!("goroutines: {now}"),
    }];
    lines.extend(seen.rows.iter().filter(|row| row.after > 0).take(OTHERS_SHOWN).map(row));
    // What grew is told even where there is more of others.
    let mut grown: Vec<&Row> =
        seen.rows.iter().skip(OTHERS_SHOWN).filter(|row| leaks::grown(row) > 1).collect();
    grown.sort_by_key(|row| std::cmp::Reverse(leaks::grown(row)));
    lines.extend(grown.into_iter().take(OTHERS_SHOWN).map(row));
    if let Some(why) = &seen.unlisted {
        lines.push(format!("what they wait for is not known: {why}"));
    }
    lines.extend(leaked(seen));
    lines
}

fn row(row: &Row) -> String {
    let count = match row.before {
        Some(before) => format!("{before:>7} > {:<7}", row.after),
        None => format!("{:>7}", row.after),
    };
    let waits = row.waits.as_ref().map_or(String::new(), |waits| format!("  ({})", waited(waits)));
    format!("{count}  {}{waits}", stack(&row.path))
}

/// `chan receive; 3 for a minute or more, median 2, longest 4 minutes`.
fn waited(waits: &Waits) -> String {
    let mut told = shown(&waits.reason);
    if waits.long > 0 {
        let (median, longest) = (waits.median_minutes, waits.longest_minutes);
        // Writing to a string cannot fail.
        write!(told, "; {} for a minute or more, median {median}, longest {longest} minutes", waits.long)
            .ok();
    }
    told
}

/// The innermost functions that say whose it is.
fn stack(path: &[Arc<str>]) -> String {
    let is_own = |name: &Arc<str>| !WAITING_ROOMS.iter().any(|room| name.starts_with(room));
    let own = path.iter().position(is_own).unwrap_or(0);
    let names: Vec<String> = path.iter().skip(own).take(FRAMES_SHOWN).map(|name| shown(name)).collect();
    if names.is_empty() { "(the runtime's own)".to_owned() } else { names.join(" < ") }
}

/// Which of them leak, by Go's word and by what came and did not go.
fn leaked(seen: &Goroutines) -> Vec<String> {
    let mut lines = Vec::new();
    match &seen.searched {
        Searched::No => {}
        Searched::Failed(missing) => lines.push(format!("leaks by Go's own search: not known ({missing})")),
        Searched::Found(rows) if rows.is_empty() => {
            lines.push("leaks by Go's own search: none".to_owned());
        }
        Searched::Found(rows) => {
            let found = |row: &Row| {
                format!(
                    "leaked, by Go's own search: {} of {}: nobody can wake them",
                    row.after,
                    stack(&row.path)
                )
            };
            lines.extend(rows.iter().take(OTHERS_SHOWN).map(found));
        }
    }
    let told: Vec<&Row> = match &seen.searched {
        Searched::Found(rows) => rows.iter().collect(),
        Searched::No | Searched::Failed(_) => Vec::new(),
    };
    let is_new = |suspect: &Suspect<'_>| !told.iter().any(|row| row.path == suspect.row.path);
    let suspects: Vec<_> = leaks::suspects(&seen.rows, seen.apart_ns).into_iter().filter(is_new).collect();
    lines.extend(suspects.iter().take(OTHERS_SHOWN).map(|suspect| self::suspect(suspect, seen.apart_ns)));
    if suspects.is_empty() && told.is_empty() && seen.earlier.is_some() {
        let (slowest, window) = (leaks::slowest_a_minute(seen.apart_ns), seconds(seen.apart_ns));
        let longer = if seen.apart_ns < 120 * SECOND_NS { "; slower ones show with --for 2m" } else { "" };
        lines.push(format!(
            "leaks: no stack grew and stayed; {window:.1} s show those of {slowest} a minute or more{longer}"
        ));
    }
    lines
}

fn suspect(suspect: &Suspect<'_>, apart_ns: u64) -> String {
    let Suspect { row, sureness } = suspect;
    let (word, how_sure) = match sureness {
        Sureness::Told => ("leaked, by Go's own search", "nobody can wake them"),
        Sureness::Sure => ("very likely leak", "many came, hardly one went, and others wait for minutes"),
        Sureness::Likely if apart_ns < 60 * SECOND_NS => {
            ("likely leak", "sure only over a minute or more: --for 2m")
        }
        Sureness::Likely => ("likely leak", "only a few came"),
        Sureness::Clients => ("perhaps a leak", "as many connections came: they may be clients that stay"),
        Sureness::Young => {
            ("perhaps a leak", "too early to tell: none has waited for a minute; --for 2m tells")
        }
        Sureness::Unlisted => {
            ("perhaps a leak", "it is not known who came, who went and how long they have waited")
        }
    };
    let mut line = format!("{word}: {}: {} > {}", stack(&row.path), row.before.unwrap_or(0), row.after);
    if let Some(turnover) = row.turnover {
        write!(line, ", {} came, {} went", turnover.came, turnover.went).ok();
    }
    if let Some(waits) = &row.waits {
        write!(line, "; {}", waited(waits)).ok();
        if let Some(creator) = &waits.creator {
            write!(line, "; started by {}", shown(creator)).ok();
        }
    }
    line + " (" + how_sure + ")"
}

#[cfg(test)]
mod tests {
    use model::profile::{ProfileKind, StackSample, Stacks};
    use model::time::Stamp;
    use profile::goroutines::Turnover;

    use super::*;

    fn counts(n: i64) -> Stacks {
        let sample = StackSample { value: n, count: n, ..StackSample::default() };
        Stacks {
            kind: ProfileKind::Goroutine,
            at: Stamp::default(),
            duration_ns: 0,
            period: 1,
            mappings: Vec::new(),
            functions: Vec::new(),
            frames: Vec::new(),
            owners: Vec::new(),
            samples: vec![sample],
            losses: model::profile::Losses::default(),
            pprof: Vec::new(),
        }
    }

    fn leak() -> Row {
        let path =
            ["sync.(*Mutex).Lock", "example.org/app.(*queue).take", "main.work"].map(Arc::from).to_vec();
        let waits = Waits {
            reason: "sync.Mutex.Lock".to_owned(),
            long: 3,
            median_minutes: 2,
            longest_minutes: 4,
            leaked: 0,
            creator: Some(Arc::from("main.start\u{1b}[2J")),
        };
        Row {
            path,
            before: Some(3),
            after: 103,
            waits: Some(waits),
            turnover: Some(Turnover { came: 100, went: 0 }),
        }
    }

    fn seen(rows: Vec<Row>, seconds: u64, searched: Searched) -> Goroutines {
        Goroutines {
            counts: Ok(counts(154)),
            earlier: Some(counts(54)),
            apart_ns: seconds * SECOND_NS,
            rows,
            unlisted: None,
            searched,
            bytes: 0,
            took_ns: 0,
        }
    }

    #[test]
    fn a_leak_is_named_with_its_function_and_how_sure_it_is() {
        let lines = lines(&seen(vec![leak()], 10, Searched::No));
        assert_eq!(
            lines,
            [
                "goroutines: 54 > 154 in 10.0 s",
                "      3 > 103      app.(*queue).take < main.work  (sync.Mutex.Lock; 3 for a minute or more, median 2, longest 4 minutes)",
                "likely leak: app.(*queue).take < main.work: 3 > 103, 100 came, 0 went; sync.Mutex.Lock; 3 for a minute or more, \
                 median 2, longest 4 minutes; started by main.start[2J (sure only over a minute or more: --for 2m)",
            ]
        );
    }

    #[test]
    fn what_go_has_found_is_told_once() {
        let found = Row { before: None, after: 40, waits: None, turnover: None, ..leak() };
        let lines = lines(&seen(vec![leak()], 90, Searched::Found(vec![found])));
        assert_eq!(
            lines[2],
            "leaked, by Go's own search: 40 of app.(*queue).take < main.work: nobody can wake them"
        );
        assert!(!lines.iter().any(|line| line.contains("likely")), "{lines:?}");
    }

    #[test]
    fn where_nothing_grew_it_says_what_it_could_have_seen() {
        let calm = Row { before: Some(5), after: 5, turnover: Some(Turnover::default()), ..leak() };
        let last = |seconds| lines(&seen(vec![calm.clone()], seconds, Searched::No)).pop().unwrap();
        assert_eq!(
            last(10),
            "leaks: no stack grew and stayed; 10.0 s show those of 18 a minute or more; slower ones show with --for 2m"
        );
        assert_eq!(last(180), "leaks: no stack grew and stayed; 180.0 s show those of 1 a minute or more");
        let first =
            Goroutines { earlier: None, ..seen(vec![Row { before: None, ..calm.clone() }], 0, Searched::No) };
        assert_eq!(lines(&first)[0], "goroutines: 154");
    }
}
