//! The deployer: starts one revision of "orders" at a time, tells the agent of each rollout, and puts the last good one back when a signed signal says so.
//!
//! It knows of the agent what any receiver of Standard Webhooks knows: the secret, the header names, the body. It
//! verifies with its own arithmetic.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use harness::process::Process;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::Mutex;

/// Signals are below 20 kB by the format.
const BODY_BYTES_MAX: usize = 64 << 10;
/// A signature older than this is a replay (Standard Webhooks' tolerance).
const TOLERANCE_S: i64 = 300;
/// The service's name, as in its logs.
const SERVICE: &str = "orders";

/// Arguments of the deployer.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where signals and deployments arrive.
    #[arg(long)]
    pub(crate) listen: String,
    /// File with the signing secret, `whsec_…`.
    #[arg(long)]
    pub(crate) secret: PathBuf,
    /// The agent's admin socket.
    #[arg(long)]
    pub(crate) agent: PathBuf,
    /// Client URLs for the service.
    #[arg(long)]
    pub(crate) endpoints: String,
    /// The service's log.
    #[arg(long)]
    pub(crate) service_log: PathBuf,
    /// What happened, as JSON lines.
    #[arg(long)]
    pub(crate) events: PathBuf,
}

struct Deployer {
    arguments: Arguments,
    secret: Vec<u8>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    child: Option<Process>,
    revision: String,
    previous: String,
    seen: Vec<String>,
}

/// Serves until it is killed; its child dies with it.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let text = std::fs::read_to_string(&arguments.secret).context("read the secret")?;
    let encoded = text.trim().strip_prefix("whsec_").context("the secret must begin with whsec_")?;
    let secret = BASE64_STANDARD.decode(encoded).context("decode the secret")?;
    let listener = TcpListener::bind(&arguments.listen).await.context("listen")?;
    let deployer = Arc::new(Deployer { arguments, secret, running: Mutex::default() });
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        let service = service_fn(|request| Arc::clone(&deployer).answer(request));
        // One connection at a time: the driver and the agent are its only callers.
        if let Err(error) = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await
        {
            deployer.event(&serde_json::json!({ "event": "bad_connection", "why": error.to_string() }))?;
        }
    }
}

impl Deployer {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let path = request.uri().path().to_owned();
        let (parts, body) = request.into_parts();
        let read = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let answered = match read {
            Ok(body) => self.act(&path, &parts.headers, &body.to_bytes()).await,
            Err(error) => bail!("{error}"),
        };
        let (status, text) = match answered {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => {
                self.event(&serde_json::json!({ "event": "refused", "why": format!("{error:#}") }))?;
                (StatusCode::BAD_REQUEST, format!("{error:#}"))
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        Ok(response)
    }

    async fn act(&self, path: &str, headers: &hyper::HeaderMap, body: &[u8]) -> Result<String> {
        match path {
            "/deploy" => {
                let revision = std::str::from_utf8(body).context("revision")?;
                self.deploy(revision, None).await?;
                Ok(format!("{revision} is running"))
            }
            "/signal" => self.signal(headers, body).await,
            _ => bail!("no such path"),
        }
    }

    /// A signal from the agent: verified first, then acted upon once.
    async fn signal(&self, headers: &hyper::HeaderMap, body: &[u8]) -> Result<String> {
        let id = self.verify(headers, body)?;
        let event: serde_json::Value = serde_json::from_slice(body).context("body")?;
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        self.event(&serde_json::json!({
            "event": "signal", "webhook_id": id, "type": kind, "verified": true, "body": event,
        }))?;
        {
            let mut running = self.running.lock().await;
            if running.seen.contains(&id) {
                return Ok("seen before".to_owned());
            }
            running.seen.push(id);
        }
        if kind.contains(".rollback.") {
            let bad = event["data"]["revision"].as_str().context("data.revision")?.to_owned();
            let (revision, previous) = {
                let running = self.running.lock().await;
                (running.revision.clone(), running.previous.clone())
            };
            ensure!(bad == revision, "{bad} is not running, {revision} is");
            self.deploy(&previous, Some(&bad)).await?;
            return Ok(format!("{previous} is back"));
        }
        Ok("noted".to_owned())
    }

    fn verify(&self, headers: &hyper::HeaderMap, body: &[u8]) -> Result<String> {
        let header = |name: &str| {
            headers.get(name).and_then(|value| value.to_str().ok()).with_context(|| format!("no {name}"))
        };
        let (id, timestamp, signatures) =
            (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
        let sent: i64 = timestamp.parse().context("webhook-timestamp")?;
        ensure!((jiff::Timestamp::now().as_second() - sent).abs() <= TOLERANCE_S, "too old");
        let matches = signatures.split(' ').filter_map(|one| one.strip_prefix("v1,")).any(|signature| {
            let Ok(signature) = BASE64_STANDARD.decode(signature) else { return false };
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.secret) else { return false };
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            mac.verify_slice(&signature).is_ok()
        });
        ensure!(matches, "no signature matches");
        Ok(id.to_owned())
    }

    /// Replaces what runs, then marks the rollout: the order of a real deployer, which marks what it did.
    async fn deploy(&self, revision: &str, rollback_of: Option<&str>) -> Result<()> {
        let mut running = self.running.lock().await;
        if let Some(child) = running.child.take() {
            child.kill().context("stop the old revision")?;
        }
        let first = running.revision.is_empty();
        if !first {
            mark(&self.arguments.agent, revision, rollback_of).await.context("mark the rollout")?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["client", "--endpoints", &self.arguments.endpoints, "--revision", revision, "--log"])
            .arg(&self.arguments.service_log)
            .stdin(Stdio::null());
        running.child = Some(Process::spawn(revision, command)?);
        running.previous = std::mem::replace(&mut running.revision, revision.to_owned());
        self.event(
            &serde_json::json!({ "event": "deployed", "revision": revision, "rollback_of": rollback_of }),
        )
    }

    fn event(&self, event: &serde_json::Value) -> Result<()> {
        let mut line = event.as_object().cloned().unwrap_or_default();
        let now_ns = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
        line.insert("at_ns".to_owned(), now_ns.into());
        let mut file = OpenOptions::new().create(true).append(true).open(&self.arguments.events)?;
        writeln!(file, "{}", serde_json::Value::Object(line)).context("write the event")
    }
}

/// `POST /mark` on the agent's socket.
async fn mark(socket: &Path, revision: &str, rollback_of: Option<&str>) -> Result<()> {
    let stream = UnixStream::connect(socket).await.context("connect to the agent")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let body = serde_json::json!({
        "target": SERVICE, "revision": revision, "kind": "rollout", "rollback_of": rollback_of,
    });
    let request = Request::post("/mark")
        .header("host", "agent")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let driver = tokio::spawn(connection);
    let status = sender.send_request(request).await?.status();
    driver.abort();
    ensure!(status.is_success(), "the agent answered {status}");
    Ok(())
}
