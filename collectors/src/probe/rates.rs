//! Faster rates that somebody asks for while the agent runs, for a limited time. Owns when they begin and end; one wish at a
//! time, for all members that this agent probes.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Boost, ConfigError};

/// The wish for faster rates, shared by the agent's probers. Clones share it; it ends with the run.
#[derive(Clone, Debug)]
pub struct Rates {
    asked: watch::Sender<Option<Asked>>,
}

/// One wish.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Asked {
    factor: f64,
    until: Instant,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates { asked: watch::Sender::new(None) }
    }
}

impl Rates {
    /// From now on all rates times the factor, until the time is over. A second wish replaces the first.
    ///
    /// # Errors
    /// [`ConfigError::Boost`] outside the bounds.
    pub fn boost(&self, boost: Boost) -> Result<(), ConfigError> {
        boost.check()?;
        self.asked.send_replace(Some(Asked { factor: boost.factor, until: Instant::now() + boost.lasts }));
        Ok(())
    }

    /// The usual rates again; false when they were.
    pub fn end(&self) -> bool {
        let running = self.running().is_some();
        self.asked.send_replace(None);
        running
    }

    /// The factor and the time that is left, while it lasts.
    #[must_use]
    pub fn running(&self) -> Option<(f64, Duration)> {
        let asked = (*self.asked.borrow())?;
        let left = asked.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some((asked.factor, left))
    }

    pub(super) fn follow(&self) -> watch::Receiver<Option<Asked>> {
        self.asked.subscribe()
    }
}

/// How fast one prober goes now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    pub(super) factor: f64,
    /// When the usual rates come back; `None` while they are used.
    until: Option<Instant>,
}

impl Pace {
    const USUAL: Pace = Pace { factor: 1.0, until: None };

    /// As its configuration has it at the start.
    pub(super) fn at_start(boost: Option<Boost>, start: Instant) -> Pace {
        let boost = boost.filter(|boost| !boost.lasts.is_zero());
        boost.map_or(Pace::USUAL, |boost| Pace { factor: boost.factor, until: Some(start + boost.lasts) })
    }

    /// As it is asked for now.
    pub(super) fn asked(asked: Option<Asked>) -> Pace {
        asked.map_or(Pace::USUAL, |asked| Pace { factor: asked.factor, until: Some(asked.until) })
    }

    /// The pace after this one, once this one is over.
    pub(super) fn next(self, now: Instant) -> Option<Pace> {
        self.until.is_some_and(|until| now >= until).then_some(Pace::USUAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boost(factor: f64, s: u64) -> Boost {
        Boost { factor, lasts: Duration::from_secs(s) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_boost_ends_by_itself() {
        let rates = Rates::default();
        assert_eq!(rates.running(), None);
        rates.boost(boost(5.0, 60)).expect("within bounds");
        let pace = Pace::asked(*rates.follow().borrow());
        assert_eq!((pace.factor, pace.next(Instant::now())), (5.0, None));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(rates.running(), Some((5.0, Duration::from_secs(1))));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(rates.running(), None);
        assert_eq!(pace.next(Instant::now()), Some(Pace::USUAL));
        assert!(!rates.end(), "it was over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_boost_out_of_bounds_changes_nothing() {
        let rates = Rates::default();
        for wrong in
            [boost(0.9, 60), boost(41.0, 60), boost(f64::INFINITY, 60), boost(2.0, 901), boost(2.0, 0)]
        {
            assert_eq!(rates.boost(wrong), Err(ConfigError::Boost), "{wrong:?}");
            assert_eq!(rates.running(), None);
        }
        rates.boost(boost(2.0, 900)).expect("within bounds");
        assert!(rates.end());
        assert_eq!(rates.running(), None);
    }
}
