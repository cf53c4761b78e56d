//! The agent's own door: state for everybody on this host, verbs for whoever owns the socket.
//!
//! Owns a TCP listener that answers GET and HEAD alone, and a unix socket of mode 0600 that also takes the verbs (a mark, a
//! reload, faster probes, the agent's own profiles). Refuses to listen beyond this host unless told to, a `Host` that is a foreign
//! name (DNS rebinding), more connections, bytes or seconds than a scraper needs, and any verb on TCP.
//!
//! | path | where | answer |
//! |---|---|---|
//! | `/metrics` | both | the ledger and the process, Prometheus text |
//! | `/healthz`, `/readyz` | both | 200, or 503 with the reason |
//! | `/verdict` | both | [`model::board::Board`] as JSON |
//! | `/`, `/page.css` | both | the same for eyes, without a script |
//! | `POST /mark` | socket | 202 with the stamp, 400 with the reason, 503 when the inbox is full |
//! | `POST /-/reload` | socket | 202: the configuration will be read again |
//! | `POST /probe-rate?factor=F&for=T` | socket | 202: probes go F times as fast for T; 400 outside the bounds |
//! | `/profile?seconds=N` | socket | the agent's own CPU profile, pprof, where allowed |
//! | `/heap` | socket | the agent's own heap, gzipped pprof, where allowed |

mod boost;
pub(crate) mod client;
mod metrics;
mod page;
mod routes;
mod socket;
mod verbs;

#[cfg(fuzzing)]
pub(crate) use self::verbs::readable_mark;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use collectors::marks::Announced;
use collectors::probe::Rates;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::board::Board;
use model::inbox::WeakInbox;
use model::ledger::Ledger;
use model::origin::Origin;
use model::time::Clock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;

use self::routes::{Surface, Via};
use self::socket::Socket;

/// Connections at one time on TCP: a scraper, two probes, a browser with its six, and room.
const TCP_CONNECTIONS_MAX: usize = 32;

/// Connections at one time on the socket, apart from TCP's so that nobody there can lock the owner out.
const SOCKET_CONNECTIONS_MAX: usize = 8;

/// Request line and headers: eight times what a browser sends.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Header lines: a browser sends twenty.
const HEADERS_MAX: usize = 64;

/// From accepting to the last byte of the headers.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// From accepting to the last byte of the answer. One connection carries one request.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);

/// After an `accept` that failed (no file descriptors): time for others to close some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where the agent listens.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// GET and HEAD; `None`: not at all.
    pub(crate) tcp: Option<SocketAddr>,
    /// Lets `tcp` be an address that other hosts can reach.
    pub(crate) allow_remote: bool,
    /// The socket of the verbs; `None`: not at all.
    pub(crate) unix: Option<PathBuf>,
    /// Names that `Host` may be, beyond `localhost` and IP addresses.
    pub(crate) hosts: Vec<String>,
    /// Allows `/profile` and `/heap`.
    pub(crate) profiling: bool,
}

