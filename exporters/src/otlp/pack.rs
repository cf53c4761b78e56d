//! Telemetry on its way into a request: one growing body a signal, cut before it exceeds what a receiver takes.
//!
//! All four export requests are a list of `ResourceX` in field 1, so a body is a concatenation and needs no head. Owns the
//! rule that no envelope is empty (each is opened with its first leaf) and that a request is split, not dropped, while a
//! single leaf fits. Owns the tickets: who read a batch hears of it when the last request with its lines has ended. Refuses
//! to know what a leaf is.

use std::sync::Arc;

use model::log::Receipt;

use super::config::Signal;
use super::wire::{Mark, Writer};

/// Depth of the deepest envelope: resource, scope, metric, data.
const LEVELS_MAX: usize = 4;

/// The least that a receiver's limit makes us aim at: below it envelopes outweigh what is in them.
const WANTED_MIN: usize = 64 << 10;

/// The receipt of one batch, held by each request that carries lines of it.
#[derive(Clone, Debug)]
pub(crate) struct Ticket(Arc<Receipt>);

impl Ticket {
    pub(crate) fn new(receipt: &Receipt) -> Ticket {
        Ticket(Arc::new(receipt.clone()))
    }

    /// This request has come to its end, good or counted; the last one takes the receipt.
    pub(crate) fn end(self) {
        if let Some(receipt) = Arc::into_inner(self.0) {
            receipt.take();
        }
    }

    /// This request was not sent: the lines should be read again.
    pub(crate) fn lose(&self) {
        self.0.lose();
    }
}

/// An uncompressed export request.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) signal: Signal,
    pub(crate) bytes: Vec<u8>,
    pub(crate) items: u64,
    /// Items whose source reads them again when they are not sent.
    pub(crate) kept: u64,
    pub(crate) tickets: Vec<Ticket>,
}

/// The body of one signal's next request.
#[derive(Debug)]
pub(crate) struct Pack {
    signal: Signal,
    bytes_max: usize,
    /// What a request with more than one leaf should not exceed.
    wanted_max: usize,
    writer: Writer,
    items: u64,
    kept: u64,
    tickets: Vec<Ticket>,
    current: Option<Ticket>,
    done: Vec<Payload>,
    /// Leaves that exceed a whole request by themselves, since last asked.
    too_large: u64,
}

impl Pack {
    pub(crate) fn new(signal: Signal, bytes_max: usize) -> Pack {
        Pack {
            signal,
            bytes_max,
            wanted_max: bytes_max,
            writer: Writer::default(),
            items: 0,
            kept: 0,
            tickets: Vec::new(),
            current: None,
            done: Vec::new(),
            too_large: 0,
        }
    }

    pub(crate) fn signal(&self) -> Signal {
        self.signal
    }

    pub(crate) fn len(&self) -> usize {
        self.writer.len()
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(crate) fn wanted_max(&self) -> usize {
        self.wanted_max
    }

    /// A receiver has refused a request for its size: the next ones are made smaller from the start.
    pub(crate) fn want_at_most(&mut self, bytes: usize) {
        self.wanted_max = self.wanted_max.min(bytes.max(WANTED_MIN));
    }

    pub(crate) fn take_too_large(&mut self) -> u64 {
        std::mem::take(&mut self.too_large)
    }

    pub(crate) fn count_too_large(&mut self, items: u64) {
        self.too_large = self.too_large.saturating_add(items);
    }

    /// From here on what is written belongs to `receipt`.
    pub(crate) fn begin(&mut self, receipt: &Receipt) {
        self.current = Some(Ticket::new(receipt));
    }

    /// The batch of the receipt is complete: it is safe when the requests that carry it are, the one in the making included.
    pub(crate) fn end(&mut self) {
        match self.current.take() {
            Some(ticket) if self.writer.len() > 0 => self.tickets.push(ticket),
            Some(ticket) => ticket.end(),
            None => {}
        }
    }

    /// A whole request that was encoded elsewhere.
    pub(crate) fn whole(&mut self, bytes: Vec<u8>, items: u64) {
        let signal = self.signal;
        self.done.push(Payload { signal, bytes, items, kept: 0, tickets: Vec::new() });
    }

    /// Ends the request in the making, if it holds anything.
    pub(crate) fn cut(&mut self) {
        if self.writer.len() == 0 {
            return;
        }
        let mut tickets = std::mem::take(&mut self.tickets);
        tickets.extend(self.current.clone());
        self.done.push(Payload {
            signal: self.signal,
            bytes: self.writer.take(),
            items: std::mem::take(&mut self.items),
            kept: std::mem::take(&mut self.kept),
            tickets,
        });
    }

    pub(crate) fn take_done(&mut self) -> Vec<Payload> {
        std::mem::take(&mut self.done)
    }
}

#[derive(Debug)]
struct Level<'b> {
    field: u32,
    prefix: &'b [u8],
    mark: Option<Mark>,
}

/// Envelopes around leaves, opened with the first leaf and reopened after a cut.
#[derive(Debug)]
pub(crate) struct Nest<'p, 'b> {
    pack: &'p mut Pack,
    levels: Vec<Level<'b>>,
}

impl<'p, 'b> Nest<'p, 'b> {
    pub(crate) fn new(pack: &'p mut Pack) -> Nest<'p, 'b> {
        Nest { pack, levels: Vec::with_capacity(LEVELS_MAX) }
    }

    /// One envelope deeper: field `field` of the one around it, beginning with `prefix`.
    pub(crate) fn enter(&mut self, field: u32, prefix: &'b [u8]) {
        self.levels.push(Level { field, prefix, mark: None });
    }

