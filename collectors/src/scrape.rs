//! Reads `/metrics` pages into columns.
//!
//! Owns the schedule of one target, its connection and its series cache. Refuses to overlap (a slow page costs its own
//! ticks), to work for nothing (the place in the inbox is taken before the request) and to hide a failure: a page that
//! did not come is a record with `up` = 0.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use model::inbox::{Inbox, NoPlace};
use model::ledger::Ledger;
use model::record::{Fact, Record};
use model::scrape::{Scrape, ScrapeOutcome};
use model::time::{Clock, Stamp};
use reqwest::Url;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::target::{Identity, Target};
use crate::tls::TlsError;

pub mod columns;
pub mod exposition;
mod fetch;
mod layout;

use columns::rejects::Rejects;
use columns::{Columns, Generations, Reading, Restart};
use exposition::Reject;
use fetch::{Failure, Fetcher};

/// A buffer this much larger than the last page is given back: one huge page must not be paid for ever.
const BODY_SPARE_BYTES_MAX: usize = 1 << 20;

/// Of all layouts of this process: a reload makes new scrapers, and what is kept downstream by (target, generation) outlives
/// the old ones.
static GENERATIONS: LazyLock<Generations> = LazyLock::new(Generations::default);

/// How one target is scraped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// From one request to the next.
    pub interval: Duration,
    /// For the whole answer; shorter than the interval, so that scrapes never overlap.
    pub timeout: Duration,
    /// Largest body, compressed or inflated; etcd's page is 200 KB.
    pub body_bytes_max: usize,
    /// Most series of a page; those beyond are counted and dropped, in page order. etcd has 2,500.
    pub series_max: usize,
    /// How the body may travel.
    pub encoding: Encoding,
}

/// How the body may travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Uncompressed on loopback, where bytes are cheap and gzip costs etcd a third more CPU; gzip elsewhere.
    #[default]
    Auto,
    /// Uncompressed.
    Identity,
    /// gzip.
    Gzip,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(900),
            body_bytes_max: 16 << 20,
            series_max: 100_000,
            encoding: Encoding::Auto,
        }
    }
}

/// Why a target cannot be scraped at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The target has no metrics URL.
    #[error("target {0} has no metrics url")]
    NoUrl(String),
    /// The metrics URL is not one, or neither http nor https.
    #[error("metrics url {url:?}: {cause}")]
    Url {
        /// As configured, without user and password.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A scrape could last longer than its interval.
    #[error("scrape timeout {timeout:?} must be above zero and below the interval {interval:?}")]
    Timeout {
        /// As configured.
        timeout: Duration,
        /// As configured.
        interval: Duration,
    },
    /// The certificates.
    #[error(transparent)]
    Tls(TlsError),
    /// The HTTP client.
    #[error("http client: {0}")]
    Client(String),
}

/// Scrapes one target.
#[derive(Debug)]
pub struct Scraper {
    name: String,
    url: Arc<str>,
    identity: Identity,
    config: Config,
    clock: Clock,
    ledger: Ledger,
    fetcher: Fetcher,
    columns: Columns,
    body: Vec<u8>,
    up: Option<bool>,
    generation: u64,
}

