//! What becomes of a request: queued, delivered, split, dropped for a counted reason, or left for the next start.
//!
//! Owns the tickets' last words. Whatever is counted here as sent or dropped is over, and its lines are safe to forget; what
//! is left when the agent stops is read again from its file, where it has one.

use bytes::Bytes;
use model::ledger::Ledger;
use tracing::{debug, info, warn};

use super::client::{self, Delivery, Sender};
use super::config::Signal;
use super::pack::{Payload, Ticket};
use super::queue::Request;
use super::split::{self, Half};
use super::{Exporter, State, wire};

impl Exporter {
    /// Compresses payloads into the queue.
    pub(super) fn enqueue(&mut self, payloads: Vec<Payload>) {
        for payload in payloads {
            let Payload { signal, bytes, items, kept, tickets } = payload;
            let request =
                Request { signal, body: Bytes::new(), items, kept, tickets, queued_at: self.clock.now() };
            match self.finished(request, &bytes) {
                Ok(request) => {
                    let outcome = self.queue.append(request);
                    for dropped in outcome.unwrap_or_else(|refused| vec![refused]) {
                        self.drop_counted(dropped, "queue_full");
                    }
                }
                Err(request) => self.drop_counted(*request, "compress"),
            }
        }
        self.tell_size();
    }

    /// The request with its bytes as they are sent.
    fn finished(&self, mut request: Request, bytes: &[u8]) -> Result<Request, Box<Request>> {
        let Some(lane) = self.lanes.iter().find(|lane| lane.signal == request.signal) else {
            return Err(Box::new(request));
        };
        match client::finish(lane.protocol, lane.compression, bytes) {
            Ok(body) => {
                request.body = body;
                Ok(request)
            }
            Err(error) => {
                warn!(%error, signal = request.signal.name(), "otlp request cannot be compressed");
                Err(Box::new(request))
            }
        }
    }

    /// A request has come back from its receiver.
    pub(super) fn settle(&mut self, place: usize, sender: Sender, delivery: Delivery) {
        let now_ns = self.clock.now().mono_ns;
        let Some(lane) = self.lanes.get_mut(place) else { return };
        lane.state = State::Idle(Box::new(sender));
        let Some(request) = self.queue.done(lane.signal) else { return };
        let (signal, items) = (lane.signal.name(), request.items);
        match delivery {
            Delivery::Accepted { rejected, message } => {
                let rejected = rejected.min(items);
                self.ledger.add("agent_otlp_sent_items_total", signal, items - rejected);
                count_dropped(&self.ledger, lane.signal, "rejected", rejected);
                debug!(signal, items, rejected, "otlp request sent");
                if !message.is_empty() && lane.quiet.speak(now_ns) {
                    warn!(signal, rejected, message, "otlp receiver has remarks");
                }
                request.tickets.into_iter().for_each(Ticket::end);
            }
            Delivery::Refused { code, message } => {
                if lane.quiet.speak(now_ns) {
                    warn!(signal, code, message, items, "otlp receiver refuses data, dropped");
                }
                self.drop_counted(request, "rejected");
            }
            Delivery::TooLarge { message } => {
                if lane.quiet.speak(now_ns) {
                    let bytes = request.body.len();
                    warn!(signal, message, items, bytes, "otlp receiver finds a request too large, split");
                }
                self.halve(request);
            }
            Delivery::Expired => {
                if lane.quiet.speak(now_ns) {
                    warn!(signal, items, "otlp request could not be delivered in time, dropped");
                }
                self.drop_counted(request, "expired");
            }
        }
        self.tell_size();
    }

    /// Both halves of a request in its place; an item that is too large by itself is dropped.
    fn halve(&mut self, request: Request) {
        let lane = self.lanes.iter().find(|lane| lane.signal == request.signal);
        let plain = lane.and_then(|lane| client::plain(lane.protocol, lane.compression, &request.body));
        let halves = plain.as_deref().and_then(|plain| split::halves(request.signal, plain));
        let (Some(plain), Some([first, second])) = (plain, halves) else {
            return self.drop_counted(request, "too_large");
        };
        self.encoder.shrink(request.signal, plain.len());
        self.ledger.add("agent_otlp_splits_total", request.signal.name(), 1);
        // A request's items are read again all or none: findings and lines meet in one only by chance.
        let kept_first = request.kept.min(first.items);
        let kept_second = (request.kept - kept_first).min(second.items);
        for (half, kept) in [(second, kept_second), (first, kept_first)] {
            let Half { bytes, items } = half;
            let (signal, queued_at, tickets) = (request.signal, request.queued_at, request.tickets.clone());
            let part = Request { signal, body: Bytes::new(), items, kept, tickets, queued_at };
            match self.finished(part, &bytes) {
                Ok(part) => {
                    for dropped in self.queue.put_back(part) {
                        self.drop_counted(dropped, "queue_full");
                    }
                }
                Err(part) => self.drop_counted(*part, "compress"),
            }
        }
        // The halves carry the tickets on; as the clones still count this one, it has to end first.
        request.tickets.into_iter().for_each(Ticket::end);
    }

    fn drop_counted(&self, request: Request, reason: &'static str) {
        count_dropped(&self.ledger, request.signal, reason, request.items);
        request.tickets.into_iter().for_each(Ticket::end);
    }

    fn tell_size(&self) {
        self.ledger.set("agent_otlp_queue_bytes", "", wire::wide(self.queue.bytes()));
    }

    /// Nothing is sent any more: what is left is lost, or left to whoever reads its file at the next start.
    pub(super) fn stop(self) {
        let mut left = 0;
        for request in self.queue.into_rest() {
            count_dropped(&self.ledger, request.signal, "shutdown", request.items - request.kept);
            self.ledger.add("agent_otlp_left_items_total", request.signal.name(), request.kept);
            left += request.kept;
            request.tickets.iter().for_each(Ticket::lose);
        }
        if left > 0 {
            info!(lines = left, "log lines that the receiver did not take are read again at the next start");
        }
        self.ledger.set("agent_otlp_queue_bytes", "", 0);
    }
}

/// One loss, by reason and by signal.
pub(super) fn count_dropped(ledger: &Ledger, signal: Signal, reason: &'static str, items: u64) {
    ledger.add("agent_otlp_dropped_items_total", reason, items);
    ledger.add("agent_otlp_dropped_items_by_signal_total", signal.name(), items);
}
