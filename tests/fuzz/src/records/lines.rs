//! Log lines after parsing: few ids, so that they meet, and times of the last minute, mostly.

use model::log::{LogBatch, LogEvent, Meaning, Receipt, Severity, Step, Work};

use crate::seed::Seed;

pub(super) fn batch(seed: &mut Seed<'_>, wall_ns: u64) -> LogBatch {
    LogBatch {
        file: "app.log".into(),
        events: seed.some(12, |seed| event(seed, wall_ns)),
        lines: seed.number(),
        rejects: Vec::new(),
        lost_bytes: seed.number(),
        receipt: Receipt::default(),
    }
}

fn event(seed: &mut Seed<'_>, wall_ns: u64) -> LogEvent {
    // Few ids: they must meet.
    let trace_id = seed.maybe(|seed| [seed.byte() % 4; 16]);
    let span = |seed: &mut Seed<'_>| [seed.byte() % 6; 8];
    LogEvent {
        time_ns: near(seed, wall_ns),
        severity: seed.pick(&[
            Severity::Trace,
            Severity::Info,
            Severity::Warn,
            Severity::Error,
            Severity::Fatal,
        ]),
        service: seed.text(),
        revision: seed.maybe(Seed::text),
        message: seed.text(),
        trace_id,
        span_id: seed.maybe(span),
        parent_span_id: seed.maybe(span),
        meaning: meaning(seed, wall_ns),
        attributes: seed.some(4, |seed| (seed.text(), seed.text())),
        ship: seed.rarely(),
    }
}

/// A time of the last minute, mostly.
fn near(seed: &mut Seed<'_>, wall_ns: u64) -> u64 {
    if seed.rarely() { seed.number() } else { wall_ns.saturating_sub(u64::from(seed.byte()) * 40_000_000) }
}

fn work(seed: &mut Seed<'_>, wall_ns: u64) -> Work {
    Work {
        operation: seed.text(),
        start_ns: near(seed, wall_ns),
        duration_ns: if seed.rarely() { seed.number() } else { u64::from(seed.byte()) * 10_000_000 },
        peer: seed.maybe(Seed::text),
        failed: seed.rarely(),
        key: seed.maybe(Seed::text),
    }
}

fn meaning(seed: &mut Seed<'_>, wall_ns: u64) -> Meaning {
    match seed.byte() % 5 {
        0 => Meaning::Plain,
        1 => Meaning::Work(work(seed, wall_ns)),
        2 => Meaning::EtcdTrace {
            number: u32::from(seed.byte()),
            work: work(seed, wall_ns),
            steps: seed.some(5, |seed| Step { name: seed.text(), duration_ns: seed.number() }),
        },
        3 => Meaning::EtcdSlowApply { work: work(seed, wall_ns), expected_ns: seed.number() },
        _ => Meaning::EtcdRequest {
            work: work(seed, wall_ns),
            remote: seed.text(),
            response_count: seed.number().cast_signed(),
            response_bytes: seed.number().cast_signed(),
        },
    }
}
