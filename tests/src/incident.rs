//! An incident on demand: a service whose new revision makes every write of the cluster slow.
//!
//! Owns the cluster, the service and which revision runs. The slowness is real: a quorum answers late, for everybody.

use std::{
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};

use crate::{
    etcd::{Cluster, Options, Version},
    service::Service,
};

/// What a write takes while the bad revision runs; etcd calls 100 ms slow, and elections begin after a second.
const STALL: Duration = Duration::from_millis(160);

/// Between writes of the good revision.
const PAUSE: Duration = Duration::from_millis(150);

const GOOD: u8 = 0;
const BAD: u8 = 1;
const OVER: u8 = 2;

/// Three members and the service `orders`, revision v1 at first.
#[derive(Debug)]
pub struct Incident {
    /// The cluster.
    pub cluster: Cluster,
    /// The service.
    pub orders: Service,
    revision: AtomicU8,
}

impl Incident {
    /// Starts the cluster, which serves profiles; the service logs below `dir`.
    pub fn new(version: Version, dir: &Path) -> Result<Incident> {
        Incident::with(version, dir, &Options { pprof: true, ..Options::default() })
    }

    /// The same with members that were told more.
    pub fn with(version: Version, dir: &Path, options: &Options) -> Result<Incident> {
        let cluster = Cluster::start(version, 3, options)?;
        Ok(Incident { cluster, orders: Service::new(dir, "orders"), revision: AtomicU8::new(GOOD) })
    }

    /// The service works in a thread of its own while `story` is told.
    pub fn play(&self, story: impl FnOnce() -> Result<()>) -> Result<()> {
        thread::scope(|scope| {
            let working = scope.spawn(|| self.work());
            let told = story();
            self.revision.store(OVER, Ordering::Relaxed);
            let worked = working.join().map_err(|_| anyhow!("the service panicked"))?;
            match (told, worked) {
                // A service that ended first may be why the story had no end.
                (Err(told), Err(worked)) => Err(told.context(format!("the service ended: {worked:#}"))),
                (told, worked) => told.and(worked),
            }
        })
    }

    /// From the next write on it is v2.
    pub fn turn_bad(&self) {
        self.revision.store(BAD, Ordering::Relaxed);
    }

    /// From the next write on it is v1.
    pub fn turn_good(&self) {
        self.revision.store(GOOD, Ordering::Relaxed);
    }

    fn work(&self) -> Result<()> {
        const KEY: &str = "/orders/1";
        loop {
            match self.revision.load(Ordering::Relaxed) {
                GOOD => {
                    self.orders.put("v1", self.cluster.leader()?, KEY, "1")?;
                    thread::sleep(PAUSE);
                }
                BAD => {
                    self.cluster.stalled(STALL, |leader| self.orders.put("v2", leader, KEY, "1"))?;
                }
                _ => return Ok(()),
            }
        }
    }
}
