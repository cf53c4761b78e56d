//! One probe: sends the request, waits for the answer or the deadline, writes the record. Owns what each kind asks of etcd.

use std::future::Future;

use etcd_client::{Client, Error, GetOptions, ResponseHeader};
use model::inbox::{Inbox, Place};
use model::probe::{ProbeKind, ProbeOutcome};
use model::time::Stamp;
use tokio::time::timeout;

use super::schedule::Lane;
use super::{PutClock, RECORD_BYTES, Reach};
use crate::etcd::outcome::{self, Admission};
use crate::member;

/// A lease that could not be revoked goes by itself after this: at the shipped rate at most three live at once.
const LEASE_TTL_S: i64 = 10;

/// All that one probe needs.
pub(super) struct Call {
    pub(super) client: Client,
    pub(super) admission: Admission,
    pub(super) reach: Reach,
    pub(super) puts: PutClock,
    pub(super) inbox: Inbox,
}

/// An answer and the ids in its header.
type Answer<T> = Result<(T, Option<(u64, u64)>), Error>;

impl Call {
    /// Sends the probe that was due at `due` and writes its record.
    pub(super) async fn run(mut self, lane: Lane, due: Stamp, place: Place) {
        match lane {
            Lane::SerializableRead => {
                let options = GetOptions::new().with_limit(1).with_keys_only().with_serializable();
                self.read(lane.kind(), options, due, place).await;
            }
            Lane::LinearizableRead => {
                let options = GetOptions::new().with_limit(1).with_keys_only();
                self.read(lane.kind(), options, due, place).await;
            }
            Lane::Status => {
                let mut maintenance = self.client.maintenance_client();
                let answer = async {
                    maintenance.status().await.map(|status| (member::state(&status), ids(status.header())))
                };
                if let Some(state) = self.measure(lane.kind(), due, Some(place), answer).await {
                    self.reach.identity.tell((due, state));
                }
            }
            Lane::LeaseCycle => self.lease_cycle(due, place).await,
            Lane::Put => self.put(due, place).await,
        }
    }

    async fn read(&mut self, kind: ProbeKind, options: GetOptions, due: Stamp, place: Place) {
        let mut kv = self.client.kv_client();
        let key = self.reach.read_key.as_bytes();
        let answer = async { kv.get(key, Some(options)).await.map(|found| ((), ids(found.header()))) };
        self.measure(kind, due, Some(place), answer).await;
    }

    async fn put(&mut self, due: Stamp, place: Place) {
        let (number, value) = self.puts.enter(due);
        let mut kv = self.client.kv_client();
        let key = self.reach.write_key.as_bytes();
        let answer = async { kv.put(key, value, None).await.map(|put| ((), ids(put.header()))) };
        if self.measure(ProbeKind::Put, due, Some(place), answer).await.is_some() {
            self.puts.written(number);
        }
    }

    /// Grant, one keep-alive, revoke. The later two are due when the one before has ended. A grant without an answer
    /// leaves nothing to revoke that we know of; a revoke is sent even when the keep-alive failed, or has no place.
    async fn lease_cycle(&mut self, due: Stamp, place: Place) {
        let mut lease = self.client.lease_client();
        let answer = async {
            lease.grant(LEASE_TTL_S, None).await.map(|granted| (granted.id(), ids(granted.header())))
        };
        let Some(id) = self.measure(ProbeKind::LeaseGrant, due, Some(place), answer).await else {
            return;
        };
        let mut lease = self.client.lease_client();
        let answer = async { lease.keep_alive(id).await.map(|streams| (streams, None)) };
        let (due, place) = self.next_step();
        if let Some((keeper, mut stream)) = self.measure(ProbeKind::LeaseKeepAlive, due, place, answer).await
        {
            // Closing our half lets the server end the stream itself: an aborted one counts as an error in its metrics.
            drop(keeper);
            if let Ok(Ok(Some(_))) = timeout(self.reach.deadline, stream.message()).await {
                self.reach.ledger.add("agent_probe_rejects_total", "second_keep_alive", 1);
            }
        }
        let mut lease = self.client.lease_client();
        let answer = async { lease.revoke(id).await.map(|revoked| ((), ids(revoked.header()))) };
        let (due, place) = self.next_step();
        self.measure(ProbeKind::LeaseRevoke, due, place, answer).await;
    }

    fn next_step(&self) -> (Stamp, Option<Place>) {
        let place = self.inbox.reserve(RECORD_BYTES).ok();
        if place.is_none() {
            self.reach.ledger.add("agent_probe_skips_total", "inbox_full", 1);
        }
        (self.reach.clock.now(), place)
    }

    /// Waits until the deadline, counted from the due time, and writes what came.
    async fn measure<T>(
        &self,
        kind: ProbeKind,
        due: Stamp,
        place: Option<Place>,
        answer: impl Future<Output = Answer<T>>,
    ) -> Option<T> {
        let left = self.reach.deadline.saturating_sub(self.reach.since(due));
        let ended = timeout(left, answer).await;
        let latency = self.reach.since(due);
        let (outcome, value) = match ended {
            Err(_) => (ProbeOutcome::TimedOut, None),
            Ok(Err(error)) => {
                let outcome = self.admission.outcome(&error);
                tracing::debug!(
                    kind = kind.name(),
                    outcome = outcome.name(),
                    error = outcome::chain(&error),
                    "probe failed"
                );
                (outcome, None)
            }
            Ok(Ok((value, ids))) => {
                self.admission.admitted();
                if let Some((cluster_id, member_id)) = ids {
                    self.reach.identity.learn(cluster_id, member_id);
                }
                (ProbeOutcome::Ok, Some(value))
            }
        };
        if self.admission.is_between_tokens(&outcome) {
            self.reach.ledger.add("agent_probe_skips_total", "token_expired", 1);
        } else if let Some(place) = place {
            place.send(self.reach.record(kind, due, latency, outcome));
        }
        value
    }
}

fn ids(header: Option<&ResponseHeader>) -> Option<(u64, u64)> {
    header.map(|header| (header.cluster_id(), header.member_id()))
}
