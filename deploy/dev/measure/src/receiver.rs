//! Where the agent's exports and signals go: counted as they come over the wire, and thrown away.
//!
//! It decodes nothing, so that it takes little from the two CPUs that are measured. What it still takes counts against the
//! agent: without the agent it is idle.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The agent sends to five paths; what else comes is counted together.
const PATHS_MAX: usize = 16;

/// Where signals go.
const SIGNAL: &str = "/signal";

/// What came to one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Arrived {
    /// Requests.
    pub(crate) requests: u64,
    /// Of their bodies, compressed as they were sent.
    pub(crate) bytes: u64,
}

type Counts = Arc<Mutex<BTreeMap<String, Arrived>>>;

/// The server, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Receiver {
    address: SocketAddr,
    counts: Counts,
}

impl Receiver {
    /// Listens on a free port.
    pub(crate) fn start() -> Result<Receiver> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let counts = Counts::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&counts);
        thread::spawn(move || {
            // It ends with the process; an error here shows as an export that fails, which the agent counts.
            runtime.block_on(serve(listener, shared)).ok();
        });
        Ok(Receiver { address, counts })
    }

    /// For `otlp.endpoint`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For a webhook.
    pub(crate) fn signal_url(&self) -> String {
        format!("http://{}{SIGNAL}", self.address)
    }

    /// Exports so far, by path.
    pub(crate) fn exports(&self) -> BTreeMap<String, Arrived> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        counts.remove(SIGNAL);
        counts
    }

    /// Signals so far.
    pub(crate) fn signals(&self) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(SIGNAL).map_or(0, |arrived| arrived.requests)
    }
}

async fn serve(listener: std::net::TcpListener, counts: Counts) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("accept")?;
                let counts = Arc::clone(&counts);
                let service = service_fn(move |request| take(request, Arc::clone(&counts)));
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(served);
            }
            // A connection that broke is the agent's to count.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn take(mut request: Request<Incoming>, counts: Counts) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut bytes = 0;
    while let Some(Ok(frame)) = request.body_mut().frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
    }
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let path = request.uri().path();
    let is_counted_apart = counts.len() < PATHS_MAX || counts.contains_key(path);
    let arrived = counts.entry(if is_counted_apart { path.to_owned() } else { String::new() }).or_default();
    arrived.requests += 1;
    arrived.bytes += bytes;
    // An empty body is an empty export response in protobuf: all of it was taken.
    let mut response = Response::new(Empty::new());
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/x-protobuf"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Arrived, Receiver};

    #[test]
    fn exports_are_counted_by_path_and_signals_apart() {
        let receiver = Receiver::start().unwrap();
        let post = |path: &str, body: &str| {
            harness::http::post_json(receiver.address, path, body, Duration::from_secs(5)).unwrap()
        };
        assert_eq!(post("/v1/metrics", "12345").status, 200);
        assert_eq!(post("/v1/metrics", "6").header("content-type"), "application/x-protobuf");
        post("/signal", "{}");
        assert_eq!(
            receiver.exports().into_iter().collect::<Vec<_>>(),
            [("/v1/metrics".to_owned(), Arrived { requests: 2, bytes: 6 })]
        );
        assert_eq!(receiver.signals(), 1);
    }
}
