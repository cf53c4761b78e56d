//! A webhook receiver that remembers every request and answers as it is told.
//!
//! Owns what arrived, refused requests included: a retry is a fact here. It verifies nothing.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use rustls::ServerConfig;
use tonic::body::Body;

use crate::{
    certs::{Certs, ClientAuth},
    listen::{self, Handler, Listener, Script},
    process::wait_until,
};

/// Requests that are remembered; a story sends a handful, a runaway retry loop must not fill the memory.
const REQUESTS_MAX: usize = 10_000;

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// With a status and an empty body.
    Status(u16),
    /// With a status and `Retry-After` in seconds.
    RetryAfter(u16, u32),
    /// With 204, after a while.
    Slow(Duration),
    /// Never.
    Hang,
    /// With 200 and this body.
    Body(Bytes),
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// When its body was complete.
    pub at: SystemTime,
    /// Usually POST.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Received {
    /// A header as text; empty where it is missing or not text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A running receiver; ends with its connections when dropped.
#[derive(Debug)]
pub struct Webhook {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    listener: Option<Listener>,
}

#[derive(Debug)]
struct Shared {
    script: Script<Reply>,
    received: Mutex<Vec<Received>>,
}

impl Webhook {
    /// Listens on a free loopback port and answers 204 until told otherwise.
    pub fn start() -> Result<Webhook> {
        Webhook::with(None)
    }

    /// The same over TLS with the server certificate of `certs`.
    pub fn start_with_tls(certs: &Certs, auth: ClientAuth) -> Result<Webhook> {
        Webhook::with(Some(certs.server_config(auth)?))
    }

    fn with(tls: Option<Arc<ServerConfig>>) -> Result<Webhook> {
        let shared = Arc::new(Shared { script: Script::new(Reply::Status(204)), received: Mutex::default() });
        let listener = Listener::start(0, tls.clone(), handler(&shared))?;
        Ok(Webhook { shared, address: listener.address(), tls, listener: Some(listener) })
    }

    /// Any path of this server arrives here.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/hook", self.address)
    }

    /// Address of [`Webhook::url`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is answered from now on, once the queue is empty.
    pub fn respond(&self, reply: Reply) {
        self.shared.script.stand(reply);
    }

    /// Answers for the next requests, one each: `queue(vec![Reply::Status(503); 3])` fails three times.
    pub fn queue(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.script.queue(replies);
    }

    /// Closes the port: clients are refused until [`Webhook::up`].
    pub fn down(&mut self) {
        self.listener = None;
    }

    /// Listens again on the same port.
    pub fn up(&mut self) -> Result<()> {
        if self.listener.is_none() {
            self.listener =
                Some(Listener::start(self.address.port(), self.tls.clone(), handler(&self.shared))?);
        }
        Ok(())
    }

    /// Everything so far, in the order of arrival.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the `number`th request, counted from 1.
    pub fn wait_for(&self, number: usize, limit: Duration) -> Result<Received> {
        wait_until(&format!("webhook request {number}"), limit, || {
            Ok(number.checked_sub(1).and_then(|index| self.received().get(index).cloned()))
        })
    }
}

fn handler(shared: &Arc<Shared>) -> Handler {
    let shared = Arc::clone(shared);
    Arc::new(move |request| Box::pin(answer(Arc::clone(&shared), request)))
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Some(body) = listen::read_body(body).await else {
        return listen::answer(400, "text/plain", "torn body");
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "when it really arrived; nothing of the product reads this"
    )]
    let at = SystemTime::now();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    {
        let mut received = shared.received.lock().unwrap_or_else(PoisonError::into_inner);
        if received.len() < REQUESTS_MAX {
            received.push(Received { at, method: head.method, path, headers: head.headers, body });
        }
    }
    match shared.script.next() {
        Reply::Status(status) => listen::answer(status, "text/plain", ""),
        Reply::RetryAfter(status, seconds) => {
            let mut response = listen::answer(status, "text/plain", "");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            response
        }
        Reply::Slow(pause) => {
            tokio::time::sleep(pause).await;
            listen::answer(204, "text/plain", "")
        }
        Reply::Hang => std::future::pending().await,
        Reply::Body(body) => listen::answer(200, "application/json", body),
    }
}