impl Scraper {
    /// Reads the certificates and prepares the client; sends nothing.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(target: &Target, config: Config, clock: Clock, ledger: Ledger) -> Result<Scraper, StartError> {
        if config.timeout.is_zero() || config.timeout >= config.interval {
            return Err(StartError::Timeout { timeout: config.timeout, interval: config.interval });
        }
        let text = target.metrics_url.as_ref().ok_or_else(|| StartError::NoUrl(target.name.clone()))?;
        let url = parse_url(text)?;
        let fetcher = Fetcher::new(url.clone(), &target.tls, config.encoding, config.body_bytes_max)?;
        // The engine's state remembers a generation over a restart of the agent, and so does this clock go on: nanoseconds
        // outrun any number of layouts.
        GENERATIONS.rise_above(clock.now().mono_ns);
        Ok(Scraper {
            name: target.name.clone(),
            url: Arc::from(without_credentials(url).as_str()),
            identity: target.identity.clone(),
            columns: Columns::numbered(config.series_max, GENERATIONS.clone()),
            config,
            clock,
            ledger,
            fetcher,
            body: Vec::new(),
            up: None,
            generation: 0,
        })
    }

    /// Scrapes until cancelled or the engine is gone. A full inbox skips the scrape, counted in
    /// `agent_scrapes_skipped_total{inbox_full}`.
    pub async fn run(mut self, inbox: Inbox, cancel: CancellationToken) {
        let first = Instant::now() + phase(&self.name, self.config.interval);
        let mut interval = tokio::time::interval_at(first, self.config.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = interval.tick() => {}
            }
            let place = match inbox.reserve(self.columns.record_bytes()) {
                Ok(place) => place,
                Err(NoPlace::Closed) => return,
                Err(NoPlace::Full) => {
                    self.ledger.add("agent_scrapes_skipped_total", "inbox_full", 1);
                    continue;
                }
            };
            let record = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                record = self.scrape() => record,
            };
            place.send(record);
        }
    }

    /// One scrape, now; never fails, a page that did not come is in the record.
    pub async fn scrape(&mut self) -> Record {
        self.fetcher.refresh(&self.ledger);
        let origin = self.identity.origin();
        let at = self.clock.now();
        let fetched = match tokio::time::timeout(self.config.timeout, self.fetcher.get(&mut self.body)).await
        {
            Ok(fetched) => fetched,
            Err(_) => Err(Failure::Timeout(self.config.timeout.as_millis())),
        };
        if fetched.is_err() {
            // What came before the failure is no page, and may be as large as the cap.
            self.body.clear();
        }
        let scrape = self.conclude(fetched, at);
        if self.body.capacity() > self.body.len().saturating_mul(2).saturating_add(BODY_SPARE_BYTES_MAX) {
            self.body.shrink_to(self.body.len());
        }
        Record { at, origin, fact: Fact::Scrape(scrape) }
    }

    fn conclude(&mut self, fetched: Result<(), Failure>, at: Stamp) -> Scrape {
        let duration_ns = self.clock.now().since_ns(at);
        let read = fetched.and_then(|()| {
            self.columns.read(&self.body, duration_ns).map_err(|rejects| {
                self.count_rejects(&rejects);
                Failure::NotExposition(rejects.total())
            })
        });
        let (reading, outcome) = match read {
            Ok(reading) => {
                self.count(&reading);
                (reading, ScrapeOutcome::Up)
            }
            Err(failure) => {
                self.ledger.add("agent_scrapes_total", failure.reason(), 1);
                let reason = failure.reason().to_owned();
                let outcome = ScrapeOutcome::Down { reason, detail: failure.to_string() };
                (self.columns.fail(duration_ns), outcome)
            }
        };
        self.tell(&outcome);
        // A target whose layout is built all the time is worth a look: it invents label values.
        let built = std::mem::replace(&mut self.generation, reading.layout.generation) != self.generation;
        self.ledger.add("agent_scrape_layouts_total", "built", u64::from(built));
        let body_bytes =
            if outcome == ScrapeOutcome::Up { u64::try_from(self.body.len()).unwrap_or(u64::MAX) } else { 0 };
        Scrape {
            target: Arc::clone(&self.url),
            generation: reading.layout.generation,
            layout: reading.layout,
            values: reading.values,
            outcome,
            duration_ns,
            body_bytes,
            samples: reading.samples,
            process_start_ns: reading.process_start_ns,
            restarted: reading.restarted.is_some(),
        }
    }

    fn count(&self, reading: &Reading) {
        self.ledger.add("agent_scrapes_total", "ok", 1);
        self.ledger.add("agent_scrape_ignored_total", "timestamp", reading.timestamps);
        self.ledger.add("agent_scrape_ignored_total", "exemplar", reading.exemplars);
        if let Some(restart) = reading.restarted {
            let reason = match restart {
                Restart::StartTime => "start_time",
                Restart::Values => "values",
            };
            self.ledger.add("agent_scrape_restarts_total", reason, 1);
            tracing::info!(target_url = %self.url, reason, "counters began anew");
        }
        self.count_rejects(&reading.rejects);
    }

    fn count_rejects(&self, rejects: &Rejects) {
        for reject in Reject::ALL {
            self.ledger.add("agent_scrape_rejects_total", reject.reason(), rejects.count(reject));
        }
        if let Some((reject, line)) = &rejects.sample {
            tracing::debug!(target_url = %self.url, reason = reject.reason(), line, "lines refused");
        }
    }

    /// Logs a change of state, not each scrape.
    fn tell(&mut self, outcome: &ScrapeOutcome) {
        let up = *outcome == ScrapeOutcome::Up;
        if self.up.replace(up) == Some(up) {
            return;
        }
        match outcome {
            ScrapeOutcome::Up => tracing::info!(target_url = %self.url, "scrape is up"),
            ScrapeOutcome::Down { reason, detail } => {
                tracing::warn!(target_url = %self.url, reason, detail, "scrape is down");
            }
        }
    }
}

fn parse_url(text: &str) -> Result<Url, StartError> {
    let url = Url::parse(text).map_err(|error| {
        // What cannot be parsed cannot be stripped of a password either: show the scheme at most.
        let shown = text.split_once("://").map_or("…", |(scheme, _)| scheme);
        StartError::Url { url: format!("{shown}://…"), cause: error.to_string() }
    })?;
    if matches!(url.scheme(), "http" | "https") {
        return Ok(url);
    }
    let cause = format!("scheme {} is neither http nor https", url.scheme());
    Err(StartError::Url { url: without_credentials(url).to_string(), cause })
}

fn without_credentials(mut url: Url) -> Url {
    // Both fail only for URLs that cannot carry credentials.
    let _user = url.set_username("").is_ok();
    let _password = url.set_password(None).is_ok();
    url
}

/// Spreads targets over the interval by name (FNV-1a), so that three members on one node are not asked at once.
fn phase(name: &str, interval: Duration) -> Duration {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(hash % interval_ns)
}
