//! How many samples a rate gives, and that none of them is lost.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use profile::perf::attr::Hz;
use profile::perf::cpus;
use profile::perf::session::{End, Plan, Session};
use profile::perf::stacks::Stacks;
use profile::perf::statistics::Statistics;
use profile::perf::target::Target;

use crate::program::{Program, chain, is_near, is_node_ours, until};

/// Stories that load or count all CPUs, one at a time.
static NODE: Mutex<()> = Mutex::new(());

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    NODE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One spinner for each CPU, bound to it: no CPU is idle.
fn spinners() -> Vec<Program> {
    let spin = |cpu: &u32| {
        let mut command = Command::new("taskset");
        command.args(["-c", &cpu.to_string()]).arg(chain()).stdout(Stdio::null());
        Program(command.spawn().expect("install util-linux: taskset"))
    };
    cpus::online().iter().map(spin).collect()
}

/// Time that all CPUs have run anything, without idle time and without what the host has taken.
fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<u64> =
        stat.lines().next().unwrap().split(' ').filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else { panic!("{stat}") };
    Duration::from_millis(10 * (user + nice + system + irq + softirq))
}

#[test]
fn each_rate_gives_as_many_samples_as_it_says() {
    if !is_node_ours() {
        return;
    }
    let _alone = alone();
    let _spinners = spinners();
    let session = Session::start(&Plan::new(Target::Node, Hz::STEADY), Stacks::default()).unwrap();
    for hz in [Hz::STEADY, Hz::ASKED, Hz::TRIGGERED, Hz::STEADY] {
        session.set_rate(hz).unwrap();
        until("the new rate", || session.statistics().hz == hz.get());
        // What was sampled before the switch settles first.
        let settled = |statistics: Statistics| statistics.wall_ns;
        let began = settled(session.statistics());
        until("a round", || settled(session.statistics()) > began + 500_000_000);
        let (busy_before, before) = (busy(), session.statistics());
        let end = before.wall_ns + 4_000_000_000;
        until("four seconds of rounds", || settled(session.statistics()) >= end);
        let (busy_after, after) = (busy(), session.statistics());
        let expected = (busy_after - busy_before).as_secs_f64() * f64::from(hz.get());
        let samples = after.samples - before.samples;
        println!("{hz:?}: {samples} samples, {expected:.0} expected");
        assert!(is_near(samples, expected), "{hz:?}: {samples} samples, {expected} expected");
    }
    let outcome = session.stop();
    assert_eq!((outcome.end, outcome.statistics.malformed), (End::Stopped, 0));
}

#[test]
fn nothing_is_lost_at_999_hz_on_every_cpu() {
    if !is_node_ours() {
        return;
    }
    let _alone = alone();
    let _spinners = spinners();
    let session = Session::start(&Plan::new(Target::Node, Hz::new(999).unwrap()), Stacks::default()).unwrap();
    until("six seconds", || session.statistics().wall_ns > 6_000_000_000);
    let outcome = session.stop();
    let of = outcome.statistics;
    println!("{of:#?}");
    assert_eq!(of.lost, 0);
    assert!(of.locked_bytes <= of.cpus << 20, "two CPUs have 2 MiB");
    assert!(of.samples > 3000, "the spinners were there");
    let counted: u64 = outcome.sink.unwrap().iter().map(|stack| stack.count).sum();
    assert_eq!(counted, of.samples);
}
