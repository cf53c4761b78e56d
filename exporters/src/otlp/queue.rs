//! Finished requests in memory: append, next, done.
//!
//! Bounded in bytes. When full, the oldest waiting request of the signal that holds most bytes goes: a flood of metrics
//! never pushes out the few logs that explain it. Requests of one signal keep their order, and one at a time is on its way.
//! Owns no bytes on disk and counts nothing: what was dropped is handed back.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use model::time::Stamp;

use super::config::Signal;
use super::pack::Ticket;

/// What a queued request costs beside its body.
const OVERHEAD_BYTES: usize = 128;

/// One finished request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) signal: Signal,
    /// Compressed, and framed where the protocol frames.
    pub(crate) body: Bytes,
    pub(crate) items: u64,
    /// Items whose source reads them again when they are not sent.
    pub(crate) kept: u64,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) queued_at: Stamp,
}

/// What is sent of it: every attempt sends the same bytes.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) body: Bytes,
    pub(crate) queued_at: Stamp,
}

impl Request {
    fn size(&self) -> usize {
        self.body.len() + OVERHEAD_BYTES
    }
}

#[derive(Debug, Default)]
struct Lane {
    requests: VecDeque<Request>,
    bytes: usize,
    /// The first one is on its way and stays until it is done.
    in_flight: bool,
}

/// The requests of all signals.
#[derive(Debug)]
pub(crate) struct Queue {
    bytes_max: usize,
    bytes: usize,
    lanes: BTreeMap<Signal, Lane>,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Queue {
        Queue { bytes_max, bytes: 0, lanes: BTreeMap::new() }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.values().all(|lane| lane.requests.is_empty())
    }

    /// Appends a request.
    ///
    /// # Errors
    /// The request itself, when there is no room even without all that waits.
    pub(crate) fn append(&mut self, request: Request) -> Result<Vec<Request>, Request> {
        let held: usize = self
            .lanes
            .values()
            .filter(|lane| lane.in_flight)
            .filter_map(|lane| lane.requests.front())
            .map(Request::size)
            .sum();
        if held + request.size() > self.bytes_max {
            return Err(request);
        }
        let mut dropped = Vec::new();
        while self.bytes + request.size() > self.bytes_max {
            match self.drop_oldest() {
                Some(oldest) => dropped.push(oldest),
                None => break,
            }
        }
        let lane = self.lanes.entry(request.signal).or_default();
        lane.bytes += request.size();
        self.bytes += request.size();
        lane.requests.push_back(request);
        Ok(dropped)
    }

    fn drop_oldest(&mut self) -> Option<Request> {
        let lane = self
            .lanes
            .values_mut()
            .filter(|lane| lane.requests.len() > usize::from(lane.in_flight))
            .max_by_key(|lane| lane.bytes)?;
        let oldest = lane.requests.remove(usize::from(lane.in_flight))?;
        lane.bytes -= oldest.size();
        self.bytes -= oldest.size();
        Some(oldest)
    }

    /// The next request of a signal, which is on its way from now on; `None` while another is.
    pub(crate) fn next(&mut self, signal: Signal) -> Option<Outgoing> {
        let lane = self.lanes.get_mut(&signal).filter(|lane| !lane.in_flight)?;
        let request = lane.requests.front()?;
        lane.in_flight = true;
        Some(Outgoing { body: request.body.clone(), queued_at: request.queued_at })
    }

    /// The request on its way is delivered or given up: its room is free.
    pub(crate) fn done(&mut self, signal: Signal) -> Option<Request> {
        let lane = self.lanes.get_mut(&signal).filter(|lane| lane.in_flight)?;
        lane.in_flight = false;
        let request = lane.requests.pop_front()?;
        lane.bytes -= request.size();
        self.bytes -= request.size();
        Some(request)
    }

    /// Puts a part of the request that was just done in its place. Two halves are a little more than their whole: what is
    /// oldest, and may be they, makes room.
    pub(crate) fn put_back(&mut self, request: Request) -> Vec<Request> {
        let lane = self.lanes.entry(request.signal).or_default();
        lane.bytes += request.size();
        self.bytes += request.size();
        lane.requests.push_front(request);
        let mut dropped = Vec::new();
        while self.bytes > self.bytes_max {
            match self.drop_oldest() {
                Some(oldest) => dropped.push(oldest),
                None => break,
            }
        }
        dropped
    }

    /// Everything that is left.
    pub(crate) fn into_rest(self) -> impl Iterator<Item = Request> {
        self.lanes.into_values().flat_map(|lane| lane.requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(signal: Signal, name: u8, len: usize) -> Request {
        let body = Bytes::from(vec![name; len]);
        Request { signal, body, items: 1, kept: 0, tickets: Vec::new(), queued_at: Stamp::default() }
    }

    fn names(requests: impl IntoIterator<Item = Request>) -> Vec<u8> {
        requests.into_iter().map(|request| request.body[0]).collect()
    }

    #[test]
    fn the_oldest_of_the_largest_signal_goes_first() {
        let mut queue = Queue::new(4 * (1000 + OVERHEAD_BYTES));
        queue.append(request(Signal::Logs, 1, 1000)).unwrap();
        for name in 2..=4 {
            assert!(queue.append(request(Signal::Metrics, name, 1000)).unwrap().is_empty());
        }
        assert_eq!(names(queue.append(request(Signal::Metrics, 5, 1000)).unwrap()), [2]);
        assert_eq!(names(queue.into_rest()), [3, 4, 5, 1]);
    }

    #[test]
    fn a_request_on_its_way_is_never_dropped() {
        let mut queue = Queue::new(2 * (1000 + OVERHEAD_BYTES));
        queue.append(request(Signal::Logs, 1, 1000)).unwrap();
        assert_eq!(queue.next(Signal::Logs).unwrap().body[0], 1);
        assert!(queue.next(Signal::Logs).is_none());
        queue.append(request(Signal::Logs, 2, 1000)).unwrap();
        assert_eq!(names(queue.append(request(Signal::Logs, 3, 1000)).unwrap()), [2]);
        assert_eq!(names(queue.append(request(Signal::Logs, 4, 3000)).err()), [4]);
        queue.done(Signal::Logs);
        queue.done(Signal::Logs);
        assert_eq!(queue.next(Signal::Logs).unwrap().body[0], 3);
        queue.done(Signal::Logs);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn halves_stand_where_their_whole_stood() {
        let mut queue = Queue::new(10_000);
        for name in [1, 4] {
            queue.append(request(Signal::Logs, name, 1000)).unwrap();
        }
        queue.next(Signal::Logs).unwrap();
        assert_eq!(queue.done(Signal::Logs).unwrap().body[0], 1);
        for name in [3, 2] {
            assert!(queue.put_back(request(Signal::Logs, name, 600)).is_empty());
        }
        assert_eq!(names(queue.into_rest()), [2, 3, 4]);
    }

    #[test]
    fn the_bound_holds_whatever_comes() {
        let mut queue = Queue::new(100_000);
        for step in 0..10_000_usize {
            let signal = Signal::ALL[step % 4];
            queue.append(request(signal, 0, step * 7919 % 20_000)).ok();
            assert!(queue.bytes() <= 100_000);
            if step % 3 == 0 {
                queue.next(signal);
            }
            if step % 5 == 0
                && let Some(done) = queue.done(signal)
                && step % 10 == 0
            {
                queue.put_back(request(signal, 1, done.body.len() / 2 + 200));
                queue.put_back(request(signal, 2, done.body.len() / 2 + 200));
                assert!(queue.bytes() <= 100_000);
            }
        }
    }
}
