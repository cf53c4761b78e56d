//! A window of the kernel's sampling events, with its bar and its end by Ctrl-C. Owns which engine takes the stacks; what is
//! opened and named happens on threads that nobody waits for.

use std::time::Duration;

use clap::ValueEnum;
use model::time::{Clock, Stamp};
use profile::kernel::{Kernel, Sampled, Wish};
use profile::perf::attr::{Hz, StackBytes};
use profile::perf::refusal::Refusal;
use profile::perf::target::Target;
use tokio::task::spawn_blocking;

use super::bar::Bar;
use super::gather::DRAW_EVERY;

/// Where nothing is drawn: how often it is looked whether all processes have ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// By what stacks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Engine {
    /// By the kernel where it lets us, else by the member's endpoint.
    Auto,
    /// By the kernel's sampling events, of any process.
    Perf,
    /// By the process itself, at its pprof endpoint.
    Pprof,
}

/// How stacks are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    /// By what.
    pub(super) engine: Engine,
    /// How often.
    pub(super) hz: Hz,
    /// Whether what waits is seen too.
    pub(super) off_cpu: bool,
    /// Whether heaps are read from memory.
    pub(super) heap: bool,
}

impl Sampling {
    /// What is asked of the kernel about these.
    pub(super) fn wish(self, target: Target, stack_bytes: StackBytes) -> Wish {
        Wish { target, hz: self.hz, stack_bytes, is_waiting_wanted: self.off_cpu, left_out: None }
    }
}

/// Why a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended<T> {
    /// Its time was over, or the last of its processes has ended.
    Over,
    /// Ctrl-C, which keeps what there is.
    Interrupted,
    /// What it was to wait for besides.
    Happened(T),
}

/// Opens the events.
pub(super) async fn start(wish: Wish, at: Stamp) -> Result<Kernel, Refusal> {
    let began = spawn_blocking(move || Kernel::start(&wish, at)).await;
    began.map_err(|error| Refusal::Other(error.to_string()))?
}

/// Stops, and names what was seen.
pub(super) async fn end(kernel: Kernel, now: Stamp) -> Result<Sampled, Refusal> {
    let ended = spawn_blocking(move || kernel.end(now)).await;
    ended.map_err(|error| Refusal::Other(error.to_string()))
}

/// Waits until `length` after `at`, the end of all its processes, Ctrl-C or `until`.
pub(super) async fn watch<T>(
    kernel: &Kernel,
    length: Duration,
    (clock, at): (&Clock, Stamp),
    mut bar: Option<Bar>,
    until: impl Future<Output = T>,
) -> Ended<T> {
    let passed = || Duration::from_nanos(clock.now().since_ns(at));
    let (stop, over) = (tokio::signal::ctrl_c(), tokio::time::sleep(length.saturating_sub(passed())));
    tokio::pin!(stop, over, until);
    // A look wakes us, and without a bar nobody sees it.
    let mut draw = tokio::time::interval(if bar.is_some() { DRAW_EVERY } else { LOOK_EVERY });
    loop {
        tokio::select! {
            _ = &mut stop => return Ended::Interrupted,
            happened = &mut until => return Ended::Happened(happened),
            () = &mut over => return Ended::Over,
            _ = draw.tick() => {
                if kernel.is_over() {
                    return Ended::Over;
                }
                if let Some(bar) = &mut bar {
                    bar.draw(passed(), length, Some(kernel.samples()));
                }
            }
        }
    }
}
