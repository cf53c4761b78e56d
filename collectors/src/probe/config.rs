//! What is asked of a member, how often, and within which bounds.

use std::time::Duration;

use thiserror::Error;

use super::schedule::Lane;

/// The shipped rates never ask a member more often than this; a small cluster serves 200 requests/s, of which this is 1 %.
pub const REQUESTS_PER_S_MAX: f64 = 2.0;

/// A boost ends after this at the latest: guard rates are for minutes, not for days.
pub const BOOST_MAX: Duration = Duration::from_secs(15 * 60);

/// The fastest rate of one kind, in a boost too: 20 Hz answers within 50 ms what happened, more is a load test.
pub const RATE_HZ_MAX: f64 = 20.0;

/// The largest factor of a boost: it takes the slowest shipped rate (0.1 Hz) to 4 Hz; [`RATE_HZ_MAX`] bounds the others.
pub const BOOST_FACTOR_MAX: f64 = 40.0;

/// What is asked and how often. The default only reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// No answer by then is [`ProbeOutcome::TimedOut`].
    pub deadline: Duration,
    /// Serializable reads a second; 0 is off.
    pub serializable_read_hz: f64,
    /// Linearizable reads a second; 0 is off.
    pub linearizable_read_hz: f64,
    /// Status calls a second; 0 is off.
    pub status_hz: f64,
    /// The key that reads ask for; it need not exist. `<node>` stands for the node's name.
    pub read_key: String,
    /// Writes, only where the configuration allows them.
    pub writes: Option<Writes>,
    /// Faster rates for a while, from the start of the prober on.
    pub boost: Option<Boost>,
}

/// Writes that a configuration allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Writes {
    /// LeaseGrant, one KeepAlive and LeaseRevoke so often a second; 0 is off.
    pub lease_hz: f64,
    /// Puts a second on the key; 0 is off, and with it the watcher.
    pub put_hz: f64,
    /// The agent's own key; it stays after the agent has gone. `<node>` stands for the node's name.
    pub key: String,
}

/// Faster rates for a limited time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Boost {
    /// All rates times this.
    pub factor: f64,
    /// From the start on; at most [`BOOST_MAX`].
    pub lasts: Duration,
}

/// What is wrong with a [`Config`].
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum ConfigError {
    /// A rate is negative, not a number or above [`RATE_HZ_MAX`].
    #[error("a rate is not between 0 and {RATE_HZ_MAX} per second")]
    Rate,
    /// Together more than [`REQUESTS_PER_S_MAX`].
    #[error("{0} requests/s a member; at most {REQUESTS_PER_S_MAX}, or a boost with a time limit")]
    TooMany(f64),
    /// The deadline is outside 10 ms to 3 s.
    #[error("the deadline is not between 10 ms and 3 s")]
    Deadline,
    /// The boost is longer than [`BOOST_MAX`] or its factor not between 1 and [`BOOST_FACTOR_MAX`].
    #[error("a boost lasts 1 second to 15 minutes, with a factor between 1 and {BOOST_FACTOR_MAX}")]
    Boost,
}

impl Boost {
    /// Whether it is one, and ends soon enough.
    ///
    /// # Errors
    /// [`ConfigError::Boost`]
    pub fn check(self) -> Result<(), ConfigError> {
        let lasts = (Duration::from_secs(1)..=BOOST_MAX).contains(&self.lasts);
        let faster = (1.0..=BOOST_FACTOR_MAX).contains(&self.factor);
        if lasts && faster { Ok(()) } else { Err(ConfigError::Boost) }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            deadline: Duration::from_secs(1),
            serializable_read_hz: 0.5,
            linearizable_read_hz: 0.5,
            status_hz: 0.1,
            read_key: "/backburn/probe/<node>".to_owned(),
            writes: None,
            boost: None,
        }
    }
}

impl Default for Writes {
    fn default() -> Writes {
        Writes { lease_hz: 0.25, put_hz: 0.1, key: "/backburn/probe/<node>".to_owned() }
    }
}

impl Config {
    /// Requests a second that this asks of each member, without a boost.
    #[must_use]
    pub fn requests_per_s(&self) -> f64 {
        let writes = self.writes.as_ref().map_or(0.0, |writes| 3.0 * writes.lease_hz + writes.put_hz);
        self.serializable_read_hz + self.linearizable_read_hz + self.status_hz + writes
    }

    /// Whether a member can bear it.
    ///
    /// # Errors
    /// The first thing that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let writes = self.writes.clone().unwrap_or(Writes { lease_hz: 0.0, put_hz: 0.0, key: String::new() });
        let rates = [
            self.serializable_read_hz,
            self.linearizable_read_hz,
            self.status_hz,
            writes.lease_hz,
            writes.put_hz,
        ];
        if !rates.iter().all(|hz| (0.0..=RATE_HZ_MAX).contains(hz)) {
            return Err(ConfigError::Rate);
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3)).contains(&self.deadline) {
            return Err(ConfigError::Deadline);
        }
        if self.requests_per_s() > REQUESTS_PER_S_MAX + 1e-9 {
            return Err(ConfigError::TooMany(self.requests_per_s()));
        }
        self.boost.map_or(Ok(()), Boost::check)
    }

    pub(super) fn lanes(&self, factor: f64) -> [(Lane, f64); 5] {
        let (lease_hz, put_hz) =
            self.writes.as_ref().map_or((0.0, 0.0), |writes| (writes.lease_hz, writes.put_hz));
        [
            (Lane::SerializableRead, self.serializable_read_hz),
            (Lane::LinearizableRead, self.linearizable_read_hz),
            (Lane::Status, self.status_hz),
            (Lane::LeaseCycle, lease_hz),
            (Lane::Put, put_hz),
        ]
        .map(|(lane, hz)| (lane, (hz * factor).min(RATE_HZ_MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_rates_stay_below_two_requests_a_second() {
        let reads = Config::default();
        assert!((reads.requests_per_s() - 1.1).abs() < 1e-9, "{}", reads.requests_per_s());
        let writes = Config { writes: Some(Writes::default()), ..Config::default() };
        assert!((writes.requests_per_s() - 1.95).abs() < 1e-9, "{}", writes.requests_per_s());
        assert_eq!(reads.check(), Ok(()));
        assert_eq!(writes.check(), Ok(()));
    }

    #[test]
    fn rates_out_of_bounds_are_refused() {
        let check = |config: Config, expected: ConfigError| assert_eq!(config.check(), Err(expected));
        let base = Config::default;
        check(Config { status_hz: -0.1, ..base() }, ConfigError::Rate);
        check(Config { status_hz: f64::NAN, ..base() }, ConfigError::Rate);
        check(Config { serializable_read_hz: 3.0, ..base() }, ConfigError::TooMany(3.6));
        check(Config { deadline: Duration::from_secs(60), ..base() }, ConfigError::Deadline);
        let boost = Boost { factor: 10.0, lasts: Duration::from_secs(3_600) };
        check(Config { boost: Some(boost), ..base() }, ConfigError::Boost);
        for factor in [0.5, 41.0, f64::NAN] {
            let boost = Boost { factor, lasts: Duration::from_secs(60) };
            check(Config { boost: Some(boost), ..base() }, ConfigError::Boost);
        }
    }
}
