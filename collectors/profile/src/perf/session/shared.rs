//! What the thread that reads and everybody else tell each other. Owns the bell that wakes it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::super::attr::Hz;
use super::super::statistics::Statistics;
use super::super::sys;

/// Between the thread that reads and everybody else.
#[derive(Debug)]
pub(super) struct Shared {
    is_stopped: AtomicBool,
    /// The rate that is wanted; 0 once it is set.
    wanted_hz: AtomicU32,
    /// The rate of what is read from here on, and who waits for another one.
    read_hz: (Mutex<u32>, Condvar),
    statistics: Mutex<Statistics>,
    bell: OwnedFd,
}

impl Shared {
    pub(super) fn new(hz: Hz) -> io::Result<Shared> {
        Ok(Shared {
            is_stopped: AtomicBool::new(false),
            wanted_hz: AtomicU32::new(0),
            read_hz: (Mutex::new(hz.get()), Condvar::new()),
            statistics: Mutex::default(),
            bell: sys::bell()?,
        })
    }

    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        sys::ring(&self.bell);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    pub(super) fn want_rate(&self, hz: Hz) {
        self.wanted_hz.store(hz.get(), Ordering::Release);
        sys::ring(&self.bell);
    }

    /// The rate that was asked for since this was called before.
    pub(super) fn wanted_rate(&self) -> Option<Hz> {
        Hz::new(self.wanted_hz.swap(0, Ordering::AcqRel))
    }

    pub(super) fn tell_rate(&self, hz: Hz) {
        *self.read_hz.0.lock().unwrap_or_else(PoisonError::into_inner) = hz.get();
        self.read_hz.1.notify_all();
    }

    pub(super) fn awaits_rate(&self, hz: Hz, patience: Duration) -> bool {
        let (rate, changed) = &self.read_hz;
        let rate = rate.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(rate, patience, |rate| *rate != hz.get());
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    pub(super) fn publish(&self, statistics: Statistics) {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
    }

    pub(super) fn statistics(&self) -> Statistics {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bell(&self) -> &OwnedFd {
        &self.bell
    }
}
