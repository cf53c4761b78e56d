//! A loopback HTTP server (1.1 and 2) on a thread and runtime of its own.
//!
//! Owns sockets and connections, and the script of what to answer. What an answer means is the caller's.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;

/// Largest request body that is read, as sent: what a Collector takes over gRPC is 4 MiB.
const BODY_BYTES_MAX: usize = 64 << 20;

/// After a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The future of an answer.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Called once a request, on the listener's thread.
pub(crate) type Handler = Arc<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>;

/// A bound address and the thread that serves it; ends with all its connections when dropped.
pub(crate) struct Listener {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.address).finish()
    }
}

impl Listener {
    /// Port 0 takes any free one.
    pub(crate) fn start(port: u16, tls: Option<Arc<ServerConfig>>, handler: Handler) -> Result<Listener> {
        let bound =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("listen on {port}"))?;
        bound.set_nonblocking(true)?;
        let address = bound.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(format!("listen-{}", address.port())).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    _ = serve(bound, tls, handler) => {}
                }
            });
            // Whoever never gets an answer is cut off here.
            runtime.shutdown_background();
        })?;
        Ok(Listener { address, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in a handler has been printed already.
            thread.join().ok();
        }
    }
}

async fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, handler: Handler) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.map(|(stream, _)| stream),
            Some(_) = connections.join_next() => continue,
        };
        let Ok(stream) = stream else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (handler, tls) = (Arc::clone(&handler), tls.clone());
        connections.spawn(async move {
            match tls {
                None => speak(stream, handler).await,
                // A client without the right certificate is part of the stories told here.
                Some(config) => {
                    if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                        speak(stream, handler).await;
                    }
                }
            }
        });
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, handler: Handler) {
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    // One that breaks off is, too.
    Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
}

/// Reads a whole body; `None` where it breaks off or is larger than [`BODY_BYTES_MAX`].
pub(crate) async fn read_body(body: Incoming) -> Option<Bytes> {
    Some(Limited::new(body, BODY_BYTES_MAX).collect().await.ok()?.to_bytes())
}

/// An answer with a status and a body.
pub(crate) fn answer(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// What to answer: first the replies of a queue, one each, then the standing one.
#[derive(Debug)]
pub(crate) struct Script<R>(Mutex<(VecDeque<R>, R)>);

impl<R: Clone> Script<R> {
    pub(crate) fn new(standing: R) -> Script<R> {
        Script(Mutex::new((VecDeque::new(), standing)))
    }

    pub(crate) fn stand(&self, reply: R) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = reply;
    }

    pub(crate) fn queue(&self, replies: impl IntoIterator<Item = R>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.extend(replies);
    }

    pub(crate) fn next(&self) -> R {
        let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        script.0.pop_front().unwrap_or_else(|| script.1.clone())
    }
}