/// What the answers are made of.
#[derive(Debug)]
pub(crate) struct Wires {
    /// The engine's state, each tick.
    pub(crate) board: watch::Receiver<Arc<Board>>,
    /// Counters and gauges.
    pub(crate) ledger: Ledger,
    /// Where marks go.
    pub(crate) inbox: WeakInbox,
    /// Stamps of marks, and the age of the last tick.
    pub(crate) clock: Clock,
    /// Cluster and node, for marks.
    pub(crate) origin: Arc<Origin>,
    /// Asks for a reload; capacity 1 is enough, as two wishes are one.
    pub(crate) reload: mpsc::Sender<()>,
    /// What people announced: the watch of processes need not tell it again.
    pub(crate) announced: Announced,
    /// Faster probes for a while.
    pub(crate) rates: Rates,
}

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Reachable from elsewhere and not allowed.
    #[error("admin.listen {0} can be reached from other hosts: use 127.0.0.1, or set admin.exposed")]
    Remote(SocketAddr),
    /// The address is taken, or not ours.
    #[error("listen on {0} (free it, or set admin.listen to another address)")]
    Tcp(SocketAddr, #[source] io::Error),
    /// Another agent answers there.
    #[error("another agent answers on {0} (stop it, or set admin.socket to another path)")]
    InUse(PathBuf),
    /// The socket cannot be made.
    #[error("listen on {0} (admin.socket sets another path)")]
    Unix(PathBuf, #[source] io::Error),
    /// The registry of metrics.
    #[error("set up /metrics")]
    Metrics(#[from] prometheus::Error),
}

/// A bound door that nobody serves yet.
#[derive(Debug)]
pub(crate) struct Admin {
    tcp: Option<TcpListener>,
    unix: Option<Socket>,
    surface: Arc<Surface>,
}

impl Admin {
    /// Binds both listeners, so that a wrong address is told at start.
    ///
    /// # Errors
    /// [`BindError`]
    pub(crate) async fn bind(config: Config, wires: Wires) -> Result<Admin, BindError> {
        let tcp = match config.tcp {
            Some(address) if !address.ip().is_loopback() && !config.allow_remote => {
                return Err(BindError::Remote(address));
            }
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|error| BindError::Tcp(address, error))?)
            }
            None => None,
        };
        let unix = match &config.unix {
            Some(path) => Some(Socket::bind(path).await?),
            None => None,
        };
        let surface = Arc::new(Surface::new(&config, wires)?);
        Ok(Admin { tcp, unix, surface })
    }

    /// The TCP address as bound, for port 0.
    pub(crate) fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Answers until cancelled; requests under way are cut off then, and the socket's file goes.
    pub(crate) async fn serve(self, cancel: CancellationToken) {
        let Admin { tcp, unix, surface } = self;
        let tcp = async {
            if let Some(listener) = &tcp {
                answer(listener, Via::Tcp, &surface, &cancel).await;
            }
        };
        let unix = async {
            if let Some(socket) = &unix {
                answer(&socket.listener, Via::Socket, &surface, &cancel).await;
            }
        };
        tokio::join!(tcp, unix);
    }
}

/// TCP or unix.
trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    async fn next(&self) -> io::Result<Self::Stream>;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

async fn answer(listener: &impl Listener, via: Via, surface: &Arc<Surface>, cancel: &CancellationToken) {
    let (connections_max, time_max) = match via {
        Via::Tcp => (TCP_CONNECTIONS_MAX, CONNECTION_TIME_MAX),
        Via::Socket => (SOCKET_CONNECTIONS_MAX, CONNECTION_TIME_MAX + verbs::PROFILE_TIME_MAX),
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.next() => match accepted {
                Ok(_) if connections.len() >= connections_max => {
                    surface.ledger.add("agent_admin_connections_refused_total", "too_many", 1);
                }
                Ok(stream) => {
                    connections.spawn(connection(stream, via, Arc::clone(surface), time_max));
                }
                Err(error) => {
                    surface.ledger.add("agent_admin_connections_refused_total", "accept", 1);
                    tracing::debug!(%error, "accept failed");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    via: Via,
    surface: Arc<Surface>,
    time_max: Duration,
) {
    let service = service_fn(|request| routes::route(&surface, via, request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match time::timeout(time_max, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            surface.ledger.add("agent_admin_connections_broken_total", "protocol", 1);
            tracing::debug!(%error, "admin connection broke");
        }
        Err(_) => surface.ledger.add("agent_admin_connections_broken_total", "timeout", 1),
    }
}

/// Whether a `Host` value names this agent: an IP address (a rebinding attack needs a name), `localhost`, or a name that
/// configuration allows.
fn host_is_ours(host: &str, names: &[String]) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _port)) => v6,
        None => host.rsplit_once(':').map_or(host, |(name, _port)| name),
    };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests;
