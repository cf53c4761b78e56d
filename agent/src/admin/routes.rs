//! Which path gets which answer, and from where.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use collectors::marks::Announced;
use collectors::probe::Rates;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use model::board::Board;
use model::inbox::WeakInbox;
use model::ledger::Ledger;
use model::origin::Origin;
use model::time::{Clock, SECOND_NS};
use tokio::sync::{mpsc, watch};

use super::metrics::Metrics;
use super::{Config, Wires, boost, host_is_ours, page, verbs};

/// The engine ticks each second: without one for this long it is stuck.
const TICK_AGE_MAX_NS: u64 = 5 * SECOND_NS;

/// Nothing from elsewhere, nothing inline, no script at all.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Tcp,
    Socket,
}

/// All that answers are made of.
#[derive(Debug)]
pub(super) struct Surface {
    pub(super) board: watch::Receiver<Arc<Board>>,
    pub(super) ledger: Ledger,
    pub(super) inbox: WeakInbox,
    pub(super) clock: Clock,
    pub(super) origin: Arc<Origin>,
    pub(super) reload: mpsc::Sender<()>,
    pub(super) announced: Announced,
    pub(super) rates: Rates,
    pub(super) profiling: bool,
    hosts: Vec<String>,
    metrics: Metrics,
}

pub(super) type Answer = Response<Full<Bytes>>;

impl Surface {
    pub(super) fn new(config: &Config, wires: Wires) -> Result<Surface, prometheus::Error> {
        let Wires { board, ledger, inbox, clock, origin, reload, announced, rates } = wires;
        let metrics = Metrics::new(ledger.clone(), board.clone(), clock.clone())?;
        let (hosts, profiling) = (config.hosts.clone(), config.profiling);
        Ok(Surface {
            board,
            ledger,
            inbox,
            clock,
            origin,
            reload,
            announced,
            rates,
            profiling,
            hosts,
            metrics,
        })
    }

    /// The engine's board, and what holds beside it now.
    fn board(&self) -> Arc<Board> {
        let board = Arc::clone(&self.board.borrow());
        match boost::told(&self.rates) {
            Some(told) => {
                let mut board = Board::clone(&board);
                board.warnings.push(told);
                Arc::new(board)
            }
            None => board,
        }
    }

    /// Nanoseconds since the engine's last tick; `None` before the first.
    pub(super) fn tick_age_ns(&self) -> Option<u64> {
        let at = self.board.borrow().at;
        (at.wall_ns > 0).then(|| self.clock.now().since_ns(at))
    }
}

/// Answers one request; there is no error, only answers that say so.
pub(super) async fn route(
    surface: &Surface,
    via: Via,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let mut answer = match refusal(surface, via, &request) {
        Some(refusal) => refusal,
        None if request.method() == Method::POST => verbs::post(surface, request).await,
        None if request.uri().path() == "/profile" => {
            verbs::profile(surface, via, request.uri().query()).await
        }
        None if request.uri().path() == "/heap" => verbs::heap(surface, via).await,
        None => get(surface, request.uri().path()),
    };
    let class = match answer.status().as_u16() {
        ..300 => "ok",
        300..500 => "refused",
        _ => "failed",
    };
    surface.ledger.add("agent_admin_requests_total", class, 1);
    let headers = answer.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// Whether the request is not even looked at.
fn refusal(surface: &Surface, via: Via, request: &Request<Incoming>) -> Option<Answer> {
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    if via == Via::Tcp {
        let ours = |host: &str| host_is_ours(host, &surface.hosts);
        let mut named = request.headers().get_all(HOST).iter();
        let host_fits = match (named.next(), named.next()) {
            (Some(host), None) => host.to_str().is_ok_and(ours),
            _ => false,
        };
        if !host_fits || !request.uri().authority().is_none_or(|authority| ours(authority.as_str())) {
            return Some(text(StatusCode::MISDIRECTED_REQUEST, "this Host is not served here\n"));
        }
    }
    if reads || (via == Via::Socket && request.method() == Method::POST) {
        return None;
    }
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "verbs are on the admin socket\n");
    let allowed = if via == Via::Tcp { "GET, HEAD" } else { "GET, HEAD, POST" };
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    Some(answer)
}

fn get(surface: &Surface, path: &str) -> Answer {
    match path {
        "/" => {
            let board = surface.board();
            with_type(StatusCode::OK, "text/html; charset=utf-8", page::render(&board, surface.tick_age_ns()))
        }
        "/page.css" => with_type(StatusCode::OK, "text/css; charset=utf-8", page::STYLE),
        "/metrics" => match surface.metrics.encode() {
            Ok(page) => with_type(StatusCode::OK, prometheus::TEXT_FORMAT, page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/healthz" => health(surface),
        "/readyz" => health(surface),
        "/verdict" => {
            let board = surface.board();
            match serde_json::to_vec(&*board) {
                Ok(body) => with_type(StatusCode::OK, "application/json", body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "not here\n"),
    }
}

/// Alive and ready are one here: the engine applies records, so its second tick is on time. A node without etcd is both.
fn health(surface: &Surface) -> Answer {
    match surface.tick_age_ns() {
        Some(age_ns) if age_ns < TICK_AGE_MAX_NS => text(StatusCode::OK, "ok\n"),
        Some(age_ns) => {
            let age_s = age_ns / SECOND_NS;
            unavailable(format!("the engine's last tick is {age_s} s old\n"))
        }
        None => unavailable("the engine has not ticked yet\n"),
    }
}

pub(super) fn unavailable(body: impl Into<Bytes>) -> Answer {
    let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, body);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

pub(super) fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
