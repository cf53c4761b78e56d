//! The other side of the door, for `agent mark` and `agent check`: one request over the socket or TCP, one bounded answer.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time;

/// A board with a hundred findings is below 1 MiB.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A local agent answers in milliseconds, or is stuck.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Where an agent listens.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// The socket; verbs too.
    Unix(PathBuf),
    /// GET only.
    Tcp(SocketAddr),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens, or we may not.
    #[error("connect")]
    Connect(#[source] io::Error),
    /// The path is no path.
    #[error("request")]
    Request(#[from] http::Error),
    /// It broke off.
    #[error("talk to the agent")]
    Http(#[from] hyper::Error),
    /// Too long an answer, or torn.
    #[error("read the answer: {0}")]
    Body(String),
    /// No answer in time.
    #[error("no answer in 5 s")]
    Timeout,
}

/// An answer, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The whole body; bytes that are no UTF-8 are replaced.
    pub(crate) body: String,
}

/// GET.
///
/// # Errors
/// [`ClientError`]; a status that is not 200 is an answer.
pub(crate) async fn get(address: &Address, path: &str) -> Result<Answer, ClientError> {
    send(address, request(Method::GET, path, Bytes::new())?).await
}

/// POST.
///
/// # Errors
/// [`ClientError`]; a status that is not 202 is an answer.
pub(crate) async fn post(
    address: &Address,
    path: &str,
    body: impl Into<Bytes>,
) -> Result<Answer, ClientError> {
    send(address, request(Method::POST, path, body.into())?).await
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
    Request::builder().method(method).uri(path).header(HOST, "localhost").body(Full::new(body))
}

async fn send(address: &Address, request: Request<Full<Bytes>>) -> Result<Answer, ClientError> {
    let exchange = async {
        match address {
            Address::Unix(path) => {
                exchange(UnixStream::connect(path).await.map_err(ClientError::Connect)?, request).await
            }
            Address::Tcp(tcp) => {
                exchange(TcpStream::connect(tcp).await.map_err(ClientError::Connect)?, request).await
            }
        }
    };
    time::timeout(TIME_MAX, exchange).await.unwrap_or(Err(ClientError::Timeout))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, ClientError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let talk = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| ClientError::Body(error.to_string()))?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    // The connection is driven here, beside the exchange; its own error is the exchange's too.
    let (answer, _connection) = tokio::join!(talk, connection);
    answer
}
