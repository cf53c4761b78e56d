//! How often our samples of an etcd have the callers that Go's own profiler sees:
//! `cargo run --release -p profile --example go_agreement -- VERSION... [--minutes N] [--load s|m|l|reads]`.
//!
//! Puts an etcd of the set-up under load and lets Go's profiler and ours take turns for five minutes of Go's. Says how many
//! of our samples have a (leaf, caller) pair that occurs in Go's profiles, how many would without the unwinder, and how many
//! of each of Go's profiles occur in the others: the ceiling. Then what the captures cost and how much had a name.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a measurement, for a person: what goes wrong ends it, and it needs a clock and standard output"
)]

#[path = "../tests/go_stacks/etcd.rs"]
mod etcd;
#[path = "../tests/go_stacks/pairs.rs"]
mod pairs;

use std::env;
use std::time::{Duration, Instant};

use etcd::{Agreement, Comparison, Etcd, Observed};
use pairs::Level;
use profile::perf::attr::Hz;

/// Seconds of one of Go's profiles. Between two of them is one of ours.
const TURN_S: u64 = 20;
/// Pairs shown that Go's profiles have not.
const SHOWN: usize = 15;

fn main() {
    let (mut versions, mut minutes, mut load) = (Vec::new(), 5, "l".to_owned());
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--minutes" => {
                minutes = arguments.next().and_then(|number| number.parse().ok()).expect("minutes");
            }
            "--load" => load = arguments.next().expect("s, m, l or reads"),
            version => versions.push(version.to_owned()),
        }
    }
    for version in versions {
        measure(&version, minutes, &load);
    }
}

fn measure(version: &str, minutes: u32, load: &str) {
    let etcd = Etcd::start(version);
    let rounds = (minutes * 60).div_ceil(u32::try_from(TURN_S).unwrap());
    let how = Comparison { rounds, theirs_s: TURN_S, ours: Duration::from_secs(5), hz: Hz::ASKED };
    let began = Instant::now();
    let observed = Observed::of(&etcd, load, how);
    println!(
        "etcd {version}, load {load}: {rounds} profiles of Go's of {TURN_S} s in {:.0?}",
        began.elapsed()
    );
    for level in [Level::Functions, Level::Code] {
        let Agreement { mended, without_sysmon, plain, ceiling } = observed.agreement(level);
        println!("  {level:?}: (leaf, caller) pairs that occur in Go's profiles");
        println!("    ours                   {mended}");
        println!("    ours, without sysmon   {without_sysmon}");
        println!("    by frame pointers only {plain}");
        println!("    Go against Go          {ceiling}");
        for (count, pair) in observed.strangers(level).into_iter().take(SHOWN) {
            println!("      {count:4} {pair}");
        }
    }
    for one in &observed.ours {
        let (session, naming) = (one.session, one.naming);
        println!(
            "  {} samples in {:.1} s: {:.3} % of a core for reading and mending, {:.3} % for naming; lost {}, named {} of {}, {} looked up",
            session.samples,
            seconds(session.wall_ns),
            seconds(session.cpu_ns) * 100.0 / seconds(session.wall_ns),
            seconds(one.naming_ns) * 100.0 / seconds(session.wall_ns),
            session.lost,
            naming.user_named,
            naming.user,
            naming.look_ups,
        );
        println!("    {:?}", one.unwinding);
    }
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}