    /// Closes the innermost envelope.
    pub(crate) fn leave(&mut self) {
        if let Some(Level { mark: Some(mark), .. }) = self.levels.pop() {
            self.pack.writer.close(mark);
        }
    }

    /// Writes one leaf that stands for `items` items. A leaf that exceeds a whole request alone is counted and left out.
    pub(crate) fn put(&mut self, items: u64, write: &dyn Fn(&mut Writer)) {
        if self.pack.writer.len() > 0 {
            if self.try_put(items, self.pack.wanted_max, write) {
                return;
            }
            self.reopen();
        }
        if !self.try_put(items, self.pack.bytes_max, write) {
            self.pack.count_too_large(items);
        }
    }

    fn try_put(&mut self, items: u64, bytes_max: usize, write: &dyn Fn(&mut Writer)) -> bool {
        let before = self.pack.writer.len();
        let open = self.levels.iter().filter(|level| level.mark.is_some()).count();
        for level in self.levels.iter_mut().filter(|level| level.mark.is_none()) {
            level.mark = Some(self.pack.writer.open(level.field));
            self.pack.writer.raw(level.prefix);
        }
        write(&mut self.pack.writer);
        if self.pack.writer.len() <= bytes_max {
            self.pack.items = self.pack.items.saturating_add(items);
            if self.pack.current.is_some() {
                self.pack.kept = self.pack.kept.saturating_add(items);
            }
            return true;
        }
        self.pack.writer.truncate(before);
        for level in self.levels.iter_mut().skip(open) {
            level.mark = None;
        }
        false
    }

    fn reopen(&mut self) {
        for level in self.levels.iter_mut().rev() {
            if let Some(mark) = level.mark.take() {
                self.pack.writer.close(mark);
            }
        }
        self.pack.cut();
    }
}

impl Drop for Nest<'_, '_> {
    fn drop(&mut self) {
        while !self.levels.is_empty() {
            self.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use model::log::ReceiptState;

    use super::super::wire::{Field, Fields};
    use super::*;

    fn leaves(payload: &Payload) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for outer in Fields::new(&payload.bytes) {
            let Field::Bytes(1, inner) = outer else { panic!("{outer:?}") };
            for leaf in Fields::new(inner) {
                match leaf {
                    Field::Bytes(2, leaf) => found.push(leaf.to_vec()),
                    Field::Bytes(9, prefix) => assert_eq!(prefix, b"head"),
                    other => panic!("{other:?}"),
                }
            }
        }
        found
    }

    #[test]
    fn a_body_is_split_before_it_exceeds_the_limit_and_repeats_its_envelope() {
        let mut pack = Pack::new(Signal::Logs, 30);
        let mut nest = Nest::new(&mut pack);
        nest.enter(1, b"\x4a\x04head");
        for text in ["one", "two", "three", "four", "five"] {
            nest.put(1, &|writer| writer.string(2, text));
        }
        nest.put(1, &|writer| writer.bytes(2, &[0; 60]));
        drop(nest);
        pack.cut();
        let done = pack.take_done();
        assert!(done.iter().all(|payload| payload.bytes.len() <= 30));
        assert!(done.len() > 1);
        let all: Vec<_> = done.iter().flat_map(leaves).collect();
        assert_eq!(all, [&b"one"[..], b"two", b"three", b"four", b"five"]);
        assert_eq!(done.iter().map(|payload| payload.items).sum::<u64>(), 5);
        assert_eq!(pack.take_too_large(), 1);
    }

    #[test]
    fn an_envelope_without_leaves_is_not_written() {
        let mut pack = Pack::new(Signal::Metrics, 100);
        let mut nest = Nest::new(&mut pack);
        nest.enter(1, b"head");
        nest.enter(2, b"head");
        nest.leave();
        drop(nest);
        assert_eq!(pack.len(), 0);
    }

    #[test]
    fn an_empty_batch_is_safe_at_once_and_a_full_one_with_its_last_payload() {
        let mut pack = Pack::new(Signal::Logs, 20);
        let empty = Receipt::default();
        pack.begin(&empty);
        pack.end();
        assert_eq!(empty.state(), ReceiptState::Taken);
        let full = Receipt::default();
        pack.begin(&full);
        for _ in 0..3 {
            Nest::new(&mut pack).put(1, &|writer| writer.string(1, "a line of some"));
        }
        pack.end();
        pack.cut();
        let payloads = pack.take_done();
        assert_eq!(
            payloads.iter().map(|payload| (payload.items, payload.kept)).collect::<Vec<_>>(),
            [(1, 1); 3]
        );
        for payload in payloads {
            assert_eq!(full.state(), ReceiptState::Pending);
            payload.tickets.into_iter().for_each(Ticket::end);
        }
        assert_eq!(full.state(), ReceiptState::Taken);
    }

    #[test]
    fn a_learnt_limit_makes_smaller_requests_and_drops_no_leaf() {
        let mut pack = Pack::new(Signal::Logs, 1 << 20);
        pack.want_at_most(10);
        let mut nest = Nest::new(&mut pack);
        nest.enter(1, b"\x4a\x04head");
        for len in [40_000, 40_000, 200_000, 40_000] {
            nest.put(1, &|writer| writer.bytes(2, &vec![7; len]));
        }
        drop(nest);
        pack.cut();
        let sizes: Vec<usize> = pack.take_done().iter().map(|payload| payload.bytes.len() / 1000).collect();
        assert_eq!(sizes, [40, 40, 200, 40]);
        assert_eq!(pack.take_too_large(), 0);
    }
}
