//! What is asked of etcd: puts, reads of one key and of a hundred, at a rate that can be doubled.
//!
//! Owns the clients and the count of answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use etcd_client::{Client, GetOptions};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Written again and again, so that compaction has something to do.
const KEYS: usize = 2_000;
/// About a Kubernetes object, compressed.
const VALUE_BYTES: usize = 512;
/// Keys of one range read.
const RANGE: i64 = 100;
/// Each waits for its answer before it asks again.
const WORKERS: usize = 8;
/// How soon it ends.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Of ten requests: three puts, one range, six reads of one key.
const MIX: [Operation; 10] = {
    use Operation::{Get, Put, Range};
    [Put, Get, Get, Range, Get, Put, Get, Get, Put, Get]
};

#[derive(Clone, Copy, Debug)]
enum Operation {
    Put,
    Get,
    Range,
}

/// Running until it is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    /// Answered so far.
    pub(crate) requests: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// So many requests a second in all, as far as etcd answers them.
    pub(crate) fn start(endpoint: String, rate: u32) -> Result<Load> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let requests = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (of_thread, until) = (Arc::clone(&requests), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let mut workers = JoinSet::new();
                let pause = Duration::from_secs(1) * u32::try_from(WORKERS).unwrap_or(1) / rate;
                for number in 0..WORKERS {
                    workers.spawn(work(endpoint.clone(), number, pause, Arc::clone(&of_thread)));
                }
                while !until.load(Ordering::Relaxed) {
                    tokio::time::sleep(STOP_POLL).await;
                }
            });
        });
        Ok(Load { requests, stop, thread: Some(thread) })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn work(endpoint: String, number: usize, pause: Duration, requests: Arc<AtomicU64>) {
    // A connection that breaks is made anew; what is counted is answers.
    while ask(&endpoint, number, pause, &requests).await.is_err() {
        tokio::time::sleep(pause).await;
    }
}

async fn ask(endpoint: &str, number: usize, pause: Duration, requests: &AtomicU64) -> Result<()> {
    let mut client = Client::connect([endpoint], None).await?;
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (turn, operation) in MIX.iter().cycle().skip(number).enumerate() {
        ticks.tick().await;
        let key = (turn * 7_919 + number * 611) % KEYS;
        match operation {
            Operation::Put => {
                client.put(name(key), format!("{turn:0VALUE_BYTES$}"), None).await?;
            }
            Operation::Get => {
                client.get(name(key), None).await?;
            }
            Operation::Range => {
                let options = GetOptions::new().with_range(name(KEYS)).with_limit(RANGE);
                client.get(name(key), Some(options)).await?;
            }
        }
        requests.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn name(key: usize) -> String {
    format!("/registry/objects/{key:06}")
}
