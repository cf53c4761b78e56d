//! What a quiet control plane does to etcd: small puts and single reads at a steady rate, over a connection to each member.
//!
//! Owns the rate and how long each put took, from sending it to its answer. Beside it a service "orders" logs each of its
//! requests with trace ids, so that the agent has callers to find.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etcd_client::{Client, ConnectOptions, Txn, TxnOp};
use harness::etcd::Cluster;
use harness::service::Service;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Keys that are written again and again: the database grows by revisions, as a control plane's does.
const KEYS: usize = 2_000;

/// About a Kubernetes object, compressed.
const VALUE_BYTES: usize = 512;

/// A request each so often and member, puts and reads in turn: 20 puts and 20 reads a second on three members.
const PAUSE: Duration = Duration::from_millis(75);

/// etcd's `--max-txn-ops` is 128.
const SEED_BATCH: usize = 128;

/// Beyond it a request has failed.
const REQUEST_MAX: Duration = Duration::from_secs(5);

/// "orders" puts and gets once in so long.
const ORDERS_PAUSE: Duration = Duration::from_secs(1);

/// How soon a thread sees that it shall end.
const STOP_POLL: Duration = Duration::from_millis(100);

/// The running workload. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Workload {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    failed: AtomicU64,
    /// Nanoseconds of each put since [`Workload::take_puts`].
    puts: Mutex<Vec<u64>>,
    revision: Mutex<String>,
}

impl Workload {
    /// Writes all keys once and begins.
    pub(crate) fn start(cluster: &Arc<Cluster>, orders: Service) -> Result<Workload> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(seed(cluster.endpoints())).context("write the keys")?;
        let shared = Arc::new(Shared::default());
        "v1".clone_into(&mut shared.revision.lock().unwrap_or_else(PoisonError::into_inner));
        let (endpoints, of_plane) = (cluster.endpoints(), Arc::clone(&shared));
        let plane = thread::spawn(move || runtime.block_on(control_plane(endpoints, of_plane)));
        let (of_orders, members) = (Arc::clone(&shared), Arc::clone(cluster));
        let service = thread::spawn(move || serve_orders(&orders, &members, &of_orders));
        Ok(Workload { shared, threads: vec![plane, service] })
    }

    /// Nanoseconds of each put since the last call.
    pub(crate) fn take_puts(&self) -> Vec<u64> {
        std::mem::take(&mut *self.shared.puts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Requests that failed so far.
    pub(crate) fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// "orders" says from now on that it is another revision. It does what it did before.
    pub(crate) fn roll_out(&self, revision: &str) {
        revision.clone_into(&mut self.shared.revision.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so already.
            thread.join().ok();
        }
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn key(number: usize) -> String {
    format!("/registry/objects/{number:06}")
}

async fn seed(endpoints: Vec<String>) -> Result<()> {
    let mut client = Client::connect(endpoints, None).await?;
    let keys: Vec<usize> = (0..KEYS).collect();
    for batch in keys.chunks(SEED_BATCH) {
        let puts: Vec<TxnOp> =
            batch.iter().map(|number| TxnOp::put(key(*number), vec![b'0'; VALUE_BYTES], None)).collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    Ok(())
}

/// A worker for each member until it is told to stop.
async fn control_plane(endpoints: Vec<String>, shared: Arc<Shared>) {
    let mut workers = JoinSet::new();
    for (number, endpoint) in endpoints.into_iter().enumerate() {
        let shared = Arc::clone(&shared);
        workers.spawn(async move {
            // A worker that lost its connection begins anew; each failure counts.
            while work(&endpoint, number, &shared).await.is_err() {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    while !shared.is_stopped() {
        tokio::time::sleep(STOP_POLL).await;
    }
}

async fn work(endpoint: &str, number: usize, shared: &Shared) -> Result<()> {
    let options = ConnectOptions::new().with_timeout(REQUEST_MAX).with_connect_timeout(REQUEST_MAX);
    let mut client = Client::connect([endpoint], Some(options)).await?;
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0_usize.. {
        ticks.tick().await;
        let key = key((turn * 7_919 + number * 611) % KEYS);
        if turn % 2 == 1 {
            client.get(key, None).await?;
            continue;
        }
        let value = format!("{turn:0VALUE_BYTES$}");
        let started = Instant::now();
        client.put(key, value, None).await?;
        let took_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        shared.puts.lock().unwrap_or_else(PoisonError::into_inner).push(took_ns);
    }
    Ok(())
}

/// One order after the other through the members in turn.
fn serve_orders(orders: &Service, cluster: &Cluster, shared: &Shared) {
    for (turn, member) in cluster.members().iter().cycle().enumerate() {
        let next = Instant::now() + ORDERS_PAUSE;
        let revision = shared.revision.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let key = format!("/orders/{:04}", turn % 1_000);
        let done = orders.put(&revision, member, &key, "1").and_then(|_| orders.get(&revision, member, &key));
        if done.is_err() {
            shared.failed.fetch_add(1, Ordering::Relaxed);
        }
        while Instant::now() < next {
            if shared.is_stopped() {
                return;
            }
            thread::sleep(STOP_POLL);
        }
    }
}
